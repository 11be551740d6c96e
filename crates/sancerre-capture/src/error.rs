//! Why there is no picture.

use std::io;
use std::path::PathBuf;

/// What went wrong with a hypervisor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// A program is not there, or cannot be started.
    #[error("cannot run {program}: {source}; {advice}")]
    Program {
        /// Which.
        program: String,
        /// What the system said.
        source: io::Error,
        /// Where to get it.
        advice: &'static str,
    },
    /// A program did not answer.
    #[error(
        "`{what}` gave no answer in {seconds} s; see whether the hypervisor's service hangs, then run again"
    )]
    Slow {
        /// What was asked.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// A program said no.
    #[error("`{what}` failed: {said}")]
    Refused {
        /// What was asked.
        what: String,
        /// What it said.
        said: String,
    },
    /// There is none of this name or id.
    #[error("libvirt has no machine {name} at {uri}; `virsh --connect {uri} list --all` shows what it has")]
    NoMachine {
        /// Which.
        name: String,
        /// Where.
        uri: String,
    },
    /// Something that cannot be understood.
    #[error("the XML of {what} cannot be understood: {problem}; please report it")]
    Xml {
        /// Of what.
        what: String,
        /// Why.
        problem: String,
    },
    /// Somebody else is at work on the machine.
    #[error("{machine}: {why}")]
    Busy {
        /// Which.
        machine: String,
        /// Who, and what to do.
        why: String,
    },
    /// The machine is none that can be backed up as was asked.
    #[error("{0}")]
    Unfit(String),
    /// A file or folder of ours.
    #[error("cannot {operation} {}: {source}; {advice}", path.display())]
    File {
        /// make, lock …
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What to do.
        advice: String,
    },
}
