//! Skips chunks that the target already holds: reads them, verifies their ids, and leaves the rest to be fetched.
//!
//! Whatever lies there may be from an interrupted restore, from a disk that was damaged, or from anything else. Nothing
//! of it is believed: a chunk is kept when its bytes hash to the id that the map has for its place.

use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use sancerre_format::bytes::to_usize;
use sancerre_format::node::chunk_id;

use crate::error::Result;
use crate::restore::fetch::Fetcher;
use crate::restore::plan::Piece;
use crate::restore::sink::Sink;
use crate::restore::walk::Window;

/// Chunks compared by one job: some 5 MiB.
const CHUNKS_PER_JOB: usize = 64;

/// Leaves of a window what must be fetched, and takes what is there.
pub(super) async fn keep(fetcher: &Fetcher<'_>, sink: &Arc<Sink>, window: Window) -> Result<Window> {
    compare(fetcher, sink, window, Found::Taken).await
}

/// What becomes of a chunk that the target holds already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It is in place from then on.
    Taken,
    /// Nothing yet.
    Left,
}

/// Leaves of a window what the target does not hold.
pub(super) async fn compare(
    fetcher: &Fetcher<'_>,
    sink: &Arc<Sink>,
    window: Window,
    found: Found,
) -> Result<Window> {
    if sink.target.old().is_empty() {
        return Ok(window);
    }
    let id_key = fetcher.frames().repository().keys.zone_secrets()?.keys.id;
    let batches: Vec<Window> = window.chunks(CHUNKS_PER_JOB).map(<[_]>::to_vec).collect();
    let jobs = batches.into_iter().map(|chunks| {
        let sink = Arc::clone(sink);
        fetcher.compute(move || sink.keep(&id_key, chunks, found))
    });
    let mut jobs = std::pin::pin!(stream::iter(jobs).buffer_unordered(fetcher.jobs_ready()));
    let mut missing = Window::new();
    while let Some(batch) = jobs.try_next().await? {
        missing.extend(batch?);
    }
    Ok(missing)
}

impl Sink {
    /// Returns the chunks that are not there.
    fn keep(&self, id_key: &[u8; 32], mut chunks: Window, found: Found) -> Result<Window> {
        let mut buffer = Vec::new();
        let mut failed = Ok(());
        chunks.retain(|(_, chunk)| {
            match self.monitor.check().and_then(|()| self.keep_chunk(id_key, chunk, &mut buffer, found)) {
                Ok(kept) => !kept,
                Err(error) => {
                    failed = Err(error);
                    true
                }
            }
        });
        failed.map(|()| chunks)
    }

    fn keep_chunk(
        &self,
        id_key: &[u8; 32],
        chunk: &Piece,
        buffer: &mut Vec<u8>,
        found: Found,
    ) -> Result<bool> {
        // What the survey found there is not read again.
        if found == Found::Taken && self.is_unchanged(&chunk.disk()) {
            self.count_kept(u64::from(chunk.size_bytes));
            return Ok(true);
        }
        buffer.resize(to_usize(chunk.size_bytes), 0);
        for old in self.target.old() {
            if old.read_at(chunk.at, buffer) && chunk_id(id_key, buffer) == chunk.id {
                if found == Found::Taken {
                    self.kept(chunk.at, buffer, old.is_in_place())?;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }
}
