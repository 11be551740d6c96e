//! The auditor's own signature under a report, which `ssh-keygen -Y verify` checks.

use std::path::{Path, PathBuf};

use sancerre_engine::keys::PersonalKey;
use sancerre_format::sign::SigningKey;

use crate::command::Context;
use crate::exit::Failure;
use crate::{key_file, passphrase, plain};

/// Namespace of the signature: a report is nothing else.
pub(super) const NAMESPACE: &str = "sancerre-audit-v1";

/// Reads the key, and asks for its passphrase where it has one.
pub(super) fn read(path: &Path, context: &Context) -> Result<SigningKey, Failure> {
    let bytes = key_file::read(path, "SSH key", "--sign")?;
    let of_file = |error: sancerre_engine::Error| {
        let failure = Failure::from(error);
        Failure::new(
            failure.exit,
            format!(
                "{}: {}. With any other key, write the report without --sign and run `ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE`",
                path.display(),
                failure.message
            ),
        )
    };
    match PersonalKey::parse(&bytes).map_err(of_file)? {
        PersonalKey::Open(key) => Ok(key),
        PersonalKey::Protected(key) => {
            let of = format!("the SSH key {}", plain::path(path));
            let found = passphrase::find(&context.environment, &context.prompt, &of)?;
            key.open(&found).map_err(of_file)
        }
    }
}

/// The signature in its armour.
pub(super) fn sign(key: &SigningKey, page: &[u8]) -> Result<String, Failure> {
    key.sign(NAMESPACE, page).map_err(|error| Failure::failed(format!("cannot sign the report: {error}")))
}

/// Where the signature goes, as `ssh-keygen -Y sign` puts it.
pub(super) fn beside(report: &Path) -> PathBuf {
    let mut path = report.as_os_str().to_owned();
    path.push(".sig");
    PathBuf::from(path)
}

/// Whether a file that begins so is a signature.
pub(super) fn is_signature(start: &[u8]) -> bool {
    start.starts_with(b"-----BEGIN SSH SIGNATURE-----")
}
