//! Against a plain model: what is read, and what is there after power was cut at every single write.

use std::io;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::*;

const SECTOR: usize = 512;
/// Five blocks, and a short one.
const SIZE: usize = 5 * 4096 + 700;

/// The disk below.
struct Below;

fn below() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 64 % 199 + 1) as u8).collect()
}

impl ServedDisk for Below {
    fn name(&self) -> &str {
        "disk0"
    }

    fn size_bytes(&self) -> u64 {
        SIZE as u64
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> BoxFuture<'a, Result<(), ReadFailure>> {
        let start = offset as usize;
        buffer.copy_from_slice(&below()[start..start + buffer.len()]);
        async { Ok(()) }.boxed()
    }

    fn stretches(&self, range: Range<u64>, _: usize) -> BoxFuture<'_, Result<Vec<Stretch>, ReadFailure>> {
        async move { Ok(vec![Stretch { range, is_data: false }]) }.boxed()
    }

    fn prepare(&self, _: Range<u64>) {}
}

/// A medium whose power goes after so many changes.
#[derive(Clone)]
struct Cut(Arc<Mutex<Power>>);

struct Power {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// What was written since the last sync, sector by sector.
    pending: Vec<(usize, Vec<u8>)>,
    left: usize,
}

impl Cut {
    fn new(durable: Vec<u8>, left: usize) -> Self {
        Self(Arc::new(Mutex::new(Power { now: durable.clone(), durable, pending: Vec::new(), left })))
    }

    /// What is there after the cut: of what was not synced any part, in any order.
    fn crashed(&self, mut seed: u64) -> Vec<u8> {
        let power = self.0.lock().unwrap();
        let (mut left, mut pending) = (power.durable.clone(), power.pending.clone());
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        if random().is_multiple_of(2) {
            pending.reverse();
        }
        for (at, sector) in pending {
            if random().is_multiple_of(2) {
                left[at..at + sector.len()].copy_from_slice(&sector);
            }
        }
        left
    }
}

impl Power {
    fn spend(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("no power"))?;
        Ok(())
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.now[at..at + bytes.len()].copy_from_slice(bytes);
        let mut done = 0;
        while done < bytes.len() {
            let end = ((at + done) / SECTOR * SECTOR + SECTOR - at).min(bytes.len());
            self.pending.push((at + done, bytes[done..end].to_vec()));
            done = end;
        }
    }
}

impl OverlayMedium for Cut {
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let at = at as usize;
        buffer.copy_from_slice(&self.0.lock().unwrap().now[at..at + buffer.len()]);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut power = self.0.lock().unwrap();
        // Half of it may have come to the disk when power goes.
        let spent = power.spend();
        let part = if spent.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        power.put(at as usize, part);
        spent
    }

    fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        self.write(at, &vec![0; length as usize])
    }

    fn sync(&self) -> io::Result<()> {
        let mut power = self.0.lock().unwrap();
        power.spend()?;
        power.durable = power.now.clone();
        power.pending.clear();
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(Range<usize>, u8),
    Zero(Range<usize>),
    Trim(Range<usize>),
    Flush,
}

