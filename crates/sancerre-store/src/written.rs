//! When an object was written, by the store's clock; and the turn of whoever opens a file.

use futures::FutureExt;
use object_store::ObjectStoreExt;
use sancerre_format::names::Time;
use tokio::sync::SemaphorePermit;

use crate::error::{Result, StoreError};
use crate::traffic::RequestKind;
use crate::{Store, path};

impl Store {
    /// When the store saw an object written; none if it is not there.
    pub async fn written_at(&self, key: &str) -> Result<Option<Time>> {
        let attempt = || self.try_head(key).boxed();
        match self.shared.patience.during(key, attempt).await {
            Ok(written) => Ok(Some(written)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::Failed { operation: "look at", key: key.to_owned(), source }),
        }
    }

    async fn try_head(&self, key: &str) -> object_store::Result<Time> {
        self.account(RequestKind::Get, 0, 0).await;
        let _file = self.file().await;
        let meta = self.inner.head(&path(key)?).await?;
        Ok(Time::from_unix_seconds(meta.last_modified.timestamp()))
    }

    /// Waits until one more file may be opened. Nobody waits for anything but the kernel while having it.
    pub(crate) async fn file(&self) -> Option<SemaphorePermit<'_>> {
        self.shared.files.acquire().await.ok()
    }
}
