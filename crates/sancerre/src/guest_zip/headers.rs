//! The records around members. Sizes and places that need more than 32 bits stand in an extra field (Zip64).

use sancerre_guest::{FileNode, NodeKind};

const LOCAL: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
/// Names are UTF-8.
const TEXT: u16 = 1 << 11;
/// Sizes stand behind the bytes.
const BEHIND: u16 = 1 << 3;
/// What is needed to read a member: deflate and folders, or Zip64 as well.
const NEEDS: u16 = 20;
const NEEDS_64: u16 = 45;
/// Written on Unix, so that the upper half of the attributes is a mode.
const MADE_BY: u16 = 3 << 8 | NEEDS_64;
const ZIP64: u16 = 1;
const TIMESTAMP: u16 = 0x5455;
const OWNER: u16 = 0x7875;
const FULL: u64 = 0xffff_ffff;
/// A file of more may come to over 4 GiB, should it not compress.
const LARGE_BYTES: u64 = 0xf000_0000;
const DOS_FOLDER: u32 = 0x10;

/// Whether the sizes of a file may need Zip64.
pub(super) fn is_large(size_bytes: u64) -> bool {
    size_bytes >= LARGE_BYTES
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflated,
}

impl Method {
    fn number(self) -> u16 {
        match self {
            Self::Stored => 0,
            Self::Deflated => 8,
        }
    }
}

/// What is known once the bytes were written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) crc: u32,
    pub(super) packed: u64,
    pub(super) plain: u64,
}

impl Sizes {
    /// What follows the bytes.
    pub(super) fn descriptor(self, is_large: bool) -> Vec<u8> {
        let mut bytes = [DESCRIPTOR.to_le_bytes(), self.crc.to_le_bytes()].concat();
        match is_large {
            true => [self.packed, self.plain].iter().for_each(|size| bytes.extend(size.to_le_bytes())),
            false => [self.packed, self.plain].iter().for_each(|size| bytes.extend(low(*size))),
        }
        bytes
    }
}

/// In 32 bits, or all of them set where it does not fit.
fn low(number: u64) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}

/// What is said of a member before and behind its bytes.
pub(super) struct Member {
    name: String,
    /// Time and day, as DOS has them.
    dos: [u16; 2],
    seconds: Option<i32>,
    owner: Option<(u32, u32)>,
    attributes: u32,
    offset: u64,
}

impl Member {
    pub(super) fn new(name: String, node: &FileNode, offset: u64) -> Self {
        let seconds = node.modified.map(|moment| moment.seconds);
        let (kind, usual) = match node.kind {
            NodeKind::Directory => (0o040_000, 0o755),
            NodeKind::Link => (0o120_000, 0o777),
            _ => (0o100_000, 0o644),
        };
        let mode = kind | (node.mode.unwrap_or(usual) & 0o7777);
        let folder = if node.kind == NodeKind::Directory { DOS_FOLDER } else { 0 };
        Self {
            name,
            dos: dos(seconds.unwrap_or(0)),
            seconds: seconds.and_then(|seconds| i32::try_from(seconds).ok()),
            owner: node.owner,
            attributes: mode << 16 | folder,
            offset,
        }
    }

    /// The header before the bytes; `sizes` where they are known.
    pub(super) fn local(&self, method: Method, sizes: Option<Sizes>, is_large: bool) -> Vec<u8> {
        let mut extra = self.extra();
        if is_large {
            extra.extend(field(ZIP64, &[0; 16]));
        }
        let flags = if sizes.is_some() { TEXT } else { TEXT | BEHIND };
        let unknown = if is_large { FULL } else { 0 };
        let Sizes { crc, packed, plain } = sizes.unwrap_or(Sizes { crc: 0, packed: unknown, plain: unknown });
        let mut bytes = LOCAL.to_le_bytes().to_vec();
        bytes.extend(if is_large { NEEDS_64 } else { NEEDS }.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(method.number().to_le_bytes());
        self.dos.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(crc.to_le_bytes());
        [packed, plain].iter().for_each(|size| bytes.extend(low(*size)));
        bytes.extend(length(self.name.as_bytes()));
        bytes.extend(length(&extra));
        bytes.extend(self.name.as_bytes());
        bytes.extend(extra);
        bytes
    }

    fn extra(&self) -> Vec<u8> {
        let mut extra = Vec::new();
        if let Some(seconds) = self.seconds {
            extra.extend(field(TIMESTAMP, &[&[1][..], &seconds.to_le_bytes()].concat()));
        }
        if let Some((user, group)) = self.owner {
            let owner = [&[1, 4][..], &user.to_le_bytes(), &[4], &group.to_le_bytes()].concat();
            extra.extend(field(OWNER, &owner));
        }
        extra
    }
}

fn field(number: u16, content: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes()[..], &length(content), content].concat()
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes()
}

