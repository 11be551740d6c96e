//! The built program on disks in the formats of hypervisors: what is saved is the disk that the guest sees.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{MIB, Site as Folder, has, noise, told};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

const BEGIN: [&str; 5] = ["backup", "--json", "--key-file", "w.key", "--vm"];

/// A disk with data, zeros that are written, holes, and a size that is no whole block.
fn disk() -> Vec<u8> {
    let mut disk = noise(31, 3 * MIB);
    disk.resize(24 * MIB, 0);
    disk.extend(noise(32, 5 * MIB + 512));
    disk
}

struct Site {
    local: Folder,
    bytes: Vec<u8>,
}

impl Site {
    /// None, said loudly, without QEMU's programs.
    fn new() -> Option<Self> {
        if !has("qemu-img") || !has("qemu-nbd") {
            return None;
        }
        let site = Self { local: Folder::new(), bytes: disk() };
        std::fs::write(site.local.path("disk.raw"), &site.bytes).unwrap();
        Some(site)
    }

    fn qemu_img(&self, arguments: &[&str]) {
        let done =
            Command::new("qemu-img").args(arguments).current_dir(self.local.path("")).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Backs up and returns how many bytes were new.
    fn saves(&self, arguments: &[&str]) -> u64 {
        let output = self.local.succeed(&[&BEGIN[..], &["web01"], arguments].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        summary["new_bytes"].as_u64().unwrap()
    }

    fn refuses(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.local.run(&[&BEGIN[..], &["web01"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
        told(&output)
    }

    /// The newest snapshot is the disk, but for what a format adds to reach whole sectors.
    fn is_the_disk(&self) {
        let out = self.local.path("out");
        let _ = std::fs::remove_file(&out);
        self.local.succeed(&["restore", "web01:latest:disk0", "--target", "out"]);
        let restored = std::fs::read(&out).unwrap();
        let (same, rest) = restored.split_at(self.bytes.len());
        assert!(same == self.bytes && rest.len() < MIB && rest.iter().all(|byte| *byte == 0));
    }
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_format_is_saved_as_the_disk_in_it_and_costs_nothing_twice() {
    let Some(site) = Site::new() else { return };
    assert!(site.saves(&["disk.raw"]) as usize >= 8 * MIB);
    site.is_the_disk();
    let forms: [(&str, &str, &[&str]); 6] = [
        ("qcow2", "a.qcow2", &["-c", "-o", "compression_type=zstd"]),
        ("qcow2", "b.qcow2", &["-o", "compat=0.10,cluster_size=4096"]),
        ("vmdk", "c.vmdk", &["-o", "subformat=streamOptimized"]),
        ("vdi", "d.vdi", &[]),
        ("vhdx", "e.vhdx", &[]),
        ("vpc", "f.vhd", &["-o", "force_size=on"]),
    ];
    for (format, name, options) in forms {
        site.qemu_img(&[&["convert", "-f", "raw", "-O", format], options, &["disk.raw", name]].concat());
        let new_bytes = site.saves(&[name]);
        assert!(new_bytes < 80 << 10, "{name}: {new_bytes} bytes are new");
        site.is_the_disk();
    }
}

#[test]
fn a_form_that_nobody_said_is_refused_and_what_the_name_says_must_be_so() {
    let Some(site) = Site::new() else { return };
    site.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "hidden.img"]);
    let said = site.refuses(1, &["hidden.img"]);
    assert!(said.contains("--format qcow2") && said.contains("--format raw"), "{said}");
    site.saves(&["hidden.img", "--format", "qcow2"]);
    site.is_the_disk();
    std::fs::copy(site.local.path("disk.raw"), site.local.path("wrong.qcow2")).unwrap();
    let said = site.refuses(1, &["wrong.qcow2"]);
    assert!(said.contains("qcow2"), "{said}");
    site.saves(&["wrong.qcow2", "--format", "raw"]);
    site.is_the_disk();
    site.refuses(2, &["disk.raw", "--format", "qcow3"]);
    site.refuses(2, &["disk.raw", "--format", "data=raw"]);
}

/// QEMU reads zeros behind the end of a file.
#[test]
fn an_image_that_was_cut_short_is_no_disk() {
    let Some(site) = Site::new() else { return };
    let forms: [(&str, &str, &[&str]); 6] = [
        ("vmdk", "a.vmdk", &["-o", "subformat=monolithicSparse"]),
        ("vmdk", "b.vmdk", &["-o", "subformat=streamOptimized"]),
        ("vdi", "c.vdi", &[]),
        ("parallels", "d.parallels", &[]),
        ("vhdx", "e.vhdx", &[]),
        ("qcow2", "f.qcow2", &[]),
    ];
    for (format, name, options) in forms {
        site.qemu_img(&[&["convert", "-f", "raw", "-O", format], options, &["disk.raw", name]].concat());
        site.saves(&[name]);
        std::fs::OpenOptions::new()
            .write(true)
            .open(site.local.path(name))
            .unwrap()
            .set_len(5 << 20)
            .unwrap();
        let said = site.refuses(1, &[name]);
        // The others are refused by whoever decodes them.
        let is_ours = ["a.vmdk", "c.vdi", "d.parallels"].contains(&name);
        assert!(!is_ours || said.contains("cut short") && said.contains(name), "{said}");
    }
    std::fs::create_dir(site.local.path("flat")).unwrap();
    site.qemu_img(&["convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", "disk.raw", "flat/g.vmdk"]);
    site.saves(&["flat/g.vmdk", "--image-parts", "flat"]);
    let flat = site.local.path("flat/g-flat.vmdk");
    std::fs::OpenOptions::new().write(true).open(flat).unwrap().set_len(5 << 20).unwrap();
    let said = site.refuses(1, &["flat/g.vmdk", "--image-parts", "flat"]);
    assert!(said.contains("cut short"), "{said}");
}

#[test]
fn an_overlay_is_read_with_what_it_stands_on_only_where_that_was_allowed() {
    let Some(site) = Site::new() else { return };
    std::fs::create_dir(site.local.path("images")).unwrap();
    site.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "images/base.qcow2"]);
    site.qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "images/over.qcow2"]);
    let said = site.refuses(1, &["images/over.qcow2"]);
    assert!(said.contains("base.qcow2") && said.contains("--image-parts"), "{said}");
    site.saves(&["images/over.qcow2", "--image-parts", "images"]);
    site.is_the_disk();
    // One that names a file of the host never gets it.
    site.qemu_img(&["rebase", "-u", "-b", "/etc/passwd", "-F", "raw", "images/over.qcow2"]);
    site.refuses(1, &["images/over.qcow2", "--image-parts", "images"]);
}

