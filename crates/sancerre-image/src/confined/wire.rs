//! The packets between this program and its confined reader: from bytes to values and back, and nothing else.
//!
//! Both ends are the same program on the same machine, so there are no versions. What comes from the reader is decoded
//! here and believed nowhere: `None` is a broken protocol.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use sancerre_confine::PacketFields;

use crate::package::PackageMember;
use crate::qcow2::Bitmap;
use crate::{Disk, RawDisk};

/// Longest packet: a name of a bitmap, or this much of the disk, and what stands around it.
pub(super) const PACKET_BYTES_MAX: usize = 80 << 10;
/// Bytes of the disk in one packet.
pub(super) const BYTES_MAX: usize = 64 << 10;
/// Runs in one packet.
pub(super) const RUNS_MAX: usize = 2048;
const RECORD_BYTES: usize = 19;

/// What the reader is told, beside a descriptor where one goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask<'a> {
    /// Read the file as a qcow2 image.
    Qcow2 { backing: bool, data_file: bool, file: Passed<'a> },
    /// Tell whether the file is whole, by its format.
    Whole { format: u8, file: Passed<'a> },
    /// Tell what is in the archive.
    Package { file: Passed<'a> },
    /// Here is the file that was asked for.
    Granted(Passed<'a>),
    /// That file is not there.
    Gone,
    /// Answer on this socket as well.
    Lane,
    /// The bytes of a range, or where they are.
    Read(Range<u64>),
    /// Where the bytes of a range are, and of those that have no place only that they are data.
    Map(Range<u64>),
    /// Where the first bytes of a range are that follow each other, however many.
    First(Range<u64>),
    /// The bitmaps of the image.
    Bitmaps,
    /// What a bitmap marks.
    Marked(Range<u64>, Bitmap),
}

/// A file that is passed, as the caller opened it: a place that the reader names must lie inside what it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Passed<'a> {
    pub size_bytes: u64,
    /// For messages.
    pub path: &'a [u8],
}

impl<'a> Passed<'a> {
    pub(super) fn of(file: &'a RawDisk) -> Self {
        Self { size_bytes: file.size_bytes(), path: file.path().as_os_str().as_bytes() }
    }
}

/// What the reader says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// The image needs another file.
    Named { file: usize, role: Role, name: &'a [u8] },
    /// The image is open, and shows a disk of this size.
    Opened { size_bytes: u64 },
    /// The image is whole, as far as its tables say.
    Whole,
    /// It is not.
    CutShort { file: usize, needed_bytes: u64 },
    /// That cannot be told.
    Unmeasured { file: usize, why: &'a [u8] },
    /// A file in the archive: its description comes first, then its disks.
    Member(PackageMember),
    /// Those are all.
    Packed { has_manifest: bool },
    /// Where the next bytes of the range are.
    Runs { is_last: bool, runs: Vec<PlacedRun> },
    /// The next bytes of the range.
    Bytes { is_last: bool, bytes: &'a [u8] },
    /// A bitmap of the image.
    Bitmap(Bitmap),
    /// There is no more.
    Done,
    /// Something in the image makes no sense.
    Fault { file: usize, text: &'a [u8] },
    /// A block of a file cannot be read.
    Unreadable { file: usize, offset: u64, length_bytes: u64, errno: i32 },
    /// A file became shorter.
    Shrank { file: usize, now_bytes: u64 },
}

/// Why an image needs another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Backing,
    Data,
    /// Of a foreign image: an extent, or what a delta stands on.
    Part,
}

/// Bytes that follow each other, and where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlacedRun {
    pub length_bytes: u64,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Zero,
    File {
        file: usize,
        host: u64,
    },
    /// No place: they have to be asked for.
    Data,
}

const ROLES: [(u8, Role); 3] = [(0, Role::Backing), (1, Role::Data), (2, Role::Part)];

impl Ask<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let range = |kind: u8, range: &Range<u64>| {
            [&[kind][..], &range.start.to_le_bytes(), &range.end.to_le_bytes()].concat()
        };
        let passed =
            |begin: &[u8], file: &Passed<'_>| [begin, &file.size_bytes.to_le_bytes(), file.path].concat();
        match self {
            Self::Qcow2 { backing, data_file, file } => {
                passed(&[b'q', u8::from(*backing), u8::from(*data_file)], file)
            }
            Self::Whole { format, file } => passed(&[b'w', *format], file),
            Self::Package { file } => passed(b"p", file),
            Self::Granted(file) => passed(b"g", file),
            Self::Gone => vec![b'n'],
            Self::Lane => vec![b'l'],
            Self::Read(wanted) => range(b'r', wanted),
            Self::Map(wanted) => range(b'm', wanted),
            Self::First(wanted) => range(b'f', wanted),
            Self::Bitmaps => vec![b'b'],
            Self::Marked(wanted, bitmap) => [range(b'k', wanted), bitmap.encode()].concat(),
        }
    }
}

impl<'a> Ask<'a> {
    pub(super) fn decode(packet: &'a [u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first()?;
        let mut fields = PacketFields::of(rest);
        Some(match kind {
            b'q' => {
                Self::Qcow2 { backing: fields.flag()?, data_file: fields.flag()?, file: passed(&mut fields)? }
            }
            b'w' => Self::Whole { format: fields.byte()?, file: passed(&mut fields)? },
            b'p' => Self::Package { file: passed(&mut fields)? },
            b'g' => Self::Granted(passed(&mut fields)?),
            b'n' => Self::Gone,
            b'l' => Self::Lane,
            b'r' => Self::Read(fields.range()?),
            b'm' => Self::Map(fields.range()?),
            b'f' => Self::First(fields.range()?),
            b'b' => Self::Bitmaps,
            b'k' => Self::Marked(fields.range()?, Bitmap::decode(fields.rest())?),
            _ => return None,
        })
    }
}

impl Answer<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let start = |kind: u8, file: usize| {
            let file = u16::try_from(file).unwrap_or(u16::MAX);
            [&[kind][..], &file.to_le_bytes()].concat()
        };
        match self {
            Self::Named { file, role, name } => {
                let number =
                    ROLES.iter().find(|(_, known)| known == role).map_or(u8::MAX, |(number, _)| *number);
                [start(b'N', *file), vec![number], name.to_vec()].concat()
            }
            Self::Opened { size_bytes } => [&b"O"[..], &size_bytes.to_le_bytes()].concat(),
            Self::Whole => vec![b'W'],
            Self::CutShort { file, needed_bytes } => {
                [&start(b'C', *file)[..], &needed_bytes.to_le_bytes()].concat()
            }
            Self::Unmeasured { file, why } => [&start(b'U', *file)[..], why].concat(),
            Self::Member(member) => [&b"A"[..], &member.encode()].concat(),
            Self::Packed { has_manifest } => vec![b'P', u8::from(*has_manifest)],
            Self::Runs { is_last, runs } => {
                let mut packet = vec![b'R', u8::from(*is_last)];
                runs.iter().for_each(|run| run.encode(&mut packet));
                packet
            }
            Self::Bytes { is_last, bytes } => [&[b'B', u8::from(*is_last)][..], bytes].concat(),
            Self::Bitmap(bitmap) => [&b"M"[..], &bitmap.encode()].concat(),
            Self::Done => vec![b'D'],
            Self::Fault { file, text } => [&start(b'F', *file)[..], text].concat(),
            Self::Unreadable { file, offset, length_bytes, errno } => [
                &start(b'E', *file)[..],
                &offset.to_le_bytes(),
                &length_bytes.to_le_bytes(),
                &errno.to_le_bytes(),
            ]
            .concat(),
            Self::Shrank { file, now_bytes } => [&start(b'S', *file)[..], &now_bytes.to_le_bytes()].concat(),
        }
    }
}

