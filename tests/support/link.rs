//! A store behind a long line: an answer takes its time to begin, and each carries only so many bytes a second.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result,
};

/// Pieces of an answer.
const PIECE_BYTES: usize = 64 << 10;

/// Delays reads and lets their answers arrive piece by piece. Cheap under a paused clock.
#[derive(Debug)]
pub struct LinkStore {
    inner: Arc<dyn ObjectStore>,
    latency: Duration,
    stream_bytes_per_second: f64,
    flying: Arc<Flying>,
}

/// Answers that were asked for and did not end.
#[derive(Debug, Default)]
struct Flying {
    now: AtomicU64,
    most: AtomicU64,
}

/// Counts an answer until it ends.
struct Flight(Arc<Flying>);

impl Flight {
    fn of(flying: &Arc<Flying>) -> Self {
        let now = flying.now.fetch_add(1, Ordering::Relaxed) + 1;
        flying.most.fetch_max(now, Ordering::Relaxed);
        Self(flying.clone())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl LinkStore {
    pub fn new(inner: Arc<dyn ObjectStore>, latency: Duration, stream_bytes_per_second: f64) -> Arc<Self> {
        Arc::new(Self { inner, latency, stream_bytes_per_second, flying: Arc::default() })
    }

    /// The most answers that were on their way at once.
    pub fn most_in_flight(&self) -> u64 {
        self.flying.most.load(Ordering::Relaxed)
    }
}

impl fmt::Display for LinkStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "far {}", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for LinkStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart uploads cannot be conditional: the engine must not use them");
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let flight = Flight::of(&self.flying);
        tokio::time::sleep(self.latency).await;
        let found = self.inner.get_opts(location, options).await?;
        let (meta, range, attributes, extensions) =
            (found.meta.clone(), found.range.clone(), found.attributes.clone(), found.extensions.clone());
        let bytes = found.bytes().await?;
        let rate = self.stream_bytes_per_second;
        let pieces = futures::stream::unfold((bytes, flight), move |(mut left, flight)| async move {
            let piece = left.split_to(left.len().min(PIECE_BYTES));
            if piece.is_empty() {
                return None;
            }
            tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / rate)).await;
            Some((Ok(piece), (left, flight)))
        });
        Ok(GetResult {
            payload: GetResultPayload::Stream(pieces.boxed()),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut found = Vec::new();
        for range in ranges {
            found.push(self.get_range(location, range.clone()).await?);
        }
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("nothing is ever copied inside a store");
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        panic!("nothing is ever renamed in a store");
    }
}
