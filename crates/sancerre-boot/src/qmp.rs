//! QEMU's monitor: one line of JSON there, one back. Events are skipped: whoever needs a state asks for it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Longest line that is read; the longest of QEMU's own answers here have some kilobytes a disk.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// Lines that are no answer, before one is given up.
const EVENTS_MAX: usize = 10_000;
/// Answers of an agent that somebody else asked for.
const STALE_MAX: usize = 100;
/// A monitor that is silent for so long is given up. While a disk waits for its export, QEMU may be busy for a while.
const SILENCE: Duration = Duration::from_secs(120);

/// A conversation with the monitor of one QEMU.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

/// What went wrong between us and a monitor.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens there: no QEMU runs.
    #[error("no QEMU answers at its monitor: {0}")]
    Away(io::Error),
    /// It went away, or was silent for too long.
    #[error("QEMU's monitor failed: {0}")]
    Io(#[from] io::Error),
    /// It said something that is no answer.
    #[error("QEMU's monitor said something that is not understood: {0}")]
    Odd(String),
    /// It refused.
    #[error("QEMU refused {command}: {words}")]
    Refused {
        /// What was asked for.
        command: String,
        /// Why, in its words.
        words: String,
    },
}

impl QmpError {
    /// Whether the QEMU is gone, or was never there.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Away(_) => true,
            Self::Io(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            Self::Odd(_) | Self::Refused { .. } => false,
        }
    }
}

impl Qmp {
    /// Connects to a monitor, and greets it.
    ///
    /// Errors: [`QmpError::Away`] where no QEMU listens.
    pub fn connect(path: &Path) -> Result<Self, QmpError> {
        Self::connect_within(path, SILENCE)
    }

    /// The same, waiting so long for its greeting: one that talks to another program gives none.
    ///
    /// Errors: as [`Qmp::connect`].
    pub fn connect_within(path: &Path, patience: Duration) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(path).map_err(QmpError::Away)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let mut qmp = Self { writer: stream.try_clone()?, reader: BufReader::new(stream) };
        let greeting = qmp.line()?;
        qmp.writer.set_read_timeout(Some(SILENCE))?;
        if greeting.get("QMP").is_none() {
            return Err(odd(&greeting));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Connects to the agent of a guest, which greets nobody and may not be there yet: no answer is waited for longer. What it
    /// still had to say to somebody before is passed over: its first answer must name `id`, which nobody else uses.
    ///
    /// Errors: no agent answers.
    pub fn agent(path: &Path, patience: Duration, id: u64) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(path).map_err(QmpError::Away)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut agent = Self { writer: stream.try_clone()?, reader: BufReader::new(stream) };
        agent.ask("guest-sync", &json!({ "id": id }))?;
        for _ in 0..STALE_MAX {
            if agent.line()?.get("return").and_then(Value::as_u64) == Some(id) {
                return Ok(agent);
            }
        }
        Err(QmpError::Odd("answers that nobody asked for, without an end".into()))
    }

    /// Asks for something; returns the answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.ask(command, &arguments)?;
        for _ in 0..EVENTS_MAX {
            let mut line = self.line()?;
            if let Some(answer) = line.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = line.get("error") {
                let words = error.get("desc").and_then(Value::as_str).unwrap_or("no reason was given");
                return Err(QmpError::Refused { command: command.to_owned(), words: words.to_owned() });
            }
            if line.get("event").is_none() {
                return Err(odd(&line));
            }
        }
        Err(QmpError::Odd("events without an end".into()))
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> io::Result<()> {
        let question = json!({ "execute": command, "arguments": arguments });
        self.writer.write_all(format!("{question}\n").as_bytes())
    }

    fn line(&mut self) -> Result<Value, QmpError> {
        let mut line = Vec::new();
        let read = (&mut self.reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(match u64::try_from(read) {
                Ok(LINE_BYTES_MAX) => QmpError::Odd("a line without an end".into()),
                _ => QmpError::Io(io::ErrorKind::UnexpectedEof.into()),
            });
        }
        serde_json::from_slice(&line).map_err(|error| QmpError::Odd(error.to_string()))
    }
}

fn odd(value: &Value) -> QmpError {
    QmpError::Odd(value.to_string().chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;

    use super::*;

    /// What is made of a monitor that says this, whatever it is asked.
    fn told(words: &[u8]) -> Result<Value, QmpError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q");
        let listener = UnixListener::bind(&path).unwrap();
        let words = words.to_vec();
        let monitor = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(&words);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        let answer = Qmp::connect(&path).and_then(|mut qmp| qmp.execute("query-status", json!({})));
        monitor.join().unwrap();
        answer
    }

    #[test]
    fn answers_are_found_among_events() {
        let words = concat!(
            "{\"QMP\": {}}\n{\"event\": \"RESUME\"}\n{\"return\": {}}\n{\"event\": \"STOP\"}\n",
            "{\"return\": {\"status\": \"running\"}}\n"
        );
        assert_eq!(told(words.as_bytes()).unwrap()["status"], "running");
    }

    #[test]
    fn refusals_silence_and_nonsense_are_errors() {
        let greeted = "{\"QMP\": {}}\n{\"return\": {}}\n";
        let refused = told(format!("{greeted}{{\"error\": {{\"desc\": \"no\"}}}}\n").as_bytes());
        assert!(matches!(refused, Err(QmpError::Refused { words, .. }) if words == "no"));
        for (words, is_gone) in [(greeted.to_owned(), true), ("{}\n".into(), false), ("x\n".into(), false)] {
            assert_eq!(told(words.as_bytes()).unwrap_err().is_gone(), is_gone, "{words}");
        }
        assert!(Qmp::connect(Path::new("/nowhere/q")).is_err_and(|error| error.is_gone()));
    }

    #[test]
    fn an_agent_is_heard_from_its_own_answer_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The first two are for somebody who went away.
            stream.write_all(b"{\"return\": {}}\n{\"return\": 6}\n{\"return\": 7}\n").unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            assert!(lines.next().unwrap().unwrap().contains("guest-sync"));
            assert!(lines.next().unwrap().unwrap().contains("guest-exec"));
            stream.write_all(b"{\"return\": {\"pid\": 5}}\n").unwrap();
        });
        let mut qmp = Qmp::agent(&path, Duration::from_secs(20), 7).unwrap();
        assert_eq!(qmp.execute("guest-exec", json!({})).unwrap()["pid"], 5);
        agent.join().unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_are_an_answer_or_an_error(words in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = told(&words);
            let _ = told(&[b"{\"QMP\": {}}\n{\"return\": {}}\n", &words[..]].concat());
        }
    }
}
