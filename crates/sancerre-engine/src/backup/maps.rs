//! Change maps that come with a backup: since which snapshot they are, and for which disks they can be used.
//!
//! A map says what changed since *a moment*. Taken for one of another moment it would leave out what changed between the
//! two, so the snapshot of that moment is always named, by the map or by the user, and never guessed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sancerre_advice::Setting::ChangedSince;
use sancerre_advice::Verb::Snapshots;
use sancerre_format::id::SessionId;
use sancerre_format::names::Title;
use sancerre_format::outcome::{Chunking, Member, MemberKind};
use sancerre_image::change_map::ChangeMap;

use super::doubt::GivenUp;
use super::hinted::Hinted;
use super::options::{Allow, BackupOptions, BackupSource, Input};
use super::upload::Uploader;
use super::{Base, Run};
use crate::dedup::Speaker;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Topic, add};
use crate::repository::Repository;
use crate::repository::log::{Log, Snapshot};
use crate::select::{Selector, Which};

/// A change map, and the disk that it is of.
pub struct Hint {
    /// The disk's name in the VM.
    pub disk: Title,
    /// What changed on it.
    pub map: ChangeMap,
}

/// The change maps of a backup.
#[derive(Default)]
pub struct Maps {
    given: Vec<Hint>,
    since: Option<Selector>,
    verify_millionths: u32,
    base: Option<SessionId>,
}

impl Maps {
    /// Maps, the snapshot since which they are where they do not say it themselves, and how much of what they call
    /// unchanged is read and compared all the same, in millionths.
    pub fn new(given: Vec<Hint>, since: Option<Selector>, verify_millionths: u32) -> Self {
        Self { given, since, verify_millionths, base: None }
    }

    /// The snapshot since which they are.
    pub(super) fn base(&self) -> Option<SessionId> {
        self.base
    }

    pub(super) fn verify_millionths(&self) -> u32 {
        self.verify_millionths
    }

    fn take(&mut self, disk: &Title) -> Option<ChangeMap> {
        let at = self.given.iter().position(|hint| hint.disk == *disk)?;
        Some(self.given.swap_remove(at).map)
    }
}

/// Finds the snapshot that the maps are of. One that is not there any more costs the maps, and is said.
///
/// Errors: [`Error::Usage`] for a map of an unknown moment, for maps of several, and for the snapshot of another machine.
pub(super) fn resolve(
    repository: &Repository,
    log: &Log,
    options: &mut BackupOptions,
    monitor: &Monitor,
) -> Result<()> {
    let mut maps = std::mem::take(&mut options.maps);
    let mut found = match &maps.since {
        Some(Selector { member: Some(disk), .. }) => {
            return Err(Error::Usage(format!("a map is of a whole snapshot; leave :{disk} out")));
        }
        Some(since) if !maps.given.is_empty() => Some(since.resolve(repository, log)?),
        _ => None,
    };
    for Hint { disk, map } in &maps.given {
        let base = match map.base() {
            Some(base) => match by_id(repository, log, base) {
                Ok(base) => Some(base),
                Err(error) => {
                    monitor.warn(Topic::Hint, format!(
                        "the change map of {disk} is since snapshot {base}, which cannot be used, so all disks are read whole: {error}"
                    ));
                    return Ok(());
                }
            },
            None => found,
        };
        let Some(base) = base else {
            return Err(Error::Usage(format!(
                "the change map of {disk} does not say since when; give {ChangedSince} with the snapshot that it is of. \
                 A map of another moment would lose what changed in between"
            )));
        };
        if found.is_some_and(|found| found != base) {
            return Err(Error::Usage(format!(
                "the change map of {disk} is since another snapshot than was named; back the disks up with maps of one moment"
            )));
        }
        found = Some(base);
    }
    if let Some(found) = found {
        of_machine(log, found, options)?;
    }
    maps.base = found;
    options.maps = maps;
    Ok(())
}

fn by_id(repository: &Repository, log: &Log, id: &str) -> Result<SessionId> {
    Selector { snapshot: Which::Id(id.to_ascii_lowercase()), member: None }.resolve(repository, log)
}

/// The live snapshots of the machine that is backed up, in the order of the log.
pub(super) fn snapshots_of(log: &Log, options: &BackupOptions) -> Vec<SessionId> {
    let is_of = |snapshot: &Snapshot<'_>| {
        let fields = &snapshot.manifest.fields;
        fields.vm == *options.public_name() || (fields.machine.is_some() && fields.machine == options.machine)
    };
    log.snapshots().into_iter().filter(is_of).map(|snapshot| snapshot.session()).collect()
}

fn of_machine(log: &Log, base: SessionId, options: &BackupOptions) -> Result<()> {
    match snapshots_of(log, options).contains(&base) {
        true => Ok(()),
        false => Err(Error::Usage(format!(
            "the change map is since snapshot {}, which is none of this machine; see {Snapshots}",
            base.intent
        ))),
    }
}

