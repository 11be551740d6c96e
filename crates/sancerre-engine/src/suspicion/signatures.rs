//! How files begin. File systems put the start of a file on the border of a block, so a look at the first bytes of each
//! block finds files without any knowledge of the file system.

/// What a block begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signature {
    /// The start of a file.
    File,
    /// The start of a page inside of a file, as databases have many.
    Page,
}

/// Beginnings of at least four bytes that hardly stand at the start of a block by chance.
const HEADS: &[&[u8]] = &[
    // Archives and what is made of them: office documents, e-books, programs of phones and of Java.
    b"PK\x03\x04",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"BZh",
    b"LZIP",
    b"MSCF",
    b"!<arch>\n",
    b"\xed\xab\xee\xdb",
    // Documents.
    b"%PDF-",
    b"%!PS",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    b"{\\rtf",
    b"<?xml",
    b"<!DOCTYPE",
    b"<!doctype",
    b"<html",
    b"AC10",
    b"!BDN",
    // Pictures, sound, films.
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    b"8BPS",
    b"RIFF",
    b"OggS",
    b"fLaC",
    b"ID3\x03",
    b"ID3\x04",
    b"\x1a\x45\xdf\xa3",
    // Mail.
    b"From ",
    b"From: ",
    b"Return-Path: ",
    b"Received: ",
    b"Delivered-To: ",
    b"Message-ID: ",
    b"MIME-Version: ",
    b"-----BEGIN ",
    // Databases, registries, journals.
    b"SQLite format 3\0",
    b"\0\x01\0\0Standard ",
    b"regf",
    b"ElfFile\0",
    b"LPKSHHRH",
    // Programs.
    b"\x7fELF",
    b"MZ\x90\0",
    b"\xca\xfe\xba\xbe",
    b"wOF2",
    b"OTTO",
    b"PACK\0\0\0",
];

/// The bytes that one of them begins with: most blocks begin otherwise.
const FIRST: [bool; 256] = {
    let mut first = [false; 256];
    let mut at = 0;
    while at < HEADS.len() {
        if let [byte, ..] = HEADS[at] {
            first[sancerre_format::bytes::to_usize(u32::from_le_bytes([*byte, 0, 0, 0]))] = true;
        }
        at += 1;
    }
    first
};

/// Beginnings that do not stand at the very start, with their offset.
const WITHIN: &[(usize, &[u8])] = &[(4, b"ftyp"), (4, b"\xef\xcd\xab\x89"), (128, b"DICM"), (257, b"ustar")];

/// A page of PostgreSQL: where its special space begins, its size and the version of its layout.
const PAGE_AT: usize = 16;
const PAGE: &[u8] = b"\x00\x20\x04\x20";
const PAGE_LOWER_AT: usize = 12;
const PAGE_UPPER_AT: usize = 14;
const PAGE_HEAD_BYTES: u16 = 24;
const PAGE_BYTES: u16 = 8192;
/// What compressed streams begin with: method and flags are the third and fourth byte.
const GZIP: &[u8] = b"\x1f\x8b\x08";

/// What this block begins with; none for most.
pub fn signature(block: &[u8]) -> Option<Signature> {
    let first = *block.first()?;
    let is_there = |at: usize, bytes: &[u8]| block.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    let is_gzip = is_there(0, GZIP) && block.get(3).is_some_and(|flags| flags & 0xe0 == 0);
    let is_head = FIRST[usize::from(first)] && HEADS.iter().any(|head| block.starts_with(head));
    if is_gzip || is_head || WITHIN.iter().any(|(at, bytes)| is_there(*at, bytes)) {
        return Some(Signature::File);
    }
    (is_there(PAGE_AT, PAGE) && is_page(block)).then_some(Signature::Page)
}

/// Where the free room of a page begins and ends: encrypted it says nothing sensible.
fn is_page(block: &[u8]) -> bool {
    let number = |at: usize| block.get(at..)?.first_chunk::<2>().map(|bytes| u16::from_le_bytes(*bytes));
    let room = number(PAGE_LOWER_AT).zip(number(PAGE_UPPER_AT));
    room.is_some_and(|(lower, upper)| PAGE_HEAD_BYTES <= lower && lower <= upper && upper <= PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_how_they_begin() {
        let mut block = vec![0; 4096];
        assert_eq!(signature(&block), None);
        assert_eq!(signature(&[]), None);
        for head in HEADS {
            block[..head.len()].copy_from_slice(head);
            assert_eq!(signature(&block), Some(Signature::File), "{head:?}");
            assert_eq!(signature(head), Some(Signature::File), "{head:?}");
            block.fill(0);
        }
        for (at, head) in WITHIN {
            block[*at..at + head.len()].copy_from_slice(head);
            assert_eq!(signature(&block), Some(Signature::File), "{head:?}");
            block.fill(0);
        }
        block[PAGE_AT..PAGE_AT + 4].copy_from_slice(PAGE);
        assert_eq!(signature(&block), None, "no page has room from 0 on");
        block[12..16].copy_from_slice(&[100, 0, 0, 16]);
        assert_eq!(signature(&block), Some(Signature::Page));
        block[..16].iter_mut().for_each(|byte| *byte ^= 0xa5);
        assert_eq!(signature(&block), None, "its first 16 bytes are encrypted");
        assert_eq!(signature(&[0x1f, 0x8b, 8, 8]), Some(Signature::File));
        assert_eq!(signature(&[0x1f, 0x8b, 8, 0xff]), None);
    }

    /// Of random blocks hardly one begins as a file: else encryption would bring back what it took.
    #[test]
    fn random_blocks_are_no_files() {
        let mut state = 1u64;
        let mut block = vec![0; 4096];
        let mut found = 0;
        for _ in 0..20_000 {
            for byte in block.iter_mut().take(300) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = u8::try_from(state >> 56).unwrap();
            }
            found += usize::from(signature(&block).is_some());
        }
        assert!(found <= 2, "{found}");
    }
}
