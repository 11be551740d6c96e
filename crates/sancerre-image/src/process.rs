//! A confined program that runs for us: started, listened to, and ended.

use std::io::{self, Read};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// How long a program that was killed may take to end, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);
/// Of what a program says, this much is kept.
const WORDS_BYTES_MAX: usize = 2048;

/// A running program, ended when dropped.
#[derive(Debug)]
pub struct Process {
    child: Mutex<Child>,
    id: u32,
    words: Mutex<Option<JoinHandle<String>>>,
}

impl Process {
    /// The program is started by a thread that then listens to what it says until it ends: the program would be killed
    /// with the thread that started it, and threads of others may end earlier.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command) -> io::Result<Self> {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let (sender, receiver) = mpsc::channel();
        let words = Builder::new().name("image-reader".to_owned()).spawn(move || {
            let mut started = command.spawn();
            // The last descriptor of ours on the program's end: without it, a program that dies is noticed at once.
            drop(command);
            let stderr = started.as_mut().ok().and_then(|child| child.stderr.take());
            let is_heard = sender.send(started).is_ok();
            stderr.filter(|_| is_heard).map(listen).unwrap_or_default()
        })?;
        let child = receiver.recv().map_err(io::Error::other)??;
        let id = child.id();
        Ok(Self { child: Mutex::new(child), id, words: Mutex::new(Some(words)) })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Ends the program and returns what it said; nothing when that was asked before, or when it does not end.
    pub fn last_words(&self) -> String {
        if self.end().is_none() {
            return String::new();
        }
        let words = self.words.lock().ok().and_then(|mut words| words.take());
        words.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }

    /// Waits until the program has ended itself; none when that is no longer wanted, or nothing is known of it.
    pub(crate) fn wait(&self, is_wanted: impl Fn() -> bool) -> Option<ExitStatus> {
        while is_wanted() {
            match self.child.lock().ok()?.try_wait() {
                Ok(None) => {}
                Ok(status) => return status,
                Err(_) => return None,
            }
            std::thread::sleep(PAUSE);
        }
        None
    }

    /// Ends the program, if it has not ended itself, and says how it did; none when it is still there after a while: the
    /// kernel ends nobody who waits for a disk that does not answer, and the caller must not wait with it.
    pub fn end(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().ok()?;
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        let _ = child.kill();
        let killed = Instant::now();
        while killed.elapsed() < PATIENCE {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(PAUSE),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes everything that the program says, so that it never waits for us, and keeps the end of it.
fn listen(mut stderr: ChildStderr) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let surplus = kept.len().saturating_sub(WORDS_BYTES_MAX);
        kept.drain(..surplus);
    }
    let text = String::from_utf8_lossy(&kept);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    harmless(&lines.join("; "))
}

/// Foreign text without what would move the cursor or turn the line round.
pub fn harmless(text: &str) -> String {
    let is_odd = |sign: char| {
        sign.is_control()
            || matches!(sign, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut out = String::with_capacity(text.len());
    for sign in text.chars() {
        if is_odd(sign) { out.extend(sign.escape_unicode()) } else { out.push(sign) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn what_moves_the_cursor_is_spelled_out() {
        assert_eq!(harmless("its \"ä\" is\x1b[2J\n\u{202e}x"), "its \"ä\" is\\u{1b}[2J\\u{a}\\u{202e}x");
    }
}
