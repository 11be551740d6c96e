//! The regions of a disk as work, in order. Which of them are holes is asked for by the gigabyte: of a huge disk with little in
//! it nothing else is done for each, and a hole of any size is passed at once.

use std::ops::Range;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream;
use futures::{FutureExt, StreamExt};
use sancerre_image::Disk;

use super::hinted::How;
use super::member::{Regions, Scanned, Scanning};
use super::noticed::Earlier;
use super::region::{RegionInput, RegionMap};
use super::task::Task;
use crate::error::Result;
use crate::monitor::add;

/// Regions that are asked about at once: a GiB, of which even the most cut up file has no more extents than fit into memory.
const LOOK_REGIONS: u64 = 32;
/// Scans a disk's regions by workers.
pub(super) fn of_disk<'a>(scanning: Arc<Scanning>, disk: Arc<dyn Disk>, workers: usize) -> Regions<'a> {
    let count = region_count(disk.size_bytes(), scanning.repository.layout.region_bytes);
    let whole = WholeDisk { scanning, disk, count };
    let last = whole.clone();
    // While the regions of one look are read, the next one is under way.
    let looks = stream::unfold(whole.look(0), move |begun| {
        let whole = whole.clone();
        async move {
            let look = begun?.end().await;
            let next = whole.look(look.regions.end);
            let parts = whole.parts(look);
            Some((stream::iter(parts.into_iter().map(move |part| whole.part(part))), next))
        }
    });
    // Twice the workers: while one region lasts, others may finish behind it.
    let regions = looks.flatten().buffered(workers * 2);
    let verified = stream::once(async move { last.scanning.verify(&last.disk).await });
    let refuted = verified.filter_map(|verified| async move { verified.err().map(Err) });
    regions.chain(refuted).boxed()
}

#[derive(Clone)]
struct WholeDisk {
    scanning: Arc<Scanning>,
    disk: Arc<dyn Disk>,
    /// How many regions it has.
    count: u64,
}

/// A look under way, and where it starts.
struct Begun(u64, Task<Look>);

/// What was found out about some regions.
struct Look {
    regions: Range<u64>,
    /// Where there may be data in them; none where that is not asked for, or cannot be told: then each is scanned, and says
    /// itself what is wrong. What a map names, or an earlier snapshot could not read, is for its own scan.
    data: Option<Vec<Range<u64>>>,
}

/// What is done as one piece of work.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// A region that may have data.
    Scan(u64),
    /// A region without data, in which files started the night before.
    Emptied(u64),
    /// Regions without data, of which there is nothing else to say.
    Hole(Range<u64>),
}

impl Begun {
    async fn end(self) -> Look {
        let unknown = Look { regions: self.0..self.0 + 1, data: None };
        self.1.await.unwrap_or(unknown)
    }
}

impl WholeDisk {
    fn region_bytes(&self) -> u64 {
        u64::from(self.scanning.repository.layout.region_bytes)
    }

    /// What some regions cover of the disk.
    fn extent(&self, regions: &Range<u64>) -> Range<u64> {
        let at = |number: u64| (number * self.region_bytes()).min(self.disk.size_bytes());
        at(regions.start)..at(regions.end)
    }

    /// Begins to look at the regions from this one on; none behind the last one.
    fn look(&self, first: u64) -> Option<Begun> {
        let whole = self.clone();
        let regions = first..self.count.min(first + LOOK_REGIONS);
        // A task of its own: while the map is built behind it nobody polls this stream.
        (first < self.count).then(|| Begun(first, Task::new(async move { whole.find(regions).await })))
    }

    async fn find(self, regions: Range<u64>) -> Result<Look> {
        if !matches!(self.scanning.how, How { partly: None, hinted: None, .. }) {
            return Ok(Look { regions, data: None });
        }
        let scanning = Arc::clone(&self.scanning);
        let asked = scanning.repository.host.compute(move || Ok(self.ask(regions)));
        scanning.shared.monitor.unless_interrupted(asked).await?
    }

