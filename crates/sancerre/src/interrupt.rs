//! SIGINT and SIGTERM: the first asks the command to stop at a safe point, the second ends the process.

use std::sync::Arc;

use sancerre_engine::Error;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::store::Hurry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use crate::exit::{Exit, Failure};
use crate::output::Output;

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
pub(crate) fn watch(monitor: &Monitor, hurry: &Hurry, output: &Arc<Output>) -> Result<Watch, Failure> {
    let mut signals = Signals::new()?;
    let (monitor, hurry, output) = (monitor.clone(), hurry.clone(), output.clone());
    Ok(Watch(tokio::spawn(async move {
        signals.next().await;
        output.message("sancerre: stopping at the next safe point; interrupt again to stop at once");
        monitor.interrupt();
        hurry.up();
        signals.next().await;
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
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
