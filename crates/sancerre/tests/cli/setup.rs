//! `setup`: by options and by answers, shown only, twice, beside what is there; and the key file's usual place.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{MIB, Site, has, is_root, noise, summary, told};
use sancerre_services::seaweedfs;
use sancerre_services::seaweedfs::Bucket;

const STRONG: &str = "fsd2-9kd3-mm4x-77qa-z1vb";

/// A folder that stands for a machine, with a disk, and no repository yet.
struct Host {
    site: Site,
}

impl Host {
    fn new() -> Self {
        let site = Site::new();
        std::fs::remove_dir_all(site.path("repository")).unwrap();
        std::fs::write(site.path("disk.raw"), noise(1, 4 * MIB)).unwrap();
        std::fs::create_dir_all(site.path("root/etc/cron.d")).unwrap();
        Self { site }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.path(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.site.command(&["setup", "--root", "root"]);
        command.args(arguments).env("SANCERRE_PASSWORD", STRONG);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The script that cron starts, for its place below the other root.
    fn night(&self) -> String {
        let below = |folder: &str| self.path("root").join(folder).display().to_string();
        let script = self.text("root/etc/sancerre/night-web01");
        script
            .replace("/etc/sancerre", &below("etc/sancerre"))
            .replace("/var/lib/sancerre", &below("var/lib/sancerre"))
    }

    /// Runs such a script as cron does, with nothing but the files.
    fn start(&self, night: &str) -> Output {
        std::fs::write(self.path("night"), night).unwrap();
        let mut command = Command::new("sh");
        command.arg(self.path("night")).env_clear().envs(crate::support::CHEAP);
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.path("home")).output().unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        self.path(name).metadata().unwrap_or_else(|error| panic!("{name}: {error}")).permissions().mode()
            & 0o7777
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

/// All files below a folder, with what would show that somebody changed them.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let seen = path.symlink_metadata().unwrap();
        found.insert(path.clone(), (seen.mode(), seen.ino(), seen.mtime(), seen.mtime_nsec()));
        if seen.is_dir() {
            found.extend(tree(&path));
        }
    }
    found
}

const CRON: [&str; 7] = ["--vm", "web01", "--at", "01:15", "--by", "cron", "disk.raw"];

#[test]
fn options_alone_set_a_machine_up_and_a_second_run_changes_nothing() {
    let host = Host::new();
    let before = tree(host.site.folder.path());
    let shown = host.run(&[&CRON[..], &["--dry-run"]].concat());
    assert_eq!(shown.status.code(), Some(0), "{}", told(&shown));
    for part in [
        "sancerre init --key-file-out",
        "sancerre key paper",
        "15 1 * * * root",
        "SANCERRE_REPOSITORY=",
        "mode 600",
    ] {
        assert!(told(&shown).contains(part), "{part}: {}", told(&shown));
    }
    assert_eq!(tree(host.site.folder.path()), before, "only shown");

    let made = host.run(&[&CRON[..], &["--sheet", "sheet.txt"]].concat());
    assert_eq!(made.status.code(), Some(0), "{}", told(&made));
    assert!(
        told(&made).contains("disk0 came back whole") && told(&made).contains("every byte is as it is there"),
        "{}",
        told(&made)
    );
    for (name, mode) in [
        ("root/etc/sancerre", 0o700),
        ("root/etc/sancerre/writer.key", 0o600),
        ("root/etc/sancerre/web01.conf", 0o600),
        ("root/etc/sancerre/night-web01", 0o700),
        ("root/etc/cron.d/sancerre-web01", 0o644),
        ("sheet.txt", 0o600),
    ] {
        assert_eq!(host.mode(name), mode, "{name}");
    }
    assert!(host.text("sheet.txt").contains("AGE-SECRET-KEY-"));
    assert!(
        host.text("root/etc/cron.d/sancerre-web01").contains("\n15 1 * * * root /etc/sancerre/night-web01\n")
    );
    assert!(!told(&made).contains("AGE-SECRET-KEY-") && !told(&made).contains(STRONG));

    let night = host.start(&host.night());
    assert!(night.status.success() && told(&night).is_empty(), "{}", told(&night));
    assert!(host.text("root/var/lib/sancerre/web01.prom").contains("last_run_success"));

    let before = tree(host.site.folder.path());
    let again = host.command(&CRON).env_remove("SANCERRE_PASSWORD").output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", told(&again));
    assert!(told(&again).contains("has a snapshot already"), "{}", told(&again));
    assert_eq!(tree(host.site.folder.path()), before, "nothing is made twice");

    what_somebody_changed_stays_and_the_next_machine_joins(&host);
}

fn what_somebody_changed_stays_and_the_next_machine_joins(host: &Host) {
    let conf = "root/etc/sancerre/web01.conf";
    let own = format!("{}# mine\n", host.text(conf));
    std::fs::write(host.path(conf), &own).unwrap();
    let kept = host.command(&CRON).env_remove("SANCERRE_PASSWORD").output().unwrap();
    assert_eq!(kept.status.code(), Some(3), "{}", told(&kept));
    assert!(told(&kept).contains("web01.conf was there already"), "{}", told(&kept));
    assert!(told(&kept).contains("delete it and run the same command again"), "{}", told(&kept));
    assert_eq!(host.text(conf), own);
    // Another machine of the same host, with the key that is there.
    std::fs::write(host.path("other.raw"), noise(2, MIB)).unwrap();
    let other = host.run(&["--vm", "db.01", "--by", "cron", "--json", "--sheet", "none", "data=other.raw"]);
    assert_eq!(other.status.code(), Some(0), "{}", told(&other));
    let done = summary(&other);
    assert_eq!((&done["first_backup"], &done["restored_bytes"]), (&true.into(), &MIB.into()), "{done}");
    assert_eq!(done["files"][0]["state"], "there");
    host.text("root/etc/cron.d/sancerre-db_01");
    assert!(!host.path("none").exists(), "a sheet is made with the repository alone");
    // A share that is not mounted is no place for a second repository.
    std::fs::rename(host.path("repository"), host.path("elsewhere")).unwrap();
    let unmounted = host.run(&CRON);
    assert_eq!(unmounted.status.code(), Some(2), "{}", told(&unmounted));
    assert!(told(&unmounted).contains("not mounted") && !host.path("repository").exists());
}

/// What failed half-way leaves no files of a machine that is not saved, and no repository without a sheet unnoticed.
#[test]
fn a_first_run_that_failed_is_made_good_by_the_next() {
    let host = Host::new();
    std::fs::write(host.path("empty.raw"), "").unwrap();
    let failed = host.run(&[&CRON[..6], &["--sheet", "sheet.txt", "empty.raw"]].concat());
    assert_eq!(failed.status.code(), Some(1), "{}", told(&failed));
    assert!(told(&failed).contains("and no sheet yet"), "{}", told(&failed));
    for name in ["root/etc/sancerre/web01.conf", "root/etc/cron.d/sancerre-web01", "sheet.txt"] {
        assert!(!host.path(name).exists(), "{name}");
    }
    let mut right = host.command(&CRON);
    let right = right.env_remove("SANCERRE_PASSWORD").output().unwrap();
    assert_eq!(right.status.code(), Some(3), "{}", told(&right));
    assert!(told(&right).contains("no sheet was made: `sancerre key paper`"), "{}", told(&right));
    assert!(host.text("root/etc/sancerre/web01.conf").contains("/disk.raw"));
    let sheet = host.run(&[&CRON[..], &["--sheet", "sheet.txt"]].concat());
    assert_eq!(sheet.status.code(), Some(0), "{}", told(&sheet));
    assert!(host.text("sheet.txt").contains("AGE-SECRET-KEY-"));

    // What removes the snapshot of the disks runs though the backup fails, and the failure is told.
    let night = host.night().replace("# What removes that snapshot goes here.", "echo removed");
    std::fs::remove_file(host.path("disk.raw")).unwrap();
    let night = host.start(&night);
    assert_eq!(night.status.code(), Some(1), "{}", told(&night));
    assert!(told(&night).contains("removed"), "{}", told(&night));
}

#[test]
fn systemd_gets_units_that_it_understands() {
    let host = Host::new();
    let arguments = ["--vm", "web01", "--at", "2:05", "--by", "systemd", "--sheet", "sheet.txt", "disk.raw"];
    let made = host.run(&arguments);
    assert_eq!(made.status.code(), Some(0), "{}", told(&made));
    let units = "root/etc/systemd/system";
    let timer = host.text(&format!("{units}/sancerre-backup@web01.timer.d/setup.conf"));
    assert!(timer.contains("OnCalendar=\nOnCalendar=*-*-* 02:05:00\n"), "{timer}");
    let service = host.text(&format!("{units}/sancerre-backup@web01.service.d/setup.conf"));
    let repository = host.path("repository").display().to_string();
    assert!(service.contains(&format!("ReadWritePaths={repository}\n")), "{service}");
    let packaged = host.text(&format!("{units}/sancerre-backup@.service"));
    assert!(packaged.contains(&format!("ExecStart={} backup", env!("CARGO_BIN_EXE_sancerre"))), "{packaged}");
    assert_eq!(host.mode(&format!("{units}/sancerre-backup@.timer")), 0o644);
    if has("systemd-analyze") {
        // Beside the unit, since its drop-ins are looked for where it lies.
        for unit in ["sancerre-backup@web01.service", "sancerre-backup@web01.timer"] {
            let kind = unit.rsplit('.').next().unwrap();
            let folder = host.path(units);
            std::fs::copy(folder.join(format!("sancerre-backup@.{kind}")), folder.join(unit)).unwrap();
            let mut verify = Command::new("systemd-analyze");
            // The colon at the end: and where systemd looks anyway.
            verify
                .args(["verify", "--man=no", unit])
                .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display()));
            let verified = verify.output().unwrap();
            assert!(
                verified.status.success() && told(&verified).trim().is_empty(),
                "{unit}: {}",
                told(&verified)
            );
        }
    }
    // Those of a package stay what they are.
    let host = Host::new();
    let packaged = host.path("root/usr/lib/systemd/system");
    std::fs::create_dir_all(&packaged).unwrap();
    for kind in ["service", "timer"] {
        std::fs::write(packaged.join(format!("sancerre-backup@.{kind}")), "").unwrap();
    }
    let made = host.run(&arguments);
    assert_eq!(made.status.code(), Some(0), "{}", told(&made));
    assert!(!host.path(&format!("{units}/sancerre-backup@.service")).exists());
}

