//! No key and nonce ever seal two different texts: the key of a unit is a function of its root and of all that is
//! sealed. Here a process is cloned after it announced its session, so that both clones hold the same session key, and
//! go on with other bytes; others crash and start again. Everything that reached a store is recorded.
//!
//! The nonce is constant, and the key follows from the root and from S, the first 32 bytes of a unit. So equal S must
//! mean equal bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use sancerre_engine::Result;
use sancerre_engine::host::{Host, Sealer};
use sancerre_engine::keys::SecretString;
use sancerre_engine::repository::Repository;
use sancerre_format::index::SegmentFields;
use sancerre_format::outcome::Manifest;
use sancerre_format::pack::Pack;
use sancerre_format::record;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::host::host;
use sancerre_tests::repo::{TestRepo, back_up};
use sancerre_tests::store::{Cut, TestStore};

const SALT_BYTES: usize = 32;

/// A clone's `age` draws the same randomness again: what was sealed once is sealed to the same bytes.
struct ClonedSealer {
    real: Arc<dyn Sealer>,
    sealed: Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>,
}

impl Sealer for ClonedSealer {
    fn seal(&self, recipient: &str, secret: &[u8]) -> Result<Vec<u8>> {
        let mut sealed = self.sealed.lock().unwrap();
        if let Some(same) = sealed.get(secret) {
            return Ok(same.clone());
        }
        let fresh = self.real.seal(recipient, secret)?;
        sealed.insert(secret.to_vec(), fresh.clone());
        Ok(fresh)
    }

    fn seal_with_passphrase(&self, passphrase: &SecretString, secret: &[u8]) -> Result<Vec<u8>> {
        self.real.seal_with_passphrase(passphrase, secret)
    }
}

/// Every unit that was ever stored, by what it is called, and by its salt.
#[derive(Default)]
struct Record {
    by_name: BTreeMap<String, Vec<Vec<u8>>>,
    by_salt: HashMap<Vec<u8>, Vec<u8>>,
}

impl Record {
    fn add(&mut self, name: String, sealed: &[u8]) {
        let salt = sealed[..SALT_BYTES].to_vec();
        let first = self.by_salt.entry(salt).or_insert_with(|| sealed.to_vec());
        assert!(first == sealed, "{name}: one key and nonce sealed two texts");
        let known = self.by_name.entry(name).or_default();
        if !known.iter().any(|other| other == sealed) {
            known.push(sealed.to_vec());
        }
    }

    async fn take(&mut self, repository: &Repository, store: &dyn ObjectStore) {
        let trust = &repository.keys.trust;
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        for meta in listed {
            let key = meta.location.to_string();
            let bytes = store.get(&meta.location).await.unwrap().bytes().await.unwrap();
            if key.contains("/packs/") {
                let pack = Pack::decode(&bytes).unwrap();
                let session = pack.head().writer();
                for position in 0..pack.directory().len() {
                    let name = pack.directory()[position].frame;
                    self.add(format!("{session} {name:?}"), pack.frame(position).unwrap());
                }
            } else if key.contains("/outcome/") {
                if let Ok(manifest) = record::decode::<Manifest>(trust, &bytes) {
                    self.add(key, manifest.sealed().unwrap());
                }
            } else if key.contains("/index/") {
                let segment = record::decode::<SegmentFields>(trust, &bytes).unwrap();
                self.add(key, &segment.sealed().unwrap()[..segment.fields.table_bytes as usize]);
            }
        }
    }
}

/// A copy of all objects, as a snapshot of the machine would take it along.
async fn copy(from: &dyn ObjectStore) -> Arc<InMemory> {
    let to = Arc::new(InMemory::new());
    let listed: Vec<_> = from.list(None).try_collect().await.unwrap();
    for meta in listed {
        let bytes = from.get(&meta.location).await.unwrap().bytes().await.unwrap();
        to.put(&meta.location, bytes.into()).await.unwrap();
    }
    to
}

/// A process that starts with the same randomness as every other clone.
fn clone_of(repo: &TestRepo, store: Arc<dyn ObjectStore>, sealer: &Arc<ClonedSealer>) -> Repository {
    let (same, _) = host(7);
    let host = Host { sealer: sealer.clone(), ..same };
    Repository { host, ..repo.through(store) }
}

#[tokio::test(start_paused = true)]
async fn clones_forks_and_crashes_never_seal_two_texts_alike() {
    let repo = TestRepo::new(1).await;
    let sealer = Arc::new(ClonedSealer { real: repo.host.sealer.clone(), sealed: Arc::default() });
    let mut record = Record::default();
    let mut disk = noise(1, 3 << 20);
    for round in 0..4 {
        disk[100_000] ^= round;
        let store = copy(&*repo.memory).await;
        let process = clone_of(&repo, store.clone(), &sealer);
        back_up(&process, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
        // Its second session draws what other processes draw for theirs.
        back_up(&process, "web02", MemoryDisk::new(noise(u64::from(round), 1 << 20))).await.unwrap();
        record.take(&process, &*store).await;
    }
    for call in (6..40).step_by(3) {
        let memory = copy(&*repo.memory).await;
        let store = TestStore::new(memory.clone());
        store.crash_at(call, Cut::After);
        disk[200_000] ^= call as u8;
        let process = clone_of(&repo, store, &sealer);
        let _ = back_up(&process, "web01", MemoryDisk::new(disk.clone())).await;
        // It starts again, with the same randomness once more.
        let again = clone_of(&repo, memory.clone(), &sealer);
        back_up(&again, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
        record.take(&again, &*memory).await;
    }
    // Without these the test would prove nothing: one name, one session key, several texts.
    let forked = record.by_name.values().filter(|texts| texts.len() > 1).count();
    assert!(forked >= 4, "only {forked} of {} units were sealed from several texts", record.by_name.len());
}

/// Regions are scanned on many threads at once, in an order that nobody fixes; clones hold the same session keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn regions_in_parallel_never_seal_two_texts_alike() {
    let repo = TestRepo::new(2).await;
    let sealer = Arc::new(ClonedSealer { real: repo.host.sealer.clone(), sealed: Arc::default() });
    let threads = Host::real("sancerre test").pool;
    let mut record = Record::default();
    let mut disk = noise(2, 8 << 20);
    for round in 0..6 {
        disk[3 << 20] ^= round;
        let store = copy(&*repo.memory).await;
        let mut process = clone_of(&repo, store.clone(), &sealer);
        process.host.pool = threads.clone();
        back_up(&process, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
        record.take(&process, &*store).await;
    }
    let forked = record.by_name.values().filter(|texts| texts.len() > 1).count();
    assert!(forked >= 4, "only {forked} of {} units were sealed from several texts", record.by_name.len());
}
