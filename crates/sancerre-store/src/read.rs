//! Reading objects: whole ones within the bounds of their kinds, ranges, and many at once.

use std::ops::Range;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange};
use sancerre_format::bytes::to_u64;
use sancerre_format::limits;
use sancerre_format::names;
use tokio::sync::SemaphorePermit;

use crate::causes;
use crate::error::{Result, StoreError};
use crate::naming::pack_folder;
use crate::traffic::RequestKind;
use crate::versions::VersionToRead;
use crate::{IN_PART, ROOM_KIB, Store, path};

/// Small reads in flight at once: enough to hide the latency of a bucket.
const READS_IN_FLIGHT: usize = 32;

/// What a whole read found.
enum Body {
    Bytes(Bytes),
    /// It has so many bytes, more than its kind may have; none of them was fetched.
    TooLarge(u64),
}

/// What became of one object of many: its bytes, or none if it is not there.
///
/// Errors: that this object cannot be had, while the store as such works.
pub type Got = Result<Option<Bytes>>;

impl Store {
    /// The whole object, or none.
    ///
    /// Errors: [`StoreError::TooLarge`] for one that is larger than its kind may be (FORMAT.md §1.4): nothing of it is fetched.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match self.read(key, GetOptions::default()).await? {
            None => Ok(None),
            Some(Body::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Body::TooLarge(size_bytes)) => Err(too_large(key, size_bytes)),
        }
    }

    /// The whole object, which must be there.
    ///
    /// Errors: as [`Store::get`]; [`StoreError::Missing`].
    pub async fn need(&self, key: &str) -> Result<Bytes> {
        self.get(key).await?.ok_or_else(|| StoreError::Missing { key: key.to_owned() })
    }

    /// A range of an object, which must be there and that long.
    ///
    /// Errors: [`StoreError::Withheld`] when it is this object alone that cannot be read.
    pub async fn need_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        match self.try_range(key, range).await {
            Err(error) => Err(self.about_one(error).await),
            read => read,
        }
    }

    async fn try_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let wanted = range.end.saturating_sub(range.start);
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        match self.read(key, options).await? {
            None => Err(StoreError::Missing { key: key.to_owned() }),
            Some(Body::TooLarge(size_bytes)) => Err(too_large(key, size_bytes)),
            Some(Body::Bytes(bytes)) if to_u64(bytes.len()) == wanted => Ok(bytes),
            Some(Body::Bytes(_)) => Err(short(key)),
        }
    }

    async fn read(&self, key: &str, options: GetOptions) -> Result<Option<Body>> {
        let place = self.place(key).await?;
        match self.read_at(key, &place, &options).await? {
            None => self.read_at(key, &self.second_place(key, &place).await?, &options).await,
            found => Ok(found),
        }
    }

    async fn read_at(&self, key: &str, place: &VersionToRead, options: &GetOptions) -> Result<Option<Body>> {
        let Some(version) = place.version() else { return Ok(None) };
        let options = GetOptions { version, ..options.clone() };
        let attempt = || self.try_read(key, options.clone()).boxed();
        let read = match self.reads_once {
            true => attempt().await,
            false => self.shared.patience.during(key, attempt).await,
        };
        match read {
            Ok(body) => Ok(Some(body)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::Failed { operation: "read", key: key.to_owned(), source }),
        }
    }

    async fn try_read(&self, key: &str, options: GetOptions) -> object_store::Result<Body> {
        let is_range = options.range.is_some();
        let read = async {
            let _file = self.file().await;
            let found = self.inner.get_opts(&path(key)?, options).await?;
            let wanted = found.range.end.saturating_sub(found.range.start);
            if !is_range && limits::check(key, wanted).is_err() {
                return Ok(Body::TooLarge(wanted));
            }
            let _room = if is_range { None } else { self.room_for(key, wanted).await };
            let bytes = found.bytes().await?;
            let is_whole = to_u64(bytes.len()) == wanted;
            if is_whole { Ok(Body::Bytes(bytes)) } else { Err(causes::transient(IN_PART)) }
        };
        let body = read.await;
        let received = if let Ok(Body::Bytes(bytes)) = &body { bytes.len() } else { 0 };
        self.account(RequestKind::Get, 0, received).await;
        body
    }

    /// Waits until there is memory for one more object; whoever reads packs counts for himself.
    async fn room_for(&self, key: &str, size_bytes: u64) -> Option<SemaphorePermit<'_>> {
        let kib = usize::try_from(size_bytes / 1024).unwrap_or(ROOM_KIB).clamp(1, ROOM_KIB);
        match pack_folder(key) {
            None => self.shared.room.acquire_many(u32::try_from(kib).unwrap_or(1)).await.ok(),
            Some(_) => None,
        }
    }

    /// Reads many objects, many at a time, ascending by key.
    ///
    /// Errors: the store's, when it does not work as such; the inner ones are of single objects.
    pub async fn get_all(&self, keys: Vec<String>) -> Result<Vec<(String, Got)>> {
        let mut all: Vec<(String, Got)> = self.get_each(keys).try_collect().await?;
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(all)
    }

    /// The same one by one, as they come. Whoever takes them in memory decides what stays.
    pub fn get_each(&self, keys: Vec<String>) -> impl Stream<Item = Result<(String, Got)>> + Send {
        let read = keys.into_iter().map(move |key| async move {
            let got = match self.get(&key).await {
                // One sector that cannot be read, one object in a cold class: no reason to give up all others.
                Err(error @ StoreError::Failed { .. }) if self.works().await => Err(error),
                Err(error @ StoreError::TooLarge { .. }) => Err(error),
                got => Ok(got?),
            };
            Ok((key, got))
        });
        futures::stream::iter(read).buffer_unordered(READS_IN_FLIGHT)
    }

    /// Whether the store as such works: what another object's failure is about is then that object.
    pub async fn works(&self) -> bool {
        matches!(self.get(names::CONFIG).await, Ok(Some(_)))
    }
}

fn too_large(key: &str, size_bytes: u64) -> StoreError {
    match limits::check(key, size_bytes) {
        Err(source) => StoreError::TooLarge { key: key.to_owned(), source },
        Ok(()) => short(key),
    }
}

pub(crate) fn short(key: &str) -> StoreError {
    let source =
        object_store::Error::Generic { store: "store", source: "the answer is shorter than asked".into() };
    StoreError::Failed { operation: "read", key: key.to_owned(), source }
}
