//! How the child is started, and what it is given.

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sancerre_confine::{Helper, Limits, Seclusion};
use sancerre_image::confined;
use sancerre_image::process::Process;
use zeroize::Zeroizing;

use crate::wire::TEXT_MAX;

/// For caches, long folders and journals.
const LIMITS: Limits =
    Limits { address_space_bytes: 1 << 30, cpu_seconds: 24 * 3600, open_files: 16, file_bytes: 0 };
/// The child computes, and does not wait for anything but us.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where keys are derived, by rules that are made to take both.
const UNLOCKING_BYTES: u64 = 4 << 30;
const UNLOCKING_PATIENCE: Duration = Duration::from_secs(180);

/// How guests are read by a confined child.
#[derive(Debug, Clone)]
pub struct GuestReader {
    /// How this program starts itself as the child.
    pub helper: Helper,
    /// False only when the user said `--no-sandbox`.
    pub sandbox: bool,
    /// How much of the machine it may use.
    pub limits: Limits,
    /// How long it may be silent.
    pub patience: Duration,
    /// What opens encrypted volumes.
    pub passphrases: Passphrases,
}

/// Passphrases of encrypted volumes, as somebody gave them for this guest. The child gets them: they open nothing but what it
/// sees anyway.
#[derive(Clone, Default)]
pub struct Passphrases(Vec<Zeroizing<Vec<u8>>>);

impl Passphrases {
    /// The longest that can be.
    pub const BYTES_MAX: usize = TEXT_MAX;

    /// These; each at most [`Passphrases::BYTES_MAX`] long, of which the rest would be cut.
    pub fn new(all: Vec<Zeroizing<Vec<u8>>>) -> Self {
        Self(all)
    }

    pub(super) fn all(&self) -> Vec<Zeroizing<Vec<u8>>> {
        self.0.clone()
    }
}

impl fmt::Debug for Passphrases {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passphrases", self.0.len())
    }
}

impl GuestReader {
    /// With the limits and the patience that fit every guest.
    pub fn new(helper: Helper, sandbox: bool) -> Self {
        let passphrases = Passphrases::default();
        Self { helper, sandbox, limits: LIMITS, patience: PATIENCE, passphrases }
    }

    /// The same with passphrases, whose derivation takes memory and time.
    pub fn unlocking(mut self, passphrases: Passphrases) -> Self {
        if !passphrases.0.is_empty() {
            self.limits.address_space_bytes = UNLOCKING_BYTES;
            self.patience = UNLOCKING_PATIENCE;
        }
        self.passphrases = passphrases;
        self
    }

    /// The child, and the socket to it.
    pub(super) fn process(&self) -> std::io::Result<(OwnedFd, Process)> {
        let (ours, theirs) = confined::pair()?;
        let mut command = self.helper.own_command(&Seclusion { limits: self.limits, sandbox: self.sandbox });
        command.stdin(theirs);
        Ok((ours, Process::start(command)?))
    }
}
