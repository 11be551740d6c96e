//! Raw disks on real file systems and loop devices, against plain byte vectors.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::testing::{LoopDevice, is_inner, repeat_as_nobody};

const MIB: u64 = 1 << 20;

fn read(disk: &RawDisk, offset: u64, length_bytes: usize) -> Result<Vec<u8>, ReadError> {
    let mut buffer = vec![0xAA; length_bytes];
    disk.read_at(offset, &mut buffer).map(|()| buffer)
}

/// A sparse file of `size_bytes` in `directory` with the given writes.
fn sparse_file(directory: &Path, size_bytes: u64, writes: &[(u64, Vec<u8>)]) -> PathBuf {
    let path = directory.join("disk.raw");
    let file = File::create(&path).unwrap();
    file.set_len(size_bytes).unwrap();
    for (offset, bytes) in writes {
        file.write_all_at(bytes, *offset).unwrap();
    }
    path
}

#[test]
fn holes_are_found_and_not_reported_as_data() {
    let directory = TempDir::new().unwrap();
    let path =
        sparse_file(directory.path(), 64 * MIB, &[(8 * MIB, vec![7; 4096]), (40 * MIB, vec![9; 4096])]);
    let disk = open_raw(&path).unwrap();
    assert_eq!(disk.size_bytes(), 64 * MIB);
    let found = disk.data_ranges(0..64 * MIB).unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains(&(8 * MIB)) && found[1].contains(&(40 * MIB)), "{found:?}");
    let data_bytes: u64 = found.iter().map(|range| range.end - range.start).sum();
    assert!(data_bytes <= 256 * 1024, "{data_bytes} bytes reported for 8 KiB of data");
    assert_eq!(disk.data_ranges(0..MIB).unwrap(), []);
    let inner = 8 * MIB + 10..8 * MIB + 20;
    assert_eq!(disk.data_ranges(inner.clone()).unwrap(), [inner]);
    assert_eq!(disk.data_ranges(5..5).unwrap(), []);
}

/// Reserved blocks may count as data or not, and that may change once they are cached; they read as zeros either way.
#[test]
fn reserved_blocks_read_as_zeros_whatever_they_count_as() {
    use rustix::fs::{FallocateFlags, fallocate};
    let directory = TempDir::new().unwrap();
    let path = sparse_file(directory.path(), 4 * MIB, &[(MIB, vec![7; 4096])]);
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    if let Err(error) = fallocate(&writer, FallocateFlags::empty(), 0, 2 * MIB) {
        return crate::testing::skip(&format!("the file system cannot reserve blocks: {error}"));
    }
    writer.sync_all().unwrap();
    let disk = open_raw(&path).unwrap();
    for _ in 0..2 {
        let found = disk.data_ranges(0..4 * MIB).unwrap();
        assert!(found.iter().any(|range| range.contains(&MIB)), "{found:?}");
        let mut expected = vec![0; 4 * MIB as usize];
        expected[MIB as usize..][..4096].fill(7);
        assert!(read(&disk, 0, 4 * MIB as usize).unwrap() == expected);
    }
}

