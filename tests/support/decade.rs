//! A repository as it is after many years of nights, made in seconds: every record is signed and says what the engine
//! would have said, but most of what it speaks of was deleted long ago.

use std::collections::BTreeMap;

use object_store::ObjectStoreExt;
use sancerre_engine::repository::Repository;
use sancerre_format::certificate::Role;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{ContentId, FrameName, Hash, PackName, SessionId};
use sancerre_format::list::PackList;
use sancerre_format::log::{Entry, Intent, Kind, Snapshots};
use sancerre_format::names::{self, Title};
use sancerre_format::outcome::{Body, Commit, Consistency, Manifest, public_bytes};
use sancerre_format::pack::{FinishedPack, PackBuilder, PackHead, PackKind, SealedSession};
use sancerre_format::record::{self, Fields, SignedBy};
use sancerre_format::seal::{UnitKind, UnitName, seal_raw};
use sancerre_format::sign::SigningKey;

use crate::repo::{TestRepo, name};

/// Bytes of a session key as age seals it.
const SEALED_KEY_BYTES: usize = 400;
/// Frames in a pack.
const FRAMES: u32 = 4;
const TOOL: &str = "sancerre test";

/// Whether a snapshot that was made so many nights after the first is still there at `tonight`: seven of the last week, four
/// of the last month, twelve of the last year, and one of every year.
fn stays(night: u64, tonight: u64) -> bool {
    let age = tonight - night;
    let of_each = |nights: u64, longest: u64| night.is_multiple_of(nights) && age < longest;
    age < 7 || of_each(7, 35) || of_each(30, 365) || night.is_multiple_of(365)
}

/// The history in the making.
struct History<'a> {
    repo: &'a TestRepo,
    writer: (SignedBy, SigningKey),
    keeper: (SignedBy, SigningKey),
    number: u64,
    previous: Option<Hash>,
    last_commit: Option<SessionId>,
    /// The newest session of each machine.
    heads: BTreeMap<Title, SessionId>,
    /// What is there, by the night it was made.
    snapshots: BTreeMap<u64, Vec<SessionId>>,
}

/// Writes so many nights of so many machines, each night with a forget and a gc. The repository must be empty.
pub async fn write(repo: &TestRepo, writer: &Repository, keeper: &Repository, nights: u64, machines: u64) {
    let signer = |of: &Repository, role| {
        let signer = of.signer(&[role]).unwrap();
        (signer.by.clone(), signer.key.clone())
    };
    let mut history = History {
        repo,
        writer: signer(writer, Role::Writer),
        keeper: signer(keeper, Role::Keeper),
        number: 0,
        previous: None,
        last_commit: None,
        heads: BTreeMap::new(),
        snapshots: BTreeMap::new(),
    };
    for night in 0..nights {
        let mut made = Vec::new();
        for machine in 0..machines {
            let lasts = stays(night, nights - 1);
            made.push(history.back_up(&name(&format!("vm{machine:02}")), lasts).await);
        }
        history.snapshots.insert(night, made.clone());
        let gone: Vec<u64> = history.snapshots.keys().copied().filter(|made| !stays(*made, night)).collect();
        let gone: Vec<SessionId> =
            gone.iter().flat_map(|night| history.snapshots.remove(night).unwrap()).collect();
        history.collect(made, gone).await;
        repo.clock.advance(86_400);
    }
}

fn packs(session: u64) -> [PackName; 2] {
    [0, 1].map(|ordinal| PackName { session, ordinal })
}