/// The child that reads the image for this process, once it works on it: each reader has a thread there.
fn working_child(of: u32) -> Option<Pid> {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let status = read("status");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let is_ours =
            field("PPid:") == Some(of.to_string().as_str()) && read("cmdline").contains("__confine");
        if is_ours && field("Threads:").is_some_and(|threads| threads != "1") {
            return Pid::from_raw(number);
        }
    }
    None
}

#[test]
fn a_child_that_is_killed_while_it_reads_an_image_fails_the_backup_and_names_the_image() {
    let Some(site) = Site::new() else { return };
    site.qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "disk.raw", "a.qcow2"]);
    let mut command = site.local.command(&[&BEGIN[..], &["web01", "a.qcow2"]].concat());
    let backup = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    let child = loop {
        if let Some(child) = working_child(backup.id()) {
            break child;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "no child reads");
        std::thread::sleep(Duration::from_millis(1));
    };
    kill_process(child, Signal::KILL).unwrap();
    let output = backup.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let said = told(&output);
    assert!(said.contains("a.qcow2") && said.contains("signal: 9"), "{said}");
    // The next one stands on what was saved until then.
    site.saves(&["a.qcow2"]);
    site.is_the_disk();
}

/// Ctrl-C goes to every process of the group: what reads the image must not end under the backup.
#[test]
fn an_interrupt_from_the_terminal_stops_the_backup_of_an_image_as_any_other() {
    let Some(site) = Site::new() else { return };
    site.qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "disk.raw", "a.qcow2"]);
    let mut command = site.local.command(&[&BEGIN[..], &["web01", "a.qcow2"]].concat());
    let backup = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while working_child(backup.id()).is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no child reads");
        std::thread::sleep(Duration::from_millis(1));
    }
    let group = Pid::from_child(&backup);
    kill_process_group(group, Signal::INT).unwrap();
    let output = backup.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", told(&output));
}

#[test]
fn without_a_sandbox_no_image_is_read_unless_that_was_said() {
    let Some(site) = Site::new() else { return };
    if !Folder::has_strace() {
        return;
    }
    site.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "a.qcow2"]);
    site.qemu_img(&["convert", "-f", "raw", "-O", "vdi", "disk.raw", "b.vdi"]);
    let old_kernel = |call: &str, arguments: &[&str]| {
        let inject = format!("inject={call}:error=ENOSYS");
        let before = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
        site.local.command_behind(&before, &[&BEGIN[..], &["web01"], arguments].concat()).output().unwrap()
    };
    for image in ["a.qcow2", "b.vdi"] {
        for (call, name) in [("landlock_create_ruleset", "Landlock"), ("seccomp", "seccomp")] {
            let output = old_kernel(call, &[image]);
            let said = told(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(image) && said.contains(name) && said.contains("--no-sandbox"), "{said}");
        }
        let output = old_kernel("landlock_create_ruleset", &[image, "--no-sandbox"]);
        assert!(output.status.success(), "{}", told(&output));
        site.is_the_disk();
    }
}

#[test]
fn an_export_of_an_nbd_server_is_a_disk() {
    let Some(site) = Site::new() else { return };
    let socket = site.local.path("nbd.sock");
    let mut server = Command::new("qemu-nbd");
    server.args(["--read-only", "--format", "raw", "--shared", "8", "--persistent", "--socket"]);
    server.arg(&socket).arg(site.local.path("disk.raw")).stdin(Stdio::null());
    let _server = Server(server.spawn().unwrap());
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "qemu-nbd does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    site.saves(&[&uri]);
    site.is_the_disk();
    let said = site.refuses(1, &["nbd+unix:///?socket=/nowhere/nbd.sock"]);
    assert!(said.contains("/nowhere/nbd.sock"), "{said}");
    site.refuses(2, &[&uri, "--format", "qcow2"]);
}
