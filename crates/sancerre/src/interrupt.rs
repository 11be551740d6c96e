//! SIGINT, SIGTERM and SIGHUP: the first asks the command to stop at a safe point, the second ends the process.
//!
//! A read of a source that stalls is left where it is, so the safe point comes within seconds.

use std::sync::Arc;

use sancerre_engine::Error;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::store::Cancel;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::printed;

/// Watches for signals until it is dropped.
pub(crate) struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// From now on signals interrupt `monitor`, and end the waiting for a store that is away.
///
/// Not before a passphrase was asked for: until then a signal ends the process, as it should.
pub(crate) fn watch(monitor: &Monitor, cancel: &Cancel, output: &Arc<Output>) -> Result<Watch, Failure> {
    let mut signals = Signals::new()?;
    let (monitor, cancel, output) = (monitor.clone(), cancel.clone(), output.clone());
    Ok(Watch(tokio::spawn(async move {
        signals.next().await;
        output.message("sancerre: stopping at the next safe point; interrupt again to stop at once");
        monitor.interrupt();
        cancel.now();
        signals.next().await;
        printed::kill_all();
        output.clear();
        output.finish(Err(Error::Interrupted.into()));
        std::process::exit(Exit::Interrupted.code());
    })))
}

/// Runs `work`, which has no safe points of its own, until a signal comes.
pub(crate) async fn until_signal<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut signals = Signals::new()?;
    tokio::select! {
        result = work => result,
        () = signals.next() => Err(Failure::new(Exit::Interrupted, "interrupted")),
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal was closed; none where nohup said that this is not to matter.
    hang_up: Option<Signal>,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let handler = |kind| {
            signal(kind)
                .map_err(|error| Failure::failed(format!("cannot handle signals: {error}; report this")))
        };
        Ok(Self {
            interrupt: handler(SignalKind::interrupt())?,
            terminate: handler(SignalKind::terminate())?,
            hang_up: if is_hang_up_ignored() { None } else { Some(handler(SignalKind::hangup())?) },
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = some(&mut self.hang_up) => {}
        }
    }
}

async fn some(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process was started to outlive its terminal. A handler of ours would undo that.
fn is_hang_up_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hang_up(&status))
}

/// SIGHUP is the first bit of the mask of signals that are ignored (proc_pid_status(5)).
fn ignores_hang_up(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::ignores_hang_up;

    #[test]
    fn nohup_is_seen() {
        for (mask, expected) in
            [("0000000000000001", true), ("0000000000001001", true), ("0000000000001000", false)]
        {
            assert_eq!(ignores_hang_up(&format!("Name:\tx\nSigIgn:\t{mask}\nSigCgt:\t0\n")), expected);
        }
        assert!(!ignores_hang_up(""));
    }
}
