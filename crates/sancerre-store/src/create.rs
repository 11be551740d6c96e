//! Create-only writes, and what an uncertain answer to one came to.

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, TryStreamExt};
use object_store::{GetOptions, PutMode, PutPayload};
use sancerre_format::bytes::to_u64;
use sancerre_format::limits;

use crate::causes;
use crate::error::{Result, StoreError};
use crate::folder::Refused;
use crate::naming::pack_folder;
use crate::s3::S3;
use crate::traffic::RequestKind;
use crate::versions;
use crate::{IN_PART, Put, Store, path};

/// Writing new objects. Nobody has it by having a [`Store`]: whoever imports this says that it is his to add to a repository.
/// Those are the crates `repository` and `engine`, and `probe` for its own objects; tidy knows them.
pub trait Creation {
    /// Writes an object that must not exist yet.
    ///
    /// An answer may be lost, and the same request may then meet its own object; S3 also answers a conflict while
    /// somebody else is writing. So when the store says that the object exists, it is read back and compared. On a store
    /// with versions a create may succeed over a delete marker, so success too is believed only if ours came first.
    ///
    /// Errors: also bytes that no reader would take, for there are too many of them.
    fn put_new(&self, key: &str, bytes: Bytes) -> impl Future<Output = Result<Put>> + Send;

    /// Writes an object whose key nobody else uses.
    ///
    /// Errors: [`StoreError::Occupied`] when the key holds other bytes.
    fn put_own(&self, key: &str, bytes: Bytes, advice: &str) -> impl Future<Output = Result<()>> + Send;
}

impl Creation for Store {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<Put> {
        limits::check(key, to_u64(bytes.len())).map_err(StoreError::Bug)?;
        let history = self.history().await?;
        let attempt = || self.try_create(key, &bytes, history).boxed();
        let put = self.shared.patience.during(key, attempt).await;
        put.map_err(|source| self.not_written(key, source))
    }

    async fn put_own(&self, key: &str, bytes: Bytes, advice: &str) -> Result<()> {
        match self.put_new(key, bytes).await? {
            Put::Created => Ok(()),
            Put::Occupied(_) => Err(StoreError::Occupied { key: key.to_owned(), advice: advice.to_owned() }),
        }
    }
}

impl Store {
    fn not_written(&self, key: &str, source: object_store::Error) -> StoreError {
        match causes::find(&source) {
            Some(Refused::Elsewhere { .. }) => {
                StoreError::Vanished { key: key.to_owned(), location: self.location().to_owned() }
            }
            _ => StoreError::Failed { operation: "write", key: key.to_owned(), source },
        }
    }

    async fn try_create(&self, key: &str, bytes: &Bytes, history: Option<&S3>) -> object_store::Result<Put> {
        self.account(RequestKind::Put, bytes.len(), 0).await;
        let payload = PutPayload::from_bytes(bytes.clone());
        let _file = self.file().await;
        let version = match self.inner.put_opts(&path(key)?, payload, PutMode::Create.into()).await {
            Ok(done) => done.version,
            Err(object_store::Error::AlreadyExists { .. }) => return self.compare(key, bytes, history).await,
            Err(error) => return Err(error),
        };
        match history {
            // Nobody can know a pack's name before its bytes are there.
            Some(s3) if pack_folder(key).is_none() => self.confirm(s3, key, bytes, version.as_deref()).await,
            _ => Ok(Put::Created),
        }
    }

    /// Whether what was just written is the earliest version, and so the object.
    async fn confirm(
        &self,
        s3: &S3,
        key: &str,
        ours: &Bytes,
        version: Option<&str>,
    ) -> object_store::Result<Put> {
        match versions::first(s3, key).await? {
            Some(object) if Some(object.first.id.as_str()) == version => Ok(Put::Created),
            Some(object) => self.compare_with(key, ours, Some(object.first.id)).await,
            None => Err(causes::transient("the store took an object and then had none")),
        }
    }

    /// Whether the object that exists is ours.
    async fn compare(&self, key: &str, ours: &Bytes, history: Option<&S3>) -> object_store::Result<Put> {
        let Some(s3) = history else { return self.compare_with(key, ours, None).await };
        match versions::first(s3, key).await? {
            Some(object) => self.compare_with(key, ours, Some(object.first.id)).await,
            None => Err(refused_and_gone()),
        }
    }

    /// The same of a certain version. Holds a second copy of it only when it is not ours.
    async fn compare_with(
        &self,
        key: &str,
        ours: &Bytes,
        version: Option<String>,
    ) -> object_store::Result<Put> {
        let options = GetOptions { version, ..GetOptions::default() };
        let found = match self.inner.get_opts(&path(key)?, options).await {
            Ok(found) => found,
            // Somebody's write is under way, or was given up: ours is tried again.
            Err(object_store::Error::NotFound { .. }) => return Err(refused_and_gone()),
            Err(error) => return Err(error),
        };
        let size_bytes = found.meta.size;
        if size_bytes > to_u64(ours.len()) && limits::check(key, size_bytes).is_err() {
            // Somebody's, whatever it is; nothing of it is fetched.
            return Ok(Put::Occupied(Bytes::new()));
        }
        let (mut pieces, mut same, mut other) = (found.into_stream(), 0, None::<BytesMut>);
        while let Some(piece) = pieces.try_next().await? {
            match &mut other {
                None if ours.get(same..same + piece.len()) == Some(&piece[..]) => same += piece.len(),
                None => other = Some(ours.iter().take(same).chain(&piece).copied().collect()),
                Some(other) => other.extend_from_slice(&piece),
            }
        }
        let length = other.as_ref().map_or(same, BytesMut::len);
        self.account(RequestKind::Get, 0, length).await;
        if u64::try_from(length) != Ok(size_bytes) {
            return Err(causes::transient(IN_PART));
        }
        Ok(match other {
            None if same == ours.len() => Put::Created,
            None => Put::Occupied(ours.slice(..same)),
            Some(other) => Put::Occupied(other.freeze()),
        })
    }
}

fn refused_and_gone() -> object_store::Error {
    causes::transient("the store refused to create an object and then had none")
}
