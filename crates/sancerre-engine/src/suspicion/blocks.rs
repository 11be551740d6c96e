//! What stands in each block of a region: looked at while its bytes are in memory anyway. Pure.

use std::ops::Range;

use sancerre_format::bytes::to_u64;
use sancerre_format::chunk::BLOCK_BYTES;

use super::extent::{EXTENT_BYTES, Sizes};
use super::signatures::{Signature, signature};

/// What is known of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Block(u8);

impl Block {
    /// It was read and is no hole.
    pub const DATA: u8 = 1;
    /// It lies in a chunk that was not at this place the night before.
    pub const CHANGED: u8 = 2;
    /// A file starts here.
    pub const FILE: u8 = 4;
    /// A page of a database starts here.
    pub const PAGE: u8 = 8;
    /// Its bytes are spread as those of encrypted or compressed data.
    pub const RANDOM: u8 = 16;
    /// Its first bytes are.
    pub const HEAD: u8 = 32;
    /// It does not end in zeros, as the last block of most files does.
    pub const FULL: u8 = 64;
    /// It was taken over without being read.
    pub const KEPT: u8 = 128;

    /// Whether it is all of that.
    pub fn is(self, what: u8) -> bool {
        self.0 & what == what
    }

    /// How a file or page starts here.
    pub fn signature(self) -> Option<Signature> {
        match () {
            () if self.is(Self::FILE) => Some(Signature::File),
            () if self.is(Self::PAGE) => Some(Signature::Page),
            () => None,
        }
    }

    /// Whether it holds what it held, and nothing that was seen starts here.
    pub fn is_as_it_was(self) -> bool {
        let (told, seen) = (Self::KEPT | Self::DATA, Self::CHANGED | Self::FILE | Self::PAGE);
        self.0 & told != 0 && self.0 & seen == 0
    }

    /// Whether it changed into something that looks random, at its start or all over.
    pub fn is_scrambled(self) -> bool {
        self.is(Self::CHANGED) && self.signature().is_none() && (self.is(Self::RANDOM) || self.is(Self::HEAD))
    }
}

/// The blocks of one region.
#[derive(Debug, Clone, Default)]
pub struct Blocks {
    /// Where the region starts on the disk.
    start: u64,
    /// Whether there was a night before that changes are told from.
    compares: bool,
    blocks: Vec<Block>,
    sizes: Vec<(u64, Sizes)>,
}

/// Different values among the first bytes of a block from which on these look random: text has up to 70, programs 100.
const HEAD_VALUES: u32 = 96;
const HEAD_BYTES: usize = 256;
/// The same where the whole block may be random: random bytes have 162 ± 7.
const RANDOM_VALUES: u32 = 135;
/// Below this sum bytes are spread evenly: random ones have 255 ± 23, however many they are.
const CHI_SQUARE: u64 = 350;
/// So many bytes are looked at; fewer say nothing.
const SAMPLE_BYTES: usize = 1024;
/// So many zeros end a file that does not fill its last block.
const SLACK_BYTES: usize = 16;

impl Blocks {
    /// A region that starts at `start`; `compares`: whether a night before is known.
    pub fn new(start: u64, length_bytes: usize, compares: bool) -> Self {
        let blocks = vec![Block::default(); length_bytes.div_ceil(BLOCK_BYTES)];
        Self { start, compares, blocks, sizes: Vec::new() }
    }

    /// Where it starts on the disk.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Its blocks in order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// What was stored of it, by extents of the disk.
    pub fn sizes(&self) -> &[(u64, Sizes)] {
        &self.sizes
    }

    /// Takes note of a chunk that was read. `at` is its offset in the region.
    pub fn read(&mut self, at: usize, bytes: &[u8], is_changed: bool) {
        let compares = self.compares && is_changed;
        let targets = self.blocks.iter_mut().skip(at / BLOCK_BYTES);
        for (target, block) in targets.zip(bytes.chunks(BLOCK_BYTES)) {
            *target = look(block, compares, is_changed);
        }
    }

    /// Takes note of a stretch that was taken over without being read.
    pub fn keep(&mut self, range: Range<usize>) {
        let first = range.start / BLOCK_BYTES;
        let count = range.end.div_ceil(BLOCK_BYTES).saturating_sub(first);
        self.blocks.iter_mut().skip(first).take(count).for_each(|block| *block = Block(Block::KEPT));
    }

    /// Takes note of bytes that were stored, and of what they were compressed to.
    pub fn store(&mut self, at: usize, new_bytes: u64, coded_bytes: u64) {
        let extent = self.start.saturating_add(to_u64(at)) / EXTENT_BYTES;
        let found = self.sizes.iter_mut().find(|(number, _)| *number == extent);
        let sizes = match found {
            Some((_, sizes)) => sizes,
            None => {
                self.sizes.push((extent, Sizes::default()));
                let Some((_, sizes)) = self.sizes.last_mut() else { return };
                sizes
            }
        };
        sizes.new_bytes = sizes.new_bytes.saturating_add(new_bytes);
        sizes.coded_bytes = sizes.coded_bytes.saturating_add(coded_bytes);
    }
}

