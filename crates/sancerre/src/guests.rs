//! Guests that commands start with QEMU: their options, and what they are told.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sancerre_boot::{Accelerator, DiskBus, PlanError, StartError};

use crate::exit::Failure;
use crate::units::parse_size;

/// QEMU's program for the machines that are backed up.
const QEMU: &str = "qemu-system-x86_64";
/// The kernel's virtualisation.
const KVM: &str = "/dev/kvm";
const MIB: u64 = 1 << 20;

/// How guests are started.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "The guest")]
pub(crate) struct GuestOptions {
    /// Its memory
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "2G")]
    pub(crate) guest_memory: u64,
    /// Its processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) guest_cpus: u32,
    /// What its disks look like: virtio is fast, sata starts whatever starts on a PC
    #[arg(long, value_name = "BUS", default_value = "virtio")]
    pub(crate) bus: Bus,
    /// kvm, or tcg, which needs no hardware and is slow; auto takes kvm where a guest comes up with it
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    pub(crate) accel: Accel,
    /// QEMU's program
    #[arg(long, value_name = "PROGRAM", default_value = QEMU)]
    pub(crate) qemu: PathBuf,
    /// What else QEMU is told, such as -nic bridge,br=br0
    #[arg(last = true, value_name = "QEMU ARGUMENT")]
    pub(crate) more: Vec<OsString>,
}

/// What disks look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bus {
    Virtio,
    Sata,
}

/// Which accelerator is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    Auto,
    Kvm,
    Tcg,
}

impl From<Bus> for DiskBus {
    fn from(bus: Bus) -> Self {
        match bus {
            Bus::Virtio => Self::Virtio,
            Bus::Sata => Self::Sata,
        }
    }
}

impl GuestOptions {
    /// What to try first. That a device can be opened says little: whether a guest runs with it, only a guest shows.
    pub(crate) fn accelerator(&self) -> Accelerator {
        let has_kvm = || OpenOptions::new().read(true).write(true).open(KVM).is_ok();
        match self.accel {
            Accel::Auto if has_kvm() => Accelerator::Kvm,
            Accel::Kvm => Accelerator::Kvm,
            Accel::Auto | Accel::Tcg => Accelerator::Tcg,
        }
    }

    /// What to try when a guest does not run with that one.
    pub(crate) fn other(&self, failed: Accelerator) -> Option<Accelerator> {
        (self.accel == Accel::Auto && failed == Accelerator::Kvm).then_some(Accelerator::Tcg)
    }

    /// The guest's memory, as QEMU counts.
    pub(crate) fn memory_mib(&self) -> u64 {
        (self.guest_memory / MIB).max(1)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Plan(error) => error.into(),
            error => Self::failed(error.to_string()),
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::usage(error.to_string())
    }
}

/// A command for a shell, as a person would type it.
pub(crate) fn shell<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> String {
    let quoted = |word: &OsStr| {
        let word = word.to_string_lossy();
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=,+@%".contains(letter);
        match !word.is_empty() && word.chars().all(is_plain) {
            true => word.into_owned(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        }
    };
    words.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_written() {
        let words = ["a b", "it's", "", "-nic", "{\"x\": 1}"].map(OsStr::new);
        let line = format!("printf '%s\\n' {}", shell(words));
        let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a b\nit's\n\n-nic\n{\"x\": 1}\n");
    }
}
