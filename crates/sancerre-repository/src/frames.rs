//! Frames: from a place in a map to the bytes that were sealed there.
//!
//! A map names a frame by its first place. Gc may have moved it since: then the commit says into which pack, and that
//! pack's directory where. Everything that reads frames asks here, so nobody else knows of moves.

mod data;
mod heads;
mod open;
mod places;
mod renewal;
mod single_flight;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use sancerre_format::FormatError;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{FrameName, FramePlace, Hash, PackName, SessionId};
use sancerre_format::seal::{RootKey, UnitKind};

use crate::catalogue::Catalogue;
use crate::error::{Error, Result, StoreError};
use crate::log::{Log, Moves};
use crate::pack_ends::{PackEnds, PackRef};
use crate::repository::Repository;

pub use data::{Attempts, check_place};
use renewal::Missed;
use single_flight::SingleFlight;

/// Opened metadata frames kept: neighbouring nodes lie in one frame, at most 1 MiB each.
const METADATA_FRAMES_KEPT: usize = 24;
/// A pack of metadata that is not larger is read whole, and with it all nodes of a snapshot's maps.
pub const SMALL_PACK_BYTES: u64 = 1 << 20;
/// Small packs kept.
const SMALL_PACKS_KEPT: usize = 8;
/// Directories read at once.
const DIRECTORIES_IN_FLIGHT: usize = 16;

/// What the log said when it was last read.
struct View {
    log: Arc<Log>,
    catalogue: Catalogue,
    moves: Moves,
    /// The moves of all commits, believed or not; made when a frame is not where it should be.
    ever: OnceLock<Moves>,
}

impl View {
    fn new(log: Arc<Log>, catalogue: Catalogue) -> Self {
        let moves = Moves::claimed(&log);
        Self { log, catalogue, moves, ever: OnceLock::new() }
    }
}

/// Where the frames of a pack lie in it, by their names.
type Directory = HashMap<FrameName, FramePlace>;

/// A frame and the pack in which it lies now; the offset of the place is that in this pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedFrame {
    /// The pack.
    pub pack: PackName,
    /// The frame there.
    pub place: FramePlace,
}

/// Finds and opens the frames of one zone.
pub struct Frames {
    repository: Repository,
    view: RwLock<Arc<View>>,
    missed: Mutex<Missed>,
    directories: Mutex<HashMap<PackName, Arc<Directory>>>,
    content_roots: Mutex<HashMap<u64, RootKey>>,
    kept: Mutex<VecDeque<(FramePlace, Arc<Vec<u8>>)>>,
    small_packs: SingleFlight<PackName, Option<Bytes>>,
    /// Sessions of which the log does not say what opens their frames.
    told: RwLock<HashMap<u64, heads::Told>>,
}

