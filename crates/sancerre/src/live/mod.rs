//! Machines of a hypervisor: their running disks, one moment of them, and what changed since the last.

mod all;
mod command;
mod define;
mod one;
mod picture;
mod qemu;
mod with;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use sancerre_capture::{CaptureError, FreezeOptions, Virsh, default_run_folder};

use crate::command::{Backup, Context};
use crate::exit::{Done, Exit, Failure};

pub(crate) use define::{DefineOptions, run as define};
pub(crate) use picture::{DESCRIPTION, NVRAM};

/// What is asked for machines.
const CONNECTION: &str = "qemu:///system";
const VIRSH: &str = "virsh";
/// How long a guest may take to stand still, and how long it stands still at most.
const FREEZE: Duration = Duration::from_secs(60);
const HOLD: Duration = Duration::from_secs(20);
const BEGIN_SECONDS: u64 = 60;

/// Whom the disks come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hypervisor {
    /// libvirt of this host
    Libvirt,
    /// A QEMU that runs without libvirt: --qmp names its monitor
    Qemu,
    /// Commands of yours: --begin makes a still picture and says where it is, --end removes it
    Command,
}

/// Whether file systems are frozen at the moment that is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Freezing {
    /// Where the guest's agent answers
    #[default]
    Try,
    /// Nothing is saved otherwise
    Must,
    /// Not at all
    Never,
}

/// Machines of a hypervisor.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Machines of a hypervisor")]
pub(crate) struct LiveOptions {
    /// Back up the machine as the hypervisor has it: all its disks at one moment, running or not, reading only what changed
    #[arg(long, value_enum, group = "counted",
        conflicts_with_all = ["disks", "stdin", "formats", "machine", "only_unreadable", "expect_min"])]
    pub(crate) source: Option<Hypervisor>,
    /// Which libvirt of this host, such as qemu:///session [default: qemu:///system]
    #[arg(long, value_name = "URI", requires = "source")]
    connect: Option<String>,
    /// The socket of QEMU's monitor (-qmp unix:PATH,server=on,wait=off), which nobody else talks to meanwhile
    #[arg(long, value_name = "SOCKET", requires = "source", conflicts_with_all = ["connect", "all"])]
    qmp: Option<PathBuf>,
    /// The socket of the guest's agent, for a QEMU without libvirt
    #[arg(long, value_name = "SOCKET", requires = "qmp")]
    agent: Option<PathBuf>,
    /// Run this with `sh -c`: it makes a still picture of the machine and prints its disks as JSON, see docs/QUIESCE.md
    #[arg(long, value_name = "COMMAND", requires = "source", requires = "end", conflicts_with_all = ["connect", "all", "qmp"])]
    begin: Option<String>,
    /// Run this with `sh -c` when the picture was read, and whatever happens: it removes the picture, and thaws
    #[arg(long, value_name = "COMMAND", requires = "begin")]
    end: Option<String>,
    /// How many seconds the first command may take, in which it may have frozen the guest
    #[arg(long, value_name = "SECONDS", requires = "begin", default_value_t = BEGIN_SECONDS)]
    begin_limit: u64,
    /// A disk that is not backed up, by its target, such as vdb; may be given several times
    #[arg(long = "exclude-disk", value_name = "TARGET", requires = "source")]
    exclude_disks: Vec<String>,
    /// Freeze the guest's file systems, by its agent, while the moment is taken
    #[arg(long, value_enum, default_value_t, requires = "source")]
    freeze: Freezing,
    /// Back up every machine of the host, each as its own snapshot; one that fails does not stop the others
    #[arg(long, requires = "source", conflicts_with_all = ["vm", "public_name", "attach"])]
    all: bool,
    /// Of all machines only those of such names; * stands for anything, ? for one letter; may be given several times
    #[arg(long = "match", value_name = "PATTERN", requires = "all")]
    matches: Vec<String>,
    /// Of all machines none of such names; may be given several times
    #[arg(long, value_name = "PATTERN", requires = "all")]
    exclude: Vec<String>,
    /// How many machines are backed up at once
    #[arg(long, value_name = "N", requires = "all", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    /// Where sockets and locks lie while machines are backed up [default: /run/sancerre]
    #[arg(long, value_name = "DIRECTORY", requires = "source")]
    run_dir: Option<PathBuf>,
    /// Where the hypervisor keeps what guests overwrite meanwhile [default: beside each image; /var/tmp for devices]
    #[arg(long, value_name = "DIRECTORY", requires = "source")]
    scratch: Option<PathBuf>,
}

