//! Makes a VHDX look as its writer leaves it who dies with writes in the log.

use std::fs;
use std::path::Path;

/// What everything in a log is counted in.
pub(crate) const SECTOR: usize = 4096;

/// A write that the log holds, at an offset of the file.
pub(crate) enum Begun<'a> {
    Data(u64, &'a [u8; SECTOR]),
    Zeros(u64, u64),
}

/// Writes entries into the log, each with one write. `needed_bytes` is how long their writer knew the file to be.
pub(crate) fn leave_open(path: &Path, writes: &[Begun<'_>], needed_bytes: u64) {
    let mut image = fs::read(path).unwrap();
    for header in [0x1_0000, 0x2_0000] {
        image[header + 48..header + 64].fill(0x11);
        sum(&mut image[header..header + SECTOR]);
    }
    let log = u64::from_le_bytes(image[0x1_0048..0x1_0050].try_into().unwrap()) as usize;
    let mut at = log;
    for (number, write) in writes.iter().enumerate() {
        let mut entry = entry(write, number as u64 + 1, needed_bytes);
        sum(&mut entry);
        image[at..at + entry.len()].copy_from_slice(&entry);
        at += entry.len();
    }
    fs::write(path, image).unwrap();
}

fn entry(write: &Begun<'_>, number: u64, needed_bytes: u64) -> Vec<u8> {
    let sectors = if matches!(write, Begun::Data(..)) { 2 } else { 1 };
    let mut entry = vec![0; sectors * SECTOR];
    let mut put = |at: usize, bytes: &[u8]| entry[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"loge");
    put(8, &((sectors * SECTOR) as u32).to_le_bytes());
    put(16, &number.to_le_bytes());
    put(24, &1_u32.to_le_bytes());
    put(32, &[0x11; 16]);
    put(48, &needed_bytes.to_le_bytes());
    put(56, &needed_bytes.to_le_bytes());
    put(88, &number.to_le_bytes());
    match write {
        Begun::Data(offset, bytes) => {
            put(64, b"desc");
            put(68, &bytes[SECTOR - 4..]);
            put(72, &bytes[..8]);
            put(80, &offset.to_le_bytes());
            put(SECTOR, b"data");
            put(SECTOR + 8, &bytes[8..SECTOR - 4]);
            put(2 * SECTOR - 4, &(number as u32).to_le_bytes());
        }
        Begun::Zeros(offset, length_bytes) => {
            put(64, b"zero");
            put(72, &length_bytes.to_le_bytes());
            put(80, &offset.to_le_bytes());
        }
    }
    entry
}

/// Sets the CRC-32C at offset 4, which is computed with zeros there.
fn sum(structure: &mut [u8]) {
    structure[4..8].fill(0);
    let mut crc = u32::MAX;
    for byte in structure.iter() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    structure[4..8].copy_from_slice(&(!crc).to_le_bytes());
}
