//! What a command prints, as a stream: the command is started when it is first read, and never outlives this process by
//! more than a moment, whatever it started itself.
//!
//! It has a process group of its own, so that all of a pipeline can be ended. The reader may hang in a read when a signal
//! comes, so a group is ended by whoever notices, and the reader then meets the end of the stream.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::passphrase;

/// Between two looks at a command that is to end.
const STEP: Duration = Duration::from_millis(20);
/// Looks at a command that was asked to end before it is killed: two seconds.
const LOOKS_MAX: u32 = 100;
/// A group that is not the terminal's own is stopped where it asks the terminal something, and nobody would notice. Where
/// these signals are ignored that is an error, which the command says.
const NO_TERMINAL: &str = "trap '' TTIN TTOU\n";

/// The commands that run.
static RUNNING: Mutex<Vec<Arc<Running>>> = Mutex::new(Vec::new());

/// What a command prints. It ends well only if the command does.
pub(crate) struct Printed {
    command: String,
    started: Option<(ChildStdout, Arc<Running>)>,
    is_over: bool,
}

/// Ends what runs when a backup does, however that ends.
pub(crate) struct Ended;

impl Drop for Ended {
    fn drop(&mut self) {
        end_all(LOOKS_MAX);
    }
}

/// Ends what runs at once.
pub(crate) fn kill_all() {
    end_all(0);
}

fn end_all(looks: u32) {
    let running = std::mem::take(&mut *lock(&RUNNING));
    running.iter().for_each(|running| running.end(looks));
}

/// What another thread left behind when it died is still true here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Running(Mutex<RunningChild>);

struct RunningChild {
    child: Child,
    /// How it ended. From then on its number may be another's, and is not used any more.
    status: Option<ExitStatus>,
}

impl RunningChild {
    /// Whether the command has ended. It is not waited for yet: until then nobody else gets its number.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let group = Pid::from_child(&self.child);
        !matches!(waitid(WaitId::Pid(group), options), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }
}

impl Running {
    /// Asks the whole group to end, gives it so many looks, kills what is left, and waits for the command.
    fn end(&self, looks: u32) {
        let mut state = lock(&self.0);
        if state.status.is_some() {
            return;
        }
        if looks > 0 {
            state.signal(Signal::TERM);
            // What is stopped hears of it only then.
            state.signal(Signal::CONT);
        }
        for _ in 0..looks {
            if state.has_ended() {
                break;
            }
            std::thread::sleep(STEP);
        }
        state.signal(Signal::KILL);
        state.status = state.child.wait().ok();
    }

    /// How it ended, once it did.
    fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            let mut state = lock(&self.0);
            if state.status.is_none() {
                state.status = state.child.try_wait()?;
            }
            if let Some(status) = state.status {
                return Ok(status);
            }
            // Whoever ends it must get at it meanwhile.
            drop(state);
            std::thread::sleep(STEP);
        }
    }
}

impl Printed {
    /// What `sh -c` prints of this.
    pub(crate) fn by(command: &str) -> Self {
        Self { command: command.to_owned(), started: None, is_over: false }
    }

    fn start(&mut self) -> io::Result<&mut (ChildStdout, Arc<Running>)> {
        if self.started.is_none() {
            let mut shell = Command::new("sh");
            // Not the passphrase: what the command starts would show it to every process of this user.
            shell.args(["-c", &format!("{NO_TERMINAL}{}", self.command)]).env_remove(passphrase::VALUE);
            shell.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
            // Nobody may look for what runs between its start and its entry there.
            let mut all = lock(&RUNNING);
            let mut child = shell.spawn().map_err(|error| {
                io::Error::other(format!("cannot run `{}` with sh: {error}. Nothing was saved", self.command))
            })?;
            let stdout = child.stdout.take().ok_or_else(|| io::Error::other("sh has no output"))?;
            let running = Arc::new(Running(Mutex::new(RunningChild { child, status: None })));
            all.push(Arc::clone(&running));
            drop(all);
            self.started = Some((stdout, running));
        }
        self.started.as_mut().ok_or_else(|| io::Error::other("sh was not started"))
    }
}

impl Read for Printed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_over || buffer.is_empty() {
            return Ok(0);
        }
        let (stdout, running) = self.start()?;
        let count = stdout.read(buffer)?;
        if count > 0 {
            return Ok(count);
        }
        let status = running.wait()?;
        self.is_over = true;
        match status.success() {
            true => Ok(0),
            false => Err(io::Error::other(format!(
                "`{}` failed ({status}), so what it printed may not be whole. Nothing was saved",
                self.command
            ))),
        }
    }
}

impl Drop for Printed {
    /// Nobody reads on: a command that is still at work has nothing more to do.
    fn drop(&mut self) {
        if let Some((_, running)) = self.started.take() {
            running.end(LOOKS_MAX);
            lock(&RUNNING).retain(|other| !Arc::ptr_eq(other, &running));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_is_no_end_of_a_stream() {
        let mut text = String::new();
        Printed::by("printf abc").read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        let error = Printed::by("printf abc; exit 3").read_to_string(&mut text).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[test]
    fn what_nobody_reads_on_is_ended_though_it_does_not_want_to() {
        let mut printed = Printed::by("trap '' TERM; echo x; sleep 86412 & wait; sleep 86412");
        let mut first = [0; 1];
        printed.read_exact(&mut first).unwrap();
        let group = match &printed.started {
            Some((_, running)) => Pid::from_child(&lock(&running.0).child),
            None => panic!("it was read"),
        };
        drop(printed);
        // What was killed is for init to clear away.
        for _ in 0..LOOKS_MAX {
            if rustix::process::test_kill_process_group(group).is_err() {
                return;
            }
            std::thread::sleep(STEP);
        }
        panic!("something of it still runs");
    }
}
