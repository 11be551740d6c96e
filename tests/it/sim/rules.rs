//! The rules of the protocol (docs/decisions/0001-commit-protocol.md) over everything that happened in the store, read
//! from the records alone: nothing of the engine decides here what is right.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sancerre_engine::repository::log::UNKNOWN;
use sancerre_format::certificate::Signer;
use sancerre_format::checkpoint::Checkpoint;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FrameName, Hash, PackName, SessionId};
use sancerre_format::log::{Distrust, Entry, Kind};
use sancerre_format::names::{Name, Title, ZoneKey};
use sancerre_format::outcome::{Abort, Commit, Manifest};
use sancerre_format::pack::Pack;
use sancerre_format::record::{self, Fields, Record};
use sancerre_tests::ledger::Event;
use sancerre_tests::repo::{TestRepo, zone};

/// Fails when an event broke a rule. `junk` are the keys of objects that an attacker made, or a later version.
pub(super) fn judge<'a>(repo: &TestRepo, junk: impl Iterator<Item = &'a String>) {
    let mut court = Court::new(repo);
    let mut junk: BTreeSet<&str> = junk.map(String::as_str).collect();
    for event in repo.ledger.events() {
        match &event {
            Event::Created(key, _) if junk.contains(key.as_str()) => court.junk(key),
            // Swept away: what is there later is somebody else's.
            Event::Deleted(key) if junk.remove(key.as_str()) => {}
            Event::Created(key, bytes) => court.created(key, bytes),
            Event::Deleted(key) => court.deleted(key),
            Event::Overwritten(key) => panic!("{key} was overwritten"),
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
    /// What is stored, and the frames in it by its own table.
    packs: BTreeMap<PackName, BTreeMap<Hash, Vec<FrameName>>>,
    signers: BTreeMap<u64, Name>,
    /// Snapshots that somebody asked to forget.
    asked: BTreeSet<SessionId>,
    /// Taints and revocations, with their numbers.
    distrust: Vec<(u64, Distrust)>,
    revoked: Vec<(u64, Distrust)>,
    /// The machine of each backup, and those that a keeper calls suspect, with the number of the note.
    machines: BTreeMap<SessionId, Title>,
    suspects: BTreeMap<SessionId, u64>,
    /// Whether a thief committed something: then only what is stored is the measure, and no list.
    lied: bool,
}

fn is_liar(key: &Name) -> bool {
    key.as_str().starts_with("liar")
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
            signers: BTreeMap::new(),
            asked: BTreeSet::new(),
            distrust: Vec::new(),
            revoked: Vec::new(),
            machines: BTreeMap::new(),
            suspects: BTreeMap::new(),
            lied: false,
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
                let stored = Pack::decode(bytes).unwrap();
                let frames = stored.directory().iter().map(|entry| entry.frame).collect();
                self.packs.entry(pack).or_default().insert(hash, frames);
            }
            Ok(ZoneKey::List(session, _) | ZoneKey::Index(session, _)) => {
                self.is_announced(session.number, key);
            }
            // Of what lies below it, which was judged.
            Ok(ZoneKey::Checkpoint(upto)) => {
                // What an attacker puts there after something was swept away is no checkpoint.
                let is_one = self.read::<Checkpoint>(bytes).is_some();
                assert!(!is_one || self.commits.contains_key(&(upto - 1)), "{key} without its gc");
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
        if matches!(entry.fields.kind, Kind::Gc { .. }) {
            match GcLists::decode(entry.public().unwrap(), number) {
                Ok(lists) => drop(self.proposals.insert(number, lists.dead)),
                // A thief's. It is void.
                Err(_) => return,
            }
        }
        if matches!(entry.fields.kind, Kind::Backup(_) | Kind::Gc { .. } | Kind::Index | Kind::Note(_)) {
            self.owners.insert(number);
        }
        if entry.fields.kind.needs_outcome() {
            self.sessions.insert(number, SessionId { number, intent: Hash::of(bytes) });
        }
        self.signers.insert(number, entry.fields.by.name.clone());
        match &entry.fields.kind {
            Kind::Backup(intent) => {
                let session = SessionId { number, intent: Hash::of(bytes) };
                self.machines.insert(session, intent.vm.clone());
            }
            Kind::Note(note) if note.topic.as_str() == "suspicion" => {
                match note.result.as_ref().map(Name::as_str) {
                    Some("suspect") => {
                        self.suspects.extend(note.snapshots.iter().map(|session| (*session, number)));
                    }
                    _ => self.suspects.retain(|session, _| note.snapshots.binary_search(session).is_err()),
                }
            }
            Kind::Forget(named) => self.asked.extend(&named.snapshots),
            Kind::Taint(distrust) => self.distrust.push((number, distrust.clone())),
            Kind::Revoke(distrust) => {
                self.distrust.push((number, distrust.clone()));
                self.revoked.push((number, distrust.clone()));
            }
            // Its process may have read the commit, which gave up what was forgotten.
            Kind::Abandon(_) => self.given_up.extend(&self.asked),
            _ => {}
        }
    }

    fn is_announced(&self, session: u64, key: &str) {
        assert!(self.owners.contains(&session), "{key} is there before its session");
    }

    fn ended(&mut self, session: SessionId, bytes: &Bytes) {
        if let Some(lie) = self.read::<Commit>(bytes).filter(|commit| is_liar(&commit.fields.by.name)) {
            self.decided.insert(session);
            return self.lied(session, &lie);
        }
        // With this the administrator gives up a number of which nobody knows what stood there.
        if session.intent == UNKNOWN {
            assert!(
                self.read::<Abort>(bytes).is_some_and(|abort| abort.signer == Signer::Admin),
                "{session}"
            );
            return;
        }
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
        for frame in uses.frames() {
            assert!(self.is_stored(&frame), "{session} needs {frame}, which is not stored");
            let origin = frame.pack.session;
            if origin == session.number {
                continue;
            }
            assert!(origin <= session.number, "{session} uses {frame}, of whom it cannot know whose it is");
            let mut below = self.distrust.iter().filter(|(number, _)| *number < session.number);
            let doubt =
                below.find(|(_, found)| found.writer == self.signers[&origin] && found.from <= origin);
            assert_eq!(doubt, None, "{session} uses {frame} of a writer who is distrusted");
        }
        if self.lied {
            self.manifests.insert(session, uses);
            return;
        }
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

    fn is_stored(&self, frame: &FrameName) -> bool {
        self.packs.values().flat_map(BTreeMap::values).any(|frames| frames.contains(frame))
    }

    /// A thief's word: it gives up at most what somebody asked to forget.
    fn lied(&mut self, gc: SessionId, lie: &Record<Commit>) {
        self.lied = true;
        let lists = GcLists::decode(lie.public().unwrap(), gc.number);
        let is_his = self.signers.get(&gc.number) == Some(&lie.fields.by.name);
        if let Some(lists) = lists.ok().filter(|_| is_his) {
            self.given_up.extend(lists.forgotten.iter().filter(|snapshot| self.asked.contains(snapshot)));
            self.commits.insert(gc.number, lists);
        }
    }

    /// Snapshots that may be had back: neither gone nor void.
    fn needing(&self) -> impl Iterator<Item = (&SessionId, &FrameSet)> {
        let kept = self.manifests.iter().filter(|(snapshot, _)| !self.given_up.contains(snapshot));
        kept.filter(|(snapshot, _)| !self.is_void(snapshot.number, u64::MAX))
    }

    /// Whether a writer's session counts for nothing, by the revocations below a number.
    fn is_void(&self, session: u64, below: u64) -> bool {
        let of_key = |found: &Distrust| found.writer == self.signers[&session] && found.from <= session;
        self.revoked.iter().any(|(number, found)| *number < below && of_key(found))
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
        // What a revocation below it voids is decided too.
        let mut open =
            self.sessions.range(..gc.number).filter(|(_, session)| !self.decided.contains(session));
        let open = open.find(|(number, _)| !self.is_void(**number, gc.number));
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
        let unasked = lists.forgotten.iter().find(|snapshot| !self.asked.contains(snapshot));
        assert_eq!(unasked, None, "gc {} gives up what nobody asked to forget", gc.number);
        // Of several suspect ones of a machine the first counts, and each stays itself.
        let stays = |snapshot: &&SessionId| {
            let counts =
                |suspect: &SessionId, note: u64| !self.given_up.contains(suspect) && note < gc.number;
            let mut suspects = self.suspects.iter().filter(|(suspect, note)| {
                counts(suspect, **note) && self.machines.get(*suspect) == self.machines.get(*snapshot)
            });
            suspects.next().is_some_and(|(first, _)| snapshot.number <= first.number)
                || self.suspects.get(*snapshot).is_some_and(|note| counts(snapshot, *note))
        };
        let early = lists.forgotten.iter().find(stays);
        assert_eq!(early, None, "gc {} gives up what is from before a suspect snapshot", gc.number);
        self.given_up.extend(lists.forgotten.iter().copied());
        let kept = self.needing().filter(|(snapshot, _)| snapshot.number < gc.number && !self.lied);
        for frame in kept.flat_map(|(_, uses)| uses.frames()) {
            let goes = lists.dead.contains_pack(&self.lies(&frame, gc.number));
            assert!(!goes || is_moved(&frame), "gc {} gives up {frame}, which is needed", gc.number);
        }
        self.commits.insert(gc.number, lists);
    }

    /// I2: packs from final lists alone, and never the last copy of what is needed; lists that name nothing that is there.
    /// (Index segments and checkpoints go when the simulation loses them, too.)
    fn deleted(&mut self, key: &str) {
        match ZoneKey::parse(&zone(), key) {
            Ok(ZoneKey::Pack(pack, hash)) => {
                let is_final = self.commits.values().any(|lists| lists.dead.contains_pack(&pack));
                assert!(is_final, "{key} was deleted, and no final list has it");
                let frames = self.packs.entry(pack).or_default().remove(&hash).unwrap_or_default();
                self.packs.retain(|_, hashes| !hashes.is_empty());
                for frame in frames.iter().filter(|frame| !self.is_stored(frame)) {
                    let needing = self.needing().find(|(_, uses)| uses.contains(frame));
                    assert_eq!(needing.map(|(snapshot, _)| snapshot), None, "{key} has the last {frame}");
                }
            }
            Ok(ZoneKey::Index(..) | ZoneKey::Checkpoint(_)) => {}
            Ok(ZoneKey::List(session, _)) => {
                let left = self.packs.keys().find(|pack| pack.session == session.number);
                assert!(left.is_none(), "{key} was deleted, and names {left:?}");
                let may_be_had = self.needing().any(|(snapshot, _)| *snapshot == session);
                assert!(!may_be_had, "{key} was deleted, and its snapshot may be had");
            }
            _ => panic!("{key} was deleted"),
        }
    }

    fn junk(&mut self, key: &str) {
        if let Ok(ZoneKey::Log(number)) = ZoneKey::parse(&zone(), key) {
            self.taken.insert(number);
        }
    }
}
