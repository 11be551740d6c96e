//! Identity files that open restore recipients: of `age`, or OpenSSH Ed25519 keys, each with or without a passphrase.

use std::io::Read;
use std::str::FromStr;

use zeroize::Zeroizing;

use super::sealed::SCRYPT_LOG_N_MAX;
use super::{SecretString, hybrid, sealed, ssh};
use crate::error::{Error, Result};

/// A key that opens age files.
pub type OpenIdentity = Box<dyn age::Identity + Send + Sync>;

const SSH: &[u8] = b"-----BEGIN OPENSSH PRIVATE KEY-----";
const AGE: &[u8] = b"age-encryption.org/v1";
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// What every secret key of `age` starts with.
const SECRET: &str = "AGE-SECRET-KEY-1";

/// An identity file, read.
pub enum IdentityFile {
    /// Its keys are usable.
    Open(Vec<OpenIdentity>),
    /// Its keys need a passphrase.
    Protected(ProtectedIdentity),
}

/// Keys under a passphrase.
pub struct ProtectedIdentity(Protected);

enum Protected {
    Age(Zeroizing<Vec<u8>>),
    Ssh(Box<ssh_key::PrivateKey>),
}

impl IdentityFile {
    /// Reads an identity file's bytes.
    ///
    /// Errors: [`Error::WrongKey`] for a file that is none of these, or of a kind that cannot be used.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.starts_with(SSH) {
            let key = ssh::parse(bytes)?;
            return match key.is_encrypted() {
                true => Ok(Self::Protected(ProtectedIdentity(Protected::Ssh(Box::new(key))))),
                false => Ok(Self::Open(vec![Box::new(ssh::Identity::new(&key)?)])),
            };
        }
        if bytes.starts_with(AGE) || bytes.starts_with(ARMOR) {
            let file = Zeroizing::new(bytes.to_vec());
            return Ok(Self::Protected(ProtectedIdentity(Protected::Age(file))));
        }
        native(bytes).map(Self::Open)
    }
}

impl ProtectedIdentity {
    /// Opens it.
    ///
    /// Errors: [`Error::WrongKey`] for a wrong passphrase, and for a file that asks for absurd work.
    pub fn open(&self, passphrase: &SecretString) -> Result<Vec<OpenIdentity>> {
        match &self.0 {
            Protected::Age(file) => native(&open_age(file, passphrase)?),
            Protected::Ssh(key) => Ok(vec![Box::new(ssh::Identity::new(&ssh::open(key, passphrase)?)?)]),
        }
    }
}

/// A key as a sheet prints it, in groups, without the blanks between them.
fn without_blanks(line: &str) -> Zeroizing<String> {
    // No growth: reallocating would leave copies behind.
    let mut joined = Zeroizing::new(String::with_capacity(line.len()));
    line.split_whitespace().for_each(|group| joined.push_str(group));
    joined
}

/// Lines of secret keys, in which blanks do not count, comments and empty lines.
fn native(bytes: &[u8]) -> Result<Vec<OpenIdentity>> {
    let text = std::str::from_utf8(bytes).map_err(|_| unusable("it is not text".into()))?;
    let mut found: Vec<OpenIdentity> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let joined = without_blanks(line);
        if let Some(key) = hybrid::HybridIdentity::parse(&joined) {
            found.push(Box::new(key));
            continue;
        }
        let key = age::x25519::Identity::from_str(&joined);
        found.push(Box::new(key.map_err(|_| not_a_key(number.saturating_add(1), line))?));
    }
    if found.is_empty() {
        return Err(unusable("it holds no key".into()));
    }
    Ok(found)
}

/// Never the line itself: it may be most of a secret.
fn not_a_key(number: usize, line: &str) -> Error {
    let why = if line.starts_with("age1") || line.starts_with("ssh-") {
        "is a public key; the secret one is needed".to_owned()
    } else if line.starts_with("AGE-PLUGIN-") {
        "is for a plugin, which this version does not use".to_owned()
    } else if line.starts_with(SECRET) || line.starts_with("AGE-SECRET-KEY-PQ-1") {
        return Error::WrongKey {
            what: format!("the identity file cannot be used: line {number} is cut short or mistyped"),
            advice: "compare it with the sheet, group by group, or with the file that it is from".into(),
        };
    } else if line.starts_with("-----BEGIN ") {
        "starts a kind of key that is not used here; ssh-keygen -t ed25519 makes one that is".to_owned()
    } else {
        "does not start with AGE-SECRET-KEY-, in capital letters".to_owned()
    };
    unusable(format!("line {number} {why}"))
}

fn open_age(file: &[u8], passphrase: &SecretString) -> Result<Zeroizing<Vec<u8>>> {
    let mut binary = Zeroizing::new(Vec::new());
    age::armor::ArmoredReader::new(file)
        .read_to_end(&mut binary)
        .map_err(|error| unusable(format!("its armour is damaged: {error}")))?;
    sealed::open_with_passphrase(passphrase, &binary, SCRYPT_LOG_N_MAX).map_err(|error| match error {
        age::DecryptError::ExcessiveWork { required, .. } => unusable(format!(
            "it asks for 2^{required} units of work to try a passphrase, more than the 2^{SCRYPT_LOG_N_MAX} allowed"
        )),
        age::DecryptError::DecryptionFailed | age::DecryptError::KeyDecryptionFailed => wrong_passphrase(),
        age::DecryptError::NoMatchingKeys => {
            unusable("it is encrypted to keys; a file with a passphrase (age -p) can be used".into())
        }
        age::DecryptError::Io(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {
            Error::Refused(error.to_string())
        }
        other => unusable(other.to_string()),
    })
}

pub(super) fn wrong_passphrase() -> Error {
    Error::WrongKey {
        what: "the passphrase does not open the identity file".into(),
        advice: "it must be the identity file's own passphrase, not the repository's".into(),
    }
}

pub(super) fn unusable(detail: String) -> Error {
    Error::WrongKey {
        what: format!("the identity file cannot be used: {detail}"),
        advice: "give a file that age-keygen or `ssh-keygen -t ed25519` made".into(),
    }
}
