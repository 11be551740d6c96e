//! The store: create-only writes, reads, listings, and the policy for answers that say nothing certain.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use sancerre_format::names::Time;

use crate::error::{Error, Result};

/// How often an ambiguous create is tried again, with pauses that double from [`PAUSE`].
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// What a create-only write found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// The object is there with exactly these bytes, now or since an earlier attempt of ours.
    Created,
    /// Somebody else's bytes are there.
    Occupied(Bytes),
}

/// An object's key, size and time, as a listing says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
    /// When the store last saw it written, by the store's clock.
    pub modified: Time,
}

/// An object store that never overwrites, and deletes for `gc` alone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    location: Arc<str>,
}

impl Store {
    /// Wraps `inner`; `location` is for messages.
    pub fn new(inner: Arc<dyn ObjectStore>, location: &str) -> Self {
        Self { inner, location: location.into() }
    }

    /// Where it is, as the user said.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Writes an object that must not exist yet.
    ///
    /// `AlreadyExists` and errors are ambiguous: `object_store` retries a lost answer and then meets its own
    /// object, and it does not retry a create that timed out. So the object is read back and compared.
    pub async fn put_new(&self, key: &str, bytes: Bytes) -> Result<Put> {
        let mut pause = PAUSE;
        let mut failure = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            let payload = PutPayload::from_bytes(bytes.clone());
            match self.inner.put_opts(&path(key), payload, PutMode::Create.into()).await {
                Ok(_) => return Ok(Put::Created),
                Err(error) => failure = Some(error),
            }
            // A read that fails here leaves the outcome open: the next round creates again.
            if let Ok(Some(found)) = self.get(key).await {
                return Ok(if found == bytes { Put::Created } else { Put::Occupied(found) });
            }
        }
        let source = failure.unwrap_or(object_store::Error::NotImplemented {
            operation: "put".into(),
            implementer: "store".into(),
        });
        Err(Error::Store { operation: "write", key: key.to_owned(), source })
    }

    /// Writes an object whose key nobody else uses.
    ///
    /// Errors: [`Error::Occupied`] when the key holds other bytes.
    pub async fn put_own(&self, key: &str, bytes: Bytes, advice: &'static str) -> Result<()> {
        match self.put_new(key, bytes).await? {
            Put::Created => Ok(()),
            Put::Occupied(_) => Err(Error::Occupied { key: key.to_owned(), advice }),
        }
    }

    /// The whole object, or none.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let read = async { self.inner.get(&path(key)).await?.bytes().await };
        optional(read.await, "read", key)
    }

    /// The whole object, which must be there.
    pub async fn need(&self, key: &str) -> Result<Bytes> {
        self.get(key).await?.ok_or_else(|| Error::Missing { key: key.to_owned() })
    }

    /// A range of an object, which must be there and that long.
    pub async fn need_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let wanted = range.end.saturating_sub(range.start);
        let read = optional(self.inner.get_range(&path(key), range).await, "read", key)?;
        let bytes = read.ok_or_else(|| Error::Missing { key: key.to_owned() })?;
        if u64::try_from(bytes.len()).ok() == Some(wanted) { Ok(bytes) } else { Err(short(key)) }
    }

    /// All keys with this prefix, which ends in a slash, in no certain order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let entries = self.inner.list(Some(&path(prefix)));
        let listed = entries.map_ok(|meta| Listed {
            key: meta.location.into(),
            size_bytes: meta.size,
            modified: Time::from_unix_seconds(meta.last_modified.timestamp()),
        });
        let failed = |source| Error::Store { operation: "list", key: prefix.to_owned(), source };
        listed.map_err(failed).try_collect().await
    }

    /// The names of the folders directly below this prefix, which ends in a slash, in no certain order.
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let listed = self.inner.list_with_delimiter(Some(&path(prefix))).await;
        let failed = |source| Error::Store { operation: "list", key: prefix.to_owned(), source };
        let folders = listed.map_err(failed)?.common_prefixes;
        Ok(folders.iter().filter_map(|folder| Some(folder.filename()?.to_owned())).collect())
    }

    /// Removes an object, or finds that it is gone. What replaces keys calls this, and `gc` for packs in committed lists.
    ///
    /// On a store with versions this must come to delete every version.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match self.inner.delete(&path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(Error::Store { operation: "remove", key: key.to_owned(), source }),
        }
    }

    /// Reads many objects, many at a time, in the order of `keys`.
    pub async fn get_all(&self, keys: Vec<String>) -> Result<Vec<(String, Option<Bytes>)>> {
        let read = keys.into_iter().map(|key| async move {
            let bytes = self.get(&key).await?;
            Ok((key, bytes))
        });
        futures::stream::iter(read).buffered(READS_IN_FLIGHT).try_collect().await
    }
}

/// Small reads in flight at once: enough to hide the latency of a bucket.
const READS_IN_FLIGHT: usize = 32;

fn path(key: &str) -> Path {
    Path::from(key)
}

fn short(key: &str) -> Error {
    let source =
        object_store::Error::Generic { store: "store", source: "the answer is shorter than asked".into() };
    Error::Store { operation: "read", key: key.to_owned(), source }
}

fn optional(read: object_store::Result<Bytes>, operation: &'static str, key: &str) -> Result<Option<Bytes>> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(source) => Err(Error::Store { operation, key: key.to_owned(), source }),
    }
}