impl Frames {
    /// Frames of the packs in `catalogue`.
    pub fn new(repository: &Repository, log: &Log, catalogue: &Catalogue) -> Self {
        let view = View::new(Arc::new(log.clone()), catalogue.clone());
        Self {
            repository: repository.clone(),
            view: RwLock::new(Arc::new(view)),
            missed: Mutex::default(),
            directories: Mutex::default(),
            content_roots: Mutex::default(),
            kept: Mutex::default(),
            small_packs: SingleFlight::new(SMALL_PACKS_KEPT),
            told: RwLock::default(),
        }
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The log as it was last read.
    pub fn log(&self) -> Arc<Log> {
        Arc::clone(&self.view().log)
    }

    /// The pack lists read so far.
    pub fn catalogue(&self) -> Catalogue {
        self.view().catalogue.clone()
    }

    /// The pack in which a frame lies.
    pub fn pack(&self, frame: &FrameName) -> PackName {
        self.view().moves.pack(frame)
    }

    /// The object key of the pack in which a frame lies.
    pub fn pack_key(&self, place: &FramePlace) -> Result<String> {
        let view = self.view();
        view.catalogue.key(&self.repository, view.moves.pack(&place.frame))
    }

    /// Where a frame lies. Only for one that was moved a directory is read, once for its pack.
    ///
    /// Errors: [`Error::is_damage`] when the commit that moved it leads nowhere.
    pub async fn locate(&self, place: &FramePlace) -> Result<PackedFrame> {
        loop {
            let view = self.view();
            let error = match self.locate_in(&view, place).await {
                Err(error) if error.is_damage() => error,
                located => return located,
            };
            // Of where a commit that is wrong sent it lists were looked for, and not of where it lies without that commit.
            let pack = view.moves.pack(&place.frame);
            if view.catalogue.pack(pack).is_none() {
                self.know(BTreeSet::from([pack.session])).await?;
            }
            if !self.renew(&view, pack).await? {
                return Err(error);
            }
        }
    }

    async fn locate_in(&self, view: &View, place: &FramePlace) -> Result<PackedFrame> {
        let pack = view.moves.pack(&place.frame);
        if pack == place.frame.pack {
            return Ok(PackedFrame { pack, place: *place });
        }
        let directory = self.directory(view, pack).await?;
        let found = directory.get(&place.frame).map(|place| PackedFrame { pack, place: *place });
        found.ok_or_else(|| {
            let detail = format!("frame {}, which was moved there, is not in it", place.frame);
            self.blame(place, FormatError::Corrupt { what: "pack", detail })
        })
    }

    /// Reads the directories that are needed to locate these frames, several at once. Those that cannot be read are
    /// told when a frame is looked for.
    ///
    /// Errors: what is wrong with the store rather than with a pack.
    pub async fn prepare(&self, frames: impl Iterator<Item = FrameName>) -> Result<()> {
        let view = self.view();
        let moved = |frame: FrameName| Some(view.moves.pack(&frame)).filter(|pack| *pack != frame.pack);
        self.read_directories(&view, frames.filter_map(moved).collect()).await
    }

    /// The same for collectors' packs into which frames were moved.
    pub async fn prepare_packs(&self, packs: BTreeSet<PackName>) -> Result<()> {
        self.read_directories(&self.view(), packs).await
    }

    async fn read_directories(&self, view: &View, packs: BTreeSet<PackName>) -> Result<()> {
        let read = packs.into_iter().map(|pack| async move {
            match self.directory(view, pack).await {
                Err(error) if !error.is_damage() => Err(error),
                _ => Ok(()),
            }
        });
        futures::stream::iter(read).buffer_unordered(DIRECTORIES_IN_FLIGHT).try_collect().await
    }

    /// Which of these frames a pack does not hold, by its directory.
    pub async fn lacking(&self, pack: PackName, wanted: &FrameSet) -> Result<FrameSet> {
        let mut held = FrameSet::default();
        self.directory(&self.view(), pack).await?.keys().for_each(|frame| held.insert(*frame));
        Ok(wanted.without(&held))
    }

    async fn directory(&self, view: &View, pack: PackName) -> Result<Arc<Directory>> {
        let kept = self.directories.lock().unwrap_or_else(PoisonError::into_inner).get(&pack).cloned();
        if let Some(directory) = kept {
            return Ok(directory);
        }
        let key = view.catalogue.key(&self.repository, pack)?;
        let source = PackRef::find(&view.catalogue, pack)
            .ok_or_else(|| Error::Store(StoreError::Missing { key: key.clone() }))?;
        let ends = PackEnds::fetch(&self.repository, source).await?;
        let tail = ends.decode().map_err(Error::object(&key))?;
        let directory: Directory =
            tail.directory().iter().map(|entry| (entry.frame, entry.place())).collect();
        let directory = Arc::new(directory);
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).insert(pack, Arc::clone(&directory));
        Ok(directory)
    }

    /// Reads the log again after a frame was not found in its pack.
    ///
    /// Returns whether the frame lies elsewhere by now. Errors: the store's.
    pub async fn is_elsewhere(&self, frame: &FrameName, pack: PackName) -> Result<bool> {
        let view = self.view();
        let moved = view.moves.pack(frame) != pack;
        Ok(moved || self.renew(&view, pack).await? && self.pack(frame) != pack)
    }

    /// Whether a pack that is not there was given up by a gc since.
    pub async fn gave_up(&self, pack: PackName) -> Result<bool> {
        self.renew(&self.view(), pack).await?;
        Ok(self.log().gave_up(&pack))
    }

    fn session(&self, number: u64) -> Result<SessionId> {
        let log = self.log();
        let entry = log.entry(number).filter(|entry| entry.announced().is_some());
        let session = entry.map(|entry| entry.session).or_else(|| self.session_told(number));
        session.ok_or_else(|| Error::Lost { what: format!("log entry {number}") })
    }

    /// Fetches and opens a metadata frame, or takes it from the few kept.
    pub async fn metadata(&self, place: &FramePlace) -> Result<Arc<Vec<u8>>> {
        self.read_unit(UnitKind::Metadata, place).await
    }

