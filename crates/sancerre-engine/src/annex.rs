//! Annexes that notes own (FORMAT.md §5.1): bytes in units of kind 8, which writers and keepers can open.

use bytes::Bytes;
use sancerre_format::FormatError;
use sancerre_format::bytes::{to_u32, to_u64, to_usize};
use sancerre_format::id::{ContentId, Hash, PackName, SessionId};
use sancerre_format::list::ListedPack;
use sancerre_format::names::{self, Folder};
use sancerre_format::pack::{FinishedPack, Pack, PackBuilder, PackHead, PackKind, SealedSession};
use sancerre_format::seal::{RootKey, UnitKind, UnitName, open, seal_raw};

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::catalogue::Catalogue;
use crate::repository::keys::SignerKey;
use crate::repository::log::Log;
use crate::repository::session::publish_list;
use crate::store::Creation;

/// Bytes in one frame.
const PART_BYTES: usize = 4 << 20;
pub(crate) const ZSTD_LEVEL: i32 = 3;

/// What else is done with the bytes of a unit, before it is sealed or after it was opened.
pub(crate) type Within<'a> =
    &'a (dyn Fn(&UnitName, Vec<u8>) -> std::result::Result<Vec<u8>, FormatError> + Sync);

/// Stores these bytes as the annex of a note that `signer` signed.
///
/// Errors: the store's.
pub(crate) async fn keep(
    repository: &Repository,
    signer: &SignerKey,
    session: SessionId,
    content: &[u8],
    within: Within<'_>,
) -> Result<()> {
    let mut listed: Vec<ListedPack> = Vec::new();
    for pack in packs(repository, session, content, within)? {
        let place = names::pack(&repository.keys.zone, pack.name, &pack.hash);
        listed.push(pack.listed());
        let advice = "another process uses this note; run the command again";
        repository.store.put_own(&place, Bytes::from(pack.bytes), advice).await?;
    }
    publish_list(repository, signer, session, 0, listed).await
}

fn packs(
    repository: &Repository,
    session: SessionId,
    content: &[u8],
    within: Within<'_>,
) -> Result<Vec<FinishedPack>> {
    let metadata = repository.keys.metadata_root(&session)?;
    let most = to_usize(repository.layout.pack_bytes);
    let (mut finished, mut open_pack) = (Vec::new(), new_pack(repository, session, 0)?);
    for part in content.chunks(PART_BYTES) {
        let (a, b) = (open_pack.name().ordinal, open_pack.next_index());
        let unit = UnitName { kind: UnitKind::Annex, session, a, b };
        let inner = within(&unit, part.to_vec())?;
        let sealed = seal_raw(&metadata, &unit, ZSTD_LEVEL, &inner)?;
        let piece = (ContentId(Hash::of(&inner).0), to_u32("frame", inner.len())?);
        open_pack.append(&sealed, &[piece])?;
        if to_u64(most) < to_u64(open_pack.len_bytes_with(PART_BYTES, 1)) {
            let next = new_pack(repository, session, a.saturating_add(1))?;
            finished.push(std::mem::replace(&mut open_pack, next).finish(&metadata)?);
        }
    }
    if !open_pack.is_empty() {
        finished.push(open_pack.finish(&metadata)?);
    }
    Ok(finished)
}

fn new_pack(repository: &Repository, session: SessionId, ordinal: u32) -> Result<PackBuilder> {
    let sessions = vec![SealedSession { session, sealed_key: Vec::new() }];
    let repository = repository.keys.trust.repository;
    Ok(PackBuilder::new(PackHead { kind: PackKind::Annex, repository, ordinal, sessions })?)
}

/// What the annex of a note holds; nothing if it has none that is listed. `what` is what errors call it.
///
/// Errors: a pack that is gone, damaged, or that no key of the zone opens; more bytes than `most`; the store's.
pub(crate) async fn read(
    repository: &Repository,
    log: &Log,
    session: SessionId,
    (what, most): (&'static str, usize),
    within: Within<'_>,
) -> Result<Vec<u8>> {
    let zone = &repository.keys.zone;
    let listed = repository.store.list(&names::session_folder(zone, Folder::Lists, &session)).await?;
    let (lists, _) = Catalogue::of(repository, log, &listed).await?;
    let (mut content, mut ordinal) = (Vec::new(), 0);
    while let Some(pack) = lists.pack(PackName { session: session.number, ordinal }) {
        let name = PackName { session: session.number, ordinal };
        let key = names::pack(zone, name, &pack.hash);
        let large = || {
            let detail = format!("it is larger than {most} bytes");
            Error::object(&key)(FormatError::Corrupt { what, detail })
        };
        // Sealed and padded, it is a little more.
        if pack.size_bytes / 2 > to_u64(most) {
            return Err(large());
        }
        let bytes = repository.store.get(&key).await?.ok_or_else(|| Error::Lost { what: key.clone() })?;
        let opened = parts(repository, session, &bytes, within).map_err(Error::object(&key))?;
        if content.len().saturating_add(opened.len()) > most {
            return Err(large());
        }
        content.extend(opened);
        ordinal += 1;
    }
    Ok(content)
}

/// What the frames of a pack hold.
fn parts(
    repository: &Repository,
    session: SessionId,
    bytes: &[u8],
    within: Within<'_>,
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
        let unit = UnitName { kind: UnitKind::Annex, session, a, b };
        let mut opened = roots.iter().filter_map(|root| open(root, &unit, frame).ok());
        let forged = || {
            let detail = "no key of the zone opens it".to_owned();
            FormatError::Forged { what: "annex", detail }
        };
        found.extend(within(&unit, opened.next().ok_or_else(forged)?)?);
    }
    Ok(found)
}
