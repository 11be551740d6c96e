//! From blocks to counts: which files were lost where they stood. Pure; regions come in order.
//!
//! A file whose start is random today was either encrypted in place, or deleted and its blocks given to something else. File
//! systems tell them apart without being asked: the last block of a file is filled up with zeros. Encrypted in place a file
//! ends where it ended. What is written over deleted files begins with its own start, or fills their last blocks too.
//!
//! Pages of databases fill their blocks, and so do encrypted ones: where random blocks end in one that is filled up with zeros, a
//! new file ends, and the pages beneath it were deleted before.

use sancerre_format::bytes::to_u64;
use sancerre_format::chunk::BLOCK_BYTES;

use super::blocks::{Block, Blocks};
use super::extent::{Counts, EXTENT_BYTES};
use super::signatures::Signature;

/// Blocks in an extent.
const EXTENT_BLOCKS: u64 = EXTENT_BYTES / 4096;

/// Where a file or page starts: the number of the block on the disk, and how it starts.
pub type Start = (u64, Signature);

/// A file that begins with random bytes, of which the end was not seen yet.
#[derive(Debug, Clone, Copy)]
struct Pending {
    extent: u64,
    kind: Signature,
    is_under: bool,
    is_full: bool,
}

/// A run of random blocks that goes on, in which pages of databases began the night before.
#[derive(Debug, Default)]
struct PageRun {
    /// How many, by extents.
    pages: Vec<(u64, u64)>,
    /// Whether its last block so far is full.
    is_full: bool,
}

/// A run that goes on for longer, in extents (1 GiB), is judged by what was seen of it.
const RUN_EXTENTS_MAX: usize = 256;

/// The counts of a disk in the making.
#[derive(Debug, Default)]
pub struct Trace {
    extents: Vec<(u64, Counts)>,
    starts: Vec<Start>,
    pending: Option<Pending>,
    pages: PageRun,
    /// Whether the block before this one belongs to a new file: to one that did not begin where another began.
    is_under: bool,
    /// Whether the block before this one changed, and something may go on behind it.
    goes_on: bool,
    /// The block behind the last one that was seen.
    next: u64,
}

impl Trace {
    /// Adds the next region. `before` are the starts in it the night before, ascending. What lies between two regions is a
    /// hole, and no file started in it.
    pub fn region(&mut self, region: &Blocks, before: &[Start]) {
        let first = region.start() / to_u64(BLOCK_BYTES);
        self.skip_to(first);
        self.next = first.saturating_add(to_u64(region.blocks().len()));
        let mut before = before.iter().copied().peekable();
        let mut rest = region.blocks();
        while let [block, behind @ ..] = rest {
            let number = self.next.saturating_sub(to_u64(rest.len()));
            while before.next_if(|(start, _)| *start < number).is_some() {}
            let start = before.next_if(|(start, _)| *start == number).map(|(_, kind)| kind);
            self.block(number, *block, start);
            // Most blocks are holes, or as they were, many in a row, and nothing starts in them: they are counted together.
            let next = before.peek().map_or(u64::MAX, |(start, _)| *start);
            let run = |end: u64, is_like: fn(Block) -> bool| {
                behind.iter().zip(number + 1..end).take_while(|(block, _)| is_like(**block)).count()
            };
            let run = if *block == Block::default() {
                // The first one has ended whatever stood before it.
                run(next, |block| block == Block::default())
            } else {
                let run = run(next.min((number / EXTENT_BLOCKS + 1) * EXTENT_BLOCKS), Block::is_as_it_was);
                if run > 0 {
                    self.kept(number, to_u64(run));
                }
                run
            };
            rest = behind.get(run..).unwrap_or_default();
        }
        for (extent, sizes) in region.sizes() {
            let counts = self.counts(*extent);
            counts.new_bytes = counts.new_bytes.saturating_add(sizes.new_bytes);
            counts.coded_bytes = counts.coded_bytes.saturating_add(sizes.coded_bytes);
        }
    }

    /// The disk has so many bytes, and all of them were seen.
    pub fn end(&mut self, size_bytes: u64) {
        self.skip_to(size_bytes.div_ceil(to_u64(BLOCK_BYTES)));
        self.settle(true);
        self.end_run();
    }

    fn skip_to(&mut self, block: u64) {
        if block > self.next {
            self.block(self.next, Block::default(), None);
        }
    }

    /// Takes the counts of all extents below this one, ascending. Where the end of a file or of a run is still to be seen, its own
    /// extents stay.
    pub fn drain_below(&mut self, extent: u64) -> Vec<(u64, Counts)> {
        let extent = self.pending.map_or(extent, |pending| pending.extent.min(extent));
        let extent = self.pages.pages.first().map_or(extent, |(first, _)| extent.min(*first));
        let (mut taken, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.extents).into_iter().partition(|(number, _)| *number < extent);
        self.extents = rest;
        taken.sort_unstable_by_key(|(number, _)| *number);
        taken
    }

