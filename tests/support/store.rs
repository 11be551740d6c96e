//! A store that counts its calls and fails when told, around any other.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use tokio::sync::Notify;

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before it does anything.
    Before,
    /// After it has taken effect: a lost acknowledgement.
    After,
}

/// Calls so far, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    pub put: u64,
    pub get: u64,
    pub list: u64,
    pub delete: u64,
    /// Keys that listings showed.
    pub listed: u64,
    /// Bytes of reads.
    pub received: u64,
}

impl Calls {
    pub fn all(&self) -> u64 {
        self.put + self.get + self.list + self.delete
    }
}

/// Counts calls; from one call on, every call fails (the process "crashed" there).
#[derive(Debug)]
pub struct TestStore {
    inner: Arc<dyn ObjectStore>,
    calls: Mutex<Calls>,
    listed: Arc<AtomicU64>,
    number: AtomicU64,
    crash: Mutex<Option<(u64, Cut)>>,
    stumbles: AtomicBool,
    gate: Gate,
    room: Mutex<Option<u64>>,
    denied: Mutex<Vec<String>>,
    away_ms: AtomicU64,
}

/// Where writes can be made to wait.
#[derive(Debug, Default)]
struct Gate {
    part: Mutex<Option<&'static str>>,
    arrived: Notify,
    go: Notify,
}

impl TestStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            calls: Mutex::default(),
            listed: Arc::default(),
            number: AtomicU64::new(0),
            crash: Mutex::new(None),
            stumbles: AtomicBool::new(false),
            gate: Gate::default(),
            room: Mutex::new(None),
            denied: Mutex::default(),
            away_ms: AtomicU64::new(0),
        })
    }

    /// Calls since the last time. Of listings and reads also what they showed.
    pub fn take_calls(&self) -> Calls {
        let calls = std::mem::take(&mut *self.calls.lock().unwrap());
        Calls { listed: self.listed.swap(0, Ordering::SeqCst), ..calls }
    }

    /// The `number`th call from now (from 0) is the last to have any effect.
    pub fn crash_at(&self, number: u64, cut: Cut) {
        self.number.store(0, Ordering::SeqCst);
        *self.crash.lock().unwrap() = Some((number, cut));
    }

    /// Only the `number`th call from now fails.
    pub fn stumble_at(&self, number: u64, cut: Cut) {
        self.crash_at(number, cut);
        self.stumbles.store(true, Ordering::SeqCst);
    }

    /// After `puts` more writes the store is full; reads go on.
    pub fn fill_after(&self, puts: u64) {
        *self.room.lock().unwrap() = Some(puts);
    }

    /// This object is listed, and nobody may read it.
    pub fn deny(&self, key: &str) {
        self.denied.lock().unwrap().push(key.to_owned());
    }

    /// From now on every call takes so long before it begins.
    pub fn move_away(&self, milliseconds: u64) {
        self.away_ms.store(milliseconds, Ordering::SeqCst);
    }

    /// What a call waits for.
    fn travel(&self) -> impl Future<Output = ()> + Send + 'static {
        let milliseconds = self.away_ms.load(Ordering::SeqCst);
        async move {
            if milliseconds > 0 {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            }
        }
    }

    fn has_room(&self) -> bool {
        match self.room.lock().unwrap().as_mut() {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// Writes to keys with `part` wait from now on until [`TestStore::go_on`].
    pub fn pause_before(&self, part: &'static str) {
        self.gate.part.lock().unwrap().replace(part);
    }

    /// Waits until a write waits.
    pub async fn paused(&self) {
        self.gate.arrived.notified().await;
    }

    pub fn go_on(&self) {
        self.gate.part.lock().unwrap().take();
        self.gate.go.notify_waiters();
    }

    async fn wait_at_gate(&self, location: &Path) {
        let closed = self.gate.part.lock().unwrap().is_some_and(|part| location.as_ref().contains(part));
        if closed {
            let go = self.gate.go.notified();
            self.gate.arrived.notify_one();
            go.await;
        }
    }

    /// Works again.
    pub fn recover(&self) {
        *self.crash.lock().unwrap() = None;
        *self.room.lock().unwrap() = None;
        self.stumbles.store(false, Ordering::SeqCst);
    }

    /// Whether the crash point was reached.
    pub fn crashed(&self) -> bool {
        let crash = *self.crash.lock().unwrap();
        crash.is_some_and(|(at, _)| self.number.load(Ordering::SeqCst) > at)
    }

    fn counted(
        &self,
        keys: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = Arc::clone(&self.listed);
        let count = move |_: &Result<ObjectMeta>| {
            listed.fetch_add(1, Ordering::SeqCst);
        };
        let travel = self.travel();
        futures::stream::once(async move {
            travel.await;
            keys
        })
        .flatten()
        .inspect(count)
        .boxed()
    }

    /// Counts a call; says whether it runs, and whether its answer is lost.
    fn call(&self, count: fn(&mut Calls) -> &mut u64) -> (bool, bool) {
        *count(&mut self.calls.lock().unwrap()) += 1;
        let number = self.number.fetch_add(1, Ordering::SeqCst);
        match *self.crash.lock().unwrap() {
            Some((at, _)) if number > at => {
                let works = self.stumbles.load(Ordering::SeqCst);
                (works, !works)
            }
            Some((at, cut)) if number == at => (cut == Cut::After, true),
            _ => (true, false),
        }
    }
}

fn down() -> object_store::Error {
    object_store::Error::Generic { store: "test", source: "the store is down".into() }
}

fn lost<T>(lost: bool, answer: Result<T>) -> Result<T> {
    if lost { Err(down()) } else { answer }
}

impl fmt::Display for TestStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "test around {}", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for TestStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (runs, is_lost) = self.call(|calls| &mut calls.put);
        if !runs {
            return Err(down());
        }
        if !self.has_room() {
            return Err(object_store::Error::Generic { store: "test", source: "no space left".into() });
        }
        self.wait_at_gate(location).await;
        self.travel().await;
        lost(is_lost, self.inner.put_opts(location, payload, opts).await)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart uploads cannot be conditional: the engine must not use them");
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (runs, is_lost) = self.call(|calls| &mut calls.get);
        if !runs {
            return Err(down());
        }
        if self.denied.lock().unwrap().iter().any(|key| key == location.as_ref()) {
            let path = location.to_string();
            return Err(object_store::Error::PermissionDenied { path, source: "denied".into() });
        }
        self.travel().await;
        let got = self.inner.get_opts(location, options).await;
        let received = got.as_ref().map_or(0, |got| got.range.end - got.range.start);
        self.calls.lock().unwrap().received += received;
        lost(is_lost, got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (runs, is_lost) = self.call(|calls| &mut calls.get);
        if !runs {
            return Err(down());
        }
        self.travel().await;
        lost(is_lost, self.inner.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.call(|calls| &mut calls.delete);
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (runs, _) = self.call(|calls| &mut calls.list);
        if !runs {
            return Box::pin(futures::stream::once(async { Err(down()) }));
        }
        self.counted(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (runs, _) = self.call(|calls| &mut calls.list);
        if !runs {
            return Box::pin(futures::stream::once(async { Err(down()) }));
        }
        self.counted(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (runs, is_lost) = self.call(|calls| &mut calls.list);
        if !runs {
            return Err(down());
        }
        self.travel().await;
        lost(is_lost, self.inner.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("nothing is ever copied inside a store");
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        panic!("nothing is ever renamed in a store");
    }
}
