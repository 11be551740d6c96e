//! The rules of the protocol (docs/decisions/0001-commit-protocol.md) over everything that happened in the store, read
//! from the records alone: nothing of the engine decides here what is right.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FrameName, Hash, PackName, SessionId};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::ZoneKey;
use sancerre_format::outcome::{Abort, Commit, Manifest};
use sancerre_format::record::{self, Fields, Record};
use sancerre_tests::ledger::Event;
use sancerre_tests::repo::{TestRepo, zone};

/// Fails when an event broke a rule. `junk` are the keys of objects that an attacker made.
pub(super) fn judge(repo: &TestRepo, junk: &[String]) {
    let mut court = Court::new(repo);
    let mut junk: BTreeSet<&str> = junk.iter().map(String::as_str).collect();
    for event in repo.ledger.events() {
        match &event {
            Event::Created(key, _) if junk.contains(key.as_str()) => court.junk(key),
            // Swept away: what is there later is somebody else's.
            Event::Deleted(key) if junk.remove(key.as_str()) => {}
            Event::Created(key, bytes) => court.created(key, bytes),
            Event::Deleted(key) => court.deleted(key),
            Event::Overwritten(key) => court.overwritten(key),
        }
    }
}

struct Court<'a> {
    repo: &'a TestRepo,
    /// Log numbers that are taken, by whatever.
    taken: BTreeSet<u64>,
    /// Entries that may own objects.
    owners: BTreeSet<u64>,
    /// Those that need an outcome.
    sessions: BTreeMap<u64, SessionId>,
    decided: BTreeSet<SessionId>,
    proposals: BTreeMap<u64, FrameSet>,
    commits: BTreeMap<u64, GcLists>,
    aborted: BTreeSet<u64>,
    manifests: BTreeMap<SessionId, FrameSet>,
    given_up: BTreeSet<SessionId>,
    packs: BTreeMap<PackName, BTreeSet<Hash>>,
}

impl<'a> Court<'a> {
    fn new(repo: &'a TestRepo) -> Self {
        Self {
            repo,
            taken: BTreeSet::new(),
            owners: BTreeSet::new(),
            sessions: BTreeMap::new(),
            decided: BTreeSet::new(),
            proposals: BTreeMap::new(),
            commits: BTreeMap::new(),
            aborted: BTreeSet::new(),
            manifests: BTreeMap::new(),
            given_up: BTreeSet::new(),
            packs: BTreeMap::new(),
        }
    }

    fn read<F: Fields>(&self, bytes: &[u8]) -> Option<Record<F>> {
        record::decode(&self.repo.open.keys.trust, bytes).ok()
    }

    fn created(&mut self, key: &str, bytes: &Bytes) {
        match ZoneKey::parse(&zone(), key) {
            Ok(ZoneKey::Log(number)) => self.announced(number, bytes),
            Ok(ZoneKey::Outcome(session)) => self.ended(session, bytes),
            Ok(ZoneKey::Pack(pack, hash)) => {
                self.is_announced(pack.session, key);
                self.packs.entry(pack).or_default().insert(hash);
            }
            Ok(ZoneKey::List(session, _) | ZoneKey::Index(session, _)) => {
                self.is_announced(session.number, key);
            }
            // Of what lies below it, which was judged.
            Ok(ZoneKey::Checkpoint(upto)) => {
                assert!(self.commits.contains_key(&(upto - 1)), "{key} without its gc")
            }
            // Keys and configuration, from before the first session.
            Err(_) => {}
        }
    }

    /// W1, G2: before anything else of a session, and numbers leave no hole.
    fn announced(&mut self, number: u64, bytes: &Bytes) {
        assert!(number == 1 || self.taken.contains(&(number - 1)), "log {number} leaves a hole");
        self.taken.insert(number);
        let Some(entry) = self.read::<Entry>(bytes).filter(|entry| entry.fields.number == number) else {
            panic!("log {number} does not verify")
        };
        if matches!(entry.fields.kind, Kind::Backup(_) | Kind::Gc { .. } | Kind::Index) {
            self.owners.insert(number);
        }
        if entry.fields.kind.needs_outcome() {
            self.sessions.insert(number, SessionId { number, intent: Hash::of(bytes) });
        }
        if matches!(entry.fields.kind, Kind::Gc { .. }) {
            self.proposals.insert(number, GcLists::decode(entry.public().unwrap(), number).unwrap().dead);
        }
    }

    fn is_announced(&self, session: u64, key: &str) {
        assert!(self.owners.contains(&session), "{key} is there before its session");
    }

    fn ended(&mut self, session: SessionId, bytes: &Bytes) {
        assert_eq!(self.sessions.get(&session.number), Some(&session), "an outcome of no session");
        assert!(self.decided.insert(session), "{session} ended twice");
        if let Some(manifest) = self.read::<Manifest>(bytes) {
            self.saved(session, FrameSet::decode(manifest.public().unwrap(), session.number).unwrap());
        } else if let Some(commit) = self.read::<Commit>(bytes) {
            self.collected(session, GcLists::decode(commit.public().unwrap(), session.number).unwrap());
        } else {
            assert!(self.read::<Abort>(bytes).is_some(), "the outcome of {session} is nothing that is known");
            self.aborted.insert(session.number);
        }
    }

