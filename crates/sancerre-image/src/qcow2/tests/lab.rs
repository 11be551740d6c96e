//! A folder, QEMU's programs, and comparisons.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::confined::tests::confined_reader;
use crate::testing::{run, skip};
use crate::{Disk, OpenError, Qcow2Disk, References, open_qcow2};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// A folder with disks, where QEMU is installed.
pub(crate) struct Lab {
    folder: TempDir,
}

impl Lab {
    /// `None`, said loudly, without QEMU's programs.
    pub(crate) fn new() -> Option<Self> {
        for program in ["qemu-img", "qemu-io"] {
            if let Err(reason) = run(program, &["--version"]) {
                skip(&format!("no {program} (Debian: qemu-utils): {reason}"));
                return None;
            }
        }
        Some(Self { folder: TempDir::new().unwrap() })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `qemu-img` in the folder; words are separated by spaces.
    pub(crate) fn img(&self, words: &str) -> String {
        self.try_img(words).unwrap_or_else(|error| panic!("qemu-img {words}: {error}"))
    }

    pub(crate) fn try_img(&self, words: &str) -> Result<String, String> {
        let folder = self.folder().to_str().unwrap();
        let script = format!("cd {folder} && exec qemu-img {words}");
        run("sh", &["-c", &script])
    }

    /// Runs commands of `qemu-io` on an image.
    pub(crate) fn io(&self, name: &str, commands: &[&str]) {
        let commands: Vec<String> = commands.iter().map(|command| format!("-c '{command}'")).collect();
        // In the folder: QEMU looks for data files where it was started.
        let folder = self.folder().to_str().unwrap();
        let script = format!("cd {folder} && exec qemu-io -f qcow2 {} {name}", commands.join(" "));
        run("sh", &["-c", &script]).unwrap_or_else(|error| panic!("{script}: {error}"));
    }

    /// A raw disk of this size with data, compressible data, written zeros and holes.
    pub(crate) fn raw(&self, name: &str, size: u64, seed: u64) -> Vec<u8> {
        let bytes = pattern(size, seed);
        let file = fs::File::create(self.path(name)).unwrap();
        file.set_len(size).unwrap();
        for (number, piece) in bytes.chunks(4096).enumerate() {
            if piece.iter().any(|byte| *byte != 0) || number % 64 == 5 {
                file.write_all_at(piece, number as u64 * 4096).unwrap();
            }
        }
        bytes
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn patch(&self, name: &str, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(self.path(name)).unwrap().write_all_at(bytes, at).unwrap();
    }

    /// All that QEMU reads in an image.
    pub(crate) fn by_qemu(&self, name: &str) -> Result<Vec<u8>, String> {
        self.try_img(&format!("convert -f qcow2 -O raw {name} by-qemu.raw"))?;
        let bytes = self.read("by-qemu.raw");
        fs::remove_file(self.path("by-qemu.raw")).unwrap();
        Ok(bytes)
    }

    pub(crate) fn open(&self, name: &str) -> Result<Qcow2Disk, OpenError> {
        open_qcow2(&self.path(name), None)
    }

    pub(crate) fn open_with_others(&self, name: &str) -> Result<Qcow2Disk, OpenError> {
        open_qcow2(&self.path(name), Some(&self.references()))
    }

    pub(crate) fn references(&self) -> References<'_> {
        References { directory: self.folder(), backing: true, data_file: true }
    }

    /// Reads an image in several ways, in this process and through a confined child, which must all give what QEMU
    /// reads.
    pub(crate) fn compare(&self, name: &str, what: &str) -> Vec<u8> {
        let disk = self.open_with_others(name).unwrap_or_else(|error| panic!("{what}: {error}"));
        let expected = self.by_qemu(name).unwrap();
        assert_same(&disk, &expected, what);
        let confined = confined_reader().open_qcow2(&self.path(name), Some(&self.references()));
        let confined = confined.unwrap_or_else(|error| panic!("{what}, confined: {error}"));
        assert_same(&confined, &expected, what);
        let size = disk.size_bytes();
        assert_eq!(confined.data_ranges(0..size).unwrap(), disk.data_ranges(0..size).unwrap(), "{what}");
        assert!(confined.files().eq(disk.files()), "{what}");
        expected
    }
}

/// Asserts that a disk is these bytes, read whole, by its ranges, in odd pieces, and from several threads.
pub(crate) fn assert_same(disk: &dyn Disk, expected: &[u8], what: &str) {
    let size = expected.len() as u64;
    assert_eq!(disk.size_bytes(), size, "{what}: size");
    assert!(whole(disk) == expected, "{what}: read whole");
    assert!(by_ranges(disk, 0..size) == expected, "{what}: read by its ranges");
    assert_passes_zeros(disk, expected, what);
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            scope.spawn(move || {
                let mut at = thread * 777;
                let mut length = 1 + thread * 5000;
                while at < size {
                    let end = (at + length).min(size);
                    let mut piece = vec![0xee; (end - at) as usize];
                    disk.read_at(at, &mut piece).unwrap();
                    assert!(piece == expected[at as usize..end as usize], "{what}: {at}..{end}");
                    (at, length) = (end + 100_001, length * 7 % 200_000 + 1);
                }
            });
        }
    });
    assert!(disk.check_unchanged().is_ok(), "{what}: changed");
}

/// What a search for data passes over are zeros, and it comes to an end.
fn assert_passes_zeros(disk: &dyn Disk, expected: &[u8], what: &str) {
    let mut at = 0;
    while let Some(next) = disk.next_data(at).unwrap() {
        assert!(at <= next && next < expected.len() as u64, "{what}: data from {at} on at {next}");
        assert!(expected[at as usize..next as usize].iter().all(|byte| *byte == 0), "{what}: {at}..{next}");
        at = next + 60_000;
    }
    let rest = expected.get(at as usize..).unwrap_or_default();
    assert!(rest.iter().all(|byte| *byte == 0), "{what}: none from {at} on");
}

pub(crate) fn whole(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.size_bytes() as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// What a backup sees: only what is in the ranges is read.
pub(crate) fn by_ranges(disk: &dyn Disk, range: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let mut last = range.start;
    for data in disk.data_ranges(range.clone()).unwrap() {
        assert!(last <= data.start && data.start < data.end && data.end <= range.end, "{data:?}");
        last = data.end;
        let place = (data.start - range.start) as usize..(data.end - range.start) as usize;
        disk.read_at(data.start, &mut bytes[place]).unwrap();
    }
    bytes
}

/// Bytes with a bit of everything, and never the same for two seeds.
pub(crate) fn pattern(size: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; size as usize];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for (number, piece) in bytes.chunks_mut(4096).enumerate() {
        match (number / 16 + seed as usize) % 5 {
            0 | 4 => {
                for byte in piece.iter_mut() {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte = (state >> 56) as u8;
                }
            }
            1 => piece.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 64 + number) as u8),
            2 => piece.fill(number as u8 | 1),
            _ => {}
        }
    }
    bytes
}
