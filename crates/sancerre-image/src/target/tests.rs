//! Restores to real files and file systems: what is there before, during and after, and after failures.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::testing::{LoopDevice, Mount, is_inner, repeat_as_nobody, repeat_with_fault, when_free};

const MIB: u64 = 1 << 20;

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn name(&self) -> PathBuf {
        self.directory.path().join("vm.raw")
    }

    fn partial(&self) -> PathBuf {
        self.directory.path().join("vm.raw.sancerre-partial")
    }

    fn entries(&self) -> usize {
        fs::read_dir(self.directory.path()).unwrap().count()
    }
}

#[test]
fn a_file_has_its_name_only_when_it_is_whole() {
    let place = Place::new();
    let target = RawTarget::create(&place.name(), 64 * MIB, false).unwrap();
    target.write_at(40 * MIB, b"data").unwrap();
    target.zero(0..40 * MIB).unwrap();
    assert!(!place.name().exists() && place.partial().exists());
    assert_eq!((target.surplus_bytes(), target.path()), (0, place.partial().as_path()));
    target.finish().unwrap();

    let metadata = fs::metadata(place.name()).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (64 * MIB, 0o600));
    assert!(metadata.blocks() * 512 <= 256 * 1024, "not sparse: {} blocks", metadata.blocks());
    assert_eq!(&fs::read(place.name()).unwrap()[40 * MIB as usize..][..4], b"data");
    assert_eq!(place.entries(), 1);
}

#[test]
fn many_threads_write_in_any_order() {
    let place = Place::new();
    let target = RawTarget::create(&place.name(), 8 * MIB, false).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let target = &target;
            scope.spawn(move || {
                for piece in (0..512).rev().filter(|piece| piece % 4 == worker) {
                    target.write_at(piece * 16_384, &[(piece % 251) as u8; 16_384]).unwrap();
                }
            });
        }
    });
    target.finish().unwrap();
    let bytes = fs::read(place.name()).unwrap();
    assert!(
        bytes
            .chunks(16_384)
            .enumerate()
            .all(|(piece, chunk)| chunk.iter().all(|b| *b == (piece % 251) as u8))
    );
}

#[test]
fn an_existing_file_is_replaced_only_on_request_and_only_at_the_end() {
    let place = Place::new();
    fs::write(place.name(), "precious").unwrap();
    let error = RawTarget::create(&place.name(), MIB, false).unwrap_err();
    assert!(
        matches!(error, TargetError::Exists { .. }) && error.to_string().contains("`overwrite`"),
        "{error}"
    );
    assert_eq!(place.entries(), 1);

    let target = RawTarget::create(&place.name(), MIB, true).unwrap();
    target.write_at(0, b"new").unwrap();
    assert_eq!(fs::read(place.name()).unwrap(), b"precious");
    target.finish().unwrap();
    assert_eq!(&fs::read(place.name()).unwrap()[..4], b"new\0");
}

