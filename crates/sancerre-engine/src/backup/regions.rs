//! The regions of a disk as work, in order. Which of them are holes is asked for by the gigabyte: of a huge disk with little in
//! it nothing else is done for each.

use std::ops::Range;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream;
use futures::{FutureExt, StreamExt};
use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_image::Disk;

use super::hinted::How;
use super::member::{Regions, Scanned, Scanning};
use super::region::{RegionInput, RegionMap};
use super::task::Task;
use crate::error::Result;
use crate::monitor::add;

/// Regions that are asked about at once: a GiB, of which even the most cut up file has no more extents than fit into memory.
const LOOK_REGIONS: u64 = 32;
/// Looks that are under way: one ahead of the one whose regions are read.
const LOOKS_AHEAD: usize = 2;

/// Scans a disk's regions by workers.
pub(super) fn of_disk<'a>(scanning: Arc<Scanning>, disk: Arc<dyn Disk>, workers: usize) -> Regions<'a> {
    let count = region_count(disk.size_bytes(), scanning.repository.layout.region_bytes);
    let (last, whole) = (Arc::clone(&scanning), Arc::clone(&disk));
    let looks = (0..count.div_ceil(LOOK_REGIONS)).map(move |look| {
        let regions = look * LOOK_REGIONS..count.min((look + 1) * LOOK_REGIONS);
        let (scanning, disk) = (Arc::clone(&scanning), Arc::clone(&disk));
        // A task of its own, as below.
        let data = Task::new(data(Arc::clone(&scanning), Arc::clone(&disk), regions.clone()));
        async move {
            let data = data.await;
            stream::iter(regions.map(move |number| region(&scanning, &disk, number, data.as_ref().ok())))
        }
    });
    // Twice the workers: while one region lasts, others may finish behind it.
    let regions = stream::iter(looks).buffered(LOOKS_AHEAD).flatten().buffered(workers * 2);
    let verified = stream::once(async move { last.verify(&whole).await });
    let refuted = verified.filter_map(|verified| async move { verified.err().map(Err) });
    regions.chain(refuted).boxed()
}

/// Where there may be data in some regions; none where that is not asked for, or cannot be told: then each is scanned, and says
/// itself what is wrong. What a map names, or an earlier snapshot could not read, is for its own scan.
async fn data(
    scanning: Arc<Scanning>,
    disk: Arc<dyn Disk>,
    regions: Range<u64>,
) -> Result<Option<Vec<Range<u64>>>> {
    if !matches!(scanning.how, How { salvage: None, partly: None, hinted: None, .. }) {
        return Ok(None);
    }
    let region_bytes = u64::from(scanning.repository.layout.region_bytes);
    let range = regions.start * region_bytes..disk.size_bytes().min(regions.end * region_bytes);
    let asked = scanning.repository.host.compute(move || Ok(disk.data_ranges(range).ok()));
    scanning.shared.monitor.unless_interrupted(asked).await?
}

/// One region: a hole, or to be scanned.
fn region(
    scanning: &Arc<Scanning>,
    disk: &Arc<dyn Disk>,
    number: u64,
    data: Option<&Option<Vec<Range<u64>>>>,
) -> BoxFuture<'static, Result<Scanned>> {
    let region_bytes = scanning.repository.layout.region_bytes;
    let start = number * u64::from(region_bytes);
    let length_bytes = region_length(disk.size_bytes(), start, region_bytes);
    let end = start + to_u64(length_bytes);
    let is_hole = |data: &Vec<Range<u64>>| !data.iter().any(|data| data.start < end && start < data.end);
    if data.and_then(Option::as_ref).is_some_and(is_hole) {
        add(&scanning.shared.monitor.counters.done_bytes, to_u64(length_bytes));
        return hole(scanning, start, to_u64(length_bytes));
    }
    let salvage = scanning.how.salvage.clone();
    let input = RegionInput::Disk { disk: Arc::clone(disk), start, length_bytes, salvage };
    let scanning = Arc::clone(scanning);
    // A task of its own: while the map is built behind it nobody polls this stream, and what one region holds (a file,
    // a listing that others wait for) the map may need.
    async move { Task::new(async move { scanning.region(number, input, to_u64(length_bytes)).await }).await }
        .boxed()
}

/// A region without data: there is something to say of it only where files started the night before.
fn hole(scanning: &Scanning, start: u64, length_bytes: u64) -> BoxFuture<'static, Result<Scanned>> {
    let earlier = scanning.how.earlier.clone().filter(|earlier| earlier.knows(start, length_bytes));
    let Some(earlier) = earlier else {
        return std::future::ready(Ok((RegionMap::default(), length_bytes))).boxed();
    };
    let monitor = scanning.shared.monitor.clone();
    let begun = async move { Ok((earlier.begin(start, length_bytes, &monitor).await, length_bytes)) };
    async move { Task::new(begun).await }.boxed()
}

/// A region's number of bytes.
fn region_length(size_bytes: u64, start: u64, region_bytes: u32) -> usize {
    to_usize(region_bytes).min(usize::try_from(size_bytes - start).unwrap_or(usize::MAX))
}

/// How many regions cover a disk.
fn region_count(size_bytes: u64, region_bytes: u32) -> u64 {
    size_bytes.div_ceil(u64::from(region_bytes).max(1))
}
