//! What `qemu-nbd` serves is what `qemu-img` sees.

use sancerre_image::Disk;
use sancerre_image::nbd::NbdOptions;

use crate::support::{MIB, Server, assert_is, have, map_of, run, source};

#[test]
fn raw_and_qcow2_through_qemu_nbd_equal_what_qemu_img_converts_and_maps() {
    if !have(&["qemu-nbd", "qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let raw = source(folder, 20 * MIB);
    for (format, options) in [
        ("raw", ""),
        ("qcow2", ""),
        ("qcow2", "-o cluster_size=512"),
        ("qcow2", "-o cluster_size=2M"),
        ("qcow2", "-o extended_l2=on"),
        ("qcow2", "-o compat=0.10"),
        ("qcow2", "-c -o compression_type=zlib"),
        ("qcow2", "-c -o compression_type=zstd"),
    ] {
        run(&format!("qemu-img convert -O {format} {options} source.raw image"), folder);
        let server = Server::qemu(folder, &format!("-f {format} image"));
        let map = map_of(folder, &format!("-f raw {}", server.uri_text()));
        assert!(map.len() > 3 && map != [0..20 * MIB]);
        for (single_extents, unfragmented) in [(false, false), (true, true)] {
            let options = NbdOptions { single_extents, unfragmented, ..NbdOptions::default() };
            assert_is(&server.open_with(&options), &raw, Some(&map), &format!("{format} {options:?}"));
        }
    }
}

#[test]
fn an_empty_disk_of_terabytes_costs_no_time() {
    if !have(&["qemu-nbd", "qemu-img"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    run("qemu-img create -q -f qcow2 -o cluster_size=2M image 16T", folder.path());
    let server = Server::qemu(folder.path(), "-f qcow2 image");
    let disk = server.open();
    let started = std::time::Instant::now();
    let region = 64 * MIB;
    for start in (0..disk.size_bytes()).step_by(region as usize) {
        assert!(disk.data_ranges(start..start + region).unwrap().is_empty());
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
    eprintln!("16 TiB of holes in regions of 64 MiB: {:?}", started.elapsed());
}
