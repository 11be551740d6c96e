//! A repository on a store in memory, and the verbs that tests use.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use sancerre_engine::Result;
use sancerre_engine::backup::{BackupOptions, BackupReport, Input, Source, backup};
use sancerre_engine::host::Host;
use sancerre_engine::keys::{Keys, SecretString};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::init::{NewRepository, init};
use sancerre_engine::store::Store;
use sancerre_format::config::Layout;
use sancerre_format::names::{Name, Zone};
use sancerre_format::outcome::MemberKind;
use sancerre_image::Disk;

use crate::host::{TestClock, host};
use crate::store::TestStore;

/// A repository whose store can be looked at and broken.
pub struct TestRepo {
    pub memory: Arc<dyn ObjectStore>,
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

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
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
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = TestStore::new(memory.clone());
        let (host, clock) = host(seed);
        let new = NewRepository { passphrase: passphrase(), zone: zone(), writer: name("host1"), layout };
        let engine_store = Store::new(store.clone(), "memory");
        let made = init(&engine_store, &host, &new).await.unwrap();
        let keys = Keys::from_passphrase(&engine_store, &zone(), &passphrase()).await.unwrap();
        let open = Repository::open(engine_store, host.clone(), keys).await.unwrap();
        store.take_calls();
        Self { memory, store, host, clock, open, key_file: made.key_file.to_string() }
    }

    /// The repository as cron opens it: with the writer's key file.
    pub async fn as_writer(&self) -> Repository {
        let keys = Keys::from_key_file(self.key_file.as_bytes()).unwrap();
        Repository::open(Store::new(self.store.clone(), "memory"), self.host.clone(), keys).await.unwrap()
    }
}

/// Options for disks, in order.
pub fn options(vm: &str, disks: Vec<(&str, Arc<dyn Disk>)>) -> BackupOptions {
    let source = |(label, disk): (&str, Arc<dyn Disk>)| Source {
        name: name(label),
        kind: MemberKind::Disk,
        input: Input::Disk(disk),
    };
    BackupOptions {
        vm: name(vm),
        sources: disks.into_iter().map(source).collect(),
        tags: Vec::new(),
        allow_changing: false,
        dry_run: false,
        memory_bytes: 300 << 20,
    }
}

/// Backs up one disk of one VM.
pub async fn back_up(repository: &Repository, vm: &str, disk: Arc<dyn Disk>) -> Result<BackupReport> {
    backup(repository, options(vm, vec![("disk0", disk)]), &Monitor::silent()).await
}
