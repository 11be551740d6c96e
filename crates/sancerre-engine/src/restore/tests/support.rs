//! A repository in memory whose objects can be damaged, and disks that are mostly holes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};
use sancerre_format::config::Layout;
use sancerre_format::id::SessionId;
use sancerre_format::names::{Folder, Name, Title, Zone};
use sancerre_format::outcome::MemberKind;
use sancerre_format::pack::PackKind;
use sancerre_image::{ChangedError, Disk, Left, RawTarget, ReadError};

use crate::backup::{Allow, BackupOptions, BackupSource, Dedup, Input, Maps, backup};
use crate::error::Result;
use crate::host::{Host, Sealer};
use crate::init::{NewRepository, init};
use crate::keys::{Keys, SecretString};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::catalogue::Catalogue;
use crate::repository::log::Log;
use crate::restore::{RestoreOptions, RestoreReport, SnapshotReader, dump, open, restore};
use crate::store::Store;

/// Real sealing, with a work factor that a test can afford.
struct QuickSealer(Arc<dyn Sealer>);

impl Sealer for QuickSealer {
    fn seal(&self, recipient: &str, secret: &[u8]) -> Result<Vec<u8>> {
        self.0.seal(recipient, secret)
    }

    fn seal_with_passphrase(&self, passphrase: &SecretString, secret: &[u8]) -> Result<Vec<u8>> {
        let mut recipient = age::scrypt::Recipient::new(passphrase.clone());
        recipient.set_work_factor(2);
        Ok(age::encrypt(&recipient, secret).unwrap())
    }
}

pub(crate) struct TestRepo {
    memory: Arc<InMemory>,
    pub(crate) repository: Repository,
    key_file: String,
    monitor: Monitor,
    warnings: Arc<Mutex<Vec<String>>>,
}

fn warner() -> (Monitor, Arc<Mutex<Vec<String>>>) {
    let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&warnings);
    (Monitor::new(move |event| kept.lock().unwrap().push(event.message)), warnings)
}

impl TestRepo {
    /// Small regions, leaves, frames and packs, so that small disks have many.
    pub(crate) async fn new() -> Self {
        let mut host = Host::real("sancerre test");
        host.sealer = Arc::new(QuickSealer(host.sealer));
        let memory = Arc::new(InMemory::new());
        let store = Store::new(memory.clone(), "memory");
        let layout = Layout {
            region_bytes: 1 << 20,
            leaf_bytes: 1 << 20,
            frame_bytes: 1 << 19,
            pack_bytes: 1 << 20,
            ..Layout::default()
        };
        let passphrase = SecretString::from("correct horse".to_owned());
        let zone = Zone::new("default").unwrap();
        let new = NewRepository {
            passphrase: passphrase.clone(),
            zone: zone.clone(),
            writer: Name::new("host1").unwrap(),
            approvals_needed: 0,
            layout,
        };
        let key_file = init(&store, &host, &new).await.unwrap().key_file.to_string();
        let keys = Keys::from_passphrase(&store, &zone, &passphrase).await.unwrap();
        let repository = Repository::open(store, host, keys).await.unwrap();
        let (monitor, warnings) = warner();
        Self { memory, repository, key_file, monitor, warnings }
    }

    /// The same repository, opened with the writer's key file.
    pub(crate) async fn as_writer(&self) -> Self {
        let keys = Keys::from_key_file(self.key_file.as_bytes()).unwrap();
        let Repository { store, host, .. } = self.repository.clone();
        let repository = Repository::open(store, host, keys).await.unwrap();
        let (monitor, warnings) = warner();
        Self { memory: self.memory.clone(), repository, key_file: self.key_file.clone(), monitor, warnings }
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap().clone()
    }

