//! It can grow: what a later program adds, in every place that is open for it, and today's program and the second decoder
//! read, restore and back up beside it. Whatever breaks this breaks every older program in the field.

use std::collections::BTreeMap;
use std::process::Command;

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use sancerre_engine::ErrorKind;
use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::keys::ExposeSecret;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_format::certificate::{Certificate, portable};
use sancerre_format::chunk::{Chunker, PieceKind};
use sancerre_format::config::{Config, IdentityRecord, ZoneRecord};
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{ContentId, FramePlace, Hash, Place, SessionId};
use sancerre_format::index::{IndexEntry, SegmentFields, build_sealed};
use sancerre_format::key::{KeyFile, Secret};
use sancerre_format::list::PackList;
use sancerre_format::log::{Entry, Intent, Kind, Note};
use sancerre_format::names;
use sancerre_format::node::{LeafEntry, Node, NodeKey, chunk_id};
use sancerre_format::outcome::{
    Body, Chunking, Consistency, Manifest, Member, MemberKind, MemberWords, Root,
};
use sancerre_format::pack::{FinishedPack, PackBuilder, PackHead, PackKind, SealedSession};
use sancerre_format::recipient::{AdminKey, RecipientRecord};
use sancerre_format::record::{self, Fields, SignedBy};
use sancerre_format::seal::{RootKey, SessionKey, UnitKind, UnitName, seal_raw};
use sancerre_format::sign::SigningKey;
use sancerre_services::{install, skip};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, name, passphrase, small_layout, zone};

use crate::gc::collect;

const SIZE: usize = 300_000;
const NOW: &str = "2026-11-26T03:00:00Z";

/// A record as a later program writes it: with a fact that today's do not know, and other words where words are open.
fn later<F: Fields>(
    fields: &F,
    key: &SigningKey,
    public: &[u8],
    sealed: &[u8],
    words: &[(&str, &str)],
) -> Vec<u8> {
    let plain = record::encode(fields, "sancerre 9.0.0", key, public, sealed).unwrap();
    let end = plain.windows(5).position(|bytes| bytes == b"-----").unwrap();
    let mut text = String::from_utf8(plain[..end].to_vec()).unwrap();
    for (old, new) in words {
        assert!(text.contains(old), "{old} in {text}");
        text = text.replacen(old, new, 1);
    }
    let text = text.replacen("\npublic: ", "\nx-later: as nobody knows yet\nx-more: 7\npublic: ", 1);
    let armor = key.sign(F::KIND, text.as_bytes()).unwrap();
    [text.as_bytes(), armor.as_bytes(), public, sealed].concat()
}

