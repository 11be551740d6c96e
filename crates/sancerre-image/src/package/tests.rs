//! Archives as programs make them, and as nobody does: what is read of them, and what is refused.

use std::ops::Range;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

/// A file of a test.
struct Bytes(Vec<u8>, PathBuf);

impl Disk for Bytes {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }
    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        Ok(vec![range])
    }
    fn check_unchanged(&self) -> Result<(), ChangedError> {
        Ok(())
    }
    fn path(&self) -> &Path {
        &self.1
    }
}

/// A header of any kind, with the right checksum.
fn member(name: &str, kind: u8, size: &[u8; 12], data: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..136].copy_from_slice(size);
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar  \0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(data);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    member(name, b'0', format!("{:011o}\0", data.len()).as_bytes().try_into().unwrap(), data)
}

/// A header of a compressed VMDK: what is behind it is QEMU's to judge.
fn vmdk() -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[..4].copy_from_slice(b"KDMV");
    bytes[4..8].copy_from_slice(&3_u32.to_le_bytes());
    bytes[8..12].copy_from_slice(&(3_u32 << 16 | 1).to_le_bytes());
    bytes
}

fn described(files: &str, disks: &str) -> Vec<u8> {
    format!(
        "<?xml version='1.0'?><Envelope xmlns:ovf='o'><References>{files}</References><DiskSection>{disks}</DiskSection>\
         <VirtualSystem/></Envelope>"
    )
    .into_bytes()
}

const FILE: &str = "<File ovf:id='f1' ovf:href='a.vmdk' ovf:size='1024'/>";
const DISK: &str =
    "<Disk ovf:diskId='d1' ovf:fileRef='f1' ovf:capacity='2' ovf:capacityAllocationUnits='byte * 2^20'/>";

fn read(parts: &[Vec<u8>]) -> Result<Package, PackageFault> {
    let bytes = [parts.concat(), vec![0; 1024]].concat();
    read_package(&Bytes(bytes, "a.ova".into()), &|_| Ok(()))
}

fn refused(parts: &[Vec<u8>]) -> String {
    read(parts).unwrap_err().to_string()
}

#[test]
fn a_machine_is_found_with_its_sums() {
    let sum = "ab".repeat(32);
    let manifest = format!("SHA256(a.vmdk)= {sum}\nSHA1 (a.ovf) = 00\n");
    let parts =
        [file("./a.ovf", &described(FILE, DISK)), file("a.mf", manifest.as_bytes()), file("a.vmdk", &vmdk())];
    let package = read(&parts).unwrap();
    assert_eq!(package.disks.len(), 1);
    let disk = &package.disks[0];
    assert_eq!((&*disk.name, disk.capacity_bytes, disk.sum), ("a.vmdk", 2 << 20, Some([0xab; 32])));
    assert_eq!(disk.range.end - disk.range.start, 1024);
    assert_eq!((package.description.sum, package.has_manifest), (None, true));
}

#[test]
fn long_names_and_sizes_of_posix_are_understood() {
    let ovf = file("a.ovf", &described(FILE, DISK));
    let field = |text: &str| {
        let mut length = text.len() + 3;
        while format!("{length} {text}\n").len() != length {
            length += 1;
        }
        format!("{length} {text}\n")
    };
    let extended = format!("{}{}", field("path=a.vmdk"), field("size=1024"));
    let size = format!("{:011o}\0", extended.len());
    let fields = member("x", b'x', size.as_bytes().try_into().unwrap(), extended.as_bytes());
    let lying = member("b.vmdk", b'0', b"00000000000\0", &vmdk());
    assert_eq!(read(&[ovf, fields, lying]).unwrap().disks[0].name, "a.vmdk");
}

