//! A repository on a store in memory, and the verbs that tests use.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use sancerre_engine::Result;
use sancerre_engine::backup::{Allow, BackupOptions, BackupReport, BackupSource, Dedup, Input, Maps, backup};
use sancerre_engine::host::Host;
use sancerre_engine::init::{NewRepository, init};
use sancerre_engine::keys::certify::{NewKey, certify};
use sancerre_engine::keys::{Keys, SecretString, Unlock};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::restore::{self, RestoreOptions};
use sancerre_engine::store::Store;
use sancerre_format::certificate::Role;
use sancerre_format::config::Layout;
use sancerre_format::id::SessionId;
use sancerre_format::names::{Name, Tag, Title, Zone};
use sancerre_format::outcome::MemberKind;
use sancerre_image::{Disk, RawTarget};

use crate::host::{TestClock, host};
use crate::ledger::Ledger;
use crate::store::TestStore;

/// A repository whose store can be looked at and broken.
pub struct TestRepo {
    pub memory: Arc<dyn ObjectStore>,
    /// The same store: what happened in it.
    pub ledger: Arc<Ledger>,
    pub store: Arc<TestStore>,
    pub host: Host,
    pub clock: Arc<TestClock>,
    /// Opened with the passphrase: may do everything.
    pub open: Repository,
    /// The first writer's key file.
    pub key_file: String,
}

pub fn passphrase() -> SecretString {
    SecretString::from("correct horse battery staple".to_owned())
}

/// A name of any kind: of a key, of a machine or disk, or a tag.
pub fn name<N: Named>(text: &str) -> N {
    N::named(text)
}

/// What a name is made of in tests.
pub trait Named {
    fn named(text: &str) -> Self;
}

impl Named for Name {
    fn named(text: &str) -> Self {
        Self::new(text).unwrap()
    }
}

impl Named for Title {
    fn named(text: &str) -> Self {
        Self::new(text).unwrap()
    }
}

impl Named for Tag {
    fn named(text: &str) -> Self {
        Self::new(text).unwrap()
    }
}

pub fn zone() -> Zone {
    Zone::new("default").unwrap()
}

/// Regions of 1 MiB and packs of 1 MiB, so that small disks have many of both.
pub fn small_layout() -> Layout {
    Layout {
        region_bytes: 1 << 20,
        leaf_bytes: 1 << 20,
        frame_bytes: 1 << 19,
        pack_bytes: 1 << 20,
        ..Layout::default()
    }
}

impl TestRepo {
    /// A fresh repository with a small layout.
    pub async fn new(seed: u64) -> Self {
        Self::with_layout(seed, small_layout()).await
    }

    pub async fn with_layout(seed: u64, layout: Layout) -> Self {
        Self::of(seed, layout, 0).await
    }

    /// One in which so many other keepers must approve a forget.
    pub async fn needing(seed: u64, approvals_needed: u32) -> Self {
        Self::of(seed, small_layout(), approvals_needed).await
    }

    async fn of(seed: u64, layout: Layout, approvals_needed: u32) -> Self {
        let (host, clock) = host(seed);
        let ledger = Ledger::new(clock.clone());
        let memory: Arc<dyn ObjectStore> = ledger.clone();
        let store = TestStore::new(memory.clone());
        let new = NewRepository {
            passphrase: passphrase(),
            zone: zone(),
            writer: name("host1"),
            approvals_needed,
            layout,
        };
        let engine_store = Store::new(store.clone(), "memory");
        let made = init(&engine_store, &host, &new).await.unwrap();
        let keys = Keys::from_passphrase(&engine_store, &zone(), &passphrase()).await.unwrap();
        let open = Repository::open(engine_store, host.clone(), keys).await.unwrap();
        store.take_calls();
        Self { memory, ledger, store, host, clock, open, key_file: made.key_file.to_string() }
    }

    /// The repository through another way to its store, with all keys.
    pub fn through(&self, store: Arc<dyn ObjectStore>) -> Repository {
        Repository { store: Store::new(store, "memory"), ..self.open.clone() }
    }

    /// The repository as if its process had just started, on the objects as they are.
    pub async fn reopen(&self) -> Repository {
        let store = Store::new(self.store.clone(), "memory");
        let keys = Keys::from_passphrase(&store, &zone(), &passphrase()).await.unwrap();
        Repository::open(store, self.host.clone(), keys).await.unwrap()
    }

    /// All objects: key and size, ascending.
    pub async fn objects(&self) -> Vec<(String, u64)> {
        let listed: Vec<_> = self.memory.list(None).try_collect().await.unwrap();
        let mut objects: Vec<_> = listed.into_iter().map(|meta| (meta.location.into(), meta.size)).collect();
        objects.sort();
        objects
    }

    /// Keys of all objects whose key contains `part`, ascending.
    pub async fn keys_with(&self, part: &str) -> Vec<String> {
        let objects = self.objects().await;
        objects.into_iter().map(|(key, _)| key).filter(|key| key.contains(part)).collect()
    }

    /// An object's bytes.
    pub async fn object(&self, key: &str) -> Vec<u8> {
        self.memory.get(&key.into()).await.unwrap().bytes().await.unwrap().into()
    }

