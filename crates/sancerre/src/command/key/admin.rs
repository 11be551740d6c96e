//! `key rotate-admin`: another key for the administrator.

use clap::Args;
use sancerre_engine::keys;
use serde_json::json;

use crate::access;
use crate::command::{Context, done};
use crate::exit::{Done, Failure};
use crate::interrupt::until_signal;
use crate::units::count;

/// Make a new signing key for the administrator; the old one counts for nothing that comes after it.
///
/// The new key is sealed under the passphrase, which stays the same: after a leak of that, `sancerre key passwd` first.
/// What the old key signed counts on: certificates, identities, recipients and zones, all of which are named; leave out
/// with --drop what you do not know. Certificates of revoked keys are left out. The trust anchor stays the same.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre key rotate-admin
  sancerre key rotate-admin --drop keys/certificates/hv9")]
pub(crate) struct RotateAdmin {
    /// An object that the old key signed and that is not to count any more; may be given several times
    #[arg(long, value_name = "OBJECT")]
    drop: Vec<String>,
}

pub(super) async fn run(options: RotateAdmin, context: &Context) -> Result<Done, Failure> {
    let (repository, passphrase) = access::repository_as_admin(context).await?;
    let drop = options.drop.into_iter().collect();
    let rotated = until_signal(async { Ok(keys::rotate(&repository, &passphrase, &drop).await?) }).await?;
    let key = rotated.admin.fingerprint();
    context
        .output
        .result(&format!("admin key     {key}\nkept          {}\n", rotated.kept.join("\n              ")))?;
    context.output.message(&format!(
        "the administrator's key is a new one (number {}). {} of the old key count on, {} do not. Look through those that \
         were kept: who had the old key may have made some of them. The trust anchor stays as it is",
        rotated.number,
        count(rotated.kept.len() as u64, "object"),
        rotated.dropped.len()
    ));
    for (object, why) in &rotated.removed.kept {
        context.output.warning(&format!(
            "{object} could not be removed, which does no harm: the key in it signs nothing any more ({why})"
        ));
    }
    Ok(done([
        ("number", json!(rotated.number)),
        ("admin_key", json!(key)),
        ("kept", json!(rotated.kept)),
        ("dropped", json!(rotated.dropped)),
    ]))
}
