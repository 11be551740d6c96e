//! A store that fails in all the ways that stores fail, as a seed says, around any other.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::dice::Dice;

/// Fails one call of so many. A fault is counted when it changed something for the caller.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    dice: Mutex<Dice>,
    one_in: AtomicU64,
    faults: AtomicU64,
    wrong_bytes: bool,
    /// Earlier listings by prefix, which a stale listing repeats.
    listings: Arc<Mutex<HashMap<String, Vec<ObjectMeta>>>>,
}

impl FaultStore {
    /// With `wrong_bytes` reads may return bytes that nobody stored, as a bad memory module in a switch does.
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, one_in: u64, wrong_bytes: bool) -> Arc<Self> {
        Arc::new(Self {
            inner,
            dice: Mutex::new(Dice::new(seed)),
            one_in: AtomicU64::new(one_in),
            faults: AtomicU64::new(0),
            wrong_bytes,
            listings: Arc::default(),
        })
    }

    /// Faults so far.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// From now on all is well.
    pub fn calm(&self) {
        self.one_in.store(u64::MAX, Ordering::Relaxed);
    }

    /// Which of `kinds` faults this call meets, if any.
    fn draw(&self, kinds: u64) -> Option<u64> {
        let one_in = self.one_in.load(Ordering::Relaxed);
        let mut dice = self.dice.lock().unwrap();
        let kind = (one_in != u64::MAX && dice.one_in(one_in)).then(|| dice.below(kinds))?;
        self.faults.fetch_add(1, Ordering::Relaxed);
        Some(kind)
    }

    async fn pause(&self) {
        let pause = self.dice.lock().unwrap().below(20_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    async fn damaged(&self, found: GetResult, truncate: bool) -> Result<GetResult> {
        let (meta, range, attributes, extensions) =
            (found.meta.clone(), found.range.clone(), found.attributes.clone(), found.extensions.clone());
        let mut bytes = found.bytes().await?.to_vec();
        let at = self.dice.lock().unwrap().below(bytes.len().max(1) as u64) as usize;
        match bytes.get_mut(at) {
            Some(_) if truncate => bytes.truncate(at),
            Some(byte) => *byte ^= 0x40,
            None => {}
        }
        let payload =
            GetResultPayload::Stream(futures::stream::once(async move { Ok(Bytes::from(bytes)) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }
}

fn fault(what: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "fault", source: what.into() }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faults around {}", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let again = async || self.inner.put_opts(location, payload.clone(), opts.clone()).await;
        match self.draw(7) {
            None => again().await,
            Some(0) => Err(fault("connection reset")),
            Some(1) => Err(fault("503 Slow Down")),
            Some(2) => {
                self.pause().await;
                Err(fault("timed out; nothing was done"))
            }
            Some(3) => {
                again().await?;
                Err(fault("the acknowledgement was lost"))
            }
            Some(4) => {
                // Sent again below us: the second meets the first.
                again().await?;
                again().await
            }
            Some(5) => {
                self.pause().await;
                again().await
            }
            Some(_) if opts.mode == PutMode::Create => {
                // A conflict with a request in flight, answered as if the object were there.
                let source = "409 ConditionalRequestConflict".into();
                Err(object_store::Error::AlreadyExists { path: location.to_string(), source })
            }
            Some(_) => again().await,
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart uploads cannot be conditional: the engine must not use them");
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.draw(6) {
            None => self.inner.get_opts(location, options).await,
            Some(0) => Err(fault("connection reset")),
            Some(1) => Err(fault("500 Internal Server Error")),
            Some(2) => {
                self.pause().await;
                Err(fault("timed out"))
            }
            Some(3) => {
                self.pause().await;
                self.inner.get_opts(location, options).await
            }
            Some(4) => self.damaged(self.inner.get_opts(location, options).await?, true).await,
            Some(_) if self.wrong_bytes => {
                self.damaged(self.inner.get_opts(location, options).await?, false).await
            }
            Some(_) => Err(fault("429 Too Many Requests")),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (listings, key) = (self.listings.clone(), prefix.map(ToString::to_string).unwrap_or_default());
        let stale = || listings.lock().unwrap().get(&key).cloned();
        // The log must be listed as it is: GUARANTEES says so. Packs, lists and index may lag.
        let may_lag = !key.contains("/log") && !key.contains("/outcome");
        let broken = fault("the connection broke in the middle of a listing");
        match self.draw(3) {
            Some(0) => futures::stream::iter([Err(fault("503 Slow Down"))]).boxed(),
            Some(1) => {
                let some = self.inner.list(prefix).take(1);
                some.chain(futures::stream::iter([Err(broken)])).boxed()
            }
            Some(_) if may_lag && stale().is_some() => {
                futures::stream::iter(stale().unwrap().into_iter().map(Ok)).boxed()
            }
            _ => {
                let listed = self.inner.list(prefix).try_collect::<Vec<ObjectMeta>>();
                let remembered = async move {
                    let listed: Vec<ObjectMeta> = listed.await?;
                    listings.lock().unwrap().insert(key, listed.clone());
                    Ok::<_, object_store::Error>(futures::stream::iter(listed.into_iter().map(Ok)))
                };
                futures::stream::once(remembered).try_flatten().boxed()
            }
        }
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
