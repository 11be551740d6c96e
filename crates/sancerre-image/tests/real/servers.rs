//! Servers of all kinds: what they can and cannot do.

use std::path::Path;

use sancerre_image::Disk;
use sancerre_image::nbd::{NbdDisk, NbdOptions, NbdUri};

use crate::support::{MIB, Server, assert_is, bytes_of, have, noise, source};

#[test]
fn nbdkit_is_read_with_and_without_every_part_of_the_protocol() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let raw = source(folder, 17 * MIB);
    for arguments in [
        "file source.raw",
        "--no-sr file source.raw",
        "--mask-handshake=0 file source.raw",
        "--mask-handshake=1 file source.raw",
        "--filter=noextents file source.raw",
        "--filter=noparallel file source.raw serialize=requests",
        "--filter=multi-conn file source.raw multi-conn-mode=disable",
        "--filter=blocksize-policy file source.raw blocksize-minimum=4096 blocksize-preferred=4096 \
         blocksize-maximum=65536 blocksize-error-policy=error",
        "--filter=blocksize-policy file source.raw blocksize-minimum=65536 blocksize-preferred=65536 \
         blocksize-maximum=131072 blocksize-error-policy=error",
        "--filter=delay file source.raw rdelay=2ms",
    ] {
        let server = Server::nbdkit(folder, &arguments.split_whitespace().collect::<Vec<_>>().join(" "));
        for options in
            [NbdOptions::default(), NbdOptions { depth: 1, request_bytes: 100_000, ..NbdOptions::default() }]
        {
            let disk = server.open_with(&options);
            assert_is(&disk, &raw, None, arguments);
            let sparse = !arguments.contains("noextents")
                && !arguments.contains("mask-handshake=0")
                && !arguments.contains("--no-sr");
            assert_eq!(disk.data_ranges(5 * MIB..8 * MIB).unwrap().is_empty(), sparse, "{arguments}");
        }
    }
}

#[test]
fn odd_sizes_and_offsets_come_back_exactly() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bytes = noise(7, 1_000_003);
    std::fs::write(folder.path().join("odd"), &bytes).unwrap();
    let server = Server::nbdkit(folder.path(), "file odd");
    let disk = server.open();
    assert_eq!(disk.size_bytes(), 1_000_003);
    assert!(bytes_of(&disk) == bytes);
    for (offset, length) in [(0_usize, 1_usize), (511, 2), (999_999, 4), (1, 999_999), (1_000_003, 0)] {
        let mut buffer = vec![0xaa; length];
        disk.read_at(offset as u64, &mut buffer).unwrap();
        assert!(buffer == bytes[offset..offset + length], "{offset} {length}");
    }
    let empty = Server::nbdkit(folder.path(), "null size=0").open();
    assert!(empty.size_bytes() == 0 && empty.data_ranges(0..0).unwrap().is_empty());
}

#[test]
fn tcp_and_several_readers_at_once() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = source(folder.path(), 17 * MIB);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let pid = folder.path().join("pid");
    let mut command = std::process::Command::new("nbdkit");
    command.args(["-f", "-i", "127.0.0.1", "-p", &port.to_string(), "-P"]).arg(&pid).arg("file").arg(&raw);
    let _server = Server::start(command, pid);
    let uri = NbdUri::parse(&format!("nbd://127.0.0.1:{port}")).unwrap();
    let disk = NbdDisk::open(&uri, &NbdOptions::default()).unwrap();
    assert!(disk.export().can_multi_connect);
    let wanted = std::fs::read(&raw).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert!(bytes_of(&disk) == wanted));
        }
    });
}

#[test]
fn nothing_but_reads_and_questions_is_sent() {
    if !have(&["nbdkit"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = source(folder.path(), 17 * MIB);
    let server = Server::nbdkit(folder.path(), "--filter=log file source.raw logfile=log");
    assert_is(&server.open(), &raw, None, "log");
    drop(server);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let kinds: std::collections::BTreeSet<&str> = log
        .lines()
        .filter_map(|line| {
            line.split(' ').find(|word| {
                word.chars().all(|c| c.is_alphanumeric())
                    && word.starts_with(|c: char| c.is_ascii_uppercase())
            })
        })
        .collect();
    let known = [
        "Ready",
        "ListExports",
        "Preconnect",
        "Connect",
        "Read",
        "Extents",
        "Disconnect",
        "Fork",
        "Unload",
        "Cleanup",
        "Load",
    ];
    assert!(kinds.contains("Read") && kinds.contains("Extents"), "{kinds:?}\n{log}");
    assert!(kinds.iter().all(|kind| known.contains(kind)), "{kinds:?}");
}

#[test]
fn servers_that_cannot_be_used_are_named_with_the_reason() {
    if !have(&["nbdkit", "qemu-nbd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    source(folder, 17 * MIB);
    let open = |uri: &str| {
        NbdDisk::open(&NbdUri::parse(uri).unwrap(), &NbdOptions::default()).unwrap_err().to_string()
    };
    let old = Server::nbdkit(folder, "--oldstyle file source.raw");
    assert!(open(&old.uri_text()).contains("old style"), "{}", open(&old.uri_text()));
    drop(old);
    let named = Server::qemu(folder, "-f raw -x vda source.raw");
    let message = open(&named.uri_text());
    assert!(message.contains("no such export") && message.contains("check the name"), "{message}");
    assert_eq!(named.open_named("vda").size_bytes(), 17 * MIB);
    let contexts = NbdDisk::contexts(&named.uri_named("vda"), &NbdOptions::default()).unwrap();
    assert_eq!(contexts, ["base:allocation"]);
    drop(named);
    let message = open("nbd+unix:///?socket=/nonexistent/socket");
    assert!(message.contains("nbd+unix:///?socket=/nonexistent/socket: cannot connect"), "{message}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let http = std::thread::spawn(move || {
        use std::io::Write;
        listener.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    assert!(open(&format!("nbd://127.0.0.1:{port}/x")).contains("no NBD server"));
    http.join().unwrap();
}

impl Server {
    fn uri_named(&self, name: &str) -> NbdUri {
        NbdUri::unix(self.socket.clone(), name)
    }

    fn open_named(&self, name: &str) -> NbdDisk {
        NbdDisk::open(&self.uri_named(name), &NbdOptions::default()).unwrap()
    }
}

#[test]
fn messages_name_the_export_as_the_user_did() {
    let disk = NbdUri::unix(Path::new("/run/a b").into(), "x");
    assert_eq!(disk.to_string(), "nbd+unix:///x?socket=/run/a b");
}