    /// The same of a frame of an annex.
    pub async fn annex(&self, place: &FramePlace) -> Result<Arc<Vec<u8>>> {
        self.read_unit(UnitKind::Annex, place).await
    }

    async fn read_unit(&self, kind: UnitKind, place: &FramePlace) -> Result<Arc<Vec<u8>>> {
        if let Some(raw) = self.kept(place) {
            return Ok(raw);
        }
        let open = |sealed: Bytes| async move { self.open_unit(kind, place, &sealed) };
        let read = |located: PackedFrame, key: String| async move {
            let range = sealed(&located.place);
            if let Some(pack) = self.small_pack(located.pack, &key).await
                && let Ok(raw) = open(pack.slice(within(&range, pack.len()))).await
            {
                return Ok(raw);
            }
            self.repository.cached(&key, range, open).await
        };
        let raw = Arc::new(self.follow(place, read).await?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((*place, Arc::clone(&raw)));
        if kept.len() > METADATA_FRAMES_KEPT {
            kept.pop_front();
        }
        Ok(raw)
    }

    fn kept(&self, place: &FramePlace) -> Option<Arc<Vec<u8>>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(at, _)| at == place).map(|(_, raw)| Arc::clone(raw))
    }

    /// The whole pack, if it is small and can be had; else its frames are read one by one, and say what is wrong.
    async fn small_pack(&self, pack: PackName, key: &str) -> Option<Bytes> {
        let listed = self.catalogue().pack(pack).copied();
        let listed = listed.filter(|listed| listed.size_bytes <= SMALL_PACK_BYTES)?;
        let (repository, key) = (self.repository.clone(), key.to_owned());
        let read = async move {
            let verify = |bytes: Bytes| {
                let detail = "its bytes do not have the hash in its name".to_owned();
                let other = FormatError::Corrupt { what: "pack", detail };
                let is_it = Hash::of(&bytes) == listed.hash;
                let verified = is_it.then_some(bytes).ok_or_else(|| Error::object(&key)(other));
                async move { verified }
            };
            repository.cached_whole(&key, listed.size_bytes, verify).await.ok()
        };
        self.small_packs.get(pack, || read.boxed()).await
    }

    /// Fetches one sealed frame, from where it lies.
    pub async fn fetch(&self, place: &FramePlace) -> Result<Bytes> {
        let store = &self.repository.store;
        let read = |located: PackedFrame, key: String| async move {
            Ok(store.need_range(&key, sealed(&located.place)).await?)
        };
        self.follow(place, read).await
    }

    /// Reads a frame where it lies, again when gc has moved it meanwhile, and then wherever else it may be.
    async fn follow<T, F>(&self, place: &FramePlace, read: impl Fn(PackedFrame, String) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tried = None;
        let error = loop {
            let at = async {
                let located = self.locate(place).await?;
                Ok((located, self.catalogue().key(&self.repository, located.pack)?))
            };
            let (located, key) = match at.await {
                Err(error) => break error,
                Ok(at) => at,
            };
            tried = Some(located);
            match read(located, key).await {
                Err(Error::Store(StoreError::Missing { .. }))
                    if self.is_elsewhere(&place.frame, located.pack).await? => {}
                Err(error) => break error,
                found => return found,
            }
        };
        if !error.is_damage() {
            return Err(error);
        }
        for other in self.other_places(place.frame, tried).await? {
            let key = self.catalogue().key(&self.repository, other.pack)?;
            match read(other, key).await {
                Err(other) if other.is_damage() => {}
                found => return found,
            }
        }
        Err(error)
    }

    /// Names the pack in which a frame was found wanting.
    pub fn blame(&self, place: &FramePlace, source: FormatError) -> Error {
        let key = self.pack_key(place).unwrap_or_else(|_| format!("pack {}", self.pack(&place.frame)));
        Error::Object { key, source }
    }
}

/// Where a sealed frame lies in its pack.
fn sealed(place: &FramePlace) -> Range<u64> {
    let start = u64::from(place.offset_bytes);
    start..start.saturating_add(u64::from(place.sealed_bytes))
}

/// The part of a buffer of so many bytes; what lies outside is left out, and does not open then.
fn within(range: &Range<u64>, length: usize) -> Range<usize> {
    let end = usize::try_from(range.end).unwrap_or(length).min(length);
    usize::try_from(range.start).unwrap_or(end).min(end)..end
}
