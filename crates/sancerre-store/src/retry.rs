//! RetryPolicy: what is tried again, when, and for how long.
//!
//! All retries are made here, above `object_store` (which is told to make none), so that they follow one rule for every
//! backend. What counts is the *outage*: it begins with the first failure since the store last answered, and once it has
//! lasted as long as the user wants to wait, every request gets one attempt. So a store that is gone for good costs that
//! time once, not once for each of the objects that are still to be written.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use object_store::client::HttpError;
use sancerre_advice::Setting::RetryFor;
use tokio::time::Instant;

use crate::causes::{FOLDER, NoTls, Refusal, Untrusted, find, transient};
use crate::clock::monotonic;
use crate::messages::{explain, lacks_credentials};
use crate::{Store, StoreOptions};

/// Pauses double from the first to the second.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest pause that a store may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5 * 60);
/// The user hears of an outage when it has lasted so long.
const SILENCE: Duration = Duration::from_secs(5);

impl Store {
    /// The same store for reads that are worth one attempt and no waiting.
    pub fn once(&self) -> Self {
        Self { reads_once: true, ..self.clone() }
    }
}

/// Waits for one store.
pub(crate) struct RetryPolicy {
    options: StoreOptions,
    outage: Mutex<Option<Outage>>,
}

/// A time in which the store does not answer.
struct Outage {
    since: Instant,
    is_told: bool,
}

impl RetryPolicy {
    pub(crate) fn new(options: &StoreOptions) -> Self {
        Self { options: options.clone(), outage: Mutex::new(None) }
    }

    /// Makes attempts until the store answers, be it with an error, or the time is up. `key` spreads the pauses.
    ///
    /// An attempt is boxed: of an `AsyncFn` the compiler cannot tell that its future may change threads.
    pub(crate) async fn during<'a, T>(
        &self,
        key: &str,
        attempt: impl Fn() -> BoxFuture<'a, object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let mut began = None;
        for round in 0_u32.. {
            let error = match attempt().await {
                Err(error) if is_transient(&error) => error,
                answer => {
                    self.answered();
                    return answer;
                }
            };
            let now = monotonic();
            let since = self.failed(now, &error).min(*began.get_or_insert(now));
            let left = self.options.retry_for.saturating_sub(now.duration_since(since));
            if left.is_zero() || self.options.cancel.is_set() {
                return Err(error);
            }
            let pause = self.pause(key, round).max(retry_after(&error)).min(left);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.options.cancel.wait() => {}
            }
        }
        Err(transient("too many attempts"))
    }

    /// Tells the user something about the store.
    pub(crate) fn tell(&self, message: String) {
        (self.options.notice)(message);
    }

    /// Doubled each round, less up to a half that differs between keys, rounds and processes.
    fn pause(&self, key: &str, round: u32) -> Duration {
        let whole = PAUSE_MIN.saturating_mul(1_u32.checked_shl(round).unwrap_or(u32::MAX)).min(PAUSE_MAX);
        // FNV-1a: any spread will do.
        let seed = self.options.salt ^ u64::from(round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = key.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let share = f64::from(u32::try_from(hash >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        whole.mul_f64(1.0 - share / 2.0)
    }

    fn answered(&self) {
        let ended = self.outage.lock().unwrap_or_else(PoisonError::into_inner).take();
        if ended.is_some_and(|outage| outage.is_told) {
            (self.options.notice)("the store answers again".into());
        }
    }

    /// Takes note of a failure; returns when the outage began.
    fn failed(&self, now: Instant, error: &object_store::Error) -> Instant {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let outage = outage.get_or_insert(Outage { since: now, is_told: false });
        let lasts = now.duration_since(outage.since);
        if lasts >= SILENCE.min(self.options.retry_for)
            && !outage.is_told
            && !self.options.retry_for.is_zero()
        {
            outage.is_told = true;
            (self.options.notice)(format!(
                "the store does not answer ({}); trying again for up to {} s ({RetryFor})",
                explain(error),
                self.options.retry_for.as_secs()
            ));
        }
        outage.since
    }
}

/// Whether the same request may succeed later. Everything else is an answer.
fn is_transient(error: &object_store::Error) -> bool {
    let object_store::Error::Generic { store, source } = error else { return false };
    match *store {
        // The kernel does not change its mind; and a create that failed in its last flush must not be taken for durable
        // because a second attempt finds the object.
        FOLDER => find::<io::Error>(source.as_ref()).is_some_and(is_passing),
        // Our transport makes an error of every lost connection and of every status that asks to come back.
        "S3" | "GCS" | "MicrosoftAzure" => {
            // A certificate that is not trusted will not be trusted in a minute either; a server without TLS has none
            // then; and where this machine's provider would hand out credentials nobody answers.
            find::<HttpError>(source.as_ref()).is_some_and(|error| {
                find::<Untrusted>(error).is_none()
                    && find::<NoTls>(error).is_none()
                    && !lacks_credentials(source.as_ref())
            })
        }
        // Ranges beyond the end.
        "InMemory" => false,
        _ => true,
    }
}

/// Failures of a network file system.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, StaleNetworkFileHandle, TimedOut,
    };
    matches!(
        error.kind(),
        HostUnreachable | Interrupted | NetworkDown | NetworkUnreachable | StaleNetworkFileHandle | TimedOut
    )
}

/// How long the store asked to be left alone.
fn retry_after(error: &object_store::Error) -> Duration {
    let asked = find::<Refusal>(error).and_then(|refusal| refusal.retry_after);
    asked.unwrap_or_default().min(RETRY_AFTER_MAX)
}
