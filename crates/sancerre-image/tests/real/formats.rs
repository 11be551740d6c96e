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

/// Reads everything in windows of 2 MiB as a backup does, from so many threads; seconds.
fn seconds(disk: &dyn Disk, threads: u64) -> f64 {
    const WINDOW: u64 = 2 * MIB;
    let next = std::sync::atomic::AtomicU64::new(0);
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = vec![0; WINDOW as usize];
                loop {
                    let at = next.fetch_add(WINDOW, std::sync::atomic::Ordering::Relaxed);
                    if at >= disk.size_bytes() {
                        break;
                    }
                    disk.read_at(at, &mut buffer).unwrap();
                }
            });
        }
    });
    started.elapsed().as_secs_f64()
}

/// A measurement: run it alone, with `--run-ignored only --no-capture`.
#[test]
#[ignore = "a measurement"]
fn throughput_through_qemu_nbd_against_the_same_file_read_raw() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let raw = folder.join("source.raw");
    std::fs::write(&raw, crate::support::noise(5, 256 << 20)).unwrap();
    run("qemu-img convert -O qcow2 source.raw image.qcow2", folder);
    run("qemu-img convert -O vhdx source.raw image.vhdx", folder);
    let file = sancerre_image::open_raw(&raw).unwrap();
    for (threads, arguments) in [
        (1, "-f raw source.raw"),
        (2, "-f raw source.raw"),
        (2, "-f qcow2 image.qcow2"),
        (2, "-f vhdx image.vhdx"),
    ] {
        let server = Server::qemu(folder, arguments);
        for (kib, depth) in [(64, 16), (128, 16), (256, 16), (512, 16), (256, 2)] {
            let disk =
                server.open_with(&NbdOptions { request_bytes: kib << 10, depth, ..NbdOptions::default() });
            let mut pairs: Vec<(f64, f64)> =
                (0..9).map(|_| (seconds(&file, threads), seconds(&disk, threads))).collect();
            pairs.sort_by(|one, two| (one.0 / one.1).total_cmp(&(two.0 / two.1)));
            let (plain, over) = pairs[4];
            eprintln!(
                "{threads} threads, {arguments}, {depth} requests of {kib} KiB: {:.2} of raw ({:.2} of {:.2} GiB/s)",
                plain / over,
                0.25 / over,
                0.25 / plain
            );
        }
    }
}
