//! A rebuild that needs many segments.

use std::collections::BTreeMap;

use sancerre_format::id::{ContentId, Place};
use sancerre_format::index::SegmentName;
use sancerre_format::names::Folder;

use super::rebuild::rebuild;
use super::{Whole, key_of, segments};
use crate::dedup::{PlaceMap, ReusePolicy};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::catalogue::{Catalogue, Present};
use crate::repository::log::Log;
use crate::restore::tests::support::{SparseDisk, TestRepo, guest};

async fn whole(repository: &Repository, name: SegmentName) -> Whole {
    let log = Log::load(repository).await.unwrap();
    let bytes = repository.store.need(&key_of(repository, &log, name).unwrap()).await.unwrap();
    Whole::decode(repository, &log, name, &bytes).unwrap().unwrap()
}

/// Every id of these segments, with its newest place.
async fn entries(repository: &Repository, names: &[SegmentName]) -> BTreeMap<ContentId, Place> {
    let mut entries = BTreeMap::new();
    for name in names {
        let segment = whole(repository, *name).await;
        for entry in segment.reader.pages(&segment.sealed).flat_map(Result::unwrap) {
            let place = entries.entry(entry.id).or_insert(entry.place);
            *place = entry.place.max(*place);
        }
    }
    entries
}

async fn names(repository: &Repository) -> Vec<SegmentName> {
    let log = Log::load(repository).await.unwrap();
    segments(repository, &log).await.unwrap().into_keys().collect()
}

async fn loaded(repository: &Repository) -> PlaceMap {
    let log = Log::load(repository).await.unwrap();
    let catalogue = Catalogue::load_all(repository, &log).await.unwrap().0;
    let present = Present::load(repository).await.unwrap();
    let usable = ReusePolicy { own: None, avoid: log.avoid(Log::END).unwrap(), catalogue, present };
    let index = super::Index::load(repository, &log, &usable, 1 << 30, &Monitor::silent()).await.unwrap();
    assert_eq!(index.runs(), 1);
    index.into_places()
}

#[tokio::test]
async fn a_rebuild_of_many_segments_ends_as_one_run() {
    let repo = TestRepo::new().await;
    for night in 0..3 {
        repo.back_up(SparseDisk::of(&guest(night, 3 << 20))).await;
    }
    let old = names(&repo.repository).await;
    let known = entries(&repo.repository, &old).await;
    assert!(known.len() > 60, "{}", known.len());

    let report = rebuild(&repo.repository, &Monitor::silent(), 10).await.unwrap();
    let (first, merged) = (SegmentName { session: 4, sequence: 0 }, SegmentName { session: 5, sequence: 0 });
    let names = names(&repo.repository).await;
    let interim: Vec<SegmentName> = names.iter().filter(|name| name.session == 4).copied().collect();
    assert!(interim.len() > 3 && names.last() == Some(&merged), "{names:?}");
    assert_eq!(report.entries, u64::try_from(known.len()).unwrap());
    // What was there is covered by the last of the interim segments alone; those by the merged one.
    assert_eq!(whole(&repo.repository, first).await.fields.covers, []);
    assert_eq!(whole(&repo.repository, *interim.last().unwrap()).await.fields.covers, old);
    let covers = whole(&repo.repository, merged).await.fields.covers;
    assert_eq!(covers, [old, interim].concat());
    assert_eq!(entries(&repo.repository, &[merged]).await, known);

    let key = &repo.keys(Folder::Index).await;
    assert_eq!(key.len(), names.len(), "nothing is deleted");
    assert_eq!(loaded(&repo.repository).await.into_iter().collect::<BTreeMap<_, _>>(), known);
}