    /// I4 and I6: what a snapshot needs is stored before it is one, and nothing that a lower collection that is not
    /// aborted has announced.
    fn saved(&mut self, session: SessionId, uses: FrameSet) {
        let packs: BTreeSet<PackName> =
            uses.frames().map(|frame| self.lies(&frame, session.number)).collect();
        for pack in packs {
            assert!(self.packs.contains_key(&pack), "{session} needs {pack:?}, which is not stored");
            let announced = self.proposals.range(..session.number).find(|(gc, dead)| {
                !self.aborted.contains(gc) && !self.commits.contains_key(gc) && dead.contains_pack(&pack)
            });
            assert_eq!(announced.map(|(gc, _)| gc), None, "{session} uses {pack:?}, which a gc announced");
            let burnt =
                self.commits.range(..session.number).find(|(_, lists)| lists.dead.contains_pack(&pack));
            assert_eq!(burnt.map(|(gc, _)| gc), None, "{session} uses {pack:?}, which a gc gave up");
        }
        self.manifests.insert(session, uses);
    }

    /// The pack in which the commits below a number leave a frame.
    fn lies(&self, frame: &FrameName, below: u64) -> PackName {
        let moves = self.commits.range(..below).flat_map(|(gc, lists)| {
            lists
                .moves
                .iter()
                .map(move |(ordinal, frames)| (PackName { session: *gc, ordinal: *ordinal }, frames))
        });
        moves.rev().find(|(_, frames)| frames.contains(frame)).map_or(frame.pack, |(pack, _)| pack)
    }

    /// G4 and I3: everything below is decided, and no live snapshot needs what goes.
    fn collected(&mut self, gc: SessionId, lists: GcLists) {
        let open = self.sessions.range(..gc.number).find(|(_, session)| !self.decided.contains(session));
        assert_eq!(open, None, "gc {} was final before a lower session", gc.number);
        let proposed = &self.proposals[&gc.number];
        for pack in lists.dead.packs() {
            assert!(proposed.contains_pack(&pack), "{pack:?} was never announced");
        }
        for ordinal in lists.moves.keys() {
            let pack = PackName { session: gc.number, ordinal: *ordinal };
            assert!(self.packs.contains_key(&pack), "gc {} moves frames to nowhere", gc.number);
        }
        let is_moved = |frame: &FrameName| lists.moves.values().any(|frames| frames.contains(frame));
        self.given_up.extend(lists.forgotten.iter().copied());
        let kept = self.manifests.iter().filter(|(snapshot, _)| snapshot.number < gc.number);
        let kept = kept.filter(|(snapshot, _)| !self.given_up.contains(snapshot));
        for frame in kept.flat_map(|(_, uses)| uses.frames()) {
            let goes = lists.dead.contains_pack(&self.lies(&frame, gc.number));
            assert!(!goes || is_moved(&frame), "gc {} gives up {frame}, which is needed", gc.number);
        }
        self.commits.insert(gc.number, lists);
    }

    /// I2: nothing but packs, from final lists alone. (Index segments go when the simulation loses them.)
    fn deleted(&mut self, key: &str) {
        match ZoneKey::parse(&zone(), key) {
            Ok(ZoneKey::Pack(pack, hash)) => {
                let is_final = self.commits.values().any(|lists| lists.dead.contains_pack(&pack));
                assert!(is_final, "{key} was deleted, and no final list has it");
                self.packs.entry(pack).or_default().remove(&hash);
                self.packs.retain(|_, hashes| !hashes.is_empty());
            }
            // What is derived, or names nothing that is there.
            Ok(ZoneKey::Index(..)) => {}
            Ok(ZoneKey::Checkpoint(upto)) => {
                let newer = self.commits.range(upto..).next();
                assert!(newer.is_some(), "{key} was deleted, and there is no newer one");
            }
            Ok(ZoneKey::List(session, _)) => {
                let left = self.packs.keys().find(|pack| pack.session == session.number);
                assert!(left.is_none(), "{key} was deleted, and names {left:?}");
                let may_be_had = self.manifests.contains_key(&session) && !self.given_up.contains(&session);
                assert!(!may_be_had, "{key} was deleted, and its snapshot may be had");
            }
            _ => panic!("{key} was deleted"),
        }
    }

    /// Tests sign what no command writes, and put it at the next number.
    fn overwritten(&mut self, key: &str) {
        match ZoneKey::parse(&zone(), key) {
            Ok(ZoneKey::Log(number)) => assert!(self.taken.insert(number), "{key} was overwritten"),
            _ => panic!("{key} was overwritten"),
        }
    }

    fn junk(&mut self, key: &str) {
        if let Ok(ZoneKey::Log(number)) = ZoneKey::parse(&zone(), key) {
            self.taken.insert(number);
        }
    }
}
