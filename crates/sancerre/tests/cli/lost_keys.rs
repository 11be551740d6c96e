//! Objects below `keys/` that are gone: each command that meets the loss names it, says what goes on without it, and does
//! not blame the passphrase, the key file or the user.

use crate::support::{MIB, Site, summary, told};

const ZONE: &str = "keys/zones/default-0001";
const RECIPIENTS: &str = "keys/recipients/";
const ADMIN: &str = "keys/admin/";

/// Removes objects from the repository: one, or a folder.
fn lose(site: &Site, object: &str) {
    let path = site.path("repository").join(object);
    match path.is_dir() {
        true => std::fs::remove_dir_all(path).unwrap(),
        false => std::fs::remove_file(path).unwrap(),
    }
}

fn site() -> Site {
    Site::with_disk(MIB / 4)
}

const BACK_UP: [&str; 6] = ["backup", "--key-file", "w.key", "--vm", "web01", "disk.raw"];
const RESTORE: [&str; 5] = ["restore", "web01:latest:disk0", "--target", "back.raw", "--overwrite"];

#[test]
fn a_zone_whose_secrets_are_lost_is_no_wrong_usage() {
    let site = site();
    lose(&site, "keys/zones");
    for arguments in [
        &RESTORE[..],
        &["dump", "web01:latest:disk0"],
        &["backup", "--vm", "web01", "disk.raw"],
        &["forget", "web01:latest"],
        &["key", "add", "writer", "hv2", "--out", "new.key"],
        &["key", "rotate"],
    ] {
        let told = site.refuse(arguments, 21, ZONE);
        assert!(told.contains("--key-file"), "{arguments:?}: {told}");
    }
    assert!(!site.path("repository").join(ZONE).exists(), "other secrets must not take their name");
    assert!(!site.path("new.key").exists());
    // A zone that never was is the user's mistake still.
    site.refuse(&["key", "rotate", "--zone", "nowhere"], 2, "there is no zone nowhere");
    site.refuse(&["check", "--zone", "nowhere"], 2, "there is no zone nowhere");
    for arguments in [&["check"][..], &["check", "--key-file", "w.key"]] {
        let told = site.refuse(arguments, 21, &format!("missing: {ZONE}"));
        assert!(told.contains("--key-file"), "{told}");
    }
    assert!(told(&site.succeed(&["key", "list"])).contains(ZONE));
    assert!(told(&site.succeed(&["snapshots"])).contains("web01"));

    // What a key file holds stands in.
    site.refuse(&BACK_UP, 3, ZONE);
    let restored = site.succeed(&[&RESTORE[..], &["--key-file", "w.key"]].concat());
    assert!(told(&restored).contains(ZONE), "{}", told(&restored));
    assert!(std::fs::read(site.path("back.raw")).unwrap() == std::fs::read(site.path("disk.raw")).unwrap());
}

#[test]
fn of_several_generations_the_lost_one_is_named() {
    let site = site();
    site.succeed(&["key", "rotate"]);
    site.succeed(&["key", "add", "writer", "hv2", "--out", "w2.key"]);
    site.succeed(&["backup", "--key-file", "w2.key", "--vm", "web02", "disk.raw"]);
    let second = "keys/zones/default-0002";
    lose(&site, second);
    site.refuse(&["restore", "web02:latest:disk0", "--target", "new.raw"], 21, second);
    site.succeed(&RESTORE);
    site.refuse(&["key", "rotate"], 21, second);
    // The generation before it may be one that somebody has stolen.
    site.refuse(&["backup", "--vm", "web01", "disk.raw"], 21, second);
    site.refuse(&["check"], 21, second);
    site.succeed(&["restore", "web02:latest:disk0", "--target", "new.raw", "--key-file", "w2.key"]);
}

