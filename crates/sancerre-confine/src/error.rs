//! Why a program was not started.

use std::io;
use std::path::PathBuf;

use sancerre_advice::Setting::NoSandbox;

/// Why a program was not started: it then has seen nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfineError {
    /// The hidden subcommand was called by hand.
    #[error("the arguments of the confine helper make no sense ({0}); it is started by the program itself")]
    Arguments(&'static str),
    /// A step failed.
    #[error("cannot confine {}: cannot {step}: {source}", program.display())]
    Step {
        /// The program.
        program: PathBuf,
        /// The step, as a verb.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel cannot keep the program away from files.
    #[error(
        "cannot confine {}: Landlock does not work here ({problem}); it needs Linux 5.13 with \"landlock\" in the \
         list of security modules (lsm=). {NoSandbox} goes on without: an image that was made to do harm may then \
         read every file that this user may read", program.display()
    )]
    Landlock {
        /// The program.
        program: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// The kernel cannot keep the program away from system calls.
    #[error(
        "cannot confine {}: seccomp does not work here ({problem}); {NoSandbox} goes on without: an image that was \
         made to do harm may then use the network", program.display()
    )]
    Seccomp {
        /// The program.
        program: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// The program itself cannot be started.
    #[error("cannot start {}: {source}; check that it is installed, and that it is a program and no script", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
