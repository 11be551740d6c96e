//! Sessions whose log entry is lost, rotten or out of reach (FORMAT.md §7.2).
//!
//! What stood at a number the entries above it say: the one that follows on it by the hash of its bytes, others by its
//! session id. The outcome of that very session is an object of its own, signed by the same key. So a manifest or a commit
//! stands for its entry, and nothing is lost but the entry; an abort says that whatever stood there came to nothing.
//!
//! That holds only while nobody can make another entry at that number: whoever adds to the log above it fills it first. Of
//! the newest entry nothing above says what it was; there a signed outcome says it, and what fills the number says which.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sancerre_format::certificate::Signer;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Entry, Intent, Kind};
use sancerre_format::names::{self, Folder, ZoneKey};
use sancerre_format::outcome::{Abort, Body, Commit, Manifest};
use sancerre_format::record::{self, Fields, Record};
use sancerre_format::seal::{self, UnitKind, UnitName};

use super::decode::{Verified, family, forged};
use super::{Log, LogEntry, Outcome};
use crate::cache::{Read, Wanted};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::repository::Repository;
use sancerre_store::Put;

/// Numbers that are looked at: who signs entries can name as many as he likes, and each costs requests.
const LOST_MAX: usize = 256;
/// The same of numbers of which no entry says what stood there.
const UNSAID_MAX: usize = 16;
/// A generation that no zone has: it is not known which one it was.
pub(super) const GENERATION_UNKNOWN: u16 = 0;
/// Epochs count from 1.
const EPOCH_UNKNOWN: u16 = 0;
/// The hash of an entry whose bytes are not known.
pub const UNKNOWN: Hash = Hash([0; 32]);

/// How a filled number begins.
const FILLER: &[u8] = b"sancerre-lost-v1\n";

/// Why an entry is not what its signer wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nothing is at its key.
    Missing,
    /// Other bytes are.
    Rotten,
    /// What is there cannot be read.
    Unread,
}

/// What an outcome says of its session.
struct StandIn {
    entry: Verified<Box<Record<Entry>>>,
    outcome: Outcome,
}

/// What fills a number whose entry is lost: it does not verify, so it is void, and nobody can put anything else there.
pub fn filler(session: &SessionId) -> Bytes {
    [FILLER, format!("session: {session}\n").as_bytes()].concat().into()
}

impl Log {
    /// Looks for outcomes that stand for lost entries. What a listing left out is read by name first.
    ///
    /// Errors: the store's.
    pub(super) async fn stand_in(&mut self, repository: &Repository) -> Result<()> {
        self.distrust_revoked();
        loop {
            let (zone, before) = (&repository.keys.zone, self.lost());
            if before.is_empty() {
                return Ok(());
            }
            let missing = before.keys().filter(|number| !self.entries.contains_key(number));
            let by_name = missing.map(|number| Wanted::by_name(names::log(zone, *number))).collect();
            self.read_entries(repository, by_name, &Monitor::silent()).await?;
            let back = before.into_values().filter(|session| self.has(session)).collect();
            self.read_outcomes_of(repository, back).await?;
            // What the administrator gave up without knowing what it was stands where nothing is known.
            let both = |session: SessionId| [session, SessionId { intent: UNKNOWN, ..session }];
            let sessions: BTreeSet<SessionId> = self.lost().into_values().flat_map(both).collect();
            let wanted =
                sessions.iter().map(|session| Wanted::by_name(names::outcome(zone, session))).collect();
            let decode = |key: &str, bytes: &Bytes| decode(repository, key, bytes);
            let mut found = BTreeMap::new();
            // Ascending: what is known of a session comes after what is not.
            for Read { key, value, .. } in repository.read_all(wanted, &Monitor::silent(), decode).await? {
                // What stands there and says nothing certain is told as a key that belongs to nothing.
                if let (Ok(ZoneKey::Outcome(session)), Ok(stand_in)) = (ZoneKey::parse(zone, &key), value) {
                    self.unknown_keys.remove(&key);
                    found.insert(session.number, (session, stand_in));
                }
            }
            let is_done = found.is_empty();
            for (session, stand_in) in found.into_values() {
                self.insert_lost(repository, session, stand_in);
            }
            self.distrust_revoked();
            if is_done {
                return Ok(());
            }
        }
    }

