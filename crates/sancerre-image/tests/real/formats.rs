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

/// User and system time of a process.
fn processor_seconds(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Medians of the speed against the raw file, and processor seconds for a GiB: the raw file, the client, the server.
fn measure(file: &dyn Disk, disk: &dyn Disk, threads: u64, server: u32) -> (f64, [f64; 3]) {
    const ROUNDS: u32 = 9;
    let own = std::process::id();
    let (mut ratios, mut times) = (Vec::new(), [0.0; 3]);
    for _ in 0..ROUNDS {
        let before = processor_seconds(own);
        let plain = seconds(file, threads);
        let between = (processor_seconds(own), processor_seconds(server));
        ratios.push(plain / seconds(disk, threads));
        times[0] += between.0 - before;
        times[1] += processor_seconds(own) - between.0;
        times[2] += processor_seconds(server) - between.1;
    }
    ratios.sort_by(f64::total_cmp);
    let read = f64::from(ROUNDS) * file.size_bytes() as f64 / f64::from(1 << 30);
    (ratios[ratios.len() / 2], times.map(|time| time / read))
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
    for arguments in ["-f raw source.raw", "-f qcow2 image.qcow2", "-f vhdx image.vhdx"] {
        for (threads, kib) in [(1, 512), (2, 256), (2, 512), (2, 1024)] {
            let server = Server::qemu(folder, arguments);
            let disk = server.open_with(&NbdOptions { request_bytes: kib << 10, ..NbdOptions::default() });
            let (ratio, [plain, client, service]) = measure(&file, &disk, threads, server.child.id());
            eprintln!(
                "{arguments}: {threads} readers, {kib} KiB: {ratio:.2} of raw; processor seconds per GiB: raw \
                 {plain:.2}, client {client:.2}, server {service:.2}"
            );
        }
        // The measure of clients: libnbd's own copier, which throws the bytes away.
        let server = Server::qemu(folder, arguments);
        let before = processor_seconds(server.child.id());
        let started = std::time::Instant::now();
        let line = format!("nbdcopy --connections=2 --request-size=524288 {} null:", server.uri_text());
        (0..9).for_each(|_| drop(run(&line, folder)));
        let copier = started.elapsed().as_secs_f64() / 9.0;
        let service = (processor_seconds(server.child.id()) - before) / 9.0 * 4.0;
        let mut own: Vec<f64> = (0..9).map(|_| seconds(&server.open(), 2)).collect();
        own.sort_by(f64::total_cmp);
        eprintln!(
            "{arguments}: nbdcopy {:.2} GiB/s, ours {:.2} GiB/s; its server {service:.2} s per GiB",
            0.25 / copier,
            0.25 / own[4]
        );
    }
}
