//! Reparse points: links, and files whose bytes Windows keeps in another way.

use super::attribute::Body;
use super::record::Record;
use super::{DATA, REPARSE_POINT};
use crate::bytes::{from_utf16, le16, le32, slice, units};
use crate::fault::{Fault, Result};

/// What a link of Interix or ntfs-3g begins with.
pub(super) const INTERIX: &[u8; 8] = b"IntxLNK\x01";
const MOUNT_POINT: u32 = 0xa000_0003;
const SYMLINK: u32 = 0xa000_000c;
const LINUX_SYMLINK: u32 = 0xa000_001d;
const COMPACT: u32 = 0x8000_0017;
const DEDUPLICATED: u32 = 0x8000_0013;
/// What the kernel's names of places begin with.
const PREFIX: &[u8] = b"\\??\\";

fn tag(record: &Record) -> Option<u32> {
    let point = record.attributes.iter().find(|one| one.kind == REPARSE_POINT)?;
    match &point.body {
        Body::Here(bytes) => le32(bytes, 0).ok(),
        Body::Elsewhere { .. } => None,
    }
}

pub(super) fn is_link(record: &Record) -> bool {
    matches!(tag(record), Some(MOUNT_POINT | SYMLINK | LINUX_SYMLINK))
}

/// Refuses files whose bytes are not in their own stream: zeros would be read in their place.
pub(super) fn refuse_odd(record: &Record) -> Result<()> {
    let is_compact = record.attributes.iter().any(|one| one.kind == DATA && one.name == b"WofCompressedData");
    let what = match tag(record) {
        Some(COMPACT) if is_compact => "it is compressed by Windows itself (CompactOS)",
        Some(DEDUPLICATED) => "its bytes are in the store of Windows Data Deduplication",
        _ => return Ok(()),
    };
    Err(Fault::Unsupported(format!("{what}, which is not read here")))
}

/// Where a link leads, as it was written.
pub(super) fn target(bytes: &[u8]) -> Result<Vec<u8>> {
    let names: usize = match le32(bytes, 0)? {
        SYMLINK => 20,
        MOUNT_POINT => 16,
        LINUX_SYMLINK => return Ok(bytes.get(12..).unwrap_or_default().to_vec()),
        _ => return Err(Fault::Corrupt("a link that is none")),
    };
    let name = |at: usize| -> Result<Vec<u8>> {
        let (start, length) =
            (usize::from(le16(bytes, at)?), usize::from(le16(bytes, at.saturating_add(2))?));
        Ok(from_utf16(units(slice(bytes, names.saturating_add(start), length)?)))
    };
    // The one for people, if there is one.
    let shown = name(12)?;
    if !shown.is_empty() {
        return Ok(shown);
    }
    let inner = name(8)?;
    Ok(inner.strip_prefix(PREFIX).unwrap_or(&inner).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = target(&bytes);
        }
    }
}
