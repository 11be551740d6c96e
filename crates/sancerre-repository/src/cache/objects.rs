//! Reading many small objects: what the cache knows is not fetched, what is too large or was refused before neither.

use bytes::Bytes;
use futures::TryStreamExt;
use sancerre_format::bytes::to_u64;
use sancerre_format::id::Hash;
use sancerre_format::{FormatError, limits, record};

use super::WHOLE;
use crate::error::{Result, StoreError};
use crate::monitor::{Monitor, add};
use crate::repository::Repository;
use sancerre_store::{Got, Listed, explain};

/// What is kept in memory for the cache before it is written there.
const KEPT_BYTES: u64 = 16 << 20;

/// A small object to read, and what tells it from others that the same key might name.
///
/// The cache must not know better than the store: a repository may be an older copy of itself, in which log entries and
/// outcomes were made anew under the keys of those that are gone.
pub struct Wanted {
    /// Its key.
    pub key: String,
    /// Without one it is always fetched.
    tag: Option<String>,
    /// Tag and size as a listing says: other bytes have another mark. Without one it is not known whether its bytes were
    /// refused before.
    mark: Option<String>,
    size_bytes: Option<u64>,
}

impl Wanted {
    /// An object that a listing shows.
    pub fn listed(listed: Listed) -> Self {
        let Listed { key, size_bytes, tag, .. } = listed;
        let mark = tag.as_ref().map(|tag| format!("{tag} {size_bytes}"));
        Self { key, tag, mark, size_bytes: Some(size_bytes) }
    }

    /// An object that a listing shows, whose key can name no other, because a hash in it says which.
    pub(crate) fn unique_listed(listed: Listed) -> Self {
        Self { tag: Some(WHOLE.to_owned()), ..Self::listed(listed) }
    }

    /// An object whose key can name no other.
    pub fn unique(key: String) -> Self {
        Self { key, tag: Some(WHOLE.to_owned()), mark: None, size_bytes: None }
    }

    /// An object whose bytes have this hash, whatever else its key may name: the reader compares.
    pub fn with_hash(key: String, hash: &Hash) -> Self {
        Self { key, tag: Some(hash.to_string()), mark: None, size_bytes: None }
    }

    /// An object that perhaps is not there.
    pub fn by_name(key: String) -> Self {
        Self { key, tag: None, mark: None, size_bytes: None }
    }
}

/// A small object, and what became of its bytes.
pub struct Read<T> {
    /// Its key.
    pub key: String,
    /// Of its bytes, if they were had.
    pub hash: Hash,
    /// Also an error, in the same words, of an object that was not fetched.
    pub value: std::result::Result<T, FormatError>,
    /// Why it cannot be read now, though it is there and the store works.
    pub unread: Option<String>,
}

impl<T> Read<T> {
    fn not_fetched(key: String, source: FormatError) -> Self {
        Self { key, hash: Hash::of(&[]), value: Err(source), unread: None }
    }

    fn failed(key: String, error: StoreError) -> Self {
        let reason = match error {
            StoreError::TooLarge { source, .. } => return Self::not_fetched(key, source),
            StoreError::Failed { source, .. } => explain(&source),
            other => other.to_string(),
        };
        let detail = format!("it cannot be read: {reason}");
        let source = FormatError::Corrupt { what: limits::of_key(&key).0, detail };
        Self { unread: Some(reason), ..Self::not_fetched(key, source) }
    }
}

/// What is to be written to the cache.
#[derive(Default)]
struct ToWrite {
    entries: Vec<(String, Bytes)>,
    bytes: u64,
}

impl ToWrite {
    fn push(&mut self, name: String, bytes: Bytes) {
        self.bytes = self.bytes.saturating_add(to_u64(bytes.len()));
        self.entries.push((name, bytes));
    }

    async fn flush(&mut self, repository: &Repository) -> Result<()> {
        let Self { entries, .. } = std::mem::take(self);
        repository.cache.put(&repository.host, entries).await
    }
}

