//! Log entries and outcomes that no command of the engine writes (yet), signed with the admin's key.

use std::collections::BTreeMap;

use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::session;
use sancerre_format::certificate::Role;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{ContentId, FrameName, Hash, SessionId};
use sancerre_format::index::{IndexEntry, SegmentFields, SegmentName, build_sealed};
use sancerre_format::list::{ListedPack, PackList};
use sancerre_format::log::{Entry, KEEPERS, Kind};
use sancerre_format::names;
use sancerre_format::outcome::{Abort, Commit};
use sancerre_format::pack::{Pack, PackBuilder, PackHead, PackKind, SealedSession};
use sancerre_format::record::{self, Fields, SignedBy};
use sancerre_format::seal::{UnitKind, UnitName, seal_raw};
use sancerre_format::sign::SigningKey;

use crate::repo::{TestRepo, name};

pub fn admin() -> SignedBy {
    SignedBy { name: name("admin"), certificate: None }
}

/// The bytes of a record with the text changed before it is signed.
pub fn signed_with<F: Fields>(
    fields: &F,
    key: &SigningKey,
    public: &[u8],
    change: impl Fn(String) -> String,
) -> Vec<u8> {
    let plain = record::encode(fields, "sancerre test", key, public, &[]).unwrap();
    let end = plain.windows(5).position(|bytes| bytes == b"-----").unwrap();
    let text = change(String::from_utf8(plain[..end].to_vec()).unwrap());
    let armor = key.sign(F::KIND, text.as_bytes()).unwrap();
    [text.as_bytes(), armor.as_bytes(), public].concat()
}

impl TestRepo {
    pub async fn admin_key(&self) -> SigningKey {
        self.as_admin().await.signer(&[Role::Admin]).unwrap().key.clone()
    }

    /// An entry of the admin at the next number, not yet signed.
    pub async fn next_entry(&self, kind: Kind) -> Entry {
        let log = Log::load(&self.open).await.unwrap();
        let number = log.highest() + 1;
        let (repository, zone) = (self.open.keys.trust.repository, self.open.keys.zone.clone());
        Entry {
            repository,
            zone,
            number,
            by: admin(),
            time: self.host.clock.now(),
            previous: log.entry(number - 1).map(|entry| entry.session.intent),
            checkpoint: None,
            kind,
        }
    }

    /// Puts an object at a log number.
    pub async fn put_log(&self, number: u64, bytes: Vec<u8>) -> SessionId {
        let intent = Hash::of(&bytes);
        self.tamper(&names::log(&self.open.keys.zone, number), bytes).await;
        SessionId { number, intent }
    }

    /// Appends an entry signed by the admin.
    pub async fn append(&self, kind: Kind, public: &[u8]) -> SessionId {
        let entry = self.next_entry(kind).await;
        let key = self.admin_key().await;
        let bytes = record::encode(&entry, "sancerre test", &key, public, &[]).unwrap();
        self.put_log(entry.number, bytes).await
    }

    /// Announces a gc that would delete these packs.
    pub async fn propose(&self, dead: &FrameSet) -> SessionId {
        let lists = GcLists { dead: dead.clone(), ..GcLists::default() };
        self.append(Kind::Gc { generation: 1 }, &lists.encode().unwrap()).await
    }

    /// Appends an entry signed with whatever key of these roles a repository was opened with.
    pub async fn append_as(&self, signer: &Repository, kind: Kind, public: &[u8]) -> SessionId {
        let key = signer.signer(kind.roles()).unwrap();
        let entry = Entry { by: key.by.clone(), ..self.next_entry(kind).await };
        let bytes = record::encode(&entry, "sancerre test", &key.key, public, &[]).unwrap();
        self.put_log(entry.number, bytes).await
    }

    /// Publishes an index segment under an entry of its own, whatever it says; returns its name. The admin signs.
    pub async fn publish_index(&self, entries: Vec<IndexEntry>) -> SegmentName {
        let session = self.append(Kind::Index, &[]).await;
        self.put_segment(session, (admin(), self.admin_key().await), entries).await
    }

    /// The same signed by the key that `speaker` was opened with.
    pub async fn say(&self, speaker: &Repository, entries: Vec<IndexEntry>) -> SegmentName {
        let log = Log::load(speaker).await.unwrap();
        let session = session::append(speaker, &log, Kind::Index, &[]).await.unwrap();
        let signer = speaker.signer(Kind::Index.roles()).unwrap().clone();
        self.put_segment(session, (signer.by, signer.key), entries).await
    }

    async fn put_segment(
        &self,
        session: SessionId,
        (by, key): (SignedBy, SigningKey),
        mut entries: Vec<IndexEntry>,
    ) -> SegmentName {
        let root = self.open.keys.metadata_root(&session).unwrap();
        let built = build_sealed(&mut entries, &root, session, 0).unwrap();
        let fields = SegmentFields {
            repository: self.open.keys.trust.repository,
            zone: self.open.keys.zone.clone(),
            session,
            sequence: 0,
            by,
            generation: self.open.keys.generation().unwrap(),
            covers: Vec::new(),
            entries: built.entries,
            table_bytes: built.table_bytes,
            table_hash: built.table_hash,
        };
        let bytes = record::encode(&fields, "sancerre test", &key, &[], &built.sealed).unwrap();
        self.tamper(&names::index(&self.open.keys.zone, &session, 0), bytes).await;
        SegmentName { session: session.number, sequence: 0 }
    }

    /// Ends a gc with these final lists, in the admin's name.
    pub async fn commit_gc(&self, session: SessionId, lists: &GcLists) {
        self.commit_gc_as(&self.as_admin().await, session, lists).await;
    }