    /// Replaces an object behind the engine's back, or makes one.
    pub async fn tamper(&self, key: &str, bytes: Vec<u8>) {
        let (key, payload) = (key.into(), PutPayload::from(bytes));
        let created = self.memory.put_opts(&key, payload.clone(), PutMode::Create.into()).await;
        if created.is_err() {
            self.memory.put(&key, payload).await.unwrap();
        }
    }

    /// Removes objects behind the engine's back.
    pub async fn lose(&self, keys: &[String]) {
        for key in keys {
            self.memory.delete(&key.as_str().into()).await.unwrap();
        }
    }

    /// The repository as cron opens it: with the writer's key file.
    pub async fn as_writer(&self) -> Repository {
        self.with_key_file(&self.key_file).await
    }

    /// The repository with a key file.
    pub async fn with_key_file(&self, text: &str) -> Repository {
        let keys = Keys::from_key_file(text.as_bytes()).unwrap();
        Repository::open(Store::new(self.store.clone(), "memory"), self.host.clone(), keys).await.unwrap()
    }

    /// The repository with the admin's key besides all others.
    pub async fn as_admin(&self) -> Repository {
        let mut admin = self.open.clone();
        let unlock = Unlock::default().with_passphrase(passphrase());
        Arc::make_mut(&mut admin.keys).unlock_admin(&admin.store, &unlock).await.unwrap();
        admin
    }

    /// The same as a process that has just started: it knows the admin keys that followed.
    pub async fn as_fresh_admin(&self) -> Repository {
        let mut admin = self.reopen().await;
        let unlock = Unlock::default().with_passphrase(passphrase());
        Arc::make_mut(&mut admin.keys).unlock_admin(&admin.store, &unlock).await.unwrap();
        admin
    }

    /// The repository as a keeper's job opens it.
    pub async fn as_keeper(&self) -> Repository {
        let file = self.certify("keeper1", Role::Keeper).await;
        self.with_key_file(&file).await
    }

    /// Certifies a key for the zone; returns its key file.
    pub async fn certify(&self, label: &str, role: Role) -> String {
        let new = NewKey { name: name(label), role, expires: None };
        certify(&self.as_admin().await, &new).await.unwrap().to_string()
    }
}

/// A new repository with a small layout on any store, opened with the passphrase.
pub async fn make(store: &Store, host: &Host) -> Result<Repository> {
    let new = NewRepository {
        passphrase: passphrase(),
        zone: zone(),
        writer: name("host1"),
        approvals_needed: 0,
        layout: small_layout(),
    };
    init(store, host, &new).await?;
    let keys = Keys::from_passphrase(store, &zone(), &passphrase()).await?;
    Repository::open(store.clone(), host.clone(), keys).await
}

/// Options for disks, in order.
pub fn options(vm: &str, disks: Vec<(&str, Arc<dyn Disk>)>) -> BackupOptions {
    let source = |(label, disk): (&str, Arc<dyn Disk>)| BackupSource {
        name: name(label),
        kind: MemberKind::Disk,
        input: Input::Disk(disk),
        least_bytes: 0,
    };
    BackupOptions {
        vm: name(vm),
        public_name: None,
        machine: None,
        class: None,
        retain_until: None,
        sources: disks.into_iter().map(source).collect(),
        tags: Vec::new(),
        // Most tests take disks of any size.
        allow: Allow { small: true, ..Allow::default() },
        only_unreadable: false,
        maps: Maps::default(),
        dedup: Dedup::Zone,
        statistics: false,
        catalogue: None,
        dry_run: false,
        memory_bytes: 300 << 20,
    }
}

/// Backs up one disk of one VM.
pub async fn back_up(repository: &Repository, vm: &str, disk: Arc<dyn Disk>) -> Result<BackupReport> {
    backup(repository, options(vm, vec![("disk0", disk)]), &Monitor::silent()).await
}

/// Restores a disk to a file and reads that.
pub async fn restore_bytes(repository: &Repository, session: SessionId, disk: &str) -> Result<Vec<u8>> {
    let log = Log::load_recent(repository, &Monitor::silent()).await?;
    let reader = restore::open(repository, &log, session).await?;
    let member = reader.member(disk).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let target = Box::new(RawTarget::create(&path, member.size_bytes, false)?);
    let options = RestoreOptions::new(64 << 20);
    let report = restore::restore(&reader, member, target, &options, &Monitor::silent()).await?;
    assert_eq!((report.size_bytes, report.data_bytes), (member.size_bytes, member.data_bytes));
    Ok(std::fs::read(&path).unwrap())
}

/// A disk in order, as through a pipe.
pub async fn dump_bytes(repository: &Repository, session: SessionId, disk: &str) -> Result<Vec<u8>> {
    let log = Log::load_recent(repository, &Monitor::silent()).await?;
    dump_by(repository, &log, session, disk).await
}

/// The same by a log that was read.
pub async fn dump_by(repository: &Repository, log: &Log, session: SessionId, disk: &str) -> Result<Vec<u8>> {
    let reader = restore::open(repository, log, session).await?;
    let mut bytes = Vec::new();
    let options = RestoreOptions::new(64 << 20);
    restore::dump(&reader, reader.member(disk).unwrap(), &mut bytes, &options, &Monitor::silent()).await?;
    Ok(bytes)
}
