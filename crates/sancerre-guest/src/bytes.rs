//! Numbers at places of foreign bytes. A place outside is a fault, never a panic.

use crate::fault::{Fault, Result};

/// So many bytes from `at` on.
pub(crate) fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    let end = at.checked_add(length);
    end.and_then(|end| bytes.get(at..end)).ok_or(Fault::Corrupt("a structure that ends too early"))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let found = slice(bytes, at, N)?;
    found.try_into().map_err(|_| Fault::Corrupt("a structure that ends too early"))
}

/// A byte.
pub(crate) fn byte(bytes: &[u8], at: usize) -> Result<u8> {
    Ok(u8::from_le_bytes(array(bytes, at)?))
}

/// Little-endian, 16 bits.
pub(crate) fn le16(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(array(bytes, at)?))
}

/// Little-endian, 32 bits.
pub(crate) fn le32(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(array(bytes, at)?))
}

/// Little-endian, 64 bits.
pub(crate) fn le64(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(array(bytes, at)?))
}

/// Big-endian, 16 bits.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_be_bytes(array(bytes, at)?))
}

/// Big-endian, 32 bits.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_be_bytes(array(bytes, at)?))
}

/// Big-endian, 64 bits.
pub(crate) fn be64(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_be_bytes(array(bytes, at)?))
}

/// A length or place in memory; what does not fit cannot be there.
pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A length as a number of bytes on a disk.
pub(crate) fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Text of 16-bit units as bytes: UTF-8, in which half a surrogate pair, which file systems do not refuse, keeps its number.
/// So two names that differ stay different.
pub(crate) fn from_utf16(units: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(letter) => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let [high, low] = half.unpaired_surrogate().to_be_bytes();
                let six = |bits: u8| 0x80 | (bits & 0x3f);
                bytes.extend([0xe0 | (high >> 4), six((high << 2) | (low >> 6)), six(low)]);
            }
        }
    }
    bytes
}

/// The units of little-endian 16-bit text.
pub(crate) fn units(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_pair_keeps_its_number() {
        assert_eq!(from_utf16("aé€😀".encode_utf16()), "aé€😀".as_bytes());
        assert_eq!(from_utf16([0x61, 0xd83d]), [0x61, 0xed, 0xa0, 0xbd]);
        assert_eq!(from_utf16([0xdc01, 0x62]), [0xed, 0xb0, 0x81, 0x62]);
    }
}
