//! What goes in comes out: generated disks, nights of edits, every snapshot after every night.

use std::io::Cursor;
use std::sync::Arc;

use proptest::prelude::*;
use sancerre_engine::backup::{BackupOptions, BackupReport, BackupSource, Input, backup};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::{Error, ErrorKind};
use sancerre_format::outcome::{Chunking, MemberKind};
use sancerre_tests::disk::{MemoryDisk, guest, noise};
use sancerre_tests::model::{Model, assert_same};
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes, name, options, restore_bytes};

use crate::block_on;

const REGION: usize = 1 << 20;

/// A stretch of a generated disk.
#[derive(Debug, Clone)]
enum Extent {
    Text(u64, usize),
    Noise(u64, usize),
    Zeros(usize),
    /// The end of a file: data, then zeros up to the next block.
    File(u64, usize),
}

fn extent() -> impl Strategy<Value = Extent> {
    let blocks = prop_oneof![1usize..=10, Just(100)].prop_map(|blocks| blocks * 4096);
    prop_oneof![
        (any::<u64>(), 1usize..300_000).prop_map(|(seed, length)| Extent::Text(seed, length)),
        (any::<u64>(), 1usize..200_000).prop_map(|(seed, length)| Extent::Noise(seed % 4, length)),
        blocks.prop_map(Extent::Zeros),
        (1usize..5000).prop_map(Extent::Zeros),
        (any::<u64>(), 1usize..50_000).prop_map(|(seed, length)| Extent::File(seed % 8, length)),
    ]
}

impl Extent {
    fn write(&self, disk: &mut Vec<u8>) {
        match self {
            Self::Text(seed, length) => {
                disk.extend(format!("dossier {seed:x} du patient ").bytes().cycle().take(*length));
            }
            Self::Noise(seed, length) => disk.extend(noise(*seed, *length)),
            Self::Zeros(length) => disk.resize(disk.len() + length, 0),
            Self::File(seed, length) => {
                disk.resize(disk.len().next_multiple_of(4096), 0);
                disk.extend(noise(*seed, *length));
                disk.resize(disk.len().next_multiple_of(4096), 0);
            }
        }
    }
}

/// Sizes where something ends: blocks, regions, nothing at all.
fn size() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![
        3 => Just(None),
        1 => prop_oneof![Just(0usize), Just(1), Just(511), Just(4095), Just(4096), Just(4097)].prop_map(Some),
        2 => (1usize..4, -2i64..=2, prop_oneof![Just(1i64), Just(4096)])
            .prop_map(|(regions, step, unit)| usize::try_from((regions * REGION) as i64 + step * unit).ok()),
    ]
}

/// A disk, printed as its recipe.
#[derive(Debug, Clone)]
struct Recipe(Vec<Extent>, Option<usize>);

impl Recipe {
    fn bytes(&self) -> Vec<u8> {
        let mut disk = Vec::new();
        self.0.iter().for_each(|extent| extent.write(&mut disk));
        disk.resize(self.1.unwrap_or(disk.len()), 0);
        disk
    }
}

fn disk() -> impl Strategy<Value = Recipe> {
    (prop::collection::vec(extent(), 0..14), size()).prop_map(|(extents, size)| Recipe(extents, size))
}

/// What happens to a disk in a day. Positions are fractions of 1/1000.
#[derive(Debug, Clone)]
enum Edit {
    Write(usize, Extent),
    Zero(usize, usize),
    Grow(Extent),
    Shrink(usize),
    Swap,
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => (0usize..1000, extent()).prop_map(|(at, extent)| Edit::Write(at, extent)),
        2 => (0usize..1000, 1usize..200_000).prop_map(|(at, length)| Edit::Zero(at, length)),
        1 => extent().prop_map(Edit::Grow),
        1 => (500usize..1000).prop_map(Edit::Shrink),
        1 => Just(Edit::Swap),
    ]
}

fn apply(edit: &Edit, disk: &mut Vec<u8>, other: &mut Vec<u8>) {
    let at = |thousandths: &usize, size: usize| size * thousandths / 1000;
    match edit {
        Edit::Write(position, extent) => {
            let mut bytes = Vec::new();
            extent.write(&mut bytes);
            let start = at(position, disk.len());
            let end = (start + bytes.len()).min(disk.len());
            disk[start..end].copy_from_slice(&bytes[..end - start]);
        }
        Edit::Zero(position, length) => {
            let start = at(position, disk.len());
            let end = (start + length).min(disk.len());
            disk[start..end].fill(0);
        }
        Edit::Grow(extent) => extent.write(disk),
        Edit::Shrink(part) => disk.truncate(at(part, disk.len())),
        Edit::Swap => std::mem::swap(disk, other),
    }
}

