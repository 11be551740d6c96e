//! Drills of real guests: what comes up passes, what does not fails, and the log says so to whoever audits it.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::support::{MIB, Site, boot_sector, has, noise, summary, template, told, walk};
use sancerre_services::{install, skip};
use serde_json::Value;

/// Comes up where its disk is as it was made, and writes to it; else it shuts down.
const GUEST: &str = "
if [ \"$(head -c 4 /dev/vda)\" = GOOD ]; then
  printf 'BAD!' | dd of=/dev/vda bs=4 conv=notrunc,fsync 2>/dev/null
  echo \"wrote $(head -c 4 /dev/vda)\"
  echo 'web01 login: '
  while true; do sleep 1; done
fi
poweroff -f
";

fn back_up(site: &Site, vm: &str, start: &[u8]) {
    let mut disk = start.to_vec();
    disk.extend(noise(61, MIB));
    disk.resize(4 * MIB, 0);
    std::fs::write(site.path("disk.raw"), disk).unwrap();
    site.succeed(&["backup", "--key-file", "w.key", "--vm", vm, "--allow-small", "disk0=disk.raw"]);
}

#[test]
fn a_drill_says_which_machines_come_up_and_an_audit_says_it_later() {
    let site = Site::new();
    let trust =
        summary(&site.succeed(&["key", "list", "--json"]))["trust_anchor"].as_str().unwrap().to_owned();
    back_up(&site, "web01", b"GOOD");
    back_up(&site, "db01", b"GONE");
    let Some(guest) = sancerre_services::guest::guest(site.folder.path(), GUEST) else { return };
    let packs = || walk(&site.place).iter().filter(|path| path.to_string_lossy().contains("packs")).count();
    let before = packs();
    let mut words = vec!["drill", "--key-file", "w.key", "--accel", "tcg", "--guest-memory", "160M"];
    words.extend(["--guest-cpus", "1", "--out", "drills", "--json", "--"]);
    let more = sancerre_services::guest::arguments(&guest);
    words.extend(more.iter().map(String::as_str));

    let drilled = site.run(&words);
    assert_eq!(drilled.status.code(), Some(3), "{}", told(&drilled));
    let machines = summary(&drilled)["machines"].clone();
    let of = |vm: &str| machines.as_array().unwrap().iter().find(|one| one["vm"] == vm).unwrap().clone();
    assert_eq!(of("web01")["passed"], true, "{machines}");
    assert_eq!(of("db01")["passed"], false, "{machines}");
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(site.path("drills/web01/report.json")).unwrap())
            .unwrap();
    assert_eq!((&report["passed"], &report["accelerator"]), (&Value::Bool(true), &Value::from("tcg")));
    let console = std::fs::read_to_string(site.path("drills/web01/console.log")).unwrap();
    assert!(console.contains("wrote BAD!"), "{console}");
    assert!(std::fs::read(site.path("drills/web01/screen.png")).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(packs(), before, "what a guest writes is thrown away");

    let audit = |more: &[&str]| site.run(&[&["audit", "--trust", &trust, "--json"], more].concat());
    let found = audit(&[]);
    assert_eq!(found.status.code(), Some(0), "{}", told(&found));
    let machines = summary(&found)["zones"][0]["machines"].clone();
    let of = |vm: &str| machines.as_array().unwrap().iter().find(|one| one["vm"] == vm).unwrap().clone();
    assert_eq!(of("web01")["drill"]["is_passed"], true, "{machines}");
    assert_eq!(of("db01")["drill"]["is_passed"], false, "{machines}");
    let strict = audit(&["--max-drill-age", "7d"]);
    assert_eq!(strict.status.code(), Some(3), "{}", told(&strict));
    assert_eq!(summary(&strict)["undrilled"].as_array().unwrap().len(), 1);
    assert_eq!(summary(&strict)["undrilled"][0]["vm"], "db01");
    let lenient = audit(&["--max-drill-age", "7d", "--retired", "db01"]);
    assert_eq!(lenient.status.code(), Some(0), "{}", told(&lenient));
    let words = site.run(&["audit", "--trust", &trust]);
    assert!(told(&words).contains("FAILED a drill"), "{}", told(&words));
}

#[test]
fn a_machine_starts_from_its_own_first_sector_over_the_export() {
    if !has("qemu-system-x86_64") {
        return;
    }
    let site = Site::new();
    back_up(&site, "tiny", &boot_sector());
    for bus in ["virtio", "sata"] {
        let words = ["drill", "tiny:latest", "--accel", "tcg", "--bus", bus, "--limit", "60s", "--no-note"];
        let drilled = site.run(&words);
        assert_eq!(drilled.status.code(), Some(0), "{bus}: {}", told(&drilled));
        assert!(told(&drilled).contains("login:"), "{}", told(&drilled));
    }
    // Somebody may log in, and no agent says that all is well.
    let words =
        ["drill", "tiny:latest", "--accel", "tcg", "--limit", "8s", "--no-note", "--agent-runs", "true"];
    let drilled = site.run(&words);
    assert_eq!(drilled.status.code(), Some(3), "{}", told(&drilled));
}

/// An agent as small as can be: it runs everything, and says that it failed the first time.
const AGENT: &str = r#"
until [ -e /dev/vport0p1 ]; do sleep 1; done
exec 3<>/dev/vport0p1
runs=0
while true; do
  # Nobody is at the other end.
  read -r line <&3 || { sleep 1; continue; }
  id=${line##*\"id\":}; id=${id%%\}*}
  case $line in
    *guest-sync*) echo "{\"return\": $id}" >&3 ;;
    *guest-exec-status*) [ $runs -gt 1 ] && code=0 || code=7
      echo "{\"return\": {\"exited\": true, \"exitcode\": $code}}" >&3 ;;
    *guest-exec*) runs=$((runs + 1)); echo "asked to run: $line"; echo '{"return": {"pid": 5}}' >&3 ;;
  esac
