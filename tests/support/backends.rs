//! The kinds of store that repositories are kept on, each with a fresh place in it.

use std::sync::Arc;

use object_store::memory::InMemory;
use sancerre_engine::location;
use sancerre_engine::store::{Store, StoreOptions};
use sancerre_services::{azurite, seaweedfs};

use crate::bucket::{FakeBucket, Features};

/// A store, and what must be kept for as long as it is used.
pub struct Backend {
    pub store: Store,
    _folder: Option<tempfile::TempDir>,
    _bucket: Option<FakeBucket>,
}

impl Backend {
    fn of(store: Store) -> Self {
        Self { store, _folder: None, _bucket: None }
    }

    pub async fn memory() -> Option<Self> {
        Some(Self::of(Store::new(Arc::new(InMemory::new()), "memory")))
    }

    pub async fn folder() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let store = location::open(folder.path().to_str().unwrap(), [], true, &StoreOptions::default());
        Some(Self { _folder: Some(folder), ..Self::of(store.unwrap()) })
    }

    /// A real S3 server.
    pub async fn s3() -> Option<Self> {
        let server = seaweedfs()?;
        let variables = server.variables(seaweedfs::ADMIN);
        Some(Self::of(
            location::open(&server.location(), variables, false, &StoreOptions::default()).unwrap(),
        ))
    }

    /// A bucket of it that keeps versions.
    pub async fn versions() -> Option<Self> {
        let server = seaweedfs()?;
        let bucket = server.bucket(seaweedfs::Bucket::Versioned).unwrap();
        let (place, variables) = (format!("s3://{bucket}/repo"), server.variables(seaweedfs::ADMIN));
        Some(Self::of(location::open(&place, variables, false, &StoreOptions::default()).unwrap()))
    }

    /// A real Azure server.
    pub async fn azure() -> Option<Self> {
        let server = azurite()?;
        let opened = location::open(&server.location(), server.variables(), false, &StoreOptions::default());
        Some(Self::of(opened.unwrap()))
    }

    /// The client of GCS on a bucket of our own: no emulator speaks the part of its interface that the client uses.
    pub async fn gcs() -> Option<Self> {
        let bucket = FakeBucket::start(Features::default()).await;
        let (place, variables) = bucket.gcs();
        let store = location::open(&place, variables, false, &StoreOptions::default()).unwrap();
        Some(Self { _bucket: Some(bucket), ..Self::of(store) })
    }
}
