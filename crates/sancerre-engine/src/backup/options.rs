//! What a backup is asked to do, and what it came to.

use std::io::Read;
use std::sync::Arc;

use sancerre_format::file_catalogue::ROLE;
use sancerre_format::id::SessionId;
use sancerre_format::names::{MachineId, Name, Tag, Time, Title};
use sancerre_format::outcome::{Consistency, Member, MemberKind};
use sancerre_image::Disk;

use super::maps::Maps;
use crate::error::{Error, Result};
use crate::keys::LostKey;
use crate::lock::clean::CleanLocks;
use crate::monitor::Monitor;

/// Where the bytes of a member come from.
pub enum Input {
    /// A disk: read in parallel, holes left out.
    Disk(Arc<dyn Disk>),
    /// A stream of unknown length.
    Stream(Box<dyn Read + Send>),
    /// The file catalogue of the disks: a stream that says itself where it is cut (FORMAT.md §5.3).
    Catalogue(Box<dyn Read + Send>),
}

/// Makes the file catalogue of the disks that are backed up.
pub trait FileCatalogues: Send {
    /// The catalogue of these disks, which is read once they were. What it cannot say it says it cannot: an error of the stream
    /// ends the backup; and it warns of it. No piece of it crosses a multiple of `region_bytes`.
    fn of(
        self: Box<Self>,
        disks: Vec<(Title, Arc<dyn Disk>)>,
        region_bytes: u32,
        monitor: &Monitor,
    ) -> Box<dyn Read + Send>;
}

/// One disk, stream or file to back up.
pub struct BackupSource {
    /// Its name in the VM.
    pub name: Title,
    /// What it is.
    pub kind: MemberKind,
    /// Its bytes.
    pub input: Input,
    /// Fewer bytes than these cannot be right.
    pub least_bytes: u64,
}

impl BackupSource {
    /// A disk.
    pub fn of_disk(name: Title, disk: Arc<dyn Disk>) -> Self {
        Self { name, kind: MemberKind::Disk, input: Input::Disk(disk), least_bytes: 0 }
    }

    /// A stream, read to its end.
    pub fn of_stream(name: Title, stream: Box<dyn Read + Send>) -> Self {
        Self { name, kind: MemberKind::Stream, input: Input::Stream(stream), least_bytes: 0 }
    }

    pub(super) fn disk(&self) -> Option<Arc<dyn Disk>> {
        match &self.input {
            Input::Disk(disk) => Some(Arc::clone(disk)),
            Input::Stream(_) | Input::Catalogue(_) => None,
        }
    }
}

/// Whose packs may be built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dedup {
    /// Only those of this writer's own sessions: no other host of the zone can spoil the snapshot, at the price of
    /// storing again what they have stored.
    Own,
    /// Those of all writers of the zone.
    #[default]
    Zone,
}

/// What is saved, and said, instead of refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allow {
    /// A source that changes while it is read, or that somebody else may be writing to: marked fuzzy.
    pub changing: bool,
    /// A disk that is empty, all zeros, or less than half as large as in the snapshot before this one.
    pub small: bool,
    /// A disk of which some cannot be read: that is zeros in the snapshot, which names it.
    pub unreadable: bool,
}

/// What to back up, and how.
pub struct BackupOptions {
    /// What the VM is called.
    pub vm: Title,
    /// What public records call it, if that is something else.
    pub public_name: Option<Title>,
    /// What the hypervisor knows it by; its history goes on under another name.
    pub machine: Option<MachineId>,
    /// A public word to group snapshots by.
    pub class: Option<Name>,
    /// Until when no forget counts.
    pub retain_until: Option<Time>,
    /// Its disks and files, in the user's order.
    pub sources: Vec<BackupSource>,
    /// Labels.
    pub tags: Vec<Tag>,
    /// What is saved although it is not as it should be.
    pub allow: Allow,
    /// Read of the disks only what the snapshot before this one could not read.
    pub only_unreadable: bool,
    /// What changed on its disks since a snapshot: of those only that is read.
    pub maps: Maps,
    /// Whose packs may be built on.
    pub dedup: Dedup,
    /// Count what changed on the disks, for a verdict on this night and the next.
    pub statistics: bool,
    /// Makes the file catalogue of the disks, which the snapshot then has too.
    pub catalogue: Option<Box<dyn FileCatalogues>>,
    /// Only count.
    pub dry_run: bool,
    /// Memory to stay within.
    pub memory_bytes: u64,
}

