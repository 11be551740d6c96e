//! One bash for a page, so that what a block sets holds for the next.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Stands around the exit code, behind what was printed.
const MARK: u8 = 0x1e;

/// Where programs are, those for administrators too.
pub(crate) fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

pub(crate) struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    folder: PathBuf,
    count: usize,
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Done {
    /// Both outputs, in their order.
    pub(crate) said: String,
    pub(crate) status: i32,
}

impl Shell {
    /// Without a terminal: nothing may ask.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut command = Command::new("setsid");
        command
            .args(["--wait", "bash", "--noprofile", "--norc"])
            .current_dir(folder)
            .env_clear()
            .envs(crate::support::CHEAP);
        command.env("PATH", format!("{}/.bin:{}", folder.display(), search_path()));
        command.env("HOME", folder).env("LANG", "C.UTF-8").env("TZ", "UTC");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        input.write_all(b"exec 2>&1\nset -o pipefail\n").unwrap();
        Self { child, input, output, folder: folder.to_owned(), count: 0 }
    }

    /// Runs it in this shell. Errors: what it said, when it ended the shell.
    pub(crate) fn run(&mut self, text: &str, input: &str) -> Result<Done, String> {
        self.count += 1;
        let file = self.folder.join(format!(".run/{}", self.count));
        std::fs::write(&file, format!("{text}\n")).unwrap();
        let input = self.folder.join(input);
        let (file, input) = (file.display(), input.display());
        let line = format!(". '{file}' < '{input}'; s=$?; printf '\\036%s\\036' $s; (exit $s)\n");
        self.input.write_all(line.as_bytes()).unwrap();
        let said = self.until_mark()?;
        let status = self.until_mark()?;
        Ok(Done { said, status: status.parse().unwrap() })
    }

    fn until_mark(&mut self) -> Result<String, String> {
        let mut bytes = Vec::new();
        self.output.read_until(MARK, &mut bytes).unwrap();
        match bytes.pop() {
            Some(MARK) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            last => {
                bytes.extend(last);
                Err(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.input.write_all(b"exit\n"));
        drop(self.child.wait());
    }
}
