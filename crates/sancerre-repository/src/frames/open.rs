//! Opening sealed frames: each by the key of the session that sealed it, wherever it lies now.

use std::sync::PoisonError;

use sancerre_format::id::FramePlace;
use sancerre_format::seal::{self, RootKey, UnitKind, UnitName};

use super::Frames;
use crate::error::{Error, Result, StoreError};
use crate::log::LogEntry;

impl Frames {
    pub(super) fn unit(&self, kind: UnitKind, place: &FramePlace) -> Result<UnitName> {
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
        if let Some(root) = self.content_told(session) {
            return Ok(root);
        }
        let key = sancerre_format::names::log(&self.repository.keys.zone, session);
        // Also of a revoked writer, for the snapshots of others: the key is the one committed to, and chunks are verified.
        let log = self.log();
        let entry = log.entry(session).and_then(LogEntry::announced);
        let entry = entry.ok_or_else(|| Error::Store(StoreError::Missing { key: key.clone() }))?;
        let root = self.repository.keys.content_root(entry, &key)?;
        roots.insert(session, root.clone());
        Ok(root)
    }

    /// Opens a sealed data frame.
    pub fn open_data(&self, place: &FramePlace, sealed: &[u8]) -> Result<Vec<u8>> {
        self.open_data_into(place, sealed, &mut Vec::new())
    }

    /// [`Frames::open_data`] with a buffer for the decrypted bytes that the caller reuses.
    pub(crate) fn open_data_into(
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
        self.open_unit(UnitKind::Metadata, place, sealed)
    }

    /// Opens a unit that is sealed under the metadata root of its session.
    pub(super) fn open_unit(&self, kind: UnitKind, place: &FramePlace, sealed: &[u8]) -> Result<Vec<u8>> {
        let name = self.unit(kind, place)?;
        let keys = &self.repository.keys;
        let open = |generation: Option<u16>| {
            let root = keys.metadata_root_in(&name.session, generation)?;
            seal::open(&root, &name, sealed).map_err(|error| self.blame(place, error))
        };
        match self.log().generation(name.session.number) {
            // Lost with its log entry: one of the keys at hand opens it, or none does.
            None => match keys.generations().into_iter().map(|made| open(Some(made))).find(Result::is_ok) {
                Some(opened) => opened,
                None => open(keys.generation()),
            },
            generation => open(generation),
        }
    }
}
