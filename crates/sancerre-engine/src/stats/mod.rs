//! What a repository holds, how much of that snapshots need, and what each machine's are the only ones to need.
//!
//! ```text
//! manifests ──> frames that each machine needs ─┐
//! pack lists ──> both ends of every pack ───────┴─> count (pure)
//! ```
//!
//! Frames are counted whole: one of which a single chunk is needed is needed. A chunk that two hosts stored at the same
//! time counts twice, as it costs twice.

mod count;

use futures::TryStreamExt;
use sancerre_format::names::Title;

use crate::error::{Error, ErrorKind, Result};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::catalogue::{Catalogue, Present};
use crate::repository::log::Log;
use crate::repository::pack_ends::{PackRef, fetch_all};
use count::{Count, Needs};

pub use count::{CLASSES, SizeClass};

/// What a machine's live snapshots come to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineStats {
    /// Its name.
    pub vm: Title,
    /// How many.
    pub snapshots: u64,
    /// Sizes of all their disks.
    pub size_bytes: u64,
    /// The same without holes.
    pub data_bytes: u64,
    /// Stored bytes that they need.
    pub needed_bytes: u64,
    /// Stored bytes that no other machine's snapshots need.
    pub exclusive_bytes: u64,
}

/// What the zone holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Every machine that has live snapshots, by name.
    pub machines: Vec<MachineStats>,
    /// Data of needed frames before compression.
    pub unique_bytes: u64,
    /// The same as stored.
    pub packed_bytes: u64,
    /// Nodes of maps that are needed, as stored.
    pub maps_bytes: u64,
    /// All packs that the store has.
    pub stored_bytes: u64,
    /// What is in them that no snapshot needs.
    pub garbage_bytes: u64,
    /// Chunks of needed frames, by size.
    pub chunks: [SizeClass; CLASSES],
    /// Packs that could not be read, with the reason: what they hold is missing above.
    pub unread: Vec<String>,
    /// Bytes of files of writes that are under way, or died: no pack, and garbage once a day has passed.
    pub leftover_bytes: u64,
}

impl Stats {
    /// Sizes without holes of all live snapshots, together.
    pub fn data_bytes(&self) -> u64 {
        self.machines.iter().fold(0, |sum, machine| sum.saturating_add(machine.data_bytes))
    }

    /// How many times larger snapshots are than the data that is stored for them; none while there is none.
    pub fn dedup_ratio(&self) -> Option<f64> {
        ratio(self.data_bytes(), self.unique_bytes)
    }

    /// How many times larger that data is than the bytes that hold it.
    pub fn compression_ratio(&self) -> Option<f64> {
        ratio(self.unique_bytes, self.packed_bytes)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of a few digits")]
fn ratio(of: u64, to: u64) -> Option<f64> {
    (to > 0).then(|| of as f64 / to as f64)
}

/// Counts. Reads the log, the pack lists, and two ranges of every pack that the store has.
///
/// Errors: [`Error::WrongKey`] for a key of another zone; the store's. A pack that cannot be read is told in
/// [`Stats::unread`].
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_host().await?, &scene.monitor);
/// # save(&repository).await?;
/// use sancerre_engine::stats;
///
/// let counted = stats(&repository, monitor).await?;
/// assert!(counted.machines.len() == 1 && counted.stored_bytes > 0);
/// # Ok(()) }
/// ```
pub async fn stats(repository: &Repository, monitor: &Monitor) -> Result<Stats> {
    repository.keys.zone_secrets()?;
    let mut log = Log::load(repository).await?;
    let next = log.end();
    log.complete(repository, next).await?;
    let needs = Needs::of(&log)?;
    let (catalogue, _) = Catalogue::load_all(repository, &log).await?;
    let present = Present::load(repository).await?;
    let mut count = Count::new(&needs);
    let mut sources = Vec::new();
    for name in present.names() {
        let stored_bytes =
            present.found(name).iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
        count.stored(stored_bytes);
        match PackRef::find(&catalogue, name).filter(|source| present.has(name, &source.listed)) {
            Some(source) if needs.has_pack(&name) => sources.push(source),
            _ => count.garbage(stored_bytes),
        }
    }
    let mut read = std::pin::pin!(fetch_all(repository, sources, monitor));
    while let Some((source, ends)) = read.try_next().await? {
        let generation = log.generation(source.session.number);
        let root = repository.keys.metadata_root_in(&source.session, generation);
        let counted = root.and_then(|root| {
            count.pack(source.name, &ends?, &root).map_err(Error::object(&source.key(repository)))
        });
        match counted {
            // A key file does not open the generations of the zone's keys before its own.
            Err(error) if error.is_damage() || error.kind() == ErrorKind::WrongKey => {
                count.stats.unread.push(error.to_string());
            }
            counted => counted?,
        }
    }
    let leftover_bytes = repository.store.leftovers().await?.bytes;
    Ok(Stats { leftover_bytes, ..count.stats })
}
