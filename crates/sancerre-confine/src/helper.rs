//! The two sides: the caller's command, and the process that confines itself.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::thread::CapabilitySet;

use crate::arguments::Started;
use crate::{ConfineError, Confinement, Seclusion, calls, descriptors, files, rights};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__confine";
/// What the helper ends with when it could not start the program.
const FAILED: i32 = 71;
/// What messages call this program when it reads foreign bytes itself.
const OWN: &str = "the reader of images";
/// Two arenas for all threads: each takes 64 MiB of the address space.
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "2");

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
    /// An interrupt from the terminal is the caller's alone: the program would end under what the caller has yet to finish.
    /// The program is killed when the *thread* that spawns the command ends, and so never outlives the caller.
    pub fn command(&self, confinement: &Confinement) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .args(confinement.encode(std::process::id()))
            .env_clear()
            .current_dir("/")
            .process_group(0);
        command
    }

    /// The command that starts the helper, which then secludes itself and stays this program. The rest is as of
    /// [`Helper::command`]; what it works on comes through standard input.
    pub fn own_command(&self, seclusion: &Seclusion) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .args(seclusion.encode(std::process::id()))
            .env_clear()
            .env(ARENAS.0, ARENAS.1)
            .current_dir("/")
            .process_group(0);
        command
    }
}

/// The helper: confines this process as the arguments after [`SUBCOMMAND`] say. Then it becomes the program, and
/// returns, with an exit code and after a message on standard error, only when that failed; or it stays this program and
/// returns with the exit code of `inside`, which is all that it does from then on.
///
/// To be called by a process that has no other thread and has read no foreign byte.
pub fn run(arguments: impl IntoIterator<Item = OsString>, inside: impl FnOnce() -> i32) -> i32 {
    let error = match Started::decode(arguments) {
        Ok((Started::Program(confinement), parent)) => confinement.enter(parent),
        Ok((Started::Own(seclusion), parent)) => match seclusion.enter(parent) {
            Ok(()) => return inside(),
            Err(error) => error,
        },
        Err(error) => error,
    };
    let _ = writeln!(io::stderr(), "{error}");
    FAILED
}

impl Seclusion {
    fn enter(&self, parent: u64) -> Result<(), ConfineError> {
        let program = || PathBuf::from(OWN);
        let step = |step| move |source| ConfineError::Step { program: program(), step, source };
        descriptors::close_inherited().map_err(step("close inherited descriptors"))?;
        rights::limit(&self.limits, false).map_err(step("set limits"))?;
        rights::drop_rights(CapabilitySet::empty()).map_err(step("give up rights"))?;
        rights::end_with(parent).map_err(step("tie it to its caller"))?;
        if self.sandbox {
            files::seclude().map_err(|problem| ConfineError::Landlock { program: program(), problem })?;
            calls::seclude().map_err(|problem| ConfineError::Seccomp { program: program(), problem })?;
        }
        Ok(())
    }
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
        rights::limit(&self.limits, !self.writable.is_empty()).map_err(step("set limits"))?;
        // Images belong to the hypervisor's user.
        rights::drop_rights(CapabilitySet::DAC_READ_SEARCH).map_err(step("give up rights"))?;
        rights::end_with(parent).map_err(step("tie it to its caller"))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().current_dir("/");
        command.envs([("LC_ALL", "C"), ARENAS]);
        if self.listens {
            command.env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string());
        }
        if self.sandbox {
            let program = || self.program.clone();
            files::confine(self).map_err(|problem| ConfineError::Landlock { program: program(), problem })?;
            calls::confine(!self.writable.is_empty())
                .map_err(|problem| ConfineError::Seccomp { program: program(), problem })?;
        }
        Ok(command)
    }
}
