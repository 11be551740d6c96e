//! LZNT1, the compression of NTFS: chunks of 4 KiB, in each of which lengths and distances share 16 bits, the distances more of
//! them the further the chunk has come.

use crate::bytes::le16;
use crate::fault::{Fault, Result};

const CHUNK_BYTES: usize = 4096;
const IS_COMPRESSED: u16 = 0x8000;
const LENGTH: u16 = 0xfff;

/// Decompresses until `most` bytes are there, or the chunks end.
pub(super) fn unpack(packed: &[u8], most: usize) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(most);
    let mut at = 0;
    while out.len() < most {
        let Ok(head) = le16(packed, at) else { break };
        if head == 0 {
            break;
        }
        at = at.saturating_add(2);
        let length = usize::from(head & LENGTH).saturating_add(1);
        let chunk = packed
            .get(at..at.saturating_add(length))
            .ok_or(Fault::Corrupt("a compressed chunk that is cut"))?;
        at = at.saturating_add(length);
        let start = out.len();
        match head & IS_COMPRESSED {
            0 => out.extend_from_slice(chunk),
            _ => unpack_chunk(chunk, &mut out)?,
        }
        // What follows begins at the next 4 KiB, however much this one held.
        let end = start.saturating_add(CHUNK_BYTES);
        if out.len() > end {
            return Err(Fault::Corrupt("a compressed chunk that is too long"));
        }
        if at < packed.len() && out.len() < most {
            out.resize(end, 0);
        }
    }
    out.truncate(most);
    Ok(out)
}

fn unpack_chunk(chunk: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    let mut bytes = chunk.iter().copied();
    while let Some(flags) = bytes.next() {
        for bit in 0..8 {
            let Some(first) = bytes.next() else { return Ok(()) };
            if flags >> bit & 1 == 0 {
                out.push(first);
                continue;
            }
            let second = bytes.next().ok_or(Fault::Corrupt("a compressed chunk that is cut"))?;
            let pair = u16::from_le_bytes([first, second]);
            copy(pair, start, out)?;
            if out.len().saturating_sub(start) > CHUNK_BYTES {
                return Err(Fault::Corrupt("a compressed chunk that is too long"));
            }
        }
    }
    Ok(())
}

fn copy(pair: u16, start: usize, out: &mut Vec<u8>) -> Result<()> {
    let done = out.len().saturating_sub(start);
    let mut length_bits = 12_u32;
    while length_bits > 4 && done > 1 << (16_u32.saturating_sub(length_bits)) {
        length_bits = length_bits.saturating_sub(1);
    }
    let mask = (1_u16 << length_bits).wrapping_sub(1);
    let length = usize::from(pair & mask).saturating_add(3);
    let distance = usize::from(pair >> length_bits).saturating_add(1);
    if distance > done {
        return Err(Fault::Corrupt("a compressed chunk that begins before itself"));
    }
    for _ in 0..length {
        let from = out.len().saturating_sub(distance);
        let byte = *out.get(from).ok_or(Fault::Corrupt("a compressed chunk that begins before itself"))?;
        out.push(byte);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_protocol_s_document_comes_out() {
        // "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E D E A F# F# G A A G
        // F# E D D E F# E D D\0"
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01,
            0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24,
            0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48,
            0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let text = "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E \
                    D E A F# F# G A A G F# E D D E F# E D D\0";
        assert_eq!(String::from_utf8(unpack(&packed, 4096).unwrap()).unwrap(), text);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_grow(packed in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Ok(out) = unpack(&packed, 65_536) {
                assert!(out.len() <= 65_536);
            }
        }
    }
}
