//! Another program, run to its end: with a time limit, without a terminal, and without our secrets.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Between two looks at a program.
const STEP: Duration = Duration::from_millis(5);
/// More than that is no description of a machine.
const OUTPUT_MAX: u64 = 64 << 20;
/// Our own variables: what is started would show them to every process of this user.
const OURS: &str = "SANCERRE_";

/// What a program came to.
#[derive(Debug)]
pub(crate) struct Ran {
    /// How it ended; none when it was killed because its time was over.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs it in a process group of its own, so that an interrupt at the terminal does not end it half-way.
///
/// Errors: it cannot be started.
pub(crate) fn run(command: &mut Command, stdin: Stdio, limit: Duration) -> io::Result<Ran> {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with(OURS)) {
            command.env_remove(&name);
        }
    }
    command.env("LC_ALL", "C").stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.process_group(0).spawn()?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait(&mut child, limit)?;
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    // A program that was killed may have left children that hold the pipes open: nobody waits for those.
    let (stdout, stderr) = match status {
        Some(_) => (text(stdout), text(stderr)),
        None => (String::new(), String::new()),
    };
    Ok(Ran { status, stdout, stderr })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read until an error is all there is.
            let _ = pipe.take(OUTPUT_MAX).read_to_end(&mut bytes);
        }
        bytes
    })
}

/// How it ended; none if it had to be killed.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit {
            // With all that it started: a shell's programs would go on.
            kill_process_group(Pid::from_child(child), Signal::KILL)?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(STEP);
    }
}
