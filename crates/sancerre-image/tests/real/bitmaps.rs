//! Dirty bitmaps of QEMU, over NBD and as `qemu-img` prints them.

use std::ops::Range;

use sancerre_image::change_map::ChangeMap;
use sancerre_image::nbd::{NbdDisk, NbdOptions};

use crate::support::{MIB, Server, have, run, source};

const CONTEXT: &str = "qemu:dirty-bitmap:night";

/// A qcow2 with a bitmap, and what was written since the bitmap began, in its grains of 64 KiB.
fn image(folder: &std::path::Path) -> Vec<Range<u64>> {
    source(folder, 64 * MIB);
    run("qemu-img convert -O qcow2 source.raw image", folder);
    run("qemu-img bitmap --add image night", folder);
    for command in ["write -P 7 70000 10", "write -z 1M 64k", "discard 12M 64k", "write -P 9 40M 1M"] {
        let output = std::process::Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", command, "image"])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    vec![65536..131_072, MIB..MIB + 65536, 12 * MIB..12 * MIB + 65536, 40 * MIB..41 * MIB]
}

#[test]
fn a_dirty_bitmap_says_what_was_written_and_equals_what_qemu_img_prints() {
    if !have(&["qemu-nbd", "qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let wanted = image(folder.path());
    let server = Server::qemu(folder.path(), "-f qcow2 -B night image");
    let contexts = NbdDisk::contexts(&server.uri(), &NbdOptions::default()).unwrap();
    assert_eq!(contexts, ["base:allocation", CONTEXT]);
    for single_extents in [false, true] {
        let options = NbdOptions { bitmap: Some(CONTEXT.into()), single_extents, ..NbdOptions::default() };
        let map = server.open_with(&options).changes().unwrap();
        assert_eq!(map.ranges(), wanted);
    }
    let options = format!(
        "--image-opts driver=nbd,server.type=unix,server.path={},x-dirty-bitmap={CONTEXT}",
        server.socket.display()
    );
    let printed = run(&format!("qemu-img map --output=json {options}"), folder.path());
    let map = ChangeMap::read(printed.as_bytes(), 64 * MIB).unwrap();
    assert_eq!((map.source(), map.ranges()), ("qemu-bitmap", &wanted[..]));
    let missing = NbdOptions { bitmap: Some("qemu:dirty-bitmap:other".into()), ..NbdOptions::default() };
    let message = NbdDisk::open(&server.uri(), &missing).unwrap_err().to_string();
    assert!(message.contains(&format!("it has base:allocation, {CONTEXT}")), "{message}");
}

#[test]
fn the_map_of_an_overlay_is_what_it_has_itself() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 64 * MIB);
    run("qemu-img create -q -f qcow2 -b source.raw -F raw over", folder.path());
    for command in ["write -P 7 70000 10", "write -z 1M 64k", "write -P 9 40M 1M"] {
        let mut io = std::process::Command::new("qemu-io");
        assert!(
            io.args(["-f", "qcow2", "-c", command, "over"])
                .current_dir(&folder)
                .output()
                .unwrap()
                .status
                .success()
        );
    }
    let printed = run("qemu-img map --output=json -f qcow2 over", folder.path());
    let map = ChangeMap::read(printed.as_bytes(), 64 * MIB).unwrap();
    let wanted = [65536..131_072, MIB..MIB + 65536, 40 * MIB..41 * MIB];
    assert_eq!((map.source(), map.ranges()), ("qemu-map", &wanted[..]), "{printed}");
}
