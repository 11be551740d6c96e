//! A real child that is killed, hangs, or reads what is damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::confined_reader;
use crate::confined::{ConfinedDisk, ConfinedReader};
use crate::foreign::{ImageError, ImageFormat};
use crate::qcow2::lab::{KIB, Lab, MIB};
use crate::testing::LoopDevice;
use crate::{Disk, OpenError, Qcow2Fault, ReadError};

fn open(lab: &Lab, name: &str) -> ConfinedDisk {
    confined_reader().open_qcow2(&lab.path(name), Some(&lab.references())).unwrap()
}

fn send(disk: &ConfinedDisk, signal: Signal) {
    let process = i32::try_from(disk.process_id().unwrap()).unwrap();
    kill_process(Pid::from_raw(process).unwrap(), signal).unwrap();
}

/// An overlay on a compressed base, and a small disk to go with it.
fn lab() -> Option<Lab> {
    let lab = Lab::new()?;
    lab.raw("disk.raw", 8 * MIB, 3);
    lab.img("convert -f raw -O qcow2 -c disk.raw base.qcow2");
    lab.img("create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2");
    lab.io("over.qcow2", &["write -P 7 1M 64k"]);
    Some(lab)
}

#[test]
fn the_child_has_the_files_of_the_image_and_its_sockets_and_no_right_to_more() {
    let Some(lab) = lab() else { return };
    let disk = open(&lab, "over.qcow2");
    disk.read_at(0, &mut vec![0; MIB as usize]).unwrap();
    let process = PathBuf::from(format!("/proc/{}", disk.process_id().unwrap()));
    let mut files = Vec::new();
    for entry in fs::read_dir(process.join("fd")).unwrap() {
        let name = fs::read_link(entry.unwrap().path()).unwrap().display().to_string();
        if !["socket:", "pipe:", "/dev/null"].iter().any(|kind| name.starts_with(kind)) {
            files.push(name);
        }
    }
    files.sort();
    let real = fs::canonicalize(lab.folder()).unwrap();
    assert_eq!(files, ["base.qcow2", "over.qcow2"].map(|name| real.join(name).display().to_string()));
    assert_eq!(fs::read(process.join("environ")).unwrap(), b"MALLOC_ARENA_MAX=2\0");
    // Those that work on the image are the thread of the helper and those that it made; all of a real child are.
    let mut confined = 0;
    for task in fs::read_dir(process.join("task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        if field("Seccomp:") == "2" {
            assert_eq!((field("NoNewPrivs:"), field("CapEff:")), ("1".to_owned(), "0".repeat(16)));
            confined += 1;
        }
    }
    assert!(confined >= 2, "{confined} threads");
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line[name.len()..].split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        ["Max address space", "Max core file size", "Max file size", "Max open files"].map(limit),
        ["1073741824", "0", "0", "512"]
    );
}

#[test]
fn a_child_that_is_killed_while_it_is_read_is_an_error_with_the_path() {
    let Some(lab) = lab() else { return };
    let disk = open(&lab, "over.qcow2");
    disk.read_at(0, &mut [0; 100]).unwrap();
    send(&disk, Signal::KILL);
    for _ in 0..2 {
        let error = disk.read_at(4 * MIB, &mut [0; 100]).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, ReadError::Reader { .. }), "{said}");
        assert!(said.contains("over.qcow2") && said.contains("signal: 9"), "{said}");
    }
    let said = disk.data_ranges(0..MIB).unwrap_err().to_string();
    assert!(said.contains("over.qcow2"), "{said}");
}

#[test]
fn many_readers_of_a_child_that_is_killed_all_hear_of_it() {
    let Some(lab) = lab() else { return };
    let disk = open(&lab, "base.qcow2");
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..40)
            .map(|_| scope.spawn(|| (0..10_000).find_map(|_| disk.read_at(0, &mut vec![0; 99_999]).err())))
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        send(&disk, Signal::KILL);
        for reader in readers {
            let error = reader.join().unwrap().unwrap();
            assert!(error.to_string().contains("signal: 9"), "{error}");
        }
    });
}

