//! RECOVERY.md as it stands: every command of it, in its order, on a real object store, until its machines run and are whole.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::{MIB, boot_sector, has, noise, told};
use sancerre_services::{Variables, seaweedfs};
use serde_json::json;

const DOCUMENT: &str = include_str!("../../../../docs/RECOVERY.md");

/// The commands of the document, in its order.
fn commands() -> Vec<&'static str> {
    DOCUMENT.lines().filter_map(|line| line.strip_prefix("$ ")).collect()
}

struct Site {
    folder: tempfile::TempDir,
    location: String,
    variables: Variables,
    trust: String,
}

impl Site {
    /// A host that is gone: its two machines were backed up.
    fn new(location: String, variables: Variables) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Self { folder, location, variables, trust: String::new() };
        for folder in ["srv/guests", "srv/restored", "etc/sancerre", "var/lib/sancerre/drills"] {
            std::fs::create_dir_all(site.path(folder)).unwrap();
        }
        std::fs::write(site.path("etc/sancerre/passphrase"), "correct horse\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(site.path("etc/sancerre/passphrase"), mode).unwrap();
        let made = site.ran("sancerre init --json --key-file etc/sancerre/writer.key --writer hv1", true);
        let text = String::from_utf8(made.stdout).unwrap();
        let summary: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        site.trust = summary["trust_anchor"].as_str().unwrap().to_owned();
        for (vm, seed) in [("web01", 81), ("db01", 82)] {
            std::fs::write(site.path(vm), disk(seed)).unwrap();
            site.ran(
                &format!(
                    "sancerre backup --key-file etc/sancerre/writer.key --vm {vm} disk0={vm} --allow-small"
                ),
                true,
            );
        }
        site
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a line in a shell, with the document's places below a folder of the test and its store for the document's.
    fn ran(&self, line: &str, with_repository: bool) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_sancerre")).parent().unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", program.display());
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .env_clear()
            .envs(crate::support::CHEAP)
            .env("PATH", path)
            .stdin(Stdio::null());
        command.envs(self.variables.iter().cloned()).current_dir(&self.folder);
        if with_repository {
            command.env("SANCERRE_REPOSITORY", &self.location).env("SANCERRE_PASSWORD", "correct horse");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {}", told(&output));
        output
    }

    fn put_in_place(&self, line: &str) -> String {
        let mut line = line.replace("s3://hospital-backup", &self.location).replace("SHA256:…", &self.trust);
        for place in ["/srv/", "/etc/sancerre/", "/var/lib/"] {
            line = line.replace(place, &format!("{}{place}", self.folder.path().display()));
        }
        line
    }
}

/// Starts by itself, and says that somebody may log in.
fn disk(seed: u64) -> Vec<u8> {
    let mut disk = boot_sector();
    disk.extend(noise(seed, 2 * MIB));
    disk.resize(6 * MIB, 0);
    disk
}

/// Ends the QEMU of a recovered machine, also of one whose test failed.
struct Guest(std::path::PathBuf);

impl Drop for Guest {
    fn drop(&mut self) {
        let monitor = sancerre_boot::Qmp::connect(&self.0);
        let _ = monitor.and_then(|mut monitor| monitor.execute("quit", json!({})));
    }
}

#[test]
fn the_page_for_the_worst_day_is_true_word_for_word() {
    let Some(server) = seaweedfs() else { return };
    if !has("qemu-system-x86_64") {
        return;
    }
    let site = Site::new(server.location(), server.variables(seaweedfs::ADMIN));
    let guests = ["web01", "db01"].map(|vm| Guest(site.path("srv/guests").join(vm).join("monitor.sock")));
    let commands = commands();
    assert!(commands.len() >= 8, "{commands:?}");
    let (exports, rest): (Vec<_>, Vec<_>) =
        commands.into_iter().partition(|line| line.starts_with("export "));
    let exports: String = exports.iter().map(|line| format!("{}\n", site.put_in_place(line))).collect();
    let mut said = String::new();
    for line in rest {
        said += &told(&site.ran(&format!("{exports}{}", site.put_in_place(line)), false));
    }
    assert!(said.contains("web01 runs") && said.contains("db01 is up"), "{said}");
    assert!(said.contains("needs the repository no more"), "{said}");
    assert!(said.contains("passed a drill"), "{said}");
    let console = std::fs::read_to_string(site.path("srv/guests/web01/console.log")).unwrap();
    assert!(console.contains("login:"), "{console}");
    drop(guests);
    for (image, original) in [
        ("guests/web01/disk0.qcow2", "web01"),
        ("guests/db01/disk0.qcow2", "db01"),
        ("restored/disk0.qcow2", "db01"),
    ] {
        let (image, original) = (site.path("srv").join(image), site.path(original));
        let line = format!("qemu-img compare -U -f qcow2 -F raw {} {}", image.display(), original.display());
        assert!(told(&site.ran(&line, false)).contains("identical"));
    }
}
