//! A cache on this machine's disk of what never changes: log entries, outcomes, pack lists, index segments and map nodes,
//! as the store has them, so that a nightly backup does not fetch them again.
//!
//! Nothing depends on it. It may be deleted at any time, whole or file by file, and two processes may share it. What is
//! read from it is verified as if the store had sent it; what does not verify, and what cannot be read, is fetched. What
//! the store itself has that does not verify is fetched once: `refused`.

mod objects;
mod refused;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sancerre_advice::Setting::{CacheFolder, NoCache};
use sancerre_format::bytes::to_u64;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::host::Host;
use crate::repository::Repository;

pub use objects::{Read, Wanted};

/// When it is too large, the entries that were not used for longest go until this share of its limit is left.
const KEPT: f64 = 0.8;
/// Digits of an entry's name.
const NAME_DIGITS: usize = 64;

/// A cache, or none.
#[derive(Clone, Default)]
pub struct Cache(Option<Arc<Folder>>);

struct Folder {
    path: PathBuf,
    limit_bytes: u64,
    /// What its files take; not known before the first write.
    used_bytes: Mutex<Option<u64>>,
    /// Set when it cannot be written to, which is told once.
    is_off: AtomicBool,
    warn: Arc<dyn Fn(String) + Send + Sync>,
}

impl Cache {
    /// A cache in `folder`, which is made when something is written, of at most about `limit_bytes`. `warn` is told when
    /// it cannot be written to.
    pub fn new(folder: PathBuf, limit_bytes: u64, warn: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(Folder {
            path: folder,
            limit_bytes,
            used_bytes: Mutex::new(None),
            is_off: AtomicBool::new(false),
            warn: Arc::new(warn),
        })))
    }

    /// What it has, in the order of `names`.
    async fn get(&self, host: &Host, names: Vec<Option<String>>) -> Result<Vec<Option<Bytes>>> {
        let Some(folder) = self.0.clone() else { return Ok(vec![None; names.len()]) };
        let now = SystemTime::UNIX_EPOCH + since_epoch(host);
        host.compute(move || names.iter().map(|name| folder.read(name.as_ref()?, now)).collect()).await
    }

    async fn put(&self, host: &Host, entries: Vec<(String, Bytes)>) -> Result<()> {
        let Some(folder) = self.0.clone().filter(|_| !entries.is_empty()) else { return Ok(()) };
        let salt = hex(&host.random::<8>());
        host.compute(move || entries.iter().for_each(|(name, bytes)| folder.put(name, &salt, bytes))).await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn since_epoch(host: &Host) -> Duration {
    Duration::from_secs(u64::try_from(host.clock.now().unix_seconds()).unwrap_or(0))
}

/// The part of an object that is all of it.
const WHOLE: &str = "";

impl Repository {
    /// What `read` makes of a range of an object that never changes, from the cache or from the store.
    ///
    /// Errors: the store's, and those of `read` over what the store gave.
    pub async fn cached<T, F: Future<Output = Result<T>>>(
        &self,
        key: &str,
        range: Range<u64>,
        read: impl Fn(Bytes) -> F,
    ) -> Result<T> {
        let part = format!("{}-{}", range.start, range.end);
        self.cached_part(key, &part, range, read).await
    }

    /// The same of a whole object.
    ///
    /// Errors: as [`Repository::cached`].
    pub(crate) async fn cached_whole<T, F: Future<Output = Result<T>>>(
        &self,
        key: &str,
        size_bytes: u64,
        read: impl Fn(Bytes) -> F,
    ) -> Result<T> {
        self.cached_part(key, WHOLE, 0..size_bytes, read).await
    }

    async fn cached_part<T, F: Future<Output = Result<T>>>(
        &self,
        key: &str,
        part: &str,
        range: Range<u64>,
        read: impl Fn(Bytes) -> F,
    ) -> Result<T> {
        if range.is_empty() {
            return read(Bytes::new()).await;
        }
        let name = self.entry_name(key, part);
        let length = range.end.saturating_sub(range.start);
        let cached = self.cache.get(&self.host, vec![Some(name.clone())]).await?.pop().flatten();
        if let Some(bytes) = cached.filter(|bytes| to_u64(bytes.len()) == length)
            && let Ok(value) = read(bytes).await
        {
            return Ok(value);
        }
        let bytes = self.store.need_range(key, range).await?;
        let value = read(bytes.clone()).await?;
        self.cache.put(&self.host, vec![(name, bytes)]).await?;
        Ok(value)
    }

    /// Keeps a small object that this process wrote itself, under a key that can name no other.
    pub async fn keep(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.cache.put(&self.host, vec![(self.entry_name(key, WHOLE), bytes)]).await
    }

    /// Repositories may share a cache.
    fn entry_name(&self, key: &str, part: &str) -> String {
        let repository = self.keys.trust.repository;
        hex(&Sha256::digest(format!("{repository}\n{key}\n{part}")))
    }
}

impl Folder {
    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name.get(..2).unwrap_or_default()).join(name)
    }

    /// Reads an entry, and notes that it was used.
    fn read(&self, name: &str, now: SystemTime) -> Option<Bytes> {
        let path = self.file(name);
        let bytes = fs::read(&path).ok()?;
        // Without the note it goes earlier.
        let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(now));
        Some(bytes.into())
    }

    /// Writes an entry; failures are told once.
    fn put(&self, name: &str, salt: &str, bytes: &[u8]) {
        if self.is_off.load(Ordering::Relaxed) {
            return;
        }
        let written = self.write(name, salt, bytes).and_then(|()| self.make_room(bytes.len()));
        if let Err(error) = written
            && !self.is_off.swap(true, Ordering::Relaxed)
        {
            (self.warn)(format!(
                "the cache {} cannot be written to: {error}; the next backup will fetch more ({CacheFolder} names another \
                 folder, {NoCache} does without)",
                self.path.display()
            ));
        }
    }

    fn write(&self, name: &str, salt: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.file(name);
        let folder = path.parent().unwrap_or(&self.path);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Whole or not at all: another process may read it now.
        let partial = folder.join(format!("{name}.{salt}"));
        let written = File::create_new(&partial).and_then(|mut file| file.write_all(bytes));
        let written = written.and_then(|()| fs::rename(&partial, &path));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written
    }

    /// Counts what was added, and removes what was not used for longest when that is too much.
    fn make_room(&self, added: usize) -> io::Result<()> {
        let mut used_bytes = self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let used = match *used_bytes {
            Some(used) => used.saturating_add(to_u64(added)),
            None => self.entries()?.iter().map(|entry| entry.size_bytes).sum(),
        };
        *used_bytes = Some(if used > self.limit_bytes { self.shrink()? } else { used });
        Ok(())
    }

    /// Returns what is left.
    fn shrink(&self) -> io::Result<u64> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.modified));
        let most = (self.limit_bytes as f64 * KEPT) as u64;
        let (mut used, mut kept) = (0_u64, 0_u64);
        for entry in entries {
            used = used.saturating_add(entry.size_bytes);
            match used <= most {
                true => kept = used,
                // Another process may have been faster.
                false => drop(fs::remove_file(&entry.path)),
            }
        }
        Ok(kept)
    }

    /// Our own files, and nobody else's, should the folder hold more.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for folder in fs::read_dir(&self.path)?.flatten().filter(|folder| is_ours(&folder.path(), 2)) {
            for file in
                fs::read_dir(folder.path())?.flatten().filter(|file| is_ours(&file.path(), NAME_DIGITS))
            {
                // Gone in between.
                let Ok(metadata) = file.metadata() else { continue };
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                entries.push(Entry { path: file.path(), modified, size_bytes: metadata.len() });
            }
        }
        Ok(entries)
    }
}

