//! What commands ask of the store, counted: requests are money and, on a worst day, minutes.
//!
//! The disks have one region of 1 MiB per MiB, packs hold 1 MiB, and the log one entry and one outcome per backup, so
//! the numbers follow from the rules in the comments; who changes one says why the other rule is better.

use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::log::{Log, open_body};
use sancerre_engine::repository::session::{Session, append};
use sancerre_engine::restore::{self, RestoreOptions};
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::Kind;
use sancerre_format::seal::{UnitKind, UnitName, seal_raw};
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, name};
use sancerre_tests::store::Calls;

const MIB: usize = 1 << 20;

async fn cost(repo: &TestRepo, bytes: &[u8]) -> Calls {
    repo.store.take_calls();
    back_up(&repo.open, "web01", MemoryDisk::new(bytes.to_vec())).await.unwrap();
    repo.store.take_calls()
}

/// Checkpoints, of which there is none; log and outcomes; the identities, of which none is newer; when it has its number,
/// packs, their lists and the index in one. Below its number the log is dense and complete (W2), and above it is asked by
/// name (W7).
const LISTS: u64 = 5;

/// The gate before the manifest reads new nodes of the map back, from the one small pack in which they lie.
const READ_BACK: u64 = 1;

/// What a session stored is listed once more before its manifest: a part of the store may have gone away meanwhile.
const OWN_PACKS: u64 = 1;

/// Reads after the manifest, before "saved" is said.
const SAVED: u64 = 3;

#[tokio::test(start_paused = true)]
async fn a_first_backup() {
    let repo = TestRepo::new(90).await;
    let calls = cost(&repo, &noise(1, 100_000)).await;
    // Log entry, a pack of data, a pack of metadata, list, index segment, manifest.
    assert_eq!((calls.put, calls.list, calls.delete), (6, LISTS + OWN_PACKS, 0));
    // The log entry that nobody has made after its own, and its own entry and outcome once more (W7).
    assert_eq!(calls.get, READ_BACK + SAVED);
}

