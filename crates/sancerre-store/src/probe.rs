//! What a store really does, found out by trying: `init` and `doctor` ask before anybody's data depends on it.
//!
//! Some servers accept a condition and ignore it, or report a lock that stops nobody. So nothing here trusts a status
//! code alone: each claim is read back. The objects lie under [`PREFIX`], which readers ignore; what can be deleted is
//! deleted again, and what is locked goes when its lock runs out.

mod checks;
mod look;

use sancerre_format::names::Time;

use crate::Store;
use crate::clock::{Clock, Random};
use crate::error::Result;

pub use look::look;

/// Keys of the objects that a probe writes.
pub const PREFIX: &str = "probe";

/// Something that a store does or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// The credentials can read what is there.
    Read,
    /// The credentials can write.
    Write,
    /// An object that is there is not replaced by a create-only request.
    CreateOnly,
    /// Of several such requests at the same time one wins.
    Race,
    /// What was written can be read at once.
    ReadBack,
    /// A part of an object can be read.
    Range,
    /// What was written is listed at once.
    List,
    /// Bytes that do not fit their checksum are refused.
    Checksum,
    /// The store's clock agrees with this host's.
    Clock,
    /// A new name in a folder can be brought to the disk.
    Flush,
    /// A write over an object keeps the one before.
    Versions,
    /// A listing of versions says which of them was first.
    VersionOrder,
    /// New objects are locked against deletion.
    Retention,
    /// These credentials cannot replace an object.
    Overwrite,
    /// These credentials cannot delete an object.
    Delete,
}

/// How much a check matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Without it snapshots can be lost: no repository belongs there.
    Required,
    /// Without it something is slower, or noticed later.
    Wanted,
    /// Without it an attacker with these credentials can destroy the repository.
    Protection,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeVerdict {
    /// It is so.
    Holds,
    /// It is not so.
    Absent,
    /// The store says that it is so, and it is not.
    Lies,
    /// It could not be found out.
    Unknown,
}

impl ProbeVerdict {
    /// One word for a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Holds => "yes",
            Self::Absent => "no",
            Self::Lies => "LIES",
            Self::Unknown => "unknown",
        }
    }
}

impl Check {
    /// All that is tried out by writing.
    const TRIED: [Self; 14] = [
        Self::Write,
        Self::CreateOnly,
        Self::Race,
        Self::ReadBack,
        Self::Range,
        Self::List,
        Self::Checksum,
        Self::Clock,
        Self::Flush,
        Self::Versions,
        Self::VersionOrder,
        Self::Retention,
        Self::Overwrite,
        Self::Delete,
    ];

    /// A few words for a table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Read => "credentials can read",
            Self::Write => "credentials can write",
            Self::CreateOnly => "create-only is honoured",
            Self::Race => "one winner of a race",
            Self::ReadBack => "read after write",
            Self::Range => "ranged reads",
            Self::List => "list after write",
            Self::Checksum => "checksums are verified",
            Self::Clock => "clocks agree",
            Self::Flush => "folders can be flushed",
            Self::Versions => "keeps versions",
            Self::VersionOrder => "versions are in order",
            Self::Retention => "new objects are locked",
            Self::Overwrite => "overwriting is refused",
            Self::Delete => "deleting is refused",
        }
    }

    /// A word for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::CreateOnly => "create_only",
            Self::Race => "race",
            Self::ReadBack => "read_back",
            Self::Range => "range",
            Self::List => "list",
            Self::Checksum => "checksum",
            Self::Clock => "clock",
            Self::Flush => "flush",
            Self::Versions => "versions",
            Self::VersionOrder => "version_order",
            Self::Retention => "retention",
            Self::Overwrite => "overwrite",
            Self::Delete => "delete",
        }
    }

    /// How much it matters.
    pub fn weight(self) -> Weight {
        match self {
            Self::Read
            | Self::Write
            | Self::CreateOnly
            | Self::Race
            | Self::ReadBack
            | Self::Range
            | Self::VersionOrder => Weight::Required,
            Self::List | Self::Checksum | Self::Clock | Self::Flush => Weight::Wanted,
            Self::Versions | Self::Retention | Self::Overwrite | Self::Delete => Weight::Protection,
        }
    }

    /// What it means where it does not hold.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::Read => "nothing can be checked or restored with these credentials",
            Self::Write => "nothing can be backed up with these credentials",
            Self::CreateOnly | Self::Race => {
                "two hosts can take one number in the log, and one snapshot replaces another: use another store"
            }
            Self::ReadBack | Self::Range => "snapshots cannot be restored from this store: use another one",
            Self::List => "known data is stored again, and a restore may have to be repeated later",
            Self::Checksum => "damage on the way is noticed by `check` or a restore, not at once",
            Self::Clock => "requests may be refused and locks end early or late: set the clocks (NTP)",
            Self::Flush => {
                "after a power cut at the store what was saved last may not be there, though it was reported as saved"
            }
            Self::Versions => "an object that is overwritten or deleted is gone",
            Self::VersionOrder => {
                "what was put over an object cannot be told from it: list versions to these credentials, or use a bucket without"
            }
            Self::Retention => "whoever may delete can destroy the repository: set a default retention",
            Self::Overwrite => {
                "whoever has these credentials can put other bytes in an object's place; where the store keeps versions, the first stays"
            }
            Self::Delete => "whoever has these credentials can remove what is not locked: give hosts others",
        }
    }
}

/// A check and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFinding {
    /// What was tried.
    pub check: Check,
    /// What holds.
    pub verdict: ProbeVerdict,
    /// What was seen.
    pub seen: String,
}

/// Everything that a probe found, in the order of [`Check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// When.
    pub time: Time,
    /// What.
    pub findings: Vec<ProbeFinding>,
    /// For how long a new object was locked.
    pub lock_seconds: Option<i64>,
}

impl Report {
    /// What a repository must not be put on.
    pub fn unsafe_findings(&self) -> impl Iterator<Item = &ProbeFinding> {
        let is_bad = |finding: &&ProbeFinding| {
            finding.check.weight() == Weight::Required && finding.verdict != ProbeVerdict::Holds
        };
        self.findings.iter().filter(is_bad)
    }

    /// What was not looked at, because that would write.
    pub fn not_tried(&self) -> impl Iterator<Item = Check> {
        let is_found = |check: &Check| self.findings.iter().any(|finding| finding.check == *check);
        Check::TRIED.into_iter().filter(move |check| !is_found(check))
    }

    /// What the store claims and does not do, or should do and does not, short of being unsafe.
    pub fn doubtful_findings(&self) -> impl Iterator<Item = &ProbeFinding> {
        self.findings.iter().filter(|finding| match finding.check.weight() {
            Weight::Required => false,
            Weight::Wanted => matches!(finding.verdict, ProbeVerdict::Absent | ProbeVerdict::Lies),
            Weight::Protection => finding.verdict == ProbeVerdict::Lies,
        })
    }
}

/// Tries out the store with a few small objects.
///
/// Errors: the store does not answer; it answers something that is none of the cases that are told apart.
pub async fn probe(store: &Store, clock: &dyn Clock, random: &dyn Random) -> Result<Report> {
    let time = clock.now();
    let (mut findings, locked_until) = checks::run(store, clock, random).await?;
    findings.sort_by_key(|finding| finding.check);
    let seconds = |until: Time| until.unix_seconds().saturating_sub(time.unix_seconds());
    Ok(Report { time, findings, lock_seconds: locked_until.map(seconds) })
}