struct Scene {
    repo: TestRepo,
    writer: Repository,
    key: SigningKey,
    /// Saved by today's program, then by the later one.
    saved: Vec<(SessionId, Vec<u8>)>,
    /// What the later program says of a pack in its list.
    shelf: &'static str,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        Self::with_shelf(seed, "").await
    }

    async fn with_shelf(seed: u64, shelf: &'static str) -> Self {
        let repo = TestRepo::new(seed).await;
        let writer = repo.as_writer().await;
        let key = KeyFile::decode(repo.key_file.as_bytes()).unwrap().key.clone();
        let bytes = noise(seed, SIZE);
        let report = back_up(&writer, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
        let mut scene = Self { repo, writer, key, saved: vec![(report.snapshot.unwrap(), bytes)], shelf };
        scene.rewrite_keys().await;
        let bytes = noise(seed + 1, SIZE);
        let session = scene.save(&bytes).await;
        scene.saved.push((session, bytes));
        scene.note().await;
        scene
    }

    fn by(&self) -> SignedBy {
        self.writer.signer(&[sancerre_format::certificate::Role::Writer]).unwrap().by.clone()
    }

    /// Everything that the admin signed, as his later program would have.
    async fn rewrite_keys(&self) {
        let admin = self.repo.admin_key().await;
        self.rewrite::<Config>("config", &admin).await;
        self.rewrite::<IdentityRecord>("keys/identities/", &admin).await;
        self.rewrite::<RecipientRecord>("keys/recipients/", &admin).await;
        self.rewrite::<AdminKey>("keys/admin/", &admin).await;
        self.rewrite::<ZoneRecord>("keys/zones/", &admin).await;
        self.rewrite::<Certificate>("keys/certificates/", &admin).await;
    }

    async fn rewrite<F: Fields>(&self, prefix: &str, admin: &SigningKey) {
        for key in self.repo.keys_with(prefix).await {
            let record =
                record::decode::<F>(&self.repo.open.keys.trust, &self.repo.object(&key).await).unwrap();
            let bytes = later(&record.fields, admin, record.public().unwrap(), record.sealed().unwrap(), &[]);
            self.repo.tamper(&key, bytes).await;
        }
    }

    fn unit(session: SessionId, kind: UnitKind, pack: u32) -> UnitName {
        UnitName { kind, session, a: pack, b: 0 }
    }

    fn pack(&self, kind: PackKind, ordinal: u32, session: SealedSession) -> PackBuilder {
        let repository = self.repo.open.keys.trust.repository;
        PackBuilder::new(PackHead { kind, repository, ordinal, sessions: vec![session] }).unwrap()
    }

    async fn put_pack(&self, pack: &FinishedPack) {
        self.repo.tamper(&names::pack(&zone(), pack.name, &pack.hash), pack.bytes.clone()).await;
    }

    /// A whole snapshot of web01 by a later program: entry, packs, list, segment, manifest and body.
    async fn save(&self, bytes: &[u8]) -> SessionId {
        let (writer, host) = (&self.writer, &self.repo.host);
        let log = Log::load(writer).await.unwrap();
        let secrets = writer.keys.zone_secrets().unwrap();
        let key = SessionKey([9; 32]);
        let sealed_key = host.sealer.seal(&secrets.recipient, &key.0).unwrap();
        let intent = Intent {
            vm: name("web01"),
            machine: None,
            generation: secrets.generation,
            epoch: secrets.epoch,
            commitment: key.commitment(),
            parents: log.heads(&name("web01"), None),
        };
        let entry = Entry { by: self.by(), ..self.repo.next_entry(Kind::Backup(intent.clone())).await };
        let session = self.repo.put_log(entry.number, later(&entry, &self.key, &[], &sealed_key, &[])).await;
        let root = writer.keys.metadata_root(&session).unwrap();

        let chunks = self.chunks(bytes);
        let mut data = self.pack(PackKind::Data, 0, SealedSession { session, sealed_key });
        let sealed = seal_raw(&key.root(), &Self::unit(session, UnitKind::Data, 0), 3, bytes).unwrap();
        let pieces: Vec<_> = chunks.iter().map(|(id, _, size)| (*id, *size)).collect();
        let frame = data.append(&sealed, &pieces).unwrap();
        let data = data.finish(&root).unwrap();
        let (meta, leaf, places) = self.map(session, &root, frame, &chunks);
        self.put_pack(&data).await;
        self.put_pack(&meta).await;
        self.publish(session, &root, vec![data.listed(), meta.listed()], places).await;

        let member = Member {
            name: name("disk0"),
            kind: MemberKind::Disk,
            chunking: Chunking::Disk,
            phase_bytes: 0,
            size_bytes: bytes.len() as u64,
            data_bytes: bytes.len() as u64,
            new_bytes: bytes.len() as u64,
            chunks: chunks.len() as u64,
            new_chunks: chunks.len() as u64,
            fuzzy: false,
            root: Some(Root { level: 0, id: leaf.0, place: leaf.1 }),
            words: MemberWords::default(),
        };
        let manifest = self.manifest(session, &intent, bytes.len() as u64);
        self.finish(&manifest, &root, member, [frame, leaf.1.frame]).await;
        session
    }

    /// Id, offset and size of the chunks of a disk.
    fn chunks(&self, bytes: &[u8]) -> Vec<(ContentId, u32, u32)> {
        let keys = &self.writer.keys.zone_secrets().unwrap().keys;
        let chunker = Chunker::disk(&keys.cut, small_layout().disk).unwrap();
        let (mut at, mut found) = (0, Vec::new());
        while let Some(piece) = chunker.next_piece(&bytes[at..]).filter(|_| at < bytes.len()) {
            assert_eq!(piece.kind, PieceKind::Data);
            let chunk = &bytes[at..at + piece.length_bytes];
            found.push((chunk_id(&keys.id, chunk), at as u32, chunk.len() as u32));
            at += piece.length_bytes;
        }
        found
    }

    /// A leaf in a pack of its own.
    fn map(
        &self,
        session: SessionId,
        root: &RootKey,
        frame: FramePlace,
        chunks: &[(ContentId, u32, u32)],
    ) -> (FinishedPack, (ContentId, Place), Vec<IndexEntry>) {
        let place = |offset_bytes, size_bytes| Place { frame, offset_bytes, size_bytes };
        let entries: Vec<LeafEntry> = chunks
            .iter()
            .map(|(id, at, size)| LeafEntry { offset_bytes: *at, id: *id, place: place(*at, *size) })
            .collect();
        let mut places: Vec<IndexEntry> =
            entries.iter().map(|entry| IndexEntry { id: entry.id, place: entry.place }).collect();
        let node_key = NodeKey::derive(&self.writer.keys.zone_secrets().unwrap().keys.id);
        let (id, raw) = Node::Leaf(entries).encode_with_id(&node_key).unwrap();
        let size_bytes = raw.len() as u32;
        let mut pack = self.pack(PackKind::Metadata, 1, SealedSession { session, sealed_key: Vec::new() });
        let sealed = seal_raw(root, &Self::unit(session, UnitKind::Metadata, 1), 3, &raw).unwrap();
        let frame = pack.append(&sealed, &[(id, size_bytes)]).unwrap();
        let place = Place { frame, offset_bytes: 0, size_bytes };
        places.push(IndexEntry { id, place });
        (pack.finish(root).unwrap(), (id, place), places)
    }

    async fn publish(
        &self,
        session: SessionId,
        root: &RootKey,
        packs: Vec<sancerre_format::list::ListedPack>,
        mut places: Vec<IndexEntry>,
    ) {
        let (repository, zone) = (self.repo.open.keys.trust.repository, zone());
        let list = PackList {
            repository,
            zone: zone.clone(),
            session,
            sequence: 0,
            by: self.by(),
            packs,
            words: BTreeMap::new(),
        };
        // The last line before it is a pack's.
        let words = [("\npublic: ", format!("{}\npublic: ", self.shelf))];
        let words = words.each_ref().map(|(old, new)| (*old, new.as_str()));
        let bytes = later(&list, &self.key, &[], &[], &words);
        self.repo.tamper(&names::list(&zone, &session, 0), bytes).await;
        let built = build_sealed(&mut places, root, session, 0).unwrap();
        let fields = SegmentFields {
            repository,
            zone: zone.clone(),
            session,
            sequence: 0,
            by: self.by(),
            generation: 1,
            covers: Vec::new(),
            entries: built.entries,
            table_bytes: built.table_bytes,
            table_hash: built.table_hash,
        };
        let bytes = later(&fields, &self.key, &[], &built.sealed, &[]);
        self.repo.tamper(&names::index(&zone, &session, 0), bytes).await;
    }

    fn manifest(&self, session: SessionId, intent: &Intent, size_bytes: u64) -> Manifest {
        let time = names::Time::parse(NOW).unwrap();
        Manifest {
            repository: self.repo.open.keys.trust.repository,
            zone: zone(),
            session,
            by: self.by(),
            vm: intent.vm.clone(),
            machine: None,
            started: time,
            finished: time,
            parents: intent.parents.clone(),
            disks: 2,
            size_bytes: size_bytes + 5,
            data_bytes: sancerre_format::outcome::public_bytes(size_bytes),
            new_bytes: sancerre_format::outcome::public_bytes(size_bytes),
            stored_bytes: 1 << 20,
            consistency: Consistency::Crash,
            scan: "full".into(),
            class: None,
            retain_until: None,
            lists: 1,
            segments: 1,
            lock_until: None,
        }
    }

    /// The manifest and a body with words, lines and a kind of member that nobody knows.
    async fn finish(&self, manifest: &Manifest, root: &RootKey, member: Member, frames: [FramePlace; 2]) {
        let body = Body { vm: None, tags: Vec::new(), members: vec![member], annexes: Vec::new() }.encode();
        let tape = "disk: tape0 tape reel phase=0 size=5 data=0 new=0 chunks=0 new-chunks=0 fuzzy=0 root=- x-reel=9\n";
        let body = body.trim_end().to_owned() + " x-later=1 x-map=radar\n" + tape + "x-mood: good\n";
        let unit = UnitName { kind: UnitKind::Body, session: manifest.session, a: 0, b: 0 };
        let sealed = seal_raw(root, &unit, 3, body.as_bytes()).unwrap();
        let mut uses = FrameSet::default();
        frames.into_iter().for_each(|frame| uses.insert(frame.frame));
        let words = [("consistency: crash", "consistency: serene"), ("class: -", "class: gold")];
        let bytes = later(manifest, &self.key, &uses.encode().unwrap(), &sealed, &words);
        self.repo.tamper(&names::outcome(&zone(), &manifest.session), bytes).await;
    }

    /// Something happened, says a key of a role that nobody knows, with parts that nobody can read.
    async fn note(&self) {
        let key = SigningKey::from_seed([5; 32]);
        let certificate = Certificate {
            repository: self.repo.open.keys.trust.repository,
            zone: zone(),
            name: name("oracle"),
            role_name: name("oracle"),
            key: key.public(),
            issued: names::Time::parse(NOW).unwrap(),
            expires: None,
        };
        let certificate = later(&certificate, &self.repo.admin_key().await, &[], &[], &[]);
        let by = SignedBy { name: name("oracle"), certificate: Some(portable(&certificate).unwrap()) };
        self.repo.tamper("keys/certificates/oracle", certificate).await;
        let note =
            Note { topic: name("seance"), result: Some(name("fog")), snapshots: vec![self.saved[0].0] };
        let entry = Entry { by, ..self.repo.next_entry(Kind::Note(note)).await };
        let bytes = later(&entry, &key, b"in no language", b"sealed in no way", &[]);
        self.repo.put_log(entry.number, bytes).await;
    }

    async fn all_restore(&self) {
        let open = self.repo.reopen().await;
        let log = Log::load(&open).await.unwrap();
        assert_eq!(log.snapshots().len(), self.saved.len());
        for (session, bytes) in &self.saved {
            assert!(dump_bytes(&open, *session, "disk0").await.unwrap() == *bytes, "{session}");
        }
    }

    async fn is_sound(&self) {
        let options = CheckOptions { read_data: ReadData::All, quarantine: true };
        let report = check(&self.repo.reopen().await, &options, &Monitor::silent()).await.unwrap();
        let bad: Vec<_> = report.findings.iter().filter(|found| found.severity != Severity::Note).collect();
        assert!(bad.is_empty() && report.quarantined.is_none(), "{bad:?}");
        let audited = crate::audit::run(&self.repo, &crate::audit::options(&self.repo)).await;
        assert!(audited.all_findings().all(|found| found.severity == Severity::Note));
    }
}

