//! The one way in which something goes.

use futures::FutureExt;
use object_store::ObjectStoreExt;

use crate::error::{Result, StoreError};
use crate::traffic::RequestKind;
use crate::{Store, path};

/// Removing objects. Nobody has it by having a [`Store`]: whoever imports this says that it is his to delete. That is what
/// replaces keys, and `gc` for what committed lists name; tidy knows both.
pub trait Removal {
    /// Removes an object with all its versions, or finds that it is gone.
    ///
    /// Errors: [`StoreError::DeleteRefused`] for a version that the store does not delete.
    fn delete(&self, key: &str) -> impl Future<Output = Result<()>> + Send;
}

impl Removal for Store {
    async fn delete(&self, key: &str) -> Result<()> {
        if let Some(s3) = self.history().await? {
            return self.delete_versions(s3, key).await;
        }
        let removed = self.shared.patience.during(key, || self.try_delete(key).boxed()).await;
        match removed {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::Failed { operation: "remove", key: key.to_owned(), source }),
        }
    }
}

impl Store {
    async fn try_delete(&self, key: &str) -> object_store::Result<()> {
        self.account(RequestKind::Delete, 0, 0).await;
        self.inner.delete(&path(key)?).await
    }
}
