//! Programs, servers and images for the tests, and the loud way to skip where a program is missing.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sancerre_image::Disk;
use sancerre_image::nbd::{NbdDisk, NbdOptions, NbdUri};

pub(crate) const MIB: u64 = 1 << 20;

/// Where everything must run, a skip is a failure.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot run here, and CI is set: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// Whether the programs are there.
pub(crate) fn have(programs: &[&str]) -> bool {
    let missing =
        |program: &&&str| !Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    match programs.iter().find(missing) {
        Some(program) => skip(&format!("{program} is not installed; `cargo xtask setup` does it")),
        None => return true,
    }
    false
}

pub(crate) fn run(line: &str, folder: &Path) -> String {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let output = Command::new(words.next().unwrap()).args(words).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A sparse disk: noise, text and written zeros between holes.
pub(crate) fn source(folder: &Path, size: u64) -> PathBuf {
    use std::os::unix::fs::FileExt;
    let path = folder.join("source.raw");
    let file = fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(&noise(1, 3 << 20), MIB).unwrap();
    file.write_all_at(&vec![b'x'; 70_000], 9 * MIB + 512).unwrap();
    file.write_all_at(&vec![0; 1 << 20], 12 * MIB).unwrap();
    for number in 0..20 {
        file.write_all_at(&noise(number + 2, 5000), 14 * MIB + number * 65536).unwrap();
    }
    file.write_all_at(&noise(99, 512), size - 512).unwrap();
    path
}

/// A server, ended when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
}

impl Server {
    /// Starts a program that makes the socket, and waits for it.
    pub(crate) fn start(mut command: Command, socket: PathBuf) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, socket };
        let deadline = Instant::now() + Duration::from_secs(20);
        // A socket is there before it listens.
        let listens = |path: &Path| {
            let is_socket = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
            if is_socket { UnixStream::connect(path).is_ok() } else { path.exists() }
        };
        while !listens(&server.socket) {
            assert!(server.child.try_wait().unwrap().is_none(), "{command:?} ended");
            assert!(Instant::now() < deadline, "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    pub(crate) fn qemu(folder: &Path, arguments: &str) -> Self {
        let socket = folder.join("qemu.sock");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("qemu-nbd");
        command
            .args(["-r", "-t", "--shared=8", "-k"])
            .arg(&socket)
            .args(arguments.split(' '))
            .current_dir(folder);
        Self::start(command, socket)
    }

    pub(crate) fn nbdkit(folder: &Path, arguments: &str) -> Self {
        let socket = folder.join("nbdkit.sock");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("nbdkit");
        command.args(["-f", "-U"]).arg(&socket).args(arguments.split(' ')).current_dir(folder);
        Self::start(command, socket)
    }

    pub(crate) fn uri(&self) -> NbdUri {
        NbdUri::parse(&self.uri_text()).unwrap()
    }

    pub(crate) fn uri_text(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    pub(crate) fn open(&self) -> NbdDisk {
        self.open_with(&NbdOptions::default())
    }

    pub(crate) fn open_with(&self, options: &NbdOptions) -> NbdDisk {
        NbdDisk::open(&self.uri(), options).unwrap()
    }

    pub(crate) fn signal(&self, signal: &str) {
        run(&format!("kill -{signal} {}", self.child.id()), Path::new("/"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All bytes of a disk, read in pieces that fit no block.
pub(crate) fn bytes_of(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xaa; usize::try_from(disk.size_bytes()).unwrap()];
    let mut at = 0;
    for piece in bytes.chunks_mut(1_234_567) {
        disk.read_at(at, piece).unwrap();
        at += piece.len() as u64;
    }
    bytes
}

/// The ranges that `qemu-img map` does not call zero.
pub(crate) fn map_of(folder: &Path, arguments: &str) -> Vec<Range<u64>> {
    let text = run(&format!("qemu-img map --output=json {arguments}"), folder);
    let entries: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for entry in entries.iter().filter(|entry| !entry["zero"].as_bool().unwrap()) {
        let start = entry["start"].as_u64().unwrap();
        let end = start + entry["length"].as_u64().unwrap();
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

/// The disk is these bytes, and its ranges are `map`, whole and in parts.
pub(crate) fn assert_is(disk: &dyn Disk, raw: &Path, map: Option<&[Range<u64>]>, what: &str) {
    assert!(bytes_of(disk) == fs::read(raw).unwrap(), "{what}: other bytes");
    let whole = 0..disk.size_bytes();
    let ranges = disk.data_ranges(whole.clone()).unwrap();
    if let Some(map) = map {
        assert_eq!(ranges, map, "{what}");
    }
    let mut joined: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < whole.end {
        let end = (at + 777_777).min(whole.end);
        for range in disk.data_ranges(at..end).unwrap() {
            match joined.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => joined.push(range),
            }
        }
        at = end;
    }
    assert_eq!(joined, ranges, "{what}: in parts");
    // Everything else is zeros.
    let bytes = fs::read(raw).unwrap();
    let mut at = 0;
    for range in ranges.iter().cloned().chain([whole.end..whole.end]) {
        let hole = &bytes[at as usize..range.start as usize];
        assert!(hole.iter().all(|byte| *byte == 0), "{what}: data in the hole at {at}");
        at = range.end;
    }
}