#[tokio::test]
async fn todays_program_works_beside_a_later_one() {
    let mut scene = Scene::new(700).await;
    scene.all_restore().await;
    scene.is_sound().await;
    // What the later program stored is built upon, and its members of an unknown kind are the only thing out of reach.
    let bytes = scene.saved[1].1.clone();
    let writer = scene.repo.as_writer().await;
    let report = back_up(&writer, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    assert_eq!((report.new_bytes, report.parent), (0, Some(scene.saved[1].0)));
    scene.saved.push((report.snapshot.unwrap(), bytes));
    let refused = dump_bytes(&scene.repo.open, scene.saved[1].0, "tape0").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    let keeper = scene.repo.as_keeper().await;
    assert!(collect(&keeper).await.unwrap().committed);
    crate::gc::drop_snapshot(&keeper, scene.saved.remove(0).0).await.unwrap();
    assert!(collect(&keeper).await.unwrap().deleted_packs > 0);
    scene.all_restore().await;
    scene.is_sound().await;
}

#[tokio::test]
async fn the_second_decoder_reads_what_a_later_program_wrote() {
    let Some(python) = install::decoder_python() else {
        return skip("the decoder's Python is not installed");
    };
    let scene = Scene::new(710).await;
    let folder = tempfile::tempdir().unwrap();
    for meta in scene.repo.memory.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let path = folder.path().join("repository").join(meta.location.as_ref());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = scene.repo.memory.get(&meta.location).await.unwrap().bytes().await.unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let decoder = |arguments: &[&str]| {
        let program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/decoder");
        let mut command = Command::new(&python);
        command.arg("-B").arg(program).args(arguments).current_dir(folder.path());
        let output = command.env("SANCERRE_PASSWORD", passphrase().expose_secret()).output().unwrap();
        let told =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
    };
    let trust = scene.repo.open.keys.trust.admin.fingerprint();
    decoder(&["verify", "--trust", &trust, "repository"]);
    for (session, bytes) in &scene.saved {
        let id = session.intent.to_string();
        decoder(&["restore", "--trust", &trust, "repository", &id[..12], "disk0", &id]);
        assert!(std::fs::read(folder.path().join(&id)).unwrap() == *bytes);
    }
}

#[tokio::test]
async fn words_on_the_lines_of_packs_are_ignored() {
    let scene = Scene::with_shelf(730, " x-shelf=3 x-tape=b7").await;
    scene.all_restore().await;
    scene.is_sound().await;
    let bytes = scene.saved[1].1.clone();
    assert_eq!(back_up(&scene.writer, "web01", MemoryDisk::new(bytes)).await.unwrap().new_bytes, 0);
}

/// The hash is of the object as it lies there, whatever it says.
#[tokio::test]
async fn a_session_is_the_bytes_of_its_entry() {
    let scene = Scene::new(720).await;
    let (session, _) = scene.saved[1];
    let bytes = scene.repo.object(&names::log(&zone(), session.number)).await;
    assert_eq!(Hash::of(&bytes), session.intent);
    assert!(bytes.windows(9).any(|part| part == b"x-later: "));
}