/// Whatever is written where, the data ranges and reads together give the bytes of the model.
fn agrees_with_model(
    directory: &Path,
    size: usize,
    writes: &[(usize, u8, usize)],
    ask: &(usize, usize),
) -> Result<(), TestCaseError> {
    let mut model = vec![0u8; size];
    let writes: Vec<_> = writes
        .iter()
        .map(|(at, byte, length)| (at % size, *byte, *length))
        .map(|(at, byte, length)| (at as u64, vec![byte; length.min(size - at)]))
        .collect();
    for (at, bytes) in &writes {
        model[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    let disk = open_raw(&sparse_file(directory, size as u64, &writes)).unwrap();
    let start = ask.0 % (size + 1);
    let end = (start + ask.1).min(size);

    prop_assert_eq!(&read(&disk, start as u64, end - start).unwrap(), &model[start..end]);
    let mut rebuilt = vec![0u8; size];
    let mut previous_end = start as u64;
    for range in disk.data_ranges(start as u64..end as u64).unwrap() {
        prop_assert!(previous_end <= range.start && range.start < range.end && range.end <= end as u64);
        previous_end = range.end;
        let bytes = read(&disk, range.start, (range.end - range.start) as usize).unwrap();
        rebuilt[range.start as usize..range.end as usize].copy_from_slice(&bytes);
    }
    prop_assert_eq!(&rebuilt[start..end], &model[start..end]);
    prop_assert!(disk.check_unchanged().is_ok());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn data_ranges_and_reads_give_the_model(
        size in 1usize..600_000,
        writes in prop::collection::vec((any::<usize>(), any::<u8>(), 1usize..40_000), 0..12),
        ask in (any::<usize>(), 0usize..600_000),
    ) {
        let on_disk = TempDir::new().unwrap();
        agrees_with_model(on_disk.path(), size, &writes, &ask)?;
        // Memory file systems keep holes in another way.
        if let Ok(in_memory) = TempDir::new_in("/dev/shm") {
            agrees_with_model(in_memory.path(), size, &writes, &ask)?;
        }
    }
}

#[test]
fn ranges_outside_the_disk_are_refused() {
    let directory = TempDir::new().unwrap();
    let disk = open_raw(&sparse_file(directory.path(), 1000, &[])).unwrap();
    for (offset, length) in [(1000, 1), (1001, 0), (0, 1001), (u64::MAX, 1)] {
        let error = read(&disk, offset, length).unwrap_err();
        assert!(matches!(error, ReadError::OutOfRange { size_bytes: 1000, .. }), "{error:?}");
    }
    assert!(matches!(disk.data_ranges(0..1001), Err(ReadError::OutOfRange { .. })));
    assert!(read(&disk, 1000, 0).unwrap().is_empty());
}

#[test]
fn what_is_not_a_disk_is_refused_with_advice() {
    let directory = TempDir::new().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = directory.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let cases = [
        (pipe.as_path(), "it is a pipe", "`stdin`"),
        (socket.as_path(), "it is a socket", "raw image file or a block device"),
        (directory.path(), "it is a directory", "name the disk images in it"),
        (Path::new("/dev/null"), "it is a character device", "block device"),
    ];
    for (path, what, advice) in cases {
        let message = open_raw(path).unwrap_err().to_string();
        assert!(message.contains(what) && message.contains(advice), "{message}");
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
    let missing = open_raw(&directory.path().join("missing")).unwrap_err();
    assert!(matches!(&missing, OpenError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound));
}

#[test]
fn a_link_to_a_disk_is_followed() {
    let directory = TempDir::new().unwrap();
    let path = sparse_file(directory.path(), 5000, &[(4999, vec![1])]);
    let link = directory.path().join("link");
    symlink(path, &link).unwrap();
    assert_eq!(read(&open_raw(&link).unwrap(), 4999, 1).unwrap(), [1]);
}

#[test]
fn a_file_that_shrinks_is_an_error_and_never_zeros() {
    let directory = TempDir::new().unwrap();
    let path = sparse_file(directory.path(), 4 * MIB, &[(0, vec![5; 4 * MIB as usize])]);
    let disk = open_raw(&path).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(MIB).unwrap();

    assert_eq!(read(&disk, 0, MIB as usize).unwrap(), vec![5; MIB as usize]);
    let by_read = read(&disk, MIB - 100, 200).unwrap_err();
    let by_search = disk.data_ranges(2 * MIB..3 * MIB).unwrap_err();
    for error in [by_read, by_search] {
        let is_right = matches!(error, ReadError::Shrank { opened_bytes, now_bytes, .. }
            if opened_bytes == 4 * MIB && now_bytes == MIB);
        assert!(is_right, "{error:?}");
    }
    assert!(matches!(disk.check_unchanged(), Err(ChangedError::Size { now_bytes: MIB, .. })));
}

#[test]
fn a_write_or_growth_is_noticed_and_a_read_is_not() {
    let directory = TempDir::new().unwrap();
    let path = sparse_file(directory.path(), MIB, &[(0, vec![5; 100])]);
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    let disk = open_raw(&path).unwrap();
    read(&disk, 0, 100).unwrap();
    disk.check_unchanged().unwrap();

    step();
    writer.write_all_at(b"x", 500).unwrap();
    assert!(matches!(disk.check_unchanged(), Err(ChangedError::Modified { .. })));
    writer.set_len(2 * MIB).unwrap();
    assert!(
        matches!(disk.check_unchanged(), Err(ChangedError::Size { now_bytes, .. }) if now_bytes == 2 * MIB)
    );
}

/// Longer than the step of a file system's clock.
fn step() {
    std::thread::sleep(Duration::from_millis(20));
}

/// What `rsync --inplace -t`, `cp -p` and `touch -r` do behind their writes.
#[test]
fn a_write_whose_time_is_set_back_is_noticed() {
    let directory = TempDir::new().unwrap();
    let path = sparse_file(directory.path(), MIB, &[(0, vec![5; 100])]);
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    writer.set_modified(past).unwrap();
    let disk = open_raw(&path).unwrap();
    step();
    writer.write_all_at(b"x", 500).unwrap();
    writer.set_modified(past).unwrap();
    let error = disk.check_unchanged().unwrap_err();
    assert!(matches!(error, ChangedError::Touched { .. }), "{error}");

    let disk = open_raw(&path).unwrap();
    step();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let error = disk.check_unchanged().unwrap_err();
    assert!(matches!(error, ChangedError::Touched { .. }), "it cannot be told from a write: {error}");
}

#[test]
fn a_file_that_is_no_disk_is_opened_without_waiting() {
    let directory = TempDir::new().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = directory.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let cases = [
        (pipe.as_path(), "it is a pipe", "to a file first"),
        (socket.as_path(), "it is a socket", "to a file first"),
        (directory.path(), "it is a directory", "each file in it"),
        (Path::new("/dev/zero"), "it is a character device", "to a file first"),
    ];
    for (path, what, advice) in cases {
        let message = crate::open_file(path).unwrap_err().to_string();
        assert!(message.contains(what) && message.contains(advice), "{message}");
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
    let path = sparse_file(directory.path(), 10, &[(0, vec![5; 10])]);
    assert_eq!(crate::open_file(&path).unwrap().metadata().unwrap().len(), 10);
}

#[test]
fn holes_are_read_when_they_are_not_believed() {
    let directory = TempDir::new().unwrap();
    let disk = open_raw(&sparse_file(directory.path(), 4 * MIB, &[(MIB, vec![7; 4096])])).unwrap();
    let whole = 0..4 * MIB;
    assert_ne!(disk.data_ranges(whole.clone()).unwrap(), std::slice::from_ref(&whole));
    let disk = disk.reading_holes();
    let part = MIB..4 * MIB;
    assert_eq!(disk.data_ranges(part.clone()).unwrap(), std::slice::from_ref(&part));
    assert_eq!(disk.data_ranges(5..5).unwrap(), []);
    assert!(matches!(disk.data_ranges(0..5 * MIB), Err(ReadError::OutOfRange { .. })));
}

#[test]
fn a_disk_that_may_not_be_read_says_so() {
    if is_inner() {
        let error = open_raw(Path::new("/etc/shadow")).unwrap_err();
        assert!(
            matches!(&error, OpenError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
        );
        assert!(error.to_string().contains("check the path and that this user may read it"), "{error}");
        return;
    }
    repeat_as_nobody("raw::tests::a_disk_that_may_not_be_read_says_so");
}

#[test]
fn a_block_device_is_read_whole() {
    let directory = TempDir::new().unwrap();
    let content: Vec<u8> = (0..3 * MIB).map(|at| (at % 253) as u8).collect();
    let backing = sparse_file(directory.path(), 8 * MIB, &[(MIB, content.clone())]);
    let Some(device) = LoopDevice::attach(&backing) else { return };
    let disk = open_raw(device.path()).unwrap();
    assert_eq!(disk.size_bytes(), 8 * MIB);
    let range = MIB..5 * MIB;
    assert_eq!(disk.data_ranges(range.clone()).unwrap(), [range]);
    assert_eq!(read(&disk, MIB, content.len()).unwrap(), content);
    assert_eq!(read(&disk, 8 * MIB - 10, 10).unwrap(), [0; 10]);
    disk.check_unchanged().unwrap();
}

#[test]
fn a_device_without_a_medium_is_refused() {
    let directory = TempDir::new().unwrap();
    let Some(device) = LoopDevice::attach(&sparse_file(directory.path(), 0, &[])) else { return };
    assert!(matches!(open_raw(device.path()), Err(OpenError::EmptyDevice { .. })));
}

/// A loop device keeps its size when its file is cut and answers EIO behind the cut: a disk with bad sectors.
#[test]
fn the_first_bad_block_of_a_device_is_named() {
    let directory = TempDir::new().unwrap();
    let backing = sparse_file(directory.path(), 4 * MIB, &[(0, vec![3; 4 * MIB as usize])]);
    let Some(device) = LoopDevice::attach(&backing) else { return };
    let cut = 2 * MIB + 5 * 4096;
    OpenOptions::new().write(true).open(&backing).unwrap().set_len(cut).unwrap();
    let disk = open_raw(device.path()).unwrap();
    let error = read(&disk, MIB + 17, 2 * MIB as usize).unwrap_err();
    assert!(
        matches!(&error, ReadError::Unreadable { offset, length_bytes: 4096, source, .. }
            if *offset == cut && source.raw_os_error() == Some(5)),
        "{error:?}"
    );
    assert!(error.to_string().contains(&format!("at offset {cut}")), "{error}");
    let good = (cut - MIB) as usize;
    assert_eq!(read(&disk, MIB, good).unwrap(), vec![3; good]);

    let mut buffer = vec![0xAA; 2 * MIB as usize];
    let bad = disk.read_what_reads(MIB + 17, &mut buffer).unwrap();
    assert_eq!(bad, std::slice::from_ref(&(cut..3 * MIB + 17)));
    let (read, zeros) = buffer.split_at(good - 17);
    assert!(read.iter().all(|byte| *byte == 3) && zeros.iter().all(|byte| *byte == 0));
}
