//! Whether a change map tells the truth: of what it calls unchanged some places, drawn at random, are read and compared.
//!
//! Places are the chunks that are taken over, and pieces of what was a hole and is not told to be one by the disk. Each is
//! drawn with the share that was asked for; where that comes to fewer than [`PLACES_MIN`], more are read at the end.

use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::chunk::is_zero;
use sancerre_format::id::ContentId;
use sancerre_format::names::Title;
use sancerre_format::node::chunk_id;
use sancerre_image::Disk;

use super::Shared;
use super::region::{BaseChunk, RegionInput, RegionMap};
use super::salvage::Salvage;
use crate::error::{Error, Result};
use crate::monitor::add;

/// Fewest places that are read, if there are so many.
const PLACES_MIN: usize = 256;
/// One place of a hole.
const HOLE_PLACE_BYTES: usize = 64 << 10;
const MILLION: u128 = 1_000_000;

/// What is found out about the map of one disk.
pub(super) struct Doubt {
    name: Title,
    verify_millionths: u32,
    /// Makes the draw: whoever made the map cannot know it.
    seed: u64,
    /// Chunks taken over, in bytes.
    pub(super) taken_bytes: AtomicU64,
    /// Of them, those that were read and compared.
    pub(super) sampled_bytes: AtomicU64,
    places: AtomicU64,
    /// Places that were not drawn, those of the lowest ranks: the next ones to be read.
    later: Mutex<BinaryHeap<Spot>>,
    given_up: Mutex<Option<GivenUp>>,
}

/// Why the disk must be read whole after all.
#[derive(Debug, Clone)]
pub(super) struct GivenUp {
    pub(super) why: String,
    /// The map said what is not so.
    pub(super) is_lie: bool,
}

/// A place, in the order in which they are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    rank: u64,
    /// Where it is on the disk.
    offset: u64,
    length_bytes: usize,
    /// What must be there; none for zeros.
    id: Option<[u8; 32]>,
}

impl Doubt {
    pub(super) fn new(name: Title, verify_millionths: u32, seed: u64) -> Self {
        Self {
            name,
            verify_millionths,
            seed,
            taken_bytes: AtomicU64::new(0),
            sampled_bytes: AtomicU64::new(0),
            places: AtomicU64::new(0),
            later: Mutex::default(),
            given_up: Mutex::default(),
        }
    }

    /// Why the map is not used any more, if it is not.
    pub(super) fn given_up(&self) -> Option<GivenUp> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the use of the map because the one before it cannot be read.
    pub(super) fn lost(&self, error: &Error) -> Error {
        self.end(GivenUp { why: format!("the map before it cannot be read: {error}"), is_lie: false })
    }

    fn lied(&self, offset: u64) -> Error {
        let why = format!("it calls unchanged what did change, at offset {offset}");
        self.end(GivenUp { why, is_lie: true })
    }

    fn end(&self, end: GivenUp) -> Error {
        let error = Error::Refused(format!("the change map of {} cannot be used: {}", self.name, end.why));
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        // A lie is not made good by what else is wrong.
        if !given_up.as_ref().is_some_and(|before| before.is_lie) {
            *given_up = Some(end);
        }
        error
    }

    /// Draws from one region: of the chunks that were taken over, and of what is neither `seen` nor a hole.
    ///
    /// Errors: one is not what it was.
    pub(super) fn region(
        &self,
        shared: &Shared,
        input: &RegionInput,
        kept: &[BaseChunk],
        seen: &[Range<usize>],
    ) -> Result<()> {
        let (start, length_bytes) = input.extent();
        for chunk in kept {
            let size_bytes = chunk.word.place.size_bytes;
            add(&self.taken_bytes, u64::from(size_bytes));
            let at = start + u64::from(chunk.offset_bytes);
            self.draw(shared, input, at, to_usize(size_bytes), Some(chunk.id))?;
        }
        let gaps = gaps(seen, length_bytes);
        if gaps.is_empty() {
            return Ok(());
        }
        let data = input.data_ranges()?;
        for gap in gaps {
            for part in data.iter().map(|data| data.start.max(gap.start)..data.end.min(gap.end)) {
                for from in part.clone().step_by(HOLE_PLACE_BYTES) {
                    let place_bytes = HOLE_PLACE_BYTES.min(part.end - from);
                    self.draw(shared, input, start + to_u64(from), place_bytes, None)?;
                }
            }
        }
        Ok(())
    }