impl<'a> Answer<'a> {
    pub(super) fn decode(packet: &'a [u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first()?;
        let mut fields = PacketFields::of(rest);
        let answer = match kind {
            b'N' => Self::Named { file: file(&mut fields)?, role: role(&mut fields)?, name: fields.rest() },
            b'O' => Self::Opened { size_bytes: fields.long()? },
            b'W' => Self::Whole,
            b'C' => Self::CutShort { file: file(&mut fields)?, needed_bytes: fields.long()? },
            b'U' => Self::Unmeasured { file: file(&mut fields)?, why: fields.rest() },
            b'A' => Self::Member(PackageMember::decode(fields.rest())?),
            b'P' => Self::Packed { has_manifest: fields.flag()? },
            b'R' => Self::Runs { is_last: fields.flag()?, runs: places(fields.rest())? },
            b'B' => Self::Bytes { is_last: fields.flag()?, bytes: fields.rest() },
            b'M' => Self::Bitmap(Bitmap::decode(fields.rest())?),
            b'D' => Self::Done,
            b'F' => Self::Fault { file: file(&mut fields)?, text: fields.rest() },
            b'E' => {
                let (file, offset, length_bytes) = (file(&mut fields)?, fields.long()?, fields.long()?);
                let errno = i32::from_le_bytes(fields.take()?);
                Self::Unreadable { file, offset, length_bytes, errno }
            }
            b'S' => Self::Shrank { file: file(&mut fields)?, now_bytes: fields.long()? },
            _ => return None,
        };
        fields.is_empty().then_some(answer)
    }
}

impl PlacedRun {
    fn encode(self, packet: &mut Vec<u8>) {
        let (kind, file, host) = match self.kind {
            Kind::Zero => (0, 0, 0),
            Kind::File { file, host } => (1, u16::try_from(file).unwrap_or(u16::MAX), host),
            Kind::Data => (2, 0, 0),
        };
        packet.push(kind);
        packet.extend_from_slice(&file.to_le_bytes());
        packet.extend_from_slice(&self.length_bytes.to_le_bytes());
        packet.extend_from_slice(&host.to_le_bytes());
    }