fn range() -> impl Strategy<Value = Range<usize>> {
    let edge = prop_oneof![0..=SIZE, (0..=5_usize).prop_map(|block| block * 4096), Just(SIZE)];
    (edge.clone(), edge).prop_filter_map("empty", |(a, b)| (a != b).then(|| a.min(b)..a.max(b)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (range(), 200..=255_u8).prop_map(|(range, byte)| Step::Write(range, byte)),
        1 => range().prop_map(Step::Zero),
        1 => range().prop_map(Step::Trim),
        2 => Just(Step::Flush),
    ]
}

/// A disk as it is, and each byte as it may be after a crash.
struct Model {
    now: Vec<u8>,
    may_be: Vec<Vec<u8>>,
}

impl Model {
    fn new() -> Self {
        Self { now: below(), may_be: below().into_iter().map(|byte| vec![byte]).collect() }
    }

    fn change(&mut self, range: Range<usize>, byte: u8, is_done: bool) {
        for at in range {
            self.may_be[at].push(byte);
            if is_done {
                self.now[at] = byte;
            }
        }
    }

    fn flushed(&mut self) {
        self.may_be = self.now.iter().map(|byte| vec![*byte]).collect();
    }
}

fn wide(range: &Range<usize>) -> Range<u64> {
    range.start as u64..range.end as u64
}

/// Takes the steps until power goes; the model says what may be there then.
async fn take(steps: &[Step], medium: &Cut) -> Model {
    let disk = OverlaidDisk::open(Arc::new(Below), medium.clone()).unwrap();
    let mut model = Model::new();
    for step in steps {
        let is_done = match step {
            Step::Write(range, byte) => {
                let done = disk.write(range.start as u64, vec![*byte; range.len()]).await.is_ok();
                model.change(range.clone(), *byte, done);
                done
            }
            Step::Zero(range) => {
                let done = disk.write_zeroes(wide(range)).await.is_ok();
                model.change(range.clone(), 0, done);
                done
            }
            Step::Trim(range) => {
                let done = disk.trim(wide(range)).await.is_ok();
                let inner = inner(&wide(range), SIZE as u64);
                model.change(inner.start as usize..inner.end as usize, 0, done);
                done
            }
            Step::Flush => {
                let done = disk.flush().await.is_ok();
                if done {
                    model.flushed();
                }
                done
            }
        };
        if !is_done {
            break;
        }
        assert!(read(&disk).await == model.now, "{step:?}");
    }
    model
}

async fn read(disk: &OverlaidDisk<Cut>) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    disk.read(0, &mut bytes).await.unwrap();
    bytes
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn empty() -> Vec<u8> {
    vec![0; overlay_bytes(SIZE as u64) as usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_power_takes_what_was_flushed_is_there(steps in proptest::collection::vec(step(), 1..10), seed: u64) {
        let runtime = runtime();
        runtime.block_on(async {
            for changes in 0.. {
                let medium = Cut::new(empty(), changes);
                let model = take(&steps, &medium).await;
                let after = Cut::new(medium.crashed(seed ^ changes as u64), 0);
                let found = read(&OverlaidDisk::open(Arc::new(Below), after).unwrap()).await;
                for (at, byte) in found.iter().enumerate() {
                    assert!(model.may_be[at].contains(byte), "byte {at} is {byte} after {changes} changes");
                }
                if medium.0.lock().unwrap().left > 0 {
                    break;
                }
            }
        });
    }
}

#[test]
fn stretches_say_what_was_written() {
    runtime().block_on(async {
        let medium = Cut::new(empty(), 99);
        let disk = OverlaidDisk::open(Arc::new(Below), medium).unwrap();
        disk.write(5000, vec![1; 10]).await.unwrap();
        let all = disk.stretches(0..SIZE as u64, 9).await.unwrap();
        let all: Vec<_> = all.into_iter().map(|stretch| (stretch.range, stretch.is_data)).collect();
        assert_eq!(all, [(0..4096, false), (4096..8192, true), (8192..SIZE as u64, false)]);
        assert_eq!(disk.stretches(0..SIZE as u64, 1).await.unwrap().len(), 1);
    });
}

#[test]
fn after_a_flush_that_failed_nothing_more_is_promised() {
    runtime().block_on(async {
        let medium = Cut::new(empty(), 1);
        let disk = OverlaidDisk::open(Arc::new(Below), medium.clone()).unwrap();
        disk.write(0, vec![1; 10]).await.unwrap();
        assert!(disk.flush().await.is_err());
        medium.0.lock().unwrap().left = 99;
        assert!(disk.flush().await.is_err() && disk.write(0, vec![1; 10]).await.is_err());
    });
}

#[test]
fn a_file_is_one_disks_and_one_servers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlay");
    let first = OverlayFile::open(&path, "disk: a\n", 10_000).unwrap();
    first.write(BLOCK_BYTES, &[7]).unwrap();
    assert!(matches!(OverlayFile::open(&path, "disk: a\n", 10_000), Err(OverlayError::InUse)));
    drop(first);
    let mut byte = [0];
    OverlayFile::open(&path, "disk: a\n", 10_000).unwrap().read(BLOCK_BYTES, &mut byte).unwrap();
    assert_eq!(byte, [7], "it is the same");
    for (belongs_to, size) in [("disk: b\n", 10_000), ("disk: a\n", 10_001)] {
        assert!(OverlayFile::open(&path, belongs_to, size).is_err(), "{belongs_to}");
    }
    let strange = folder.path().join("strange");
    std::fs::write(&strange, "somebody's").unwrap();
    assert!(matches!(OverlayFile::open(&strange, "disk: a\n", 10_000), Err(OverlayError::Other { .. })));
    assert_eq!(std::fs::read(&strange).unwrap(), b"somebody's");
    let file = OverlayFile::open(&path, "disk: a\n", 10_000).unwrap();
    file.write(8192, &[1; 4096]).unwrap();
    file.zero(8192, 4096).unwrap();
    file.read(8192, &mut byte).unwrap();
    assert_eq!(byte, [0]);
}