    /// The starts that were seen since the last call.
    pub fn take_starts(&mut self) -> Vec<Start> {
        std::mem::take(&mut self.starts)
    }

    fn block(&mut self, number: u64, block: Block, before: Option<Signature>) {
        let extent = number / EXTENT_BLOCKS;
        if block.is(Block::KEPT) {
            self.kept(number, 1);
            self.starts.extend(before.map(|kind| (number, kind)));
            count_starts(self.counts(extent), before, before);
            return;
        }
        let now = block.signature();
        let is_border = before.is_some() || now.is_some();
        if block.is_scrambled() && !is_border {
            if let Some(pending) = &mut self.pending {
                pending.is_full = block.is(Block::FULL);
            }
        } else {
            self.settle(is_border);
        }
        match block.is_scrambled() {
            true => self.pages.is_full = block.is(Block::FULL),
            false => self.end_run(),
        }
        if block == Block::default() && before.is_none() {
            (self.is_under, self.goes_on) = (false, false);
            return;
        }
        self.starts.extend(now.map(|kind| (number, kind)));
        let is_headless = self.is_headless(block, before);
        let goes_on = if self.goes_on { self.is_under } else { before.is_none() || !block.is_scrambled() };
        // Around what changed a chunk has blocks that did not. A page that is where it was is beneath nothing.
        let stands = now == Some(Signature::Page) && before == now;
        self.is_under = block.is(Block::CHANGED) && !stands && (now == Some(Signature::File) || goes_on);
        let is_under = self.is_under;
        let counts = self.counts(extent);
        count_starts(counts, before, now);
        counts.data += u64::from(block.is(Block::DATA));
        counts.changed += u64::from(block.is(Block::CHANGED));
        counts.random += u64::from(block.is(Block::CHANGED | Block::RANDOM));
        counts.headless += u64::from(is_headless);
        if let (Some(kind), None) = (before, now) {
            counts.vanished += u64::from(!block.is(Block::DATA) && kind == Signature::File);
            if block.is_scrambled() {
                self.pending = Some(Pending { extent, kind, is_under, is_full: block.is(Block::FULL) });
            }
        }
        self.goes_on = block.is(Block::CHANGED | Block::FULL);
    }

    /// Blocks of one extent are as they were.
    fn kept(&mut self, number: u64, blocks: u64) {
        self.settle(false);
        self.end_run();
        (self.is_under, self.goes_on) = (false, false);
        self.counts(number / EXTENT_BLOCKS).data += blocks;
    }

    /// Whether something begins here that is random from its first byte, where no file began before.
    fn is_headless(&self, block: Block, before: Option<Signature>) -> bool {
        block.is_scrambled() && block.is(Block::RANDOM) && before.is_none() && !self.goes_on
    }

    /// Judges the file of which the end was seen. `is_border`: another file begins behind it, or the disk ends.
    fn settle(&mut self, is_border: bool) {
        let Some(Pending { extent, kind, is_under, is_full }) = self.pending.take() else { return };
        match kind {
            Signature::Page if is_under => {}
            Signature::Page => self.page(extent),
            Signature::File if is_under || is_full && is_border => self.counts(extent).covered += 1,
            Signature::File => self.counts(extent).lost += 1,
        }
    }

    /// A page more of the run.
    fn page(&mut self, extent: u64) {
        match self.pages.pages.last_mut() {
            Some((last, pages)) if *last == extent => *pages += 1,
            _ => self.pages.pages.push((extent, 1)),
        }
        if self.pages.pages.len() > RUN_EXTENTS_MAX {
            self.end_run();
        }
    }

    /// Judges the pages of a run of which the end was seen.
    fn end_run(&mut self) {
        let PageRun { pages, is_full } = std::mem::take(&mut self.pages);
        for (extent, pages) in pages.into_iter().filter(|_| is_full) {
            self.counts(extent).pages_lost += pages;
        }
    }

    fn counts(&mut self, extent: u64) -> &mut Counts {
        let position = self.extents.iter().rposition(|(number, _)| *number == extent);
        let position = position.unwrap_or_else(|| {
            self.extents.push((extent, Counts::default()));
            self.extents.len().saturating_sub(1)
        });
        // invariant: it is one of them, or the one that was just added
        &mut self.extents[position].1
    }
}