    fn decode(record: &[u8]) -> Option<Self> {
        let mut fields = PacketFields::of(record);
        let (kind, file, length_bytes, host) =
            (fields.byte()?, file(&mut fields)?, fields.long()?, fields.long()?);
        let kind = match kind {
            0 => Kind::Zero,
            1 => Kind::File { file, host },
            2 => Kind::Data,
            _ => return None,
        };
        (length_bytes > 0).then_some(Self { length_bytes, kind })
    }
}

/// At least one, each of at least one byte: whoever reads them comes forward with each packet.
fn places(records: &[u8]) -> Option<Vec<PlacedRun>> {
    let (records, rest) = records.as_chunks::<RECORD_BYTES>();
    if records.is_empty() || !rest.is_empty() {
        return None;
    }
    records.iter().map(|record| PlacedRun::decode(record)).collect()
}

impl PackageMember {
    fn encode(&self) -> Vec<u8> {
        let numbers = [self.range.start, self.range.end, self.capacity_bytes].map(u64::to_le_bytes);
        let sum = self.sum.unwrap_or_default();
        [&numbers.concat()[..], &[u8::from(self.sum.is_some())], &sum, self.name.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = PacketFields::of(bytes);
        let (range, capacity_bytes) = (fields.range()?, fields.long()?);
        let (has_sum, sum) = (fields.flag()?, fields.take()?);
        let name = fields.rest_as_text()?;
        Some(Self { name, range, sum: has_sum.then_some(sum), capacity_bytes })
    }
}

impl Bitmap {
    fn encode(&self) -> Vec<u8> {
        let flags = [self.is_in_use, self.is_recording, self.is_foreign].map(u8::from);
        let numbers = [self.granularity_bytes, self.table_offset, self.table_entries].map(u64::to_le_bytes);
        [&flags[..], &numbers.concat(), self.name.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = PacketFields::of(bytes);
        Some(Self {
            is_in_use: fields.flag()?,
            is_recording: fields.flag()?,
            is_foreign: fields.flag()?,
            granularity_bytes: fields.long()?,
            table_offset: fields.long()?,
            table_entries: fields.long()?,
            name: fields.rest_as_text()?,
        })
    }
}

fn file(fields: &mut PacketFields<'_>) -> Option<usize> {
    fields.short().map(usize::from)
}

fn passed<'a>(fields: &mut PacketFields<'a>) -> Option<Passed<'a>> {
    Some(Passed { size_bytes: fields.long()?, path: fields.rest() })
}

fn role(fields: &mut PacketFields<'_>) -> Option<Role> {
    let number = fields.byte()?;
    ROLES.iter().find(|(known, _)| *known == number).map(|(_, role)| *role)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmap() -> Bitmap {
        Bitmap {
            name: "night".to_owned(),
            granularity_bytes: 65_536,
            is_in_use: false,
            is_recording: true,
            is_foreign: false,
            table_offset: 7 << 16,
            table_entries: 3,
        }
    }

    #[test]
    fn every_word_survives_the_socket() {
        let runs = [Kind::Zero, Kind::File { file: 3, host: u64::MAX }, Kind::Data];
        let runs = runs.map(|kind| PlacedRun { length_bytes: 512, kind }).to_vec();
        for answer in [
            Answer::Named { file: 2, role: Role::Part, name: b"base" },
            Answer::Opened { size_bytes: 1 << 40 },
            Answer::Whole,
            Answer::Member(PackageMember {
                name: "a.vmdk".to_owned(),
                range: 7..u64::MAX,
                sum: Some([7; 32]),
                capacity_bytes: 9,
            }),
            Answer::Packed { has_manifest: true },
            Answer::CutShort { file: 0, needed_bytes: 9 },
            Answer::Unmeasured { file: 1, why: b"why" },
            Answer::Runs { is_last: true, runs },
            Answer::Bytes { is_last: false, bytes: b"bytes" },
            Answer::Bitmap(bitmap()),
            Answer::Done,
            Answer::Fault { file: 5, text: b"text" },
            Answer::Unreadable { file: 5, offset: 4096, length_bytes: 512, errno: 5 },
            Answer::Shrank { file: 5, now_bytes: 1 },
        ] {
            let packet = answer.encode();
            assert_eq!(Answer::decode(&packet), Some(answer));
        }
        let file = Passed { size_bytes: 1 << 50, path: b"/a" };
        for ask in [
            Ask::Qcow2 { backing: true, data_file: false, file },
            Ask::Whole { format: 3, file },
            Ask::Package { file },
            Ask::Granted(file),
            Ask::Gone,
            Ask::Lane,
            Ask::Read(1..2),
            Ask::Map(0..u64::MAX),
            Ask::First(7..u64::MAX),
            Ask::Bitmaps,
            Ask::Marked(0..9, bitmap()),
        ] {
            let packet = ask.encode();
            assert_eq!(Ask::decode(&packet), Some(ask));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_packet_makes_it_panic(packet in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let _ = (Answer::decode(&packet), Ask::decode(&packet));
        }
    }
}
