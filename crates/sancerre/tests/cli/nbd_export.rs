//! The built program as an NBD server: what clients of all kinds read is the disk, and none of them can harm another.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{MIB, Site as Folder, has, noise, told};
use rustix::process::{Pid, Signal, kill_process};
use sancerre_image::Disk;
use sancerre_image::nbd::{NbdDisk, NbdOptions, NbdUri};
use serde_json::Value;

/// A disk with data, zeros that are written, holes, and a size that is no whole block.
fn disk() -> Vec<u8> {
    let mut disk = noise(41, 3 * MIB);
    disk.resize(40 * MIB, 0);
    disk.extend(noise(42, 5 * MIB + 512));
    disk
}

struct Site {
    local: Folder,
    bytes: Vec<u8>,
}

impl Site {
    /// With a snapshot of two disks.
    fn new() -> Self {
        let site = Self { local: Folder::new(), bytes: disk() };
        std::fs::write(site.local.path("disk.raw"), &site.bytes).unwrap();
        std::fs::write(site.local.path("data.raw"), noise(43, 2 * MIB)).unwrap();
        let disks = ["disk0=disk.raw", "data=data.raw"];
        let options = ["backup", "--key-file", "w.key", "--vm", "web01", "--allow-small"];
        site.local.succeed(&[&options[..], &disks].concat());
        site
    }

    /// Serves a snapshot, and waits until clients may come.
    fn serve(&self, snapshot: &str) -> Serving {
        self.serve_with(&[snapshot])
    }

