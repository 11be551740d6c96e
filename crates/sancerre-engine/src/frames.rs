//! Frames: from a place in a map to the bytes that were sealed there.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sancerre_format::FormatError;
use sancerre_format::id::{FramePlace, SessionId};
use sancerre_format::seal::{self, RootKey, UnitKind, UnitName};

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::catalogue::Catalogue;
use crate::repository::log::{Log, LogEntry};

/// Opened metadata frames kept: neighbouring nodes lie in one frame, at most 1 MiB each.
const METADATA_FRAMES_KEPT: usize = 24;

/// Finds and opens the frames of one zone.
pub struct Frames {
    repository: Repository,
    log: Arc<Log>,
    catalogue: Arc<Catalogue>,
    content_roots: Mutex<HashMap<u64, RootKey>>,
    kept: Mutex<VecDeque<(FramePlace, Arc<Vec<u8>>)>>,
}

impl Frames {
    /// Frames of the packs in `catalogue`.
    pub fn new(repository: Repository, log: Arc<Log>, catalogue: Arc<Catalogue>) -> Self {
        Self { repository, log, catalogue, content_roots: Mutex::default(), kept: Mutex::default() }
    }

    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The log it works with.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The pack lists it works with.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The object key of the pack in which a frame lies.
    pub fn pack_key(&self, place: &FramePlace) -> Result<String> {
        self.catalogue.key(&self.repository, place.frame.pack)
    }

    fn session(&self, number: u64) -> Result<SessionId> {
        let entry = self.log.entry(number).filter(|entry| entry.announced().is_some());
        entry.map(|entry| entry.session).ok_or_else(|| Error::Lost { what: format!("log entry {number}") })
    }

    fn unit(&self, kind: UnitKind, place: &FramePlace) -> Result<UnitName> {
        let frame = place.frame;
        Ok(UnitName {
            kind,
            session: self.session(frame.pack.session)?,
            a: frame.pack.ordinal,
            b: frame.index,
        })
    }

    /// The root that opens data frames of a session.
    ///
    /// Errors: [`Error::WrongKey`] when the keys at hand open no content.
    pub fn content_root(&self, session: u64) -> Result<RootKey> {
        let mut roots = self.content_roots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = roots.get(&session) {
            return Ok(root.clone());
        }
        let key = sancerre_format::names::log(&self.repository.keys.zone, session);
        // Also of a revoked writer, for the snapshots of others: the key is the one committed to, and chunks are verified.
        let entry = self.log.entry(session).and_then(LogEntry::announced);
        let entry = entry.ok_or_else(|| Error::Missing { key: key.clone() })?;
        let root = self.repository.keys.content_root(entry, &key)?;
        roots.insert(session, root.clone());
        Ok(root)
    }

    /// Opens a sealed data frame.
    pub fn open_data(&self, place: &FramePlace, sealed: &[u8]) -> Result<Vec<u8>> {
        self.open_data_into(place, sealed, &mut Vec::new())
    }

    /// [`Frames::open_data`] with a buffer for the decrypted bytes that the caller reuses.
    pub fn open_data_into(
        &self,
        place: &FramePlace,
        sealed: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<Vec<u8>> {
        let root = self.content_root(place.frame.pack.session)?;
        let name = self.unit(UnitKind::Data, place)?;
        seal::open_into(&root, &name, sealed, scratch).map_err(|error| self.blame(place, error))
    }

    /// Opens a sealed metadata frame.
    pub fn open_metadata(&self, place: &FramePlace, sealed: &[u8]) -> Result<Vec<u8>> {
        let name = self.unit(UnitKind::Metadata, place)?;
        let root = self.repository.keys.metadata_root(&name.session)?;
        seal::open(&root, &name, sealed).map_err(|error| self.blame(place, error))
    }

    /// Fetches and opens a metadata frame, or takes it from the few kept.
    pub async fn metadata(&self, place: &FramePlace) -> Result<Arc<Vec<u8>>> {
        if let Some(raw) = self.kept(place) {
            return Ok(raw);
        }
        let read = |sealed: bytes::Bytes| async move { self.open_metadata(place, &sealed) };
        let raw = Arc::new(self.repository.cached(&self.pack_key(place)?, sealed(place), read).await?);
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

    /// Fetches one sealed frame.
    pub async fn fetch(&self, place: &FramePlace) -> Result<bytes::Bytes> {
        self.repository.store.need_range(&self.pack_key(place)?, sealed(place)).await
    }

    /// Names the pack in which a frame was found wanting.
    pub fn blame(&self, place: &FramePlace, source: FormatError) -> Error {
        let key = self.pack_key(place).unwrap_or_else(|_| format!("pack {}", place.frame.pack));
        Error::Object { key, source }
    }
}

/// Where a sealed frame lies in its pack.
fn sealed(place: &FramePlace) -> Range<u64> {
    let start = u64::from(place.offset_bytes);
    start..start.saturating_add(u64::from(place.sealed_bytes))
}
