//! QEMU and libvirt, for the tests that back up running machines.

use crate::setup::apt_get;
use crate::shell;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;

const PROGRAMS: [&str; 8] =
    ["qemu-system-x86_64", "libvirtd", "virsh", "qemu-ga", "busybox", "cpio", "setpriv", "e2fsck"];
const LIBVIRT: [&str; 8] = [
    "libvirt-daemon",
    "libvirt-clients",
    "libvirt-daemon-driver-qemu",
    "qemu-guest-agent",
    "busybox-static",
    "cpio",
    "util-linux",
    "e2fsprogs",
];
/// A guest with a kernel of its own is made of its files.
const KERNEL: &str = "linux-image-cloud-amd64";
const QEMU: &str = "qemu-system-x86";
const BACKPORTS: &str = "bookworm-backports";
const SOURCE: &str = "/etc/apt/sources.list.d/sancerre-backports.sources";
/// Where Debian is when this machine has it from nowhere else.
const DEBIAN: &str = "http://deb.debian.org/debian";

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let is_there = PROGRAMS.iter().all(|program| shell::is_installed(program)) && has_kernel();
    if is_there || !shell::is_installed("apt-get") {
        return Ok(());
    }
    let is_backport = utils_version().contains("bpo12");
    if is_backport && !Path::new(SOURCE).exists() {
        let text = format!(
            "Types: deb\nURIs: {}\nSuites: {BACKPORTS}\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
            mirror()
        );
        fs::write(SOURCE, text).with_context(|| format!("setup: cannot write {SOURCE}; run it as root"))?;
    }
    apt_get(&["update"])?;
    let install = ["install", "-y", "--no-install-recommends"];
    // QEMU's packages belong together: one of another release than `qemu-utils` would take that away.
    let from: &[&str] = if is_backport { &["-t", BACKPORTS] } else { &[] };
    println!("setup: installing {QEMU} {} {KERNEL}", LIBVIRT.join(" "));
    apt_get(&[&install, from, &[QEMU]].concat())?;
    apt_get(&[&install, LIBVIRT.as_slice(), &[KERNEL]].concat())
}

fn utils_version() -> String {
    shell::output(shell::command("dpkg-query", &["-W", "-f", "${Version}", "qemu-utils"])).unwrap_or_default()
}

/// Where this machine has Debian's packages from: in either form of such lists.
fn mirror() -> String {
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let files = folder.map(|file| file.path()).chain(["/etc/apt/sources.list".into()]);
    let texts: Vec<String> = files.filter_map(|path| fs::read_to_string(path).ok()).collect();
    let words = texts.iter().flat_map(|text| text.split_whitespace());
    let mut mirrors =
        words.filter(|word| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian"));
    mirrors.next().unwrap_or(DEBIAN).to_owned()
}

/// A kernel, and the modules that belong to it.
fn has_kernel() -> bool {
    let kernels = fs::read_dir("/boot").into_iter().flatten().flatten();
    let names: Vec<String> = kernels.filter_map(|file| file.file_name().into_string().ok()).collect();
    let mut versions = names.iter().filter_map(|name| name.strip_prefix("vmlinuz-"));
    versions.any(|version| Path::new("/lib/modules").join(version).join("kernel/drivers").exists())
}
