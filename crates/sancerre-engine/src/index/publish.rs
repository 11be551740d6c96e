//! Publishing segments under a log entry of kind `index`.

use sancerre_format::id::SessionId;
use sancerre_format::index::{SealedSegment, SegmentName};
use sancerre_format::log::Kind;
use sancerre_format::names;
use sancerre_repository::index::sign_segment;

use crate::error::{Error, Result, StoreError};
use crate::repository::log::Log;
use crate::repository::{Repository, session};
use crate::store::Creation;

/// Publishes segments under a log entry of their own. Only the last one covers others: whoever dies halfway leaves
/// segments that add to the old ones and hide none.
pub(super) struct Publisher<'a> {
    repository: &'a Repository,
    /// The log entry.
    pub(super) id: SessionId,
    /// How many are published.
    pub(super) segments: u32,
    /// Their entries.
    pub(super) entries: u64,
}

impl<'a> Publisher<'a> {
    /// Takes a number in the log; `log` then knows all that is below it.
    pub(super) async fn announce(repository: &'a Repository, log: &mut Log) -> Result<Self> {
        let number = session::append(repository, log, Kind::Index, &[]).await?.number;
        log.refresh(repository).await?;
        log.complete(repository, number).await?;
        let key = names::log(&repository.keys.zone, number);
        let entry = log.entry(number).ok_or(Error::Store(StoreError::Missing { key }))?;
        Ok(Self { repository, id: entry.session, segments: 0, entries: 0 })
    }

    pub(super) async fn publish(&mut self, built: &SealedSegment, covers: Vec<SegmentName>) -> Result<()> {
        let (repository, sequence) = (self.repository, self.segments);
        let signer = repository.signer(Kind::Index.roles())?;
        let bytes = sign_segment(repository, signer, self.id, sequence, covers, built)?;
        let key = names::index(&repository.keys.zone, &self.id, sequence);
        repository.store.put_own(&key, bytes, "run the command again").await?;
        self.segments = sequence.saturating_add(1);
        self.entries = self.entries.saturating_add(built.entries);
        Ok(())
    }
}