    /// The same in the name of whoever opened a repository.
    pub async fn commit_gc_as(&self, signer: &Repository, session: SessionId, lists: &GcLists) {
        let key = signer.signer(KEEPERS).unwrap();
        let commit = Commit {
            repository: self.open.keys.trust.repository,
            zone: self.open.keys.zone.clone(),
            session,
            by: key.by.clone(),
            time: self.host.clock.now(),
            previous: None,
            records: Hash::of(b"not read by writers"),
        };
        let public = lists.encode().unwrap();
        let bytes = record::encode(&commit, "sancerre test", &key.key, &public, &[]).unwrap();
        self.tamper(&names::outcome(&self.open.keys.zone, &session), bytes).await;
    }

    /// Copies all packs of a session into packs of a gc, as a collector would, and lists them. Returns how many.
    pub async fn copy_packs_as(&self, keeper: &Repository, from: SessionId, gc: SessionId) -> u32 {
        self.copy_packs_with(keeper, from, gc, |_, _, sealed| sealed.to_vec()).await
    }

    /// The same with each sealed frame changed, in packs that fit what lies in them then.
    pub async fn copy_packs_with(
        &self,
        keeper: &Repository,
        from: SessionId,
        gc: SessionId,
        change: impl Fn(PackKind, FrameName, &[u8]) -> Vec<u8>,
    ) -> u32 {
        let (keys, root) = (&self.open.keys, self.open.keys.metadata_root(&gc).unwrap());
        let mut packs = Vec::new();
        for (ordinal, key) in (0..).zip(self.keys_with(&format!("/packs/{:016x}/", from.number)).await) {
            let bytes = self.object(&key).await;
            let pack = Pack::decode(&bytes).unwrap();
            let table = pack.open_table(&keys.metadata_root(&from).unwrap()).unwrap();
            let writer = SealedSession { session: gc, sealed_key: Vec::new() };
            let (kind, sealer) = (pack.head().kind, pack.head().sessions.last().unwrap().clone());
            assert!(pack.directory().iter().all(|entry| entry.frame.pack.session == sealer.session.number));
            let head =
                PackHead { kind, repository: keys.trust.repository, ordinal, sessions: vec![writer, sealer] };
            let mut builder = PackBuilder::new(head).unwrap();
            for (position, (entry, pieces)) in pack.directory().iter().zip(table).enumerate() {
                let sealed = change(kind, entry.frame, pack.frame(position).unwrap());
                builder.append_moved(1, entry.frame, &sealed, &pieces).unwrap();
            }
            let copy = builder.finish(&root).unwrap();
            self.tamper(&names::pack(&keys.zone, copy.name, &copy.hash), copy.bytes.clone()).await;
            packs.push(copy.listed());
        }
        let count = packs.len();
        self.list_as(keeper, gc, packs).await;
        u32::try_from(count).unwrap()
    }

    /// What lies in the packs of a gc, as its commit would say.
    pub async fn moves_of(&self, gc: SessionId) -> BTreeMap<u32, FrameSet> {
        let mut moves = BTreeMap::<u32, FrameSet>::new();
        for key in self.keys_with(&format!("/packs/{:016x}/", gc.number)).await {
            let bytes = self.object(&key).await;
            let pack = Pack::decode(&bytes).unwrap();
            let frames = moves.entry(pack.head().ordinal).or_default();
            pack.directory().iter().for_each(|entry| frames.insert(entry.frame));
        }
        moves
    }

    /// Stores a pack of opaque units under an entry, and lists it.
    pub async fn annex_as(&self, signer: &Repository, owner: SessionId) {
        let (keys, root) = (&self.open.keys, self.open.keys.metadata_root(&owner).unwrap());
        let sessions = vec![SealedSession { session: owner, sealed_key: Vec::new() }];
        let head =
            PackHead { kind: PackKind::Annex, repository: keys.trust.repository, ordinal: 0, sessions };
        let unit = UnitName { kind: UnitKind::Annex, session: owner, a: 0, b: 0 };
        let sealed = seal_raw(&root, &unit, 3, b"how often each extent is read").unwrap();
        let mut builder = PackBuilder::new(head).unwrap();
        builder.append(&sealed, &[(ContentId([5; 32]), 29)]).unwrap();
        let pack = builder.finish(&root).unwrap();
        self.tamper(&names::pack(&keys.zone, pack.name, &pack.hash), pack.bytes.clone()).await;
        self.list_as(signer, owner, vec![pack.listed()]).await;
    }

    async fn list_as(&self, signer: &Repository, session: SessionId, packs: Vec<ListedPack>) {
        let (keys, signer) = (&self.open.keys, signer.signer(Role::STORING).unwrap());
        let list = PackList {
            repository: keys.trust.repository,
            zone: keys.zone.clone(),
            session,
            sequence: 0,
            by: signer.by.clone(),
            packs,
            words: BTreeMap::new(),
        };
        let bytes = record::encode(&list, "sancerre test", &signer.key, &[], &[]).unwrap();
        self.tamper(&names::list(&keys.zone, &session, 0), bytes).await;
    }

    /// Ends a session with nothing, in the admin's name.
    pub async fn abort(&self, session: SessionId) {
        let abort = Abort {
            repository: self.open.keys.trust.repository,
            zone: self.open.keys.zone.clone(),
            session,
            by: admin(),
            time: self.host.clock.now(),
            reason: "test".into(),
        };
        self.end(session, &abort, &[]).await;
    }

    async fn end<F: Fields>(&self, session: SessionId, fields: &F, public: &[u8]) {
        let bytes = record::encode(fields, "sancerre test", &self.admin_key().await, public, &[]).unwrap();
        self.tamper(&names::outcome(&self.open.keys.zone, &session), bytes).await;
    }
}
