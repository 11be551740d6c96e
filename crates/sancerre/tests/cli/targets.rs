//! Where the built program restores to: images that machines use, devices, pipes, and a process that may do little.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::devices::LoopDevice;
use crate::support::{MIB, Site, has, is_root, noise, summary, told};

#[test]
fn a_disk_goes_to_standard_output_with_nothing_beside_it() {
    let site = Site::with_disk(3 * MIB);
    let disk = noise(1, 3 * MIB);
    for target in ["-", "/dev/stdout", "/dev/fd/1"] {
        for options in [&["-v"][..], &["--json"]] {
            let output = site.succeed(&[&["restore", "web01:latest", "--target", target], options].concat());
            assert!(output.stdout == disk, "{target} {options:?}");
            assert!(!output.stderr.is_empty(), "what is said goes to standard error");
        }
    }
    assert!(!site.path("-").exists());
    // Into a file it is the same.
    let output = site.shell("\"$S\" restore web01:latest --target /dev/stdout > out.raw");
    assert!(
        output.status.success() && std::fs::read(site.path("out.raw")).unwrap() == disk,
        "{}",
        told(&output)
    );
    site.refuse(&["restore", "web01:latest", "--target", "-", "--resume"], 2, "--resume");
    let full = site.shell("\"$S\" restore web01:latest --target - > /dev/full");
    assert_eq!(full.status.code(), Some(1), "{}", told(&full));
}

#[test]
fn a_disk_goes_into_a_pipe_once_somebody_reads() {
    let site = Site::with_disk(3 * MIB);
    let output = site.shell("mkfifo pipe; (sleep 1; cat pipe > out.raw) & \"$S\" restore web01:latest --target pipe; c=$?; wait; exit $c");
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("waiting for a reader"), "{}", told(&output));
    assert!(std::fs::read(site.path("out.raw")).unwrap() == noise(1, 3 * MIB));
    let output = site.shell("\"$S\" restore -q web01:latest --target >(cat > out2.raw); sleep 1");
    assert!(output.status.success(), "{}", told(&output));
    assert!(std::fs::read(site.path("out2.raw")).unwrap() == noise(1, 3 * MIB));
}

#[test]
fn an_image_that_is_replaced_keeps_its_owner_and_its_mode() {
    let site = Site::with_disk(3 * MIB);
    keeps_owner_and_mode(&site, "vm.raw");
    assert!(std::fs::read(site.path("vm.raw")).unwrap() == noise(1, 3 * MIB));
    keeps_owner_and_mode(&site, "vm.qcow2");
}

fn keeps_owner_and_mode(site: &Site, name: &str) {
    let image = site.path(name);
    std::fs::write(&image, "old").unwrap();
    std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o640)).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&image, Some(64_055), Some(107)).unwrap();
    }
    let before = image.metadata().unwrap();
    site.succeed(&["restore", "web01:latest", "--target", name, "--overwrite"]);
    let after = image.metadata().unwrap();
    assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
}

