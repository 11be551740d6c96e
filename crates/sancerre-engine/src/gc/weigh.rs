//! Between account and plan: how much is needed of the packs that snapshots need in part, frame by frame.
//!
//! A pack list says how many frames a pack has, but not how large each is. The directory does, and it is public. Of a pack
//! that is needed as a whole, or not at all, nothing is read.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use sancerre_advice::Verb::Check;
use sancerre_format::FormatError;
use sancerre_format::bytes::to_u64;
use sancerre_format::frames::{FrameSet, Members};
use sancerre_format::id::PackName;
use sancerre_format::pack::DirectoryEntry;

use super::packs::Packs;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::pack_ends::{PackEnds, PackRef, fetch_all};

/// What a pack's sealed frames weigh. What is around them (head, table, directory) is neither needed nor garbage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Of those that snapshots need.
    pub(super) kept_bytes: u64,
    /// Of the others.
    pub(super) unused_bytes: u64,
}

/// Weighs the packs of which something is needed and something is not, given what is needed of each pack. One that cannot
/// be read is told and has no weight: it stays as it is.
///
/// Errors: the store's; the user's wish to stop.
pub(super) async fn weigh(
    repository: &Repository,
    packs: &Packs,
    lying: &BTreeMap<PackName, FrameSet>,
    monitor: &Monitor,
) -> Result<BTreeMap<PackName, Weight>> {
    let partly = lying.iter().filter_map(|(pack, needed)| {
        let source = PackRef::find(&packs.catalogue, *pack)?;
        (packs.has(*pack) && is_partial(needed, source.listed.frames)).then_some(source)
    });
    let mut weights = BTreeMap::new();
    let mut read = std::pin::pin!(fetch_all(repository, partly.collect(), monitor));
    while let Some((source, ends)) = read.try_next().await? {
        let Some(needed) = lying.get(&source.name) else { continue };
        let weighed = ends
            .and_then(|ends| directory_weight(&ends, needed).map_err(Error::object(&source.key(repository))));
        match weighed {
            Ok(weight) => drop(weights.insert(source.name, weight)),
            Err(error) if error.is_damage() => {
                monitor.warn(
                    Topic::Damage,
                    format!("pack {} is left as it is: {error}; run {Check}", source.name),
                );
            }
            Err(error) => return Err(error),
        }
    }
    Ok(weights)
}

/// Whether fewer frames are needed than the pack has.
pub(super) fn is_partial(needed: &FrameSet, frames: u32) -> bool {
    let count = needed.iter().try_fold(0u64, |sum, (_, members)| match members {
        Members::Whole => None,
        Members::Frames(ranges) => Some(sum + ranges.count()),
    });
    count.is_some_and(|count| count < u64::from(frames))
}

fn directory_weight(ends: &PackEnds, needed: &FrameSet) -> std::result::Result<Weight, FormatError> {
    weight(ends.decode()?.directory(), needed)
}

