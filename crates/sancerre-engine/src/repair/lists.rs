//! Pack lists made anew: every pack of the session that the store has and no list names is read whole and verified, and the
//! administrator signs what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use sancerre_format::certificate::Role;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::list::ListedPack;
use sancerre_format::names::{self, Folder, ZoneKey};
use sancerre_format::pack::Pack;
use sha2::{Digest, Sha256};

use super::{RepairOptions, RepairReport};
use crate::check::{Expected, missing_lists, tolerate, verify};
use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::monitor::{Monitor, add};
use crate::repository::Repository;
use crate::repository::catalogue::{Catalogue, Present};
use crate::repository::log::Log;
use crate::repository::session::publish_list;
use crate::repository::unlisted;

/// Packs that one list names.
const LISTED_MAX: usize = 10_000;

/// A session whose packs are named by no list.
#[derive(Debug)]
pub(super) struct Anew {
    /// As the heads of its packs have it.
    pub(super) session: SessionId,
    packs: Vec<(PackName, ListedPack)>,
    /// The first sequence that no list of the session can have.
    sequence: u32,
}

/// The sessions whose lists are lost, and their packs by what these say of themselves.
pub(super) async fn plan(repository: &Repository, log: &Log, report: &mut RepairReport) -> Result<Vec<Anew>> {
    let zone = &repository.keys.zone;
    let (catalogue, bad) = Catalogue::load_all(repository, log).await?;
    let mut lost: BTreeSet<u64> = missing_lists(repository, log).await?.into_keys().collect();
    lost.extend(bad.iter().filter_map(|bad| match ZoneKey::parse(zone, &bad.key) {
        Ok(ZoneKey::List(session, _)) => Some(session.number),
        _ => None,
    }));
    // Whose signer nobody knows any more.
    lost.extend(log.void_sessions());
    let present = Present::load(repository).await?;
    let wanted: BTreeSet<PackName> = present
        .names()
        .filter(|pack| lost.contains(&pack.session) && catalogue.pack(*pack).is_none())
        .collect();
    for pack in wanted.iter().filter(|pack| present.found(**pack).len() > 1) {
        let key = format!("{}{:08x}-*", names::pack_folder(zone, pack.session), pack.ordinal);
        report.left.push((
            key,
            "there are several objects of this name, and only a list could say which is it".into(),
        ));
    }
    let clear = wanted.into_iter().filter(|pack| present.found(*pack).len() == 1).collect();
    let found = unlisted::find(repository, log, &present, &clear).await?;
    let mut packs: BTreeMap<u64, Vec<(PackName, ListedPack)>> = BTreeMap::new();
    for (name, pack) in found.packs() {
        packs.entry(name.session).or_default().push((name, *pack));
    }
    let mut anew = Vec::new();
    for (number, packs) in packs {
        let session =
            found.session(number).ok_or_else(|| Error::Lost { what: format!("session {number}") })?;
        // A reader takes lists of sessions that are in the log.
        if log.has(&session) {
            anew.push(Anew { session, packs, sequence: first_free(repository, log, session).await? });
        }
    }
    Ok(anew)
}

/// Above all that the session's manifest counts, and all that is there.
async fn first_free(repository: &Repository, log: &Log, session: SessionId) -> Result<u32> {
    let zone = &repository.keys.zone;
    let listed = repository.store.list(&names::session_folder(zone, Folder::Lists, &session)).await?;
    let there = listed.iter().filter_map(|listed| match ZoneKey::parse(zone, &listed.key) {
        Ok(ZoneKey::List(_, sequence)) => Some(sequence.saturating_add(1)),
        _ => None,
    });
    let snapshot = log.entry(session.number).and_then(|entry| entry.snapshot());
    let counted = snapshot.map_or(0, |snapshot| snapshot.manifest.fields.lists);
    Ok(there.max().unwrap_or_default().max(counted))
}

