//! A fresh listing before the manifest: what this session stored, and what of a folder it builds on, is still there.
//!
//! A part of a folder may be a mount of its own or lie behind a link, and somebody may clear away what he takes for old.
//! Then each single write succeeds, and the snapshot would lack what was written before.

use std::collections::BTreeSet;

use sancerre_format::id::PackName;
use sancerre_format::list::ListedPack;
use sancerre_format::names::{self, Folder};

use super::Run;
use super::upload::Uploader;
use crate::error::{Error, Result, StoreError};
use crate::repository::Repository;
use crate::repository::catalogue::Present;

/// Fails unless the store still has all packs that lists of this session name. Where a look costs nothing, in a folder, it
/// must also have `config`, the lists, and what the snapshot needs of earlier packs.
///
/// Errors: [`StoreError::Vanished`]; the store's.
pub(super) async fn before_manifest(repository: &Repository, uploader: &Uploader, run: &Run) -> Result<()> {
    let gone = |key: String| {
        Err(Error::Store(StoreError::Vanished { key, location: repository.store.location().to_owned() }))
    };
    let is_folder = repository.store.folder_path().is_some();
    if is_folder && repository.store.get(names::CONFIG).await?.is_none() {
        return gone(names::CONFIG.into());
    }
    if uploader.published.is_empty() && !is_folder {
        return Ok(());
    }
    let (zone, session) = (&repository.keys.zone, uploader.session.id);
    let listed = match is_folder {
        true => repository.list(Folder::Packs).await?,
        false => repository.store.list(&names::pack_folder(zone, session.number)).await?,
    };
    let present = Present::of(repository, &listed);
    for pack in &uploader.published {
        let name = PackName { session: session.number, ordinal: pack.ordinal };
        let key = names::pack(zone, name, &pack.hash);
        if !present.has(name, pack) && !is_readable(repository, &key, pack.size_bytes).await? {
            return gone(key);
        }
    }
    if !is_folder {
        return Ok(());
    }
    if let Some((name, pack)) = lost(run, session.number, &present) {
        return gone(names::pack(zone, name, &pack.hash));
    }
    let listed = repository.store.list(&names::session_folder(zone, Folder::Lists, &session)).await?;
    let mut lists = (0..uploader.session.lists()).map(|number| names::list(zone, &session, number));
    match lists.find(|key| !listed.iter().any(|listed| listed.key == *key)) {
        Some(key) => gone(key),
        None => Ok(()),
    }
}

/// Whether a pack that is not listed can be read to its end: some stores list late what was written.
async fn is_readable(repository: &Repository, key: &str, size_bytes: u64) -> Result<bool> {
    let last = size_bytes.saturating_sub(1); // invariant: no pack is empty; of one that were, nothing would be asked for
    match repository.store.need_range(key, last..size_bytes).await {
        Ok(_) => Ok(true),
        Err(StoreError::Missing { .. } | StoreError::Withheld { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A pack of another session that the snapshot needs, or, when none is left of all that were there, the first of those:
/// then what was written meanwhile lies elsewhere.
fn lost(run: &Run, own: u64, present: &Present) -> Option<(PackName, ListedPack)> {
    let usable = &run.shared.usable;
    let needed: BTreeSet<PackName> = run
        .uses
        .frames()
        .filter_map(|frame| usable.avoid.pack(&frame))
        .filter(|pack| pack.session != own)
        .collect();
    let listed = |name: PackName| usable.catalogue.pack(name).map(|pack| (name, *pack));
    let mut lacking = needed.into_iter().filter_map(listed).filter(|(name, pack)| !present.has(*name, pack));
    let is_emptied = || usable.present.names().all(|name| present.found(name).is_empty());
    lacking.next().or_else(|| {
        let first = usable.present.names().min().filter(|_| is_emptied());
        first.and_then(listed)
    })
}
