//! The shortest way from a repository to a snapshot and to one of its disks.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::repository::snapshot::{SnapshotReader, open};
use crate::repository::snapshot_disk::{ChunkCache, SnapshotDisk};
use crate::select::Selector;

/// Opens the snapshot that people call so: `latest`, `VM:latest`, `VM:latest~1`, or the beginning of its id.
///
/// Errors: [`Error::Usage`] when there is none of that name, [`Error::Forgotten`]; as [`restore::open`](crate::restore::open).
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_host().await?, &scene.monitor);
/// # save(&repository).await?;
/// let snapshot = open_snapshot(&repository, "web01:latest", monitor).await?;
/// assert_eq!(snapshot.member("disk0").unwrap().size_bytes, 5);
/// assert!(open_snapshot(&repository, "db01:latest", monitor).await.is_err());
/// # Ok(()) }
/// ```
pub async fn open_snapshot(
    repository: &Repository,
    which: &str,
    monitor: &Monitor,
) -> Result<SnapshotReader> {
    let log = Log::load_recent(repository, monitor).await?;
    let session = Selector::parse(which)?.resolve(repository, &log)?;
    open(repository, &log, session).await
}

/// Opens a disk of a snapshot for reads at any offset, with a cache of its own. Every byte is compared with its id.
///
/// [`SnapshotDisk::open`] takes a cache that several disks share, and
/// [`BlockingSnapshotDisk`](crate::BlockingSnapshotDisk) makes it a [`Disk`](crate::Disk) for threads.
///
/// Errors: [`Error::Usage`] for a name that is not in the snapshot; as [`SnapshotDisk::open`].
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_reader().await?, &scene.monitor);
/// # save(&repository).await?;
/// let snapshot = open_snapshot(&repository, "latest", monitor).await?;
/// let disk = open_disk(&snapshot, "disk0", 64 << 20, monitor)?;
/// let mut bytes = [0; 3];
/// disk.read(1, &mut bytes).await?;
/// assert_eq!(&bytes, b"yte");
/// # Ok(()) }
/// ```
pub fn open_disk(
    snapshot: &SnapshotReader,
    name: &str,
    cache_bytes: u64,
    monitor: &Monitor,
) -> Result<Arc<SnapshotDisk>> {
    let member = snapshot.member(name).ok_or_else(|| {
        let names: Vec<&str> = snapshot.body().members.iter().map(|member| member.name.as_str()).collect();
        Error::Usage(format!("the snapshot has no disk {name}, but {}", names.join(", ")))
    })?;
    SnapshotDisk::open(snapshot, member, &ChunkCache::new(cache_bytes), monitor)
}
