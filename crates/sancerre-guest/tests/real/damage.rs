//! Images that were changed at random, and disks that cannot be read: an error each, in time, and nothing else.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sancerre_guest::{Guest, GuestError};
use sancerre_image::{ChangedError, Disk, RawDisk, ReadError, open_raw};

use crate::lab::{LINUX, Lab, MIB, TREE, has, is_root, of_guest, open, reader};

/// Bytes in memory.
struct Memory(Vec<u8>);

impl Disk for Memory {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let start = usize::try_from(offset).unwrap();
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
        Path::new("memory")
    }
}

/// splitmix64
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

fn mutate(image: &[u8], structures: &[usize], seed: u64) -> Vec<u8> {
    let (mut bytes, mut state) = (image.to_vec(), seed);
    for _ in 0..=(seed % 12) {
        // Where there is something: in a block of structures, seldom anywhere.
        let block = structures[usize::try_from(next(&mut state)).unwrap() % structures.len()];
        let at = block + usize::try_from(next(&mut state)).unwrap() % 512;
        let odd = [0, 0xff, 0x7f, 0x80, 1, (next(&mut state) & 0xff) as u8];
        let value = odd[usize::try_from(next(&mut state)).unwrap() % odd.len()];
        let width = [1, 1, 2, 4, 8][usize::try_from(next(&mut state)).unwrap() % 5];
        let end = (at + width).min(bytes.len());
        bytes[at..end].fill(value);
    }
    bytes
}

/// Sectors that hold something, but for those of noise.
fn structures(image: &[u8]) -> Vec<usize> {
    let is_structure = |sector: &[u8]| {
        let zeros = sector.iter().filter(|byte| **byte == 0).count();
        (100..512).contains(&zeros)
    };
    let sectors = image.chunks_exact(512).enumerate();
    sectors.filter(|(_, sector)| is_structure(sector)).map(|(number, _)| number * 512).collect()
}

/// How many images; more of them where somebody asks for it.
fn rounds() -> u64 {
    std::env::var("SANCERRE_GUEST_MUTATIONS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(60)
}

fn torture(image: &Path) {
    let image = fs::read(image).unwrap();
    let structures = structures(&image);
    let mut lost = 0;
    for seed in 0..rounds() {
        let started = Instant::now();
        let mut reader = reader();
        reader.patience = Duration::from_secs(10);
        let guest = reader.open(vec![Arc::new(Memory(mutate(&image, &structures, seed)))]).unwrap();
        let guest = Arc::new(guest);
        let numbers = 0..u16::try_from(guest.volumes().len()).unwrap();
        for volume in numbers {
            if matches!(guest.volumes()[usize::from(volume)].content, sancerre_guest::VolumeContent::Files(_))
            {
                let (_, faults) = of_guest(&guest, volume);
                lost += faults.iter().filter(|fault| fault.contains("confined child")).count();
            }
        }
        assert!(started.elapsed() < Duration::from_secs(60), "image {seed} took {:?}", started.elapsed());
    }
    eprintln!("{lost} answers were lost with a child");
}

#[test]
fn no_image_of_ext_hangs_or_harms_the_caller() {
    if !(has(&["mke2fs"]) && is_root()) {
        return;
    }
    let lab = Lab::new();
    lab.image("fs.img", 8 * MIB);
    lab.run(&format!(
        "mke2fs -q -F -t ext4 -b 1024 -O inline_data fs.img; mount -o loop fs.img $M; M=$M/x; mkdir $M; {} {LINUX} umount ${{M%/x}}",
        small()
    ));
    torture(&lab.path("fs.img"));
}

/// Smaller than mkfs.xfs lets anybody have, for each image is in memory.
#[test]
fn no_image_of_xfs_hangs_or_harms_the_caller() {
    if !(has(&["mkfs.xfs"]) && is_root()) {
        return;
    }
    let lab = Lab::new();
    lab.image("fs.img", 20 * MIB);
    lab.run(&format!(
        "mkfs.xfs -q -f --unsupported fs.img 2>/dev/null; mount -o loop fs.img $M; M=$M/x; mkdir $M; {} {LINUX} umount ${{M%/x}}",
        small()
    ));
    torture(&lab.path("fs.img"));
}

#[test]
fn no_image_of_exfat_hangs_or_harms_the_caller() {
    if !(has(&["mkfs.exfat", "mount.exfat-fuse"]) && is_root()) {
        return;
    }
    let lab = Lab::new();
    lab.image("fs.img", 4 * MIB);
    lab.run("mkfs.exfat fs.img >/dev/null");
    lab.with_fuse("mount.exfat-fuse", 512, &small());
    torture(&lab.path("fs.img"));
}

#[test]
fn no_image_of_ntfs_hangs_or_harms_the_caller() {
    if !(has(&["mkntfs", "ntfs-3g"]) && is_root()) {
        return;
    }
    let lab = Lab::new();
    lab.image("fs.img", 8 * MIB);
    lab.run("mkntfs -q -Q -F -c 512 fs.img");
    lab.with_fuse("ntfs-3g", 512, &small());
    torture(&lab.path("fs.img"));
}

#[test]
fn no_image_of_fat_hangs_or_harms_the_caller() {
    if !has(&["mkfs.vfat", "mcopy", "mkfs.exfat"]) {
        return;
    }
    let lab = Lab::new();
    lab.image("fs.img", 4 * MIB);
    lab.run(&format!(
        "mkfs.vfat -F 12 fs.img >/dev/null; mkdir src; M=src; {} mcopy -s -i fs.img src/* ::/",
        small()
    ));
    torture(&lab.path("fs.img"));
}

/// The tree without its large files.
fn small() -> String {
    let lines = TREE.lines().filter(|line| !line.contains("40M") && !line.contains("3000001"));
    lines
        .map(|line| line.replace("seq 1 700", "seq 1 60").replace("seq 0 40", "seq 0 9"))
        .collect::<Vec<_>>()
        .join("\n")
        + "\n"
}

/// A disk with a range that cannot be read.
struct Failing {
    disk: RawDisk,
    bad: Range<u64>,
}

impl Disk for Failing {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        if offset < self.bad.end && offset + buffer.len() as u64 > self.bad.start {
            let source = std::io::Error::other("lost");
            let (path, length_bytes) = (self.path().to_owned(), buffer.len() as u64);
            return Err(ReadError::Unreadable { path, offset, length_bytes, source });
        }
        self.disk.read_at(offset, buffer)
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.disk.data_ranges(range)
    }

    fn check_unchanged(&self) -> Result<(), ChangedError> {
        Ok(())
    }

    fn path(&self) -> &Path {
        self.disk.path()
    }
}

