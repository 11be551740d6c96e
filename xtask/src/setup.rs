//! `cargo xtask setup`: installs the programs that the tests use, from Debian's packages, when they are missing; and
//! the object stores, a Python wheel and a Node package; and what the second decoder needs.

use crate::hypervisor;
use crate::shell;
use anyhow::{Result, bail};
use sancerre_services::install as services;

/// A program, the Debian package that has it, and whether tests can do without.
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
    required: bool,
}

const fn required(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package, required: true }
}

const fn optional(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package, required: false }
}

/// What Debian's own Python gets from python3-fusepy, by a path below a folder of the search path.
const FUSEPY: &str = "../lib/python3/dist-packages/fusepy.py";

/// For the tests. `qemu-img` is looked for by name and left alone when it is there: other QEMU packages replace
/// `qemu-utils`.
const TEST_TOOLS: &[Tool] = &[
    required("cc", "gcc"),
    required("mkfs.ext4", "e2fsprogs"),
    required("debugfs", "e2fsprogs"),
    required("mkfs.xfs", "xfsprogs"),
    required("mkfs.vfat", "dosfstools"),
    required("mcopy", "mtools"),
    required("mkfs.exfat", "exfatprogs"),
    required("mount.exfat-fuse", "exfat-fuse"),
    required("mkntfs", "ntfs-3g"),
    required("cryptsetup", "cryptsetup-bin"),
    required("unzip", "unzip"),
    required("bsdtar", "libarchive-tools"),
    required("setfattr", "attr"),
    required("losetup", "mount"),
    required("qemu-img", "qemu-utils"),
    required("qemu-nbd", "qemu-utils"),
    required("qemu-system-x86_64", "qemu-system-x86"),
    required("busybox", "busybox-static"),
    required("dpkg-deb", "dpkg"),
    required("nbdkit", "nbdkit"),
    required("mkfs.btrfs", "btrfs-progs"),
    required("thin_delta", "thin-provisioning-tools"),
    required("sfdisk", "fdisk"),
    required("nbdinfo", "libnbd-bin"),
    required("nbdcopy", "libnbd-bin"),
    required("ssh-keygen", "openssh-client"),
    required("cmp", "diffutils"),
    required("zstd", "zstd"),
    optional("b3sum", "b3sum"),
    required("age-keygen", "age"),
    optional("strace", "strace"),
    required("flock", "util-linux"),
    required("faketime", "faketime"),
    required("fusermount", "fuse3"),
    required("openssl", "openssl"),
    required("socat", "socat"),
    required("systemd-analyze", "systemd"),
    required("rsync", "rsync"),
    required("man", "man-db"),
    required("python3", "python3"),
    required(FUSEPY, "python3-fusepy"),
    optional("npm", "npm"),
];

/// For the small fleet and the demo.
pub(crate) const SMALL_FLEET_TOOLS: &[Tool] = &[
    required("mkfs.ext4", "e2fsprogs"),
    required("debugfs", "e2fsprogs"),
    required("sfdisk", "fdisk"),
    required("cmp", "diffutils"),
];

/// For the fleet of real guests.
pub(crate) const FLEET_TOOLS: &[Tool] = &[
    required("mmdebstrap", "mmdebstrap"),
    required("mkfs.ext4", "e2fsprogs"),
    required("sfdisk", "fdisk"),
    required("losetup", "mount"),
    required("mkfs.ntfs", "ntfs-3g"),
    required("python3", "python3"),
];

/// For `cargo xtask nights`.
pub(crate) const NIGHTS_TOOLS: &[Tool] = &[
    required("mkfs.ext4", "e2fsprogs"),
    required("mkfs.xfs", "xfsprogs"),
    required("mkfs.ntfs", "ntfs-3g"),
    required("ntfs-3g", "ntfs-3g"),
    required("mount", "mount"),
    required("fstrim", "util-linux"),
];

/// For `cargo xtask probe radosgw`.
pub(crate) const CEPH_TOOLS: &[Tool] = &[
    required("ceph-mon", "ceph-mon"),
    required("ceph-osd", "ceph-osd"),
    required("ceph-mgr", "ceph-mgr"),
    required("radosgw", "radosgw"),
    required("ceph", "ceph-common"),
];

/// For what is given away.
pub(crate) const DIST_TOOLS: &[Tool] = &[
    required("dpkg-deb", "dpkg"),
    required("tar", "tar"),
    required("gzip", "gzip"),
    required("objdump", "binutils"),
    required("ssh-keygen", "openssh-client"),
    required("python3", "python3"),
];