/// Two seconds are its finest, and it knows the years from 1980 to 2107; in UTC, for the guest's zone is not known.
fn dos(seconds: i64) -> [u16; 2] {
    const FIRST: i64 = 315_532_800;
    const LAST: i64 = 4_354_819_198;
    let seconds = seconds.clamp(FIRST, LAST);
    let text = sancerre_format::names::Time::from_unix_seconds(seconds).to_string();
    let number = |range: std::ops::Range<usize>| {
        text.get(range).and_then(|digits| digits.parse::<u16>().ok()).unwrap_or_default()
    };
    let time = number(11..13) << 11 | number(14..16) << 5 | (number(17..19) / 2);
    let day = number(0..4).saturating_sub(1980) << 9 | number(5..7) << 5 | number(8..10);
    [time, day]
}

/// The directory at the end.
#[derive(Debug, Default)]
pub(super) struct Directory {
    bytes: Vec<u8>,
    members: u64,
}

impl Directory {
    pub(super) fn add(&mut self, member: &Member, method: Method, sizes: Sizes) {
        let numbers = [sizes.plain, sizes.packed, member.offset];
        let large: Vec<u8> = numbers
            .iter()
            .filter(|number| **number >= FULL)
            .flat_map(|number| number.to_le_bytes())
            .collect();
        let mut extra = member.extra();
        if !large.is_empty() {
            extra.extend(field(ZIP64, &large));
        }
        // As the header before the bytes has it.
        let is_behind = method == Method::Deflated;
        let needs = if large.is_empty() && !is_large(sizes.plain) { NEEDS } else { NEEDS_64 };
        let mut bytes = CENTRAL.to_le_bytes().to_vec();
        bytes.extend(MADE_BY.to_le_bytes());
        bytes.extend(needs.to_le_bytes());
        bytes.extend(if is_behind { TEXT | BEHIND } else { TEXT }.to_le_bytes());
        bytes.extend(method.number().to_le_bytes());
        member.dos.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(sizes.crc.to_le_bytes());
        [sizes.packed, sizes.plain].iter().for_each(|size| bytes.extend(low(*size)));
        bytes.extend(length(member.name.as_bytes()));
        bytes.extend(length(&extra));
        // No comment, first disk, no text file.
        bytes.extend([0; 6]);
        bytes.extend(member.attributes.to_le_bytes());
        bytes.extend(low(member.offset));
        bytes.extend(member.name.as_bytes());
        bytes.extend(extra);
        self.bytes.extend(bytes);
        self.members = self.members.saturating_add(1);
    }

    /// All of it, when it begins at `offset`, and the records by which it is found.
    pub(super) fn end(&self, offset: u64) -> Vec<u8> {
        let size = self.bytes.len() as u64;
        let mut bytes = self.bytes.clone();
        if self.members >= 0xffff || offset >= FULL || size >= FULL {
            bytes.extend(END_64.to_le_bytes());
            bytes.extend(44_u64.to_le_bytes());
            bytes.extend(MADE_BY.to_le_bytes());
            bytes.extend(NEEDS_64.to_le_bytes());
            bytes.extend([0; 8]);
            let numbers = [self.members, self.members, size, offset];
            numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
            bytes.extend(LOCATOR_64.to_le_bytes());
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend(offset.saturating_add(size).to_le_bytes());
            bytes.extend(1_u32.to_le_bytes());
        }
        let members = u16::try_from(self.members).unwrap_or(u16::MAX).to_le_bytes();
        bytes.extend(END.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(members);
        bytes.extend(members);
        bytes.extend(low(size));
        bytes.extend(low(offset));
        bytes.extend([0; 2]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_dos_has_them() {
        // 2019-08-07T06:05:04Z
        let [time, day] = dos(1_565_157_904);
        assert_eq!((time >> 11, time >> 5 & 63, (time & 31) * 2), (6, 5, 4));
        assert_eq!((day >> 9, day >> 5 & 15, day & 31), (39, 8, 7));
        assert_eq!(dos(i64::MIN), [0, 33]);
        assert_eq!(dos(i64::MAX)[1] >> 9, 127);
    }

    fn node(size_bytes: u64) -> FileNode {
        let (mode, owner, modified) = (Some(0o640), Some((1, 2)), None);
        FileNode { id: 1, kind: NodeKind::File, size_bytes, mode, owner, modified, links: 1 }
    }

    /// Read back by Python's zipfile, with sizes and places that need 64 bits: the bytes themselves are not there.
    #[test]
    fn what_needs_more_bits_stands_in_extra_fields() {
        let mut directory = Directory::default();
        for number in 0..70_000_u64 {
            let member = Member::new(format!("f{number}"), &node(5 << 30), number << 24);
            let sizes = Sizes { crc: 7, packed: 5 << 30, plain: 5 << 30 };
            directory.add(&member, Method::Deflated, sizes);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.zip");
        let file = std::fs::File::create(&path).unwrap();
        let offset = 70_000_u64 << 24;
        file.set_len(offset).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &directory.end(offset), offset).unwrap();
        let script = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\ni = z.infolist()\n\
                      assert len(i) == 70000 and i[69999].file_size == 5 << 30 and i[69999].header_offset == 69999 << 24\n\
                      assert i[5].external_attr >> 16 == 0o100640";
        let read = std::process::Command::new("python3").args(["-c", script]).arg(&path).status().unwrap();
        assert!(read.success());
    }
}