/// Errors: a frame that a snapshot needs is not in the directory; then it is wrong to take others for garbage.
fn weight(directory: &[DirectoryEntry], needed: &FrameSet) -> std::result::Result<Weight, FormatError> {
    let (mut weight, mut found) = (Weight::default(), 0usize);
    for entry in directory {
        let is_needed = needed.contains(&entry.frame);
        let bytes = if is_needed { &mut weight.kept_bytes } else { &mut weight.unused_bytes };
        *bytes += u64::from(entry.sealed_bytes);
        found += usize::from(is_needed);
    }
    if to_u64(found) == needed.frame_count() {
        return Ok(weight);
    }
    let detail = "a snapshot needs a frame that is not in it".to_owned();
    Err(FormatError::Corrupt { what: "pack", detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::log::Log;
    use crate::restore::tests::support::{SparseDisk, TestRepo, guest};
    use sancerre_format::id::{FrameName, Hash};

    fn name(session: u64, index: u32) -> FrameName {
        FrameName { pack: PackName { session, ordinal: 0 }, index }
    }

    fn set(frames: &[FrameName]) -> FrameSet {
        let mut set = FrameSet::default();
        frames.iter().for_each(|frame| set.insert(*frame));
        set
    }

    /// A collector's directory, with frames of two packs of very different sizes.
    fn directory() -> Vec<DirectoryEntry> {
        let entry = |(frame, sealed_bytes)| DirectoryEntry {
            session_index: 1,
            frame,
            offset_bytes: 0,
            sealed_bytes,
            hash: Hash([0; 32]),
        };
        [(name(1, 0), 10), (name(1, 7), 1000), (name(2, 0), 300)].map(entry).to_vec()
    }

    #[test]
    fn frames_are_weighed_and_not_counted() {
        let weigh = |needed: &[FrameName]| weight(&directory(), &set(needed)).unwrap();
        assert_eq!(weigh(&[name(1, 0)]), Weight { kept_bytes: 10, unused_bytes: 1300 });
        assert_eq!(weigh(&[name(1, 7), name(2, 0)]), Weight { kept_bytes: 1300, unused_bytes: 10 });
    }

    #[test]
    fn a_directory_that_lacks_a_needed_frame_says_nothing_about_garbage() {
        assert!(weight(&directory(), &set(&[name(1, 0), name(1, 1)])).is_err());
    }

    #[test]
    fn only_packs_that_are_needed_in_part_are_read() {
        assert!(is_partial(&set(&[name(1, 0), name(2, 0)]), 3));
        assert!(!is_partial(&set(&[name(1, 0), name(1, 7), name(2, 0)]), 3));
        let mut whole = set(&[name(1, 0)]);
        whole.insert_pack(PackName { session: 2, ordinal: 0 });
        assert!(!is_partial(&whole, 3), "all of it is needed");
    }

    /// Of two packs of data that are needed in part, one of them damaged, and one that is needed whole.
    #[tokio::test]
    async fn what_cannot_be_read_is_told_and_stays_and_what_is_needed_whole_is_not_read() {
        let repo = TestRepo::new().await;
        repo.back_up(SparseDisk::of(&guest(1, 8 << 20))).await;
        let (repository, log) = (&repo.repository, Log::load(&repo.repository).await.unwrap());
        let packs = Packs::load(repository, &log, &Monitor::silent()).await.unwrap();
        let many = packs.present.names().filter(|pack| packs.catalogue.pack(*pack).unwrap().frames > 1);
        let many: Vec<PackName> = many.collect();
        let [sound, damaged, whole] = many[..3] else { panic!("{many:?}") };
        let first = |pack| FrameName { pack, index: 0 };
        let mut all = FrameSet::default();
        (0..packs.catalogue.pack(whole).unwrap().frames)
            .for_each(|index| all.insert(FrameName { pack: whole, index }));
        let lying =
            BTreeMap::from([(sound, set(&[first(sound)])), (damaged, set(&[first(damaged)])), (whole, all)]);
        repo.change(&packs.catalogue.key(repository, damaged).unwrap(), |bytes| {
            let at = bytes.len() - 40;
            bytes[at] ^= 1;
        })
        .await;
        let (told, said) = std::sync::mpsc::channel();
        let monitor = Monitor::new(move |event| told.send(event.message).unwrap());
        let weights = weigh(repository, &packs, &lying, &monitor).await.unwrap();
        assert_eq!(weights.keys().collect::<Vec<_>>(), [&sound]);
        assert!(weights[&sound].kept_bytes > 0 && weights[&sound].unused_bytes > 0, "{weights:?}");
        let said: Vec<String> = said.try_iter().collect();
        assert!(said.len() == 1 && said[0].contains(&format!("pack {damaged} is left as it is")), "{said:?}");
        monitor.interrupt();
        assert!(weigh(repository, &packs, &lying, &monitor).await.is_err());
    }
}