fn look(block: &[u8], compares: bool, is_changed: bool) -> Block {
    let mut flags = Block::DATA | if is_changed { Block::CHANGED } else { 0 };
    flags |= match signature(block) {
        Some(Signature::File) => Block::FILE,
        Some(Signature::Page) => Block::PAGE,
        None => 0,
    };
    let end = block.get(block.len().saturating_sub(SLACK_BYTES)..).unwrap_or(block);
    if end.iter().any(|byte| *byte != 0) {
        flags |= Block::FULL;
    }
    if compares {
        let values = values(block);
        if values >= HEAD_VALUES {
            flags |= Block::HEAD;
        }
        if values >= RANDOM_VALUES && is_random(block) {
            flags |= Block::RANDOM;
        }
    }
    Block(flags)
}

/// How many different values the first bytes have.
fn values(block: &[u8]) -> u32 {
    let mut seen = [0u8; 256];
    block.iter().take(HEAD_BYTES).for_each(|byte| seen[usize::from(*byte)] = 1);
    seen.iter().map(|seen| u32::from(*seen)).sum()
}

/// Pearson's test: whether all values are about as frequent, among as many bytes as it takes to tell.
fn is_random(block: &[u8]) -> bool {
    let Some(block) = block.get(..SAMPLE_BYTES) else { return false };
    // Two tables: neighbours that are alike need not wait for each other.
    let mut tables = [[0u16; 256]; 2];
    let [even, odd] = &mut tables;
    for pair in block.chunks_exact(2) {
        if let [one, other] = pair {
            even[usize::from(*one)] += 1;
            odd[usize::from(*other)] += 1;
        }
    }
    let counts = even.iter().zip(odd.iter()).map(|(one, other)| u32::from(one + other));
    // Σ (n − e)² / e with e = length / 256 is 256 · Σ n² / length − length.
    let squares: u64 = counts.map(|count| u64::from(count * count)).sum();
    let length = to_u64(block.len());
    (squares * 256 / length).saturating_sub(length) < CHI_SQUARE
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that look random, by a seed.
    pub(crate) fn random(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u8::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56).unwrap()
        };
        std::iter::repeat_with(&mut next).take(length).collect()
    }

    fn one(bytes: &[u8]) -> Block {
        let mut blocks = Blocks::new(0, bytes.len(), true);
        blocks.read(0, bytes, true);
        blocks.blocks()[0]
    }

    #[test]
    fn random_bytes_are_told_from_text_and_programs() {
        for seed in 1..200 {
            let block = one(&random(seed, 4096));
            assert!(block.is(Block::RANDOM | Block::HEAD | Block::FULL), "{seed}");
        }
        let text: Vec<u8> = b"the quick brown fox, and so on. ".iter().copied().cycle().take(4096).collect();
        assert_eq!(one(&text), Block(Block::DATA | Block::CHANGED | Block::FULL));
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let blocks: Vec<Block> = program.chunks(4096).take(4000).map(one).collect();
        let random = blocks.iter().filter(|block| block.is(Block::RANDOM)).count();
        assert!(random * 20 < blocks.len(), "{random} of {}", blocks.len());
    }

    #[test]
    fn a_head_that_is_encrypted_shows_where_the_rest_is_text() {
        for (dark, of) in [(64, 192), (64, 128), (16, 32)] {
            for seed in 1..100 {
                let noise = random(seed, 4096);
                let text = b"The minutes of the meeting of the board, as they were sent to all. ";
                let byte = |at: usize| if at % of < dark { noise[at] } else { text[at % text.len()] };
                let mixed: Vec<u8> = (0..4096).map(byte).collect();
                assert!(one(&mixed).is(Block::HEAD), "{dark} of {of}, {seed}");
            }
        }
    }

    #[test]
    fn the_end_of_a_file_shows_by_its_zeros() {
        let mut bytes = random(7, 4096);
        assert!(one(&bytes).is(Block::FULL));
        bytes[4080..].fill(0);
        assert!(!one(&bytes).is(Block::FULL));
    }

    proptest! {
        /// Whatever is read, in whatever order: nothing panics, and blocks outside of the region are nowhere.
        #[test]
        fn any_bytes_at_any_place_are_taken(
            length in 0usize..40_000,
            reads in proptest::collection::vec((0usize..50_000, 0usize..9000, any::<u8>(), any::<bool>()), 0..6),
        ) {
            let mut blocks = Blocks::new(1 << 40, length, true);
            for (at, size, byte, is_changed) in reads {
                blocks.read(at, &vec![byte; size], is_changed);
                blocks.keep(at..at + size);
                blocks.store(at, 1, 1);
            }
            prop_assert_eq!(blocks.blocks().len(), length.div_ceil(4096));
        }
    }
}
