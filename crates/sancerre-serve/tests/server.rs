//! The server over memory: what our own client reads, and what clients that lie get.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use sancerre_image::nbd::{NbdDisk, NbdOptions, NbdUri};
use sancerre_image::{Disk, ReadError};
use sancerre_serve::{ClientLimits, ClientMemory, ReadFailure, ServedDisk, Server, Stretch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BLOCK: usize = 4096;

/// A disk in memory, a part of which cannot be read.
struct Memory {
    name: &'static str,
    bytes: Vec<u8>,
    bad: Range<u64>,
}

impl ServedDisk for Memory {
    fn name(&self) -> &str {
        self.name
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, Result<(), ReadFailure>> {
        let end = offset + buffer.len() as u64;
        let is_bad = offset < self.bad.end && self.bad.start < end;
        let read = async move {
            if is_bad {
                return Err(ReadFailure("object packs/7 is damaged".to_owned()));
            }
            buffer.copy_from_slice(&self.bytes[offset as usize..end as usize]);
            Ok(())
        };
        read.boxed()
    }

    fn stretches(&self, range: Range<u64>, most: usize) -> BoxFuture<'_, Result<Vec<Stretch>, ReadFailure>> {
        let mut found: Vec<Stretch> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = (at / BLOCK as u64 * BLOCK as u64 + BLOCK as u64).min(range.end);
            let is_data = self.bytes[at as usize..end as usize].iter().any(|byte| *byte != 0);
            match found.last_mut() {
                Some(last) if last.is_data == is_data => last.range.end = end,
                _ => found.push(Stretch { range: at..end, is_data }),
            }
            at = end;
        }
        found.truncate(most);
        async move { Ok(found) }.boxed()
    }

    fn prepare(&self, _: Range<u64>) {}
}

/// Data and holes, the last block cut short.
fn bytes(size: usize) -> Vec<u8> {
    let block = |number: usize| if number / 16 % 3 == 1 { 0 } else { (number % 250 + 1) as u8 };
    (0..size).map(|at| block(at / BLOCK)).collect()
}

struct Scene {
    runtime: tokio::runtime::Runtime,
    server: Arc<Server>,
    socket: PathBuf,
    told: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(exports: Vec<Memory>, limits: ClientLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let hears = Arc::clone(&told);
        let exports = exports.into_iter().map(|export| Arc::new(export) as Arc<dyn ServedDisk>).collect();
        let server = Server::new(exports, limits, move |message| hears.lock().unwrap().push(message));
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::bind(&socket).unwrap()
        };
        let serving = Arc::clone(&server);
        runtime.spawn(async move { serving.serve(&listener).await });
        Self { runtime, server, socket, told, _folder: folder }
    }

    fn one(size: usize) -> Self {
        Self::new(vec![Memory { name: "disk0", bytes: bytes(size), bad: 0..0 }], ClientLimits::default())
    }

    fn disk(&self, name: &str) -> NbdDisk {
        NbdDisk::open(&uri(name, &self.socket), &NbdOptions::default()).unwrap()
    }
}

fn uri(name: &str, socket: &Path) -> NbdUri {
    NbdUri::unix(socket.to_owned(), name)
}

#[test]
fn our_client_reads_what_is_served() {
    let size = (9 << 20) + 1234;
    let scene = Scene::one(size);
    let expected = bytes(size);
    for options in [
        NbdOptions::default(),
        NbdOptions { unfragmented: true, ..NbdOptions::default() },
        NbdOptions { single_extents: true, request_bytes: 32 << 20, connections: 1, ..NbdOptions::default() },
    ] {
        let disk = NbdDisk::open(&uri("disk0", &scene.socket), &options).unwrap();
        assert_eq!(disk.size_bytes(), size as u64);
        let mut found = vec![0xee; size];
        disk.read_at(0, &mut found).unwrap();
        assert!(found == expected);
        let ranges = disk.data_ranges(0..size as u64).unwrap();
        let held: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert!(held < size as u64 * 3 / 4, "{held}");
        for (at, byte) in expected.iter().enumerate().step_by(997) {
            assert!(*byte == 0 || ranges.iter().any(|range| range.contains(&(at as u64))));
        }
    }
    assert!(scene.told.lock().unwrap().is_empty());
    let contexts = NbdDisk::contexts(&uri("", &scene.socket), &NbdOptions::default()).unwrap();
    assert_eq!(contexts, ["base:allocation"]);
    assert!(NbdDisk::open(&uri("other", &scene.socket), &NbdOptions::default()).is_err());
}

