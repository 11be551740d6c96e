//! The store: create-only writes, reads, listings, and the policy for answers that say nothing certain.
//!
//! Writes are in `create`, reads in `read` and `reader`. On a store with versions `versions` says which of them is the object. Below [`Store`] lie `retry`
//! (a store that is away is waited for), `transport` (HTTP whose time-outs count lack of progress, with limits of speed)
//! and [`traffic`] (what was asked and moved). [`probe`] finds out what a store really does; `s3` makes the few S3
//! requests that `object_store` has no name for.

mod cancel;
mod causes;
pub mod clock;
mod cloud;
mod create;
mod error;
mod folder;
mod left_out;
mod local;
pub mod location;
pub mod lock;
mod messages;
mod naming;
mod options;
pub mod probe;
mod rate_limit;
mod read;
mod reader;
mod removal;
mod retry;
mod s3;
mod strange;
pub mod traffic;
mod transport;
mod versions;
mod written;

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use sancerre_format::names::Time;
use tokio::sync::Semaphore;

use rate_limit::RateLimits;
use retry::RetryPolicy;
use strange::Strange;
use traffic::{RequestKind, Traffic};
use versions::Versions;

pub use cancel::Cancel;
pub use create::Creation;
pub use error::{Result, StoreError};
pub use local::Leftovers;
pub use lock::Locking;
pub use messages::explain;
pub use options::StoreOptions;
pub use read::Got;
pub use reader::RangeReader;
pub use removal::Removal;

/// What a create-only write found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// The object is there with exactly these bytes, now or since an earlier attempt of ours.
    Created,
    /// Somebody else's bytes are there; none are given of an object that is larger than its kind may be.
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

/// An object store that never overwrites.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    location: Arc<str>,
    shared: Arc<Shared>,
    /// Versions are not looked at: what a plain request sees is what is there.
    sees_current_only: bool,
    /// A failed read is not tried again.
    reads_once: bool,
}

/// What all clones of a store share.
struct Shared {
    patience: Arc<RetryPolicy>,
    traffic: Arc<Traffic>,
    /// For stores that no transport of ours lies below.
    local: Option<RateLimits>,
    /// If it is a folder of this machine.
    folder: Option<folder::Folder>,
    s3: Option<s3::S3>,
    versions: Versions,
    settings: Vec<String>,
    /// Room for small objects that are on their way, in KiB.
    room: Semaphore,
    /// Files that may still be opened; all that there are for stores that open none.
    files: Semaphore,
    strange: Arc<Strange>,
    /// What the provider's keys begin with, and ours do not.
    root: String,
}

impl Store {
    /// [`Store::with_options`] with the usual ones.
    pub fn new(inner: Arc<dyn ObjectStore>, location: &str) -> Self {
        Self::with_options(inner, location, &StoreOptions::default())
    }

    /// Wraps `inner`, a store without HTTP below it; `location` is for messages.
    pub fn with_options(inner: Arc<dyn ObjectStore>, location: &str, options: &StoreOptions) -> Self {
        Self::of_local(inner, location, options, Arc::default(), None)
    }

    /// A store that leaves out of its listings what is strange.
    fn of_local(
        inner: Arc<dyn ObjectStore>,
        location: &str,
        options: &StoreOptions,
        strange: Arc<Strange>,
        folder: Option<folder::Folder>,
    ) -> Self {
        let shared = Shared {
            patience: Arc::new(RetryPolicy::new(options)),
            traffic: Arc::default(),
            local: Some(RateLimits::new(options)),
            folder,
            s3: None,
            versions: Versions::default(),
            settings: Vec::new(),
            room: Semaphore::new(ROOM_KIB),
            files: Semaphore::new(options.files.min(Semaphore::MAX_PERMITS)),
            strange,
            root: String::new(),
        };
        Self::around(inner, location, shared)
    }

    /// Wraps a provider's store.
    pub(crate) fn of_cloud(cloud: cloud::Cloud, location: &str) -> Self {
        let shared = Shared {
            patience: cloud.patience,
            traffic: cloud.traffic,
            local: None,
            folder: None,
            s3: cloud.s3,
            versions: Versions::default(),
            settings: cloud.settings,
            room: Semaphore::new(ROOM_KIB),
            files: Semaphore::new(Semaphore::MAX_PERMITS),
            strange: cloud.strange,
            root: cloud.root,
        };
        Self::around(cloud.store, location, shared)
    }

    fn around(inner: Arc<dyn ObjectStore>, location: &str, shared: Shared) -> Self {
        let (location, shared) = (location.into(), Arc::new(shared));
        Self { inner, location, shared, sees_current_only: false, reads_once: false }
    }

    /// The same store with something between it and us: for tests that count, break or slow down what goes through.
    pub fn layered(
        &self,
        location: &str,
        options: &StoreOptions,
        layer: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Self {
        Self::of_local(layer(self.inner.clone()), location, options, self.shared.strange.clone(), None)
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
    pub(crate) fn s3(&self) -> Option<&s3::S3> {
        self.shared.s3.as_ref()
    }

    /// All keys with this prefix, which ends in a slash, in no certain order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.list_after(prefix, None).await
    }

    /// The same of the keys that follow `after`, in the order of their bytes.
    pub async fn list_after(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>> {
        if let Some(s3) = self.history().await? {
            return self.list_first(s3, prefix, after).await;
        }
        let listed = self.shared.patience.during(prefix, || self.try_list(prefix, after).boxed()).await;
        listed.map_err(|source| StoreError::Failed { operation: "list", key: prefix.to_owned(), source })
    }

    async fn try_list(&self, prefix: &str, after: Option<&str>) -> object_store::Result<Vec<Listed>> {
        self.account(RequestKind::List, 0, 0).await;
        let folder = folder_path(prefix)?;
        let entries = match after {
            Some(after) => self.inner.list_with_offset(Some(&folder), &path(after)?),
            None => self.inner.list(Some(&folder)),
        };
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
        listed.map_err(|source| StoreError::Failed { operation: "list", key: prefix.to_owned(), source })
    }

    async fn try_folders(&self, prefix: &str, history: Option<&s3::S3>) -> object_store::Result<Vec<String>> {
        if let Some(s3) = history {
            return versions::folders(s3, prefix).await;
        }
        self.account(RequestKind::List, 0, 0).await;
        let folders = self.inner.list_with_delimiter(Some(&folder_path(prefix)?)).await?.common_prefixes;
        Ok(folders.iter().filter_map(|folder| Some(folder.filename()?.to_owned())).collect())
    }

    /// Counts a call, and holds it to the limits of speed, where no transport of ours does.
    async fn account(&self, request: RequestKind, sent: usize, received: usize) {
        if let Some(pace) = &self.shared.local {
            self.shared.traffic.request(request);
            self.shared.traffic.sent(sent);
            self.shared.traffic.received(received);
            pace.wait(sent, received).await;
        }
    }
}

const IN_PART: &str = "an object came only in part";
/// What small objects on their way may take together: with 32 of them it matters only for hostile ones.
const ROOM_KIB: usize = 128 << 10;

/// A key as it is, for what a listing said must be found again.
///
/// Errors: that no object of that key can be read. Ours all can.
fn path(key: &str) -> object_store::Result<Path> {
    match strange::why_strange(key) {
        None => Ok(Path::parse(key)?),
        Some(why) => Err(object_store::Error::NotSupported { source: why.into() }),
    }
}

fn folder_path(prefix: &str) -> object_store::Result<Path> {
    path(prefix.strip_suffix('/').unwrap_or(prefix))
}
