//! Whether a disk that was named as raw is a container of one. Only the magic bytes of known formats are compared,
//! nothing that they say is followed: a guest writes every byte of its disk, these too. Then its own backup is
//! refused, and whoever wants it says that it is to be saved as it is.

use crate::{Disk, ReadError};

/// Bytes at the start that hold all magic numbers.
const HEAD_BYTES: u64 = 512;
/// Bytes at the end, for formats that end in a footer.
const FOOT_BYTES: u64 = 512;

/// A format in which a disk's bytes are not simply one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// What it is called.
    pub name: &'static str,
    /// It holds only what differs from another file, which it names.
    pub is_overlay: bool,
}

/// The container that `disk` is by its magic bytes.
///
/// # Errors
/// As [`Disk::read_at`]; a first or last block that cannot be read counts as zeros.
pub fn container(disk: &dyn Disk) -> Result<Option<Container>, ReadError> {
    let size_bytes = disk.size_bytes();
    let read = |offset: u64, length_bytes: u64| {
        let mut bytes = vec![0; usize::try_from(length_bytes).unwrap_or(0)];
        disk.read_what_reads(offset, &mut bytes).map(|_| bytes)
    };
    let head = read(0, size_bytes.min(HEAD_BYTES))?;
    let foot = read(size_bytes.saturating_sub(FOOT_BYTES), size_bytes.min(FOOT_BYTES))?;
    Ok(by_magic(&head, &foot))
}

/// The same of a stream, of which only the first bytes are known; 512 hold every signature.
pub fn container_at_start(head: &[u8]) -> Option<Container> {
    by_magic(head, &[])
}

/// Formats that begin with these bytes: the drivers of QEMU, what hypervisors export, and what images are packed with.
const BEGINNINGS: [(&[u8], &str); 23] = [
    (b"QFI\xfb\x00\x00\x00\x01", "qcow"),
    (b"QFI\xfb\x00\x00\x00\x02", "qcow2"),
    (b"QFI\xfb\x00\x00\x00\x03", "qcow2"),
    (b"QED\0", "QED"),
    (b"KDMV", "VMDK"),
    (b"COWD", "VMDK"),
    (b"\xbe\xba\xfe\xca\0\0\0\0", "VMDK (SEsparse)"),
    (b"# Disk DescriptorFile", "VMDK descriptor"),
    (b"conectix", "VHD"),
    (b"vhdxfile", "VHDX"),
    (b"WithoutFreeSpace", "Parallels"),
    (b"WithouFreSpacExt", "Parallels"),
    (b"Bochs Virtual HD Image", "Bochs"),
    (b"VMA\0\0\0\0\x01", "Proxmox VMA"),
    (b"<<< ", "VDI"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x89LZO\0\r\n\x1a\n", "lzop"),
    (b"\x04\x22\x4d\x18", "LZ4"),
];
/// What follows `BZh` and a digit: the first block.
const BZIP2: (usize, &[u8]) = (4, b"1AY&SY");
/// Where a VDI has its signature, behind a line of text that differs between makers.
const VDI: (usize, &[u8]) = (0x40, b"\x7f\x10\xda\xbe");
/// A fixed VHD is the raw disk with this footer: cookie, features, of which one is always set and one says that the disk is
/// temporary, and version 1.0 of the format.
const VHD_FOOTERS: [&[u8]; 2] =
    [b"conectix\x00\x00\x00\x02\x00\x01\x00\x00", b"conectix\x00\x00\x00\x03\x00\x01\x00\x00"];
const VMDK_VERSIONS: [&[u8]; 3] = [b"version=1", b"version=2", b"version=3"];
const DMG_FOOTER: &[u8] = b"koly\x00\x00\x00\x04";
/// Where qcow2 has the place of its backing file's name; zero without one.
const QCOW2_BACKING: std::ops::Range<usize> = 8..16;
/// Where a tar archive has its magic; an OVA begins with a file whose name ends in `.ovf`.
const TAR: (usize, &[u8]) = (257, b"ustar");
const TAR_NAME_BYTES: usize = 100;

fn by_magic(head: &[u8], foot: &[u8]) -> Option<Container> {
    let is_at = |(at, magic): (usize, &[u8])| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let begun = BEGINNINGS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name);
    let name = match begun {
        Some("VDI") => is_at(VDI).then_some("VDI")?,
        Some("bzip2") => is_at(BZIP2).then_some("bzip2")?,
        Some(name) => name,
        None if is_at(VDI) => "VDI",
        None if VHD_FOOTERS.iter().any(|footer| foot.starts_with(footer)) => "VHD",
        None if foot.starts_with(DMG_FOOTER) => "DMG",
        None if is_at(TAR) && is_ovf(head) => "OVA",
        None if is_at(TAR) => "tar",
        None if is_descriptor(head) => "VMDK descriptor",
        None => return None,
    };
    let has_backing = || head.get(QCOW2_BACKING).is_some_and(|place| place.iter().any(|byte| *byte != 0));
    Some(Container { name, is_overlay: name.starts_with("qcow") && has_backing() })
}

/// Whether QEMU would take it for the text of a VMDK: comments and empty lines, then its version, whatever the first comment says.
fn is_descriptor(head: &[u8]) -> bool {
    let lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut said = lines.skip_while(|line| line.is_empty() || line.starts_with(b"#"));
    head.starts_with(b"#") && said.next().is_some_and(|line| VMDK_VERSIONS.contains(&line))
}

fn is_ovf(head: &[u8]) -> bool {
    let name = head.get(..TAR_NAME_BYTES).unwrap_or(head);
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    name.get(..end).is_some_and(|name| name.ends_with(b".ovf"))
}

#[cfg(test)]
mod tests;
