//! A libvirt of its own with real QEMU guests, as a user of its own, in a folder that is gone afterwards.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{MIB, program, summary, template, told};
use serde_json::Value;

mod linux;
mod plain;

pub(crate) use linux::Linux;
pub(crate) use plain::{Plain, asked};

/// Sectors before the blocks of the guest, and blocks.
const FIRST_SECTOR: usize = 2048;
const BLOCK: usize = 4096;
const FACTOR: u32 = 40503;
/// Where its parameters lie in the boot sector.
const TICKS: usize = 496;
const DISKS: usize = 498;
const MASK: usize = 500;
const NOBODY: u32 = 65534;

/// A host with libvirt.
pub(crate) struct Host {
    pub(crate) folder: tempfile::TempDir,
    libvirtd: Option<Child>,
    /// Where this libvirt has its folders.
    base: PathBuf,
    as_root: bool,
}

/// How a guest is made.
pub(crate) struct Guest<'a> {
    pub(crate) name: &'a str,
    /// Formats of its disks.
    pub(crate) disks: &'a [&'a str],
    pub(crate) disk_bytes: usize,
    /// Blocks that it writes to; a power of two.
    pub(crate) blocks: u32,
    /// Eighteenths of a second between two writes.
    pub(crate) ticks: u16,
    /// More devices.
    pub(crate) devices: &'a str,
}

impl Default for Guest<'_> {
    fn default() -> Self {
        Self {
            name: "web 01",
            disks: &["qcow2", "raw"],
            disk_bytes: 20 * MIB,
            blocks: 4096,
            ticks: 1,
            devices: "",
        }
    }
}

impl Host {
    /// None, said loudly, where there is no libvirt; in CI there must be.
    pub(crate) fn start() -> Option<Self> {
        let mut host = Self::bare(&["libvirtd", "virsh"])?;
        host.libvirtd_up();
        Some(host)
    }