done
"#;

#[test]
fn a_program_that_the_agent_runs_decides_once_it_returns_0() {
    let site = Site::new();
    back_up(&site, "db01", b"GOOD");
    let Some(guest) = sancerre_services::guest::guest(site.folder.path(), AGENT) else { return };
    let mut words =
        vec!["drill", "--accel", "tcg", "--guest-memory", "160M", "--guest-cpus", "1", "--limit", "60s"];
    words.extend(["--no-note", "--out", "drills", "--agent-runs", "pg_isready -q", "--"]);
    let more = sancerre_services::guest::arguments(&guest);
    words.extend(more.iter().map(String::as_str));
    let drilled = site.run(&words);
    let console = std::fs::read_to_string(site.path("drills/db01/console.log")).unwrap_or_default();
    assert_eq!(drilled.status.code(), Some(0), "{}{console}", told(&drilled));
    assert!(told(&drilled).contains("its agent answered"), "{}", told(&drilled));
    assert!(console.matches("pg_isready").count() > 1, "it was asked until it was well: {console}");
}

/// Serves the newest snapshot until it says these words; the line that has them.
fn served_until(site: &Site, words: &str) -> String {
    let program = ["timeout", "--signal", "TERM", "120"];
    let mut command = site.command_behind(&program, &["nbd", "tiny:latest", "--socket", "t.sock"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let (mut all, mut found) = (String::new(), None);
    for line in lines {
        if line.contains(words) {
            found = Some(line);
            break;
        }
        all.push_str(&line);
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    child.wait().unwrap();
    found.unwrap_or_else(|| panic!("not {words:?}: {all}"))
}

/// The second decoder reads the trace too, where it can be run.
fn second_decoder_counts(site: &Site, chunks: u64) {
    let Some(python) = install::decoder_python() else {
        return skip("the decoder's Python packages are not installed; `cargo xtask setup` does it");
    };
    let mut command = Command::new(python);
    command.arg("-B").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/decoder"));
    command.arg("verify").arg(&site.place).env("SANCERRE_PASSWORD", template::PASSPHRASE);
    let verified = told(&command.output().unwrap());
    assert!(verified.contains(&format!(", {chunks} in boot traces: nothing is wrong")), "{verified}");
}

#[test]
fn what_a_machine_read_until_it_was_up_comes_first_the_next_time() {
    if !has("qemu-system-x86_64") {
        return;
    }
    let site = Site::new();
    back_up(&site, "tiny", &boot_sector());
    let drill =
        ["drill", "tiny:latest", "--key-file", "w.key", "--accel", "tcg", "--limit", "60s", "--trace"];
    let drilled = site.succeed(&[&drill[..], &["--json"]].concat());
    let trace = summary(&drilled)["machines"][0]["trace"].clone();
    assert!(trace["chunks"].as_u64().unwrap() > 0, "{}", told(&drilled));
    // A later snapshot of the same machine, in which the rest of the disk is another.
    let mut disk = std::fs::read(site.path("disk.raw")).unwrap();
    disk[2 * MIB..3 * MIB].copy_from_slice(&noise(62, MIB));
    std::fs::write(site.path("disk.raw"), disk).unwrap();
    site.succeed(&["backup", "--key-file", "w.key", "--vm", "tiny", "--allow-small", "disk0=disk.raw"]);
    let line = served_until(&site, "by the boot trace of log entry");
    assert!(line.contains("came first") && line.ends_with(&trace["entry"].to_string()), "{line}");
    site.succeed(&["check", "--read-data"]);
    second_decoder_counts(&site, trace["chunks"].as_u64().unwrap());

    let is_annex = |path: &std::path::PathBuf| std::fs::read(path).unwrap().get(10) == Some(&3);
    let annexes: Vec<_> =
        walk(&site.place.join("zones/default/packs")).into_iter().filter(is_annex).collect();
    let of_note = format!("{:016x}", trace["entry"].as_u64().unwrap());
    let annex = annexes.iter().find(|path| path.to_string_lossy().contains(&of_note)).unwrap();
    let mut bytes = std::fs::read(annex).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(annex, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(annex, bytes).unwrap();
    served_until(&site, "is not used");
    let drilled = site.succeed(&drill);
    assert!(told(&drilled).contains("its boot trace"), "{}", told(&drilled));
    site.refuse(&["drill", "tiny:latest", "--trace", "--no-note"], 2, "--no-note");
}
