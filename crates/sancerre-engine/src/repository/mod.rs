//! A repository: its store, its constants, the keys at hand, and what its log says.

pub mod catalogue;
pub(crate) mod ends;
pub mod init;
pub mod log;
pub mod session;

use sancerre_format::certificate::Role;
use sancerre_format::config::Layout;
use sancerre_format::names::Folder;

use crate::cache::Cache;
use crate::error::Result;
use crate::host::Host;
use crate::keys::{self, Keys, SignerKey};
use crate::store::{Listed, Store};

/// An opened repository.
#[derive(Clone)]
pub struct Repository {
    /// Where its objects are.
    pub store: Store,
    /// Clock, randomness, sealing, processors.
    pub host: Host,
    /// What this process may do.
    pub keys: Keys,
    /// Sizes that all its hosts share.
    pub layout: Layout,
    /// Where a backup keeps what it would fetch again.
    pub cache: Cache,
}

impl Repository {
    /// Opens the repository with these keys, without a cache.
    ///
    /// Errors: no repository; a `config` that does not verify against the keys' trust anchor.
    pub async fn open(store: Store, host: Host, keys: Keys) -> Result<Self> {
        let config = keys::read_config(&store, Some(&keys.trust)).await?;
        let (layout, cache) = (config.fields.layout, Cache::default());
        Ok(Self { store, host, keys, layout, cache })
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

    /// Everything in a folder of this repository's zone, in no certain order.
    pub(crate) async fn list(&self, folder: Folder) -> Result<Vec<Listed>> {
        self.store.list(&self.folder(folder)).await
    }

    /// Prefix of a folder of this repository's zone.
    pub(crate) fn folder(&self, folder: Folder) -> String {
        sancerre_format::names::folder(&self.keys.zone, folder)
    }
}