/// For trying packages in fresh systems.
pub(crate) const PACKAGE_TOOLS: &[Tool] = &[
    required("lintian", "lintian"),
    required("mmdebstrap", "mmdebstrap"),
    required("unshare", "util-linux"),
];

/// For the benchmark: another backup program, a plain compressor, and a clock that also sees memory.
pub(crate) const BENCH_TOOLS: &[Tool] = &[
    required("restic", "restic"),
    required("ssh-keygen", "openssh-client"),
    required("zstd", "zstd"),
    required("time", "time"),
    required("cmp", "diffutils"),
];

/// Installs what the tests use.
pub(crate) fn run() -> Result<()> {
    // First: QEMU's packages must be of one release.
    hypervisor::install()?;
    install(TEST_TOOLS)?;
    python_venv()?;
    if !has_fusepy() {
        apt_get(&["install", "-y", "--no-install-recommends", "python3-fusepy"])?;
    }
    services::install_seaweedfs()?;
    if shell::is_installed("npm") {
        services::install_azurite()?;
    }
    services::install_decoder()?;
    services::install_kernel()?;
    println!("setup: the object stores and what the second decoder needs are installed");
    Ok(())
}

/// Installs what makes a virtual environment of Python, if it is not there.
pub(crate) fn python_venv() -> Result<()> {
    if has_venv() { Ok(()) } else { apt_get(&["install", "-y", "--no-install-recommends", "python3-venv"]) }
}

/// Debian packs the parts of Python that make a virtual environment on their own.
fn has_venv() -> bool {
    shell::output(shell::command("python3", &["-c", "import ensurepip, venv"])).is_ok()
}

/// What tests mount odd folders with: of the system's Python, whichever comes first in the path.
fn has_fusepy() -> bool {
    shell::output(shell::command("/usr/bin/python3", &["-c", "import fusepy"])).is_ok()
}

/// Asks the package manager only for packages of programs that are not found.
pub(crate) fn install(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !shell::is_installed(tool.program)).collect();
    if missing.is_empty() {
        println!("setup: all {} programs are installed", tools.len());
        return Ok(());
    }
    if !shell::is_installed("apt-get") {
        return without_apt(&missing);
    }
    apt_get(&["update"])?;
    let mut packages: Vec<&str> = Vec::new();
    for tool in missing {
        if !tool.required && !is_available(tool.package) {
            println!("setup: no package {}; tests that use {} are skipped", tool.package, tool.program);
        } else if !packages.contains(&tool.package) {
            packages.push(tool.package);
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    println!("setup: installing {}", packages.join(" "));
    let arguments = [&["install", "-y", "--no-install-recommends"], packages.as_slice()].concat();
    apt_get(&arguments)
}

fn without_apt(missing: &[&Tool]) -> Result<()> {
    let names: Vec<&str> = missing.iter().filter(|tool| tool.required).map(|tool| tool.program).collect();
    if names.is_empty() {
        return Ok(());
    }
    bail!("setup: not a Debian system; install these programs by hand, then run again: {}", names.join(" "))
}

fn is_available(package: &str) -> bool {
    let policy = shell::output(shell::command("apt-cache", &["policy", package])).unwrap_or_default();
    policy.contains("Candidate:") && !policy.contains("Candidate: (none)")
}

pub(crate) fn is_root() -> Result<bool> {
    Ok(shell::output(shell::command("id", &["-u"]))?.trim() == "0")
}

/// Runs apt-get as root, through sudo where needed; quiet unless it fails.
pub(crate) fn apt_get(arguments: &[&str]) -> Result<()> {
    let quiet = [&["-qq", "-o", "Dpkg::Use-Pty=0"], arguments].concat();
    let mut command = if is_root()? {
        shell::command("apt-get", &quiet)
    } else {
        shell::command(
            "sudo",
            &[&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], quiet.as_slice()].concat(),
        )
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command.stdout(std::process::Stdio::null());
    shell::run(command)
}

#[cfg(test)]
mod tests {
    use super::{TEST_TOOLS, optional, without_apt};

    #[test]
    fn without_a_package_manager_only_required_programs_are_an_error() {
        assert!(without_apt(&[&optional("b3sum", "b3sum")]).is_ok());
        let all: Vec<_> = TEST_TOOLS.iter().collect();
        let message = without_apt(&all).unwrap_err().to_string();
        assert!(message.contains("mkfs.ext4"), "{message}");
        assert!(!message.contains("b3sum"), "{message}");
    }
}
