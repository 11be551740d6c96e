//! Bytes of every object are changed, one at a time: check names the object, and a restore gives the right bytes or
//! fails. A check of a whole repository takes tens of milliseconds, so positions are samples here; the format's golden
//! tests change every single byte of every kind of object.

use sancerre_engine::check::{CheckOptions, ReadData, Severity, check};
use sancerre_engine::monitor::Monitor;
use sancerre_format::pack::Pack;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::repo::{TestRepo, back_up, restore_bytes};

/// Inside the sealed frames of a pack, which one hash each covers, every so many bytes are tried.
const FRAME_STRIDE: usize = 797;
/// Of records, and of a pack's sealed keys, table and directory.
const RECORD_STRIDE: usize = 13;
/// Of smaller objects.
const SMALL_STRIDE: usize = 3;
const SMALL_BYTES: usize = 1024;
/// The fixed fields at a pack's start and end: every byte.
const PACK_HEAD_BYTES: usize = 80;
const PACK_TRAILER_BYTES: usize = 64;

/// Two nights of a small disk.
async fn scene() -> (TestRepo, Vec<u8>, sancerre_format::id::SessionId) {
    let repo = TestRepo::new(61).await;
    let mut disk = vec![0; 40_000];
    disk[4096..12_288].copy_from_slice(&noise(61, 8192));
    back_up(&repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
    disk[20_480..24_576].copy_from_slice(&noise(62, 4096));
    let second = back_up(&repo.open, "web01", MemoryDisk::new(disk.clone())).await.unwrap();
    (repo, disk, second.snapshot.unwrap())
}

/// The positions to change.
fn positions(key: &str, bytes: &[u8]) -> Vec<usize> {
    let frames = if key.contains("/packs/") {
        let pack = Pack::decode(bytes).unwrap();
        let places: Vec<_> = pack.directory().iter().map(|entry| entry.place()).collect();
        let start = places.iter().map(|place| place.offset_bytes).min().unwrap() as usize;
        let end = places.iter().map(|place| place.offset_bytes + place.sealed_bytes).max().unwrap() as usize;
        start..end
    } else {
        let stride = if bytes.len() < SMALL_BYTES { SMALL_STRIDE } else { RECORD_STRIDE };
        return (0..bytes.len()).step_by(stride).chain([bytes.len() - 1]).collect();
    };
    let chosen = |at: &usize| {
        let is_fixed = *at < PACK_HEAD_BYTES || *at >= bytes.len() - PACK_TRAILER_BYTES;
        let stride = if frames.contains(at) { FRAME_STRIDE } else { RECORD_STRIDE };
        is_fixed || at.is_multiple_of(stride)
    };
    (0..bytes.len()).filter(chosen).collect()
}

async fn check_names(repo: &TestRepo, key: &str, at: usize) {
    let options = CheckOptions { read_data: ReadData::All, quarantine: false };
    let report = match check(&repo.open, &options, &Monitor::silent()).await {
        Ok(report) => report,
        // Only a record that verifies may stop a reader, and no changed one does.
        Err(error) => panic!("{key} byte {at}: the check stopped: {error}"),
    };
    let named =
        report.findings.iter().any(|finding| finding.object == key && finding.severity != Severity::Note);
    assert!(named, "{key} byte {at}: {:#?}", report.findings);
}

async fn change_bytes(folder: &str) {
    let (repo, disk, snapshot) = scene().await;
    let mut keys = repo.keys_with(folder).await;
    keys.retain(|key| !key.starts_with("keys/recipients/") && !key.starts_with("keys/admin/"));
    assert!(!keys.is_empty());
    for key in keys {
        let sound = repo.object(&key).await;
        for at in positions(&key, &sound) {
            let mut changed = sound.clone();
            changed[at] ^= 1 << (at % 8);
            repo.tamper(&key, changed).await;
            check_names(&repo, &key, at).await;
            if let Ok(bytes) = restore_bytes(&repo.open, snapshot, "disk0").await {
                assert!(bytes == disk, "{key} byte {at}: wrong bytes were restored");
            }
        }
        repo.tamper(&key, sound).await;
    }
}

#[tokio::test]
async fn changed_bytes_of_config() {
    change_bytes("config").await;
}

#[tokio::test]
async fn changed_bytes_of_keys() {
    change_bytes("keys/").await;
}

#[tokio::test]
async fn changed_bytes_of_log() {
    change_bytes("/log/").await;
}

#[tokio::test]
async fn changed_bytes_of_outcomes() {
    change_bytes("/outcome/").await;
}

#[tokio::test]
async fn changed_bytes_of_lists() {
    change_bytes("/lists/").await;
}

#[tokio::test]
async fn changed_bytes_of_packs() {
    change_bytes("/packs/").await;
}

#[tokio::test]
async fn changed_bytes_of_index() {
    change_bytes("/index/").await;
}