/// One of several disks is in use: then none is restored.
#[test]
fn a_running_machine_is_left_alone_with_all_its_disks() {
    let site = Site::with_disk(3 * MIB);
    if !has("python3") {
        return;
    }
    site.succeed(&["backup", "--key-file", "w.key", "--vm", "two", "a=disk.raw", "b=disk.raw"]);
    std::fs::create_dir(site.path("out")).unwrap();
    for name in ["a.raw", "b.raw"] {
        std::fs::write(site.path("out").join(name), "in use").unwrap();
    }
    let output = site.shell(
        "python3 -c '
import fcntl, struct, time
f = open(\"out/b.raw\", \"r+b\")
fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack(\"hhqqi4x\", fcntl.F_RDLCK, 0, 100, 1, 0))
open(\"locked\", \"w\"); time.sleep(60)' & p=$!
while [ ! -e locked ]; do sleep 0.1; done
\"$S\" restore two:latest --target out/ --overwrite; c=$?; kill $p; exit $c",
    );
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("b.raw is locked"), "{}", told(&output));
    assert_eq!(std::fs::read(site.path("out/a.raw")).unwrap(), b"in use");
    assert_eq!(std::fs::read_dir(site.path("out")).unwrap().count(), 2);
}

#[test]
fn what_cannot_take_a_disk_is_found_out_before_the_repository_is_opened() {
    let site = Site::with_disk(MIB);
    let restore = |target: &'static str| ["restore", "-r", "nowhere", "web01:latest", "--target", target];
    std::fs::write(site.path("full"), "x").unwrap();
    site.refuse(&restore("full"), 1, "exists and is not empty");
    site.refuse(&restore("none/vm.raw"), 1, "No such file");
    site.refuse(&restore("/dev/null"), 1, "character device");
    site.refuse(&restore("free"), 10, "no repository");
}

#[test]
fn what_lies_behind_the_disk_on_a_device_is_told_and_wiped_on_request() {
    let site = Site::with_disk(4 * MIB);
    std::fs::write(site.path("backing"), noise(2, 8 * MIB)).unwrap();
    let Some(device) = LoopDevice::attach(&site.path("backing")) else { return };
    let restore = ["restore", "web01:latest", "--overwrite", "--target", device.name()];
    let plain = site.run(&restore);
    let wiped = site.run(&[&restore[..], &["--wipe-rest", "--json"]].concat());
    let quiet = site.run(&[&restore[..], &["-q"]].concat());
    drop(device);
    assert!(plain.status.success() && wiped.status.success() && quiet.status.success(), "{}", told(&wiped));
    assert!(
        told(&plain).contains("4.0 MiB larger") && told(&plain).contains("--wipe-rest"),
        "{}",
        told(&plain)
    );
    assert_eq!(summary(&wiped)["members"][0]["surplus_bytes"], 4 * MIB);
    assert_eq!(told(&quiet), "", "zeros are no warning");
    let bytes = std::fs::read(site.path("backing")).unwrap();
    assert!(bytes[..4 * MIB] == noise(1, 4 * MIB) && bytes[4 * MIB..].iter().all(|byte| *byte == 0));
}

#[test]
fn few_open_files_are_enough_and_more_are_taken_where_they_may_be() {
    let site = Site::with_disk(16 * MIB);
    std::fs::write(site.path("disk2.raw"), noise(2, 4 * MIB)).unwrap();
    // The first may be raised, the second may not.
    for (limit, disk) in [("-Sn 20", "disk.raw"), ("-n 20", "disk2.raw")] {
        let output = site.shell(&format!(
            "ulimit {limit}; \"$S\" backup --key-file w.key --vm web02 --allow-small {disk} \
             && env -u SANCERRE_PASSWORD \"$S\" check --key-file w.key --read-data \
             && rm -f out.raw && \"$S\" restore web01:latest --target out.raw && cmp disk.raw out.raw"
        ));
        assert!(output.status.success(), "{limit}: {}", told(&output));
    }
}

#[test]
fn a_limit_of_file_sizes_is_named_and_kills_nobody() {
    let site = Site::with_disk(4 * MIB);
    // Units of 1 KiB.
    let output = site.shell("ulimit -f 1000; \"$S\" restore web01:latest --target out.raw");
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("ulimit -f"), "{}", told(&output));
    std::fs::write(site.path("disk.raw"), noise(3, 4 * MIB)).unwrap();
    let output = site.shell("ulimit -f 1000; \"$S\" backup --key-file w.key --vm web01 disk.raw");
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("ulimit -f"), "{}", told(&output));
}

#[test]
fn too_little_memory_for_a_passphrase_is_an_error() {
    let site = Site::with_disk(MIB);
    let output = site.shell("ulimit -v 250000; \"$S\" restore web01:latest --target out.raw");
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let told = told(&output);
    assert!(told.contains("memory") && !told.contains("panicked"), "{told}");
}

/// A machine with a disk that has data, holes, and an end inside a sector's cluster.
fn with_sparse_disk() -> Option<(Site, Vec<u8>)> {
    if !has("qemu-img") {
        return None;
    }
    let site = Site::with_disk(MIB);
    let mut disk = noise(3, 3 * MIB);
    disk.resize(20 * MIB, 0);
    disk.extend(noise(4, MIB + 512));
    std::fs::write(site.path("sparse.raw"), &disk).unwrap();
    std::fs::write(site.path("note.txt"), "of the machine").unwrap();
    let attach = ["--attach", "note.txt=note.txt"];
    site.succeed(
        &[&["backup", "--key-file", "w.key", "--vm", "db01", "disk0=sparse.raw"], &attach[..]].concat(),
    );
    Some((site, disk))
}

#[test]
fn a_disk_becomes_an_image_that_qemu_takes_for_the_same() {
    let Some((site, disk)) = with_sparse_disk() else { return };
    let cases: [(&str, &[&str]); 3] =
        [("plain.qcow2", &[]), ("named.img", &["--format", "qcow2"]), ("small.qcow2", &["--compress"])];
    let mut sizes = Vec::new();
    for (name, options) in cases {
        site.succeed(&[&["restore", "db01:latest:disk0", "--target", name], options].concat());
        let checked = site.shell(&format!(
            "qemu-img check -f qcow2 {name} && qemu-img compare -f qcow2 -F raw {name} sparse.raw"
        ));
        assert!(checked.status.success(), "{name}: {}", told(&checked));
        let blocks = site.path(name).metadata().unwrap().blocks() * 512;
        assert!(blocks < disk.len() as u64 / 2, "{name}: holes take {blocks} bytes");
        sizes.push(blocks);
    }
    // Over an image that is there, and back to a raw disk.
    site.refuse(&["restore", "db01:latest:disk0", "--target", "plain.qcow2"], 1, "--overwrite");
    site.succeed(&["restore", "db01:latest:disk0", "--target", "plain.qcow2", "--overwrite"]);
    site.succeed(&["restore", "db01:latest:disk0", "--target", "raw.qcow2", "--format", "raw"]);
    assert!(std::fs::read(site.path("raw.qcow2")).unwrap() == disk);
}

