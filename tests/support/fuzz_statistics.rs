//! The statistics of a night, whose pieces any member of the zone may seal.

use sancerre_engine::suspicion::record::{
    decode_counts, decode_starts, decode_table, encode_counts, encode_starts, encode_table,
};

/// Each form of piece: refused, or of one spelling.
pub fn statistics(input: &[u8]) {
    let Some((span, bytes)) = input.split_first() else { return };
    let span = u64::from(*span);
    if let Ok(disks) = decode_table(bytes) {
        assert_eq!(encode_table(&disks).unwrap(), bytes);
    }
    if let Ok(starts) = decode_starts(span, bytes) {
        assert_eq!(encode_starts(span, &starts), bytes);
    }
    if let Ok(counts) = decode_counts(span, bytes) {
        assert_eq!(encode_counts(span, &counts), bytes);
    }
}
