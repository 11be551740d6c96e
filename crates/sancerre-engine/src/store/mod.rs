//! The store: create-only writes, reads, listings, and the policy for answers that say nothing certain.
//!
//! Writes are in `create`. On a store with versions `versions` says which of them is the object. Below [`Store`] lie `retry`
//! (a store that is away is waited for), `transport` (HTTP whose time-outs count lack of progress, with limits of speed)
//! and [`traffic`] (what was asked and moved). [`probe`] finds out what a store really does; [`s3`] makes the few S3
//! requests that `object_store` has no name for.

pub(crate) mod cloud;
mod create;
pub mod lock;
mod pace;
pub mod probe;
mod reader;
mod retry;
pub mod s3;
pub mod traffic;
mod transport;
mod versions;
mod words;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use sancerre_format::bytes::to_u64;
use sancerre_format::names::Time;

use crate::error::{Error, Result};
use crate::monitor::{Monitor, add};

use pace::Pace;
use retry::Patience;
use traffic::{Request, Traffic};
use versions::{Place, Versions};

pub use reader::RangeReader;
pub use retry::Hurry;
pub(crate) use words::explain;

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
    /// When the store saw it written, by the store's clock.
    pub modified: Time,
    /// What the store calls this very object: another one if the key was ever given other bytes. None where it says nothing.
    pub tag: Option<String>,
}

/// How a store is used.
#[derive(Clone)]
pub struct StoreOptions {
    /// How long an outage of the store is waited out.
    pub retry_for: Duration,
    /// Bytes a second that are sent at most.
    pub upload_limit: Option<u64>,
    /// Bytes a second that are received at most.
    pub download_limit: Option<u64>,
    /// How long a request may make no progress before it counts as lost. The answer to a large upload may take three
    /// times as long: its last bytes are still under way when the last was handed over.
    pub stall: Duration,
    /// Spreads the retries of hosts that failed at the same moment: any number that differs between processes.
    pub salt: u64,
    /// Tells the user that the store is away, and that it is back.
    pub notice: Arc<dyn Fn(String) + Send + Sync>,
    /// Ends the waiting when the user asks to stop.
    pub hurry: Hurry,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            retry_for: Duration::from_secs(15 * 60),
            upload_limit: None,
            download_limit: None,
            stall: Duration::from_secs(60),
            salt: 0,
            notice: Arc::new(|_| {}),
            hurry: Hurry::default(),
        }
    }
}

/// An object store that never overwrites.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    location: Arc<str>,
    shared: Arc<Shared>,
    /// Versions are not looked at: what a plain request sees is what is there.
    sees_current_only: bool,
}

/// What all clones of a store share.
struct Shared {
    patience: Arc<Patience>,
    traffic: Arc<Traffic>,
    /// For stores that no transport of ours lies below.
    local: Option<Pace>,
    s3: Option<s3::S3>,
    versions: Versions,
    settings: Vec<String>,
}

impl Store {
    /// Wraps `inner`, a store without HTTP below it, with the usual options; `location` is for messages.
    pub fn new(inner: Arc<dyn ObjectStore>, location: &str) -> Self {
        Self::with_options(inner, location, &StoreOptions::default())
    }

    /// Wraps `inner`, a store without HTTP below it; `location` is for messages.
    pub fn with_options(inner: Arc<dyn ObjectStore>, location: &str, options: &StoreOptions) -> Self {
        let shared = Shared {
            patience: Arc::new(Patience::new(options)),
            traffic: Arc::default(),
            local: Some(Pace::new(options)),
            s3: None,
            versions: Versions::default(),
            settings: Vec::new(),
        };
        Self { inner, location: location.into(), shared: Arc::new(shared), sees_current_only: false }
    }

    /// Wraps a provider's store.
    pub(crate) fn of_cloud(cloud: cloud::Cloud, location: &str) -> Self {
        let shared = Shared {
            patience: cloud.patience,
            traffic: cloud.traffic,
            local: None,
            s3: cloud.s3,
            versions: Versions::default(),
            settings: cloud.settings,
        };
        Self {
            inner: cloud.store,
            location: location.into(),
            shared: Arc::new(shared),
            sees_current_only: false,
        }
    }

    /// The same store with something between it and us: for tests that count, break or slow down what goes through.
    pub fn layered(
        &self,
        location: &str,
        options: &StoreOptions,
        layer: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Self {
        Self::with_options(layer(self.inner.clone()), location, options)
    }

    /// The same store seen by plain requests: for a probe, which must see what they do.
    pub(crate) fn current_only(&self) -> Self {
        Self { sees_current_only: true, ..self.clone() }
    }

    /// Where it is, as the user said.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Names of the provider's variables that were understood.
    pub fn settings(&self) -> &[String] {
        &self.shared.settings
    }

    /// Whether it is a provider's, and not a folder of this machine.
    pub fn is_remote(&self) -> bool {
        self.shared.local.is_none()
    }

    /// What was asked of the store so far.
    pub fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// The requests that only S3 has; none for other stores.
    pub fn s3(&self) -> Option<&s3::S3> {
        self.shared.s3.as_ref()
    }

    /// The whole object, or none.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        self.read(key, GetOptions::default()).await
    }

    /// The whole object, which must be there.
    pub async fn need(&self, key: &str) -> Result<Bytes> {
        self.get(key).await?.ok_or_else(|| Error::Missing { key: key.to_owned() })
    }

