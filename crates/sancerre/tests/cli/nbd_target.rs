//! The built program restores to exports of other programs' NBD servers.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{MIB, Site, has, noise, told};
use serde_json::Value;

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(site: &Site, program: &str, arguments: &[&str]) -> Server {
    let _ = fs::remove_file(site.path("sock"));
    let mut command = Command::new(program);
    // qemu-nbd takes no relative path.
    let socket = site.path("sock").display().to_string();
    let arguments = arguments.iter().map(|word| if *word == "sock" { socket.as_str() } else { word });
    command.args(arguments).current_dir(&site.folder).stdin(Stdio::null());
    let server = Server(command.spawn().unwrap());
    let begun = Instant::now();
    while !site.path("sock").exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{program} does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    server
}

/// A size that is no whole block of servers that have blocks.
const DISK_BYTES: u64 = (24 << 20) + 512;

fn site() -> Site {
    let site = Site::new();
    let file = File::create(site.path("disk.raw")).unwrap();
    file.set_len(DISK_BYTES).unwrap();
    file.write_all_at(&noise(71, 5 * MIB), 3 << 20).unwrap();
    file.write_all_at(&noise(72, 700), DISK_BYTES - 700).unwrap();
    site.succeed(&["backup", "--key-file", "w.key", "--vm", "web01", "disk.raw"]);
    site
}

fn uri(site: &Site) -> String {
    format!("nbd+unix:///?socket={}", site.path("sock").display())
}

#[test]
fn a_disk_is_restored_to_an_export_and_again_only_where_it_differs() {
    if !has("qemu-nbd") || !has("qemu-img") {
        return;
    }
    let site = site();
    let whole = fs::read(site.path("disk.raw")).unwrap();
    let restore = |more: &[&str]| {
        let uri = uri(&site);
        site.run(&[&["restore", "web01:latest", "--target", &uri, "--json"], more].concat())
    };
    let summary = |output: &std::process::Output| -> Value {
        assert!(output.status.success(), "{}", told(output));
        serde_json::from_str(String::from_utf8_lossy(&output.stdout).lines().last().unwrap()).unwrap()
    };
    // Bytes, with nothing in them before.
    File::create(site.path("out.raw")).unwrap().set_len(DISK_BYTES).unwrap();
    let server = serve(&site, "qemu-nbd", &["-f", "raw", "-k", "sock", "-t", "-e", "4", "out.raw"]);
    summary(&restore(&[]));
    assert!(fs::read(site.path("out.raw")).unwrap() == whole);
    assert!(fs::metadata(site.path("out.raw")).unwrap().blocks() * 512 < 6 << 20, "holes were written");
    // What is there is not overwritten without a word, and compared with one.
    let refused = restore(&[]);
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    let file = File::options().write(true).open(site.path("out.raw")).unwrap();
    file.write_all_at(&noise(73, 8192), 4 << 20).unwrap();
    file.write_all_at(&noise(74, 8192), 20 << 20).unwrap();
    drop(server);
    let server = serve(&site, "qemu-nbd", &["-f", "raw", "-k", "sock", "-t", "out.raw"]);
    let done = summary(&restore(&["--overwrite"]));
    assert!(done["kept_bytes"].as_u64().unwrap() > 4 << 20, "{done}");
    assert!(fs::read(site.path("out.raw")).unwrap() == whole);
    drop(server);
    // An image behind a server, which is larger.
    let qemu_img = |arguments: &[&str]| {
        let output = Command::new("qemu-img").args(arguments).current_dir(&site.folder).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
    };
    qemu_img(&["create", "-q", "-f", "qcow2", "out.qcow2", "32M"]);
    let server = serve(&site, "qemu-nbd", &["-f", "qcow2", "-k", "sock", "-t", "out.qcow2"]);
    summary(&restore(&[]));
    drop(server);
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", "disk.raw", "out.qcow2"]);
}

#[test]
fn what_a_server_does_not_take_is_said() {
    if !has("qemu-nbd") {
        return;
    }
    let site = site();
    let refuses = |code: i32, more: &[&str], words: &str| {
        let uri = uri(&site);
        let output = site.run(&[&["restore", "web01:latest", "--target", &uri], more].concat());
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
        assert!(told(&output).contains(words), "{words}: {}", told(&output));
    };
    refuses(1, &[], "cannot connect");
    for more in [["--resume"], ["--in-place"], ["--compress"], ["--wipe-rest"]] {
        refuses(2, &more, "");
    }
    File::create(site.path("small.raw")).unwrap().set_len(1 << 20).unwrap();
    let server = serve(&site, "qemu-nbd", &["-f", "raw", "-k", "sock", "-t", "small.raw"]);
    refuses(1, &[], "larger device");
    drop(server);
    let server = serve(&site, "qemu-nbd", &["-f", "raw", "-r", "-k", "sock", "-t", "disk.raw"]);
    refuses(1, &["--overwrite"], "read-only");
    drop(server);
    if has("nbdkit") {
        let _failing = serve(
            &site,
            "nbdkit",
            &[
                "-f",
                "-U",
                "sock",
                "--filter=error",
                "memory",
                "32M",
                "error-pwrite=EIO",
                "error-pwrite-rate=1",
            ],
        );
        refuses(1, &[], "EIO");
    }
}

#[test]
fn a_server_with_blocks_gets_whole_ones() {
    if !has("nbdkit") {
        return;
    }
    let site = site();
    File::create(site.path("blocks.raw")).unwrap().set_len(DISK_BYTES.next_multiple_of(4096)).unwrap();
    let _server = serve(
        &site,
        "nbdkit",
        &[
            "-f",
            "-U",
            "sock",
            "--filter=blocksize-policy",
            "file",
            "blocks.raw",
            "blocksize-minimum=4096",
            "blocksize-preferred=4096",
            "blocksize-maximum=64k",
            "blocksize-error-policy=error",
        ],
    );
    let uri = uri(&site);
    site.succeed(&["restore", "web01:latest", "--target", &uri]);
    let (came, went) = (fs::read(site.path("blocks.raw")).unwrap(), fs::read(site.path("disk.raw")).unwrap());
    assert!(came[..went.len()] == went && came[went.len()..].iter().all(|byte| *byte == 0));
}
