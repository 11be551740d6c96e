//! The rules compared: the product's two, the disk rule with other parameters, and two anchors.

use std::ops::Range;

use anyhow::{Result, ensure};
use fastcdc::v2020::{FastCDC, Normalization};
use sancerre_format::chunk::{BLOCK_BYTES, Chunker, PieceKind, is_zero};
use sancerre_format::config::{Layout, ProfileSizes};

pub(crate) const CUT_KEY: [u8; 32] = *b"the measurement's fixed cut key.";

pub(crate) enum Rule {
    /// The product's code.
    Product(Chunker),
    /// The disk rule once more, every choice a parameter.
    Blocks(BlockRule),
    /// The crate alone, as other tools use it; chunks of zeros are left out.
    Gear { sizes: ProfileSizes, level: Normalization },
    /// Fixed sizes; chunks of zeros are left out.
    Fixed { size_bytes: usize },
}

#[derive(Clone, Copy)]
pub(crate) enum Sample {
    /// The block's last 64 bytes.
    Tail,
    /// Its first 32 and its last 32.
    Ends,
}

#[derive(Clone, Copy)]
pub(crate) struct BlockRule {
    pub(crate) sizes: ProfileSizes,
    pub(crate) hole_blocks: usize,
    /// 0: no such rule.
    pub(crate) file_end_bytes: usize,
    pub(crate) sample: Sample,
    pub(crate) normalisation: u32,
}

impl Rule {
    /// Appends the ranges of `region` that become chunks.
    pub(crate) fn cut(&self, region: &[u8], ranges: &mut Vec<Range<usize>>) {
        match self {
            Self::Product(chunker) => cut_product(chunker, region, ranges),
            Self::Blocks(rule) => rule.cut(region, ranges),
            Self::Gear { sizes, level } => cut_gear(*sizes, *level, region, ranges),
            Self::Fixed { size_bytes } => {
                let ends = (0..region.len()).step_by(*size_bytes);
                ranges.extend(ends.map(|start| start..region.len().min(start + size_bytes)));
                ranges.retain(|range| !is_zero(&region[range.clone()]));
            }
        }
    }
}

fn cut_product(chunker: &Chunker, region: &[u8], ranges: &mut Vec<Range<usize>>) {
    let mut start = 0;
    while let Some(piece) = chunker.next_piece(&region[start..]) {
        let end = start + piece.length_bytes;
        if piece.kind == PieceKind::Data {
            ranges.push(start..end);
        }
        start = end;
    }
}

fn cut_gear(sizes: ProfileSizes, level: Normalization, region: &[u8], ranges: &mut Vec<Range<usize>>) {
    let [min, target, max] = [sizes.min_bytes, sizes.target_bytes, sizes.max_bytes].map(|size| size as usize);
    for chunk in FastCDC::with_level_and_seed(region, min, target, max, level, 0x5eed) {
        let range = chunk.offset..chunk.offset + chunk.length;
        if !is_zero(&region[range.clone()]) {
            ranges.push(range);
        }
    }
}

impl BlockRule {
    fn cut(&self, region: &[u8], ranges: &mut Vec<Range<usize>>) {
        let mut start = 0;
        let (mut end, mut zero_blocks) = (0, 0);
        for (index, block) in region.chunks(BLOCK_BYTES).enumerate() {
            let block_end = index * BLOCK_BYTES + block.len();
            let max_end = start + self.sizes.max_bytes as usize;
            if is_zero(block) {
                zero_blocks += 1;
                if end > start && (zero_blocks == self.hole_blocks || block_end == max_end) {
                    ranges.push(start..end);
                    end = start;
                }
                start = if end > start { start } else { block_end };
                end = end.max(start);
                continue;
            }
            (end, zero_blocks) = (block_end, 0);
            if self.cuts_after(block, end - start) {
                ranges.push(start..end);
                start = end;
            }
        }
        if end > start {
            ranges.push(start..end);
        }
    }

    fn cuts_after(&self, block: &[u8], length_bytes: usize) -> bool {
        if length_bytes < self.sizes.min_bytes as usize {
            return false;
        }
        if length_bytes >= self.sizes.max_bytes as usize {
            return true;
        }
        let tail = &block[block.len() - self.file_end_bytes.min(block.len())..];
        if self.file_end_bytes > 0 && is_zero(tail) {
            return true;
        }
        let target_blocks = u64::from(self.sizes.target_bytes) / 4096;
        let blocks = if length_bytes < self.sizes.target_bytes as usize {
            target_blocks << self.normalisation
        } else {
            target_blocks >> self.normalisation
        };
        self.prf(block) < u64::MAX / blocks.max(1)
    }