    /// A range of an object, which must be there and that long.
    pub async fn need_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let wanted = range.end.saturating_sub(range.start);
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let read = self.read(key, options).await?;
        let bytes = read.ok_or_else(|| Error::Missing { key: key.to_owned() })?;
        if u64::try_from(bytes.len()).ok() == Some(wanted) { Ok(bytes) } else { Err(short(key)) }
    }

    async fn read(&self, key: &str, options: GetOptions) -> Result<Option<Bytes>> {
        let place = self.place(key).await?;
        match self.read_at(key, &place, &options).await? {
            None => self.read_at(key, &self.second_place(key, &place).await?, &options).await,
            found => Ok(found),
        }
    }

    async fn read_at(&self, key: &str, place: &Place, options: &GetOptions) -> Result<Option<Bytes>> {
        let Some(version) = place.version() else { return Ok(None) };
        let options = GetOptions { version, ..options.clone() };
        let attempt = || self.try_read(key, options.clone()).boxed();
        match self.shared.patience.during(key, attempt).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(Error::Store { operation: "read", key: key.to_owned(), source }),
        }
    }

    async fn try_read(&self, key: &str, options: GetOptions) -> object_store::Result<Bytes> {
        let read = async {
            let found = self.inner.get_opts(&path(key), options).await?;
            let wanted = found.range.end.saturating_sub(found.range.start);
            let bytes = found.bytes().await?;
            let is_whole = u64::try_from(bytes.len()) == Ok(wanted);
            if is_whole { Ok(bytes) } else { Err(retry::transient(IN_PART)) }
        };
        let bytes = read.await;
        self.account(Request::Get, 0, bytes.as_ref().map_or(0, Bytes::len)).await;
        bytes
    }

    /// All keys with this prefix, which ends in a slash, in no certain order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        if let Some(s3) = self.history().await? {
            return self.list_first(s3, prefix).await;
        }
        let listed = self.shared.patience.during(prefix, || self.try_list(prefix).boxed()).await;
        listed.map_err(|source| Error::Store { operation: "list", key: prefix.to_owned(), source })
    }

    async fn try_list(&self, prefix: &str) -> object_store::Result<Vec<Listed>> {
        self.account(Request::List, 0, 0).await;
        let entries = self.inner.list(Some(&path(prefix)));
        let listed = entries.map_ok(|meta| Listed {
            key: meta.location.into(),
            size_bytes: meta.size,
            modified: Time::from_unix_seconds(meta.last_modified.timestamp()),
            tag: meta.e_tag,
        });
        listed.try_collect().await
    }

    /// The names of the folders directly below this prefix, which ends in a slash, in no certain order.
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let history = self.history().await?;
        let attempt = || self.try_folders(prefix, history).boxed();
        let listed = self.shared.patience.during(prefix, attempt).await;
        listed.map_err(|source| Error::Store { operation: "list", key: prefix.to_owned(), source })
    }

    async fn try_folders(&self, prefix: &str, history: Option<&s3::S3>) -> object_store::Result<Vec<String>> {
        if let Some(s3) = history {
            return versions::folders(s3, prefix).await;
        }
        self.account(Request::List, 0, 0).await;
        let folders = self.inner.list_with_delimiter(Some(&path(prefix))).await?.common_prefixes;
        Ok(folders.iter().filter_map(|folder| Some(folder.filename()?.to_owned())).collect())
    }

    /// Removes an object with all its versions, or finds that it is gone. What replaces keys calls this, and `gc` for
    /// packs in committed lists.
    ///
    /// Errors: [`Error::Kept`] for a version that the store does not delete.
    pub async fn delete(&self, key: &str) -> Result<()> {
        if let Some(s3) = self.history().await? {
            return self.delete_versions(s3, key).await;
        }
        let removed = self.shared.patience.during(key, || self.try_delete(key).boxed()).await;
        match removed {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(Error::Store { operation: "remove", key: key.to_owned(), source }),
        }
    }

    async fn try_delete(&self, key: &str) -> object_store::Result<()> {
        self.account(Request::Delete, 0, 0).await;
        self.inner.delete(&path(key)).await
    }

    /// Reads many objects, many at a time, in the order of `keys`.
    pub async fn get_all(&self, keys: Vec<String>) -> Result<Vec<(String, Option<Bytes>)>> {
        self.get_all_watched(keys, &Monitor::silent()).await
    }

    /// The same; progress counts their bytes.
    pub async fn get_all_watched(
        &self,
        keys: Vec<String>,
        monitor: &Monitor,
    ) -> Result<Vec<(String, Option<Bytes>)>> {
        let read = keys.into_iter().map(|key| async move {
            monitor.check()?;
            let bytes = self.get(&key).await?;
            add(&monitor.counters.done_bytes, bytes.as_ref().map_or(0, |bytes| to_u64(bytes.len())));
            Ok((key, bytes))
        });
        futures::stream::iter(read).buffered(READS_IN_FLIGHT).try_collect().await
    }

    /// Counts a piece of an answer, as [`Store::account`] does.
    async fn account_piece(&self, received: usize) {
        if let Some(pace) = &self.shared.local {
            self.shared.traffic.received(received);
            pace.wait(0, received).await;
        }
    }

    /// Counts a call, and holds it to the limits of speed, where no transport of ours does.
    async fn account(&self, request: Request, sent: usize, received: usize) {
        if let Some(pace) = &self.shared.local {
            self.shared.traffic.request(request);
            self.shared.traffic.sent(sent);
            self.shared.traffic.received(received);
            pace.wait(sent, received).await;
        }
    }
}

const IN_PART: &str = "an object came only in part";

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