#[test]
fn damage_is_an_error_where_it_is_and_no_more() {
    let bad = 150_000..154_096;
    let export = Memory { name: "disk0", bytes: bytes(1 << 20), bad: bad.clone() };
    let scene = Scene::new(vec![export], ClientLimits::default());
    let disk = scene.disk("disk0");
    let error = disk.read_at(0, &mut vec![0; 1 << 20]).unwrap_err();
    assert!(matches!(error, ReadError::Server { .. }), "{error}");
    assert!(error.to_string().contains("packs/7"), "{error}");
    let mut before = vec![0; 140_000];
    disk.read_at(0, &mut before).unwrap();
    assert!(before == bytes(140_000));
    disk.read_at(160_000, &mut [0; 4096]).unwrap();
    assert_eq!(*scene.told.lock().unwrap(), ["disk0: object packs/7 is damaged"], "told once");
}

#[test]
fn no_more_clients_than_allowed_and_none_that_says_nothing_for_ever() {
    let export = Memory { name: "disk0", bytes: bytes(1 << 16), bad: 0..0 };
    let limits = ClientLimits { clients: 2, patience: Duration::from_millis(300), ..ClientLimits::default() };
    let scene = Scene::new(vec![export], limits);
    let silent: Vec<UnixStream> = (0..2).map(|_| UnixStream::connect(&scene.socket).unwrap()).collect();
    let ended = |stream: &mut UnixStream| {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        std::io::Read::read_to_end(stream, &mut Vec::new()).is_ok()
    };
    for mut stream in silent {
        assert!(ended(&mut stream));
    }
    scene.disk("disk0").read_at(0, &mut [0; 512]).unwrap();
    let told = scene.told.lock().unwrap().join("\n");
    assert!(told.contains("in time"), "{told}");
}

#[test]
fn a_client_that_stands_still_with_the_memory_of_others_is_sent_away() {
    let size = 4 << 20;
    let memory = ClientMemory::new(1 << 20);
    let limits = ClientLimits { memory, patience: Duration::from_millis(300), ..ClientLimits::default() };
    let export = Memory { name: "disk0", bytes: bytes(size), bad: 0..0 };
    let scene = Scene::new(vec![export], limits);
    let asks = |script: Vec<u8>| {
        let mut stream = UnixStream::connect(&scene.socket).unwrap();
        std::io::Write::write_all(&mut stream, &[opened(), script].concat()).unwrap();
        stream
    };
    // One alone has no more than half of it; two take nothing of what they asked for, which is more than a socket holds.
    let greedy = [(); 2].map(|()| asks((0..8).flat_map(|_| request(0, 0, 0, size as u32)).collect()));
    let mut found = vec![0; size];
    scene.disk("disk0").read_at(0, &mut found).unwrap();
    assert!(found == bytes(size));
    let told = scene.told.lock().unwrap().join("\n");
    assert!(told.contains("others need the memory"), "{told}");
    drop(greedy);
}

/// What the server answers to a script, until it hangs up; the script's end is the client's.
fn answers(scene: &Scene, script: Vec<u8>) -> Vec<u8> {
    scene.runtime.block_on(async {
        let (mut client, stream) = tokio::io::duplex(1 << 20);
        let server = Arc::clone(&scene.server);
        let serving = tokio::spawn(async move { server.converse(stream).await });
        client.write_all(&script).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answers = Vec::new();
        let read = client.read_to_end(&mut answers);
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("the server hangs").unwrap();
        serving.await.unwrap();
        answers
    })
}

fn option(number: u32, content: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &(content.len() as u32).to_be_bytes(), content].concat()
}