fn count_starts(counts: &mut Counts, before: Option<Signature>, now: Option<Signature>) {
    counts.files_before += u64::from(before == Some(Signature::File));
    counts.pages_before += u64::from(before == Some(Signature::Page));
    counts.files += u64::from(now == Some(Signature::File));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::blocks::tests::random;
    use super::*;

    const BLOCK: usize = 4096;

    /// A disk of small documents, each of `blocks` blocks and a bit less.
    fn documents(count: usize, blocks: usize) -> Vec<u8> {
        let mut disk = Vec::new();
        for number in 0..count {
            let mut document = random(number as u64 + 1, blocks * BLOCK);
            document[..4].copy_from_slice(b"PK\x03\x04");
            let end = document.len() - 700;
            document[end..].fill(0);
            disk.extend(document);
        }
        disk
    }

    /// The counts of a night from one disk to another, in regions of this size; of those without a byte nothing is told where
    /// no file started.
    fn night(before: &[u8], after: &[u8], region_bytes: usize) -> Counts {
        let mut first = Trace::default();
        for (number, region) in before.chunks(region_bytes).enumerate() {
            let mut blocks = Blocks::new((number * region_bytes) as u64, region.len(), false);
            blocks.read(0, region, true);
            first.region(&blocks, &[]);
        }
        let starts = first.take_starts();
        let mut trace = Trace::default();
        for (number, region) in after.chunks(region_bytes).enumerate() {
            let start = number * region_bytes;
            let mut blocks = Blocks::new(start as u64, region.len(), true);
            for (at, block) in region.chunks(BLOCK).enumerate() {
                let old = &before[start + at * BLOCK..][..block.len()];
                if block.iter().any(|byte| *byte != 0) {
                    blocks.read(at * BLOCK, block, old != block);
                }
            }
            let from = (start / BLOCK) as u64;
            let to = from + (region_bytes / BLOCK) as u64;
            let here: Vec<Start> = starts.iter().copied().filter(|(at, _)| (from..to).contains(at)).collect();
            if here.is_empty() && region.iter().all(|byte| *byte == 0) {
                continue;
            }
            trace.region(&blocks, &here);
        }
        let mut sum = Counts::default();
        trace.end(after.len() as u64);
        trace.drain_below(u64::MAX).iter().for_each(|(_, counts)| sum.add(counts));
        sum
    }

    fn encrypt(disk: &mut [u8], start: usize, end: usize) {
        let noise = random(end as u64 + 77, end - start);
        for (byte, noise) in disk[start..end].iter_mut().zip(noise) {
            *byte ^= noise | 1;
        }
    }

    #[test]
    fn documents_that_are_encrypted_where_they_stand_are_lost() {
        for region in [16 * BLOCK, 1 << 20] {
            let before = documents(40, 3);
            let mut after = before.clone();
            for number in 0..40 {
                encrypt(&mut after, number * 3 * BLOCK, (number + 1) * 3 * BLOCK - 700);
            }
            let counts = night(&before, &after, region);
            assert_eq!((counts.files_before, counts.lost, counts.covered), (40, 40, 0), "{counts:?}");
            assert_eq!((counts.files, counts.headless, counts.data), (0, 0, 120), "{counts:?}");
        }
    }

    #[test]
    fn blocks_that_are_as_they_were_belong_to_their_own_extents() {
        let blocks = 2 * usize::try_from(EXTENT_BLOCKS).unwrap() + 452;
        let mut region = Blocks::new(0, blocks * BLOCK, true);
        (0..blocks).for_each(|at| region.read(at * BLOCK, &[b'x'; BLOCK], false));
        let mut trace = Trace::default();
        trace.region(&region, &[(700, Signature::File), (1024, Signature::File)]);
        trace.end((blocks * BLOCK) as u64);
        let found = trace.drain_below(u64::MAX);
        let data: Vec<(u64, u64)> = found.iter().map(|(extent, counts)| (*extent, counts.data)).collect();
        assert_eq!(data, [(0, 1024), (1, 1024), (2, 452)]);
        let before: Vec<u64> = found.iter().map(|(_, counts)| counts.files_before).collect();
        assert_eq!(before, [1, 1, 0]);
    }

    #[test]
    fn only_their_first_block_is_enough() {
        let before = documents(40, 3);
        let mut after = before.clone();
        (0..40)
            .step_by(20)
            .for_each(|number| encrypt(&mut after, number * 3 * BLOCK, (number * 3 + 1) * BLOCK));
        let counts = night(&before, &after, 1 << 20);
        assert_eq!((counts.files_before, counts.lost, counts.covered), (40, 2, 0), "{counts:?}");
    }

    #[test]
    fn deleted_documents_under_a_film_are_not_lost() {
        let before = documents(40, 3);
        let mut after = before.clone();
        let film = random(4711, 60 * BLOCK);
        after[30 * BLOCK..90 * BLOCK].copy_from_slice(&film);
        after[30 * BLOCK + 4..30 * BLOCK + 8].copy_from_slice(b"ftyp");
        let counts = night(&before, &after, 16 * BLOCK);
        assert_eq!((counts.lost, counts.covered), (0, 19), "{counts:?}");
        // Also of what has no signature: it fills the last blocks of what was there.
        after[30 * BLOCK..90 * BLOCK].copy_from_slice(&film);
        let counts = night(&before, &after, 16 * BLOCK);
        assert_eq!((counts.lost, counts.covered), (0, 20), "{counts:?}");
    }

    #[test]
    fn discarded_documents_vanish_and_new_random_files_have_no_head() {
        let mut before = documents(40, 3);
        before.resize(before.len() + 120 * BLOCK, 0);
        let mut after = before.clone();
        for number in 0..40 {
            let mut copy = random(number as u64 + 900, 3 * BLOCK);
            copy[3 * BLOCK - 700..].fill(0);
            after[(120 + number * 3) * BLOCK..][..3 * BLOCK].copy_from_slice(&copy);
            after[number * 3 * BLOCK..][..3 * BLOCK].fill(0);
        }
        let counts = night(&before, &after, 1 << 20);
        assert_eq!((counts.lost, counts.vanished, counts.headless), (0, 40, 40), "{counts:?}");
    }

    #[test]
    fn the_pages_of_a_database_are_lost_when_all_of_it_is_encrypted() {
        let mut before = random(5, 64 * BLOCK);
        for page in before.chunks_mut(2 * BLOCK) {
            page.iter_mut().for_each(|byte| *byte &= 31);
            page[12..20].copy_from_slice(b"\x40\x00\x00\x10\x00\x20\x04\x20");
        }
        let mut after = before.clone();
        encrypt(&mut after, 0, 64 * BLOCK);
        let counts = night(&before, &after, 1 << 20);
        assert_eq!((counts.pages_before, counts.pages_lost), (32, 32), "{counts:?}");
        assert_eq!(night(&before, &before, 1 << 20).pages_lost, 0);
    }

    /// 32 pages of two blocks.
    fn pages() -> Vec<u8> {
        let mut pages = random(5, 64 * BLOCK);
        for page in pages.chunks_mut(2 * BLOCK) {
            page.iter_mut().for_each(|byte| *byte = *byte & 31 | 1);
            page[12..20].copy_from_slice(b"\x40\x00\x00\x10\x00\x20\x04\x20");
        }
        pages
    }

    /// The same disk in one chunk that is another than the night before, as far as anybody sees.
    fn chunk(before: &[u8], after: &[u8]) -> Counts {
        let mut first = Trace::default();
        let mut blocks = Blocks::new(0, before.len(), false);
        blocks.read(0, before, true);
        first.region(&blocks, &[]);
        let mut blocks = Blocks::new(0, after.len(), true);
        blocks.read(0, after, true);
        let mut trace = Trace::default();
        trace.region(&blocks, &first.take_starts());
        trace.end(after.len() as u64);
        let mut sum = Counts::default();
        trace.drain_below(u64::MAX).iter().for_each(|(_, counts)| sum.add(counts));
        sum
    }

    #[test]
    fn single_pages_are_lost_among_others_that_stand() {
        let before = pages();
        let mut after = before.clone();
        for page in [3, 10, 11] {
            encrypt(&mut after, page * 2 * BLOCK, (page * 2 + 1) * BLOCK);
        }
        assert_eq!(chunk(&before, &after).pages_lost, 3);
    }

    #[test]
    fn deleted_pages_under_a_new_file_are_not_lost() {
        let before = pages();
        let mut after = before.clone();
        let mut file = random(99, 21 * BLOCK);
        file[21 * BLOCK - 1000..].fill(0);
        after[7 * BLOCK..28 * BLOCK].copy_from_slice(&file);
        assert_eq!(chunk(&before, &after).pages_lost, 0);
    }

    proptest! {
        /// Whatever happens: regions of any size give the same sums, and no more is lost than was there.
        #[test]
        fn sums_do_not_depend_on_regions(
            seeds in proptest::collection::vec(0u8..5, 1..60),
            blocks in 1usize..20,
        ) {
            let before = documents(seeds.len(), 2);
            let mut after = before.clone();
            for (number, what) in seeds.iter().enumerate() {
                let range = number * 2 * BLOCK..(number + 1) * 2 * BLOCK;
                match what {
                    0 => after[range].fill(0),
                    1 => encrypt(&mut after, range.start, range.end - 700),
                    2 => encrypt(&mut after, range.start, range.end),
                    3 => after[range].fill(b'x'),
                    _ => {}
                }
            }
            let counts = night(&before, &after, blocks * BLOCK);
            prop_assert_eq!(counts, night(&before, &after, 1 << 20));
            let gone = counts.lost + counts.covered + counts.vanished;
            prop_assert!(gone + counts.files <= counts.files_before, "{:?}", counts);
        }
    }
}
