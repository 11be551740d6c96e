//! Before a pack is deleted of which an earlier commit says that its frames lie elsewhere now: the copies are read, and
//! compared with what the pack's own directory says. Whoever signed that commit may have lied, with a stolen key even in the
//! name of this very keeper, and then the pack holds all there is.
//!
//! That costs a read of what was moved, but only for packs that an earlier collection should have deleted and did not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sancerre_advice::Verb::Check;
use sancerre_format::FormatError;
use sancerre_format::frames::{FrameSet, Members, Ranges};
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FrameName, Hash, PackName};

use super::source::read;
use crate::error::{Error, Result, StoreError};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::catalogue::Catalogue;
use crate::repository::log::{Log, Moves, needed};
use crate::repository::pack_ends::{PackEnds, PackRef};

/// Frames by the pack in which they should lie now.
type Copies = BTreeMap<PackName, FrameSet>;

/// Takes from `doomed` the packs of which a snapshot that is not gone may have all there is; returns them with the reason.
/// What this run's own commit burns was read by it.
///
/// Errors: the store's; the user's wish to stop.
pub(super) async fn keep_unproven(
    repository: &Repository,
    log: &Log,
    own: &GcLists,
    doomed: &mut BTreeSet<PackName>,
    monitor: &Monitor,
) -> Result<Vec<String>> {
    let moved = moved_away(log, doomed, own)?;
    let packs = moved.iter().flat_map(|(from, copies)| std::iter::once(from).chain(copies.keys()));
    let sessions: BTreeSet<u64> = packs.map(|pack| pack.session).collect();
    let (catalogue, _) = Catalogue::load(repository, log, sessions).await?;
    let mut kept = Vec::new();
    for (from, copies) in moved {
        monitor.check()?;
        match prove(repository, &catalogue, from, &copies, monitor).await {
            Ok(()) => {}
            Err(error) if error.is_damage() => {
                doomed.remove(&from);
                let who = signers(log, copies.keys());
                kept.push(format!(
                    "pack {from} stays: a snapshot needs what was in it, and {who} signed that it lies elsewhere, but: \
                     {error}; run {Check}"
                ));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(kept)
}

/// Of each pack that is to go and that an earlier commit burnt: the frames that snapshots need and that were in it, by
/// where they lie now.
fn moved_away(log: &Log, doomed: &BTreeSet<PackName>, own: &GcLists) -> Result<BTreeMap<PackName, Copies>> {
    let moves = Moves::below(log, Log::END);
    let asked = |pack: &PackName| doomed.contains(pack) && !own.dead.contains_pack(pack);
    let mut moved = BTreeMap::<PackName, Copies>::new();
    for (named, members) in needed(log.remaining_below(Log::END))?.iter() {
        let stops = moves.stops(&named);
        let mut passed = vec![(named, None)];
        passed.extend(stops.iter().map(|(to, ranges)| (*to, Some(ranges))));
        for (from, came) in passed.into_iter().filter(|(from, _)| asked(from)) {
            for index in stops.iter().flat_map(|(_, ranges)| ranges.iter()) {
                let frame = FrameName { pack: named, index };
                let is_needed =
                    is_member(&members, index) && came.is_none_or(|came: &Ranges| came.contains(index));
                let at = moves.pack(&frame);
                if is_needed && at != from {
                    moved.entry(from).or_default().entry(at).or_default().insert(frame);
                }
            }
        }
    }
    Ok(moved)
}

fn is_member(members: &Members<'_>, index: u32) -> bool {
    match members {
        Members::Whole => true,
        Members::Frames(ranges) => ranges.contains(index),
    }
}

/// Reads the copies of what a pack holds.
///
/// Errors: [`Error::is_damage`] when one is not there, or is another than the pack's directory says.
async fn prove(
    repository: &Repository,
    catalogue: &Catalogue,
    from: PackName,
    copies: &Copies,
    monitor: &Monitor,
) -> Result<()> {
    let listed = |pack: PackName| {
        PackRef::find(catalogue, pack)
            .ok_or_else(|| Error::Store(StoreError::Missing { key: format!("a list of pack {pack}") }))
    };
    let ends = PackEnds::fetch(repository, listed(from)?).await?;
    let directory = ends.decode().map_err(Error::object(&format!("pack {from}")))?;
    let hashes: HashMap<FrameName, Hash> =
        directory.directory().iter().map(|entry| (entry.frame, entry.hash)).collect();
    for (at, frames) in copies {
        let mut wanted = FrameSet::default();
        // What it does not hold, it cannot be needed for.
        frames.frames().filter(|frame| hashes.contains_key(frame)).for_each(|frame| wanted.insert(frame));
        if wanted.frame_count() == 0 {
            continue;
        }
        let source = listed(*at)?;
        for copy in read(repository, source, &wanted, monitor).await? {
            let frame = copy.place.frame;
            if hashes.get(&frame) != Some(&Hash::of(&copy.sealed)) {
                let detail = format!("frame {frame} in it is another than that in pack {from}");
                return Err(Error::object(&source.key(repository))(FormatError::Corrupt {
                    what: "pack",
                    detail,
                }));
            }
        }
    }
    Ok(())
}

fn signers<'a>(log: &Log, packs: impl Iterator<Item = &'a PackName>) -> String {
    let gcs: BTreeSet<u64> = packs.map(|pack| pack.session).collect();
    let signed = log.commits().filter(|(gc, ..)| gcs.contains(&gc.number));
    let names: BTreeSet<String> = signed.map(|(_, commit, _)| commit.signer.to_string()).collect();
    names.into_iter().collect::<Vec<_>>().join(" and ")
}
