//! Servers that fail, hang and die.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use sancerre_image::nbd::{NbdDisk, NbdOptions, NbdUri};
use sancerre_image::{Disk, ReadError};

use crate::support::{MIB, Server, have, noise, source};

fn impatient(seconds: u64) -> NbdOptions {
    NbdOptions { timeout: Duration::from_secs(seconds), ..NbdOptions::default() }
}

/// Reads again and again until it fails; the error and how long the last read took.
fn read_until_it_fails(disk: &NbdDisk) -> (ReadError, Duration) {
    let mut bytes = vec![0; 8 << 20];
    loop {
        let started = Instant::now();
        if let Err(error) = disk.read_at(0, &mut bytes) {
            return (error, started.elapsed());
        }
    }
}

#[test]
fn a_server_killed_in_the_middle_of_a_read_is_an_error_at_once() {
    if !have(&["nbdkit", "qemu-nbd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 17 * MIB);
    for server in [
        Server::nbdkit(folder.path(), "--filter=delay file source.raw rdelay=30ms"),
        Server::qemu(folder.path(), "-f raw source.raw"),
    ] {
        let disk = server.open();
        let readers: Vec<(ReadError, Duration)> = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| read_until_it_fails(&disk))).collect();
            std::thread::sleep(Duration::from_millis(300));
            server.signal("KILL");
            readers.into_iter().map(|reader| reader.join().unwrap()).collect()
        });
        for (error, took) in readers {
            assert!(took < Duration::from_secs(5), "{took:?}");
            let message = error.to_string();
            assert!(message.contains("broke while") || message.contains("earlier failure"), "{message}");
        }
        let message = disk.read_at(0, &mut [0; 9]).unwrap_err().to_string();
        assert!(message.contains(&server.uri_text()) && message.contains("earlier failure"), "{message}");
    }
}

#[test]
fn a_server_that_hangs_is_an_error_in_time() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 17 * MIB);
    let server = Server::nbdkit(folder.path(), "file source.raw");
    let disk = server.open_with(&impatient(1));
    disk.read_at(0, &mut [0; 4096]).unwrap();
    server.signal("STOP");
    let (error, took) = read_until_it_fails(&disk);
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(error.to_string().contains("silent for 1 s while reading"), "{error}");
    // The kernel still takes connections for it.
    let started = Instant::now();
    let error = NbdDisk::open(&server.uri(), &impatient(1)).unwrap_err().to_string();
    assert!(error.contains("silent for 1 s while waiting for the server's first word"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(4));
    server.signal("CONT");
}

#[test]
fn every_connection_has_the_whole_patience_for_a_slow_disk() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 17 * MIB);
    // Longer than a connection beside the first may take to open.
    let server = Server::nbdkit(folder.path(), "--filter=delay file source.raw rdelay=6");
    let disk = server.open_with(&impatient(30));
    std::thread::scope(|scope| {
        let read = || disk.read_at(0, &mut [0; 4096]);
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(read)).collect();
        readers.into_iter().for_each(|reader| reader.join().unwrap().unwrap());
    });
}

#[test]
fn a_full_queue_and_a_trickle_of_bytes_end_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let uri = NbdUri::unix(path.clone(), "");
    // A byte every 100 ms: never silent, never done.
    let trickle = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(b"N").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
        // Nobody accepts any more; the queue fills.
        std::thread::sleep(Duration::from_secs(8));
        drop(listener);
    });
    let started = Instant::now();
    let error = NbdDisk::open(&uri, &impatient(1)).unwrap_err().to_string();
    assert!(error.contains("silent for 1 s"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let mut queue = Vec::new();
    let started = Instant::now();
    while let Ok(mut stream) = std::os::unix::net::UnixStream::connect_addr(
        &std::os::unix::net::SocketAddr::from_pathname(&path).unwrap(),
    ) {
        stream.set_nonblocking(true).unwrap();
        let _ = stream.read(&mut [0]);
        queue.push(stream);
        if queue.len() > 100 {
            break;
        }
    }
    let error = NbdDisk::open(&uri, &impatient(1)).unwrap_err().to_string();
    assert!(error.contains("cannot connect") || error.contains("silent"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    drop(queue);
    trickle.join().unwrap();
}

#[test]
fn a_bad_sector_is_named_and_the_rest_can_be_read() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\ncase \"$1\" in\n get_size) echo 1048576 ;;\n pread) if [ $4 -le 500000 ] && \
                  [ $(($4 + $3)) -gt 500000 ]; then echo EIO sector is bad >&2; exit 1; fi\n dd if=/dev/zero \
                  bs=$3 count=1 status=none ;;\n *) exit 2 ;;\nesac\n";
    std::fs::write(folder.path().join("bad.sh"), script).unwrap();
    std::os::unix::fs::chown(folder.path(), None, None).unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path().join("bad.sh"), permissions).unwrap();
    let server = Server::nbdkit(folder.path(), "sh ./bad.sh");
    let disk = server.open();
    let error = disk.read_at(400_000, &mut vec![0; 200_000]).unwrap_err();
    let ReadError::Server { offset, length_bytes, .. } = &error else { panic!("{error}") };
    assert!(*offset <= 500_000 && 500_000 < offset + length_bytes && *length_bytes <= 4096, "{error}");
    assert!(error.to_string().contains("EIO (input/output error)"), "{error}");
    disk.read_at(505_000, &mut [0; 4096]).unwrap();
    disk.read_at(0, &mut vec![0; 499_000]).unwrap();
}

#[test]
fn errors_that_come_and_go_are_read_over() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = noise(3, 4 << 20);
    std::fs::write(folder.path().join("disk"), &bytes).unwrap();
    std::fs::write(folder.path().join("trigger"), "").unwrap();
    let trigger = folder.path().join("trigger");
    let line =
        format!("--filter=error file disk error-pread-rate=100% error-pread-file={}", trigger.display());
    let server = Server::nbdkit(folder.path(), &line);
    let disk = server.open();
    let error = disk.read_at(0, &mut vec![0; 4096]).unwrap_err().to_string();
    assert!(error.contains("EIO"), "{error}");
    std::fs::remove_file(&trigger).unwrap();
    let mut read = vec![0; bytes.len()];
    disk.read_at(0, &mut read).unwrap();
    assert!(read == bytes);
}
