//! A host without surprises: its clock stands still unless told, its random bytes come from a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use sancerre_engine::host::{Clock, Host, Pool, Random, Sealer};
use sancerre_engine::keys::SecretString;
use sancerre_engine::{Error, Result};
use sancerre_format::names::Time;

/// A clock that moves when told.
pub struct TestClock(AtomicI64);

impl TestClock {
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Time {
        Time::from_unix_seconds(self.0.load(Ordering::Relaxed))
    }
}

/// Bytes from a seed: BLAKE3 of a counter.
pub struct TestRandom {
    seed: u64,
    counter: AtomicU64,
}

impl Random for TestRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&self.counter.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        hasher.finalize_xof().fill(bytes);
    }
}

/// Age files whose every byte follows from the seed: real `age` opens them. Passphrases go to `age` itself, with a work
/// factor a test can afford.
struct TestSealer(Arc<TestRandom>);

impl Sealer for TestSealer {
    fn seal(&self, recipient: &str, secret: &[u8]) -> Result<Vec<u8>> {
        Ok(crate::age::seal(recipient, secret, |bytes| self.0.fill(bytes)))
    }

    fn seal_with_passphrase(&self, passphrase: &SecretString, secret: &[u8]) -> Result<Vec<u8>> {
        let mut recipient = age::scrypt::Recipient::new(passphrase.clone());
        recipient.set_work_factor(2);
        age::encrypt(&recipient, secret).map_err(|_| Error::Worker)
    }
}

/// Runs every job where it is asked for: one order, whatever the machine.
struct InlinePool {
    width: usize,
}

impl Pool for InlinePool {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }

    fn width(&self) -> usize {
        self.width
    }
}

/// A host for tests, and its clock.
pub fn host(seed: u64) -> (Host, Arc<TestClock>) {
    let clock = Arc::new(TestClock(AtomicI64::new(1_795_000_000)));
    let random = Arc::new(TestRandom { seed, counter: AtomicU64::new(0) });
    let host = Host {
        clock: clock.clone(),
        random: Arc::clone(&random) as Arc<dyn Random>,
        sealer: Arc::new(TestSealer(random)),
        pool: Arc::new(InlinePool { width: 2 }),
        tool: "sancerre test",
    };
    (host, clock)
}