impl Run {
    /// Backs up one source and adds it to the snapshot: by its change map if it has one and that is true, else whole.
    pub(super) async fn member(
        &mut self,
        source: BackupSource,
        allow: Allow,
        mut uploader: Option<&mut Uploader>,
    ) -> Result<()> {
        if let (Some(hinted), Some(disk)) = (self.hinted(&source)?.map(Arc::new), source.disk()) {
            let BackupSource { name, kind, least_bytes, .. } = &source;
            let (name, kind, size_bytes) = (name.clone(), kind.clone(), disk.size_bytes());
            let by_map = BackupSource { name, kind, input: Input::Disk(disk), least_bytes: *least_bytes };
            let how = Some(Arc::clone(&hinted));
            let attempt = self.attempt(by_map, allow, uploader.as_deref_mut(), how).await;
            match (attempt, hinted.doubt.given_up()) {
                (Ok(()), _) => {
                    self.hinted.push(hinted);
                    return Ok(());
                }
                (Err(error), None) => return Err(error),
                (Err(_), Some(given_up)) => self.give_up(&source.name, size_bytes, &given_up),
            }
        }
        self.attempt(source, allow, uploader, None).await
    }

    fn give_up(&mut self, disk: &Title, size_bytes: u64, given_up: &GivenUp) {
        let GivenUp { why, is_lie } = given_up;
        let advice = match is_lie {
            true => {
                "; nothing that is saved now comes from it, but what it hid in earlier snapshots is hidden there still: see \
                     what made the map"
            }
            false => "",
        };
        let monitor = &self.shared.monitor;
        monitor.warn(
            Topic::Hint,
            format!("all of {disk} is read, for its change map cannot be used: {why}{advice}"),
        );
        add(&monitor.counters.total_bytes, size_bytes);
        if *is_lie {
            self.belied.push(disk.clone());
        }
    }

    /// The manifest's word for disks that were read by a change map; none where none was.
    pub(super) fn scan_by_map(&self) -> Option<String> {
        let base = self.maps.base().filter(|_| !self.hinted.is_empty())?;
        let sources: BTreeSet<&str> = self.hinted.iter().map(|hinted| hinted.source()).collect();
        let sources: Vec<&str> = sources.into_iter().collect();
        let sum = |of: fn(&Hinted) -> &AtomicU64| -> u64 {
            self.hinted.iter().map(|hinted| of(hinted).load(Ordering::Relaxed)).sum()
        };
        let (sampled, taken) =
            (sum(|hinted| &hinted.doubt.sampled_bytes), sum(|hinted| &hinted.doubt.taken_bytes));
        Some(format!("map {} {base} {sampled} {taken}", sources.join("+")))
    }

    /// What is read of a disk that has a change map; none when it is read whole, which is said.
    pub(super) fn hinted(&mut self, source: &BackupSource) -> Result<Option<Hinted>> {
        let Some(map) = self.maps.take(&source.name) else { return Ok(None) };
        match self.fits(source, &map) {
            Ok(member) => {
                let seed = u64::from_le_bytes(self.repository.host.random());
                Hinted::new(member, map, self.maps.verify_millionths(), seed).map(Some)
            }
            Err(why) => {
                self.shared.monitor.warn(
                    Topic::Hint,
                    format!("all of {} is read, for its change map cannot be used: {why}", source.name),
                );
                Ok(None)
            }
        }
    }

    /// The disk in the snapshot that the map is of. Errors: why what is in there cannot be taken over.
    fn fits(&self, source: &BackupSource, map: &ChangeMap) -> std::result::Result<&Member, String> {
        let told = |why: &str| Err(why.to_owned());
        let Some(base) = self.base.as_ref().filter(|base| Some(base.session) == self.maps.base()) else {
            return told("its snapshot cannot be built on");
        };
        let Some(disk) = source.disk().filter(|_| source.kind == MemberKind::Disk) else {
            return told("it is no disk");
        };
        let Base { speaker: Speaker::Own, body, .. } = base else {
            return told("another writer made its snapshot, whose word on unread data is not taken");
        };
        let is_it = |member: &&Member| member.name == source.name && member.kind == source.kind;
        let Some(member) = body.members.iter().find(is_it) else {
            return told("its snapshot has no such disk");
        };
        let size_bytes = disk.size_bytes();
        match () {
            () if member.size_bytes != size_bytes || map.disk_bytes() != size_bytes => {
                Err(format!("the disk has {size_bytes} bytes, and had {} then", member.size_bytes))
            }
            () if member.chunking != Chunking::Disk => told("it was cut by another rule then"),
            () if member.fuzzy => {
                told("it changed while it was read then, so nobody knows of which moment it is")
            }
            () => Ok(member),
        }
    }
}
