//! The built program restores over a damaged disk where it lies, and keeps what it replaces: QEMU reads that.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use crate::support::{Loop, MIB, Site, has, noise, summary, told};

/// 24 MiB of data, holes around them, and a size that is no whole cluster or sector.
fn site() -> Site {
    let site = Site::new();
    let file = File::create(site.path("disk.raw")).unwrap();
    file.set_len(48 * MIB as u64 + 100).unwrap();
    file.write_all_at(&noise(51, 24 * MIB), 8 * MIB as u64).unwrap();
    file.write_all_at(b"the end", 48 * MIB as u64 + 93).unwrap();
    site.succeed(&["backup", "--key-file", "w.key", "--vm", "web01", "disk.raw"]);
    site
}

/// What an attacker did: a stretch encrypted, a hole filled, data wiped, the end changed.
fn attack(site: &Site) -> Vec<u8> {
    let file = File::options().write(true).open(site.path("disk.raw")).unwrap();
    for (at, bytes) in [
        (10 * MIB + 777, noise(52, 16 * MIB)),
        (40 * MIB, noise(54, 300_000)),
        (28 * MIB, vec![0; MIB]),
        (48 * MIB + 93, b"gone!!!".to_vec()),
    ] {
        file.write_all_at(&bytes, at as u64).unwrap();
    }
    fs::read(site.path("disk.raw")).unwrap()
}

#[test]
fn only_what_differs_is_fetched_and_the_overlay_shows_the_disk_as_it_was() {
    if !has("qemu-img") {
        return;
    }
    let site = site();
    let whole = fs::read(site.path("disk.raw")).unwrap();
    let damaged = attack(&site);
    let inode = fs::metadata(site.path("disk.raw")).unwrap().ino();
    let restore =
        ["restore", "web01:latest", "--target", "disk.raw", "--in-place", "--keep-damaged", "was.qcow2"];
    let told = summary(&site.succeed(&[&restore[..], &["--json"]].concat()));
    assert!(fs::read(site.path("disk.raw")).unwrap() == whole);
    assert_eq!(fs::metadata(site.path("disk.raw")).unwrap().ino(), inode);
    // Noise is stored as it is: 17 MiB of data differ, in whole chunks, and as many are fetched, with their frames and the map.
    let (kept, data) = (told["kept_bytes"].as_u64().unwrap(), told["data_bytes"].as_u64().unwrap());
    let (differs, fetched) = (data - kept, told["fetched_bytes"].as_u64().unwrap());
    assert!((17 << 20..19 << 20).contains(&differs), "{told}");
    assert!(fetched * 10 <= differs * 12, "{fetched} bytes were fetched for {differs} that differ: {told}");
    // What was replaced, and no more.
    assert!(fs::metadata(site.path("was.qcow2")).unwrap().blocks() * 512 < 20 << 20);
    let qemu_img = |arguments: &[&str]| {
        let output = Command::new("qemu-img").args(arguments).current_dir(&site.folder).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", crate::support::told(&output));
    };
    qemu_img(&["check", "-f", "qcow2", "was.qcow2"]);
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", "was.qcow2", "was.raw"]);
    let was = fs::read(site.path("was.raw")).unwrap();
    assert!(was[..damaged.len()] == damaged && was.len() < damaged.len() + 512);
    // Our own reader agrees, with the base by its flag alone.
    let backup = ["backup", "--key-file", "w.key", "--vm", "evidence", "was.qcow2"];
    assert_eq!(site.run(&backup).status.code(), Some(1));
    site.succeed(&[&backup[..], &["--image-parts", "."]].concat());
    // Once more nothing differs, and nothing but the map is fetched.
    let again = ["restore", "web01:latest", "--target", "disk.raw", "--in-place", "--json"];
    let told = summary(&site.succeed(&again));
    assert!(
        told["kept_bytes"] == told["data_bytes"] && told["fetched_bytes"].as_u64().unwrap() < 1 << 20,
        "{told}"
    );
}

#[test]
fn what_cannot_be_restored_in_place_is_left_as_it_is() {
    let site = site();
    let damaged = attack(&site);
    let refuses = |code: i32, more: &[&str], words: &str| {
        let output = site.run(&[&["restore", "web01:latest", "--in-place"], more].concat());
        assert_eq!(output.status.code(), Some(code), "{more:?}: {}", told(&output));
        assert!(told(&output).contains(words), "{words}: {}", told(&output));
        assert!(fs::read(site.path("disk.raw")).unwrap() == damaged);
    };
    fs::write(site.path("other.raw"), b"short").unwrap();
    fs::create_dir(site.path("folder")).unwrap();
    refuses(1, &["--target", "other.raw", "--keep-damaged", "was.qcow2"], "has 5 bytes");
    assert!(!site.path("was.qcow2").exists());
    refuses(1, &["--target", "none.raw"], "none.raw");
    refuses(2, &["--target", "folder"], "one file or device");
    refuses(1, &["--target", "disk.raw", "--keep-damaged", "other.raw"], "not empty");
    refuses(2, &["--target", "disk.raw", "--keep-damaged", "repository/was.qcow2"], "inside the repository");
    refuses(2, &["--target", "disk.raw", "--overwrite"], "--overwrite");
    // No room for what would be replaced: then nothing is.
    let Some(small) = Loop::new(site.folder.path(), 12, &[]) else { return };
    refuses(1, &["--target", "disk.raw", "--keep-damaged", "mounted/was.qcow2"], "find room");
    assert_eq!(
        fs::read_dir(&small.mountpoint)
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name() != "lost+found" })
            .count(),
        0
    );
}