    fn prf(&self, block: &[u8]) -> u64 {
        if block.len() < 64 {
            return u64::MAX;
        }
        let mut sample = [0; 64];
        match self.sample {
            Sample::Tail => sample.copy_from_slice(&block[block.len() - 64..]),
            Sample::Ends => {
                sample[..32].copy_from_slice(&block[..32]);
                sample[32..].copy_from_slice(&block[block.len() - 32..]);
            }
        }
        let hash = blake3::keyed_hash(&CUT_KEY, &sample);
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"))
    }
}

/// Fails if the product cuts a region in another way than the variants' code with the parameters that were chosen.
pub(crate) fn check_chosen(region: &[u8]) -> Result<()> {
    let (mut product, mut chosen) = (Vec::new(), Vec::new());
    cut_product(&Chunker::disk(&CUT_KEY, CHOSEN.sizes)?, region, &mut product);
    CHOSEN.cut(region, &mut chosen);
    ensure!(product == chosen, "the variants' code cuts in another way than the product's disk rule");
    Ok(())
}

const fn kib(min: u32, target: u32, max: u32) -> ProfileSizes {
    ProfileSizes { min_bytes: min << 10, target_bytes: target << 10, max_bytes: max << 10 }
}

/// The disk rule from which each variant departs in one point.
const BASE: BlockRule = BlockRule {
    sizes: kib(32, 128, 512),
    hole_blocks: 4,
    file_end_bytes: 64,
    sample: Sample::Ends,
    normalisation: 1,
};

/// What the product has.
const CHOSEN: BlockRule = BlockRule { sizes: kib(16, 128, 512), file_end_bytes: 256, ..BASE };

pub(crate) fn all() -> Result<Vec<(String, Rule)>> {
    let layout = Layout::default();
    let mut rules = vec![
        ("fixed 4 MiB".to_owned(), Rule::Fixed { size_bytes: 4 << 20 }),
        (
            "FastCDC 1 MiB".to_owned(),
            Rule::Gear { sizes: kib(512, 1024, 8192), level: Normalization::Level1 },
        ),
        ("**disk, as built**".to_owned(), Rule::Product(Chunker::disk(&CUT_KEY, layout.disk)?)),
        ("**stream, as built**".to_owned(), Rule::Product(Chunker::stream(&CUT_KEY, layout.stream)?)),
    ];
    rules.extend(
        disk_variants().into_iter().map(|(name, rule)| (format!("disk: {name}"), Rule::Blocks(rule))),
    );
    for (name, sizes) in [("32/64/512", kib(32, 64, 512)), ("32/128/512", kib(32, 128, 512))] {
        rules.push((format!("stream: {name}"), Rule::Product(Chunker::stream(&CUT_KEY, sizes)?)));
    }
    for (name, level) in [("1", Normalization::Level1), ("2", Normalization::Level2)] {
        let rule = Rule::Gear { sizes: kib(32, 64, 512), level };
        rules.push((format!("stream: the crate alone, 32/64/512, level {name}"), rule));
    }
    Ok(rules)
}

fn disk_variants() -> Vec<(String, BlockRule)> {
    let mut variants = vec![("base: 32/128/512, Z 4, end 64, first 32 + last 32, level 1".to_owned(), BASE)];
    for hole_blocks in [1, 8, 16] {
        variants.push((format!("Z {hole_blocks}"), BlockRule { hole_blocks, ..BASE }));
    }
    for file_end_bytes in [0, 1, 8, 16, 256] {
        variants.push((format!("end {file_end_bytes}"), BlockRule { file_end_bytes, ..BASE }));
    }
    for (min, file_end_bytes) in [(32, 512), (32, 1024), (16, 256), (16, 1024)] {
        let rule = BlockRule { file_end_bytes, sizes: kib(min, 128, 512), ..BASE };
        variants.push((format!("{min}/128/512, end {file_end_bytes}"), rule));
    }
    variants.push(("last 64".to_owned(), BlockRule { sample: Sample::Tail, ..BASE }));
    for normalisation in [0, 2, 3] {
        variants.push((format!("level {normalisation}"), BlockRule { normalisation, ..BASE }));
    }
    for (min, target) in [(16, 64), (32, 64), (16, 128), (64, 128), (32, 256)] {
        let sizes = kib(min, target, 512);
        variants.push((format!("{min}/{target}/512"), BlockRule { sizes, ..BASE }));
    }
    variants
}
