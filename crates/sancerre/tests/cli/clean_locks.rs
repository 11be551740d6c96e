//! A suspect night on a bucket that locks: what the last clean snapshot needs stays locked, and nothing for longer than the
//! bucket itself locks what is new.

use std::process::Output;

use serde_json::Value;

use crate::support::bucket::{Roles, Site};
use crate::support::{noise, summary, told};
use sancerre_services::seaweedfs::{ADMIN, Bucket, Credentials};
use sancerre_services::{Seaweedfs, seaweedfs};

const DOCUMENTS: u64 = 200;
const DOCUMENT_BYTES: usize = 3 * 4096;

/// A disk of documents behind one other block; the first block of some is encrypted where it stands.
fn documents(encrypted: u64) -> Vec<u8> {
    let document = |number: u64| {
        let mut document = noise(number + 1, DOCUMENT_BYTES);
        document[..4].copy_from_slice(b"PK\x03\x04");
        document[DOCUMENT_BYTES - 500..].fill(0);
        if number < encrypted {
            document[..4096].copy_from_slice(&noise(number + 9000, 4096));
        }
        document
    };
    std::iter::repeat_n(b'x', 4096).chain((0..DOCUMENTS).flat_map(document)).collect()
}

fn back_up(site: &Site, encrypted: u64) -> Output {
    std::fs::write(site.path("disk.raw"), documents(encrypted)).unwrap();
    let arguments =
        ["backup", "--json", "--fail-on-suspect", "--key-file", "w.key", "--vm", "files01", "disk0=disk.raw"];
    site.run(site.roles.writer, &arguments)
}

/// The ids of snapshots that are locked for at least so many days, by `doctor`.
fn locked_for(site: &Site, who: Credentials, days: i64) -> Vec<String> {
    let output = site.run(who, &["doctor", "--read-only", "--json", "--key-file", "w.key"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let least = i64::try_from(now).unwrap() + days * 86_400;
    let is_long = |lock: &&Value| lock["locked_until"].as_str().is_some_and(|until| seconds(until) >= least);
    let locks = summary(&output)["locks"].as_array().cloned().unwrap_or_default();
    locks.iter().filter(is_long).map(|lock| lock["id"].as_str().unwrap().to_owned()).collect()
}

fn seconds(time: &str) -> i64 {
    let output = std::process::Command::new("date").args(["-u", "-d", time, "+%s"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Two quiet nights, of which the second is the last clean one; then the bucket locks what is new for a month.
fn quiet_nights(site: &Site) -> String {
    let mut clean = String::new();
    for _ in 0..2 {
        let output = back_up(site, 0);
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        let done = summary(&output);
        assert!(done["clean_locks"].is_null(), "{done}");
        clean = done["snapshot"].as_str().unwrap().to_owned();
    }
    site.lock_new_objects(30);
    clean
}

/// What `gc` did about locks.
fn collected(site: &Site) -> Value {
    site.collect()["clean_locks"].clone()
}

fn server_and_bucket(kind: Bucket) -> Option<(&'static Seaweedfs, String)> {
    let server = seaweedfs()?;
    Some((server, server.bucket(kind).unwrap()))
}

/// Credentials that may extend locks: the backup itself does, says before what that costs, and the next night costs no more
/// than asking.
#[test]
fn a_suspect_night_keeps_the_last_clean_snapshot_locked() {
    let Some(server) = seaweedfs() else { return };
    // Who only reads is not told of locks here.
    let roles = Roles { writer: ADMIN, reader: ADMIN, keeper: ADMIN };
    let site = Site::of(server, server.bucket(Bucket::LockedByDefault(1)).unwrap(), roles);
    let clean = quiet_nights(&site);
    assert!(locked_for(&site, site.roles.reader, 2).is_empty());

    let night = back_up(&site, 40);
    let (said, done) = (told(&night), summary(&night));
    assert_eq!(night.status.code(), Some(30), "{said}");
    let locks = &done["clean_locks"];
    assert_eq!((&locks["snapshots"][0], &locks["refused"]), (&clean.clone().into(), &Value::Array(vec![])));
    assert!(locks["objects"].as_u64().unwrap() > 5, "{locks}");
    // The first was extended to see whether that is allowed, before the others were asked for.
    assert_eq!(locks["extended"], locks["objects"].as_u64().unwrap() - 1, "{locks}");
    assert!(said.contains("requests to ask for them, and at most as many to extend them"), "{said}");
    // That one, and not the night before it, nor for longer than the bucket locks what is new.
    assert!(locked_for(&site, site.roles.reader, 29).contains(&clean));
    assert!(locked_for(&site, site.roles.reader, 31).is_empty());
    assert_eq!(locked_for(&site, site.roles.reader, 2).len(), 2, "the clean one and the suspect one");

    let again = summary(&back_up(&site, 41));
    assert_eq!(again["verdict"], "unusual");
    let collected = collected(&site);
    assert_eq!(
        (&collected["snapshots"][0], &collected["extended"]),
        (&clean.into(), &0.into()),
        "{collected}"
    );
}

/// The policy of docs/STORES.md lets no host extend locks: the night is saved and says so, and the keeper's next `gc` does it,
/// until somebody clears the machine.
#[test]
fn a_keeper_extends_what_a_host_may_not() {
    let Some((server, bucket)) = server_and_bucket(Bucket::LockedByDefault(1)) else { return };
    let site = Site::under_the_policy(server, bucket);
    let clean = quiet_nights(&site);
    let night = back_up(&site, 40);
    let (said, done) = (told(&night), summary(&night));
    assert_eq!(night.status.code(), Some(30), "{said}");
    assert!(said.contains("s3:PutObjectRetention") && said.contains("have a keeper run"), "{said}");
    assert!(done["clean_locks"].is_null() && done["snapshot"].is_string(), "{done}");

    let locks = collected(&site);
    assert_eq!((&locks["snapshots"][0], &locks["refused"]), (&clean.clone().into(), &Value::Array(vec![])));
    assert!(locked_for(&site, site.roles.reader, 29).contains(&clean));
    let clear = ["clear", "files01", "--reason", "a test", "--key-file", "k.key"];
    site.succeed(site.roles.keeper, &clear);
    assert!(collected(&site).is_null());
    // Whom a keeper calls suspect, his run keeps.
    let suspect = ["suspect", "files01:latest", "--json", "--key-file", "k.key"];
    let said = summary(&site.succeed(site.roles.keeper, &suspect));
    assert_eq!(said["clean_locks"]["snapshots"][0], clean, "{said}");
}
