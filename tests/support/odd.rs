//! A store with objects that are odd: larger than they are, or not to be read. It counts what is fetched of which.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// A refusal that the same request would get again.
pub type Refusal = fn() -> object_store::Error;

/// Any store, but for some keys.
#[derive(Debug)]
pub struct OddStore {
    inner: Arc<dyn ObjectStore>,
    sizes: Mutex<HashMap<String, u64>>,
    broken: Mutex<HashMap<String, Refusal>>,
    unflushed: Mutex<Option<&'static str>>,
    turned: Mutex<Option<&'static str>>,
    fetched: Arc<Mutex<HashMap<String, Fetched>>>,
}

/// What was fetched of an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    pub requests: u64,
    /// Of bodies, as they were taken.
    pub bytes: u64,
}

impl OddStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        let (sizes, broken, unflushed) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { inner, sizes, broken, unflushed, turned: Mutex::default(), fetched: Arc::default() })
    }

    /// The object seems to have so many bytes, in listings and answers: zeros, which are made as they are taken.
    pub fn seems(&self, key: &str, size_bytes: u64) {
        self.sizes.lock().unwrap().insert(key.to_owned(), size_bytes);
    }

    /// Reading the object fails for ever.
    pub fn breaks(&self, key: &str, refusal: Refusal) {
        self.broken.lock().unwrap().insert(key.to_owned(), refusal);
    }

    /// Objects whose keys have this part get their names, and then the disk fails to keep them.
    pub fn loses_flushes(&self, part: &'static str) {
        self.unflushed.lock().unwrap().replace(part);
    }

    /// Objects whose keys have this part are written with a bit turned, and called written.
    pub fn turns_a_bit(&self, part: &'static str) {
        self.turned.lock().unwrap().replace(part);
    }

    /// All objects can be read again.
    pub fn mend(&self) {
        self.broken.lock().unwrap().clear();
    }

    /// What was fetched by key since the last time.
    pub fn take_fetched(&self) -> HashMap<String, Fetched> {
        std::mem::take(&mut self.fetched.lock().unwrap())
    }

    fn size(&self, location: &Path) -> Option<u64> {
        self.sizes.lock().unwrap().get(location.as_ref()).copied()
    }

    fn seen(&self, meta: Result<ObjectMeta>) -> Result<ObjectMeta> {
        let meta = meta?;
        Ok(ObjectMeta { size: self.size(&meta.location).unwrap_or(meta.size), ..meta })
    }

    fn count(&self, key: &str) -> impl Fn(usize) + Send + use<> {
        let (fetched, key) = (Arc::clone(&self.fetched), key.to_owned());
        fetched.lock().unwrap().entry(key.clone()).or_default().requests += 1;
        move |length| fetched.lock().unwrap().entry(key.clone()).or_default().bytes += length as u64
    }
}

/// What the kernel says of a bad sector.
pub fn bad_sector() -> object_store::Error {
    let source = std::io::Error::from_raw_os_error(5);
    object_store::Error::Generic { store: "LocalFileSystem", source: source.into() }
}

/// What a bucket says of an object in a cold class.
pub fn forbidden() -> object_store::Error {
    object_store::Error::PermissionDenied { path: "it".into(), source: "403 InvalidObjectState".into() }
}

/// One bit of the middle is another.
fn turned(payload: &PutPayload) -> PutPayload {
    let mut bytes: Vec<u8> = payload.iter().flatten().copied().collect();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.into()
}

fn zeros(length: u64) -> BoxStream<'static, Result<Bytes>> {
    const PIECE: u64 = 1 << 20;
    let pieces = (0..length.div_ceil(PIECE)).map(move |at| PIECE.min(length - at * PIECE) as usize);
    futures::stream::iter(pieces.map(|length| Ok(Bytes::from(vec![0; length])))).boxed()
}

impl fmt::Display for OddStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "odd objects in {}", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for OddStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let is_unflushed =
            self.unflushed.lock().unwrap().is_some_and(|part| location.as_ref().contains(part));
        let is_turned = self.turned.lock().unwrap().is_some_and(|part| location.as_ref().contains(part));
        let payload = if is_turned { turned(&payload) } else { payload };
        match self.inner.put_opts(location, payload, opts).await {
            Ok(_) if is_unflushed => Err(bad_sector()),
            put => put,
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart uploads cannot be conditional: the engine must not use them");
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let count = self.count(location.as_ref());
        if let Some(refusal) = self.broken.lock().unwrap().get(location.as_ref()) {
            return Err(refusal());
        }
        let asked = options.range.clone();
        let found = match self.size(location) {
            None => self.inner.get_opts(location, options).await?,
            Some(size) => {
                let whole = GetOptions { range: None, ..options };
                let found = self.inner.get_opts(location, whole).await?;
                let range = asked.map_or(0..size, |range| range.as_range(size).unwrap());
                let payload = GetResultPayload::Stream(zeros(range.end - range.start));
                GetResult { meta: ObjectMeta { size, ..found.meta.clone() }, range, payload, ..found }
            }
        };
        let (meta, range, attributes, extensions) =
            (found.meta.clone(), found.range.clone(), found.attributes.clone(), found.extensions.clone());
        let body = found.into_stream().inspect_ok(move |bytes| count(bytes.len())).boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.inner.list(prefix).collect::<Vec<_>>();
        let listed = futures::executor::block_on(listed);
        futures::stream::iter(listed.into_iter().map(|meta| self.seen(meta)).collect::<Vec<_>>()).boxed()
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
