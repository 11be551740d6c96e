//! The statistics of a night, its file catalogue, and what a machine reads when it starts, whose pieces any member of the zone may seal.

use sancerre_engine::suspicion::record::{
    decode_counts, decode_starts, decode_table, encode_counts, encode_starts, encode_table,
};
use sancerre_format::boot_trace::BootTrace;
use sancerre_format::file_catalogue::CataloguePiece;

/// A row of pieces, each refused or read.
pub fn file_catalogues(input: &[u8]) {
    let mut rest = input;
    while let Ok(Some(length)) = CataloguePiece::length(rest) {
        let Some((piece, behind)) = rest.split_at_checked(length) else { return };
        if let Ok(CataloguePiece::Names(names)) = CataloguePiece::decode(piece) {
            let _ = names.each(&mut |folder, file| {
                assert!(!file.name.is_empty() && !file.name.contains(&b'/') && folder.path.len() <= 32 << 10);
                let told =
                    file.spots.as_ref().map(|spots| spots.iter().map(|spot| spot.length_bytes).sum::<u64>());
                assert!(told.is_none_or(|told| told == file.size_bytes));
            });
        }
        rest = behind;
    }
}

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

/// Refused, or of one spelling.
pub fn boot_traces(input: &[u8]) {
    if let Ok(trace) = BootTrace::decode(input) {
        assert_eq!(trace.encode().unwrap(), input, "another spelling was read");
    }
}