/// Reads the packs, and publishes lists of those that are sound.
pub(super) async fn make(
    repository: &Repository,
    log: &Log,
    anew: &Anew,
    options: &RepairOptions,
    monitor: &Monitor,
    report: &mut RepairReport,
) -> Result<()> {
    let total = anew.packs.iter().fold(0u64, |sum, (_, pack)| sum.saturating_add(pack.size_bytes));
    let key = names::list(&repository.keys.zone, &anew.session, anew.sequence);
    if options.dry_run {
        let packs = anew.packs.len();
        report.done.push(format!(
            "{key}: a list of {packs} packs ({total} bytes, which are read and verified first)"
        ));
        return Ok(());
    }
    add(&monitor.counters.total_bytes, total);
    let frames = frames(repository, log, anew).await?;
    let mut sound = Vec::new();
    for (name, pack) in &anew.packs {
        monitor.check()?;
        match look(repository, &frames, anew.session, *name, pack).await? {
            Ok(pack) => sound.push(pack),
            Err(problem) => {
                let key = names::pack(&repository.keys.zone, *name, &pack.hash);
                report.left.push((key, format!("it is not listed anew: {problem}")));
            }
        }
        add(&monitor.counters.done_bytes, pack.size_bytes);
    }
    let signer = repository.signer(&[Role::Admin])?.clone();
    for (sequence, packs) in (anew.sequence..).zip(sound.chunks(LISTED_MAX)) {
        publish_list(repository, &signer, anew.session, sequence, packs.to_vec()).await?;
        let key = names::list(&repository.keys.zone, &anew.session, sequence);
        report.done.push(format!("{key}: a list of {} packs", packs.len()));
    }
    Ok(())
}

/// Frames of the packs of one session, with what opens them.
async fn frames(repository: &Repository, log: &Log, anew: &Anew) -> Result<Arc<Frames>> {
    let mut catalogue = Catalogue::default();
    let mut all = FrameSet::default();
    for (name, pack) in &anew.packs {
        catalogue.add_unlisted(*name, anew.session, *pack);
        all.insert_pack(*name);
    }
    let frames = Frames::new(repository, log, &catalogue);
    frames.learn(&all).await?;
    Ok(Arc::new(frames))
}

/// Reads a pack whole: it is what its key says, all of its frames are what its directory says, and as far as the keys at hand
/// open them, what its table says.
async fn look(
    repository: &Repository,
    frames: &Arc<Frames>,
    session: SessionId,
    name: PackName,
    pack: &ListedPack,
) -> Result<std::result::Result<ListedPack, String>> {
    let key = names::pack(&repository.keys.zone, name, &pack.hash);
    let bytes = match repository.store.need(&key).await {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Err(tolerate(repository, error).await?)),
    };
    let (frames, pack) = (Arc::clone(frames), *pack);
    repository.host.compute(move || verified(&frames, session, name, pack, &bytes)).await
}

fn verified(
    frames: &Frames,
    session: SessionId,
    name: PackName,
    pack: ListedPack,
    bytes: &Bytes,
) -> std::result::Result<ListedPack, String> {
    let keys = &frames.repository().keys;
    let decoded = Pack::decode(bytes).map_err(|error| error.to_string())?;
    let opens = |made: &u16| {
        keys.metadata_root_in(&session, Some(*made)).is_ok_and(|root| decoded.open_table(&root).is_ok())
    };
    let generation = keys.generations().into_iter().find(opens);
    let generation = generation.ok_or("its table opens with none of the zone's keys at hand")?;
    let listed = ListedPack { sha256: Hash(Sha256::digest(bytes).into()), ..pack };
    let expected = Expected {
        repository: keys.trust.repository,
        session,
        name,
        listed,
        open_content: keys.can_open_content(),
        generation: Some(generation),
    };
    match verify(bytes, &expected, frames).problem {
        None => Ok(listed),
        Some(problem) => Err(problem),
    }
}