impl History<'_> {
    async fn put<F: Fields>(
        &self,
        key: String,
        fields: &F,
        by: &SigningKey,
        public: &[u8],
        sealed: &[u8],
    ) -> Hash {
        let bytes = record::encode(fields, TOOL, by, public, sealed).unwrap();
        let hash = Hash::of(&bytes);
        self.repo.memory.put(&key.into(), bytes.into()).await.unwrap();
        hash
    }

    async fn announce(&mut self, kind: Kind, public: &[u8], sealed: &[u8]) -> SessionId {
        self.number += 1;
        let (by, key) = if matches!(kind, Kind::Backup(_)) { &self.writer } else { &self.keeper };
        let keys = &self.repo.open.keys;
        let entry = Entry {
            repository: keys.trust.repository,
            zone: keys.zone.clone(),
            number: self.number,
            by: by.clone(),
            time: self.repo.host.clock.now(),
            previous: self.previous,
            checkpoint: None,
            kind,
        };
        let intent = self.put(names::log(&keys.zone, self.number), &entry, key, public, sealed).await;
        self.previous = Some(intent);
        SessionId { number: self.number, intent }
    }

    /// One snapshot of its own two packs, which are there if it lasts.
    async fn back_up(&mut self, vm: &Title, lasts: bool) -> SessionId {
        let parents: Vec<SessionId> = self.heads.get(vm).copied().into_iter().collect();
        let number = self.number + 1;
        let intent = Intent {
            vm: vm.clone(),
            machine: None,
            generation: 1,
            epoch: 1,
            commitment: Hash::of(&number.to_le_bytes()),
            parents: parents.clone(),
        };
        // Nobody opens it; it is no more compressible than a true one.
        let mut sealed_key = [0; SEALED_KEY_BYTES];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut sealed_key);
        let session = self.announce(Kind::Backup(intent), &[], &sealed_key).await;
        let keys = &self.repo.open.keys;
        let mut uses = FrameSet::default();
        for pack in packs(session.number) {
            (0..FRAMES).for_each(|index| uses.insert(FrameName { pack, index }));
        }
        if lasts {
            self.store_packs(session).await;
        }
        let root = keys.metadata_root(&session).unwrap();
        let unit = UnitName { kind: UnitKind::Body, session, a: 0, b: 0 };
        let body = seal_raw(&root, &unit, 3, Body::default().encode().as_bytes()).unwrap();
        let now = self.repo.host.clock.now();
        let manifest = Manifest {
            repository: keys.trust.repository,
            zone: keys.zone.clone(),
            session,
            by: self.writer.0.clone(),
            vm: vm.clone(),
            machine: None,
            started: now,
            finished: now,
            parents,
            disks: 0,
            size_bytes: 0,
            data_bytes: 0,
            new_bytes: 0,
            stored_bytes: public_bytes(1),
            consistency: Consistency::Crash,
            scan: "full".into(),
            class: None,
            retain_until: None,
            lists: 1,
            segments: 0,
            lock_until: None,
        };
        let key = names::outcome(&keys.zone, &session);
        self.put(key, &manifest, &self.writer.1, &uses.encode().unwrap(), &body).await;
        self.heads.insert(vm.clone(), session);
        session
    }

    async fn store_packs(&self, session: SessionId) {
        let keys = &self.repo.open.keys;
        let mut listed = Vec::new();
        for pack in packs(session.number) {
            let pack = self.pack(session, pack);
            listed.push(pack.listed());
            let key = names::pack(&keys.zone, pack.name, &pack.hash);
            self.repo.memory.put(&key.into(), pack.bytes.into()).await.unwrap();
        }
        let list = PackList {
            repository: keys.trust.repository,
            zone: keys.zone.clone(),
            session,
            sequence: 0,
            by: self.writer.0.clone(),
            packs: listed,
            words: BTreeMap::new(),
        };
        self.put(names::list(&keys.zone, &session, 0), &list, &self.writer.1, &[], &[]).await;
    }

    fn pack(&self, session: SessionId, name: PackName) -> FinishedPack {
        let keys = &self.repo.open.keys;
        let root = keys.metadata_root(&session).unwrap();
        let head = PackHead {
            kind: PackKind::Metadata,
            repository: keys.trust.repository,
            ordinal: name.ordinal,
            sessions: vec![SealedSession { session, sealed_key: Vec::new() }],
        };
        let mut builder = PackBuilder::new(head).unwrap();
        for index in 0..FRAMES {
            let unit = UnitName { kind: UnitKind::Metadata, session, a: name.ordinal, b: index };
            let raw = [session.number.to_le_bytes(), u64::from(index).to_le_bytes()].concat();
            let id = ContentId(Hash::of(&raw).0);
            builder.append(&seal_raw(&root, &unit, 3, &raw).unwrap(), &[(id, 16)]).unwrap();
        }
        builder.finish(&root).unwrap()
    }

    async fn collect(&mut self, seen: Vec<SessionId>, gone: Vec<SessionId>) {
        let mut lists = GcLists::default();
        if !gone.is_empty() {
            let named = Snapshots { snapshots: gone.clone(), reason: "it is old".into() };
            self.announce(Kind::Forget(named), &[], &[]).await;
            gone.iter()
                .flat_map(|session| packs(session.number))
                .for_each(|pack| lists.dead.insert_pack(pack));
        }
        let session = self.announce(Kind::Gc { generation: 1 }, &lists.encode().unwrap(), &[]).await;
        (lists.seen, lists.forgotten) = (seen, gone);
        let keys = &self.repo.open.keys;
        let commit = Commit {
            repository: keys.trust.repository,
            zone: keys.zone.clone(),
            session,
            by: self.keeper.0.clone(),
            time: self.repo.host.clock.now(),
            previous: self.last_commit,
            // Only `check` compares it.
            records: Hash::of(b"many years"),
        };
        let key = names::outcome(&keys.zone, &session);
        let hash = self.put(key, &commit, &self.keeper.1, &lists.encode().unwrap(), &[]).await;
        self.last_commit = Some(SessionId { number: session.number, intent: hash });
    }
}