#[test]
fn who_sits_at_a_terminal_is_asked() {
    if !has("script") {
        return;
    }
    let host = Host::new();
    let program = env!("CARGO_BIN_EXE_sancerre");
    let mut command = Command::new("script");
    command.args(["-qec", &format!("{program} setup --root root --sheet sheet.txt"), "/dev/null"]);
    command
        .env_clear()
        .envs(crate::support::CHEAP)
        .env("PATH", std::env::var("PATH").unwrap())
        .env("SHELL", "/bin/sh");
    command.env("SANCERRE_PASSWORD", STRONG).current_dir(&host.site.folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answers = child.stdin.take().unwrap();
    // What makes no sense is asked for again, and where there is a usual answer Enter takes it.
    answers.write_all(b"repository\nweb 01\nweb01\nno.raw\ndisk.raw\n\ncron\n").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(answers);
    assert!(output.status.success(), "{}", told(&output));
    for question in [
        "Where is the repository",
        "machine called",
        "Where are its disks",
        "When, each night? [01:00]",
        "Who starts it",
    ] {
        assert!(told(&output).contains(question), "{question}: {}", told(&output));
    }
    assert!(told(&output).contains("cannot read the disk no.raw"), "{}", told(&output));
    assert!(host.text("root/etc/cron.d/sancerre-web01").contains("\n0 1 * * * root"));
}

#[test]
fn a_host_joins_a_repository_that_is_there() {
    let host = Host::new();
    let site = Site::new();
    let repository = site.path("repository").display().to_string();
    let arguments = [
        "-r",
        &repository,
        "--vm",
        "web02",
        "--by",
        "nobody",
        "--writer",
        "hv2",
        "--sheet",
        "sheet.txt",
        "disk.raw",
    ];
    let refused = host.run(&arguments);
    assert_eq!(refused.status.code(), Some(12), "another passphrase: {}", told(&refused));
    let joined = host.command(&arguments).env("SANCERRE_PASSWORD", "correct horse").output().unwrap();
    assert_eq!(joined.status.code(), Some(0), "{}", told(&joined));
    assert!(told(&joined).contains("writer hv2 may work"), "{}", told(&joined));
    assert_eq!(site.snapshots().len(), 1);
    assert!(host.text("sheet.txt").contains("AGE-SECRET-KEY-"), "nobody had made one");
}

#[test]
fn what_is_missing_or_odd_is_named_and_nothing_is_made() {
    let host = Host::new();
    let before = tree(host.site.folder.path());
    let refused = |arguments: &[&str], says: &str| {
        let output = host.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", told(&output));
        assert!(told(&output).contains(says), "{arguments:?}: {}", told(&output));
    };
    refused(&["disk.raw"], "--vm");
    refused(&["--vm", "web01"], "its disks");
    refused(&["--vm", "web01", "a disk.raw"], "holds a blank");
    refused(&["--vm", "web01", "disk$HOME.raw"], "means something");
    refused(&["--vm", "web 01", "disk.raw"], "web 01");
    refused(&["--vm", "web01", "--at", "25:00", "disk.raw"], "such as 01:15");
    refused(&["--vm", "web01", "--json", "disk.raw"], "--sheet");
    refused(&[&CRON[..6], &["no.raw"]].concat(), "cannot read the disk");
    refused(&[&CRON[..6], &["root"]].concat(), "neither a file nor a block device");
    assert_eq!(tree(host.site.folder.path()), before);
}

#[test]
fn a_key_file_in_its_usual_place_is_used_for_its_own_repository_alone() {
    let site = Site::with_disk(MIB);
    std::fs::create_dir_all(site.path("home/.config/sancerre")).unwrap();
    std::fs::copy(site.path("w.key"), site.path("home/.config/sancerre/writer.key")).unwrap();
    let home = |arguments: &[&str]| {
        let mut command = site.command(arguments);
        command.env("HOME", site.path("home")).env_remove("SANCERRE_PASSWORD");
        command
    };
    let listed = home(&["snapshots"]).output().unwrap();
    assert!(listed.status.success() && told(&listed).contains("web01"), "{}", told(&listed));
    assert!(home(&["backup", "--vm", "web01", "disk.raw"]).output().unwrap().status.success());
    // Of another repository nothing is made of it.
    let other = ["-r", "other"];
    let made =
        home(&["init", "--writer", "hv9", "-r", "other"]).env("SANCERRE_PASSWORD", STRONG).output().unwrap();
    assert!(made.status.success(), "{}", told(&made));
    let listed =
        home(&[&["snapshots"][..], &other].concat()).env("SANCERRE_PASSWORD", STRONG).output().unwrap();
    assert!(listed.status.success(), "{}", told(&listed));
    let listed = home(&[&["snapshots"][..], &other].concat()).output().unwrap();
    assert_eq!(listed.status.code(), Some(12), "{}", told(&listed));
    let anchor = summary(
        &home(&["check", "--json", "-v", "-r", "other"]).env("SANCERRE_PASSWORD", STRONG).output().unwrap(),
    );
    assert_eq!(anchor["snapshots"], 0);
}

/// With credentials that may do what STORES.md gives a host, and nothing else: what is written works by itself, and shows no
/// secret to anybody but root.
#[test]
fn a_machine_is_set_up_on_a_bucket() {
    let Some(server) = seaweedfs() else { return };
    let bucket = server.bucket(Bucket::LockedByDefault(1)).unwrap();
    let roles = crate::support::bucket::set_policy(server, &bucket);
    let host = Host::new();
    let location = format!("s3://{bucket}/backup");
    let on_bucket = |arguments: &[&str]| {
        let all = [&["-r", &location], arguments].concat();
        host.command(&all).envs(server.variables(roles.writer)).output().unwrap()
    };
    let shown = on_bucket(&[&CRON[..], &["--dry-run"]].concat());
    assert_eq!(shown.status.code(), Some(0), "{}", told(&shown));
    assert!(told(&shown).contains("AWS_SECRET_ACCESS_KEY=…"), "{}", told(&shown));
    assert!(!told(&shown).contains(roles.writer.secret_key), "{}", told(&shown));

    let made = on_bucket(&[&CRON[..], &["--sheet", "sheet.txt"]].concat());
    assert_eq!(made.status.code(), Some(0), "{}", told(&made));
    assert!(!told(&made).contains(roles.writer.secret_key), "{}", told(&made));
    assert!(host.text("sheet.txt").contains(&format!("AWS_ENDPOINT='{}' \\\n", server.endpoint())));
    let configuration = host.text("root/etc/sancerre/web01.conf");
    assert!(configuration.contains(roles.writer.secret_key), "{configuration}");
    assert_eq!(host.mode("root/etc/sancerre/web01.conf"), 0o600);
    // The night, from what is in the files alone.
    let night = host.start(&host.night());
    assert!(night.status.success() && told(&night).is_empty(), "{}", told(&night));

    // The next machine, by systemd: nothing on this host needs to be written but metrics.
    std::fs::write(host.path("other.raw"), noise(2, MIB)).unwrap();
    let other = on_bucket(&["--vm", "db01", "--by", "systemd", "--sheet", "none", "other.raw"]);
    assert_eq!(other.status.code(), Some(0), "{}", told(&other));
    let service = host.text("root/etc/systemd/system/sancerre-backup@db01.service.d/setup.conf");
    assert!(!service.contains("ReadWritePaths") && !service.contains("RequiresMountsFor"), "{service}");
}

/// What systemd is told, by a `systemctl` that writes it down; on a system of its own, where nothing but the folder that says
/// so shows that systemd runs.
#[test]
fn systemd_is_told_once_of_what_is_new() {
    if !is_root() || !has("unshare") {
        return;
    }
    for (code, ends) in [(0, 0), (1, 3)] {
        let host = Host::new();
        std::fs::create_dir(host.path("bin")).unwrap();
        let told_to = host.path("told");
        let systemctl = format!("#!/bin/sh\necho \"$*\" >> {}\nexit {code}\n", told_to.display());
        std::fs::write(host.path("bin/systemctl"), systemctl).unwrap();
        std::fs::set_permissions(host.path("bin/systemctl"), PermissionsExt::from_mode(0o755)).unwrap();
        let script = "mount -t tmpfs none /etc; mount -t tmpfs none /run
            mkdir -p /run/systemd/system /etc/systemd/system
            \"$@\"; first=$?; \"$@\"; echo again $?; find /etc -type f | sort; exit $first";
        let program = env!("CARGO_BIN_EXE_sancerre");
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-uc", script, "sh", program, "setup", "--vm", "web01"]);
        command.args(["--at", "01:15", "--sheet", "sheet.txt", "disk.raw"]);
        let path = format!("{}:{}", host.path("bin").display(), std::env::var("PATH").unwrap());
        command
            .env_clear()
            .envs(crate::support::CHEAP)
            .env("PATH", path)
            .env("SANCERRE_PASSWORD", STRONG)
            .env("SANCERRE_REPOSITORY", "repository");
        let made = command.current_dir(&host.site.folder).stdin(Stdio::null()).output().unwrap();
        assert_eq!(made.status.code(), Some(ends), "{}", told(&made));
        let asked = std::fs::read_to_string(&told_to).unwrap();
        let said = String::from_utf8_lossy(&made.stdout).into_owned();
        match code {
            0 => {
                assert_eq!(asked, "daemon-reload\nenable --now sancerre-backup@web01.timer\n");
                assert!(said.contains("\nagain 0\n"), "{said}");
            }
            _ => {
                assert_eq!(asked, "daemon-reload\n");
                assert!(told(&made).contains("nothing starts the backup yet"), "{}", told(&made));
            }
        }
        for file in ["/etc/sancerre/web01.conf", "/etc/sancerre/writer.key", "web01.timer.d/setup.conf"] {
            assert!(said.contains(&format!("{file}\n")), "{file}: {said}");
        }
    }
}

#[test]
fn files_that_belong_to_the_machine_go_with_it_every_night() {
    let host = Host::new();
    std::fs::write(host.path("web01.xml"), "<domain/>").unwrap();
    let attach = ["--attach", "web01.xml", "--attach", "net=disk.raw"];
    let missing = host.run(&[&CRON[..], &["--attach", "nothing.xml"]].concat());
    assert_eq!(missing.status.code(), Some(2), "{}", told(&missing));
    let made = host.run(&[&CRON[..], &attach, &["--sheet", "sheet.txt"]].concat());
    assert_eq!(made.status.code(), Some(0), "{}", told(&made));
    assert_eq!(told(&made).matches("every byte is as it is there").count(), 3, "{}", told(&made));
    let named = format!("--attach=web01.xml={}", host.path("web01.xml").display());
    assert!(host.text("root/etc/sancerre/web01.conf").contains(&named));
    let night = host.start(&host.night());
    assert!(night.status.success(), "{}", told(&night));
    let mut restore = host.site.command(&["restore", "web01:latest:web01.xml", "--target", "restored.xml"]);
    let restored = restore.env("SANCERRE_PASSWORD", STRONG).output().unwrap();
    assert!(restored.status.success(), "{}", told(&restored));
    assert_eq!(host.text("restored.xml"), "<domain/>");
}
