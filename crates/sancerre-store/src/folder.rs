//! A folder of this machine as a store.
//!
//! It is opened once ([`place`]), written with create-only names ([`publish`]), and listed so that nothing in it stops the
//! listing ([`walk`]): `object_store` gives up a listing at the first name that it cannot spell, the first folder that it
//! may not read, and the first link that leads round in a circle, and knows one way to create without replacing, which
//! half of all network mounts lack. Only plain files are objects: opening a pipe would wait for ever.

mod place;
mod publish;
mod refused;
mod room;
mod walk;

use std::fmt;
use std::ops::Range;
use std::path::Path as LocalPath;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result,
};
use rustix::fs::{FileType, fstat};
use sancerre_format::names::Time;

use crate::causes::FOLDER;
use crate::strange::Strange;

pub(crate) use place::{FolderPlace, make};
use publish::Naming;
pub(crate) use refused::Refused;
pub(crate) use walk::Leftover;
use walk::{FolderWalk, LAST_TIME, since, tag};

/// Deletes in flight at once.
const DELETES_IN_FLIGHT: usize = 10;

/// A folder, and what was left out of its listings.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    place: Arc<FolderPlace>,
    strange: Arc<Strange>,
}

impl Folder {
    pub(crate) fn new(place: FolderPlace, strange: Arc<Strange>) -> Self {
        Self { place: Arc::new(place), strange }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &LocalPath {
        &self.place.path
    }

    /// What is written from now on may use the room that is kept for emergencies.
    pub(crate) fn spend_reserve(&self) {
        self.place.spends.store(true, Ordering::Relaxed);
    }

    /// What the mount said when a folder was to be flushed; none if that went well.
    pub(crate) fn weakness(&self) -> Option<String> {
        self.place.weak.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes what is missing of the room for emergencies.
    ///
    /// Errors: the kernel's.
    pub(crate) async fn keep_reserve(&self, fill: impl Fn(&mut [u8]) + Send + 'static) -> Result<()> {
        self.with(move |place| Ok(place.keep_reserve(fill)?)).await
    }

    /// The time by the clock that dates the files here.
    ///
    /// Errors: the kernel's.
    pub(crate) async fn now(&self) -> Result<Time> {
        self.with(|place| Ok(place.now()?)).await
    }

    /// Files of writes that are under way, or died.
    ///
    /// Errors: that the folder cannot be read.
    pub(crate) async fn leftovers(&self) -> Result<Vec<Leftover>> {
        Ok(self.walk(None, true).await?.leftovers)
    }

    /// Removes one of them.
    ///
    /// Errors: the kernel's.
    pub(crate) async fn clear(&self, leftover: Leftover) -> Result<()> {
        let cleared = self.with(move |place| place.remove(&leftover.key).map_err(Refused::of_object)).await;
        match cleared {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            cleared => cleared,
        }
    }

    /// Reads what lies below a prefix; `deep`, below its folders too.
    async fn walk(&self, prefix: Option<&Path>, deep: bool) -> Result<FolderWalk> {
        let prefix = prefix.map(Path::to_string).unwrap_or_default();
        let mut walk = FolderWalk::new(self.strange.clone());
        self.with(move |place| {
            walk.run(&place.root(), &prefix, deep)
                .map_err(|errno| Refused::call("list", &place.path_of(&prefix), errno))?;
            Ok(walk)
        })
        .await
    }

    /// Does something with the folder, on a thread that may wait.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FolderPlace) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.place.clone();
        blocking(move || {
            let done = work(&place);
            if done.as_ref().is_err_and(is_stale) {
                place.reopen();
            }
            done
        })
        .await
    }
}

#[expect(clippy::disallowed_methods, reason = "a simulation has no folder")]
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(error.into()))?
}

fn failed(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: FOLDER, source }
}

fn is_stale(error: &object_store::Error) -> bool {
    let object_store::Error::Generic { source, .. } = error else { return false };
    source.downcast_ref().is_some_and(Refused::is_stale)
}

/// Opens an object. What is no plain file is not opened, and what has a time that cannot be told neither.
fn read(place: &FolderPlace, location: Path, options: &GetOptions) -> Result<GetResult> {
    let key = location.as_ref();
    let stat = place.stat(key).map_err(Refused::of_object)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => {
            let path = place.path_of(key).display().to_string();
            return Err(object_store::Error::NotFound { path, source: "it is a folder".into() });
        }
        _ => return Err(failed("it is not a plain file".into())),
    }
    if since(&stat) > LAST_TIME {
        return Err(failed("its time is no time".into()));
    }
    let file = place.file(key).map_err(Refused::of_object)?;
    let stat = fstat(&file).map_err(|errno| Refused::call("read", &place.path_of(key), errno))?;
    let path = place.path_of(key);
    let meta = walk::object(location, &stat);
    options.check_preconditions(&meta)?;
    let range = match &options.range {
        Some(range) => range.as_range(meta.size).map_err(|error| failed(error.into()))?,
        None => 0..meta.size,
    };
    Ok(GetResult {
        payload: GetResultPayload::File(file, path),
        meta,
        range,
        attributes: Attributes::default(),
        extensions: http::Extensions::new(),
    })
}

fn no_such_call(what: &str) -> object_store::Error {
    object_store::Error::NotSupported { source: format!("a folder is never asked to {what}").into() }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.place.path.display())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Folder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let key = location.to_string();
        let naming = match opts.mode {
            PutMode::Create => Naming::Create,
            PutMode::Overwrite => Naming::Replace,
            PutMode::Update(_) => return Err(no_such_call("update an object")),
        };
        let written = move |place: &FolderPlace| match (place.put(&key, &payload, naming), naming) {
            (Ok(stat), _) => Ok(tag(&stat)),
            (Err(refused), Naming::Create) => Err(refused.into()),
            (Err(refused), Naming::Replace) => Err(refused.of_protected()),
        };
        let e_tag = Some(self.with(written).await?);
        Ok(PutResult { e_tag, version: None, extensions: http::Extensions::new() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(no_such_call("take an object in parts"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let location = location.clone();
        self.with(move |place| read(place, location, &options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut all = Vec::with_capacity(ranges.len());
        for range in ranges {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            all.push(self.get_opts(location, options).await?.bytes().await?);
        }
        Ok(all)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let folder = self.clone();
        let delete = move |location: Result<Path>| {
            let folder = folder.clone();
            async move {
                let location = location?;
                let key = location.to_string();
                folder.with(move |place| place.remove(&key).map_err(Refused::of_object)).await?;
                Ok(location)
            }
        };
        locations.map(delete).buffered(DELETES_IN_FLIGHT).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (folder, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            match folder.walk(prefix.as_ref(), true).await {
                Ok(walk) => futures::stream::iter(walk.objects.into_iter().map(Ok)).boxed(),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        };
        futures::stream::once(listed).flatten().boxed()
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
        let FolderWalk { objects, folders: common_prefixes, .. } = self.walk(prefix, false).await?;
        Ok(ListResult { common_prefixes, objects, extensions: http::Extensions::new() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(no_such_call("copy an object"))
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        Err(no_such_call("rename an object"))
    }
}
