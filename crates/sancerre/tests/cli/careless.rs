//! What people and other programs get wrong: a report over a key, a device that is not there, names that nothing replaced,
//! an output that is closed, and what systems leave in folders.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::{MIB, Site, has, is_root, summary, told};

#[test]
fn a_report_replaces_a_report_and_nothing_else() {
    let site = Site::with_disk(MIB);
    let trust = site.trust();
    let audit = |to: &str| site.run(&["audit", "--trust", &trust, "--report", to]);
    for (name, bytes) in [
        ("w.key", fs::read(site.path("w.key")).unwrap()),
        ("pass.txt", b"correct horse\n".to_vec()),
        ("page.html", b"<!doctype html>\n<title>Another page</title>".to_vec()),
        ("disk.raw", fs::read(site.path("disk.raw")).unwrap()),
    ] {
        fs::write(site.path(name), &bytes).unwrap();
        let refused = audit(name);
        assert_eq!(refused.status.code(), Some(2), "{name}: {}", told(&refused));
        assert!(told(&refused).contains("holds something else"), "{name}: {}", told(&refused));
        assert!(fs::read(site.path(name)).unwrap() == bytes, "{name} was replaced");
    }
    fs::write(site.path("new.html"), "").unwrap();
    for _ in 0..2 {
        assert!(audit("new.html").status.success());
        assert!(fs::read_to_string(site.path("new.html")).unwrap().contains("Audit of repository"));
    }
}

#[test]
fn no_repository_is_made_where_a_device_was_meant_or_inside_another_one() {
    let site = Site::new();
    let init = |place: &str| site.run(&["init", "-r", place, "--key-file", "new.key"]);
    for (place, says) in [
        ("/dev/no-such-disk1", "A device of this name is not there"),
        ("/proc/no-such-disk1", "belongs to the system"),
        ("/dev/null", "no folder"),
        ("w.key", "no folder"),
        ("repository/sub", "lies inside the repository"),
        ("repository/zones/default/sub", "lies inside the repository"),
    ] {
        let refused = init(place);
        assert_eq!(refused.status.code(), Some(2), "{place}: {}", told(&refused));
        assert!(told(&refused).contains(says), "{place}: {}", told(&refused));
        assert!(!site.path("new.key").exists(), "{place}");
    }
    assert!(!site.path("repository/sub").exists());
    assert!(!std::path::Path::new("/dev/no-such-disk1").exists());
    assert_eq!(init("repository").status.code(), Some(13));
}

#[test]
fn a_repository_in_memory_is_warned_of() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let output = site.shell(
        "mkdir m && unshare -m sh -c 'mount -t tmpfs none m && \"$S\" init -r m/new --key-file new.key'",
    );
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("lies in memory"), "{}", told(&output));
}

#[test]
fn a_location_or_a_cache_that_nothing_replaced_is_refused_with_what_was_meant() {
    let site = Site::with_disk(MIB);
    for (place, says) in [
        ("\"/srv/x\"", "/srv/x is probably meant"),
        ("`pwd`/x", "backquotes"),
        ("/srv/{{ repo }}", "nothing replaced the {{ repo }}"),
        ("<repo>", "nothing replaced the <repo>"),
        ("__REPO__", "nothing replaced the __REPO__"),
        ("/mnt/~/x", "nothing replaced the ~"),
        ("SANCERRE_REPOSITORY=/x", "/x is probably meant"),
        ("/srv/x\u{200b}", "U+200B"),
    ] {
        let output = site.command(&["init"]).env("SANCERRE_REPOSITORY", place).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{place}: {}", told(&output));
        assert!(told(&output).contains(says), "{place}: {}", told(&output));
    }
    for cache in ["~/c", "\"/x\""] {
        let backup = ["backup", "--key-file", "w.key", "--vm", "web01", "--cache-dir", cache, "disk.raw"];
        site.refuse(&backup, 2, "--cache-dir");
    }
}

#[test]
fn undelete_says_which_snapshots_are_forgotten() {
    let site = Site::with_disk(MIB);
    let latest = ["undelete", "web01:latest", "--key-file", "k.key"];
    site.refuse(&latest, 2, "Nothing is forgotten that could be taken back");
    let ids = [site.save("web01"), site.save("web01"), site.save("web01")];
    for id in &ids[..2] {
        site.succeed(&["forget", id, "--key-file", "k.key"]);
    }
    let said = site.refuse(&latest, 2, "Forgotten, and taken back by id:");
    let [older, newer, live] = ids.each_ref().map(|id| said.find(&format!("{} (web01, ", &id[..8])));
    assert!(newer.is_some() && newer < older && live.is_none(), "{said}");
    site.succeed(&["undelete", &ids[0][..8], "--key-file", "k.key"]);
}