#[test]
fn a_child_that_hangs_is_ended_in_time() {
    let Some(lab) = lab() else { return };
    let reader = ConfinedReader { patience: Duration::from_secs(1), ..confined_reader() };
    let disk = reader.open_qcow2(&lab.path("base.qcow2"), None).unwrap();
    send(&disk, Signal::STOP);
    let begun = Instant::now();
    let said = disk.read_at(0, &mut [0; 100]).unwrap_err().to_string();
    assert!(said.contains("gave no answer for 1 seconds") && said.contains("base.qcow2"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let process = format!("/proc/{}", disk.process_id().unwrap());
    assert!(!Path::new(&process).exists(), "it still runs");
}

#[test]
fn what_is_wrong_with_an_image_is_said_in_the_same_words() {
    let Some(lab) = lab() else { return };
    lab.write("none.qcow2", b"QFI\xfb\0\0\0\x03");
    lab.img("create -q -f qcow2 dirty.qcow2 1M");
    lab.patch("dirty.qcow2", 79, &[1]);
    lab.img("convert -f raw -O qcow2 disk.raw cut.qcow2");
    fs::File::options().write(true).open(lab.path("cut.qcow2")).unwrap().set_len(5 * MIB).unwrap();
    lab.img("create -q -f qcow2 -b /etc/passwd -F raw -u out.qcow2 1M");
    lab.img("create -q -f qcow2 -b gone.qcow2 -F qcow2 -u gone-base.qcow2 1M");
    lab.img("create -q -f qcow2 -b base.qcow2 -F qcow2 loop.qcow2");
    lab.img("rebase -u -b loop.qcow2 -F qcow2 loop.qcow2");
    lab.img("create -q -f qcow2 -b x.vmdk -F vmdk -u other.qcow2 1M");
    for name in ["none", "dirty", "cut", "out", "gone-base", "loop", "other", "over"] {
        let name = format!("{name}.qcow2");
        for references in [None, Some(&lab.references())] {
            let path = lab.path(&name);
            let own = crate::open_qcow2(&path, references).map(|disk| read_all(&disk));
            let confined = confined_reader().open_qcow2(&path, references).map(|disk| read_all(&disk));
            match (own, confined) {
                (Ok(own), Ok(confined)) => assert_eq!(own, confined, "{name}"),
                (Err(own), Err(confined)) => assert_eq!(own.to_string(), confined.to_string(), "{name}"),
                (own, confined) => panic!("{name}: {own:?}, confined: {confined:?}"),
            }
        }
    }
    // What the caller itself refuses keeps its kind, so that the command line can name the option.
    let error = confined_reader().open_qcow2(&lab.path("over.qcow2"), None).unwrap_err();
    let OpenError::Qcow2 { fault, .. } = error else { panic!("{error}") };
    assert!(matches!(*fault, Qcow2Fault::NotAllowed { .. }), "{fault}");
}

fn read_all(disk: &dyn Disk) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; disk.size_bytes() as usize];
    disk.read_at(0, &mut bytes).map(|()| bytes).map_err(|error| error.to_string())
}

#[test]
fn damaged_images_give_the_same_through_the_child() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("disk.raw", MIB, 5);
    lab.img("convert -f raw -O qcow2 -c -o cluster_size=4096 disk.raw whole.qcow2");
    let whole = lab.read("whole.qcow2");
    for number in 0..60u64 {
        let mut bytes = whole.clone();
        let at = (number * number * 331 + number * 17) as usize % bytes.len().min(24 << 10);
        bytes[at] ^= 1 << (number % 8);
        lab.write("damaged.qcow2", &bytes);
        let path = lab.path("damaged.qcow2");
        let own = crate::open_qcow2(&path, None).map(|disk| read_all(&disk));
        let confined = confined_reader().open_qcow2(&path, None).map(|disk| read_all(&disk));
        let text = |error: OpenError| error.to_string();
        assert_eq!(own.map_err(text), confined.map_err(text), "a bit at {at}");
    }
}

#[test]
fn bitmaps_come_through_the_child() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -q -f qcow2 image.qcow2 64M");
    lab.img("bitmap --add -g 65536 image.qcow2 night");
    lab.img("bitmap --add -g 512 image.qcow2 fine");
    lab.io("image.qcow2", &["write 1M 64k", "write 3M 1", "write 40M 1M"]);
    let own = lab.open("image.qcow2").unwrap();
    let confined = open(&lab, "image.qcow2");
    let bitmaps = confined.bitmaps().unwrap();
    assert_eq!(bitmaps, own.bitmaps().unwrap());
    assert_eq!(bitmaps.len(), 2);
    for bitmap in &bitmaps {
        for range in [0..64 * MIB, MIB + 5..41 * MIB - 7, 0..0] {
            let marked = confined.bitmap_ranges(bitmap, range.clone()).unwrap();
            assert_eq!(marked, own.bitmap_ranges(bitmap, range.clone()).unwrap(), "{range:?}");
        }
        assert!(confined.bitmap_ranges(bitmap, 0..65 * MIB).is_err());
    }
}

