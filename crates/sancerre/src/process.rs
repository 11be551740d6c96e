//! What the system allows this process, and what is left to say when the program itself goes wrong.

use std::any::Any;
use std::io::Write;
use std::panic::PanicHookInfo;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;

/// The signal of a file that grows beyond `ulimit -f`; it ends a process that does not handle it.
const SIGXFSZ: i32 = 25;
/// Files that the program has open besides those that are counted: streams, the runtime's own, a target, a cache.
const OTHER_FILES: u64 = 16;
/// What the system says when a process has too many files open, and when a file may not grow.
const TOO_MANY_FILES: &str = "(os error 24)";
const FILE_TOO_LARGE: &str = "(os error 27)";

/// Prepares the process: as many open files as it may have, and one line instead of a backtrace if the program goes wrong.
pub fn prepare() {
    let limit = getrlimit(Resource::Nofile);
    // Whoever may not raise it has what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    std::panic::set_hook(Box::new(|info| {
        // There is nowhere to report a standard error that is closed.
        let _ = writeln!(std::io::stderr(), "sancerre: internal error {}", place(info));
    }));
}

fn place(info: &PanicHookInfo<'_>) -> String {
    let at = info.location().map_or_else(String::new, |at| format!("at {}:{}: ", at.file(), at.line()));
    crate::plain::line(&format!("{at}{}", words(info.payload()))).into_owned()
}

fn words(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason was given")
}

/// What a command ends with that came upon an error of the program itself.
pub(crate) fn went_wrong(payload: &(dyn Any + Send)) -> Failure {
    Failure::failed(format!(
        "the program came upon an error of its own ({}) and stopped; this is a bug, please report it",
        words(payload)
    ))
}

/// From now on a file that may not grow is an error to whoever writes it, and does not end the process. Must be called
/// inside a tokio runtime.
pub(crate) fn survive_file_limit() {
    // The handler stays for as long as the process lives; what it would tell is not needed.
    drop(signal(SignalKind::from_raw(SIGXFSZ)));
}

/// How many files a store in a folder may have open at once; each request to it needs two.
pub(crate) fn store_files() -> usize {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from((most.saturating_sub(OTHER_FILES) / 2).max(1)).unwrap_or(usize::MAX)
}

/// What a limit of this process has to do with an error.
pub(crate) fn advice(message: &str) -> String {
    let limit = |resource| getrlimit(resource).current;
    match () {
        () if message.contains(TOO_MANY_FILES) => format!(
            ". This process may have {} files open; allow more (ulimit -n, LimitNOFILE= in a unit)",
            limit(Resource::Nofile).map_or_else(|| "any number of".into(), |most| most.to_string())
        ),
        () if message.contains(FILE_TOO_LARGE) => limit(Resource::Fsize).map_or_else(String::new, |most| {
            format!(". This process may make files of at most {most} bytes; allow more (ulimit -f, LimitFSIZE= in a unit)")
        }),
        () => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_limit_explains_is_explained() {
        assert!(advice("cannot open x: Too many open files (os error 24)").contains("ulimit -n"));
        assert_eq!(advice("cannot open x: No such file or directory (os error 2)"), "");
    }

    #[test]
    fn whatever_a_panic_says_is_told() {
        let caught =
            std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new("of lines"))).unwrap_err();
        assert!(went_wrong(&*caught).message.contains("(of lines)"));
        let caught = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(7_u8))).unwrap_err();
        assert!(went_wrong(&*caught).message.contains("no reason"));
    }
}
