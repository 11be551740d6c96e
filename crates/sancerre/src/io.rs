//! What the command line touches of the process it runs in, as a value.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::exit::Failure;
use crate::variables::AROUND;

/// Asks a question on the terminal without echo. Fails where there is no terminal.
pub type Prompt = dyn Fn(&str) -> std::io::Result<Zeroizing<String>>;

/// The variables of the process.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
}

impl Environment {
    /// The variable's value; none when it is not set.
    ///
    /// Errors: [`Exit::Usage`](crate::exit::Exit) for one that is not UTF-8: it must not be taken for one that is not set.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        let Some(value) = self.variables.get(name) else { return Ok(None) };
        let refuse =
            || Failure::usage(format!("the value of the variable {name} is not text in UTF-8; set it again"));
        value.to_str().ok_or_else(refuse).map(Some)
    }

    /// The same without what editors leave around it; none when nothing is left.
    ///
    /// Errors: as [`Environment::text`].
    pub(crate) fn setting(&self, name: &str) -> Result<Option<&str>, Failure> {
        let text = self.text(name)?.map(|text| text.trim_matches(AROUND));
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// A path, which may be any bytes, without the line ends around it; none when nothing is left.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        let mut bytes = self.variables.get(name)?.as_bytes();
        bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        while let [rest @ .., b'\r' | b'\n'] = bytes {
            bytes = rest;
        }
        (!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes.to_vec())))
    }

    /// Where a program of this name is; folders below the current one do not count.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let folders = self.variables.get("PATH")?;
        let folders = std::env::split_paths(folders).filter(|folder| folder.is_absolute());
        folders.map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// These variables, and another.
    pub(crate) fn with(&self, name: &str, value: impl Into<OsString>) -> Self {
        let mut with = self.clone();
        with.variables.insert(name.to_owned(), value.into());
        with
    }

    /// Whether it is set, be it to nothing.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    /// The names of all variables.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// All variables, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_os_str()))
    }
}

impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(variables: T) -> Self {
        let pairs = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self { variables: pairs.collect() }
    }
}

/// Streams, terminal and variables of a process.
pub struct Io {
    /// Variables.
    pub environment: Environment,
    /// Where a stream to back up comes from.
    pub stdin: Box<dyn Read + Send>,
    /// Results.
    pub stdout: Box<dyn Write + Send>,
    /// Progress and messages.
    pub stderr: Box<dyn Write + Send>,
    /// Whether standard input is a terminal.
    pub stdin_is_terminal: bool,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub stderr_is_terminal: bool,
    /// Whether standard output was closed, or leads nowhere as if it were: what is written there reaches nobody.
    pub stdout_is_lost: bool,
    /// Asks for a passphrase.
    pub prompt: Box<Prompt>,
}

impl Io {
    /// Those of this process.
    pub fn process() -> Self {
        // A variable whose name is not UTF-8 is none of ours.
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self {
            environment: variables.collect(),
            stdin: Box::new(std::io::stdin()),
            stdout: Box::new(std::io::stdout()),
            stderr: Box::new(std::io::stderr()),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            stdout_is_lost: is_lost(std::io::stdout()),
            prompt: Box::new(|question| rpassword::prompt_password(question).map(Zeroizing::new)),
        }
    }
}

/// Whether a stream is `/dev/null`, open both ways. Before `main` the standard library opens that in the place of a stream
/// that is closed; `> /dev/null` in a shell opens it to write alone. Some programs that start others open it both ways too, so
/// this says only that what is written reaches nobody, which is a mistake where it is data.
fn is_lost(stream: impl AsFd) -> bool {
    use std::os::unix::fs::MetadataExt;
    let null = std::fs::metadata("/dev/null").map(|null| null.rdev());
    let (Ok(null), Ok(found), Ok(flags)) =
        (null, rustix::fs::fstat(&stream), rustix::fs::fcntl_getfl(&stream))
    else {
        return false;
    };
    let is_device =
        rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::CharacterDevice;
    is_device && found.st_rdev == null && flags.contains(rustix::fs::OFlags::RDWR)
}
