//! Numbers in foreign bytes: big-endian, at offsets that may lie anywhere.

/// The number at `at`; none when the bytes end before it does.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// As [`u32_at`], of eight bytes.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// `length_bytes` from `offset`; none when they do not lie inside.
pub(super) fn slice(bytes: &[u8], offset: u64, length_bytes: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(length_bytes).ok()?)?)
}

/// For lengths of buffers. Where addresses are too short for a number no such buffer exists, and looking it up fails.
pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
