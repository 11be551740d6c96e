//! QEMU and libvirt, for the tests that back up running machines. QEMU's packages belong together: those of another release
//! than `qemu-utils` would take that away.

use crate::setup::apt_get;
use crate::shell;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;

const PROGRAMS: [&str; 4] = ["qemu-system-x86_64", "libvirtd", "virsh", "qemu-ga"];
/// Whose files are looked for: with them a guest with a kernel of its own is made.
const KERNELS: &str = "/lib/modules";
const LIBVIRT: [&str; 7] = [
    "libvirt-daemon",
    "libvirt-clients",
    "libvirt-daemon-driver-qemu",
    "linux-image-cloud-amd64",
    "qemu-guest-agent",
    "busybox",
    "cpio",
];
const QEMU: [&str; 5] =
    ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios", "libbrlapi0.8"];
const BACKPORTS: &str = "bookworm-backports";
const SOURCE: &str = "/etc/apt/sources.list.d/sancerre-backports.sources";

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let is_there = PROGRAMS.iter().all(|program| shell::is_installed(program)) && has_kernel();
    if is_there || !shell::is_installed("apt-get") {
        return Ok(());
    }
    let utils = shell::output(shell::command("dpkg-query", &["-W", "-f", "${Version}", "qemu-utils"]));
    let is_backport = utils.unwrap_or_default().contains("bpo12");
    if is_backport && !Path::new(SOURCE).exists() {
        let text = format!(
            "Types: deb\nURIs: {}\nSuites: {BACKPORTS}\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
            mirror()?
        );
        fs::write(SOURCE, text).with_context(|| format!("setup: cannot write {SOURCE}; run it as root"))?;
    }
    apt_get(&["update"])?;
    let suffix = if is_backport { format!("/{BACKPORTS}") } else { String::new() };
    let qemu: Vec<String> = QEMU.iter().map(|package| format!("{package}{suffix}")).collect();
    let packages: Vec<&str> = qemu.iter().map(String::as_str).chain(LIBVIRT).collect();
    println!("setup: installing {}", packages.join(" "));
    apt_get(&[&["install", "-y", "--no-install-recommends"], packages.as_slice()].concat())
}

/// Where this machine has Debian's packages from.
fn mirror() -> Result<String> {
    let files =
        fs::read_dir("/etc/apt/sources.list.d")?.flatten().map(|file| fs::read_to_string(file.path()));
    let texts: Vec<String> = files.filter_map(Result::ok).collect();
    let uris = texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("URIs:"));
    let found = uris.map(str::trim).find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    found.map(str::to_owned).context("setup: no mirror of Debian in /etc/apt/sources.list.d")
}

fn has_kernel() -> bool {
    fs::read_dir(KERNELS).is_ok_and(|mut versions| versions.next().is_some())
}
