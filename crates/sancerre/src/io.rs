//! What the command line touches of the process it runs in, as a value.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};

use zeroize::Zeroizing;

/// Asks a question on the terminal without echo. Fails where there is no terminal.
pub type Prompt = dyn Fn(&str) -> std::io::Result<Zeroizing<String>>;

/// The variables of the process.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The variable's value; none when it is not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// All variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
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
    /// Asks for a passphrase.
    pub prompt: Box<Prompt>,
}

impl Io {
    /// Those of this process.
    pub fn process() -> Self {
        // A variable that is not UTF-8 is none of ours.
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self {
            environment: variables.collect(),
            stdin: Box::new(std::io::stdin()),
            stdout: Box::new(std::io::stdout()),
            stderr: Box::new(std::io::stderr()),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            prompt: Box::new(|question| rpassword::prompt_password(question).map(Zeroizing::new)),
        }
    }
}
