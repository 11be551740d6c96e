//! The command line: arguments in, one engine call, and what became of it as text or JSON and an exit code.
//!
//! [`run`] takes everything it touches as an [`Io`]: variables, the three streams, the prompt. Results go to standard
//! output, all else to standard error; with `--json` every command ends with exactly one `summary` line.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::panic, clippy::unwrap_used))]

mod access;
mod arguments;
mod beneath;
mod bitmaps;
mod catalogue;
mod changed;
mod clocks;
mod command;
mod exit;
mod extract;
mod file_names;
mod files;
mod formats;
mod guest_mount;
mod guest_mounts;
mod guest_names;
mod guest_place;
mod guest_tar;
mod guest_tree;
mod guest_zip;
mod guests;
mod inputs;
mod interrupt;
mod io;
mod key_file;
mod limits;
mod live;
mod metrics;
mod named_path;
mod output;
mod passphrase;
mod pipe;
mod plain;
mod printed;
mod process;
mod progress;
mod repository;
mod socket;
mod sources;
mod spelling;
mod suspicion;
mod units;
mod unreadable;
mod used;
mod variables;
mod written;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use clap::Parser;

use arguments::Arguments;
use command::Context;
use exit::{Exit, Failure};
use output::Output;

pub use io::{Environment, Io, Prompt};
pub use process::prepare;
pub use spelling::spell;

/// Program and version, as signed records carry it.
const TOOL: &str = concat!("sancerre ", env!("CARGO_PKG_VERSION"));
/// How long threads that cannot be stopped, such as one that reads a stalled pipe, may delay the end.
const SHUTDOWN: Duration = Duration::from_millis(200);

/// Runs one command and returns its exit code.
///
/// `arguments` starts with the program's name. A second interrupt signal ends the process from in here.
pub fn run(arguments: impl IntoIterator<Item = OsString>, io: Io) -> i32 {
    spell();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => execute(parsed, io).code(),
        Err(error) => misunderstood(&error, &arguments, io).code(),
    }
}

fn execute(mut arguments: Arguments, mut io: Io) -> Exit {
    let changes = command::changes(&arguments.command);
    let output = Output::new(&arguments.global, &mut io, changes);
    if let Err(failure) = access::trust_from(&io.environment, &mut arguments.global) {
        return output.finish(Err(failure));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure =
                Failure::failed(format!("cannot start threads: {error}; check the limits of this user"));
            return output.finish(Err(failure));
        }
    };
    // Inside the runtime: the engine's host hands work to its threads.
    let result = {
        let _inside = runtime.enter();
        process::survive_file_limit();
        let context = Context::new(arguments.global, io, output.clone());
        // Whatever a library does not expect: the caller still gets an exit code of ours, and the summary.
        let ran =
            catch_unwind(AssertUnwindSafe(|| runtime.block_on(command::run(arguments.command, &context))));
        ran.unwrap_or_else(|payload| Err(process::went_wrong(&*payload)))
    };
    runtime.shutdown_timeout(SHUTDOWN);
    output.finish(result)
}

/// Help and version are no errors; everything else is wrong usage.
fn misunderstood(error: &clap::Error, arguments: &[OsString], mut io: Io) -> Exit {
    let odd = arguments.iter().find(|argument| argument.to_str().is_none());
    let render = match odd.filter(|_| error.kind() == clap::error::ErrorKind::InvalidUtf8) {
        Some(odd) => format!(
            "error: {} is not text in UTF-8, as names and words must be; only paths may be any bytes\n",
            String::from_utf8_lossy(odd.as_bytes())
        ),
        None => error.render().to_string(),
    };
    if !error.use_stderr() {
        let written = write!(io.stdout, "{render}").and_then(|()| io.stdout.flush());
        return if written.is_ok() { Exit::Done } else { Exit::Failed };
    }
    if arguments.iter().any(|argument| argument == "--json") {
        let text = render.trim().strip_prefix("error: ").unwrap_or(render.trim());
        return Output::json(&mut io).finish(Err(Failure::new(Exit::Usage, text)));
    }
    // There is nowhere to report a standard error that is closed.
    let _ = write!(io.stderr, "{}", plain::lines(&render));
    Exit::Usage
}

#[cfg(test)]
mod tests;
