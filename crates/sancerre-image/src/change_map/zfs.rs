//! What `zfs send -i` sends of a volume: its records say where it was written and freed, and the bytes in them are passed over.
//!
//! Source: `include/sys/zfs_ioctl.h` of OpenZFS (`dmu_replay_record`). A record has 312 bytes and its payload behind it.

use std::io::{self, Read};

use super::builder::Builder;
use super::{ChangeMap, MapError};

const RECORD: usize = 312;
const MAGIC: u64 = 0x2_f5ba_cbac;
/// The data of a volume are this object; others are properties.
const VOLUME: u64 = 1;
/// What kind of set is sent.
const SET_VOLUME: u64 = 3;
/// In the version: one stream, and no package of several.
const STREAM_BITS: u64 = 3;
const ONE_STREAM: u64 = 1;
/// Longer payloads do not exist: blocks have at most 16 MiB.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;
const PIECE: usize = 64 << 10;

const BEGIN: u64 = 0;
const OBJECT: u64 = 1;
const FREE_OBJECTS: u64 = 2;
const WRITE: u64 = 3;
const FREE: u64 = 4;
const END: u64 = 5;
const WRITE_BY_REFERENCE: u64 = 6;
const SPILL: u64 = 7;
const WRITE_EMBEDDED: u64 = 8;
const OBJECT_RANGE: u64 = 9;
const REDACT: u64 = 10;

impl ChangeMap {
    /// Reads an incremental stream of a volume of `disk_bytes` to its end.
    ///
    /// # Errors
    /// [`MapError::Form`] for anything but a whole incremental stream of one volume; [`MapError::OtherDisk`].
    pub fn of_zfs_send(mut input: impl Read, disk_bytes: u64) -> Result<Self, MapError> {
        let mut builder = Builder::new(disk_bytes);
        let begin = Record::read(&mut input, None)?.ok_or_else(|| form("it is empty"))?;
        begin.check_begin()?;
        skip(&mut input, begin.payload()?)?;
        loop {
            let record = Record::read(&mut input, Some(begin.is_big_endian))?;
            let record = record.ok_or_else(|| form("it is cut short: it has no last record"))?;
            if record.kind() == END {
                break;
            }
            if let Some((offset, length)) = record.changed()? {
                // What is freed may reach to the end of all numbers, and begin behind the disk.
                if offset < disk_bytes || record.kind() != FREE {
                    builder.add(offset, length)?;
                }
            }
            skip(&mut input, record.payload()?)?;
        }
        let mut rest = [0; 1];
        match input.read(&mut rest).map_err(MapError::Io)? {
            0 => Ok(builder.finish("zfs".to_owned())),
            _ => Err(form("something follows its last record; send one volume, without -R")),
        }
    }
}

fn form(what: impl Into<String>) -> MapError {
    MapError::Form(format!("as a stream of `zfs send`, {}", what.into()))
}

/// A record, in the order of bytes of the machine that sent it.
struct Record {
    bytes: [u8; RECORD],
    is_big_endian: bool,
}

impl Record {
    /// The next one; none at the end of the input. The first says its order of bytes itself.
    fn read(input: &mut impl Read, is_big_endian: Option<bool>) -> Result<Option<Self>, MapError> {
        let (mut bytes, mut filled) = ([0; RECORD], 0_usize);
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match input.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(form("it is cut short, within a record")),
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(MapError::Io(error)),
            }
        }
        let mut record = Self { bytes, is_big_endian: false };
        record.is_big_endian = is_big_endian.unwrap_or_else(|| record.long(8) == MAGIC.swap_bytes());
        Ok(Some(record))
    }

    fn check_begin(&self) -> Result<(), MapError> {
        if self.kind() != BEGIN || self.long(8) != MAGIC {
            return Err(form("it does not begin as one"));
        }
        if self.long(16) & STREAM_BITS != ONE_STREAM {
            return Err(form("it is a package of several; send one volume, without -R"));
        }
        if self.word(32) != SET_VOLUME {
            return Err(form("it is of a file system and no volume"));
        }
        match self.long(48) {
            0 => Err(form("it is whole and says nothing of what changed; send with -i")),
            _ => Ok(()),
        }
    }

    fn kind(&self) -> u64 {
        self.word(0)
    }

    /// What it changes of the volume.
    fn changed(&self) -> Result<Option<(u64, u64)>, MapError> {
        let (at, length) = match self.kind() {
            WRITE => (24, 32),
            FREE | WRITE_BY_REFERENCE | WRITE_EMBEDDED | REDACT => (16, 24),
            OBJECT | FREE_OBJECTS | SPILL | OBJECT_RANGE => return Ok(None),
            BEGIN => return Err(form("it begins twice; send one volume, without -R or -I")),
            kind => return Err(form(format!("it has a record of kind {kind}, which is not known"))),
        };
        Ok((self.long(8) == VOLUME).then(|| (self.long(at), self.long(length))))
    }

    /// Bytes behind it. Newer senders say that number twice.
    fn payload(&self) -> Result<u64, MapError> {
        let rounded = |length: u64| length.saturating_add(7) & !7;
        let said = self.word(4);
        let counted = match self.kind() {
            BEGIN => said,
            OBJECT if self.word(36) != 0 => self.word(36),
            OBJECT => rounded(self.word(28)),
            WRITE if self.byte(50) != 0 => self.long(96),
            WRITE => self.long(32),
            SPILL if self.long(40) != 0 => self.long(40),
            SPILL => self.long(16),
            WRITE_EMBEDDED => rounded(self.word(52)),
            _ => 0,
        };
        if counted > PAYLOAD_BYTES_MAX || (said != 0 && said != counted) {
            return Err(form(format!("a record of kind {} has {counted} bytes, or {said}", self.kind())));
        }
        Ok(counted)
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let field = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
        field.copied().unwrap_or([0; N])
    }

    fn byte(&self, at: usize) -> u8 {
        let [byte] = self.field(at);
        byte
    }

    fn word(&self, at: usize) -> u64 {
        let field = self.field(at);
        u64::from(if self.is_big_endian { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) })
    }

    fn long(&self, at: usize) -> u64 {
        let field = self.field(at);
        if self.is_big_endian { u64::from_be_bytes(field) } else { u64::from_le_bytes(field) }
    }
}