impl Repository {
    /// Small objects, ascending by key, without those that are not there: from the cache what `decode` accepts, the others
    /// from the store. Of what `decode` refuses only the hash of its bytes is kept, so that junk takes no memory. Progress
    /// counts their bytes.
    ///
    /// Errors: the store's, when it does not work as such.
    pub async fn read_all<T>(
        &self,
        wanted: Vec<Wanted>,
        monitor: &Monitor,
        decode: impl Fn(&str, &Bytes) -> std::result::Result<T, FormatError>,
    ) -> Result<Vec<Read<T>>> {
        let read = |key: String, bytes: &Bytes| Read {
            value: decode(&key, bytes),
            key,
            hash: Hash::of(bytes),
            unread: None,
        };
        let name = |wanted: &Wanted| Some(self.entry_name(&wanted.key, wanted.tag.as_deref()?));
        let names: Vec<Option<String>> = wanted.iter().map(name).collect();
        let cached = self.cache.get(&self.host, names).await?;
        let (mut all, mut missed) = (Vec::with_capacity(wanted.len()), Vec::new());
        for (wanted, bytes) in wanted.into_iter().zip(cached) {
            match bytes.map(|bytes| (read(wanted.key.clone(), &bytes), bytes.len())) {
                Some((read, length)) if read.value.is_ok() => {
                    add(&monitor.counters.done_bytes, to_u64(length));
                    all.push(read);
                }
                _ => missed.push(wanted),
            }
        }
        let missed = self.without_refused(missed, &mut all, read).await?;
        self.fetch(missed, monitor, &mut all, read).await?;
        all.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(all)
    }

    /// Those that have to be fetched; what is known of the others goes to `all`.
    async fn without_refused<T>(
        &self,
        wanted: Vec<Wanted>,
        all: &mut Vec<Read<T>>,
        read: impl Fn(String, &Bytes) -> Read<T>,
    ) -> Result<Vec<Wanted>> {
        let asked =
            wanted.iter().map(|wanted| Some((wanted.key.as_str(), wanted.mark.as_deref()?))).collect();
        let refused = self.refused(asked).await?;
        let mut missed = Vec::new();
        for (wanted, refused) in wanted.into_iter().zip(refused) {
            let too_large = limits::check(&wanted.key, wanted.size_bytes.unwrap_or(0)).err();
            match (too_large, refused) {
                (Some(source), _) | (None, Some(super::refused::Refused::Junk(source))) => {
                    all.push(Read::not_fetched(wanted.key, source));
                }
                // Judged anew: what the log says of its signer may have changed.
                (None, Some(super::refused::Refused::Signed(bytes))) => all.push(read(wanted.key, &bytes)),
                (None, None) => missed.push(wanted),
            }
        }
        Ok(missed)
    }

    async fn fetch<T>(
        &self,
        wanted: Vec<Wanted>,
        monitor: &Monitor,
        all: &mut Vec<Read<T>>,
        read: impl Fn(String, &Bytes) -> Read<T>,
    ) -> Result<()> {
        let keys = wanted.iter().map(|wanted| wanted.key.clone()).collect();
        let by_key: std::collections::HashMap<String, Wanted> =
            wanted.into_iter().map(|wanted| (wanted.key.clone(), wanted)).collect();
        let mut kept = ToWrite::default();
        let mut fetched = std::pin::pin!(self.store.get_each(keys));
        while let Some((key, got)) = fetched.try_next().await? {
            monitor.check()?;
            let Some(wanted) = by_key.get(&key) else { continue };
            let (read, bytes): (Read<T>, Bytes) = match got {
                Got::Ok(None) => continue,
                Got::Ok(Some(bytes)) => {
                    add(&monitor.counters.done_bytes, to_u64(bytes.len()));
                    (read(key, &bytes), bytes)
                }
                Got::Err(error) => {
                    all.push(Read::failed(key, error));
                    continue;
                }
            };
            let name = match &read.value {
                Ok(_) => wanted.tag.as_deref().map(|tag| (self.entry_name(&wanted.key, tag), bytes)),
                Err(error) => wanted.mark.as_deref().and_then(|mark| {
                    let signed = record::is_signed(&self.keys.trust, &bytes).then_some(bytes);
                    self.refused_entry(&wanted.key, mark, signed, error)
                }),
            };
            if let Some((name, bytes)) = name {
                kept.push(name, bytes);
            }
            if kept.bytes > KEPT_BYTES {
                kept.flush(self).await?;
            }
            all.push(read);
        }
        kept.flush(self).await
    }
}
