//! Time and randomness as arguments, so that a simulation with a seed replays exactly.

use sancerre_format::names::Time;

/// The time of day.
pub trait Clock: Send + Sync {
    /// Now, in whole seconds.
    fn now(&self) -> Time;
}

/// Random bytes.
pub trait Random: Send + Sync {
    /// Fills `bytes`, unpredictably.
    fn fill(&self, bytes: &mut [u8]);
}

/// `N` random bytes.
pub fn random<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

/// The clock of pauses and limits of speed: tokio's, which a test can stop. Nothing that is stored depends on it.
pub fn monotonic() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
