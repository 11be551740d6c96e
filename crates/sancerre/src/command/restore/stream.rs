//! `restore --target -`, and to a pipe: one disk in order, as `dump` writes it, with nothing else in the stream.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use sancerre_engine::restore::{self, RestoreOptions};
use sancerre_engine::select::Selector;

use super::{Job, Restored, UNREADABLE, finish, one, open};
use crate::arguments::Restore;
use crate::command::Context;
use crate::exit::{Done, Exit, Failure};
use crate::files;
use crate::formats::Format;
use crate::plain;
use crate::progress::Work;
use crate::unreadable;

/// Between two looks whether somebody reads from a pipe.
const PAUSE: Duration = Duration::from_millis(100);

/// Something that takes a disk from its start to its end, and cannot be looked at.
pub(super) enum Stream {
    Stdout,
    Pipe,
}

/// Whether a target is one.
pub(super) fn of(target: &Path) -> Option<Stream> {
    if files::is_stdout(target) {
        return Some(Stream::Stdout);
    }
    let is_pipe = target.metadata().is_ok_and(|found| found.file_type().is_fifo());
    is_pipe.then_some(Stream::Pipe)
}

/// Writes the disk, or the only one, to it.
pub(super) async fn run(
    options: &Restore,
    snapshot: &Selector,
    stream: Stream,
    context: &Context,
) -> Result<Done, Failure> {
    let started = Instant::now();
    refuse_odd(options)?;
    if matches!(stream, Stream::Stdout) {
        context.needs_stdout()?;
    }
    let mut out: Box<dyn Write + Send> = match stream {
        // First of all, so that whatever is said goes to standard error and never between the data.
        Stream::Stdout => context.output.take_stdout().ok_or_else(|| {
            Failure::failed("standard output is in use already; this is a bug, please report it")
        })?,
        Stream::Pipe => Box::new(open_pipe(&options.target, context).await?),
    };
    if matches!(stream, Stream::Stdout) && context.stdout_is_terminal {
        return Err(Failure::usage("standard output is a terminal; pipe the disk into a file or a program"));
    }
    let reader = open(snapshot, context).await?;
    let member = one(&reader, snapshot)?;
    let is_whole = unreadable::tell(context, member, UNREADABLE)?;
    let (monitor, watched) = context.watched(Work::Restore)?;
    let settings = RestoreOptions::new(context.global.memory);
    let report = restore::dump(&reader, member, &mut *out, &settings, &monitor).await?;
    drop(watched);
    out.flush().map_err(|error| {
        Failure::failed(format!("cannot write to {}: {error}", plain::path(&options.target)))
    })?;
    let job = Job { member, path: options.target.clone() };
    let done = finish(context, &reader, &[Restored { job, report }], started.elapsed());
    Ok(if is_whole { done } else { Done { exit: Exit::NotAsAsked, ..done } })
}

/// What cannot be done to a disk that is written from its start to its end.
fn refuse_odd(options: &Restore) -> Result<(), Failure> {
    let target = plain::path(&options.target);
    if options.compress || options.format.is_some_and(|format| format != Format::Raw) {
        return Err(Failure::usage(format!(
            "an image cannot be written to {target} from its start to its end; restore it to a file, or leave --format and \
             --compress out"
        )));
    }
    if options.in_place {
        return Err(Failure::usage("--in-place writes over a file or a device, and this is none"));
    }
    if options.resume || options.wipe_rest {
        return Err(Failure::usage(format!(
            "{target} takes a disk from its start to its end, so nothing can be resumed or wiped there; leave --resume \
             and --wipe-rest out"
        )));
    }
    Ok(())
}

/// Opens a pipe, once somebody reads from it.
async fn open_pipe(path: &Path, context: &Context) -> Result<File, Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(format!("cannot write to {}: {error}; check the path", plain::path(path)))
    };
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut is_told = false;
    loop {
        match OpenOptions::new().write(true).custom_flags(flags).open(path) {
            Ok(pipe) => {
                fcntl_setfl(&pipe, OFlags::empty()).map_err(|error| failed(error.into()))?;
                return Ok(pipe);
            }
            // ENXIO
            Err(error) if error.raw_os_error() == Some(6) => {
                if !std::mem::replace(&mut is_told, true) {
                    context
                        .output
                        .message(&format!("waiting for a reader of the pipe {}", plain::path(path)));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(failed(error)),
        }
    }
}
