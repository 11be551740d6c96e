//! File catalogues that were made after a backup (FORMAT.md §5.3): a note of the log, and an annex whose content only identities
//! open, for names of files are content and writers and keepers have the key of annexes.

use std::collections::BTreeSet;

use sancerre_format::file_catalogue::ROLE;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, Kind, Note};
use sancerre_format::names::{self, Name};
use sancerre_format::record::Record;
use sancerre_format::seal::{SessionKey, UnitKind, UnitName, open, seal_raw};

use crate::annex;
use crate::error::{Error, Result};
use crate::keys::lost;
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::repository::session::append;

/// Most bytes of a catalogue that is read, some fifty million files: it is read whole, and whoever signs a note could make one of
/// any size.
const CATALOGUE_BYTES_MAX: usize = 1 << 30;

/// Stores the catalogue of a snapshot beside it; returns the number of the note.
///
/// Errors: no key that may store; the store's.
pub async fn keep(repository: &Repository, snapshot: SessionId, catalogue: &[u8]) -> Result<u64> {
    let log = Log::load(repository).await?;
    let sealing = lost::sealing(repository, &log).await?;
    let key = SessionKey(repository.host.random());
    let sealed_key = repository.host.sealer.seal(&sealing.recipient, &key.0)?;
    let note = Note { topic: Name::new(ROLE)?, result: None, snapshots: vec![snapshot] };
    let session = append(repository, &log, Kind::Note(note), &sealed_key).await?;
    let root = key.root();
    let seal = |unit: &UnitName, part: Vec<u8>| seal_raw(&root, &within(unit), annex::ZSTD_LEVEL, &part);
    annex::keep(repository, &sealing.writer, session, catalogue, &seal).await?;
    Ok(session.number)
}

/// The unit in a unit of the annex.
fn within(unit: &UnitName) -> UnitName {
    UnitName { kind: UnitKind::Data, ..*unit }
}

/// The bytes of the newest catalogue that was made of a snapshot after its backup; none if there is none, or it was not stored
/// whole.
///
/// Errors: [`Error::WrongKey`] without an identity; damage; the store's.
pub async fn kept(repository: &Repository, log: &Log, snapshot: SessionId) -> Result<Option<Vec<u8>>> {
    let is_it = |entry: &Record<Entry>| match &entry.fields.kind {
        Kind::Note(note) => note.topic.as_str() == ROLE && note.snapshots.contains(&snapshot),
        _ => false,
    };
    let entries = log.entries().filter_map(|entry| Some((entry.session, entry.entry.as_deref().ok()?)));
    let Some((session, _)) = entries.filter(|(_, entry)| is_it(entry)).last() else { return Ok(None) };
    // A checkpoint carries it without the key that it holds.
    let mut log = log.clone();
    log.fill(repository, &BTreeSet::from([session.number]), &BTreeSet::new()).await?;
    let entry = log.entry(session.number).and_then(|entry| entry.entry.as_deref().ok());
    let entry = entry.ok_or_else(|| Error::bug("an entry of the log is not there once it was read whole"))?;
    read(repository, &log, session, entry).await
}

async fn read(
    repository: &Repository,
    log: &Log,
    session: SessionId,
    entry: &Record<Entry>,
) -> Result<Option<Vec<u8>>> {
    let key = names::log(&repository.keys.zone, session.number);
    let sealed_key = entry.public().map_err(Error::object(&key))?;
    let root = repository.keys.content_root_of(sealed_key, &key)?;
    let opened = |unit: &UnitName, inner: Vec<u8>| open(&root, &within(unit), &inner);
    let bounds = ("file catalogue", CATALOGUE_BYTES_MAX);
    let catalogue = annex::read(repository, log, session, bounds, &opened).await?;
    Ok((!catalogue.is_empty()).then_some(catalogue))
}