    fn serve_with(&self, words: &[&str]) -> Serving {
        let socket = self.local.path("s.sock");
        let mut command = self.local.command(&[&["nbd", "--socket", "s.sock", "--json"], words].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut serving = Serving { child: Some(child), socket };
        let started = Instant::now();
        while UnixStream::connect(&serving.socket).is_err() {
            let ended = serving.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < Duration::from_secs(120),
                "{}",
                told(&serving.ended())
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        serving
    }
}

/// A server that ends with the test.
struct Serving {
    child: Option<Child>,
    socket: PathBuf,
}

impl Serving {
    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    fn disk(&self, export: &str) -> NbdDisk {
        NbdDisk::open(&NbdUri::parse(&self.uri(export)).unwrap(), &NbdOptions::default()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn ended(&mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    /// Ends it as an administrator does; returns its summary.
    fn stop(mut self) -> (ExitStatus, Value) {
        self.signal(Signal::TERM);
        let output = self.ended();
        let text = String::from_utf8_lossy(&output.stdout);
        let summary = text.lines().last().unwrap_or_else(|| panic!("{}", told(&output)));
        (output.status, serde_json::from_str(summary).unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn whole(disk: &NbdDisk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.size_bytes()).unwrap()];
    bytes.chunks_mut(MIB).enumerate().for_each(|(at, piece)| disk.read_at((at * MIB) as u64, piece).unwrap());
    bytes
}

#[test]
fn clients_of_all_kinds_read_the_disk() {
    let site = Site::new();
    let serving = site.serve("web01:latest");
    let mode = serving.socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let ours = serving.disk("disk0");
    assert!(whole(&ours) == site.bytes);
    assert!(whole(&serving.disk("data")) == noise(43, 2 * MIB));
    let data: u64 =
        ours.data_ranges(0..ours.size_bytes()).unwrap().iter().map(|range| range.end - range.start).sum();
    assert!(data < 9 * MIB as u64, "holes are told: {data}");
    assert!(ours.export().can_multi_connect && ours.export().is_structured);

    let raw = site.local.path("disk.raw").display().to_string();
    let uri = serving.uri("disk0");
    if has("qemu-img") {
        let same = succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", &raw, &uri]);
        assert!(same.contains("identical"), "{same}");
        let out = site.local.path("converted").display().to_string();
        succeed("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, &out]);
        assert!(std::fs::read(&out).unwrap() == site.bytes);
        assert!(std::fs::metadata(&out).unwrap().blocks() * 512 < 20 * MIB as u64, "holes stay holes");
    }
    if has("qemu-img") {
        // What a guest starts from.
        let overlay = site.local.path("overlay.qcow2").display().to_string();
        succeed("qemu-img", &["create", "-f", "qcow2", "-F", "raw", "-b", &uri, &overlay]);
        let same = succeed("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &overlay, &raw]);
        assert!(same.contains("identical"), "{same}");
    }
    if has("nbdinfo") {
        let list = succeed("nbdinfo", &["--list", &serving.uri("")]);
        assert!(list.contains("export=\"disk0\"") && list.contains("export=\"data\""), "{list}");
        let map = succeed("nbdinfo", &["--map", &uri]);
        let hole = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words[2] == "3" && words[1].parse::<usize>().unwrap() > 30 * MIB
        };
        assert!(map.lines().any(hole), "{map}");
        assert!(succeed("nbdinfo", &["--is", "read-only", &uri]).is_empty());
    }
    if has("nbdcopy") {
        let copies = (0..4).map(|number| {
            let out = site.local.path(format!("copy{number}"));
            let child = Command::new("nbdcopy").arg(&uri).arg(&out).spawn().unwrap();
            (child, out)
        });
        for (mut child, out) in copies.collect::<Vec<_>>() {
            assert!(child.wait().unwrap().success());
            assert!(std::fs::read(&out).unwrap() == site.bytes);
        }
    }
    let socket = serving.socket.clone();
    let (status, summary) = serving.stop();
    assert_eq!((status.code(), summary["exit_code"].as_i64()), (Some(0), Some(0)), "{summary}");
    assert!(!socket.exists());
    // However many read it: what is stored of both disks was fetched once.
    assert!(summary["fetched_bytes"].as_u64().unwrap() < 11 * MIB as u64, "{summary}");
}

/// The start of a conversation, up to where options go.
fn hello(socket: &PathBuf) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream
}

fn option(number: u32, length: u32, content: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), content].concat()
}

/// Whether the server hangs up, with words of the client unread or not.
fn is_closed(mut stream: UnixStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn what_a_client_does_wrong_costs_itself_alone() {
    let site = Site::new();
    let serving = site.serve("web01:latest:disk0");
    let socket = &serving.socket;
    assert!(whole(&serving.disk("")) == site.bytes, "a single disk has the empty name too");

    let mut garbage = hello(socket);
    // The server may hang up before all of it is sent.
    let _ = garbage.write_all(&noise(7, 4096));
    assert!(is_closed(garbage));
    let mut endless = hello(socket);
    endless.write_all(&option(7, u32::MAX, &[])).unwrap();
    assert!(is_closed(endless));
    let mut unknown = hello(socket);
    unknown.write_all(&option(99, 3, b"abc")).unwrap();
    let mut answer = [0; 20];
    unknown.read_exact(&mut answer).unwrap();
    assert_eq!(answer[12..16], 0x8000_0001_u32.to_be_bytes(), "unsupported");
    // Never says another word.
    let silent = hello(socket);
    // Asks for everything and reads nothing.
    let mut flood = hello(socket);
    flood.write_all(&option(1, 5, b"disk0")).unwrap();
    flood.read_exact(&mut [0; 10]).unwrap();
    flood.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let read = |cookie: u64| {
        let head = [0x2560_9513_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
        [&head[..], &cookie.to_be_bytes(), &0_u64.to_be_bytes(), &(8_u32 << 20).to_be_bytes()].concat()
    };
    for cookie in 0..10_000 {
        if flood.write_all(&read(cookie)).is_err() {
            break;
        }
    }
    assert!(whole(&serving.disk("disk0")) == site.bytes);
    drop((silent, flood, unknown));

    let second = site.local.run(&["nbd", "web01:latest", "--socket", "s.sock"]);
    assert_eq!(second.status.code(), Some(1), "{}", told(&second));
    assert!(told(&second).contains("in use"), "{}", told(&second));
    serving.signal(Signal::KILL);
    drop(serving);
    // The socket of a server that was killed is taken over, and guests find their disk again.
    let again = site.serve("web01:latest");
    assert!(whole(&again.disk("disk0")) == site.bytes);
    assert_eq!(again.stop().0.code(), Some(0));
    std::fs::write(site.local.path("s.sock"), "a file").unwrap();
    let refused = site.local.run(&["nbd", "web01:latest", "--socket", "s.sock"]);
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    let inside = site.local.run(&["nbd", "web01:latest", "--socket", "repository/s.sock"]);
    assert_eq!(inside.status.code(), Some(2), "{}", told(&inside));
}

/// An authority, and a certificate of it for each name.
fn certificates(site: &Site, authority: &str, names: &[&str]) {
    let at = |name: String| site.local.path(&name).display().to_string();
    let subject = format!("/CN={authority}");
    let (root_key, root) = (at(format!("{authority}.key")), at(format!("{authority}.pem")));
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let made = ["-x509", "-days", "2", "-subj", &subject, "-keyout", &root_key, "-out", &root];
    succeed("openssl", &[&new[..], &made].concat());
    for name in names {
        let subject = format!("/CN={name}");
        let (key, certificate) = (at(format!("{name}.key")), at(format!("{name}.pem")));
        let made = ["-x509", "-days", "2", "-subj", &subject, "-CA", &root, "-CAkey", &root_key];
        let is_for =
            ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:false"];
        let out = ["-keyout", &key, "-out", &certificate];
        succeed("openssl", &[&new[..], &made, &is_for, &out].concat());
    }
}

/// A folder as QEMU and libnbd want it.
fn client_folder(site: &Site, name: &str, certificate: &str) -> String {
    let folder = site.local.path(name);
    std::fs::create_dir(&folder).unwrap();
    for (from, to) in [("ours.pem", "ca-cert.pem"), (&*format!("{certificate}.pem"), "client-cert.pem")] {
        std::fs::copy(site.local.path(from), folder.join(to)).unwrap();
    }
    std::fs::copy(site.local.path(format!("{certificate}.key")), folder.join("client-key.pem")).unwrap();
    folder.display().to_string()
}

#[test]
fn over_the_network_only_those_with_a_certificate_read_anything() {
    if !has("openssl") || !has("qemu-img") {
        return;
    }
    let site = Site::new();
    certificates(&site, "ours", &["server", "client"]);
    certificates(&site, "theirs", &["stranger"]);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let listen = ["nbd", "web01:latest", "--json", "--listen", &address];
    let tls = ["--tls-certificate", "server.pem", "--tls-key", "server.key", "--tls-clients", "ours.pem"];
    let mut command = site.local.command(&[&listen[..], &tls].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let serving = Serving { child: Some(child), socket: PathBuf::new() };
    let started = Instant::now();
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(started.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(50));
    }
    let (folder, raw) =
        (client_folder(&site, "tls", "client"), site.local.path("disk.raw").display().to_string());
    let compare = |folder: Option<&str>| {
        let mut command = Command::new("qemu-img");
        command.args(["compare", "--image-opts"]);
        let mut options = format!("driver=nbd,host=127.0.0.1,port={port},export=disk0");
        if let Some(folder) = folder {
            let object = format!("tls-creds-x509,id=t,endpoint=client,dir={folder}");
            command.args(["--object", &object]);
            options += ",tls-creds=t";
        }
        command.args([&options, &format!("driver=raw,file.filename={raw}")]).output().unwrap()
    };
    let same = compare(Some(&folder));
    assert!(told(&same).contains("identical"), "{}", told(&same));
    for refused in [compare(None), compare(Some(&client_folder(&site, "strange", "stranger")))] {
        assert!(!refused.status.success() && !told(&refused).contains("identical"), "{}", told(&refused));
    }
    // Nothing is told in the clear: not what there is, and no byte of it.
    let mut clear = std::net::TcpStream::connect(&address).unwrap();
    clear.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    clear.read_exact(&mut [0; 18]).unwrap();
    clear.write_all(&3_u32.to_be_bytes()).unwrap();
    clear.write_all(&option(3, 0, b"")).unwrap();
    let mut answer = [0; 20];
    clear.read_exact(&mut answer).unwrap();
    assert_eq!(answer[12..16], 0x8000_0005_u32.to_be_bytes(), "TLS is required");
    clear.write_all(&option(1, 5, b"disk0")).unwrap();
    assert!(!matches!(clear.read(&mut [0; 1]), Ok(1..)), "an export in the clear");
    assert_eq!(serving.stop().0.code(), Some(0));
    let half = site.local.run(&["nbd", "web01:latest", "--listen", &address]);
    assert_eq!(half.status.code(), Some(2), "{}", told(&half));
}

#[test]
fn what_clients_flushed_is_there_after_a_kill_and_the_snapshot_is_as_it_was() {
    if !has("qemu-io") {
        return;
    }
    let site = Site::new();
    let words = ["web01:latest:disk0", "--writable", "over"];
    let write = |serving: &Serving, commands: &[&str]| {
        let (uri, mut words) = (serving.uri("disk0"), vec!["-f", "raw", "-d", "unmap"]);
        words.extend(commands.iter().flat_map(|command| ["-c", command]));
        words.push(&uri);
        succeed("qemu-io", &words);
    };
    let mut expected = site.bytes.clone();
    let serving = site.serve_with(&words);
    write(
        &serving,
        &[
            "write -P 0x11 0 65536",
            "write -P 0x22 5000 3000",
            "write -z 42000000 500000",
            "discard 65536 131072",
            "flush",
        ],
    );
    expected[..65536].fill(0x11);
    expected[5000..8000].fill(0x22);
    expected[42_000_000..42_500_000].fill(0);
    expected[65536..65536 + 131_072].fill(0);
    let end = expected.len() - 700;
    // Durable before it is answered: no flush follows, and the server is killed.
    write(&serving, &[&format!("write -f -P 0x33 {end} 700")]);
    expected[end..].fill(0x33);
    drop(serving);
    let read = |serving: &Serving| {
        let mut bytes = vec![0; site.bytes.len()];
        serving.disk("disk0").read_at(0, &mut bytes).unwrap();
        bytes
    };
    let again = site.serve_with(&words);
    assert!(read(&again) == expected, "what was flushed is not all there");
    let twice = site.local.run(&["nbd", "web01:latest:disk0", "--socket", "t.sock", "--writable", "over"]);
    assert_eq!(twice.status.code(), Some(1), "{}", told(&twice));
    assert_eq!(again.stop().0.code(), Some(0));
    let plain = site.serve("web01:latest:disk0");
    assert!(read(&plain) == site.bytes, "the snapshot changed");
    assert_eq!(plain.stop().0.code(), Some(0));
    for (words, code, says) in [
        (["nbd", "web01:latest"], 2, "takes one disk"),
        (["nbd", "web01:latest:data"], 1, "belongs to something else"),
    ] {
        let refused = site.local.run(&[&words[..], &["--socket", "t.sock", "--writable", "over"]].concat());
        assert_eq!(refused.status.code(), Some(code), "{}", told(&refused));
        assert!(told(&refused).contains(says), "{}", told(&refused));
    }
}

/// Waits until nothing more comes into a spool.
fn settled(spool: &std::path::Path) -> u64 {
    let (mut before, mut blocks) = (0, spool.metadata().unwrap().blocks());
    while before != blocks || blocks == 0 {
        before = blocks;
        std::thread::sleep(Duration::from_millis(300));
        blocks = spool.metadata().unwrap().blocks();
    }
    blocks * 512
}

#[test]
fn what_was_fetched_is_not_fetched_again_after_a_kill_and_what_is_spoilt_is() {
    let site = Site::new();
    let spool = site.local.path("spool");
    let words = ["web01:latest:disk0", "--spool", "spool"];
    let first_part = |serving: &Serving| {
        let mut bytes = vec![0; 3 * MIB];
        serving.disk("disk0").read_at(0, &mut bytes).unwrap();
        assert!(bytes == site.bytes[..3 * MIB]);
    };
    let mut serving = site.serve_with(&words);
    first_part(&serving);
    settled(&spool);
    serving.signal(Signal::KILL);
    serving.ended();
    assert_eq!(spool.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let serving = site.serve_with(&words);
    first_part(&serving);
    let (_, summary) = serving.stop();
    assert_eq!(summary["fetched_frames"], 0, "{summary}");
    // The rest comes once.
    let serving = site.serve_with(&words);
    assert!(whole(&serving.disk("disk0")) == site.bytes);
    assert!(settled(&spool) >= 8 * MIB as u64);
    let (_, summary) = serving.stop();
    assert_ne!(summary["fetched_frames"], 0, "{summary}");
    let serving = site.serve_with(&words);
    assert!(whole(&serving.disk("disk0")) == site.bytes);
    let (_, summary) = serving.stop();
    assert_eq!(summary["fetched_frames"], 0, "{summary}");
    // Nobody believes what stands there.
    let mut bytes = std::fs::read(&spool).unwrap();
    let middle = bytes.windows(64).position(|window| window == &site.bytes[MIB..MIB + 64]).unwrap();
    bytes[middle] ^= 1;
    std::fs::write(&spool, bytes).unwrap();
    let serving = site.serve_with(&words);
    assert!(whole(&serving.disk("disk0")) == site.bytes);
    let (_, summary) = serving.stop();
    assert!(summary["fetched_frames"].as_u64().is_some_and(|frames| (1..4).contains(&frames)), "{summary}");
    // It is of this disk alone, and of one server at a time.
    for (snapshot, says) in [("web01:latest:data", "belongs to something else"), ("web01:latest", "one disk")]
    {
        let words = ["nbd", snapshot, "--socket", "t.sock", "--spool", "spool"];
        let refused = site.local.run(&words);
        assert!(told(&refused).contains(says), "{}", told(&refused));
    }
    let _serving = site.serve_with(&words);
    let refused = site.local.run(&["nbd", words[0], "--socket", "t.sock", "--spool", "spool"]);
    assert!(told(&refused).contains("another server has it open"), "{}", told(&refused));
}
