//! A guest with a kernel and an agent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Host;

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
                let why = format!("no kernel with modules in /boot, or {missing:?} are not installed");
                sancerre_services::skip(&why);
                None
            }
        }
    }

    /// Makes its disk, and what it starts from.
    pub(crate) fn make(&self, host: &Host, name: &str) {
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
    }

    /// Defines it, starts it and waits for its agent.
    pub(crate) fn run(&self, host: &Host, name: &str) {
        self.make(host, name);
        let (folder, disk) = (host.folder.path().display(), host.disk(name, 0));
        let disk = disk.display();
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
