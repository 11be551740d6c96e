//! What a fuzzer calls: disks that anybody may have made, and packets of a child that may say anything.

use crate::bytes::to_u64;
use crate::disks::{self, Content};
use crate::fault::{Fault, Result};
use crate::fs::{FileSystem, PiecePlace};
use crate::source::{Blocks, Source};
use crate::wire::{Answer, Ask};

/// Names that are looked at of one disk.
const NAMES_MAX: usize = 200;

struct Memory(Vec<u8>);

impl Source for Memory {
    fn size_bytes(&self, disk: u16) -> Option<u64> {
        (disk == 0).then(|| to_u64(self.0.len()))
    }

    fn read(&self, _disk: u16, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = self.0.get(start..start.saturating_add(buffer.len())).ok_or(Fault::Missing)?;
        buffer.copy_from_slice(from);
        Ok(())
    }
}

/// Reads all that is on a disk, as the child does: an error or an answer, whatever the bytes are.
pub fn fuzz_disk(bytes: &[u8]) {
    let blocks = Blocks::new(Box::new(Memory(bytes.to_vec())));
    for room in disks::explore(&blocks, 1, &[], &mut |_| true) {
        let (Content::Files(mut fs), Some(volume)) = (room.content, room.volume) else { continue };
        let mut open = vec![fs.root()];
        let mut left = NAMES_MAX;
        while let Some(id) = open.pop() {
            let mut found = Vec::new();
            let _ = fs.list(id, &mut |_, id| {
                found.push(id);
                Ok(())
            });
            for id in found {
                if left == 0 {
                    return;
                }
                left = left.saturating_sub(1);
                if touch(fs.as_mut(), id, &volume).is_ok() {
                    open.push(id);
                }
            }
        }
    }
}

fn touch(fs: &mut dyn FileSystem, id: u64, volume: &crate::volume::Volume) -> Result<()> {
    const MOST: u64 = 1 << 20;
    let node = fs.node(id)?;
    let _ = (fs.link(id), fs.extras(id));
    if node.size_bytes == 0 {
        return Ok(());
    }
    let pieces = fs.pieces(id, b"", 0..node.size_bytes)?;
    let mut at = 0_u64;
    for piece in pieces {
        let length = usize::try_from(piece.length_bytes.min(MOST)).unwrap_or(0);
        match piece.place {
            PiecePlace::Hole => {}
            PiecePlace::Held => fs.read(id, b"", at, &mut vec![0; length])?,
            PiecePlace::Volume(offset) => {
                let _ = volume.bytes(offset, length);
            }
        }
        at = at.checked_add(piece.length_bytes).ok_or(Fault::Corrupt("too long"))?;
    }
    assert!(at <= node.size_bytes, "pieces are longer than what was asked for");
    Ok(())
}

/// Reads the header of an encrypted volume: an error or a header, whatever the bytes are.
pub fn fuzz_luks(bytes: &[u8]) {
    let length = to_u64(bytes.len());
    let volume = crate::volume::Volume::of_disk(Blocks::new(Box::new(Memory(bytes.to_vec()))), 0, 0..length);
    let _ = crate::luks::look(&volume);
}

/// A packet of a child: it is refused, or says what it says.
pub fn fuzz_packet(packet: &[u8]) {
    if let Some(answer) = Answer::decode(packet) {
        let again = answer.encode();
        // What is too long for a text is cut, once.
        assert!(packet.len() > 8 << 10 || Answer::decode(&again).as_ref() == Some(&answer), "{packet:?}");
    }
    let _ = Ask::decode(packet);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with the magic numbers of a file system, and anything around them.
    fn disk(kind: u8, noise: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 256 << 10];
        let marks: &[(usize, &[u8])] = match kind {
            0 => &[(0x438, &[0x53, 0xef])],
            1 => &[(3, b"NTFS    "), (0xb, &[0, 2, 1]), (0x40, &[1])],
            2 => &[(0, b"XFSB"), (4, &[0, 0, 2, 0]), (100, &[0, 5]), (104, &[1, 0])],
            3 => &[(3, b"EXFAT   "), (0x1fe, &[0x55, 0xaa])],
            4 => &[(0, &[0xeb]), (0xb, &[0, 2, 1, 1, 0, 1]), (0x15, &[0xf8]), (0x1fe, &[0x55, 0xaa])],
            5 => &[(512, b"EFI PART")],
            _ => &[(512, b"LABELONE"), (536, b"LVM2 001")],
        };
        for (at, byte) in noise.iter().enumerate() {
            bytes[(at * 7919) % 8192] = *byte;
        }
        for (at, mark) in marks {
            bytes[*at..at + mark.len()].copy_from_slice(mark);
        }
        bytes
    }

    proptest::proptest! {
        #[test]
        fn no_disk_makes_it_panic(kind in 0_u8..7, noise in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
            fuzz_disk(&disk(kind, &noise));
        }
    }
}
