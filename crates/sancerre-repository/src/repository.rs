//! A repository: its store, its constants, and the keys at hand.

use std::sync::Arc;

use bytes::Bytes;
use sancerre_format::certificate::Role;
use sancerre_format::config::Layout;
use sancerre_format::names::Folder;
use sancerre_format::record::{self, Fields};

use crate::cache::Cache;
use crate::error::Result;
use crate::host::Host;
use crate::keys::{Anchored, Keys, SignerKey};
use sancerre_store::{Listed, Store};

/// An opened repository.
#[derive(Clone)]
pub struct Repository {
    /// Where its objects are.
    pub store: Store,
    /// Clock, randomness, sealing, processors.
    pub host: Host,
    /// What this process may do. Clones share them: secrets are in memory once.
    pub keys: Arc<Keys>,
    /// Sizes that all its hosts share.
    pub layout: Layout,
    /// How many other keepers must approve a forget, unless a zone's log says another number.
    pub approvals_needed: u32,
    /// Where a backup keeps what it would fetch again.
    pub cache: Cache,
}

impl Repository {
    /// Opens the repository with these keys, without a cache.
    ///
    /// Errors: no repository; a `config` that does not verify against the keys' trust anchor.
    pub async fn open(store: Store, host: Host, mut keys: Keys) -> Result<Self> {
        let anchored = Anchored::read(&store, Some(&keys.trust)).await?;
        let (layout, cache) = (anchored.config.layout, Cache::default());
        let approvals_needed = anchored.config.approvals_needed;
        keys.anchor(anchored);
        let keys = Arc::new(keys);
        Ok(Self { store, host, keys, layout, approvals_needed, cache })
    }

    /// The key that signs backups now.
    ///
    /// Errors: as [`Keys::signer`].
    pub fn writer(&self) -> Result<&SignerKey> {
        self.signer(&[Role::Writer])
    }

    /// The key at hand that signs now what these roles may sign.
    ///
    /// Errors: as [`Keys::signer`].
    pub fn signer(&self, roles: &[Role]) -> Result<&SignerKey> {
        self.keys.signer(roles, self.host.clock.now())
    }

    /// Encodes and signs a record, and reads it as every reader will: what those would refuse must not be written.
    ///
    /// Errors: [`Error::Unreadable`](crate::Error::Unreadable).
    pub fn sign<F: Fields>(
        &self,
        signer: &SignerKey,
        fields: &F,
        public: &[u8],
        sealed: &[u8],
    ) -> Result<Bytes> {
        let bytes = record::encode(fields, self.host.tool, &signer.key, public, sealed)?;
        let read = record::decode::<F>(&self.keys.trust, &bytes);
        let refused = |source| crate::Error::Unreadable { signer: signer.to_string(), source };
        read.map(|_| bytes.into()).map_err(refused)
    }

    /// Everything in a folder of this repository's zone, in no certain order.
    pub async fn list(&self, folder: Folder) -> Result<Vec<Listed>> {
        Ok(self.store.list(&self.folder(folder)).await?)
    }

    /// The same of what follows the key `after`.
    pub async fn list_after(&self, folder: Folder, after: Option<&str>) -> Result<Vec<Listed>> {
        Ok(self.store.list_after(&self.folder(folder), after).await?)
    }

    /// Prefix of a folder of this repository's zone.
    pub fn folder(&self, folder: Folder) -> String {
        sancerre_format::names::folder(&self.keys.zone, folder)
    }
}
