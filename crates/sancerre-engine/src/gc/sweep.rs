//! G7: deleting what is in final lists, this one's and those of collections that stopped halfway.

use std::collections::BTreeSet;

use futures::StreamExt;
use sancerre_format::id::PackName;
use sancerre_format::names;

use crate::error::{Error, Result};
use crate::monitor::{Monitor, add};
use crate::repository::Repository;
use crate::repository::catalogue::Present;
use crate::store::Removal;

/// Deletes in flight at once.
const DELETES_IN_FLIGHT: usize = 32;

/// What was deleted.
#[derive(Debug, Default)]
pub(super) struct Swept {
    pub(super) packs: u64,
    pub(super) bytes: u64,
    /// What the store refused, with its reason.
    pub(super) left: Vec<String>,
}

/// Deletes every listed object of these packs, of which it was proved that nothing needs them. What the store refuses is no failure: the next run finds it again.
pub(super) async fn sweep(
    repository: &Repository,
    present: &Present,
    doomed: &BTreeSet<PackName>,
    monitor: &Monitor,
) -> Result<Swept> {
    let doomed: Vec<(String, u64)> = doomed
        .iter()
        .flat_map(|pack| present.found(*pack).iter().map(move |found| (*pack, found)))
        .map(|(pack, (hash, bytes))| (names::pack(&repository.keys.zone, pack, hash), *bytes))
        .collect();
    add(&monitor.counters.total_bytes, doomed.iter().fold(0, |sum, (_, bytes)| bytes + sum));
    let delete = |(key, bytes): (String, u64)| async move {
        let deleted = match monitor.check() {
            Ok(()) => repository.store.delete(&key).await.map_err(Error::from),
            Err(interrupted) => Err(interrupted),
        };
        (bytes, deleted)
    };
    let mut deletes =
        std::pin::pin!(futures::stream::iter(doomed).map(delete).buffer_unordered(DELETES_IN_FLIGHT));
    let mut swept = Swept::default();
    while let Some((bytes, deleted)) = deletes.next().await {
        match deleted {
            Ok(()) => {
                swept.packs += 1;
                swept.bytes += bytes;
                add(&monitor.counters.done_bytes, bytes);
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => swept.left.push(error.to_string()),
        }
    }
    Ok(swept)
}
