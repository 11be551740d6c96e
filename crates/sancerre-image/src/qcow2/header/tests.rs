//! Headers made by hand, one field wrong at a time, and any bytes at all.

use proptest::prelude::*;

use super::*;

/// A header of version 3 for a disk of 1 GiB in clusters of 64 KiB.
fn sound() -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    put(&mut bytes, 4, 3u32);
    put(&mut bytes, 20, 16u32);
    bytes[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
    put(&mut bytes, 36, 2u32);
    bytes[40..48].copy_from_slice(&0x1_0000u64.to_be_bytes());
    put(&mut bytes, 96, 4u32);
    put(&mut bytes, 100, 112u32);
    bytes
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
}

fn extension(bytes: &mut [u8], at: usize, kind: u32, data: &[u8]) -> usize {
    put(bytes, at, kind);
    put(bytes, at + 4, data.len() as u32);
    bytes[at + 8..at + 8 + data.len()].copy_from_slice(data);
    at + 8 + data.len().next_multiple_of(8)
}

fn parse(bytes: &[u8]) -> Result<Header, Fault> {
    Header::parse(bytes, 1 << 20)
}

#[test]
fn a_sound_header_is_read() {
    let header = parse(&sound()).unwrap();
    assert_eq!((header.size_bytes, header.l1_entries, header.l1_offset), (1 << 30, 2, 65_536));
    assert_eq!(header.codec, Codec::Zlib);
    assert!(header.backing.is_none() && header.data_file.is_none() && header.bitmaps.is_none());
}

#[test]
fn extensions_are_read_in_any_order_and_unknown_ones_passed_over() {
    let mut bytes = sound();
    let mut at = extension(&mut bytes, 112, 0x1234_5678, b"something");
    at = extension(&mut bytes, at, DATA_FILE_NAME, b"data");
    at = extension(&mut bytes, at, BACKING_FORMAT, b"qcow2");
    let bitmaps =
        [&3u32.to_be_bytes()[..], &[0; 4], &96u64.to_be_bytes(), &0x3_0000u64.to_be_bytes()].concat();
    extension(&mut bytes, at, BITMAPS, &bitmaps);
    put(&mut bytes, 76, DATA_FILE as u32);
    let header = parse(&bytes).unwrap();
    assert_eq!(header.data_file.as_deref(), Some(&b"data"[..]));
    assert_eq!(header.backing_format.as_deref(), Some(&b"qcow2"[..]));
    assert_eq!(header.bitmaps, None, "not marked consistent");
    put(&mut bytes, 92, 1);
    let directory = BitmapDirectory { count: 3, offset: 0x3_0000, length_bytes: 96 };
    assert_eq!(parse(&bytes).unwrap().bitmaps, Some(directory));
}

/// Which of the two another program takes is not known, so neither is.
#[test]
fn an_extension_that_is_there_twice_is_refused() {
    let mut bytes = sound();
    let at = extension(&mut bytes, 112, BACKING_FORMAT, b"raw");
    extension(&mut bytes, at, BACKING_FORMAT, b"qcow2");
    assert!(matches!(parse(&bytes), Err(Fault::Header { value: 0xe279_2aca, .. })));
}

#[test]
fn a_backing_name_stands_behind_the_header_in_its_cluster() {
    let with = |offset: u64, length: u32| {
        let mut bytes = sound();
        bytes[8..16].copy_from_slice(&offset.to_be_bytes());
        put(&mut bytes, 16, length);
        bytes[500..505].copy_from_slice(b"b.raw");
        parse(&bytes)
    };
    assert_eq!(with(500, 5).unwrap().backing.as_deref(), Some(&b"b.raw"[..]));
    for (offset, length) in
        [(500, 0), (500, 1024), (65_533, 5), (65_536, 1), (1 << 40, 5), (100, 5), (u64::MAX, 5)]
    {
        assert!(matches!(with(offset, length), Err(Fault::Header { .. })), "{offset} {length}");
    }
}

#[test]
fn a_disk_needs_its_l1_table_and_no_more() {
    let with = |size: u64, entries: u32, file_bytes: u64| {
        let mut bytes = sound();
        bytes[24..32].copy_from_slice(&size.to_be_bytes());
        put(&mut bytes, 36, entries);
        Header::parse(&bytes, file_bytes).map(|header| header.l1_entries)
    };
    assert_eq!(with(0, 0, 65_536).unwrap(), 0);
    assert_eq!(with(1, 1, 65_544).unwrap(), 1);
    // The memory of a saved machine is behind the disk.
    assert_eq!(with(1 << 29, 100, 65_544).unwrap(), 1);
    assert!(matches!(with((1 << 29) + 1, 1, 1 << 20), Err(Fault::Header { .. })));
    assert!(matches!(with(1, 1, 65_543), Err(Fault::Outside { .. })));
    assert_eq!(with(1 << 51, 1 << 22, 1 << 40).unwrap(), 1 << 22);
    assert!(matches!(with(1 << 51, (1 << 22) + 1, 1 << 40), Err(Fault::Huge { .. })));
    assert!(matches!(with((1 << 63) + 1, 1 << 22, 1 << 40), Err(Fault::Header { field: "size", .. })));
}

#[test]
fn the_compression_byte_and_its_bit_go_together() {
    for (bit, kind, codec) in
        [(0, 0, Some(Codec::Zlib)), (8, 1, Some(Codec::Zstd)), (8, 0, None), (0, 1, None), (8, 2, None)]
    {
        let mut bytes = sound();
        put(&mut bytes, 76, bit);
        bytes[104] = kind;
        assert_eq!(parse(&bytes).ok().map(|header| header.codec), codec, "{bit} {kind}");
    }
    let mut short = sound();
    put(&mut short, 76, 8);
    put(&mut short, 100, 104);
    short[104] = 1;
    assert!(parse(&short).is_err(), "the byte is no part of so short a header");
}

#[test]
fn subclusters_need_room() {
    for (bits, fits) in [(13u32, false), (14, true), (21, true)] {
        let mut bytes = sound();
        put(&mut bytes, 20, bits);
        put(&mut bytes, 76, 16);
        put(&mut bytes, 36, 1 << 20);
        bytes[24..32].copy_from_slice(&(1u64 << 20).to_be_bytes());
        bytes[40..48].copy_from_slice(&(1u64 << 21).to_be_bytes());
        assert_eq!(Header::parse(&bytes, 1 << 30).is_ok(), fits, "{bits}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..700), file_bytes in any::<u64>()) {
        let _ = Header::parse(&bytes, file_bytes);
        let _ = Header::parse(&[&b"QFI\xfb\0\0\0\x03"[..], &bytes].concat(), file_bytes);
    }

    /// What is read is what the rest of the reader relies on.
    #[test]
    fn a_header_that_is_read_is_sound(changes in prop::collection::vec((0usize..600, any::<u8>()), 0..6), cut in 0usize..70_000) {
        let mut bytes = sound();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        bytes.truncate(cut.max(104));
        if let Ok(header) = parse(&bytes) {
            let end = header.l1_offset + header.l1_entries * 8;
            prop_assert!(header.l1_entries == 0 || (header.l1_offset > 0 && end <= 1 << 20));
            prop_assert!(header.geometry.is_aligned(header.l1_offset) || header.l1_entries == 0);
            prop_assert!(header.size_bytes <= header.l1_entries * header.geometry.table_covers_bytes.get());
        }
    }
}