struct Entry {
    path: PathBuf,
    modified: SystemTime,
    size_bytes: u64,
}

/// Whether a name begins with so many hexadecimal digits, and has no others (but the salt of an unfinished entry).
fn is_ours(path: &Path, digits: usize) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    stem.len() == digits && stem.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(limit_bytes: u64) -> (tempfile::TempDir, Folder, Arc<Mutex<Vec<String>>>) {
        let parent = tempfile::tempdir().unwrap();
        let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = warnings.clone();
        let cache = Cache::new(parent.path().join("cache"), limit_bytes, move |text| {
            heard.lock().unwrap().push(text);
        });
        (parent, Arc::into_inner(cache.0.unwrap()).unwrap(), warnings)
    }

    fn name(number: u8) -> String {
        hex(&Sha256::digest([number]))
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_used_lately_stays() {
        let (_parent, folder, warnings) = cache(1000);
        for number in 0..9 {
            folder.put(&name(number), "salt", &[number; 100]);
            folder.read(&name(number), at(u64::from(number))).unwrap();
        }
        // The first is used again, then one more is too many.
        folder.read(&name(0), at(100)).unwrap();
        folder.put(&name(9), "salt", &[9; 150]);
        let there: Vec<u8> =
            (0..10).filter(|number| folder.read(&name(*number), at(200)).is_some()).collect();
        assert_eq!(
            there,
            [0, 3, 4, 5, 6, 7, 8, 9].into_iter().filter(|n| there.contains(n)).collect::<Vec<_>>()
        );
        assert!(there.contains(&0) && there.contains(&9) && !there.contains(&1), "{there:?}");
        assert!(folder.entries().unwrap().iter().map(|entry| entry.size_bytes).sum::<u64>() <= 800);
        assert!(warnings.lock().unwrap().is_empty());
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let (parent, folder, _) = cache(10);
        folder.put(&name(1), "salt", &[1; 5]);
        // Two files written at once may be of one time.
        folder.read(&name(1), at(0)).unwrap();
        let others = ["cache/letter.txt", "cache/ab/letter.txt", "cache/photos/ab"];
        for path in others {
            let path = parent.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, [0; 100]).unwrap();
        }
        folder.put(&name(2), "salt", &[2; 100]);
        assert!(others.iter().all(|path| parent.path().join(path).exists()));
        assert!(folder.read(&name(1), at(1)).is_none());
    }

    #[test]
    fn a_folder_that_takes_nothing_is_told_once() {
        let (parent, folder, warnings) = cache(1000);
        fs::write(parent.path().join("cache"), "a file").unwrap();
        folder.put(&name(1), "salt", &[1; 5]);
        folder.put(&name(2), "salt", &[1; 5]);
        assert!(folder.read(&name(1), at(1)).is_none());
        let warnings = warnings.lock().unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("no_cache"), "{warnings:?}");
    }
}
