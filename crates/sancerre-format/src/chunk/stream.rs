//! The stream rule: FastCDC v2020 with a gear table drawn from the cut key.
//!
//! The crate's own seed is one number XORed into a public table; a table of our own from the key costs nothing more
//! and leaves no relation between its entries to solve for.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use super::length;
use crate::config::ProfileSizes;

const NORMALISATION: Normalization = Normalization::Level1;

/// What the table is drawn from, so that the key serves the disk rule (messages of 64 bytes) as well.
const GEAR_CONTEXT: &[u8] = b"sancerre stream gear v1";

pub(super) struct StreamRule {
    min_bytes: usize,
    target_bytes: usize,
    max_bytes: usize,
    mask_rare: u64,
    mask_frequent: u64,
    gear: [u64; 256],
    /// The same shifted left by one: FastCDC v2020 rolls two bytes a step.
    gear_shifted: [u64; 256],
}

impl StreamRule {
    /// `sizes` must have been checked.
    pub(super) fn new(cut_key: &[u8; 32], sizes: ProfileSizes) -> Self {
        let target_bytes = length(sizes.target_bytes);
        let (mask_rare, mask_frequent) = select_masks(target_bytes, NORMALISATION);
        let gear = gear_table(cut_key);
        Self {
            min_bytes: length(sizes.min_bytes),
            target_bytes,
            max_bytes: length(sizes.max_bytes),
            mask_rare,
            mask_frequent,
            gear,
            gear_shifted: gear.map(|entry| entry << 1),
        }
    }

    pub(super) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Length of the chunk at the start of `window`, which is not empty.
    ///
    /// FastCDC cuts *before* the byte that decided, so that its cut depends on the next chunk's first byte. Here that
    /// byte goes to the chunk it ended: then a chunk's end depends on nothing outside it.
    pub(super) fn data_length(&self, window: &[u8]) -> usize {
        let (_, deciding) = cut_gear(
            window,
            self.min_bytes,
            self.target_bytes,
            self.max_bytes,
            self.mask_rare,
            self.mask_frequent,
            self.mask_rare << 1,
            self.mask_frequent << 1,
            &self.gear,
            &self.gear_shifted,
        );
        deciding.saturating_add(1).min(self.max_bytes).min(window.len())
    }
}

/// 256 words, little-endian, of keyed BLAKE3's extended output.
fn gear_table(cut_key: &[u8; 32]) -> [u64; 256] {
    let mut bytes = [0_u8; 2048];
    blake3::Hasher::new_keyed(cut_key).update(GEAR_CONTEXT).finalize_xof().fill(&mut bytes);
    let mut table = [0; 256];
    for (entry, word) in table.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *entry = u64::from_le_bytes(*word);
    }
    table
}