fn skip(input: &mut impl Read, mut bytes: u64) -> Result<(), MapError> {
    let mut room = [0; PIECE];
    while bytes > 0 {
        let piece = usize::try_from(bytes).unwrap_or(PIECE).min(PIECE);
        match input.read(room.get_mut(..piece).unwrap_or_default()) {
            Ok(0) => return Err(form("it is cut short, within its data")),
            Ok(count) => bytes = bytes.saturating_sub(u64::try_from(count).unwrap_or(bytes)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(MapError::Io(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record of a kind with numbers at places, in either order of bytes.
    fn record(
        is_big: bool,
        kind: u32,
        words: &[(usize, u32)],
        longs: &[(usize, u64)],
        payload: usize,
    ) -> Vec<u8> {
        let mut bytes = vec![0; RECORD];
        let words = words.iter().copied().chain([(0, kind), (4, payload as u32)]);
        for (at, word) in words {
            bytes[at..at + 4].copy_from_slice(&if is_big { word.to_be_bytes() } else { word.to_le_bytes() });
        }
        for (at, long) in longs {
            bytes[*at..*at + 8].copy_from_slice(&if is_big {
                long.to_be_bytes()
            } else {
                long.to_le_bytes()
            });
        }
        bytes.resize(RECORD + payload, 0xab);
        bytes
    }

    fn begin(is_big: bool, kind: u32, from: u64) -> Vec<u8> {
        record(is_big, 0, &[(32, kind)], &[(8, MAGIC), (16, 0x1001), (48, from)], 0)
    }

    fn stream(is_big: bool) -> Vec<Vec<u8>> {
        let mut compressed = record(is_big, 3, &[], &[(8, 1), (24, 1 << 20), (32, 16_384), (96, 512)], 512);
        compressed[50] = 15;
        vec![
            begin(is_big, 3, 77),
            record(is_big, 1, &[(28, 5)], &[(8, 1)], 8),
            record(is_big, 2, &[], &[(8, 3), (16, u64::MAX)], 0),
            record(is_big, 3, &[], &[(8, 1), (24, 65_536), (32, 8192)], 8192),
            // A property of the volume, which is none of its bytes.
            record(is_big, 3, &[], &[(8, 2), (24, 0), (32, 512)], 512),
            compressed,
            record(is_big, 8, &[(48, 100), (52, 9)], &[(8, 1), (16, 2 << 20), (24, 8192)], 16),
            record(is_big, 7, &[], &[(8, 1), (16, 320)], 320),
            record(is_big, 4, &[], &[(8, 1), (16, 3 << 20), (24, u64::MAX)], 0),
            record(is_big, 4, &[], &[(8, 1), (16, 9 << 20), (24, u64::MAX)], 0),
            record(is_big, 5, &[], &[], 0),
        ]
    }

    fn read(parts: &[Vec<u8>]) -> Result<ChangeMap, MapError> {
        ChangeMap::of_zfs_send(parts.concat().as_slice(), 4 << 20)
    }

    #[test]
    fn what_was_written_and_freed_changed_and_nothing_else() {
        for is_big in [false, true] {
            let map = read(&stream(is_big)).unwrap();
            let changed =
                [65_536..73_728, 1 << 20..(1 << 20) + 16_384, 2 << 20..(2 << 20) + 8192, 3 << 20..4 << 20];
            assert_eq!((map.ranges(), map.source()), (&changed[..], "zfs"));
        }
    }

    #[test]
    fn what_is_no_whole_incremental_stream_of_one_volume_is_refused() {
        let whole = stream(false);
        let with = |at: usize, part: Vec<u8>| {
            let mut parts = whole.clone();
            parts[at] = part;
            parts
        };
        let bytes = whole.concat();
        for length in [0, 1, RECORD, RECORD + 1, bytes.len() - 1, bytes.len() - RECORD] {
            ChangeMap::of_zfs_send(&bytes[..length], 4 << 20).unwrap_err();
        }
        for (words, parts) in [
            ("file system", with(0, begin(false, 2, 7))),
            ("-i", with(0, begin(false, 3, 0))),
            ("begin", with(0, vec![0; RECORD])),
            ("twice", with(2, begin(false, 3, 7))),
            ("not known", with(2, record(false, 11, &[], &[], 0))),
            ("follows", with(10, [record(false, 5, &[], &[], 0), vec![0; 9]].concat())),
            ("not of this disk", with(3, record(false, 3, &[], &[(8, 1), (24, 4 << 20), (32, 512)], 512))),
            ("bytes, or", with(3, record(false, 3, &[], &[(8, 1), (24, 0), (32, 1 << 40)], 0))),
        ] {
            let said = read(&parts).unwrap_err().to_string();
            assert!(said.contains(words), "{words}: {said}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0_usize..3000) {
            let _ = ChangeMap::of_zfs_send(bytes.as_slice(), 1 << 20);
            let mut changed = stream(false).concat();
            let at = at % changed.len();
            changed[at] ^= 0x55;
            let _ = ChangeMap::of_zfs_send(changed.as_slice(), 4 << 20);
        }
    }
}
