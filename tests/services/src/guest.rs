//! A small guest of our own making: Debian's kernel, a busybox, and a script that is its first and only process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// What a disk of the guest and its agent need, in the order in which it is loaded.
const MODULES: [&str; 7] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
];
/// Programs of busybox that scripts may use.
const PROGRAMS: [&str; 16] = [
    "sh", "mount", "insmod", "echo", "printf", "dd", "cat", "sleep", "seq", "poweroff", "sync", "md5sum",
    "head", "mkdir", "true", "tr",
];
const BUSYBOX: &str = "/bin/busybox";

/// A kernel and its first file system.
pub struct Guest {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// What it unpacks into memory.
    pub initrd: PathBuf,
}

/// Makes a guest in `folder` that runs `script`, which finds its first disk at `/dev/vda`. None, loudly, where it cannot be
/// made.
pub fn guest(folder: &Path, script: &str) -> Option<Guest> {
    if !is_started("qemu-system-x86_64", "--version") || !is_started(BUSYBOX, "true") {
        crate::skip("there is no guest: qemu-system-x86 and busybox-static are needed");
        return None;
    }
    let Some(installed) = crate::install::kernel() else {
        crate::skip("there is no kernel for guests: run cargo xtask setup");
        return None;
    };
    match make(&installed, folder, script) {
        Ok(guest) => Some(guest),
        Err(error) => {
            crate::skip(&format!("the guest cannot be made: {error:#}"));
            None
        }
    }
}

/// QEMU's arguments for a guest.
pub fn arguments(guest: &Guest) -> Vec<String> {
    let kernel = guest.kernel.display().to_string();
    let words = ["-kernel", &kernel, "-initrd", &guest.initrd.display().to_string()].map(str::to_owned);
    words.into_iter().chain(["-append".into(), "console=ttyS0 quiet panic=-1".into()]).collect()
}

fn is_started(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}

fn make(installed: &Path, folder: &Path, script: &str) -> Result<Guest> {
    let kernel = walk(&installed.join("boot")).into_iter().find(|path| named(path).starts_with("vmlinuz"));
    let kernel = kernel.context("the package has no kernel")?;
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "lib"] {
        archive.add(directory, 0o040_755, &[]);
    }
    // Before devtmpfs is mounted the script has nowhere to say anything.
    archive.add("bin/busybox", 0o100_755, &fs::read(BUSYBOX)?);
    for program in PROGRAMS {
        archive.add(&format!("bin/{program}"), 0o120_777, b"busybox");
    }
    let modules = walk(&installed.join("lib"));
    let mut start = String::from(
        "#!/bin/sh\nmount -t devtmpfs dev /dev\nmount -t proc proc /proc\nmount -t sysfs sys /sys\n\
         exec </dev/console >/dev/console 2>&1\n",
    );
    for module in MODULES {
        let file = format!("{module}.ko");
        // What is built into the kernel has no file.
        if let Some(path) = modules.iter().find(|path| named(path) == file) {
            archive.add(&format!("lib/{file}"), 0o100_644, &fs::read(path)?);
            start.push_str(&format!("insmod /lib/{file}\n"));
        }
    }
    archive.add("init", 0o100_755, format!("{start}{script}").as_bytes());
    let initrd = folder.join("initrd");
    fs::write(&initrd, archive.end())?;
    Ok(Guest { kernel, initrd })
}

fn named(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

/// The kernel's first file system: cpio, in the form that it calls newc.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.files += 1;
        let (size, name_size) = (content.len(), name.len() + 1);
        let fields = [self.files as usize, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        fields.iter().for_each(|field| self.bytes.extend_from_slice(format!("{field:08x}").as_bytes()));
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        let whole = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(whole, 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
