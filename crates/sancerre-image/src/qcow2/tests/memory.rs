//! Images in memory: small ones that `qemu-img` made, changed at random. The same images are where fuzzers begin.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use crate::{ChangedError, Disk, OpenError, Qcow2Disk, Qcow2Fault, ReadError};

/// Bytes that are a disk without holes.
struct Memory(Vec<u8>);

impl Disk for Memory {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        buffer.copy_from_slice(&self.0[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        assert!(range.start < range.end && range.end <= self.size_bytes());
        Ok(std::iter::once(range).collect())
    }

    fn check_unchanged(&self) -> Result<(), ChangedError> {
        Ok(())
    }

    fn path(&self) -> &Path {
        Path::new("memory")
    }
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/qcow2");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut seeds: Vec<_> = entries
        .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "qcow2"))
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

/// Reads whatever the image says it has, up to a bound.
fn exercise(image: &[u8]) -> Result<(), String> {
    let disk = Qcow2Disk::in_disk(Arc::new(Memory(image.to_vec()))).map_err(|error| error.to_string())?;
    let size = disk.size_bytes();
    let end = size.min(1 << 20);
    let text = |error: ReadError| error.to_string();
    for bitmap in disk.bitmaps().unwrap_or_default() {
        let _ = disk.bitmap_ranges(&bitmap, 0..end);
    }
    let ranges = disk.data_ranges(0..end).map_err(text)?;
    let mut bytes = vec![0; end as usize];
    disk.read_at(0, &mut bytes).map_err(text)?;
    // What is in no range reads as zeros.
    let mut at = 0;
    for range in ranges.iter().cloned().chain(std::iter::once(end..end)) {
        assert!(
            bytes[at as usize..range.start as usize].iter().all(|byte| *byte == 0),
            "data outside the ranges"
        );
        at = range.end;
    }
    let last = size.saturating_sub(1000);
    disk.read_at(last, &mut bytes[..(size - last) as usize]).map_err(text)
}

#[test]
fn the_seeds_are_read() {
    let seeds = seeds();
    assert!(seeds.len() >= 6, "{}", seeds.len());
    for (name, bytes) in seeds {
        match name.as_str() {
            "backing.qcow2" | "data-file.qcow2" => {
                let refused = Qcow2Disk::in_disk(Arc::new(Memory(bytes))).unwrap_err();
                let is_refused = |fault: &Qcow2Fault| matches!(fault, Qcow2Fault::NotAllowed { .. });
                assert!(
                    matches!(&refused, OpenError::Qcow2 { fault, .. } if is_refused(fault)),
                    "{name}: {refused}"
                );
            }
            _ => exercise(&bytes).unwrap_or_else(|error| panic!("{name}: {error}")),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_changed_seed_makes_it_panic(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..3), 1..5),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let seeds = seeds();
        let mut bytes = seed.get(&seeds).1.clone();
        for (at, byte, kind) in changes {
            // The tables are at the begin of so small an image; most of the rest is data.
            let reach = if kind == 0 { bytes.len() } else { bytes.len().min(200) };
            let at = at.index(reach);
            bytes[at] = if kind == 2 { bytes[at] ^ (1 << (byte % 8)) } else { byte };
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = exercise(&bytes);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = exercise(&[&b"QFI\xfb"[..], &bytes].concat());
    }
}