    fn insert_lost(&mut self, repository: &Repository, session: SessionId, stand_in: StandIn) {
        let key = names::log(&repository.keys.zone, session.number);
        let why = match self.entries.contains_key(&session.number) {
            false => Lost::Missing,
            true if self.unread.iter().any(|unread| unread.key == key) => Lost::Unread,
            true => Lost::Rotten,
        };
        let StandIn { entry, outcome } = stand_in;
        let (revoked, void_by, opaque_by, lost) = (None, None, None, Some(why));
        let entry = LogEntry { session, entry, revoked, void_by, opaque_by, outcome, lost };
        self.entries.insert(session.number, entry);
    }

    /// The sessions that stood at numbers whose entry is not what it was, by what the entries above say. What the entry
    /// just above says counts first: it has read the bytes.
    fn lost(&self) -> BTreeMap<u64, SessionId> {
        let mut lost = BTreeMap::new();
        let mut add = |session: SessionId| {
            if lost.len() < LOST_MAX && self.is_lost(&session) {
                lost.entry(session.number).or_insert(session);
            }
        };
        for entry in self.valid() {
            let below = entry.fields.number.checked_sub(1);
            let previous = below.zip(entry.fields.previous);
            previous.map(|(number, intent)| SessionId { number, intent }).into_iter().for_each(&mut add);
        }
        let named = self.valid().filter_map(|entry| match &entry.fields.kind {
            Kind::Backup(intent) => Some((entry.fields.number, &intent.parents)),
            _ => None,
        });
        let seen =
            self.entries.values().filter_map(|entry| Some((entry.session.number, &entry.commit()?.1.seen)));
        for (number, sessions) in named.chain(seen) {
            sessions.iter().filter(|session| session.number < number).copied().for_each(&mut add);
        }
        self.said_alone().for_each(&mut add);
        // Of whose bytes nobody says anything: only the administrator can say that they came to nothing.
        let unsaid = self.unsaid_numbers().chain(self.missing().take(UNSAID_MAX)).collect::<BTreeSet<_>>();
        unsaid.into_iter().map(|number| SessionId { number, intent: UNKNOWN }).for_each(&mut add);
        lost
    }