/// Memory to stay within when nothing else is said: enough for eight workers.
pub const MEMORY_BYTES: u64 = 300 << 20;

impl BackupOptions {
    /// All of these, read whole, and nothing allowed that is not as it should be.
    pub fn new(vm: Title, sources: Vec<BackupSource>) -> Self {
        Self {
            vm,
            public_name: None,
            machine: None,
            class: None,
            retain_until: None,
            sources,
            tags: Vec::new(),
            allow: Allow::default(),
            only_unreadable: false,
            maps: Maps::default(),
            dedup: Dedup::default(),
            statistics: false,
            catalogue: None,
            dry_run: false,
            memory_bytes: MEMORY_BYTES,
        }
    }

    /// Fails when there is nothing to save, or two of it have the same name.
    pub(super) fn check_names(&self) -> Result<()> {
        let mut names: Vec<&Title> = self.sources.iter().map(|source| &source.name).collect();
        names.sort();
        if names.is_empty() {
            return Err(Error::Usage(
                "there is nothing to back up: name at least one disk, for example disk0=/path/web01.raw"
                    .into(),
            ));
        }
        match names.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => Err(Error::Usage(format!(
                "two disks are named {:?}; give each its own name",
                pair.first().map(|name| name.as_str())
            ))),
            None => Ok(()),
        }
    }

    /// Adds the file catalogue to what is to be saved, if one is wanted and there is a disk.
    pub(super) fn add_catalogue(&mut self, region_bytes: u32, monitor: &Monitor) -> Result<()> {
        let Some(maker) = self.catalogue.take() else { return Ok(()) }; // invariant: nobody asked for one
        let disks = self.sources.iter().filter(|source| source.kind == MemberKind::Disk);
        let disks: Vec<_> = disks.filter_map(|source| Some((source.name.clone(), source.disk()?))).collect();
        if !disks.is_empty() {
            let name = Title::new(ROLE).map_err(|error| Error::bug(error.to_string()))?;
            let input = Input::Catalogue(maker.of(disks, region_bytes, monitor));
            self.sources.push(BackupSource { name, kind: MemberKind::File, input, least_bytes: 0 });
            self.check_names()?;
        }
        Ok(())
    }

    pub(super) fn public_name(&self) -> &Title {
        self.public_name.as_ref().unwrap_or(&self.vm)
    }
}

/// What a backup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The snapshot; none in a dry run.
    pub snapshot: Option<SessionId>,
    /// The snapshot it was compared with first.
    pub parent: Option<SessionId>,
    /// The members.
    pub members: Vec<Member>,
    /// Sum of their sizes.
    pub size_bytes: u64,
    /// Without holes.
    pub data_bytes: u64,
    /// Plain bytes that were not known before.
    pub new_bytes: u64,
    /// Bytes added to the store; in a dry run, without packs' overhead.
    pub stored_bytes: u64,
    /// Whether a source changed while it was read.
    pub fuzzy: bool,
    /// How the machine's file systems were frozen at the moment that was saved.
    pub frozen: Option<String>,
    /// Streams and files that are empty or much smaller than in the snapshot before this one.
    pub shrunk: Vec<Title>,
    /// Disks whose change map called unchanged what did change; they were read whole.
    pub belied: Vec<Title>,
    /// The manifest's word for how the sources were read.
    pub scan: String,
    /// Objects below `keys/` that were not there.
    pub lost_keys: Vec<LostKey>,
    /// What was done about the locks of the last clean snapshot, when this one is suspect.
    pub clean_locks: Option<CleanLocks>,
}

impl BackupReport {
    /// The manifest's word for what the sources did while they were read.
    pub(super) fn consistency(&self) -> Consistency {
        match self.fuzzy {
            _ if self.members.iter().any(|member| member.words.get("unreadable").is_some()) => {
                Consistency::Partial
            }
            true => Consistency::Fuzzy,
            false if self.frozen.is_some() => Consistency::Frozen,
            false => Consistency::Crash,
        }
    }
}
