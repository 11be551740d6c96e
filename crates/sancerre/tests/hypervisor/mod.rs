//! A libvirt of its own with real QEMU guests, as a user of its own, in a folder that is gone afterwards.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, dead_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const MIB: usize = 1 << 20;
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
            disk_bytes: 64 * MIB,
            blocks: 4096,
            ticks: 0,
            devices: "",
        }
    }
}

impl Host {
    /// None, said loudly, where there is no libvirt; in CI there must be.
    pub(crate) fn start() -> Option<Self> {
        let needed = ["libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "as", "ld", "setpriv"];
        let is_there = |program: &&str| {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
        };
        let missing: Vec<&str> = needed.into_iter().filter(|program| !is_there(program)).collect();
        if !missing.is_empty() {
            assert!(std::env::var_os("CI").is_none(), "cannot run here, and CI is set: no {missing:?}");
            eprintln!("SKIPPED: {missing:?} are not installed");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("lv").tempdir_in("/tmp").unwrap();
        let as_root = rustix::process::geteuid().is_root();
        let mut host = Self { folder, libvirtd: None, as_root };
        fs::set_permissions(host.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_sancerre"), host.path("sancerre")).unwrap();
        for name in ["run", "config", "cache", "data", "disks"] {
            fs::create_dir(host.path(name)).unwrap();
            host.own(&host.path(name));
        }
        host.own(host.folder.path());
        host.libvirtd_up();
        host.succeed(&["init", "--key-file", "w.key", "--writer", "hv1"]);
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
        command.env_clear().current_dir(&self.folder).stdin(Stdio::null()).env("LC_ALL", "C");
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.folder.path());
        for (name, folder) in [
            ("RUNTIME_DIR", "run"),
            ("CONFIG_HOME", "config"),
            ("CACHE_HOME", "cache"),
            ("DATA_HOME", "data"),
        ] {
            command.env(format!("XDG_{name}"), self.path(folder));
        }
        command.env("SANCERRE_REPOSITORY", self.path("repo")).env("SANCERRE_PASSWORD", "correct horse");
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

    /// Makes the disks of a guest and defines it.
    pub(crate) fn define(&self, guest: &Guest<'_>) {
        let boot = self.boot(guest);
        let mut disks = String::new();
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
    fn number(&self, guest: &Guest<'_>) -> u32 {
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
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hypervisor/guest.S");
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
            assert_eq!(wrong, None, "disk {number} of {snapshot} is none of moment {moment}");
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
        for entry in fs::read_dir(self.path("disks")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains("scratch"), "{name} is left");
        }
        for entry in fs::read_dir(self.path("run/sancerre")).unwrap() {
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

pub(crate) fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_else(|| panic!("{}", told(output)))).unwrap()
}

/// A guest with a kernel, a file system that it writes to all the time, and the agent that freezes it.
pub(crate) struct Linux {
    kernel: PathBuf,
    modules: PathBuf,
}

impl Linux {
    /// None, said loudly, where its parts are missing; in CI they must be there.
    pub(crate) fn find() -> Option<Self> {
        let newest = |folder: &str, start: &str| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let names = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
            names.map(|entry| entry.path()).max()
        };
        let kernel = newest("/boot", "vmlinuz-");
        let version = kernel
            .as_ref()
            .and_then(|path| path.file_name()?.to_str()?.strip_prefix("vmlinuz-").map(str::to_owned));
        let modules = version.map(|version| Path::new("/lib/modules").join(version).join("kernel/drivers"));
        let parts = ["/usr/sbin/qemu-ga", "/usr/bin/busybox", "/usr/bin/cpio"];
        let missing: Vec<&str> = parts.into_iter().filter(|part| !Path::new(part).exists()).collect();
        match (kernel, modules) {
            (Some(kernel), Some(modules)) if missing.is_empty() && modules.exists() => {
                Some(Self { kernel, modules })
            }
            _ => {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "cannot run here, and CI is set: a kernel or {missing:?}"
                );
                eprintln!("SKIPPED: no kernel with modules in /boot, or {missing:?} are not installed");
                None
            }
        }
    }

    /// Defines it, starts it and waits for its agent.
    pub(crate) fn run(&self, host: &Host, name: &str) {
        self.initrd(host);
        fs::copy(&self.kernel, host.path("vmlinuz")).unwrap();
        fs::set_permissions(host.path("vmlinuz"), fs::Permissions::from_mode(0o644)).unwrap();
        let (raw, disk) = (host.path("fs.raw"), host.disk(name, 0));
        fs::File::create(&raw).unwrap().set_len(32 << 20).unwrap();
        assert!(Command::new("mkfs.ext4").arg("-q").arg(&raw).status().unwrap().success());
        let made = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .arg(&raw)
            .arg(&disk)
            .status();
        assert!(made.unwrap().success());
        host.own(&disk);
        let (folder, disk) = (host.folder.path().display(), disk.display());
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu><cpu mode='maximum'/>\
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{folder}/vmlinuz</kernel><initrd>{folder}/initrd</initrd>\
             <cmdline>quiet</cmdline></os><features><acpi/></features><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
             <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
        );
        fs::write(host.path("domain.xml"), xml).unwrap();
        host.ask(&["define", "domain.xml"]);
        host.ask(&["start", name]);
        let started = Instant::now();
        while host.frozen(name).is_none() {
            assert!(started.elapsed() < Duration::from_secs(180), "the agent does not answer");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn initrd(&self, host: &Host) {
        let root = host.path("initrd.d");
        for folder in ["bin", "dev", "proc", "sys", "mnt", "run", "m"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let linked = Command::new("ldd").args(["/usr/sbin/qemu-ga"]).output().unwrap();
        let linked = String::from_utf8(linked.stdout).unwrap();
        let libraries = linked.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
        for file in libraries.chain(["/usr/bin/busybox".to_owned()]) {
            let inside = root.join(file.trim_start_matches('/'));
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            fs::copy(&file, inside).unwrap();
        }
        fs::copy("/usr/sbin/qemu-ga", root.join("bin/qemu-ga")).unwrap();
        let modules = [
            "virtio/virtio_ring",
            "virtio/virtio",
            "virtio/virtio_pci_legacy_dev",
            "virtio/virtio_pci_modern_dev",
            "virtio/virtio_pci",
            "block/virtio_blk",
            "char/virtio_console",
        ];
        let mut load = String::new();
        for module in modules {
            let name = module.rsplit('/').next().unwrap();
            // What is built in has no file.
            if fs::copy(self.modules.join(format!("{module}.ko")), root.join("m").join(name)).is_ok() {
                load.push_str(&format!("$B insmod /m/{name}\n"));
            }
        }
        let init = format!(
            "#!/usr/bin/busybox sh\nB=/usr/bin/busybox\n$B mount -t devtmpfs d /dev\n$B mount -t proc p /proc\n\
             $B mount -t sysfs s /sys\n{load}$B mount -t ext4 /dev/vda /mnt\n\
             P=$($B grep -l org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name); P=${{P%/name}}\n\
             /bin/qemu-ga -d -m virtio-serial -p /dev/${{P##*/}} -f /run/ga.pid -t /run\n\
             i=0\nwhile :; do i=$((i+1)); echo $i > /mnt/new; $B sync; $B mv /mnt/new /mnt/counter; done\n"
        );
        fs::write(root.join("init"), init).unwrap();
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
        let made = Command::new("sh")
            .arg("-c")
            .arg("cd \"$0\" && find . | cpio -o -H newc --quiet > ../initrd")
            .arg(&root)
            .status();
        assert!(made.unwrap().success());
    }
}

impl Host {
    /// Whether a guest's file systems stand still; none if its agent does not answer.
    pub(crate) fn frozen(&self, name: &str) -> Option<bool> {
        let answer = self.virsh(&[
            "qemu-agent-command",
            "--timeout",
            "2",
            name,
            "{\"execute\":\"guest-fsfreeze-status\"}",
        ]);
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).contains("frozen"))
    }
}
