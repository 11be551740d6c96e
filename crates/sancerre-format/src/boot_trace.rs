//! What a machine asked for until it was up (FORMAT.md §5.4): the ids of chunks, in the order in which they were first wanted.
//!
//! Whoever signed the note wrote this, and may have lied: it is a hint what to fetch first, and no proof.

use std::collections::HashSet;

use crate::bytes::{Reader, to_u32, to_usize};
use crate::error::{Result, corrupt, ensure, unsupported};
use crate::id::ContentId;
use crate::names::Title;

const WHAT: &str = "boot trace";
/// How it begins, whatever its version.
const MAGIC: &[u8; 7] = b"SNCBOOT";
const VERSION: u8 = b'1';
/// The topic of the note that owns one.
pub const TOPIC: &str = "boot-trace";
/// Most disks that one names.
pub const DISKS_MAX: usize = 256;
/// Most chunks that one names: some five gigabytes.
pub const CHUNKS_MAX: usize = 64 << 10;
/// Of a chunk: disk, leaf, id.
const CHUNK_BYTES: usize = 40;

/// Which chunks a machine asked for, in the order in which they were first wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootTrace {
    /// The disks, as the snapshot names them.
    pub disks: Vec<Title>,
    /// The chunks, none twice.
    pub chunks: Vec<TracedChunk>,
}

/// A chunk that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracedChunk {
    /// Number of the disk.
    pub disk: u32,
    /// Number of the map's leaf in which the chunk began: where to look for it.
    pub leaf: u32,
    /// What it is.
    pub id: ContentId,
}

impl BootTrace {
    /// The bytes of the unit.
    ///
    /// # Errors
    /// More disks or chunks than one may name.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check_counts()?;
        let mut bytes = Vec::with_capacity(self.chunks.len().saturating_mul(CHUNK_BYTES).saturating_add(64));
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&to_u32(WHAT, self.disks.len())?.to_le_bytes());
        for disk in &self.disks {
            let name = disk.encoded();
            bytes.extend_from_slice(&to_u32(WHAT, name.len())?.to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes.extend_from_slice(&to_u32(WHAT, self.chunks.len())?.to_le_bytes());
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.disk.to_le_bytes());
            bytes.extend_from_slice(&chunk.leaf.to_le_bytes());
            bytes.extend_from_slice(&chunk.id.0);
        }
        Ok(bytes)
    }

    /// Reads one.
    ///
    /// # Errors
    /// Bytes that are none; one of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(WHAT, bytes);
        ensure(reader.array()? == *MAGIC, WHAT, || "it begins otherwise".into())?;
        let version = reader.u8()?;
        if version != VERSION {
            return Err(unsupported(WHAT, format!("version {}", char::from(version).escape_default())));
        }
        let count = reader.count(4)?;
        ensure(count <= DISKS_MAX, WHAT, || "it names too many disks".into())?;
        let disks = (0..count).map(|_| disk(&mut reader)).collect::<Result<Vec<_>>>()?;
        let count = reader.count(CHUNK_BYTES)?;
        ensure(count <= CHUNKS_MAX, WHAT, || "it names too many chunks".into())?;
        let (mut chunks, mut seen) = (Vec::with_capacity(count), HashSet::with_capacity(count));
        for _ in 0..count {
            let (disk, leaf, id) = (reader.u32()?, reader.u32()?, ContentId(reader.array()?));
            ensure(to_usize(disk) < disks.len(), WHAT, || "a chunk lies on no disk".into())?;
            ensure(seen.insert(id), WHAT, || "it names a chunk twice".into())?;
            chunks.push(TracedChunk { disk, leaf, id });
        }
        reader.finish()?;
        Ok(Self { disks, chunks })
    }

    fn check_counts(&self) -> Result<()> {
        ensure(self.disks.len() <= DISKS_MAX, WHAT, || "it names too many disks".into())?;
        ensure(self.chunks.len() <= CHUNKS_MAX, WHAT, || "it names too many chunks".into())
    }
}

fn disk(reader: &mut Reader<'_>) -> Result<Title> {
    let length = to_usize(reader.u32()?);
    let name = std::str::from_utf8(reader.take(length)?);
    Title::decode(name.map_err(|_| corrupt(WHAT, "the name of a disk is no text"))?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::FormatError;
    use crate::golden;

    fn trace(chunks: &[(u32, u32, u8)]) -> BootTrace {
        let disks = ["disk0", "Daten ä"].map(|name| Title::new(name).unwrap()).to_vec();
        let chunk = |&(disk, leaf, id): &(u32, u32, u8)| TracedChunk { disk, leaf, id: ContentId([id; 32]) };
        BootTrace { disks, chunks: chunks.iter().map(chunk).collect() }
    }

    #[test]
    fn golden_bytes() {
        let trace = trace(&[(0, 0, 7), (0, 511, 9), (1, 3, 8), (0, 0, 1)]);
        let bytes = trace.encode().unwrap();
        golden::check("boot-trace.bin", &bytes);
        assert_eq!(BootTrace::decode(&bytes).unwrap(), trace);
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let whole = trace(&[(0, 0, 7)]).encode().unwrap();
        for (chunks, what) in [(&[(2, 0, 7)][..], "no disk"), (&[(0, 0, 7), (1, 4, 7)], "twice")] {
            let refused = BootTrace::decode(&trace(chunks).encode().unwrap()).unwrap_err();
            assert!(refused.to_string().contains(what), "{refused}");
        }
        for length in 0..whole.len() {
            assert!(BootTrace::decode(&whole[..length]).is_err(), "cut to {length}");
        }
        assert!(BootTrace::decode(&[whole.as_slice(), &[0]].concat()).is_err());
        let mut later = whole;
        later[7] = b'2';
        assert!(matches!(BootTrace::decode(&later), Err(FormatError::Unsupported { .. })));
        let many = BootTrace {
            chunks: vec![TracedChunk { disk: 0, leaf: 0, id: ContentId([0; 32]) }; CHUNKS_MAX + 1],
            ..trace(&[])
        };
        assert!(many.encode().is_err());
    }

    proptest! {
        #[test]
        fn a_trace_reads_as_it_was_written(chunks in proptest::collection::vec((0..2u32, any::<u32>()), 0..40)) {
            let numbered = chunks.iter().zip(0..).map(|((disk, leaf), id)| (*disk, *leaf, id));
            let trace = trace(&numbered.collect::<Vec<_>>());
            prop_assert_eq!(BootTrace::decode(&trace.encode().unwrap()).unwrap(), trace);
        }

        /// Foreign bytes: an error, or a value of one spelling.
        #[test]
        fn any_bytes_are_refused_or_read(at in any::<usize>(), byte in any::<u8>(), tail in proptest::collection::vec(any::<u8>(), 0..90)) {
            let mut bytes = trace(&[(0, 0, 7), (1, 1, 8)]).encode().unwrap();
            let length = bytes.len();
            bytes[at % length] = byte;
            for bytes in [bytes.clone(), [&bytes[..8], tail.as_slice()].concat(), tail] {
                if let Ok(trace) = BootTrace::decode(&bytes) {
                    prop_assert_eq!(trace.encode().unwrap(), bytes);
                }
            }
        }
    }
}