fn request(command: u16, flags: u16, offset: u64, length: u32) -> Vec<u8> {
    let head = [&0x2560_9513_u32.to_be_bytes()[..], &flags.to_be_bytes(), &command.to_be_bytes()].concat();
    [&head[..], &9_u64.to_be_bytes(), &offset.to_be_bytes(), &length.to_be_bytes()].concat()
}

/// Up to the requests, by the old way and without structured replies.
fn opened() -> Vec<u8> {
    [&3_u32.to_be_bytes()[..], &option(1, b"disk0")].concat()
}

#[test]
fn what_a_client_may_not_is_refused_by_number() {
    let scene = Scene::one(1 << 16);
    let error_of = |script: Vec<u8>| {
        let said = answers(&scene, [opened(), script, request(2, 0, 0, 0)].concat());
        // The greeting, the export, then one simple answer.
        let answer = &said[18 + 10..];
        assert_eq!(answer[8..16], 9_u64.to_be_bytes());
        u32::from_be_bytes(answer[4..8].try_into().unwrap())
    };
    let write = [request(1, 0, 0, 512), vec![1; 512]].concat();
    for (script, expected) in [
        (request(0, 0, 0, 512), 0),
        (request(3, 0, 0, 0), 0),
        (request(5, 0, 0, 4096), 0),
        (write, 1),
        (request(4, 0, 0, 512), 1),
        (request(6, 0, 0, 512), 1),
        (request(0, 0, 1 << 16, 1), 22),
        (request(0, 0, u64::MAX, 2), 22),
        (request(0, 0, 0, 0), 22),
        (request(0, 4, 0, 512), 22),
        (request(0, 1 << 9, 0, 512), 22),
        (request(7, 0, 0, 512), 22),
        (request(99, 0, 0, 512), 22),
    ] {
        assert_eq!(error_of(script.clone()), expected, "{script:?}");
    }
}

#[test]
fn options_that_are_not_known_are_said_to_be() {
    let scene = Scene::one(1 << 16);
    let script = [
        &3_u32.to_be_bytes()[..],
        &option(77, b"what"),
        &option(3, b"no content here"),
        &option(7, &[0, 0, 0, 9, b'x']),
        &option(9, &[0; 8]),
        &option(10, &vec![0; 70_000]),
        &option(2, &[]),
    ]
    .concat();
    let said = answers(&scene, script);
    let mut kinds = Vec::new();
    let mut rest = &said[18..];
    while rest.len() >= 20 {
        kinds.push(u32::from_be_bytes(rest[12..16].try_into().unwrap()));
        let length = u32::from_be_bytes(rest[16..20].try_into().unwrap()) as usize;
        rest = &rest[20 + length..];
    }
    let error = |number: u32| 1 << 31 | number;
    assert_eq!(kinds, [error(1), error(3), error(3), error(3), error(9), 1]);
}

/// A word of a client: right, or with something wrong in it.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let content = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        (0u32..12, content.clone()).prop_map(|(number, content)| option(number, &content)),
        Just(option(8, &[])),
        Just(option(10, &[&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15], &b"base:allocation"[..]].concat())),
        Just(option(7, &[0, 0, 0, 5, b'd', b'i', b's', b'k', b'0', 0, 0])),
        (0u16..10, 0u16..9, 0u64..70_000, 0u32..70_000)
            .prop_map(|(command, flags, offset, length)| request(command, flags, offset, length)),
        content,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_client_says_the_server_ends_with_it(
        flags in prop_oneof![3 => Just(3u32), 1 => any::<u32>()],
        words in proptest::collection::vec(word(), 0..12),
    ) {
        let scene = Scene::one(1 << 16);
        let script = [flags.to_be_bytes().to_vec(), words.concat()].concat();
        answers(&scene, script);
        let mut found = [0; 512];
        scene.disk("disk0").read_at(0, &mut found).unwrap();
        assert_eq!(found, bytes(512)[..]);
        assert!(scene.told.lock().unwrap().iter().all(|line| !line.contains("bug")));
    }
}
