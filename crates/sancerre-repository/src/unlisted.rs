//! Packs that no list names: those of a session whose list is lost or cannot be read. What a pack is it says itself at its
//! ends, and that its bytes are its own only their ids prove, so this is for readers alone: nobody reuses such a pack, and
//! nobody deletes because of it.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::limits;
use sancerre_format::list::ListedPack;
use sancerre_format::names;
use sancerre_format::pack::{PackKind, PackTail};

use crate::catalogue::{Catalogue, Present};
use crate::error::Result;
use crate::log::{Log, UNKNOWN};
use crate::monitor::Monitor;
use crate::pack_ends::{PackEnds, PackRef, fetch_all};
use crate::repository::Repository;

/// Reads the ends of those of the wanted packs that the store lists. Of several objects under one name the one counts whose
/// table opens with the zone's keys, if one does.
///
/// Errors: the store's, when it does not work as such.
pub async fn find(
    repository: &Repository,
    log: &Log,
    present: &Present,
    wanted: &BTreeSet<PackName>,
) -> Result<Catalogue> {
    let mut sources = Vec::new();
    for name in wanted {
        let objects = present.found(*name).iter().map(|(hash, size_bytes)| source(*name, *hash, *size_bytes));
        let most = limits::pack_bytes_max(repository.layout.pack_bytes);
        sources.extend(objects.filter(|source| source.listed.size_bytes <= most));
    }
    let monitor = Monitor::silent();
    let mut found: BTreeMap<PackName, (bool, SessionId, ListedPack)> = BTreeMap::new();
    let mut read = std::pin::pin!(fetch_all(repository, sources, &monitor));
    while let Some((source, ends)) = read.try_next().await? {
        let told = ends.map(|ends| told(repository, log, &ends));
        let Some((opens, session, pack)) =
            told.or_else(|error| if error.is_damage() { Ok(None) } else { Err(error) })?
        else {
            continue;
        };
        let known = found.get(&source.name);
        if known.is_none_or(|(is_sure, ..)| opens && !is_sure) {
            found.insert(source.name, (opens, session, pack));
        }
    }
    let mut catalogue = Catalogue::default();
    found.into_iter().for_each(|(name, (_, session, pack))| catalogue.add_unlisted(name, session, pack));
    Ok(catalogue)
}

/// The packs of these sessions that the store lists.
pub async fn present(repository: &Repository, sessions: &BTreeSet<u64>) -> Result<Present> {
    let mut listed = Vec::new();
    for session in sessions {
        listed.extend(repository.store.list(&names::pack_folder(&repository.keys.zone, *session)).await?);
    }
    Ok(Present::of(repository, &listed))
}

/// A pack of which nothing is known but its key and size.
pub fn source(name: PackName, hash: Hash, size_bytes: u64) -> PackRef {
    let kind = PackKind::Data;
    let listed = ListedPack {
        ordinal: name.ordinal,
        kind,
        size_bytes,
        hash,
        sha256: UNKNOWN,
        tail: UNKNOWN,
        frames: 0,
    };
    PackRef { name, session: SessionId { number: name.session, intent: UNKNOWN }, listed }
}

/// What a pack says of itself, and whether its table opens; none if it is not of the session that the log knows.
fn told(repository: &Repository, log: &Log, ends: &PackEnds) -> Option<(bool, SessionId, ListedPack)> {
    let (tail, pack) = ends.decode_unlisted(repository.keys.trust.repository).ok()?;
    let writer = tail.head().writer();
    let entry = log.entry(writer.number);
    let known = entry.filter(|entry| entry.announced().is_some() || entry.lost.is_some());
    let said = known.map(|entry| entry.session).or_else(|| log.said_of(writer.number));
    let fits = said.is_none_or(|said| said == writer || said.intent == UNKNOWN);
    fits.then(|| (opens(repository, &tail, &writer), writer, pack))
}

/// Whether the pack's table opens with keys of the zone that are at hand: then one of their holders made it.
pub fn opens(repository: &Repository, tail: &PackTail<'_>, writer: &SessionId) -> bool {
    let keys = &repository.keys;
    let roots =
        keys.generations().into_iter().filter_map(|made| keys.metadata_root_in(writer, Some(made)).ok());
    roots.into_iter().any(|root| tail.open_table(&root).is_ok())
}
