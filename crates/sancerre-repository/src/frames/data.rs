//! Data frames for whoever reads a disk here and there: found, fetched and opened one by one.

use std::collections::BTreeSet;
use std::sync::Arc;

use sancerre_format::FormatError;
use sancerre_format::bytes::to_usize;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{FramePlace, PackName};
use sancerre_format::names;
use sancerre_format::seal::{UNIT_BYTES_MAX, UnitKind, UnitName, sealed_bytes};
use sancerre_store::Store;

use super::{Frames, PackedFrame, sealed};
use crate::error::{Error, Result, StoreError};

/// How often a store that fails is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// As long as the user wants to wait for it.
    Patient,
    /// Once: nobody needs it yet.
    One,
}

impl Frames {
    /// What a data frame is called, in all repositories and zones.
    pub(crate) fn data_name(&self, place: &FramePlace) -> Result<UnitName> {
        self.unit(UnitKind::Data, place)
    }

    /// The decoded bytes of a data frame, wherever gc moved it, and from another place when it is damaged in its own.
    ///
    /// Errors: [`Error::is_damage`] when it is nowhere whole; the store's.
    pub async fn data(self: &Arc<Self>, place: &FramePlace, attempts: Attempts) -> Result<Vec<u8>> {
        self.learn_of(place).await?;
        let patient = &self.repository.store;
        let store = if attempts == Attempts::One { patient.once() } else { patient.clone() };
        self.follow(place, |located, key| self.data_at(located, key, store.clone())).await
    }

    /// The same from the first of its places in which it is what `accept` takes: whoever has the key of its session may have
    /// sealed two under its name.
    ///
    /// Errors: the store's.
    pub(crate) async fn data_as(
        self: &Arc<Self>,
        place: &FramePlace,
        accept: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        for other in self.other_places(place.frame, None).await? {
            let key = self.catalogue().key(&self.repository, other.pack)?;
            match self.data_at(other, key, self.repository.store.clone()).await {
                Ok(raw) if accept(&raw) => return Ok(Some(raw)),
                Err(error) if !error.is_damage() => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    async fn data_at(self: &Arc<Self>, located: PackedFrame, key: String, store: Store) -> Result<Vec<u8>> {
        let size_bytes = self.catalogue().pack(located.pack).map_or(0, |pack| pack.size_bytes);
        check_place(&key, size_bytes, &located.place)?;
        let bytes = match store.need_range(&key, sealed(&located.place)).await {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.diagnose(located.pack, &key, size_bytes, error.into()).await),
        };
        let frames = Arc::clone(self);
        self.repository.host.compute(move || frames.open_data(&located.place, &bytes)).await?
    }

    /// Learns of a frame that the snapshot's own manifest does not name, as copies of map nodes do: the pack lists of its
    /// session, and its key.
    ///
    /// Errors: what is wrong with the store rather than with an object.
    pub(crate) async fn learn_of(&self, place: &FramePlace) -> Result<()> {
        let pack = self.pack(&place.frame);
        if self.catalogue().pack(pack).is_some() {
            return Ok(());
        }
        self.know(BTreeSet::from([pack.session])).await?;
        let mut frame = FrameSet::default();
        frame.insert(place.frame);
        self.learn(&frame).await
    }

    /// A store says little about why it has no such range: looks whether the pack is there and whole.
    pub async fn diagnose(&self, pack: PackName, key: &str, size_bytes: u64, error: Error) -> Error {
        if !matches!(error, Error::Store(StoreError::Failed { .. } | StoreError::Withheld { .. })) {
            return error;
        }
        let folder = names::pack_folder(&self.repository.keys.zone, pack.session);
        let Ok(found) = self.repository.store.list(&folder).await else { return error };
        match found.iter().find(|listed| listed.key == *key) {
            None => Error::Store(StoreError::Missing { key: key.to_owned() }),
            Some(listed) if listed.size_bytes != size_bytes => {
                let detail = format!("it has {} bytes instead of {size_bytes}", listed.size_bytes);
                Error::object(key)(FormatError::Corrupt { what: "pack", detail })
            }
            Some(_) => error,
        }
    }
}

/// A map may say anything: only what can be there is asked for.
///
/// Errors: damage, for a frame that cannot lie in a pack of this size.
pub fn check_place(key: &str, pack_bytes: u64, place: &FramePlace) -> Result<()> {
    let range = sealed(place);
    if to_usize(place.sealed_bytes) <= sealed_bytes(UNIT_BYTES_MAX) && range.end <= pack_bytes {
        return Ok(());
    }
    let detail = format!("the map names a frame at {range:?}, which cannot be in it");
    Err(Error::object(key)(FormatError::Corrupt { what: "pack", detail }))
}
