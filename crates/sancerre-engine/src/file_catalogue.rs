//! File catalogues that were made after a backup (FORMAT.md §5.3): a note of the log, and an annex whose content only identities
//! open, for names of files are content and writers and keepers have the key of annexes.

use std::collections::BTreeSet;

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::bytes::{to_u32, to_u64, to_usize};
use sancerre_format::file_catalogue::ROLE;
use sancerre_format::id::{ContentId, Hash, PackName, SessionId};
use sancerre_format::list::ListedPack;
use sancerre_format::log::{Entry, Kind, Note};
use sancerre_format::names::{self, Folder, Name};
use sancerre_format::pack::{FinishedPack, Pack, PackBuilder, PackHead, PackKind, SealedSession};
use sancerre_format::record::Record;
use sancerre_format::seal::{RootKey, SessionKey, UnitKind, UnitName, open, seal_raw};

use crate::error::{Error, Result};
use crate::keys::lost;
use crate::repository::Repository;
use crate::repository::catalogue::Catalogue;
use crate::repository::log::Log;
use crate::repository::session::{append, publish_list};
use crate::store::Creation;

/// Bytes of a catalogue in one frame.
const PART_BYTES: usize = 4 << 20;
const ZSTD_LEVEL: i32 = 3;
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
    let metadata = repository.keys.metadata_root(&session)?;
    let mut listed: Vec<ListedPack> = Vec::new();
    for pack in packs(repository, session, catalogue, (&key.root(), &metadata))? {
        let place = names::pack(&repository.keys.zone, pack.name, &pack.hash);
        listed.push(pack.listed());
        let advice = "another process uses this note; run the command again";
        repository.store.put_own(&place, Bytes::from(pack.bytes), advice).await?;
    }
    publish_list(repository, &sealing.writer, session, 0, listed).await?;
    Ok(session.number)
}

fn packs(
    repository: &Repository,
    session: SessionId,
    catalogue: &[u8],
    (content, metadata): (&RootKey, &RootKey),
) -> Result<Vec<FinishedPack>> {
    let most = to_usize(repository.layout.pack_bytes);
    let (mut finished, mut open_pack) = (Vec::new(), new_pack(repository, session, 0)?);
    for part in catalogue.chunks(PART_BYTES) {
        let (a, b) = (open_pack.name().ordinal, open_pack.next_index());
        let inner = seal_raw(content, &UnitName { kind: UnitKind::Data, session, a, b }, ZSTD_LEVEL, part)?;
        let sealed =
            seal_raw(metadata, &UnitName { kind: UnitKind::Annex, session, a, b }, ZSTD_LEVEL, &inner)?;
        let piece = (ContentId(Hash::of(&inner).0), to_u32("frame", inner.len())?);
        open_pack.append(&sealed, &[piece])?;
        if to_u64(most) < to_u64(open_pack.len_bytes_with(PART_BYTES, 1)) {
            let next = new_pack(repository, session, a.saturating_add(1))?;
            finished.push(std::mem::replace(&mut open_pack, next).finish(metadata)?);
        }
    }
    if !open_pack.is_empty() {
        finished.push(open_pack.finish(metadata)?);
    }
    Ok(finished)
}

fn new_pack(repository: &Repository, session: SessionId, ordinal: u32) -> Result<PackBuilder> {
    let sessions = vec![SealedSession { session, sealed_key: Vec::new() }];
    let repository = repository.keys.trust.repository;
    Ok(PackBuilder::new(PackHead { kind: PackKind::Annex, repository, ordinal, sessions })?)
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
    let zone = &repository.keys.zone;
    let key = names::log(zone, session.number);
    let sealed_key = entry.public().map_err(Error::object(&key))?;
    let content = repository.keys.content_root_of(sealed_key, &key)?;
    let listed = repository.store.list(&names::session_folder(zone, Folder::Lists, &session)).await?;
    let (lists, _) = Catalogue::of(repository, log, &listed).await?;
    let (mut catalogue, mut ordinal) = (Vec::new(), 0);
    while let Some(pack) = lists.pack(PackName { session: session.number, ordinal }) {
        let name = PackName { session: session.number, ordinal };
        let key = names::pack(zone, name, &pack.hash);
        let bytes = repository.store.get(&key).await?.ok_or_else(|| Error::Lost { what: key.clone() })?;
        let opened = parts(repository, session, &content, &bytes).map_err(Error::object(&key))?;
        if catalogue.len().saturating_add(opened.len()) > CATALOGUE_BYTES_MAX {
            let detail = format!("it is larger than {CATALOGUE_BYTES_MAX} bytes");
            return Err(Error::object(&key)(FormatError::Corrupt { what: "file catalogue", detail }));
        }
        catalogue.extend(opened);
        ordinal += 1;
    }
    Ok((!catalogue.is_empty()).then_some(catalogue))
}

/// What the frames of a pack hold.
fn parts(
    repository: &Repository,
    session: SessionId,
    content: &RootKey,
    bytes: &[u8],
) -> std::result::Result<Vec<u8>, FormatError> {
    let pack = Pack::decode(bytes)?;
    pack.verify_frames()?;
    let roots: Vec<RootKey> = repository
        .keys
        .generations()
        .into_iter()
        .filter_map(|generation| repository.keys.metadata_root_in(&session, Some(generation)).ok())
        .collect();
    let mut found = Vec::new();
    for (position, entry) in pack.directory().iter().enumerate() {
        let (a, b) = (entry.frame.pack.ordinal, entry.frame.index);
        let frame = pack.frame(position)?;
        let outer = UnitName { kind: UnitKind::Annex, session, a, b };
        let mut opened = roots.iter().filter_map(|root| open(root, &outer, frame).ok());
        let forged = || {
            let detail = "no key of the zone opens it".to_owned();
            FormatError::Forged { what: "annex", detail }
        };
        let inner = opened.next().ok_or_else(forged)?;
        found.extend(open(content, &UnitName { kind: UnitKind::Data, session, a, b }, &inner)?);
    }
    Ok(found)
}