    /// Asks the disk. Where nothing is found the look goes on to the next data, however far away that is: a disk may be all hole
    /// for exbibytes.
    fn ask(&self, mut regions: Range<u64>) -> Look {
        let extent = self.extent(&regions);
        let data = self.disk.data_ranges(extent.clone()).ok();
        if data.as_ref().is_some_and(Vec::is_empty) && regions.end < self.count {
            let next = match self.disk.next_data(extent.end) {
                Ok(Some(at)) => at.checked_div(self.region_bytes()).unwrap_or(0),
                Ok(None) => self.count,
                Err(_) => regions.end,
            };
            regions.end = next.clamp(regions.end, self.count);
        }
        Look { regions, data }
    }

    fn parts(&self, look: Look) -> Vec<Part> {
        let Some(data) = look.data else { return look.regions.map(Part::Scan).collect() };
        let Some(last) = data.last() else { return self.holes(look.regions) };
        // What a look was extended by has no data at all, and a look with data was not extended.
        let behind = region_count(last.end, self.scanning.repository.layout.region_bytes);
        let mut parts = Vec::new();
        for number in look.regions.start..behind.min(look.regions.end) {
            let region = self.extent(&(number..number + 1));
            match data.iter().any(|data| data.start < region.end && region.start < data.end) {
                true => parts.push(Part::Scan(number)),
                false => parts.extend(self.holes(number..number + 1)),
            }
        }
        parts.extend(self.holes(behind.max(look.regions.start)..look.regions.end));
        parts
    }

    /// Regions without data. Those in which files started the night before are told apart by halves.
    fn holes(&self, regions: Range<u64>) -> Vec<Part> {
        let (mut parts, mut left) = (Vec::new(), vec![regions]);
        while let Some(regions) = left.pop() {
            let (extent, count) = (self.extent(&regions), regions.end - regions.start);
            let knows = |earlier: &Arc<Earlier>| earlier.knows(extent.start, extent.end - extent.start);
            match (self.scanning.how.earlier.as_ref().is_some_and(knows), count) {
                (_, 0) => {}
                (false, _) => parts.push(Part::Hole(regions)),
                (true, 1) => parts.push(Part::Emptied(regions.start)),
                (true, _) => {
                    let middle = regions.start + count / 2;
                    left.extend([middle..regions.end, regions.start..middle]);
                }
            }
        }
        parts
    }

    fn part(&self, part: Part) -> BoxFuture<'static, Result<Scanned>> {
        match part {
            Part::Scan(number) => self.region(number),
            Part::Emptied(number) => self.emptied(number),
            Part::Hole(regions) => {
                let extent = self.extent(&regions);
                let length_bytes = extent.end - extent.start;
                add(&self.scanning.shared.monitor.counters.done_bytes, length_bytes);
                std::future::ready(Ok((RegionMap::default(), length_bytes))).boxed()
            }
        }
    }

    fn region(&self, number: u64) -> BoxFuture<'static, Result<Scanned>> {
        let extent = self.extent(&(number..number + 1));
        let length_bytes = extent.end - extent.start;
        let input = RegionInput::Disk {
            disk: Arc::clone(&self.disk),
            start: extent.start,
            length_bytes: usize::try_from(length_bytes).unwrap_or(usize::MAX),
            salvage: self.scanning.how.salvage.clone(),
        };
        let scanning = Arc::clone(&self.scanning);
        // A task of its own: while the map is built behind it nobody polls this stream, and what one region holds (a file,
        // a listing that others wait for) the map may need.
        async move { Task::new(async move { scanning.region(number, input, length_bytes).await }).await }
            .boxed()
    }

    fn emptied(&self, number: u64) -> BoxFuture<'static, Result<Scanned>> {
        let extent = self.extent(&(number..number + 1));
        let (scanning, length_bytes) = (Arc::clone(&self.scanning), extent.end - extent.start);
        let begun = async move {
            let monitor = &scanning.shared.monitor;
            add(&monitor.counters.done_bytes, length_bytes);
            let map = match &scanning.how.earlier {
                Some(earlier) => earlier.begin(extent.start, length_bytes, monitor).await,
                None => RegionMap::default(),
            };
            Ok((map, length_bytes))
        };
        async move { Task::new(begun).await }.boxed()
    }
}

/// How many regions cover a disk.
fn region_count(size_bytes: u64, region_bytes: u32) -> u64 {
    size_bytes.div_ceil(u64::from(region_bytes).max(1))
}