#[test]
fn a_lost_range_costs_exactly_the_files_whose_bytes_it_held() {
    if !(has(&["mke2fs"]) && is_root()) {
        return;
    }
    let lab = Lab::new();
    lab.image("fs.img", 64 * MIB);
    lab.run(&format!("mke2fs -q -F -t ext4 fs.img; mount -o loop fs.img $M; {TREE} umount $M"));
    let whole = open(&[&lab.path("fs.img")]);
    let (all, _) = of_guest(&whole, 0);
    let root = match &whole.volumes()[0].content {
        sancerre_guest::VolumeContent::Files(info) => info.root,
        other => panic!("{other:?}"),
    };
    let folder = whole.find(0, root, b"d1").unwrap();
    let node = whole.find(0, folder.id, b"3M").unwrap();
    let mut file = sancerre_guest::GuestFile::new(Arc::clone(&whole), 0, node.id, b"", node.size_bytes);
    let (_, place) = file.places().unwrap()[0].clone();
    // From the middle of this file on, as far as a chunk may reach.
    let bad = place.start + MIB..place.start + 2 * MIB;
    let disk = Failing { disk: open_raw(&lab.path("fs.img")).unwrap(), bad };
    let guest: Arc<Guest> = Arc::new(reader().open(vec![Arc::new(disk)]).unwrap());
    let (left, faults) = of_guest(&guest, 0);
    assert!(faults.len() == 1 && faults[0].starts_with("d1/3M: "), "{faults:?}");
    assert_eq!(left.len() + 1, all.len());
    assert!(left.iter().all(|(name, known)| all.get(name) == Some(known)));
    let mut bytes = [0; 4096];
    let mut file = sancerre_guest::GuestFile::new(Arc::clone(&guest), 0, node.id, b"", node.size_bytes);
    file.read_at(0, &mut bytes).unwrap();
    assert!(matches!(file.read_at(MIB, &mut bytes), Err(GuestError::Damage(_))));
}
