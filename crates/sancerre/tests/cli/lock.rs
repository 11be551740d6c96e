//! The built program on buckets that lock: until when, for longer, and what may be deleted when.

use std::time::{Duration, Instant};

use crate::support::bucket::Site;
use crate::support::{MIB, Site as Folder, summary};
use sancerre_services::seaweedfs::{ADMIN, Bucket, HYPERVISOR, KEEPER, READER, RESTORER, WRITER};
use sancerre_services::{Seaweedfs, seaweedfs};
use serde_json::Value;

const DAY_SECONDS: i64 = 86_400;

fn now_seconds() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

/// Seconds since 1970 of a time as the program or the server writes it.
fn seconds(time: &str) -> i64 {
    let output = std::process::Command::new("date").args(["-u", "-d", time, "+%s"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap_or_else(|_| panic!("{time:?}"))
}

/// Until when the server locks a version; none for none.
fn locked_until(server: &Seaweedfs, bucket: &str, key: &str, version: &str) -> Option<i64> {
    let query = format!("retention=&versionId={version}");
    let answer = server.request(ADMIN, ("GET", &format!("/{bucket}/{key}"), &query), &[], b"").unwrap();
    let text = answer.text();
    let (_, rest) = text.split_once("<RetainUntilDate>")?;
    Some(seconds(rest.split_once('<')?.0))
}

fn lock(server: &Seaweedfs, bucket: &str, key: &str, version: &str, until: i64) {
    let date = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{until}"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .unwrap();
    let date = String::from_utf8(date.stdout).unwrap();
    let body = format!(
        "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
        date.trim()
    );
    let query = format!("retention=&versionId={version}");
    let place = format!("/{bucket}/{key}");
    let answer = server.request(ADMIN, ("PUT", &place, &query), &[], body.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The days for which each snapshot is locked, by `doctor`; and its exit code.
fn diagnosed(site: &Site) -> (Vec<i64>, i32) {
    let output = site.run(WRITER, &["doctor", "--json", "--key-file", "w.key"]);
    let locks = summary(&output)["locks"].as_array().cloned().unwrap_or_default();
    let days = |lock: &Value| match lock["locked_until"].as_str() {
        Some(until) => (seconds(until) - now_seconds()) / DAY_SECONDS,
        None => -1,
    };
    (locks.iter().map(days).collect(), output.status.code().unwrap())
}

#[test]
fn a_keeper_extends_what_snapshots_need() {
    let Some(server) = seaweedfs() else { return };
    let mut site = Site::new(server, Bucket::LockedByDefault(1));
    site.back_up();
    site.back_up();
    assert_eq!(diagnosed(&site), (vec![0, 0], 0));

    let extend = |days: &str, more: &[&str]| {
        let arguments = ["lock", "extend", "--json", "--key-file", "k.key", "--for", days];
        summary(&site.succeed(ADMIN, &[&arguments, more].concat()))
    };
    let planned = extend("20d", &["--dry-run"]);
    assert_eq!((&planned["short"], &planned["extended"]), (&planned["objects"], &0.into()), "{planned}");
    assert_eq!(diagnosed(&site).0, [0, 0]);
    let extended = extend("20d", &[]);
    assert_eq!(
        (&extended["extended"], &extended["refused"]),
        (&planned["objects"], &Value::Array(Vec::new()))
    );
    assert_eq!(diagnosed(&site), (vec![19, 19], 0));
    let again = extend("19d", &[]);
    assert_eq!((&again["short"], &again["extended"]), (&0.into(), &0.into()), "{again}");

    // The server is asked itself. The index is a cache, and goes.
    let versions = server.versions(&site.bucket).unwrap();
    for version in versions.iter().filter(|version| !version.key.starts_with("probe/")) {
        let until = locked_until(server, &site.bucket, &version.key, &version.id).unwrap();
        let is_long = until > now_seconds() + 19 * DAY_SECONDS;
        assert_eq!(is_long, !version.key.contains("/index/"), "{}", version.key);
    }
    assert_eq!(
        planned["objects"],
        versions
            .iter()
            .filter(|version| !version.key.starts_with("probe/") && !version.key.contains("/index/"))
            .count()
    );
}

#[test]
fn a_folder_locks_nothing_and_a_dry_run_says_so_too() {
    let folder = Folder::with_disk(MIB);
    let extend = ["lock", "extend", "--key-file", "k.key", "--for", "30d"];
    for more in [&["--dry-run"][..], &[]] {
        folder.refuse(&[&extend[..], more].concat(), 3, "keeps no versions and locks nothing");
    }
}

/// What counts is the lock of the first version, not of what somebody put over it.
#[test]
fn locks_are_those_of_the_objects() {
    let Some(server) = seaweedfs() else { return };
    let mut site = Site::new(server, Bucket::LockedByDefault(1));
    site.back_up();
    let before = server.versions(&site.bucket).unwrap();
    server.deface(WRITER, &site.bucket).unwrap();
    site.succeed(ADMIN, &["lock", "extend", "--key-file", "k.key", "--for", "9d"]);
    assert_eq!(diagnosed(&site).0, [8]);
    let kept = |part: &str| {
        let version = before.iter().find(|version| version.key.contains(part)).unwrap();
        locked_until(server, &site.bucket, &version.key, &version.id).unwrap()
    };
    for part in ["config", "/log/", "/outcome/", "/lists/", "/packs/"] {
        assert!(kept(part) > now_seconds() + 8 * DAY_SECONDS, "{part}");
    }
    let refused = site.run(READER, &["lock", "extend", "--key-file", "k.key", "--for", "9d"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("s3:GetObjectRetention"), "{said}");
}

#[test]
fn a_backup_warns_of_locks_that_end_soon() {
    let Some(server) = seaweedfs() else { return };
    let mut site = Site::new(server, Bucket::LockedByDefault(1));
    let warns =
        |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).contains("lock extend");
    assert!(!warns(&site.back_up()));
    let (_, manifest) = (0, server.versions(&site.bucket).unwrap());
    let manifest = manifest.iter().find(|version| version.key.contains("/outcome/")).unwrap();
    let place = format!("/{}/{}", site.bucket, manifest.key);
    let bytes = server.request(ADMIN, ("GET", &place, ""), &[], b"").unwrap().text();
    let claimed = bytes.lines().find_map(|line| line.strip_prefix("lock-until: ")).unwrap();
    let claimed = seconds(claimed);
    assert!((claimed - now_seconds() - DAY_SECONDS).abs() < 600, "{claimed}");
    // From now on objects are locked for a month, so a day is little.
    site.lock_new_objects(30);
    assert!(warns(&site.back_up()));
    assert_eq!(diagnosed(&site).1, 3);
    site.succeed(ADMIN, &["lock", "extend", "--key-file", "k.key", "--for", "30d"]);
    assert!(!warns(&site.back_up()));
    assert_eq!(diagnosed(&site).1, 0);
}

#[test]
fn gc_deletes_every_version_once_the_lock_is_over() {
    let Some(server) = seaweedfs() else { return };
    let mut site = Site::new(server, Bucket::Locked);
    site.back_up();
    let of_first: Vec<_> = server.versions(&site.bucket).unwrap();
    let of_first: Vec<_> = of_first.iter().filter(|version| version.key.contains("/packs/")).collect();
    site.back_up();
    site.succeed(ADMIN, &["forget", "web01:latest~1", "--key-file", "k.key"]);
    let (began, wait) = (Instant::now(), Duration::from_secs(40));
    for version in &of_first {
        lock(server, &site.bucket, &version.key, &version.id, now_seconds() + 40);
        // Not what the program put there, and in its way.
        server.overwrite(WRITER, &site.bucket, &version.key, b"junk").unwrap();
        server.hide(WRITER, &site.bucket, &version.key).unwrap();
    }
    let waits = site.collect();
    assert_eq!(waits["locked"]["packs"], of_first.len(), "{waits}");
    assert!(waits["locked_until"].is_string() && waits["deleted_packs"] == 0, "{waits}");
    assert!(waits["left"].as_array().unwrap().is_empty(), "it tried to delete what is locked: {waits}");

    std::thread::sleep(wait.saturating_sub(began.elapsed()) + Duration::from_secs(2));
    let collected = site.collect();
    assert_eq!(collected["deleted_packs"], of_first.len(), "{collected}");
    let left = server.versions(&site.bucket).unwrap();
    assert!(left.iter().all(|version| of_first.iter().all(|gone| gone.key != version.key)), "{left:?}");
    site.succeed(READER, &["restore", "web01:latest:disk0", "--target", "restored.raw"]);
    assert!(std::fs::read(site.path("restored.raw")).unwrap() == std::fs::read(site.path("1.raw")).unwrap());
}

/// The policy of docs/STORES.md as it stands there, for credentials that may do nothing else.
#[test]
fn the_policy_gives_each_role_what_it_needs() {
    let Some(server) = seaweedfs() else { return };
    let bucket = server.bucket(Bucket::LockedByDefault(1)).unwrap();
    let mut site = Site::under_the_policy(server, bucket);
    site.back_up();
    site.back_up();
    site.is_whole();
    site.succeed(KEEPER, &["lock", "extend", "--key-file", "k.key", "--for", "5d"]);
    assert_eq!(site.collect()["committed"], true);
    site.back_up();
    site.is_whole();
    // Nobody but the keeper deletes, hides or locks, and nobody at all what is locked.
    let versions = server.versions(&site.bucket).unwrap();
    assert!(versions.iter().all(|version| !version.is_marker || version.key.starts_with("probe/")));
    let pack = versions.iter().find(|version| version.key.contains("/packs/")).unwrap();
    let place = format!("/{}/{}", site.bucket, pack.key);
    let version = format!("versionId={}", pack.id);
    let status =
        |who, method, query: &str| server.request(who, (method, &place, query), &[], b"x").unwrap().status;
    for who in [HYPERVISOR, RESTORER] {
        assert_eq!([status(who, "DELETE", ""), status(who, "DELETE", &version)], [403, 403]);
        assert_eq!(status(who, "PUT", &format!("retention=&{version}")), 403);
    }
    assert_eq!([status(RESTORER, "PUT", ""), status(KEEPER, "DELETE", &version)], [403, 403]);
}
