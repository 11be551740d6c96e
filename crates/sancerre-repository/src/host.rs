//! The outside world as arguments: clock, randomness, sealing and processors.
//!
//! The engine takes these from its caller, so that a simulation with a seed replays exactly. This is the one
//! module that touches the real ones.

use std::str::FromStr;
use std::sync::Arc;

use age::secrecy::SecretString;
use futures::channel::oneshot;
use sancerre_format::names::Time;

use crate::error::{Error, Result};
use crate::keys::{SCRYPT_LOG_N, has_memory, hybrid, ssh};

pub use sancerre_store::clock::{Clock, Random, monotonic};

/// Sealing of keys with `age`.
pub trait Sealer: Send + Sync {
    /// Seals `secret` to an `age1…` or `ssh-ed25519 …` recipient.
    fn seal(&self, recipient: &str, secret: &[u8]) -> Result<Vec<u8>>;

    /// Seals `secret` under a passphrase.
    fn seal_with_passphrase(&self, passphrase: &SecretString, secret: &[u8]) -> Result<Vec<u8>>;
}

/// Where processor time is spent.
pub trait Pool: Send + Sync {
    /// Runs `job` to its end, now or later, here or elsewhere.
    fn run(&self, job: Box<dyn FnOnce() + Send>);

    /// How many jobs run at once.
    fn width(&self) -> usize;
}

/// What the engine needs of the machine it runs on.
#[derive(Clone)]
pub struct Host {
    /// Time of day.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub random: Arc<dyn Random>,
    /// Sealing.
    pub sealer: Arc<dyn Sealer>,
    /// Processors.
    pub pool: Arc<dyn Pool>,
    /// Program and version, for the signed records.
    pub tool: &'static str,
}

impl Host {
    /// The real machine: its clock, its random source, all its cores. Needs a tokio runtime.
    pub fn real(tool: &'static str) -> Self {
        let width = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            sealer: Arc::new(AgeSealer { log_n: SCRYPT_LOG_N }),
            pool: Arc::new(BlockingPool { width }),
            tool,
        }
    }

    /// The same, but that a passphrase is next to no work to try. For tests, which open keys a thousand times: a program that is
    /// given to anybody has no such host.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn with_cheap_passphrases(self) -> Self {
        Self { sealer: Arc::new(AgeSealer { log_n: 1 }), ..self }
    }

    /// `N` random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        sancerre_store::clock::random(&*self.random)
    }

    /// Runs `job` on the pool and waits for its result.
    ///
    /// Errors: [`Error::Worker`] when the job panicked.
    pub async fn compute<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = oneshot::channel();
        self.pool.run(Box::new(move || {
            // The receiver is gone only when the caller was cancelled.
            let _ = done.send(job());
        }));
        result.await.map_err(|_| Error::Worker)
    }
}

struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Time {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Time::from_unix_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        fill(bytes);
    }
}

#[allow(clippy::disallowed_methods, clippy::expect_used)]
fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system's random source failed"); // invariant: without it no key may be made
}

struct BlockingPool {
    width: usize,
}

impl Pool for BlockingPool {
    #[allow(clippy::disallowed_methods)]
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(job);
    }

    fn width(&self) -> usize {
        self.width
    }
}

struct AgeSealer {
    /// Work to try a passphrase, as a power of two.
    log_n: u8,
}

impl Sealer for AgeSealer {
    fn seal(&self, recipient: &str, secret: &[u8]) -> Result<Vec<u8>> {
        if recipient.starts_with("ssh-") {
            let mut ephemeral = [0; 32];
            fill(&mut ephemeral);
            let recipient = ssh::SshRecipient::new(recipient, ephemeral)?;
            return age::encrypt(&recipient, secret).map_err(|error| seal_failed(&error));
        }
        if hybrid::is_recipient(recipient) {
            let mut random = [0; hybrid::RANDOM_BYTES];
            fill(&mut random);
            let key = hybrid::HybridRecipient::new(recipient, random).ok_or_else(|| Error::WrongKey {
                what: "a recipient that starts with age1pq1 is cut short or mistyped".into(),
                advice: "give the whole line that age-keygen -pq printed".into(),
            })?;
            return age::encrypt(&key, secret).map_err(|error| seal_failed(&error));
        }
        let recipient = age::x25519::Recipient::from_str(recipient).map_err(|reason| Error::WrongKey {
            what: format!("{recipient:?} is not an age recipient: {reason}"),
            advice: "give an age recipient (age1…) or the line of an Ed25519 key's .pub file (ssh-ed25519 …)"
                .into(),
        })?;
        age::encrypt(&recipient, secret).map_err(|error| seal_failed(&error))
    }

    fn seal_with_passphrase(&self, passphrase: &SecretString, secret: &[u8]) -> Result<Vec<u8>> {
        has_memory(self.log_n)?;
        let mut recipient = age::scrypt::Recipient::new(passphrase.clone());
        recipient.set_work_factor(self.log_n);
        age::encrypt(&recipient, secret).map_err(|error| seal_failed(&error))
    }
}

fn seal_failed(error: &age::EncryptError) -> Error {
    Error::WrongKey { what: format!("cannot seal a key: {error}"), advice: "please report it".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of the file says how much: `-> scrypt SALT WORK`.
    #[test]
    fn a_passphrase_is_as_much_work_to_try_as_the_format_says() {
        let sealed =
            Host::real("test").sealer.seal_with_passphrase(&"correct horse".to_owned().into(), b"a secret");
        let sealed = sealed.unwrap();
        let header = String::from_utf8_lossy(&sealed);
        let recipient = header.lines().find(|line| line.starts_with("-> scrypt ")).unwrap();
        assert!(recipient.ends_with(" 18"), "{recipient}");
    }
}
