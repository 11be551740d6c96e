//! A process of our own that goes on when its parent is killed: it is started deaf to what ends a terminal's or a service's
//! programs, is told something by the end of its input, and answers in lines.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

const DEAF: &str = "trap '' HUP INT TERM; exec \"$0\" \"$@\"";

/// The parent's side of it.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Guard {
    /// Starts this program as one, with these arguments.
    ///
    /// # Errors
    /// Why it cannot be, in words.
    pub(crate) fn start(program: &Path, arguments: &[OsString]) -> Result<Self, String> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(DEAF).arg(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(|error| format!("no guard can be started: {error}"))?;
        let input = child.stdin.take();
        let (send, lines) = channel();
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || {
                BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
            });
        }
        Ok(Self { child, input, lines })
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// It says nothing for so long, or nothing any more.
    pub(crate) fn line(&self, patience: Duration) -> Result<String, String> {
        self.lines.recv_timeout(patience).map_err(|_| "its guard said nothing more".to_owned())
    }

    /// Ends its input, with a last word.
    pub(crate) fn tell(&mut self, word: &str) {
        if let Some(mut input) = self.input.take() {
            // One that is dead hears nothing, and says nothing: that is noticed.
            let _ = input.write_all(word.as_bytes());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.input.take());
        // One that is still at work goes on by itself.
        let _ = self.child.try_wait();
    }
}

/// Says a line to who asked; that one may be dead.
pub(crate) fn say(line: &str) -> i32 {
    let mut stdout = io::stdout();
    let line = line.replace('\n', " ");
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    0
}
