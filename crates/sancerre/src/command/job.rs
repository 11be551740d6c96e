//! Jobs of a keeper leave metrics behind, as backups do, so that a monitor sees the job that never ran, or that fails since.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Context;
use crate::arguments::Command;
use crate::exit::{Done, Exit, Failure};
use crate::metrics::{self, JobRun};
use crate::repository;

/// Where the metrics of a job go.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MetricsFile {
    /// Write Prometheus metrics of this run to this file, which everybody may read, also when it fails
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
}

/// A job whose metrics are asked for.
#[derive(Debug)]
pub(crate) struct Job {
    name: &'static str,
    path: PathBuf,
}

impl Job {
    /// None for other commands, for one that does nothing yet, and where nobody wants metrics.
    pub(crate) fn of(command: &Command) -> Option<Self> {
        let (name, metrics) = match command {
            Command::Check(options) => ("check", &options.metrics),
            Command::Forget(options) if !options.dry_run => ("forget", &options.metrics),
            Command::Gc(options) if options.collects() => ("gc", &options.metrics),
            Command::Lock(options) => ("lock-extend", options.metrics()?),
            _ => return None,
        };
        Some(Self { name, path: metrics.metrics_file.clone()? })
    }

    /// What it writes, in words, and where.
    pub(crate) fn written(&self) -> (&'static str, PathBuf) {
        ("the metrics file", self.path.clone())
    }

    /// Writes down how it ended. A failure to do so is only warned of: whatever the job did, it did.
    pub(crate) fn note(
        &self,
        context: &Context,
        took: Duration,
        result: Result<Done, Failure>,
    ) -> Result<Done, Failure> {
        if !context.may_write(&self.path) {
            return result;
        }
        let run = JobRun {
            name: self.name,
            repository: &repository::named(context),
            exit: result.as_ref().map_or_else(|failure| failure.exit, |done| done.exit),
            unix_seconds: context.host.clock.now().unix_seconds(),
            duration: took,
        };
        match metrics::update_job(&self.path, &run, &context.host, &context.output) {
            Ok(()) => result,
            Err(failure) => {
                context.output.warning(&failure.message);
                result.map(|done| match done.exit {
                    Exit::Done => Done { exit: Exit::NotAsAsked, ..done },
                    _ => done,
                })
            }
        }
    }
}