impl LiveOptions {
    /// Refuses what means nothing without --source. The parser lets it pass beside disks, which exclude a source.
    pub(crate) fn refuse_without_source(&self) -> Result<(), Failure> {
        let texts = [self.connect.is_some(), self.begin.is_some(), self.end.is_some(), self.all];
        let paths = [&self.qmp, &self.agent, &self.run_dir, &self.scratch].map(Option::is_some);
        let lists = [&self.exclude_disks, &self.matches, &self.exclude].map(|list| !list.is_empty());
        let is_given = texts.into_iter().chain(paths).chain(lists).any(|is_given| is_given);
        match is_given || self.freeze != Freezing::Try {
            true => Err(Failure::usage(
                "an option about machines of a hypervisor goes with --source, and disks that are named go without it",
            )),
            false => Ok(()),
        }
    }

    fn virsh(&self, context: &Context) -> Result<Virsh, Failure> {
        virsh(context, self.connect.as_deref())
    }

    fn run_folder(&self, context: &Context) -> PathBuf {
        let usual = || default_run_folder(context.environment.path("XDG_RUNTIME_DIR"));
        self.run_dir.as_deref().map_or_else(usual, absolute)
    }

    fn scratch_folder(&self) -> Option<PathBuf> {
        self.scratch.as_deref().map(absolute)
    }

    fn freezing(&self) -> Result<Option<FreezeOptions>, Failure> {
        if self.freeze == Freezing::Never {
            return Ok(None);
        }
        Ok(Some(FreezeOptions { program: this_program()?, freeze: FREEZE, hold: HOLD }))
    }

    fn is_wanted(&self, name: &str) -> bool {
        let fits = |pattern: &String| fits(pattern, name);
        (self.matches.is_empty() || self.matches.iter().any(fits)) && !self.exclude.iter().any(fits)
    }
}

/// This program, for a process that outlives it.
fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::failed(format!("cannot find this program to start it again: {error}")))
}

/// What talks to libvirt; where it is not, that is said when it is started.
fn program(context: &Context) -> PathBuf {
    context.environment.program(VIRSH).unwrap_or_else(|| VIRSH.into())
}

/// As another process must be told it, which has another working directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// libvirt of this host, by this connection or the usual one.
pub(crate) fn virsh(context: &Context, connect: Option<&str>) -> Result<Virsh, Failure> {
    Ok(Virsh::new(program(context), connect.unwrap_or(CONNECTION))?)
}

/// Whether a name is what a pattern says: `*` for anything, `?` for one letter.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Which beginnings of the name the pattern fits so far.
    let mut fitting: Vec<bool> = (0..=name.len()).map(|length| length == 0).collect();
    for letter in pattern {
        let before = |at: usize| at.checked_sub(1).and_then(|at| fitting.get(at)) == Some(&true);
        let next = (0..fitting.len()).map(|at| match letter {
            '*' => fitting.iter().take(at + 1).any(|fits| *fits),
            '?' => before(at),
            letter => before(at) && name.get(at - 1) == Some(&letter),
        });
        fitting = next.collect();
    }
    fitting.last() == Some(&true)
}

/// `backup --source …`.
pub(crate) async fn run(options: &Backup, context: &Context) -> Result<Done, Failure> {
    crate::command::backup::refuse_past(options, context)?;
    let (live, source) = (&options.live, options.live.source);
    let is_foreign = match source {
        Some(Hypervisor::Qemu) => live.begin.is_some(),
        Some(Hypervisor::Command) => live.qmp.is_some(),
        _ => live.qmp.is_some() || live.begin.is_some(),
    };
    if is_foreign {
        return Err(Failure::usage("--qmp belongs to --source qemu, and --begin to --source command"));
    }
    match source {
        Some(Hypervisor::Qemu) => qemu::run(options, context).await,
        Some(Hypervisor::Command) => command::run(options, context).await,
        _ if live.all => all::run(options, context).await,
        _ => one::run(options, context).await,
    }
}

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Self {
        let exit = match &error {
            CaptureError::NoMachine { .. } => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name) in
            [("*", ""), ("web*", "web01"), ("w?b*1", "web01"), ("*ü*", "Büro"), ("a b", "a b")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("", "a"), ("web", "web01"), ("?", ""), ("*a", "ab"), ("[ab]", "a")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
