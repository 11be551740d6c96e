//! G1, last: what the store still locks is no garbage yet. Once it is in a final list nobody reuses it, and it could
//! not be deleted for as long as the lock lasts, which a keeper may have extended.

use std::collections::BTreeMap;

use futures::StreamExt;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::PackName;
use sancerre_format::names::{self, Time};

use super::plan::{Plan, Tally};
use crate::error::{Error, Result, StoreError};
use crate::repository::Repository;
use crate::repository::catalogue::Present;

/// Requests in flight at once.
const REQUESTS_IN_FLIGHT: usize = 32;

/// Moves packs that the store locks from the plan's dead to its locked ones, and leaves those that were to be rewritten
/// as they are. One request for each pack that is to go.
pub(super) async fn leave_locked(repository: &Repository, present: &Present, plan: &mut Plan) -> Result<()> {
    let proposed = plan.proposed();
    let asked = proposed.packs().map(|pack| async move { (pack, lock(repository, present, pack).await) });
    let asked: Vec<_> = futures::stream::iter(asked).buffered(REQUESTS_IN_FLIGHT).collect().await;
    let mut locks = BTreeMap::new();
    for (pack, lock) in asked {
        match lock {
            // The store does not tell these credentials; then its refusal to delete does.
            Err(Error::Refused(_)) => return Ok(()),
            lock => drop(lock?.map(|until| locks.insert(pack, until))),
        }
    }
    let now = repository.host.clock.now();
    locks.retain(|_, until| *until > now);
    leave(plan, &locks, present);
    Ok(())
}

fn leave(plan: &mut Plan, locks: &BTreeMap<PackName, Time>, present: &Present) {
    let (mut dead, mut garbage) = (FrameSet::default(), Tally::default());
    for pack in plan.dead.packs() {
        let found = present.found(pack);
        match locks.get(&pack) {
            Some(until) => {
                plan.locked.add(found);
                plan.locked_until = plan.locked_until.max(Some(*until));
            }
            None => {
                dead.insert_pack(pack);
                garbage.add(found);
            }
        }
    }
    (plan.dead, plan.garbage) = (dead, garbage);
    for (pack, kept) in plan.take_moves() {
        if !locks.contains_key(&pack) {
            plan.rewrite(pack, kept, present.found(pack));
        }
    }
}

/// When the last lock on an object of this pack ends.
async fn lock(repository: &Repository, present: &Present, pack: PackName) -> Result<Option<Time>> {
    let mut latest = None;
    for (hash, _) in present.found(pack) {
        match repository.store.lock_of(&names::pack(&repository.keys.zone, pack, hash)).await {
            Err(StoreError::Missing { .. }) => {}
            lock => latest = latest.max(lock?.map(|lock| lock.until)),
        }
    }
    Ok(latest)
}