#[test]
fn lost_recipients_are_not_a_wrong_passphrase() {
    let site = site();
    lose(&site, "keys/recipients");
    for arguments in
        [&RESTORE[..], &["key", "add", "writer", "hv2", "--out", "new.key"], &["forget", "web01:latest"]]
    {
        let told = site.refuse(arguments, 21, RECIPIENTS);
        assert!(!told.contains("SANCERRE_PASSWORD"), "{told}");
    }
    for arguments in [&["check"][..], &["check", "--key-file", "w.key"]] {
        site.refuse(arguments, 21, &format!("missing: {RECIPIENTS}"));
    }
    for arguments in [&["key", "list"][..], &["key", "list", "--key-file", "w.key"]] {
        assert!(told(&site.succeed(arguments)).contains(RECIPIENTS));
    }
    // It is saved, and nobody can open it.
    site.refuse(&BACK_UP, 3, RECIPIENTS);
    let told = site.run(&[&BACK_UP[..], &["--json"]].concat());
    assert_eq!(summary(&told)["lost_keys"], serde_json::json!([RECIPIENTS]));
}

#[test]
fn a_lost_passphrase_recipient_beside_another_one_is_not_a_wrong_passphrase() {
    let site = site();
    let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    site.succeed(&["key", "add", "restore", "--recipient", recipient, "--label", "vault"]);
    let own = "keys/recipients/0001-passphrase";
    lose(&site, own);
    let refused = site.refuse(&RESTORE, 21, own);
    assert!(!refused.contains("SANCERRE_PASSWORD"), "{refused}");
    site.refuse(&["check", "--key-file", "w.key"], 21, own);
    assert!(told(&site.succeed(&["key", "list", "--key-file", "w.key"])).contains(own));
}

#[test]
fn a_lost_admin_key_is_not_a_wrong_passphrase() {
    let site = site();
    lose(&site, "keys/admin");
    for arguments in [
        &["key", "add", "writer", "hv2", "--out", "new.key"][..],
        &["key", "revoke", "writer", "hv1"],
        &["forget", "web01:latest"],
    ] {
        let told = site.refuse(arguments, 21, ADMIN);
        assert!(!told.contains("SANCERRE_PASSWORD"), "{told}");
    }
    site.refuse(&["check"], 21, &format!("missing: {ADMIN}"));
    assert!(told(&site.succeed(&["key", "list"])).contains(ADMIN));
    // What is saved can be restored: it is said, and is no failure.
    assert!(told(&site.succeed(&BACK_UP)).contains(ADMIN));
    site.succeed(&RESTORE);
    site.succeed(&["forget", "web01:latest", "--key-file", "k.key"]);
}

#[test]
fn a_key_whose_certificate_is_lost_can_be_revoked() {
    let site = site();
    let lost = "keys/certificates/hv1";
    lose(&site, lost);
    site.refuse(&["backup", "--vm", "web01", "disk.raw"], 21, lost);
    assert!(told(&site.succeed(&BACK_UP)).contains(lost));
    site.refuse(&["check"], 21, &format!("missing: {lost}"));
    assert!(told(&site.succeed(&["key", "list"])).contains(lost));
    site.refuse(&["key", "revoke", "writer", "hv9"], 2, "there is no key hv9");
    assert!(told(&site.succeed(&["key", "taint", "writer", "hv1"])).contains(lost));
    site.succeed(&["key", "revoke", "writer", "hv1"]);
    let refused = site.run(&BACK_UP);
    assert_eq!(refused.status.code(), Some(12), "{}", told(&refused));
}

#[test]
fn a_lost_identity_record_is_told() {
    let site = site();
    let lost = "keys/identities/0001";
    lose(&site, lost);
    site.refuse(&["check"], 21, &format!("missing: {lost}"));
    assert!(told(&site.succeed(&["key", "list"])).contains(lost));
    assert!(told(&site.run(&BACK_UP)).contains(lost));
    site.refuse(&["key", "add", "writer", "hv2", "--zone", "branch", "--out", "new.key"], 21, lost);
    site.succeed(&RESTORE);
}

#[test]
fn a_repository_of_which_all_that_was_saved_is_lost_is_not_green() {
    let site = site();
    lose(&site, "zones");
    let trust = site.trust();
    for arguments in [&["check"][..], &["check", "--key-file", "w.key"], &["audit", "--trust", &trust]] {
        site.refuse(arguments, 3, "empty: zones/default/log/");
    }
}
