//! Finished packs on their way to the store, and what is published about them.

use bytes::Bytes;
use sancerre_format::index::IndexEntry;
use sancerre_format::list::ListedPack;
use sancerre_format::names;
use sancerre_format::pack::PackKind;
use tokio::task::JoinSet;

use super::packer::ReadyPack;
use crate::error::{Error, Result};
use crate::frames::SMALL_PACK_BYTES;
use crate::monitor::{Monitor, add};
use crate::repository::Repository;
use crate::repository::session::Session;
use crate::store::Creation;

/// Stored bytes after which a running session first tells the others what it has; doubled up to [`PUBLISH_BYTES_MAX`].
const PUBLISH_BYTES_MIN: u64 = 256 << 20;
const PUBLISH_BYTES_MAX: u64 = 32 << 30;
/// Entries held back at most: 60 MiB.
const ENTRIES_MAX: usize = 700_000;
/// Seconds after which it is time to publish whatever there is.
const PUBLISH_SECONDS: i64 = 600;

type Uploaded = (ListedPack, Vec<IndexEntry>);

/// Uploads packs, several at once, and publishes lists and index segments of those that are durable.
pub(super) struct Uploader {
    repository: Repository,
    monitor: Monitor,
    pub session: Session,
    in_flight: JoinSet<Result<Uploaded>>,
    in_flight_max: usize,
    packs: Vec<ListedPack>,
    /// The packs that signed lists of this session name: readers find these.
    pub published: Vec<ListedPack>,
    entries: Vec<IndexEntry>,
    unpublished_bytes: u64,
    publish_bytes: u64,
    published_at: i64,
    /// Bytes of all durable packs.
    pub stored_bytes: u64,
}

impl Uploader {
    pub(super) fn new(
        repository: &Repository,
        monitor: &Monitor,
        session: Session,
        in_flight_max: usize,
    ) -> Self {
        Self {
            published_at: repository.host.clock.now().unix_seconds(),
            repository: repository.clone(),
            monitor: monitor.clone(),
            session,
            in_flight: JoinSet::new(),
            in_flight_max,
            packs: Vec::new(),
            published: Vec::new(),
            entries: Vec::new(),
            unpublished_bytes: 0,
            publish_bytes: PUBLISH_BYTES_MIN,
            stored_bytes: 0,
        }
    }

    /// Starts uploads; waits while too many are under way, and publishes when it is time.
    pub(super) async fn submit(&mut self, ready: Vec<ReadyPack>) -> Result<()> {
        for pack in ready {
            self.wait_until(self.in_flight_max - 1).await?;
            self.start(pack);
        }
        self.collect_done()?;
        if self.is_time() {
            self.session.still_open(&self.repository).await?;
            self.publish().await?;
        }
        Ok(())
    }

    fn start(&mut self, ready: ReadyPack) {
        let (repository, monitor) = (self.repository.clone(), self.monitor.clone());
        self.in_flight.spawn(async move {
            let listed = ready.pack.listed();
            let key = names::pack(&repository.keys.zone, ready.pack.name, &ready.pack.hash);
            let advice = "another process uses this session; run the backup again";
            let bytes = Bytes::from(ready.pack.bytes);
            repository.store.put_own(&key, bytes.clone(), advice).await?;
            if ready.pack.kind != PackKind::Data && listed.size_bytes <= SMALL_PACK_BYTES {
                // The next backup of this machine begins with it.
                repository.keep(&key, bytes).await?;
            }
            add(&monitor.counters.stored_bytes, listed.size_bytes);
            Ok((listed, ready.entries))
        });
    }

    async fn wait_until(&mut self, in_flight: usize) -> Result<()> {
        while self.in_flight.len() > in_flight {
            let Some(done) = self.in_flight.join_next().await else { break };
            self.durable(done)?;
        }
        Ok(())
    }

    fn collect_done(&mut self) -> Result<()> {
        while let Some(done) = self.in_flight.try_join_next() {
            self.durable(done)?;
        }
        Ok(())
    }

    fn durable(&mut self, done: std::result::Result<Result<Uploaded>, tokio::task::JoinError>) -> Result<()> {
        let (pack, entries) = done.map_err(|_| Error::Worker)??;
        self.stored_bytes += pack.size_bytes;
        self.unpublished_bytes += pack.size_bytes;
        self.packs.push(pack);
        self.entries.extend(entries);
        Ok(())
    }

    fn is_time(&self) -> bool {
        let waited = self.repository.host.clock.now().unix_seconds() - self.published_at;
        !self.packs.is_empty()
            && (self.unpublished_bytes >= self.publish_bytes
                || self.entries.len() >= ENTRIES_MAX
                || waited >= PUBLISH_SECONDS)
    }

    async fn publish(&mut self) -> Result<()> {
        let mut packs = std::mem::take(&mut self.packs);
        packs.sort_unstable_by_key(|pack| pack.ordinal);
        let entries = std::mem::take(&mut self.entries);
        self.session.publish(&self.repository, packs.clone(), entries).await?;
        self.published.extend(packs);
        self.unpublished_bytes = 0;
        self.publish_bytes = (self.publish_bytes * 2).min(PUBLISH_BYTES_MAX);
        self.published_at = self.repository.host.clock.now().unix_seconds();
        Ok(())
    }

    /// Waits for every upload and publishes the rest.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.wait_until(0).await?;
        self.publish().await
    }

    /// Publishes what became durable before a failure, so that the next backup reuses it.
    pub(super) async fn salvage(&mut self) -> Result<()> {
        while let Some(done) = self.in_flight.join_next().await {
            // The failure that brought us here is reported; another one adds nothing.
            let _ = self.durable(done);
        }
        self.publish().await
    }
}