#[test]
fn an_empty_file_may_be_filled() {
    let place = Place::new();
    fs::write(place.name(), "").unwrap();
    RawTarget::create(&place.name(), 10, false).unwrap().finish().unwrap();
    assert_eq!(fs::read(place.name()).unwrap(), [0; 10]);
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced() {
    let place = Place::new();
    let target = RawTarget::create(&place.name(), MIB, false).unwrap();
    fs::write(place.name(), "precious").unwrap();
    assert!(matches!(target.finish(), Err(TargetError::Exists { .. })));
    assert_eq!(fs::read(place.name()).unwrap(), b"precious");
}

#[test]
fn symbolic_links_are_not_followed() {
    let place = Place::new();
    let victim = place.directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    for (link, overwrite) in [(place.name(), true), (place.name(), false), (place.partial(), true)] {
        symlink(&victim, &link).unwrap();
        let error = RawTarget::create(&place.name(), MIB, overwrite).unwrap_err();
        assert!(matches!(error, TargetError::NotATarget { kind: "symbolic link", .. }), "{error:?}");
        fs::remove_file(link).unwrap();
    }
    symlink("/nowhere/at/all", place.name()).unwrap();
    assert!(matches!(RawTarget::create(&place.name(), 1, true), Err(TargetError::NotATarget { .. })));
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(place.entries(), 2);
}

#[test]
fn directories_and_pipes_are_refused() {
    let place = Place::new();
    let pipe = place.directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [&pipe, place.directory.path(), Path::new("/dev/null"), Path::new("/")] {
        let error = RawTarget::create(path, MIB, true).unwrap_err();
        assert!(matches!(error, TargetError::NotATarget { .. }), "{error:?}");
    }
    let nameless = RawTarget::create(&place.directory.path().join("missing/.."), MIB, true).unwrap_err();
    assert!(matches!(nameless, TargetError::Io { .. }), "{nameless:?}");
}

#[test]
fn what_a_killed_restore_left_is_replaced() {
    let place = Place::new();
    let killed = RawTarget::create(&place.name(), MIB, false).unwrap();
    killed.write_at(0, b"half").unwrap();
    drop(killed);
    assert!(place.partial().exists() && !place.name().exists());
    when_free(|| RawTarget::create(&place.name(), 100, false)).unwrap().finish().unwrap();
    assert_eq!(fs::read(place.name()).unwrap(), [0; 100]);
    assert_eq!(place.entries(), 1);
}

#[test]
fn two_restores_to_one_name_do_not_mix() {
    let place = Place::new();
    let first = RawTarget::create(&place.name(), 100, false).unwrap();
    let second = RawTarget::create(&place.name(), 100, true).unwrap_err();
    assert!(
        matches!(&second, TargetError::AnotherRestore { path } if *path == place.partial()),
        "{second:?}"
    );
    first.write_at(0, b"first").unwrap();
    first.finish().unwrap();
    assert_eq!(&fs::read(place.name()).unwrap()[..5], b"first");
}

/// Someone without our lock swaps the partial file: it must neither be published nor removed.
#[test]
fn a_partial_file_of_someone_else_is_left_alone() {
    for is_finished in [true, false] {
        let place = Place::new();
        let target = RawTarget::create(&place.name(), 100, false).unwrap();
        fs::remove_file(place.partial()).unwrap();
        fs::write(place.partial(), "not ours").unwrap();
        if is_finished {
            assert!(matches!(target.finish(), Err(TargetError::AnotherRestore { .. })));
        } else {
            target.abandon().unwrap();
        }
        assert_eq!(fs::read(place.partial()).unwrap(), b"not ours");
        assert!(!place.name().exists());
    }
}

#[test]
fn a_folder_that_was_moved_meanwhile_is_no_other_restore() {
    let place = Place::new();
    let target = RawTarget::create(&place.name(), 100, false).unwrap();
    fs::rename(place.partial(), place.name().with_extension("moved")).unwrap();
    let error = target.finish().unwrap_err().to_string();
    assert!(error.contains("moved or removed meanwhile"), "{error}");
}

#[test]
fn an_abandoned_restore_leaves_nothing() {
    let place = Place::new();
    let target = RawTarget::create(&place.name(), MIB, false).unwrap();
    target.write_at(0, b"half").unwrap();
    target.abandon().unwrap();
    assert_eq!(place.entries(), 0);
}

#[test]
fn a_size_no_file_can_have_leaves_nothing() {
    let place = Place::new();
    let error = RawTarget::create(&place.name(), u64::MAX, false).unwrap_err();
    assert!(matches!(error, TargetError::Io { step: "set the size of", .. }), "{error:?}");
    assert_eq!(place.entries(), 0);
}

#[test]
fn writes_outside_the_disk_are_refused() {
    let place = Place::new();
    let target = RawTarget::create(&place.name(), 1000, false).unwrap();
    for offset in [998, 1000, u64::MAX] {
        assert!(matches!(target.write_at(offset, b"abc"), Err(TargetError::OutOfRange { .. })));
    }
    assert!(matches!(target.zero(500..1001), Err(TargetError::OutOfRange { .. })));
    target.write_at(997, b"abc").unwrap();
    target.finish().unwrap();
    assert_eq!(fs::metadata(place.name()).unwrap().len(), 1000);
}

#[test]
fn a_full_file_system_says_what_is_missing() {
    let place = Place::new();
    let backing = place.directory.path().join("backing");
    File::create(&backing).unwrap().set_len(16 * MIB).unwrap();
    let Some(device) = LoopDevice::attach(&backing) else { return };
    let mounted = TempDir::new().unwrap();
    let Some(_mount) = Mount::ext4(device.path(), mounted.path()) else { return };

    let name = mounted.path().join("vm.raw");
    let target = RawTarget::create(&name, 64 * MIB, false).unwrap();
    let error = (0..64).find_map(|mib| target.write_at(mib * MIB, &[1; MIB as usize]).err()).unwrap();
    let TargetError::NoSpace { written_bytes, missing_bytes, available_bytes, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(*written_bytes > 0 && *written_bytes < 16 * MIB, "{error}");
    assert_eq!(written_bytes + missing_bytes, 64 * MIB);
    assert!(*available_bytes < 2 * MIB, "{error}");
    target.abandon().unwrap();
    assert!(!name.exists() && !mounted.path().join("vm.raw.sancerre-partial").exists());
    RawTarget::create(&name, MIB, false).unwrap().finish().unwrap();
}

#[test]
fn a_flush_that_fails_publishes_nothing() {
    if is_inner() {
        let place = Place::new();
        let target = RawTarget::create(&place.name(), MIB, false).unwrap();
        target.write_at(0, b"data").unwrap();
        let error = target.finish().unwrap_err();
        let is_right = matches!(&error, TargetError::Io { step: "flush", source, .. }
            if source.raw_os_error() == Some(5));
        assert!(is_right, "{error:?}");
        assert!(!place.name().exists() && place.partial().exists());
        return;
    }
    repeat_with_fault("target::tests::a_flush_that_fails_publishes_nothing", "inject=fsync:error=EIO");
}

/// The second fsync is the directory's: the name may be lost in a crash, so the restore is not reported as done.
#[test]
fn a_name_that_is_not_durable_is_an_error() {
    if is_inner() {
        let place = Place::new();
        let error = RawTarget::create(&place.name(), MIB, false).unwrap().finish().unwrap_err();
        assert!(matches!(error, TargetError::Io { step: "flush the directory", .. }), "{error:?}");
        return;
    }
    repeat_with_fault(
        "target::tests::a_name_that_is_not_durable_is_an_error",
        "inject=fsync:error=EIO:when=2",
    );
}

#[test]
fn an_interrupted_write_is_continued() {
    if is_inner() {
        let place = Place::new();
        let target = RawTarget::create(&place.name(), 4, false).unwrap();
        target.write_at(0, b"data").unwrap();
        target.finish().unwrap();
        assert_eq!(fs::read(place.name()).unwrap(), b"data");
        return;
    }
    repeat_with_fault(
        "target::tests::an_interrupted_write_is_continued",
        "inject=pwrite64:error=EINTR:when=1",
    );
}

#[test]
fn a_failing_write_names_its_place() {
    if is_inner() {
        let place = Place::new();
        let target = RawTarget::create(&place.name(), MIB, false).unwrap();
        target.write_at(0, b"fine").unwrap();
        let error = target.write_at(4096, b"fails").unwrap_err();
        assert!(matches!(&error, TargetError::Write { offset: 4096, length_bytes: 5, .. }), "{error:?}");
        return;
    }
    repeat_with_fault("target::tests::a_failing_write_names_its_place", "inject=pwrite64:error=EIO:when=2");
}

#[test]
fn a_directory_that_may_not_be_written_says_so() {
    if is_inner() {
        let error = RawTarget::create(Path::new("/etc/vm.raw"), MIB, false).unwrap_err();
        assert!(
            matches!(&error, TargetError::Io { step: "create", source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied),
            "{error:?}"
        );
        assert!(error.to_string().contains("/etc/vm.raw.sancerre-partial"), "{error}");
        return;
    }
    repeat_as_nobody("target::tests::a_directory_that_may_not_be_written_says_so");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Pieces written or zeroed in any order give the disk that was cut into them, on a file and over old data.
    #[test]
    fn pieces_in_any_order_give_the_disk(
        lengths in prop::collection::vec((1usize..60_000, prop::option::of(1u8..)), 1..12),
        seed in any::<prop::sample::Index>(),
    ) {
        let mut model = Vec::new();
        let mut pieces = Vec::new();
        for (length, fill) in lengths {
            pieces.push((model.len()..model.len() + length, fill));
            model.resize(model.len() + length, fill.unwrap_or(0));
        }
        let turn = seed.index(pieces.len());
        pieces.rotate_left(turn);
        pieces.reverse();
        let place = Place::new();
        fs::write(place.name(), vec![0xFF; 100_000]).unwrap();
        let target = RawTarget::create(&place.name(), model.len() as u64, true).unwrap();
        for (range, fill) in pieces {
            match fill {
                Some(fill) => target.write_at(range.start as u64, &vec![fill; range.len()]).unwrap(),
                None => target.zero(range.start as u64..range.end as u64).unwrap(),
            }
        }
        target.finish().unwrap();
        prop_assert!(fs::read(place.name()).unwrap() == model);
    }
}

#[test]
fn a_link_to_a_device_is_followed_and_the_surplus_kept() {
    let place = Place::new();
    let backing = place.directory.path().join("backing");
    fs::write(&backing, vec![0; 4 * MIB as usize]).unwrap();
    OpenOptions::new().write(true).open(&backing).unwrap().write_all_at(b"behind", 2 * MIB).unwrap();
    let Some(device) = LoopDevice::attach(&backing) else { return };
    symlink(device.path(), place.name()).unwrap();

    let target = RawTarget::create(&place.name(), 2 * MIB - 512, false).unwrap();
    assert_eq!(target.surplus_bytes(), 2 * MIB + 512);
    target.write_at(100, b"data").unwrap();
    target.finish().unwrap();
    drop(device);
    let bytes = fs::read(&backing).unwrap();
    assert_eq!((&bytes[100..104], &bytes[2 * MIB as usize..][..6]), (&b"data"[..], &b"behind"[..]));
    assert!(!place.partial().exists());
}

/// What an interrupted restore wrote, read back through the target that takes it up.
#[test]
fn a_resumed_file_holds_what_was_written_and_nothing_else() {
    let place = Place::new();
    let target = RawTarget::create(&place.name(), 8 * MIB, false).unwrap();
    assert!(target.old().next().is_none() && target.goes_on_with().is_none());
    target.write_at(MIB, &[7; 10_000]).unwrap();
    target.write_at(5 * MIB, &[8; 10_000]).unwrap();
    assert_eq!(target.goes_on_with(), Some(Continue::Resume));
    drop(target);

    let target = RawTarget::resume(&place.name(), 8 * MIB, false).unwrap();
    let old: Vec<_> = target.old().collect();
    assert!(old.len() == 1 && old[0].is_in_place());
    let mut bytes = vec![0; 10_000];
    assert!(old[0].read_at(MIB, &mut bytes) && bytes == [7; 10_000]);
    assert!(!old[0].read_at(3 * MIB, &mut bytes), "a hole");
    assert!(!old[0].read_at(8 * MIB - 1, &mut bytes), "the end");
    // Of another disk, say: where this one has zeros they must be made.
    target.zero(5 * MIB + 100..6 * MIB).unwrap();
    target.finish().unwrap();
    let found = fs::read(place.name()).unwrap();
    assert!(found.len() as u64 == 8 * MIB && found[MIB as usize..][..10_000] == [7; 10_000]);
    assert!(found[5 * MIB as usize..][..100] == [8; 100]);
    assert!(found[5 * MIB as usize + 100..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_resumed_file_gets_the_size_of_the_disk() {
    for left in [MIB, 3 * MIB] {
        let place = Place::new();
        drop(RawTarget::create(&place.name(), left, false).unwrap());
        RawTarget::resume(&place.name(), 2 * MIB, false).unwrap().finish().unwrap();
        assert_eq!(fs::metadata(place.name()).unwrap().len(), 2 * MIB);
    }
}

#[test]
fn where_nothing_was_left_a_resumed_restore_begins_anew() {
    let place = Place::new();
    let target = RawTarget::resume(&place.name(), MIB, false).unwrap();
    assert!(target.old().next().is_none());
    target.finish().unwrap();
    assert_eq!(place.entries(), 1);
}

/// The first disks of a snapshot may be whole already: they are compared, and never written to.
#[test]
fn a_finished_file_is_compared_and_never_written() {
    let place = Place::new();
    let mut bytes = vec![0; 2 * MIB as usize];
    bytes[..100].fill(7);
    fs::write(place.name(), &bytes).unwrap();
    let resume = |size_bytes| RawTarget::resume(&place.name(), size_bytes, false);
    let target = resume(2 * MIB).unwrap();
    let mut found = [0; 100];
    assert!(target.old().all(|old| old.is_in_place() && old.read_at(0, &mut found)) && found == [7; 100]);
    target.zero(100..2 * MIB).unwrap();
    target.finish().unwrap();
    let target = resume(2 * MIB).unwrap();
    for refused in [target.zero(99..MIB), target.write_at(0, b"x")] {
        assert!(matches!(refused, Err(TargetError::Exists { .. })));
    }
    assert_eq!(target.goes_on_with(), None);
    target.abandon().unwrap();
    assert!(matches!(resume(MIB), Err(TargetError::Exists { .. })));
    assert!(fs::read(place.name()).unwrap() == bytes && place.entries() == 1);
}

#[test]
fn the_file_that_is_replaced_can_be_read() {
    let place = Place::new();
    fs::write(place.name(), [7; 1000]).unwrap();
    let target = RawTarget::create(&place.name(), MIB, true).unwrap();
    let mut bytes = [0; 500];
    assert!(target.old().all(|old| !old.is_in_place() && old.read_at(500, &mut bytes)) && bytes == [7; 500]);
    assert!(!target.old().any(|old| old.read_at(501, &mut bytes)), "beyond its end");
    target.write_at(0, b"interrupted").unwrap();
    drop(target);
    let target = RawTarget::resume(&place.name(), MIB, true).unwrap();
    assert_eq!(target.old().map(|old| old.is_in_place()).collect::<Vec<_>>(), [true, false]);
    target.finish().unwrap();
    assert_eq!(&fs::read(place.name()).unwrap()[..11], b"interrupted");
}

/// Somebody who may write to the folder must not get the disk by leaving a file for it.
#[test]
fn a_partial_file_that_others_can_read_is_not_taken_up() {
    let place = Place::new();
    drop(RawTarget::create(&place.name(), MIB, false).unwrap());
    fs::set_permissions(place.partial(), fs::Permissions::from_mode(0o640)).unwrap();
    let error = RawTarget::resume(&place.name(), MIB, false).unwrap_err();
    assert!(error.to_string().contains("without `resume`"), "{error}");
    fs::set_permissions(place.partial(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(place.partial(), place.directory.path().join("other")).unwrap();
    RawTarget::resume(&place.name(), MIB, false).unwrap_err();
    RawTarget::create(&place.name(), MIB, false).unwrap();
}
