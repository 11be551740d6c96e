//! The built program after somebody with stolen write credentials was at a bucket that keeps versions.

use crate::support::bucket::Site;
use sancerre_services::seaweedfs;
use sancerre_services::seaweedfs::{Bucket, READER, WRITER};
use serde_json::Value;

/// Markers and junk over every object, twice: everything is found, nights go on, and a collection loses nothing.
#[test]
fn what_was_hidden_and_overwritten_is_still_there() {
    let Some(server) = seaweedfs() else { return };
    let mut site = Site::new(server, Bucket::LockedByDefault(1));
    site.back_up();
    site.back_up();
    let objects = server.deface(WRITER, &site.bucket).unwrap();
    assert!(objects > 12, "{objects}");
    site.is_whole();
    let noted = site.succeed(READER, &["audit", "--trust", &site.trust]);
    let noted = String::from_utf8_lossy(&noted.stdout).into_owned();
    assert!(noted.contains("delete markers or other versions were put over"), "{noted}");
    site.back_up();
    server.deface(WRITER, &site.bucket).unwrap();
    site.is_whole();
    let collected = site.collect();
    assert_eq!((&collected["deleted_packs"], &collected["committed"]), (&0.into(), &true.into()));
    site.is_whole();
}

/// No collection has recorded the newest snapshot, and its manifest is hidden: an abort in its place would be accepted.
#[test]
fn gc_does_not_take_a_hidden_manifest_for_none() {
    let Some(server) = seaweedfs() else { return };
    let mut site = Site::new(server, Bucket::Versioned);
    site.back_up();
    site.back_up();
    let objects = server.versions(&site.bucket).unwrap();
    let manifests: Vec<_> = objects.iter().filter(|version| version.key.contains("/outcome/")).collect();
    assert_eq!(manifests.len(), 2);
    for manifest in manifests {
        server.hide(WRITER, &site.bucket, &manifest.key).unwrap();
    }
    let collected = site.collect();
    assert_eq!(collected["sessions"]["ended"], Value::Array(Vec::new()), "{collected}");
    assert_eq!(collected["deleted_packs"], 0, "{collected}");
    site.is_whole();
}

/// Junk waits where the next night will write, behind a marker so that a create-only request succeeds.
#[test]
fn what_was_put_in_the_way_stops_no_backup() {
    let Some(server) = seaweedfs() else { return };
    let mut site = Site::new(server, Bucket::LockedByDefault(1));
    site.back_up();
    let newest = server.versions(&site.bucket).unwrap();
    let newest = newest.iter().filter(|version| version.key.contains("/log/")).map(|version| &version.key);
    let (folder, number) = newest.max().unwrap().rsplit_once('/').unwrap();
    let next = u64::from_str_radix(number, 16).unwrap() + 1;
    for number in next..next + 3 {
        let key = format!("{folder}/{number:016x}");
        server.overwrite(WRITER, &site.bucket, &key, b"junk").unwrap();
        server.hide(WRITER, &site.bucket, &key).unwrap();
    }
    site.back_up();
    let listed = site.succeed(READER, &["snapshots", "--json", "--key-file", "w.key"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).matches("\"vm\":\"web01\"").count(), 2);
    site.succeed(READER, &["restore", "web01:latest:disk0", "--target", "restored.raw"]);
    assert!(std::fs::read(site.path("restored.raw")).unwrap() == std::fs::read(site.path("1.raw")).unwrap());
}

/// Keys that no program of ours would spell, as far as the server takes them.
#[test]
fn keys_of_any_spelling_stop_nobody() {
    let Some(server) = seaweedfs() else { return };
    for kind in [Bucket::Versioned, Bucket::Plain] {
        let mut site = Site::new(server, kind);
        site.back_up();
        let names =
            ["100%25", "%252E%252E", "a~b", "%0A", "%20a%20", "a//b", "a/", "/", "%7F", "a%5Cb", "..%2Fx"];
        let folders = ["keys", "zones/default/log", "zones/default/outcome", "zones/default/lists"];
        let mut taken = 0;
        for folder in folders {
            for name in names {
                let key = format!("{folder}/{name}");
                taken += usize::from(server.overwrite(WRITER, &site.bucket, &key, b"junk").is_ok());
            }
        }
        assert!(taken > folders.len() * names.len() / 2, "only {taken}");
        site.is_whole();
        site.back_up();
        site.is_whole();
    }
}