    fn draw(
        &self,
        shared: &Shared,
        input: &RegionInput,
        offset: u64,
        length_bytes: usize,
        id: Option<ContentId>,
    ) -> Result<()> {
        let spot = Spot { rank: mixed(self.seed ^ offset), offset, length_bytes, id: id.map(|id| id.0) };
        if u128::from(spot.rank) * MILLION < u128::from(self.verify_millionths) << 64 {
            return self.compare(shared, input, &spot);
        }
        let mut later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
        if later.len() < PLACES_MIN || later.peek().is_some_and(|last| spot < *last) {
            later.push(spot);
        }
        if later.len() > PLACES_MIN {
            later.pop();
        }
        Ok(())
    }

    fn compare(&self, shared: &Shared, input: &RegionInput, spot: &Spot) -> Result<()> {
        let within = || Error::bug(format!("offset {} is not in its region", spot.offset));
        let at = spot.offset.checked_sub(input.extent().0).and_then(|at| usize::try_from(at).ok());
        let mut bytes = vec![0; spot.length_bytes];
        input.read(at.ok_or_else(within)?, &mut bytes)?;
        add(&self.places, 1);
        let is_same = match &spot.id {
            Some(id) => chunk_id(&shared.zone_keys.id, &bytes).0 == *id,
            None => is_zero(&bytes),
        };
        if !is_same {
            return Err(self.lied(spot.offset));
        }
        if spot.id.is_some() {
            add(&self.sampled_bytes, to_u64(bytes.len()));
        }
        Ok(())
    }

    /// Reads what is missing to the least number of places.
    ///
    /// Errors: one is not what it was.
    pub(super) fn finish(
        &self,
        shared: &Shared,
        disk: &Arc<dyn Disk>,
        salvage: Option<&Arc<Salvage>>,
    ) -> Result<()> {
        let later = std::mem::take(&mut *self.later.lock().unwrap_or_else(PoisonError::into_inner));
        let enough = usize::try_from(self.places.load(Ordering::Relaxed)).unwrap_or(PLACES_MIN);
        let missing = PLACES_MIN.saturating_sub(enough); // invariant: more than enough is enough
        for spot in later.into_sorted_vec().iter().take(missing) {
            shared.monitor.check()?;
            let input = RegionInput::Disk {
                disk: Arc::clone(disk),
                start: spot.offset,
                length_bytes: spot.length_bytes,
                salvage: salvage.cloned(),
            };
            self.compare(shared, &input, spot)?;
        }
        Ok(())
    }

    /// Compares chunks that had to be read again, for the packs that have them are not to be built on, with what they were.
    ///
    /// Errors: one is another.
    pub(super) fn settled(&self, before: &[(usize, ContentId)], map: &RegionMap, start: u64) -> Result<()> {
        for (slot, id) in before {
            match map.chunks.get(*slot) {
                Some(chunk) if chunk.id == *id => {}
                Some(chunk) => return Err(self.lied(start + u64::from(chunk.offset_bytes))),
                None => return Err(Error::bug(format!("chunk {slot} of a region is not there any more"))),
            }
        }
        Ok(())
    }
}

/// What of a region is in none of these ranges, which do not overlap and are in order.
fn gaps(seen: &[Range<usize>], length_bytes: usize) -> Vec<Range<usize>> {
    let (mut gaps, mut at) = (Vec::new(), 0);
    for seen in seen.iter().chain(std::iter::once(&(length_bytes..length_bytes))) {
        if at < seen.start {
            gaps.push(at..seen.start);
        }
        at = at.max(seen.end);
    }
    gaps
}

/// splitmix64: every bit of the result hangs on every bit of the number.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
