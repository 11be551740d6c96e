//! The built program on a VHDX whose writer died with writes in the log.

use std::fs;

#[path = "../../../sancerre-image/tests/real/open_log.rs"]
mod open_log;

use open_log::{Begun, SECTOR, leave_open};

use crate::images::{BACKUP, run};
use crate::support::{MIB, Site, has, noise, told};

/// A VHDX with this disk, where its bytes lie in the file, and how long that is.
fn image(site: &Site, disk: &[u8]) -> (u64, u64) {
    fs::write(site.path("base.raw"), disk).unwrap();
    run(site, "qemu-img", &["convert", "-f", "raw", "-O", "vhdx", "base.raw", "a.vhdx"]);
    let bytes = fs::read(site.path("a.vhdx")).unwrap();
    let at = bytes.windows(64).step_by(SECTOR).position(|found| found == &disk[..64]).unwrap() * SECTOR;
    (at as u64, bytes.len() as u64)
}

fn site() -> Option<Site> {
    let site = (has("qemu-img") && has("qemu-nbd")).then(Site::new)?;
    fs::create_dir(site.path("scratch")).unwrap();
    Some(site)
}

/// What the program says of this disk, and what it ends with.
fn saved(site: &Site, name: &str) -> (Option<i32>, String) {
    let mut command = site.command(&[&BACKUP[..], &["web01", name]].concat());
    let output = command.env("TMPDIR", site.path("scratch")).output().unwrap();
    (output.status.code(), told(&output))
}

fn is_nothing_left(site: &Site) -> bool {
    fs::read_dir(site.path("scratch")).unwrap().next().is_none()
}

#[test]
fn what_a_log_holds_is_saved_and_the_image_stays_as_it_is() {
    let Some(site) = site() else { return };
    let mut disk = noise(11, 4 * MIB);
    let (at, length_bytes) = image(&site, &disk);
    let new: [u8; SECTOR] = noise(12, SECTOR).try_into().unwrap();
    let writes = [Begun::Data(at + MIB as u64, &new), Begun::Zeros(at, SECTOR as u64)];
    leave_open(&site.path("a.vhdx"), &writes, length_bytes);
    disk[MIB..MIB + SECTOR].copy_from_slice(&new);
    disk[..SECTOR].fill(0);
    let before = fs::read(site.path("a.vhdx")).unwrap();
    let (code, said) = saved(&site, "a.vhdx");
    assert!(code == Some(0) && said.contains("a.vhdx was not closed by its writer"), "{said}");
    site.succeed(&["restore", "web01:latest:disk0", "--target", "out"]);
    assert!(fs::read(site.path("out")).unwrap() == disk);
    assert!(fs::read(site.path("a.vhdx")).unwrap() == before && is_nothing_left(&site));
    // QEMU itself, with a copy of its own.
    run(&site, "cp", &["a.vhdx", "copy.vhdx"]);
    run(&site, "qemu-img", &["check", "-q", "-r", "all", "copy.vhdx"]);
    run(&site, "qemu-img", &["compare", "-f", "vhdx", "-F", "raw", "copy.vhdx", "out"]);
    let (code, said) = saved(&site, "copy.vhdx");
    assert!(code == Some(0) && !said.contains("not closed"), "{said}");
}
