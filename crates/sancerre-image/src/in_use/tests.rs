//! Real mounts, real loop devices, and QEMU's own locks.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::testing::{LoopDevice, Mount as Mounted, skip};
use crate::{ChangedError, Disk, open_raw};

#[test]
fn lines_of_mountinfo_are_understood() {
    let line =
        "36 35 98:0 /a /mnt/my\\040disk rw,noatime shared:1 master:2 - ext4 /dev/root ro,errors=continue";
    let mount = Mount::parse(line).unwrap();
    let expected =
        Mount { number: (98, 0), place: "/mnt/my\\040disk", source: "/dev/root", is_writable: false };
    assert_eq!(mount, expected);
    assert_eq!(unescaped(mount.place), "/mnt/my disk");
    let line = "22 1 0:20 / / ro - btrfs /dev/sda1 rw,space_cache";
    assert!(Mount::parse(line).unwrap().is_writable, "a read-only mount of what is writable elsewhere");
    for line in ["", "22", "22 1 0 / / rw - btrfs /dev/sda1 rw", "22 1 0:1 / / rw - btrfs"] {
        assert_eq!(Mount::parse(line), None, "{line}");
    }
}

fn is_in_use(path: &Path) -> Option<String> {
    match open_raw(path).unwrap().check_unchanged() {
        Ok(()) => None,
        Err(ChangedError::InUse { how, .. }) => Some(how),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_device_that_is_mounted_read_write_is_in_use_and_so_is_the_image_below_it() {
    let folder = TempDir::new().unwrap();
    let (image, place) = (folder.path().join("image"), folder.path().join("place"));
    std::fs::create_dir(&place).unwrap();
    File::create(&image).unwrap().set_len(32 << 20).unwrap();
    let Some(device) = LoopDevice::attach(&image) else { return };
    assert_eq!(is_in_use(device.path()), None);
    let Some(mounted) = Mounted::ext4(device.path(), &place) else { return };
    for path in [device.path(), &image] {
        let how = is_in_use(path).unwrap();
        assert!(how.contains("mounted read-write") && how.contains(place.to_str().unwrap()), "{how}");
    }
    let read_only = Command::new("mount").args(["-o", "remount,ro"]).arg(&place).status().unwrap();
    assert!(read_only.success());
    assert_eq!((is_in_use(device.path()), is_in_use(&image)), (None, None));
    drop(mounted);
    assert_eq!(is_in_use(device.path()), None);
}

/// Holds locks on bytes of a file until it is killed.
struct Locker(Child);

impl Locker {
    fn new(path: &Path, kind: &str, bytes: &[u64]) -> Self {
        let bytes: Vec<String> = bytes.iter().map(|byte| format!("({byte},1)")).collect();
        let script = format!(
            "import fcntl,struct,time\nf=open({path:?},'r+b')\nfor start,length in [{}]:\n fcntl.fcntl(f,fcntl.F_OFD_SETLK,struct.pack('hhqqi4x',fcntl.{kind},0,start,length,0))\nprint('held',flush=True)\ntime.sleep(60)",
            bytes.join(",")
        );
        let mut child = Command::new("python3").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes as `block/file-posix.c` has them: 100 consistent read, 101 write, 103 resize; from 200 on what is not shared.
#[test]
fn an_image_that_a_guest_writes_to_is_in_use_and_one_that_it_only_reads_is_not() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("no python3");
    }
    let folder = TempDir::new().unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(is_in_use(&image), None);
    let cases: [(&str, &[u64], bool); 4] = [
        ("F_RDLCK", &[100, 101, 103, 201, 203], true),
        ("F_RDLCK", &[100, 101], true),
        ("F_RDLCK", &[100, 201, 203], false),
        ("F_WRLCK", &[5000], true),
    ];
    for (kind, bytes, expected) in cases {
        let locker = Locker::new(&image, kind, bytes);
        let how = is_in_use(&image);
        assert_eq!(how.is_some(), expected, "{kind} {bytes:?}: {how:?}");
        drop(locker);
        assert_eq!(is_in_use(&image), None);
    }
}

/// The same of QEMU itself.
#[test]
fn an_image_that_qemu_holds_open_for_writing_is_in_use() {
    let folder = TempDir::new().unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    for (is_read_only, expected) in [(false, true), (true, false)] {
        let mut qemu = Command::new("qemu-io");
        qemu.args(["-f", "raw"]).args(is_read_only.then_some("-r")).arg(&image);
        let Ok(mut child) = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            return skip("no qemu-io");
        };
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"length\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(is_in_use(&image).is_some(), expected, "{is_read_only}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn our_own_open_file_is_no_other_program() {
    let folder = TempDir::new().unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let _writer = OpenOptions::new().write(true).open(&image).unwrap();
    assert_eq!(is_in_use(&image), None);
}

#[test]
fn swap_space_and_what_is_locked_as_a_whole_is_in_use() {
    assert_eq!(swap("/swap\\040file\tfile\t1024\t0\t-2").unwrap(), Path::new("/swap file"));
    assert_eq!(swap("Filename\tType\tSize\tUsed\tPriority"), None);
    let folder = TempDir::new().unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let holder = File::open(&image).unwrap();
    holder.lock_shared().unwrap();
    assert_eq!(is_in_use(&image), None, "others may read too");
    holder.unlock().unwrap();
    holder.lock().unwrap();
    assert!(is_in_use(&image).unwrap().contains("open for writing in another program"));
    drop(holder);
    assert_eq!(is_in_use(&image), None);
}