/// One night: both VMs are backed up; a scan that knows nothing of the night before comes to the same maps.
async fn night(repo: &TestRepo, model: &mut Model, number: usize, disks: &[Vec<u8>; 2]) {
    for (vm, bytes) in ["web01", "db01"].into_iter().zip(disks) {
        let report = back_up(&repo.open, vm, MemoryDisk::new(bytes.clone())).await.unwrap();
        model.add_disk(report.snapshot.unwrap(), bytes);
        let stranger = format!("{vm}-{number}");
        let plain = back_up(&repo.open, &stranger, MemoryDisk::dense(bytes.clone())).await.unwrap();
        assert_eq!(
            (plain.parent, plain.new_bytes),
            (None, 0),
            "the same disk without a base, told without holes"
        );
        assert_eq!(root(&plain), root(&report), "the shortcut along the base must be exact");
        assert_eq!(plain.data_bytes, report.data_bytes);
    }
    model.check(&repo.open).await;
}

fn root(report: &BackupReport) -> Option<sancerre_format::id::ContentId> {
    report.members[0].root.map(|root| root.id)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn nights_of_edits_restore(
        first in [disk(), disk()],
        nights in prop::collection::vec(prop::collection::vec((any::<bool>(), edit()), 1..4), 1..4),
    ) {
        block_on(async {
            let repo = TestRepo::new(3).await;
            let (mut model, mut disks) = (Model::default(), first.map(|recipe| recipe.bytes()));
            night(&repo, &mut model, 0, &disks).await;
            for (number, edits) in nights.iter().enumerate() {
                for (second, edit) in edits {
                    let [a, b] = &mut disks;
                    if *second { apply(edit, b, a) } else { apply(edit, a, b) }
                }
                night(&repo, &mut model, number + 1, &disks).await;
            }
        });
    }

    #[test]
    fn one_disk_restores_to_a_file(recipe in disk()) {
        let bytes = recipe.bytes();
        block_on(async {
            let repo = TestRepo::new(4).await;
            let report = back_up(&repo.open, "web01", MemoryDisk::new(bytes.clone())).await.unwrap();
            let session = report.snapshot.unwrap();
            assert_same(&restore_bytes(&repo.open, session, "disk0").await.unwrap(), &bytes, "restore");
            assert_same(&dump_bytes(&repo.open, session, "disk0").await.unwrap(), &bytes, "dump");
        });
    }

    #[test]
    fn streams_and_files_restore(recipe in disk()) {
        let bytes = recipe.bytes();
        block_on(async {
            let repo = TestRepo::new(5).await;
            let stream = || Input::Stream(Box::new(Cursor::new(bytes.clone())));
            let sources = || vec![
                source("dump", MemberKind::Stream, stream()),
                source("sparse", MemberKind::File, Input::Disk(MemoryDisk::new(bytes.clone()))),
                source("dense", MemberKind::File, Input::Disk(MemoryDisk::dense(bytes.clone()))),
                source("raw", MemberKind::Disk, stream()),
                source("disk", MemberKind::Disk, Input::Disk(MemoryDisk::new(bytes.clone()))),
            ];
            let first = save(&repo, sources()).await.unwrap();
            let roots: Vec<_> = first.members.iter().map(|member| member.root.map(|root| root.id)).collect();
            assert_eq!((roots[0], roots[1]), (roots[2], roots[2]), "however its bytes come");
            assert_eq!(roots[3], roots[4], "however its bytes come");
            assert_eq!(first.members[0].chunking, Chunking::Stream);
            let again = save(&repo, sources()).await.unwrap();
            assert_eq!((again.new_bytes, again.stored_bytes), (0, 0));
            let mut model = Model::default();
            let disks = ["dump", "sparse", "dense", "raw", "disk"].map(|name| (name.to_owned(), bytes.clone()));
            model.add(again.snapshot.unwrap(), disks.to_vec());
            model.check(&repo.open).await;
        });
    }
}