    /// The same without libvirt; `more` is needed besides.
    pub(crate) fn bare(more: &[&str]) -> Option<Self> {
        let needed = ["qemu-system-x86_64", "qemu-img", "as", "ld", "setpriv"];
        let is_there = |program: &&str| {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
        };
        let missing: Vec<&str> =
            needed.iter().chain(more).copied().filter(|program| !is_there(program)).collect();
        if !missing.is_empty() {
            sancerre_services::skip(&format!("{missing:?} are not installed"));
            return None;
        }
        let folder = tempfile::Builder::new().prefix("lv").tempdir_in("/tmp").unwrap();
        let as_root = rustix::process::geteuid().is_root();
        let base = folder.path().to_owned();
        let host = Self { folder, libvirtd: None, base, as_root };
        fs::set_permissions(host.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(program(), host.path("sancerre")).unwrap();
        for name in ["run", "config", "cache", "data", "disks"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        template::copy(host.folder.path(), &host.path("repo"));
        if as_root {
            let owner = format!("{NOBODY}:{NOBODY}");
            assert!(
                Command::new("chown")
                    .args(["-R", &owner])
                    .arg(host.folder.path())
                    .status()
                    .unwrap()
                    .success()
            );
        }
        Some(host)
    }

    pub(crate) fn libvirtd_up(&mut self) {
        let mut command = self.command("libvirtd");
        self.libvirtd = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let started = Instant::now();
        while !self
            .command("virsh")
            .args(["-c", "qemu:///session", "list"])
            .output()
            .unwrap()
            .status
            .success()
        {
            assert!(started.elapsed() < Duration::from_secs(60), "libvirtd does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn libvirtd_kill(&mut self) {
        if let Some(mut libvirtd) = self.libvirtd.take() {
            libvirtd.kill().unwrap();
            libvirtd.wait().unwrap();
        }
    }

    /// Stands still from now on, as one that a busy host lets wait.
    pub(crate) fn libvirtd_stop(&self) {
        let libvirtd = rustix::process::Pid::from_child(self.libvirtd.as_ref().unwrap());
        rustix::process::kill_process(libvirtd, rustix::process::Signal::STOP).unwrap();
    }

    /// Moves a running machine to another libvirt, with its disks where they are; from now on that is the one that is asked.
    pub(crate) fn migrate(&mut self, name: &str) {
        let second = self.path("second");
        let first = std::mem::replace(&mut self.base, second);
        let uuid = "host_uuid = \"11111111-2222-4333-8444-555555555555\"\n";
        for folder in ["run", "config/libvirt", "cache", "data"] {
            fs::create_dir_all(self.base.join(folder)).unwrap();
        }
        fs::write(self.base.join("config/libvirt/libvirtd.conf"), uuid).unwrap();
        if self.as_root {
            let owner = format!("{NOBODY}:{NOBODY}");
            let owned = Command::new("chown").args(["-R", &owner]).arg(&self.base).status();
            assert!(owned.unwrap().success());
        }
        let libvirtd = self.libvirtd.take();
        self.libvirtd_up();
        let socket = self.base.join("run/libvirt/libvirt-sock");
        let to = format!("qemu+unix:///session?socket={}", socket.display());
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let how = ["--live", "--persistent", "--undefinesource", "--unsafe"];
        let mut virsh = self.command("virsh");
        virsh.env("XDG_RUNTIME_DIR", first.join("run")).args(["-c", "qemu:///session", "migrate"]);
        let moved = virsh.args(how).args([name, &to, &format!("tcp:{free}")]).output().unwrap();
        assert!(moved.status.success(), "{}", told(&moved));
        if let Some(mut libvirtd) = libvirtd {
            libvirtd.kill().unwrap();
            libvirtd.wait().unwrap();
        }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives a file to the user of this libvirt.
    pub(crate) fn own(&self, path: &Path) {
        if self.as_root {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    /// A program as the user of this libvirt.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = match self.as_root {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
                command
            }
            false => Command::new(program),
        };
        command
            .env_clear()
            .envs(crate::support::CHEAP)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .env("LC_ALL", "C");
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.folder.path());
        for (name, folder) in [
            ("RUNTIME_DIR", "run"),
            ("CONFIG_HOME", "config"),
            ("CACHE_HOME", "cache"),
            ("DATA_HOME", "data"),
        ] {
            command.env(format!("XDG_{name}"), self.base.join(folder));
        }
        command.env("SANCERRE_REPOSITORY", self.path("repo")).env("SANCERRE_PASSWORD", template::PASSPHRASE);
        command
    }

    pub(crate) fn sancerre(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(self.path("sancerre"));
        command.args(arguments);
        command
    }

    pub(crate) fn succeed(&self, arguments: &[&str]) -> Output {
        self.expect(0, arguments)
    }

    pub(crate) fn expect(&self, code: i32, arguments: &[&str]) -> Output {
        let output = self.sancerre(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
        output
    }

    pub(crate) fn virsh(&self, arguments: &[&str]) -> Output {
        self.command("virsh").args(["-c", "qemu:///session"]).args(arguments).output().unwrap()
    }

    /// What virsh prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let output = self.virsh(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a backup of a machine is called with.
    pub(crate) fn backup<'a>(&self, name: &'a str) -> Vec<&'a str> {
        let common = [
            "backup",
            "--key-file",
            "w.key",
            "--source",
            "libvirt",
            "--connect",
            "qemu:///session",
            "--json",
        ];
        [&common[..], &["--vm", name]].concat()
    }

    /// Backs a machine up, and returns the summary.
    pub(crate) fn back_up(&self, name: &str) -> Value {
        summary(&self.succeed(&self.backup(name)))
    }

    /// Makes the disks of a guest, the first of which it starts from.
    fn make_disks(&self, guest: &Guest<'_>) {
        let boot = self.boot(guest);
        for (number, format) in guest.disks.iter().enumerate() {
            let (raw, path) = (self.path("new.raw"), self.disk(guest.name, number));
            let mut bytes = vec![0; guest.disk_bytes];
            if number == 0 {
                bytes[..boot.len()].copy_from_slice(&boot);
            }
            fs::write(&raw, bytes).unwrap();
            let made = Command::new("qemu-img")
                .args(["convert", "-f", "raw", "-O", format])
                .arg(&raw)
                .arg(&path)
                .output();
            assert!(made.unwrap().status.success());
            self.own(&path);
        }
    }

    /// Makes the disks of a guest and defines it.
    pub(crate) fn define(&self, guest: &Guest<'_>) {
        self.make_disks(guest);
        let mut disks = String::new();
        for (number, format) in guest.disks.iter().enumerate() {
            let path = self.disk(guest.name, number);
            let letter = char::from(b'a' + u8::try_from(number).unwrap());
            // The firmware sees only disks that it may boot from.
            disks.push_str(&format!(
                "<disk type='file' device='disk'><driver name='qemu' type='{format}' cache='writethrough'/><source file='{}'/>\
                 <target dev='vd{letter}' bus='virtio'/><boot order='{}'/></disk>",
                path.display(),
                number + 1
            ));
        }
        let xml = format!(
            "<domain type='qemu'><name>{}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
             <devices>{disks}<controller type='usb' model='none'/><memballoon model='none'/>{}</devices></domain>",
            guest.name, guest.devices
        );
        fs::write(self.path("domain.xml"), xml).unwrap();
        self.ask(&["define", "domain.xml"]);
    }

    /// The same, and starts it; it has written something when this returns.
    pub(crate) fn run(&self, guest: &Guest<'_>) {
        self.define(guest);
        self.ask(&["start", guest.name]);
        self.wait_for_writes(guest, 3);
    }

    /// Waits until the guest wrote so many blocks more.
    pub(crate) fn wait_for_writes(&self, guest: &Guest<'_>, more: u32) {
        let (before, started) = (self.number(guest), Instant::now());
        while self.number(guest) < before + more {
            assert!(started.elapsed() < Duration::from_secs(60), "the guest does not write");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it wrote last, by its disk now.
    pub(crate) fn number(&self, guest: &Guest<'_>) -> u32 {
        let out = self.path("sector");
        let _ = fs::remove_file(&out);
        let input = format!("if={}", self.disk(guest.name, 0).display());
        let made = Command::new("qemu-img")
            .args(["dd", "-U", "-f", guest.disks[0], "-O", "raw", "bs=512", "count=2", &input])
            .arg(format!("of={}", out.display()))
            .output();
        let read = made.ok().filter(|made| made.status.success()).and_then(|_| fs::read(&out).ok());
        read.filter(|read| read.len() >= 1024).map_or(0, |read| dword(&read, 512))
    }

    pub(crate) fn disk(&self, name: &str, number: usize) -> PathBuf {
        self.path(format!("disks/{name}.{number}"))
    }

    /// A disk as it is now, as raw bytes.
    pub(crate) fn converted(&self, guest: &Guest<'_>, number: usize) -> Vec<u8> {
        let out = self.path(format!("converted.{number}"));
        let made = Command::new("qemu-img")
            .args(["convert", "-U", "-f", guest.disks[number], "-O", "raw"])
            .arg(self.disk(guest.name, number))
            .arg(&out)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", told(&made));
        fs::read(out).unwrap()
    }

    /// The boot sector of a guest.
    fn boot(&self, guest: &Guest<'_>) -> Vec<u8> {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/hypervisor/guest.S");
        let (object, binary) = (self.path("guest.o"), self.path("guest.bin"));
        assert!(
            Command::new("as").arg("--32").arg(source).arg("-o").arg(&object).status().unwrap().success()
        );
        let linked = Command::new("ld")
            .args(["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"])
            .arg(&object)
            .arg("-o")
            .arg(&binary)
            .status();
        assert!(linked.unwrap().success());
        let mut boot = fs::read(binary).unwrap();
        boot[TICKS..TICKS + 2].copy_from_slice(&guest.ticks.to_le_bytes());
        boot[DISKS] = u8::from(guest.disks.len() > 1);
        boot[MASK..MASK + 4].copy_from_slice(&(guest.blocks - 1).to_le_bytes());
        boot
    }

    /// The disks of a snapshot, which are those of one moment: compared whole with what the guest must have written by then.
    /// Returns the moment.
    pub(crate) fn is_a_moment(&self, guest: &Guest<'_>, snapshot: &str) -> u32 {
        let target = self.path("restored");
        let _ = fs::remove_dir_all(&target);
        fs::create_dir(&target).unwrap();
        self.own(&target);
        self.succeed(&["restore", snapshot, "--target", "restored"]);
        let disks: Vec<Vec<u8>> = (0..guest.disks.len())
            .map(|number| {
                let letter = char::from(b'a' + u8::try_from(number).unwrap());
                fs::read(target.join(format!("vd{letter}.raw"))).unwrap()
            })
            .collect();
        self.is_of_a_moment(guest, &disks, snapshot)
    }

    /// The same of disks that were read.
    pub(crate) fn is_of_a_moment(&self, guest: &Guest<'_>, disks: &[Vec<u8>], what: &str) -> u32 {
        let moment = dword(&disks[0], 512);
        for (number, disk) in disks.iter().enumerate() {
            let wanted = self.expected(guest, number, moment);
            let differs = (0..disk.len() / 512).find(|at| {
                let range = at * 512..(at + 1) * 512;
                disk[range.clone()] != wanted[range]
            });
            let next = place(guest, moment + 1);
            let is_next = next.0 == number;
            // The one after it may be there, as far as it came.
            let fits = |sector: usize| is_next && (next.1..next.1 + 8).contains(&sector);
            let wrong = differs.filter(|_| {
                (0..disk.len() / 512).any(|at| {
                    let range = at * 512..(at + 1) * 512;
                    disk[range.clone()] != wanted[range.clone()]
                        && !(fits(at) && disk[range].chunks(4).all(|word| dword(word, 0) == moment + 1))
                })
            });
            assert_eq!(wrong, None, "disk {number} of {what} is none of moment {moment}");
            assert_eq!(disk.len(), wanted.len());
        }
        moment
    }

    /// A disk after so many writes.
    fn expected(&self, guest: &Guest<'_>, number: usize, moment: u32) -> Vec<u8> {
        let mut disk = vec![0; guest.disk_bytes];
        if number == 0 {
            let boot = self.boot(guest);
            disk[..512].copy_from_slice(&boot);
            fill(&mut disk[512..1024], moment);
        }
        // Each place comes once in as many numbers as there are places; on two disks each number has one of them.
        let first = moment.saturating_sub(guest.blocks * 2);
        for written in first + 1..=moment {
            let (at, sector) = place(guest, written);
            if at == number {
                fill(&mut disk[sector * 512..sector * 512 + BLOCK], written);
            }
        }
        disk
    }

    /// Our checkpoints of a machine.
    pub(crate) fn checkpoints(&self, name: &str) -> Vec<String> {
        self.ask(&["checkpoint-list", "--name", name]).split_whitespace().map(str::to_owned).collect()
    }

    /// Nothing is left of us but one checkpoint: no job, no socket, no file.
    pub(crate) fn is_clean(&self, name: &str) {
        assert!(!self.virsh(&["backup-dumpxml", name]).status.success(), "a job is left");
        let ours = self.checkpoints(name).iter().filter(|name| name.starts_with("sancerre-")).count();
        assert_eq!(ours, 1, "checkpoints of ours");
        self.has_no_files();
    }

    /// No socket and no file of ours is left.
    pub(crate) fn has_no_files(&self) {
        for entry in fs::read_dir(self.path("disks")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains("scratch"), "{name} is left");
        }
        for entry in fs::read_dir(self.base.join("run/sancerre")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name.ends_with(".lock"), "{name} is left");
        }
    }

    /// Kills the process of a machine.
    pub(crate) fn kill(&self, name: &str) {
        let file = self.path(format!("config/libvirt/qemu/run/{name}.pid"));
        let file = if file.exists() { file } else { self.path(format!("run/libvirt/qemu/run/{name}.pid")) };
        let number: i32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let process = rustix::process::Pid::from_raw(number).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        let started = Instant::now();
        while self.ask(&["domstate", name]).trim() != "shut off" {
            assert!(started.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(libvirtd) = &self.libvirtd else { return };
        // A test may have failed while it stood still.
        let libvirtd = rustix::process::Pid::from_child(libvirtd);
        let _ = rustix::process::kill_process(libvirtd, rustix::process::Signal::CONT);
        let list = self.virsh(&["list", "--uuid"]);
        for uuid in String::from_utf8_lossy(&list.stdout).split_whitespace() {
            drop(self.virsh(&["destroy", uuid]));
        }
        self.libvirtd_kill();
    }
}

/// Where a number is written: the disk and the sector.
fn place(guest: &Guest<'_>, number: u32) -> (usize, usize) {
    let block = number.wrapping_mul(FACTOR) & (guest.blocks - 1);
    let disk = if guest.disks.len() > 1 { number as usize & 1 } else { 0 };
    (disk, FIRST_SECTOR + block as usize * 8)
}

fn fill(bytes: &mut [u8], number: u32) {
    bytes.chunks_mut(4).for_each(|word| word.copy_from_slice(&number.to_le_bytes()));
}

fn dword(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}
