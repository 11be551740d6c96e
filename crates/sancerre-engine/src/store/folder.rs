//! A folder of this machine, listed so that nothing in it stops the listing.
//!
//! `object_store` gives up a listing at the first name that it cannot spell, the first folder that it may not read, and the
//! first link that leads round in a circle. Here the walk goes on without them. Only plain files are objects: opening a
//! pipe would wait for ever.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::retry::FOLDER;
use super::strange::{Strange, why_strange};

/// The end of the year 9999: times that a damaged or hostile file system may show are no reason to stop.
const LAST_TIME: Duration = Duration::from_secs(253_402_300_799);

/// A folder, and what was left out of its listings.
#[derive(Debug)]
pub(super) struct Folder {
    inner: LocalFileSystem,
    root: PathBuf,
    strange: Arc<Strange>,
}

impl Folder {
    /// `inner`, which lies at `root`.
    pub(super) fn new(inner: LocalFileSystem, root: PathBuf, strange: Arc<Strange>) -> Self {
        Self { inner, root, strange }
    }

    /// Reads what lies below a prefix; `deep`, below its folders too.
    fn walk(&self, prefix: Option<&Path>, deep: bool) -> impl Future<Output = Result<Walk>> + use<> {
        let prefix = prefix.map(Path::to_string).unwrap_or_default();
        let root = if prefix.is_empty() { self.root.clone() } else { self.root.join(&prefix) };
        let mut walk = Walk { strange: self.strange.clone(), ..Walk::default() };
        blocking(move || {
            walk.run(&root, &prefix, deep).map_err(|error| failed(error.into()))?;
            Ok(walk)
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "as the store below does, which a simulation has no use for")]
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(error.into()))?
}

fn failed(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: FOLDER, source }
}

#[derive(Default)]
struct Walk {
    strange: Arc<Strange>,
    objects: Vec<ObjectMeta>,
    /// Those directly below the prefix.
    folders: Vec<Path>,
    /// Folders that are still to be read, in their own place.
    own: Vec<(PathBuf, String)>,
    /// Folders behind links. They come last, and no folder is read twice: links that lead to each other end.
    linked: Vec<(PathBuf, String)>,
    seen: HashSet<PathBuf>,
}

impl Walk {
    /// Errors: that the prefix itself cannot be read. If it is not there nothing is.
    fn run(&mut self, root: &std::path::Path, prefix: &str, deep: bool) -> io::Result<()> {
        match self.read(root, prefix, false) {
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
                return Ok(());
            }
            read => read?,
        }
        let (own, linked) = (std::mem::take(&mut self.own), std::mem::take(&mut self.linked));
        self.folders = own.iter().chain(&linked).filter_map(|(_, key)| Path::parse(key).ok()).collect();
        if !deep {
            return Ok(());
        }
        (self.own, self.linked) = (own, linked);
        loop {
            let (next, is_linked) = match self.own.pop() {
                Some(next) => (next, false),
                None => match self.linked.pop() {
                    Some(next) => (next, true),
                    None => return Ok(()),
                },
            };
            let (folder, key) = next;
            match self.read(&folder, &key, is_linked) {
                // It was cleared away since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.strange.cannot_list(&key, error.to_string()),
                Ok(()) => {}
            }
        }
    }

    fn read(&mut self, folder: &std::path::Path, key: &str, is_linked: bool) -> io::Result<()> {
        let is_new = self.seen.insert(folder.canonicalize()?);
        if is_linked && !is_new {
            return Ok(());
        }
        for entry in folder.read_dir()? {
            let entry = entry?;
            let name = entry.file_name();
            let separator = if key.is_empty() { "" } else { "/" };
            let own_key = format!("{key}{separator}{}", name.to_string_lossy());
            match name.to_str() {
                None => self.strange.leave_out(&own_key, "its name is not UTF-8".into()),
                Some(_) => self.take(entry.path(), own_key, is_linked),
            }
        }
        Ok(())
    }

    fn take(&mut self, path: PathBuf, key: String, is_linked: bool) {
        let is_link = path.is_symlink();
        // A broken link, or gone since.
        let Ok(meta) = path.metadata() else { return };
        let strange = why_strange(&key);
        if meta.is_dir() {
            match strange.or_else(|| is_deep(&key).then(|| "it lies deeper than any of ours".into())) {
                Some(why) => self.strange.leave_out(&key, why),
                None if is_link || is_linked => self.linked.push((path, key)),
                None => self.own.push((path, key)),
            }
        } else if is_staging(&key) {
            // Of a write that is under way, or died.
        } else if let Some(why) =
            strange.or_else(|| (!meta.is_file()).then(|| "it is not a plain file".into()))
        {
            self.strange.leave_out(&key, why);
        } else if let Ok(location) = Path::parse(&key) {
            self.objects.push(object(location, &meta));
        }
    }
}

fn object(location: Path, meta: &std::fs::Metadata) -> ObjectMeta {
    let since = meta.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let since = since.unwrap_or_default().min(LAST_TIME);
    // The same whenever the file is the same, as what `object_store` gives to whoever reads it.
    let tag = format!("\"{:x}-{:x}-{:x}\"", inode(meta), since.as_micros(), meta.len());
    let last_modified = (SystemTime::UNIX_EPOCH + since).into();
    ObjectMeta { location, last_modified, size: meta.len(), e_tag: Some(tag), version: None }
}

#[cfg(unix)]
fn inode(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> u64 {
    0
}

/// Whether nothing of ours can lie below this folder: no key of the format has more than five parts.
fn is_deep(folder: &str) -> bool {
    folder.matches('/').count() > 3
}

/// `NAME#1`: what `object_store` writes before it gives a file its name.
fn is_staging(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    let number = name.split_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Refuses to open what is no plain file, or has a time that cannot be told.
fn look(path: &std::path::Path) -> Result<()> {
    let Ok(meta) = path.metadata() else { return Ok(()) };
    let since = meta.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    match () {
        () if !meta.is_file() && !meta.is_dir() => Err(failed("it is not a plain file".into())),
        () if since.is_some_and(|since| since > LAST_TIME) => Err(failed("its time is no time".into())),
        () => Ok(()),
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Folder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let path = self.root.join(location.as_ref());
        blocking(move || look(&path)).await?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let path = self.root.join(location.as_ref());
        blocking(move || look(&path)).await?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let walk = self.walk(prefix, true);
        let objects = walk.map_ok(|walk| futures::stream::iter(walk.objects.into_iter().map(Ok)));
        objects.try_flatten_stream().boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        let is_after = move |found: &Result<ObjectMeta>| {
            let is_after = found.as_ref().map_or(true, |meta| meta.location > offset);
            std::future::ready(is_after)
        };
        self.list(prefix).filter(is_after).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let Walk { objects, folders: common_prefixes, .. } = self.walk(prefix, false).await?;
        Ok(ListResult { common_prefixes, objects, extensions: http::Extensions::new() })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