#[test]
fn a_machine_goes_into_a_directory_as_images_with_its_attachments_as_they_are() {
    let Some((site, _)) = with_sparse_disk() else { return };
    site.succeed(&["restore", "db01:latest", "--target", "out/", "--format", "qcow2"]);
    let checked = site.shell("qemu-img compare -f qcow2 -F raw out/disk0.qcow2 sparse.raw");
    assert!(checked.status.success(), "{}", told(&checked));
    assert_eq!(std::fs::read(site.path("out/note.txt")).unwrap(), b"of the machine");
}

#[test]
fn forms_that_are_not_written_are_refused_before_anything_is_read() {
    let site = Site::with_disk(MIB);
    let restore = ["restore", "web01:latest", "--target"];
    let refuse = |more: &[&str], word: &str| site.refuse(&[&restore[..], more].concat(), 2, word);
    refuse(&["a.vmdk"], "--format raw");
    refuse(&["a.raw", "--format", "vhdx"], "raw or qcow2");
    refuse(&["a.raw", "--format", "tape"], "no format of disks");
    refuse(&["a.raw", "--compress"], "--format qcow2");
    refuse(&["a.qcow2", "--resume"], "--resume");
    refuse(&["-", "--format", "qcow2"], "start to its end");
    assert!(!site.path("a.raw").exists() && !site.path("a.qcow2").exists());
}

/// Of each the newest snapshot, into a directory that is called as the machine.
#[test]
fn all_machines_are_restored_at_once() {
    let site = Site::new();
    for (seed, vm) in [(1, "web01"), (2, "web01"), (3, "db: \"é\""), (4, "files01")] {
        std::fs::write(site.path("disk.raw"), noise(seed, MIB)).unwrap();
        site.save(vm);
    }
    let output = site.succeed(&["restore", "--all", "--target", "out/", "--json"]);
    assert_eq!(summary(&output)["machines"].as_array().unwrap().len(), 3);
    let restored = |folder: &str| std::fs::read(site.path(folder).join("disk0.raw")).unwrap();
    assert!(restored("out/web01") == noise(2, MIB) && restored("out/files01") == noise(4, MIB));
    assert!(restored("out/db%3A %22é%22") == noise(3, MIB));

    site.refuse(&["restore", "--all", "--target", "out/"], 1, "3 machines restored");
    let output = site.succeed(&["restore", "--all", "--target", "out/", "--overwrite"]);
    assert!(told(&output).contains("3 of 3 machines restored"), "{}", told(&output));
    site.succeed(&["restore", "web01:latest~1", "files01:latest", "--target", "two/"]);
    assert!(restored("two/web01") == noise(1, MIB) && restored("two/files01") == noise(4, MIB));
}

#[test]
fn what_one_machine_lost_is_no_reason_to_leave_the_others() {
    let site = Site::new();
    for (seed, vm) in [(1, "web01"), (2, "db01")] {
        let packs = || {
            let found = site.shell("find repository -path '*/packs/*' -type f").stdout;
            let found = String::from_utf8(found).unwrap();
            found.lines().map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let before = packs();
        std::fs::write(site.path("disk.raw"), noise(seed, MIB)).unwrap();
        site.save(vm);
        let of_db01 = packs().into_iter().filter(|pack| vm == "db01" && !before.contains(pack));
        of_db01.for_each(|pack| std::fs::remove_file(site.path(pack)).unwrap());
    }
    let output = site.run(&["restore", "--all", "--target", "out/"]);
    assert!(matches!(output.status.code(), Some(20 | 21)), "{}", told(&output));
    assert!(
        told(&output).contains("db01 was not restored") && told(&output).contains("1 of 2 machines"),
        "{}",
        told(&output)
    );
    assert!(std::fs::read(site.path("out/web01/disk0.raw")).unwrap() == noise(1, MIB));
}

#[test]
fn several_snapshots_need_a_directory_each() {
    let site = Site::with_disk(MIB);
    site.refuse(&["restore", "--all", "--target", "disk2.raw"], 2, "is no directory");
    site.refuse(&["restore", "--all", "--target", "-"], 2, "is no directory");
    site.refuse(&["restore", "web01:latest", "web01:latest", "--target", "out/"], 2, "two of these");
    site.refuse(&["restore", "web01:latest", "nobody:latest", "--target", "out/"], 2, "nobody");
    site.refuse(&["restore", "web01:latest", "--all", "--target", "out/"], 2, "--all");
    site.refuse(&["restore", "--target", "out/"], 2, "SNAPSHOT");
    assert!(!site.path("out/web01").exists());
}