/// As STORES.md says it.
#[test]
fn a_group_can_be_let_read_a_folder() {
    if !is_root() || !has("setpriv") {
        return;
    }
    let site = Site::with_disk(MIB);
    let trust = site.trust();
    fs::set_permissions(&site.folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let as_other = ["setpriv", "--reuid=65534", "--regid=54321", "--clear-groups"];
    let audit = || site.command_behind(&as_other, &["audit", "--trust", &trust]).output().unwrap();
    let refused = audit();
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    assert!(told(&refused).contains("have the owner give your group the right"), "{}", told(&refused));
    let group = "chgrp -R 54321 repository; find repository -type d -exec chmod 2750 {} +; \
                 find repository -type f -exec chmod 640 {} +";
    assert!(site.shell(group).status.success());
    site.save("web01");
    let read = audit();
    assert!(read.status.success(), "{}", told(&read));
}

#[test]
fn data_for_a_closed_output_is_refused_before_anything_is_done() {
    let site = Site::with_disk(MIB);
    let trust = site.trust();
    let recipients = || fs::read_dir(site.path("repository/keys/recipients")).unwrap().count();
    let before = recipients();
    for command in [
        "dump web01:latest".to_owned(),
        "restore web01:latest --target -".into(),
        format!("audit --trust {trust} --report /dev/stdout"),
        "key paper".into(),
    ] {
        let output = site.shell(&format!("\"$S\" {command} >&-"));
        assert_eq!(output.status.code(), Some(1), "{command}: {}", told(&output));
        assert!(told(&output).contains("standard output is closed"), "{command}: {}", told(&output));
    }
    assert_eq!(recipients(), before);
    let thrown_away = site.shell("\"$S\" dump web01:latest > /dev/null");
    assert!(thrown_away.status.success(), "{}", told(&thrown_away));
}

#[test]
fn json_for_a_closed_output_goes_to_standard_error() {
    let site = Site::with_disk(MIB);
    let backup = "backup --key-file w.key --vm web01 disk.raw";
    for (command, code) in [(backup, 0), ("snapshots", 0), ("restore nobody:latest --target x.raw", 2)] {
        let output = site.shell(&format!("\"$S\" {command} --json >&-"));
        assert_eq!(output.status.code(), Some(code), "{command}: {}", told(&output));
        let summary = format!("\"exit_code\":{code}");
        assert!(told(&output).contains(&summary), "{command}: {}", told(&output));
    }
}

#[test]
fn nothing_was_done_by_a_dry_run_that_cannot_tell_it() {
    let site = Site::with_disk(MIB);
    let output =
        site.shell("\"$S\" backup --dry-run --json --key-file w.key --vm web01 disk.raw > /dev/full");
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(!told(&output).contains("was done"), "{}", told(&output));
}

#[test]
fn what_systems_leave_beside_keys_is_no_damage() {
    let site = Site::with_disk(MIB);
    for name in ["recipients/.DS_Store", "zones/x", "certificates/._w", "identities/a"] {
        let path = site.path("repository/keys").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let output = site.run(&["check", "--json"]);
    assert!(output.status.success(), "{}", told(&output));
    let findings = summary(&output)["findings"].to_string();
    assert!(findings.contains(".DS_Store") && findings.contains("belongs to nothing"), "{findings}");
}

#[test]
fn a_packed_image_is_no_disk_unless_it_is_said_to_be_one() {
    let site = Site::new();
    let mut archive = vec![0; 1024];
    archive[..8].copy_from_slice(b"disk.raw");
    archive[257..262].copy_from_slice(b"ustar");
    let packed: [(&str, &[u8]); 8] = [
        ("gzip", b"\x1f\x8b\x08\0"),
        ("Zstandard", b"\x28\xb5\x2f\xfd"),
        ("xz", b"\xfd7zXZ\0"),
        ("bzip2", b"BZh91AY&SY"),
        ("7-Zip", b"7z\xbc\xaf\x27\x1c"),
        ("ZIP", b"PK\x03\x04"),
        ("tar", &archive),
        ("Proxmox VMA", b"VMA\0\0\0\0\x01"),
    ];
    for (name, start) in packed {
        let mut bytes = start.to_vec();
        bytes.resize(MIB, 7);
        fs::write(site.path("disk.raw"), bytes).unwrap();
        let backup = ["backup", "--key-file", "w.key", "--vm", "web01", "disk.raw"];
        site.refuse(&backup, 1, &format!("is packed ({name})"));
    }
    site.succeed(&["backup", "--key-file", "w.key", "--vm", "web01", "disk.raw", "--format", "raw"]);
}

#[test]
fn a_key_file_can_be_read_whatever_the_umask() {
    let site = Site::new();
    let output = site.shell("umask 0777; \"$S\" key add writer hv2 --out new.key");
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(fs::metadata(site.path("new.key")).unwrap().mode() & 0o777, 0o600);
}

/// What the kernel cannot read costs what it held, and is named.
#[test]
fn keys_that_cannot_be_read_cost_what_they_hold() {
    if !has("strace") {
        return;
    }
    let site = Site::with_disk(MIB);
    let without = |path: &str, arguments: &str| {
        site.shell(&format!(
            "strace -f -qq -o /dev/null -P \"$PWD/repository/{path}\" -e trace=openat,read,pread64,getdents64 \
             -e inject=openat,read,pread64,getdents64:error=EIO \"$S\" {arguments}"
        ))
    };
    let restore = "restore web01:latest --target back.raw --overwrite";
    for (path, arguments) in [
        ("keys/zones/default-0001", format!("{restore} --key-file w.key")),
        ("keys/certificates", restore.to_owned()),
    ] {
        let output = without(path, &arguments);
        assert!(output.status.success(), "{path}: {}", told(&output));
        assert!(told(&output).contains(path), "{path}: {}", told(&output));
        assert_eq!(fs::read(site.path("back.raw")).unwrap(), fs::read(site.path("disk.raw")).unwrap());
    }
}
