//! The two sides: the caller's command, and the process that confines itself.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::{ConfineError, Confinement, calls, descriptors, files, rights};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__confine";
/// What the helper ends with when it could not start the program.
const FAILED: i32 = 71;

/// How the program starts itself as its own helper.
#[derive(Debug, Clone)]
pub struct Helper {
    /// The program.
    pub program: PathBuf,
    /// What comes before the confinement.
    pub arguments: Vec<OsString>,
}

impl Helper {
    /// The running program, called with [`SUBCOMMAND`].
    ///
    /// # Errors
    /// When the system does not say which program this is.
    pub fn of_this_program() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, arguments: vec![SUBCOMMAND.into()] })
    }

    /// The command that starts the helper, which then becomes the confined program. The environment is empty: it may
    /// hold passphrases. The caller sets standard input, output and error.
    ///
    /// The program is killed when the *thread* that spawns the command ends, and so never outlives the caller.
    pub fn command(&self, confinement: &Confinement) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .args(confinement.encode(std::process::id()))
            .env_clear()
            .current_dir("/");
        command
    }
}

/// The helper: confines this process as the arguments after [`SUBCOMMAND`] say and becomes the program. Returns, with
/// an exit code and after a message on standard error, only when that failed.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let error = match Confinement::decode(arguments) {
        Ok((confinement, parent)) => confinement.enter(parent),
        Err(error) => error,
    };
    let _ = writeln!(io::stderr(), "{error}");
    FAILED
}

impl Confinement {
    /// Never comes back when everything works.
    fn enter(&self, parent: u64) -> ConfineError {
        match self.prepare(parent) {
            Err(error) => error,
            Ok(mut command) => ConfineError::Start { program: self.program.clone(), source: command.exec() },
        }
    }

    fn prepare(&self, parent: u64) -> Result<Command, ConfineError> {
        let step = |step| move |source| ConfineError::Step { program: self.program.clone(), step, source };
        descriptors::close_inherited().map_err(step("close inherited descriptors"))?;
        if self.listens {
            descriptors::pass_listener().map_err(step("pass the socket"))?;
        }
        rights::limit(&self.limits).map_err(step("set limits"))?;
        rights::drop_rights().map_err(step("give up rights"))?;
        rights::end_with(parent).map_err(step("tie it to its caller"))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().current_dir("/");
        // Two arenas: each takes 64 MiB of the address space.
        command.envs([("LC_ALL", "C"), ("MALLOC_ARENA_MAX", "2")]);
        if self.listens {
            command.env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string());
        }
        if self.sandbox {
            let program = || self.program.clone();
            files::confine(self).map_err(|problem| ConfineError::Landlock { program: program(), problem })?;
            calls::confine().map_err(|problem| ConfineError::Seccomp { program: program(), problem })?;
        }
        Ok(command)
    }
}
