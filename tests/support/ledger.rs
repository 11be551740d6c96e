//! A store in memory whose times are the test's clock, and that writes down what was created and deleted, in order.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use sancerre_engine::host::Clock;

use crate::host::TestClock;

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was not there before. The bytes are those of records and of small packs; what is larger is not remembered.
    Created(String, Bytes),
    /// It was put without asking whether it was there: nobody but a test may.
    Overwritten(String),
    /// It was removed.
    Deleted(String),
}

/// Larger objects are remembered without their bytes.
const REMEMBERED_BYTES: usize = 2 << 20;

#[derive(Debug, Default)]
struct Pages {
    events: Vec<Event>,
    created_unix_seconds: HashMap<Path, u64>,
}

/// The store.
pub struct Ledger {
    inner: InMemory,
    clock: Arc<TestClock>,
    pages: Arc<Mutex<Pages>>,
}

impl Ledger {
    pub fn new(clock: Arc<TestClock>) -> Arc<Self> {
        Arc::new(Self { inner: InMemory::new(), clock, pages: Arc::default() })
    }

    /// Everything since the store was made.
    pub fn events(&self) -> Vec<Event> {
        self.pages.lock().unwrap().events.clone()
    }

    fn note_put(&self, location: &Path, payload: &PutPayload, mode: &PutMode) {
        let event = match mode {
            PutMode::Create if payload.content_length() <= REMEMBERED_BYTES => {
                Event::Created(location.to_string(), payload.clone().into())
            }
            PutMode::Create => Event::Created(location.to_string(), Bytes::new()),
            _ => Event::Overwritten(location.to_string()),
        };
        let now = u64::try_from(self.clock.now().unix_seconds()).unwrap();
        let mut pages = self.pages.lock().unwrap();
        pages.events.push(event);
        pages.created_unix_seconds.insert(location.clone(), now);
    }
}

impl Pages {
    fn date(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(seconds) = self.created_unix_seconds.get(&meta.location) {
            meta.last_modified = (UNIX_EPOCH + Duration::from_secs(*seconds)).into();
        }
        meta
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory with a ledger")
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Ledger {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let mode = opts.mode.clone();
        let put = self.inner.put_opts(location, payload.clone(), opts).await?;
        self.note_put(location, &payload, &mode);
        Ok(put)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart uploads cannot be conditional: the engine must not use them");
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.inner.get_opts(location, options).await?;
        found.meta = self.pages.lock().unwrap().date(found.meta);
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let pages = self.pages.clone();
        let note = move |path: &Path| {
            pages.lock().unwrap().events.push(Event::Deleted(path.to_string()));
        };
        self.inner.delete_stream(locations).inspect_ok(note).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let pages = self.pages.clone();
        self.inner.list(prefix).map_ok(move |meta| pages.lock().unwrap().date(meta)).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let pages = self.pages.clone();
        self.inner
            .list_with_offset(prefix, offset)
            .map_ok(move |meta| pages.lock().unwrap().date(meta))
            .boxed()
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
