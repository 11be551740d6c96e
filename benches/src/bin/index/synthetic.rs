//! Chunks that are a function of their number: ids that ascend with it, and places.

use sancerre_format::id::{ContentId, FrameName, FramePlace, PackName, Place};
use sancerre_format::index::IndexEntry;

/// Chunks of a pack, and packs of a session: a few hundred GiB of new data in each.
pub(crate) const PACK_CHUNKS: u64 = 1000;
pub(crate) const SESSION_PACKS: u64 = 100;
pub(crate) const PACK_BYTES: u64 = 33_000_000;
/// Chunks of a frame.
const FRAME_CHUNKS: u64 = 8;

/// So many chunks, evenly spread over all ids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunks(pub(crate) u64);

impl Chunks {
    pub(crate) fn packs(self) -> u64 {
        self.0.div_ceil(PACK_CHUNKS)
    }

    pub(crate) fn sessions(self) -> u64 {
        self.packs().div_ceil(SESSION_PACKS)
    }

    /// The pack with this number; sessions start at 1.
    pub(crate) fn pack(number: u64) -> PackName {
        let ordinal = u32::try_from(number % SESSION_PACKS).unwrap_or_default();
        PackName { session: number / SESSION_PACKS + 1, ordinal }
    }

    /// Chunk `number`, in the order of ids.
    pub(crate) fn entry(self, number: u64) -> IndexEntry {
        let stride = u64::MAX / self.0;
        let noise = blake3::hash(&number.to_le_bytes());
        let mut id = *noise.as_bytes();
        let jitter = u64::from_le_bytes(id[..8].try_into().unwrap_or_default()) % stride;
        id[..8].copy_from_slice(&(number * stride + jitter).to_be_bytes());
        // Neighbours in the order of ids lie anywhere.
        let at = scatter(number, self.0);
        let within = at % PACK_CHUNKS;
        let frame = u32::try_from(within / FRAME_CHUNKS).unwrap_or_default();
        let piece = u32::try_from(within % FRAME_CHUNKS).unwrap_or_default();
        let frame = FramePlace {
            frame: FrameName { pack: Self::pack(at / PACK_CHUNKS), index: frame },
            offset_bytes: 4096 + frame * 260_000,
            sealed_bytes: 256 * 1000 + 48,
        };
        let size_bytes = 4096 * (1 + u32::from(id[31]) % 40);
        IndexEntry { id: ContentId(id), place: Place { frame, offset_bytes: piece * 131_072, size_bytes } }
    }
}

/// A permutation of the numbers below `count`: neighbours go far apart.
fn scatter(number: u64, count: u64) -> u64 {
    let factor =
        [2_654_435_761u64, 2_246_822_519, 3_266_489_917].into_iter().find(|factor| gcd(*factor, count) == 1);
    let product = u128::from(number) * u128::from(factor.unwrap_or(1)) % u128::from(count);
    u64::try_from(product).unwrap_or_default()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