fn source(label: &str, kind: MemberKind, input: Input) -> BackupSource {
    BackupSource { name: name(label), kind, input, least_bytes: 0 }
}

async fn save(repo: &TestRepo, sources: Vec<BackupSource>) -> sancerre_engine::Result<BackupReport> {
    let options = BackupOptions { sources, ..options("web01", Vec::new()) };
    backup(&repo.open, options, &Monitor::silent()).await
}

#[tokio::test(start_paused = true)]
async fn several_disks_share_their_chunks() {
    let repo = TestRepo::new(6).await;
    let (system, data) = (guest(1, 5 << 20), guest(2, 3 << 20));
    let disks = || vec![("system", system.clone()), ("data", data.clone()), ("copy", system.clone())];
    let sources = |disks: Vec<(&'static str, Vec<u8>)>| {
        let disks = disks.into_iter();
        disks
            .map(|(label, bytes)| source(label, MemberKind::Disk, Input::Disk(MemoryDisk::new(bytes))))
            .collect()
    };
    let report = save(&repo, sources(disks())).await.unwrap();
    assert_eq!(report.members[2].new_bytes, 0, "{report:?}");
    let mut model = Model::default();
    let bytes = disks().into_iter().map(|(label, bytes)| (label.to_owned(), bytes));
    model.add(report.snapshot.unwrap(), bytes.collect());
    // The next night one is gone and the others come in another order.
    let rest: Vec<_> = disks().into_iter().rev().take(2).collect();
    let second = save(&repo, sources(rest.clone())).await.unwrap();
    assert_eq!(second.new_bytes, 0);
    model.add(
        second.snapshot.unwrap(),
        rest.into_iter().map(|(label, bytes)| (label.into(), bytes)).collect(),
    );
    model.check(&repo.open).await;
}

#[tokio::test(start_paused = true)]
async fn two_disks_of_one_name_are_refused() {
    let repo = TestRepo::new(7).await;
    let before = repo.objects().await;
    let disk = || source("disk0", MemberKind::Disk, Input::Disk(MemoryDisk::new(vec![1; 4096])));
    for sources in [vec![disk(), disk()], Vec::new()] {
        let error = save(&repo, sources).await.unwrap_err();
        assert!(matches!(error, Error::Usage(_)) && error.kind() == ErrorKind::Usage, "{error}");
    }
    assert_eq!(repo.objects().await, before, "refused before anything is announced");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_what_a_backup_would_do_and_writes_nothing() {
    let repo = TestRepo::new(8).await;
    let bytes = guest(3, 5 << 20);
    back_up(&repo.open, "web01", MemoryDisk::new(guest(3, 3 << 20))).await.unwrap();
    let before = repo.objects().await;
    let disks: Vec<(_, Arc<dyn sancerre_image::Disk>)> = vec![("disk0", MemoryDisk::new(bytes.clone()))];
    let dry = BackupOptions { dry_run: true, ..options("web01", disks) };
    let dry = backup(&repo.open, dry, &Monitor::silent()).await.unwrap();
    assert_eq!((dry.snapshot, repo.objects().await), (None, before));
    let real = back_up(&repo.open, "web01", MemoryDisk::new(bytes)).await.unwrap();
    assert_eq!((dry.new_bytes, dry.data_bytes, dry.parent), (real.new_bytes, real.data_bytes, real.parent));
    assert_eq!(dry.members[0].new_chunks, real.members[0].new_chunks);
}

#[tokio::test(start_paused = true)]
async fn next_to_no_memory_still_knows_what_is_stored() {
    let repo = TestRepo::new(9).await;
    let bytes = guest(4, 6 << 20);
    let mut model = Model::default();
    for (night, vm) in ["web01", "web01", "web02"].into_iter().enumerate() {
        let disks: Vec<(_, Arc<dyn sancerre_image::Disk>)> = vec![("disk0", MemoryDisk::new(bytes.clone()))];
        let little = BackupOptions { memory_bytes: 0, ..options(vm, disks) };
        let report = backup(&repo.open, little, &Monitor::silent()).await.unwrap();
        assert_eq!(report.new_bytes == 0, night > 0, "{report:?}");
        model.add_disk(report.snapshot.unwrap(), &bytes);
    }
    model.check(&repo.open).await;
}