    /// Sessions of which no entry says that they were, but their own signed outcome does. That counts at the highest number
    /// and above, where nobody could have said it, and where a number was filled because of it: anywhere else it could be
    /// slipped in below what others built on. For whom the highest number is filled, no other counts there: whoever goes on
    /// above the filler says that it was this one.
    fn said_alone(&self) -> impl Iterator<Item = SessionId> + '_ {
        let highest = self.highest();
        let filled_for = |session: &SessionId| {
            self.entries.get(&session.number).is_some_and(|entry| is_filled_for(entry, session))
        };
        let is_free = !self.alone.iter().any(|session| session.number == highest && filled_for(session));
        let is_said = move |session: &&SessionId| match self.entries.get(&session.number) {
            None => session.number > highest,
            Some(entry) => session.number == highest && is_free || is_filled_for(entry, session),
        };
        self.alone.iter().filter(is_said).copied()
    }

    /// Numbers whose entry cannot be read, or that were filled without knowing what stood there.
    fn unsaid_numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let void = self.entries.values().filter(|entry| entry.entry.is_err());
        let is_unsaid = |session: &SessionId| {
            let filled = filler(&SessionId { intent: UNKNOWN, ..*session });
            session.intent == UNKNOWN || session.intent == Hash::of(&filled)
        };
        void.map(|entry| entry.session).filter(is_unsaid).map(|session| session.number)
    }

    /// Whether this session stood at its number, and something else or nothing does now. Of bytes that are as they were and
    /// do not verify nothing was lost.
    fn is_lost(&self, session: &SessionId) -> bool {
        if session.number < self.start() {
            return false;
        }
        self.entries.get(&session.number).is_none_or(|entry| {
            let is_void = entry.entry.is_err() && entry.revoked.is_none() && entry.opaque_by.is_none();
            let is_other = entry.session != *session || session.intent == UNKNOWN;
            is_void && entry.lost.is_none() && is_other
        })
    }

    /// Fills the numbers below `end` at which nothing is, and whose sessions stand by their outcomes: from then on nobody can
    /// put an entry there.
    ///
    /// Errors: [`Error::Refused`] when somebody put something there meanwhile; the store's.
    pub async fn fill_lost(&self, repository: &Repository, end: u64) -> Result<()> {
        let missing = self.entries.range(..end).filter(|(_, entry)| entry.lost == Some(Lost::Missing));
        let missing: Vec<_> = missing.collect();
        // On a disk a folder of that name keeps others from the number as well.
        let folders = match missing.is_empty() || repository.store.is_remote() {
            true => Vec::new(),
            false => repository.store.folders(&repository.folder(Folder::Log)).await?,
        };
        for (number, entry) in missing {
            if folders.contains(&format!("{number:016x}")) {
                continue;
            }
            let (key, filler) = (names::log(&repository.keys.zone, *number), filler(&entry.session));
            match repository.store.put_new(&key, filler.clone()).await {
                Ok(Put::Occupied(found)) if found != filler => {
                    return Err(Error::Refused(format!(
                        "log entry {number} was missing, and is there again; nothing was done. Run the command again"
                    )));
                }
                Ok(_) => {}
                // A link that leads nowhere, or what else cannot be read: it does so too.
                Err(_) if repository.store.get(&key).await.is_err() && repository.store.works().await => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sessions whose log entry is lost, and why, ascending.
    pub fn lost_entries(&self) -> impl Iterator<Item = (SessionId, Lost)> {
        self.entries.values().filter_map(|entry| Some((entry.session, entry.lost?)))
    }

    /// What the entries above say that stood at a number.
    pub fn said_of(&self, number: u64) -> Option<SessionId> {
        self.lost().remove(&number)
    }

    /// Numbers of which nobody knows what stood there: entries that do not verify or are not there, and nothing stands for
    /// them.
    pub fn void_sessions(&self) -> BTreeSet<u64> {
        let is_void = |entry: &&LogEntry| entry.announced().is_none() && entry.opaque_by.is_none();
        let void = self.entries.values().filter(is_void).map(|entry| entry.session.number);
        void.chain(self.missing().take(UNSAID_MAX)).collect()
    }

    /// The highest number at which something was given up of which nothing is known: it may have been a gc that deletes
    /// packs of the sessions below it.
    pub(super) fn doubtful_below(&self, number: u64) -> Option<u64> {
        let mut below = self.entries.range(..number).rev();
        let is_doubtful = |entry: &LogEntry| entry.lost.is_some() && entry.session.intent == UNKNOWN;
        below.find(|(_, entry)| is_doubtful(entry)).map(|(number, _)| *number)
    }
}

/// Whether what is at a number was put there because this session's outcome stands.
pub(super) fn is_filled_for(entry: &LogEntry, session: &SessionId) -> bool {
    entry.session.intent == Hash::of(&filler(session))
}

/// Whether an outcome could stand for its entry, by itself alone.
///
/// Errors: what is wrong with it.
pub(super) fn verify(repository: &Repository, key: &str, bytes: &[u8]) -> Verified<()> {
    decode(repository, key, bytes).map(drop)
}

fn decode(repository: &Repository, key: &str, bytes: &[u8]) -> Verified<StandIn> {
    let (trust, zone) = (&repository.keys.trust, &repository.keys.zone);
    let ZoneKey::Outcome(session) = ZoneKey::parse(zone, key)? else {
        return Err(forged("outcome", "its key is another object's"));
    };
    let is_here = |of: SessionId, in_zone: &names::Zone| match of == session && in_zone == zone {
        true => Ok(()),
        false => Err(forged("outcome", "it was made for another place")),
    };
    match family(bytes) {
        Some("manifest") => {
            let manifest = record::decode::<Manifest>(trust, bytes)?;
            is_here(manifest.fields.session, &manifest.fields.zone)?;
            of_manifest(repository, manifest)
        }
        Some("commit") => {
            let commit = record::decode::<Commit>(trust, bytes)?;
            is_here(commit.fields.session, &commit.fields.zone)?;
            of_commit(commit)
        }
        _ => {
            let abort = record::decode::<Abort>(trust, bytes)?;
            is_here(abort.fields.session, &abort.fields.zone)?;
            if session.intent == UNKNOWN && abort.signer != Signer::Admin {
                return Err(forged(
                    Abort::KIND,
                    "only the administrator gives up an entry of which nothing is known",
                ));
            }
            let entry = Err(forged(Entry::KIND, "it is lost, and came to nothing"));
            Ok(StandIn { entry, outcome: Outcome::Abort(Box::new(abort)) })
        }
    }
}

fn of_manifest(repository: &Repository, manifest: Record<Manifest>) -> Verified<StandIn> {
    let of = &manifest.fields;
    if !manifest.signer.is_valid_at(of.started) {
        return Err(forged(Manifest::KIND, "its signer's certificate had expired"));
    }
    let intent = Intent {
        vm: of.vm.clone(),
        machine: of.machine,
        generation: generation(repository, &manifest),
        epoch: EPOCH_UNKNOWN,
        commitment: UNKNOWN,
        parents: of.parents.clone(),
    };
    let entry = Entry {
        repository: of.repository,
        zone: of.zone.clone(),
        number: of.session.number,
        by: of.by.clone(),
        time: of.started,
        previous: None,
        checkpoint: None,
        kind: Kind::Backup(intent),
    };
    let entry = Record::implied(entry, &manifest, of.session.intent, None);
    Ok(StandIn { entry: Ok(Box::new(entry)), outcome: Outcome::Manifest(Box::new(manifest)) })
}

/// The generation of the keys at hand that opens the body; which one it was, nothing else says.
fn generation(repository: &Repository, manifest: &Record<Manifest>) -> u16 {
    let session = manifest.fields.session;
    let name = UnitName { kind: UnitKind::Body, session, a: 0, b: 0 };
    let opens = |generation: &u16| {
        let root = repository.keys.metadata_root_in(&session, Some(*generation));
        let raw = root
            .ok()
            .zip(manifest.sealed().ok())
            .and_then(|(root, sealed)| seal::open(&root, &name, sealed).ok());
        raw.is_some_and(|raw| Body::decode(&raw).is_ok())
    };
    repository.keys.generations().into_iter().find(opens).unwrap_or(GENERATION_UNKNOWN)
}

/// What it proposed is not known any more: at least what it burnt.
fn of_commit(commit: Record<Commit>) -> Verified<StandIn> {
    let of = &commit.fields;
    if !commit.signer.is_valid_at(of.time) {
        return Err(forged(Commit::KIND, "its signer's certificate had expired"));
    }
    let lists = GcLists::decode(commit.public()?, of.session.number)?;
    let proposal = GcLists { dead: FrameSet::clone(&lists.dead), ..GcLists::default() }.encode()?;
    let entry = Entry {
        repository: of.repository,
        zone: of.zone.clone(),
        number: of.session.number,
        by: of.by.clone(),
        time: of.time,
        previous: None,
        checkpoint: None,
        kind: Kind::Gc { generation: GENERATION_UNKNOWN },
    };
    let entry = Record::implied(entry, &commit, of.session.intent, Some(proposal));
    let outcome = Outcome::Commit(Box::new(commit), Box::new(lists));
    Ok(StandIn { entry: Ok(Box::new(entry)), outcome })
}