#[test]
fn an_image_on_a_device_is_read_as_one_in_a_file() {
    let Some(lab) = lab() else { return };
    let Some(device) = LoopDevice::attach(&lab.path("base.qcow2")) else { return };
    let disk = confined_reader().open_qcow2(device.path(), None).unwrap();
    assert_eq!(read_all(&disk), read_all(&lab.open("base.qcow2").unwrap()));
}

#[test]
fn a_large_empty_disk_costs_no_time() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -q -f qcow2 image.qcow2 16T");
    lab.io("image.qcow2", &["write 15T 64k"]);
    let disk = open(&lab, "image.qcow2");
    let begun = Instant::now();
    let start = 15 << 40;
    assert_eq!(disk.data_ranges(0..16 << 40).unwrap(), [start..start + 64 * KIB]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn without_the_sandbox_the_same_is_read() {
    let Some(lab) = lab() else { return };
    let reader = ConfinedReader { sandbox: false, ..confined_reader() };
    let disk = reader.open_qcow2(&lab.path("over.qcow2"), Some(&lab.references())).unwrap();
    assert_eq!(read_all(&disk), read_all(&lab.open_with_others("over.qcow2").unwrap()));
}

#[test]
fn a_child_that_cannot_be_started_is_an_error_with_the_path() {
    let Some(lab) = lab() else { return };
    let mut reader = confined_reader();
    reader.helper.program = "/nonexistent/sancerre".into();
    let said = reader.open_qcow2(&lab.path("base.qcow2"), None).unwrap_err().to_string();
    assert!(said.contains("base.qcow2") && said.contains("cannot be started"), "{said}");
    // It may have no file beside the standard ones.
    let mut reader = confined_reader();
    reader.limits.open_files = 3;
    let said = reader.open_qcow2(&lab.path("base.qcow2"), None).unwrap_err().to_string();
    assert!(said.contains("base.qcow2") && said.contains("cannot confine"), "{said}");
}

#[test]
fn a_cut_image_of_another_kind_is_found_by_the_child() {
    let Some(lab) = lab() else { return };
    lab.img("convert -f raw -O vmdk -o subformat=twoGbMaxExtentFlat disk.raw split.vmdk");
    lab.img("convert -f raw -O vdi disk.raw disk.vdi");
    lab.img("convert -f raw -O parallels disk.raw disk.hdd");
    let look = |name: &str, format, parts: Option<&Path>| {
        confined_reader().look(&lab.path(name), format, parts).map_err(|error| error.to_string())
    };
    let folder = Some(lab.folder());
    for (name, format) in [
        ("split.vmdk", ImageFormat::Vmdk),
        ("disk.vdi", ImageFormat::Vdi),
        ("disk.hdd", ImageFormat::Parallels),
    ] {
        look(name, format, folder).unwrap();
    }
    let error = confined_reader().look(&lab.path("split.vmdk"), ImageFormat::Vmdk, None).unwrap_err();
    assert!(matches!(error, ImageError::Parts { .. }), "{error}");
    for name in ["split-f001.vmdk", "disk.vdi", "disk.hdd"] {
        fs::File::options().write(true).open(lab.path(name)).unwrap().set_len(2 * MIB).unwrap();
    }
    for (name, format, cut) in [
        ("split.vmdk", ImageFormat::Vmdk, "split-f001.vmdk"),
        ("disk.vdi", ImageFormat::Vdi, "disk.vdi"),
        ("disk.hdd", ImageFormat::Parallels, "disk.hdd"),
    ] {
        let said = look(name, format, folder).unwrap_err();
        assert!(said.contains("cut short") && said.contains(cut), "{said}");
    }
    fs::remove_file(lab.path("split-f001.vmdk")).unwrap();
    look("split.vmdk", ImageFormat::Vmdk, folder).unwrap();
    lab.write("odd.vmdk", b"COWD\x01\0\0\0");
    let said = look("odd.vmdk", ImageFormat::Vmdk, None).unwrap_err();
    assert!(said.contains("odd.vmdk") && said.contains("COWD"), "{said}");
}