    pub(crate) async fn back_up(&self, disk: Arc<SparseDisk>) -> SessionId {
        let name = Title::new("disk0").unwrap();
        let options = BackupOptions {
            vm: Title::new("web01").unwrap(),
            public_name: None,
            machine: None,
            class: None,
            retain_until: None,
            sources: vec![BackupSource {
                name,
                kind: MemberKind::Disk,
                input: Input::Disk(disk),
                least_bytes: 0,
            }],
            tags: Vec::new(),
            allow: Allow { small: true, ..Allow::default() },
            only_unreadable: false,
            maps: Maps::default(),
            dedup: Dedup::Zone,
            statistics: false,
            catalogue: None,
            dry_run: false,
            memory_bytes: 300 << 20,
        };
        backup(&self.repository, options, &self.monitor).await.unwrap().snapshot.unwrap()
    }

    async fn open(&self, snapshot: SessionId) -> Result<SnapshotReader> {
        let log = Log::load(&self.repository).await?;
        open(&self.repository, &log, snapshot).await
    }

    /// Restores to `disk.raw` in a new folder.
    pub(crate) async fn restore_to_file(
        &self,
        snapshot: SessionId,
        memory_bytes: u64,
        monitor: &Monitor,
    ) -> Result<(TempFolder, RestoreReport)> {
        let folder = TempFolder(tempfile::tempdir().unwrap());
        let reader = self.open(snapshot).await?;
        let member = reader.member("disk0").unwrap();
        let path = folder.join("disk.raw");
        let target = Box::new(RawTarget::create(&path, member.size_bytes, false).unwrap());
        let options = RestoreOptions::new(memory_bytes);
        let report = restore(&reader, member, target, &options, monitor).await?;
        Ok((folder, report))
    }

    pub(crate) async fn restore(
        &self,
        snapshot: SessionId,
        memory_bytes: u64,
    ) -> Result<(Vec<u8>, RestoreReport)> {
        let (folder, report) = self.restore_to_file(snapshot, memory_bytes, &self.monitor).await?;
        Ok((std::fs::read(folder.join("disk.raw")).unwrap(), report))
    }

    /// What a restore that fails has written.
    pub(crate) async fn restore_partly(&self, snapshot: SessionId) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let reader = self.open(snapshot).await.unwrap();
        let member = reader.member("disk0").unwrap();
        let target = RawTarget::create(&folder.path().join("disk.raw"), member.size_bytes, false).unwrap();
        let options = RestoreOptions::new(64 << 20);
        let failure = restore(&reader, member, Box::new(target), &options, &self.monitor).await.unwrap_err();
        let Left::Partial { path, .. } = failure.left else { panic!("{failure:?}") };
        std::fs::read(path).unwrap()
    }

    pub(crate) async fn dump(
        &self,
        snapshot: SessionId,
        memory_bytes: u64,
    ) -> Result<(Vec<u8>, RestoreReport)> {
        let reader = self.open(snapshot).await?;
        let member = reader.member("disk0").unwrap();
        let mut out = Vec::new();
        let options = RestoreOptions::new(memory_bytes);
        let report = dump(&reader, member, &mut out, &options, &self.monitor).await?;
        Ok((out, report))
    }

    /// Keys of all packs of data or of metadata.
    pub(crate) async fn packs(&self, metadata: bool) -> Vec<String> {
        let log = Log::load(&self.repository).await.unwrap();
        let (catalogue, _) = Catalogue::load_all(&self.repository, &log).await.unwrap();
        let packs = catalogue.packs().filter(|(_, pack)| (pack.kind == PackKind::Metadata) == metadata);
        packs.map(|(name, _)| catalogue.key(&self.repository, name).unwrap()).collect()
    }

    pub(crate) async fn keys(&self, folder: Folder) -> Vec<String> {
        let listed = self.repository.list(folder).await.unwrap();
        listed.into_iter().map(|listed| listed.key).collect()
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.memory.delete(&Key::from(key)).await.unwrap();
    }

    pub(crate) async fn change(&self, key: &str, damage: fn(&mut Vec<u8>)) {
        let key = Key::from(key);
        let mut bytes = self.memory.get(&key).await.unwrap().bytes().await.unwrap().to_vec();
        damage(&mut bytes);
        self.memory.put(&key, PutPayload::from(bytes)).await.unwrap();
    }
}