#[test]
fn what_is_hostile_or_not_whole_is_refused_by_its_name() {
    let ovf = || file("a.ovf", &described(FILE, DISK));
    let disk = || file("a.vmdk", &vmdk());
    let with = |files: &str, disks: &str| [file("a.ovf", &described(files, disks)), disk()];
    let huge = member("a.vmdk", b'0', b"77777777777\0", &[]);
    let mut far = *b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff";
    let endless = member("a.vmdk", b'0', &far, &[]);
    far[0] = 0xff;
    let negative = member("a.vmdk", b'0', &far, &[]);
    let size = *b"00000000000\0";
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("no description", vec![disk()]),
        ("2 descriptions", vec![ovf(), file("b.ovf", b""), disk()]),
        ("is a path", vec![ovf(), file("../a.vmdk", &vmdk())]),
        ("is a path", vec![ovf(), file("/etc/shadow", b"x")]),
        ("two files", vec![ovf(), disk(), disk()]),
        ("no file", vec![ovf(), member("a.vmdk", b'2', &size, &[])]),
        ("no file", vec![ovf(), member("a.vmdk", b'4', &size, &[])]),
        ("cut short", vec![ovf(), huge]),
        ("cut short", vec![ovf(), endless]),
        ("without a size", vec![ovf(), negative]),
        ("not in it", vec![ovf()]),
        ("description says 1024", vec![ovf(), file("a.vmdk", &[vmdk(), vec![0; 512]].concat())]),
        ("no VMDK", with("<File ovf:id='f1' ovf:href='a.ovf'/>", DISK).to_vec()),
        ("compressed", with("<File ovf:id='f1' ovf:href='a.vmdk' ovf:compression='gzip'/>", DISK).to_vec()),
        ("compressed", with("<File ovf:id='f1' ovf:href='a.vmdk' ovf:chunkSize='9'/>", DISK).to_vec()),
        ("two files of one id", with(&FILE.repeat(2), DISK).to_vec()),
        ("no disk", with(FILE, "").to_vec()),
        ("has no file", with(FILE, "<Disk ovf:diskId='d' ovf:capacity='1'/>").to_vec()),
        ("a capacity", with(FILE, &DISK.replace("'2'", "'-2'")).to_vec()),
        ("a capacity", with(FILE, &DISK.replace("2^20", "2^99")).to_vec()),
        ("a capacity", with(FILE, &DISK.replace("'2'", "'99999999999999999'")).to_vec()),
        ("stands on another", with(FILE, &DISK.replace("/>", " ovf:parentRef='x'/>")).to_vec()),
        ("more disks", with(FILE, &DISK.repeat(300)).to_vec()),
        ("nested", with(&"<a>".repeat(100), DISK).to_vec()),
        ("no XML", with("<a></b>", DISK).to_vec()),
        ("document type", vec![file("a.ovf", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"), disk()]),
        ("attribute", with("<File ovf:id='&lol;' ovf:href='a.vmdk'/>", DISK).to_vec()),
        ("not UTF-8", vec![file("a.ovf", b"\xff\xfe"), disk()]),
        ("which none of an OVA has", vec![file("a.ovf", &vec![b' '; 5 << 20]), disk()]),
        ("a line that is none", vec![ovf(), file("a.mf", b"SHA256 a.vmdk"), disk()]),
        ("a line that is none", vec![ovf(), file("a.mf", b"SHA256(a.vmdk)= abc"), disk()]),
        ("goes on for", vec![ovf(), member("L", b'L', b"00001000000\0", &vec![b'x'; 1 << 18]), disk()]),
        ("fields that are none", vec![ovf(), member("x", b'x', b"00000000003\0", b"abc"), disk()]),
        ("more members", (0..1100).map(|number| file(&format!("f{number}"), b"")).collect()),
    ];
    for (words, parts) in cases {
        let said = refused(&parts);
        assert!(said.contains(words), "{words}: {said}");
    }
    let machines = String::from_utf8(described(FILE, DISK))
        .unwrap()
        .replace("<VirtualSystem/>", "<VirtualSystem/><VirtualSystem/>");
    assert!(refused(&[file("a.ovf", machines.as_bytes()), disk()]).contains("2 machines"));
    let cut =
        read_package(&Bytes([ovf(), disk()].concat(), "a.ova".into()), &|_| Ok(())).unwrap_err().to_string();
    assert!(cut.contains("cut short"), "{cut}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = read_package(&Bytes(bytes, "a".into()), &|_| Ok(()));
    }

    #[test]
    fn no_change_of_a_good_archive_makes_it_panic_or_point_outside(
        at in 0_usize..6000, byte in any::<u8>(),
    ) {
        let mut bytes = [file("a.ovf", &described(FILE, DISK)), file("a.vmdk", &vmdk()), vec![0; 1024]].concat();
        let at = at % bytes.len();
        bytes[at] = byte;
        let size = bytes.len() as u64;
        if let Ok(package) = read_package(&Bytes(bytes, "a".into()), &|_| Ok(())) {
            for member in package.disks.iter().chain([&package.description]) {
                prop_assert!(member.range.start <= member.range.end && member.range.end <= size);
            }
        }
    }
}