#[tokio::test(start_paused = true)]
async fn a_larger_one_costs_one_request_for_each_pack() {
    let repo = TestRepo::new(91).await;
    let calls = cost(&repo, &noise(2, 8 * MIB)).await;
    let packs = repo.keys_with("/packs/").await.len() as u64;
    assert!((9..=18).contains(&packs), "two frames fill a pack less its directory: {packs}");
    assert_eq!(
        (calls.put, calls.list, calls.get, calls.delete),
        (packs + 4, LISTS + OWN_PACKS, READ_BACK + SAVED, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_disk() {
    let repo = TestRepo::new(92).await;
    let bytes = noise(3, 4 * MIB);
    cost(&repo, &bytes).await;
    let second = cost(&repo, &bytes).await;
    // Log entry and manifest.
    assert_eq!((second.put, second.list, second.delete), (2, LISTS, 0));
    // One log entry and its outcome; a list and a segment; the base's map, whose pack is small; and what W7 asks.
    assert_eq!(second.get, 5 + SAVED, "{second:?}");
    // Every further night costs one entry and one outcome more to read: the log is read whole.
    let third = cost(&repo, &bytes).await;
    assert_eq!((third.put, third.get), (2, second.get + 2));
}

#[tokio::test(start_paused = true)]
async fn one_changed_block() {
    let repo = TestRepo::new(93).await;
    let mut bytes = noise(4, 4 * MIB);
    cost(&repo, &bytes).await;
    bytes[2 * MIB + 5000] ^= 1;
    repo.store.take_calls();
    let report = back_up(&repo.open, "web01", MemoryDisk::new(bytes)).await.unwrap();
    let calls = repo.store.take_calls();
    // The writes of a first small backup and the reads of an unchanged disk, whatever the size of this one.
    assert_eq!(
        (calls.put, calls.get, calls.list),
        (6, 5 + READ_BACK + SAVED, LISTS + OWN_PACKS),
        "{calls:?}"
    );
    assert!(report.new_bytes <= 512 << 10, "one chunk: {}", report.new_bytes);
    // The chunk, the path from its leaf to the root, and two packs' frames.
    assert!(
        report.stored_bytes <= report.new_bytes + 16_384,
        "{} for {}",
        report.stored_bytes,
        report.new_bytes
    );
}

/// Restores into nothing and counts: opening, then fetching.
async fn restore_cost(repo: &TestRepo, session: SessionId) -> (Calls, Calls) {
    let log = Log::load(&repo.open).await.unwrap();
    repo.store.take_calls();
    let reader = restore::open(&repo.open, &log, session).await.unwrap();
    let opening = repo.store.take_calls();
    let options = RestoreOptions::new(512 << 20);
    let member = reader.member("disk0").unwrap();
    let report = restore::dump(&reader, member, &mut Vec::new(), &options, &Monitor::silent()).await.unwrap();
    let fetching = repo.store.take_calls();
    assert_eq!(fetching.get, report.requests, "every request is reported");
    (opening, fetching)
}

#[tokio::test(start_paused = true)]
async fn a_restore() {
    let repo = TestRepo::new(94).await;
    let mut bytes = noise(5, 8 * MIB);
    let first = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    let packs = repo.keys_with("/packs/").await.len() as u64;
    let (opening, fetching) = restore_cost(&repo, first.snapshot.unwrap()).await;
    // Its manifest counts its lists: here one.
    assert_eq!((opening.list, opening.get, opening.put), (0, 1, 0));
    // Root and leaves lie in one pack of metadata and are asked for level by level; a dump cuts its requests at
    // regions, so that a pack which holds the end of one and the start of the next is asked twice.
    assert!(fetching.get <= 2 * packs + 2, "{} requests for {packs} packs", fetching.get);
    assert_eq!((fetching.put, fetching.list), (0, 0));
    // Other nights and other machines cost a restore nothing: no index, no other session's lists.
    for night in 1..5 {
        bytes[night * MIB] ^= 1;
        back_up(&repo.open, "db01", MemoryDisk::new(bytes.clone())).await.unwrap();
    }
    assert_eq!(restore_cost(&repo, first.snapshot.unwrap()).await, (opening, fetching));
}

/// A writer may sign that his session has four billion lists; who restores what builds on its packs asks for those that
/// are there.
#[tokio::test(start_paused = true)]
async fn a_claim_of_very_many_lists() {
    let repo = TestRepo::new(96).await;
    let bytes = noise(7, MIB);
    back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
    let mut log = Log::load(&repo.open).await.unwrap();
    let (body, mut uses) = {
        let snapshot = log.latest(&name("web01")).unwrap();
        (open_body(&repo.open, &snapshot).unwrap(), snapshot.uses().unwrap())
    };
    let session = Session::announce(&repo.open, &mut log, &name("web01"), None).await.unwrap();
    uses.insert_pack(PackName { session: session.id.number, ordinal: 0 });
    let mut manifest = session.manifest(&repo.open);
    manifest.lists = u32::MAX;
    let unit = UnitName { kind: UnitKind::Body, session: session.id, a: 0, b: 0 };
    let root = repo.open.keys.metadata_root(&session.id).unwrap();
    let body = seal_raw(&root, &unit, 3, body.encode().as_bytes()).unwrap();
    session.commit(&repo.open, &mut log, &manifest, &uses.encode().unwrap(), &body).await.unwrap();
    let (opening, _) = restore_cost(&repo, session.id).await;
    assert_eq!(
        (opening.list, opening.get),
        (2, 1),
        "its folder, in which there is none, the other's one list, and the packs of the session whose list lacks one"
    );
    assert!(dump_bytes(&repo.open, session.id, "disk0").await.unwrap() == bytes);
}

/// Who fills the log while a backup runs makes it read many entries, and not one after the other.
#[tokio::test(start_paused = true)]
async fn what_was_added_to_the_log_meanwhile() {
    let repo = TestRepo::new(95).await;
    back_up(&repo.open, "web01", MemoryDisk::new(noise(6, MIB))).await.unwrap();
    let mut log = Log::load(&repo.open).await.unwrap();
    for added in [0, 3, 40] {
        for _ in 0..added {
            append(&repo.open, &Log::load(&repo.open).await.unwrap(), Kind::Index, &[]).await.unwrap();
        }
        repo.store.take_calls();
        log.extend(&repo.open).await.unwrap();
        let calls = repo.store.take_calls();
        // Each entry, and the one that nobody has made; of 40 those behind the sixteenth from one listing of the log.
        assert_eq!((calls.get, calls.list), (added + 1, if added == 40 { 2 } else { 0 }));
        let sessions = |log: &Log| log.entries().map(|entry| entry.session).collect::<Vec<_>>();
        assert_eq!(sessions(&log), sessions(&Log::load(&repo.open).await.unwrap()));
    }
}