#[derive(Debug)]
pub(crate) struct TempFolder(tempfile::TempDir);

impl TempFolder {
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A disk of which only some parts are not zeros.
pub(crate) struct SparseDisk {
    size_bytes: u64,
    parts: BTreeMap<u64, Vec<u8>>,
}

impl SparseDisk {
    pub(crate) fn new(size_bytes: u64, parts: BTreeMap<u64, Vec<u8>>) -> Arc<Self> {
        Arc::new(Self { size_bytes, parts })
    }

    pub(crate) fn of(bytes: &[u8]) -> Arc<Self> {
        Self::new(u64::try_from(bytes.len()).unwrap(), BTreeMap::from([(0, bytes.to_vec())]))
    }

    fn overlaps(&self, range: &Range<u64>) -> Vec<(Range<u64>, &[u8])> {
        let parts = self.parts.iter().map(|(at, bytes)| {
            let end = *at + u64::try_from(bytes.len()).unwrap();
            let both = range.start.max(*at)..range.end.min(end);
            let start = usize::try_from(both.start.saturating_sub(*at)).unwrap().min(bytes.len());
            let length = usize::try_from(both.end.saturating_sub(both.start)).unwrap();
            (both, bytes.get(start..start + length).unwrap_or_default())
        });
        parts.filter(|(range, _)| !range.is_empty()).collect()
    }

    /// Fails unless the file has exactly these bytes.
    pub(crate) fn compare(&self, path: &Path) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::open(path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), self.size_bytes);
        const STEP: u64 = 8 << 20;
        for at in (0..self.size_bytes).step_by(8 << 20) {
            let length = usize::try_from(STEP.min(self.size_bytes - at)).unwrap();
            let (mut wanted, mut found) = (vec![0; length], vec![0; length]);
            self.read_at(at, &mut wanted).unwrap();
            file.read_exact_at(&mut found, at).unwrap();
            assert!(wanted == found, "the file differs in the 8 MiB from {at}");
        }
    }
}

impl Disk for SparseDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::result::Result<(), ReadError> {
        buffer.fill(0);
        let end = offset + u64::try_from(buffer.len()).unwrap();
        for (range, bytes) in self.overlaps(&(offset..end)) {
            let start = usize::try_from(range.start - offset).unwrap();
            buffer[start..start + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn data_ranges(&self, range: Range<u64>) -> std::result::Result<Vec<Range<u64>>, ReadError> {
        Ok(self.overlaps(&range).into_iter().map(|(range, _)| range).collect())
    }

    fn next_data(&self, offset: u64) -> std::result::Result<Option<u64>, ReadError> {
        Ok(self.overlaps(&(offset..self.size_bytes)).first().map(|(range, _)| range.start))
    }

    fn check_unchanged(&self) -> std::result::Result<(), ChangedError> {
        Ok(())
    }

    fn path(&self) -> &Path {
        Path::new("memory")
    }
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = u64::try_from(seed).unwrap().wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Files of text and of noise, of odd sizes, with holes between them.
pub(crate) fn guest(seed: usize, size: usize) -> Vec<u8> {
    let mut disk = vec![0; size];
    let random = noise(seed + 1000, 4096);
    let (mut at, mut turn) = (0, 0);
    while at < size {
        let pick = |i: usize| usize::from(random[(turn * 4 + i) % random.len()]);
        let length = (pick(0) * 1200 + pick(1) + 1).min(size - at);
        match pick(2) % 4 {
            0 => {}
            1 => disk[at..at + length].copy_from_slice(&noise(seed + at, length)),
            _ => {
                let line = format!("patient {turn} of {seed}, seen at {at}; ");
                let text = line.bytes().cycle().take(length);
                disk[at..at + length].iter_mut().zip(text).for_each(|(byte, letter)| *byte = letter);
            }
        }
        at = (at + length).next_multiple_of(4096);
        turn += 1;
    }
    disk
}
