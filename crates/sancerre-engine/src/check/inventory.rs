//! Which packs there should be and which there are: signed lists against the store's listing.

use std::collections::{BTreeMap, BTreeSet};

use sancerre_format::id::{FramePlace, PackName, SessionId};
use sancerre_format::names::{self, Folder, Zone, ZoneKey};
use sancerre_format::pack::PackKind;

use super::report::Severity;
use crate::error::Result;
use crate::repository::Repository;
use crate::repository::catalogue::{BadList, Catalogue, Present};
use crate::repository::log::{Log, Moves};
use crate::repository::unlisted;

/// Why a pack cannot be used, and which object is to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) object: String,
    pub(super) severity: Severity,
    pub(super) problem: String,
}

/// What stands for a lost list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instead {
    /// A list that the administrator signed.
    MadeAnew,
    /// So many packs that snapshots need were found by the store's listing.
    Found(usize),
    /// Nothing that a snapshot needs.
    Nothing,
}

/// Pack lists, and what the store has.
pub(super) struct Inventory {
    pub(super) catalogue: Catalogue,
    pub(super) present: Present,
    pub(super) moves: Moves,
    pub(super) bad_lists: Vec<BadList>,
    /// Lists that are not there, by session: the manifest says how many there must be.
    missing_lists: BTreeMap<u64, String>,
}

/// Takes the inventory, and the log that it fits: a gc that ended meanwhile may have moved and deleted what `log` names.
pub(super) async fn take(repository: &Repository, log: &Log) -> Result<(Log, Inventory)> {
    let mut log = log.clone();
    loop {
        let inventory = Inventory::load(repository, &log).await?;
        let mut newer = log.clone();
        newer.refresh(repository).await?;
        if newer.collectors().eq(log.collectors()) {
            return Ok((log, inventory));
        }
        log = newer;
    }
}

impl Inventory {
    async fn load(repository: &Repository, log: &Log) -> Result<Self> {
        let (mut catalogue, bad_lists) = Catalogue::load_all(repository, log).await?;
        let present = Present::load(repository).await?;
        let missing_lists = missing_lists(repository, log).await?;
        let moves = Moves::claimed(log);
        let mut needed = BTreeSet::new();
        for snapshot in log.snapshots() {
            // A set that cannot be read is told with its snapshot.
            needed.extend(moves.packs(&snapshot.uses().unwrap_or_default()));
        }
        needed.retain(|pack| catalogue.pack(*pack).is_none());
        catalogue.add_missing(unlisted::find(repository, log, &present, &needed).await?);
        Ok(Self { catalogue, present, moves, bad_lists, missing_lists })
    }

    /// The keys of lists that manifests count and the store does not have, by session.
    pub(super) fn missing_lists(&self) -> impl Iterator<Item = (u64, &String)> {
        self.missing_lists.iter().map(|(session, key)| (*session, key))
    }

    /// The sessions of which a list is lost and was not made anew.
    pub(super) fn lost_lists<'a>(&'a self, zone: &'a Zone) -> impl Iterator<Item = u64> + 'a {
        let bad = self.bad_lists.iter().filter_map(|bad| match ZoneKey::parse(zone, &bad.key) {
            Ok(ZoneKey::List(session, _)) => Some(session.number),
            _ => None,
        });
        let lost = bad.chain(self.missing_lists.keys().copied());
        lost.filter(|session| !self.catalogue.is_made_anew(*session))
    }

    /// What a list of this session costs that is lost: what was made of it since, in words.
    pub(super) fn instead_of_list(&self, session: u64) -> Instead {
        if self.catalogue.is_made_anew(session) {
            return Instead::MadeAnew;
        }
        match self.catalogue.unlisted().iter().filter(|pack| pack.session == session).count() {
            0 => Instead::Nothing,
            packs => Instead::Found(packs),
        }
    }

    /// Why a pack is not there as its session listed it; none when it is.
    pub(super) fn fault(&self, repository: &Repository, pack: PackName) -> Option<Fault> {
        let zone = &repository.keys.zone;
        let Some(listed) = self.catalogue.pack(pack) else { return Some(self.unlisted(repository, pack)) };
        if self.present.has(pack, listed) {
            return None;
        }
        let object = names::pack(zone, pack, &listed.hash);
        let found = self.present.found(pack).iter().find(|(hash, _)| *hash == listed.hash);
        Some(match found {
            None => Fault { object, severity: Severity::Missing, problem: "it is missing".into() },
            Some((_, size_bytes)) => Fault {
                object,
                severity: Severity::Damaged,
                problem: format!("it has {size_bytes} bytes instead of {}", listed.size_bytes),
            },
        })
    }

    /// The list that should name the pack is to blame.
    fn unlisted(&self, repository: &Repository, pack: PackName) -> Fault {
        let zone = &repository.keys.zone;
        let is_its = |key: &str| matches!(ZoneKey::parse(zone, key), Ok(ZoneKey::List(session, _)) if session.number == pack.session);
        if let Some(bad) = self.bad_lists.iter().find(|bad| is_its(&bad.key)) {
            let object = bad.key.clone();
            return Fault { object, severity: Severity::of(&bad.error), problem: bad.error.to_string() };
        }
        let problem = "it is missing: packs that only it names cannot be found".to_owned();
        match self.missing_lists.get(&pack.session) {
            Some(key) => Fault { object: key.clone(), severity: Severity::Missing, problem },
            None => Fault {
                object: names::folder(zone, Folder::Lists),
                severity: Severity::Missing,
                problem: format!("no pack list names pack {pack}"),
            },
        }
    }

    /// Why a frame cannot lie where a map says, although its pack is there.
    pub(super) fn misplaced(&self, place: &FramePlace, metadata: bool) -> Option<String> {
        let pack = self.moves.pack(&place.frame);
        let listed = self.catalogue.pack(pack)?;
        // What a map says of the pack speaks of the first one; where it was moved the directory tells.
        let first = pack == place.frame.pack;
        let end = u64::from(place.offset_bytes).saturating_add(u64::from(place.sealed_bytes));
        let expected = if metadata { PackKind::Metadata } else { PackKind::Data };
        let wrong = if listed.kind != expected {
            "is of another kind"
        } else if first && (place.frame.index >= listed.frames || end > listed.size_bytes) {
            "lies outside its pack"
        } else {
            return None;
        };
        Some(format!("a map in it names frame {}, which {wrong}", place.frame))
    }
}

/// The first list of each session that its manifest counts and the store does not have.
pub(crate) async fn missing_lists(repository: &Repository, log: &Log) -> Result<BTreeMap<u64, String>> {
    let zone = &repository.keys.zone;
    let listed = repository.list(Folder::Lists).await?;
    let mut found: BTreeMap<SessionId, Vec<u32>> = BTreeMap::new();
    for listed in listed {
        if let Ok(ZoneKey::List(session, sequence)) = ZoneKey::parse(zone, &listed.key) {
            found.entry(session).or_default().push(sequence);
        }
    }
    let mut missing = BTreeMap::new();
    // Those of a session whose snapshot is gone may be gone too.
    for snapshot in log.remaining_below(Log::END) {
        let (manifest, session) = (snapshot.manifest, &snapshot.session());
        let there = found.get(session).map_or(&[][..], Vec::as_slice);
        // Counted up to one more than there are: a claim of a billion lists costs nothing.
        if let Some(sequence) = (0..manifest.fields.lists).find(|sequence| !there.contains(sequence)) {
            missing.insert(session.number, names::list(zone, session, sequence));
        }
    }
    Ok(missing)
}
