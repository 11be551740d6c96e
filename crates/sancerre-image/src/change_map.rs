//! Maps of what changed on a disk since an earlier night: hints about where to read, from whoever kept count.
//!
//! Nothing here is believed for good: a map that lies costs correctness, so its user must re-read a sample of what it
//! calls unchanged. A map is therefore read so that doubt means *changed*: what it does not speak of where it should,
//! and what would be zeros, is changed; what makes no sense is an error, never an empty map.
//!
//! Forms (JSON; told apart by their keys):
//! - `qemu-img map --output=json` of an overlay: everything at depth 0 changed since the backing file was the disk;
//! - the same of an export with `x-dirty-bitmap=…`, where QEMU writes a changed range as neither present nor zero;
//! - `rbd diff --format json`: all ranges changed, whether the object exists or not;
//! - ours: `{"form": "sancerre-change-map-1", "disk-bytes": N, "source": "…", "base": "…", "changed": [{"offset": …, "length":
//!   …}]}`, where `base`, which may be left out, is the id of the snapshot since which that changed.

mod bounded;
mod builder;
mod json;
mod reflink;
mod thin;
mod zfs;

use std::io::{self, Read};
use std::ops::Range;

use serde::Serialize;

pub use reflink::CloneError;

/// What our own form calls itself.
const FORM: &str = "sancerre-change-map-1";
/// Longer input is no map of a disk: 4 million ranges of some 60 bytes.
pub const INPUT_BYTES_MAX: u64 = 256 << 20;
/// More ranges help nobody.
pub const RANGES_MAX: usize = 1 << 22;

/// Where a disk changed: ranges in order, disjoint, not empty, inside the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeMap {
    source: String,
    disk_bytes: u64,
    base: Option<String>,
    ranges: Vec<Range<u64>>,
}

/// Why a change map cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// It could not be read.
    #[error("cannot read the change map: {0}; check the path and the program that writes it")]
    Io(#[source] io::Error),
    /// It is no JSON, or none of the known forms.
    #[error(
        "the change map is none: {0}; expected is the JSON of `qemu-img map --output=json`, `rbd diff --format json` \
         or a helper of ours, whole"
    )]
    Form(String),
    /// It is too long.
    #[error("the change map is too long ({0}); read the whole disk instead")]
    TooLong(&'static str),
    /// It speaks of another disk.
    #[error("the change map is not of this disk of {disk_bytes} bytes: {problem}; make it anew")]
    OtherDisk {
        /// Size of the disk that is backed up.
        disk_bytes: u64,
        /// What does not fit.
        problem: String,
    },
}

/// Our own form, as it is written.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Written<'a> {
    form: &'static str,
    disk_bytes: u64,
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<&'a str>,
    changed: Vec<WrittenRange>,
}

#[derive(Serialize)]
struct WrittenRange {
    offset: u64,
    length: u64,
}

impl ChangeMap {
    /// A map of ranges in any order, which may touch and overlap.
    ///
    /// # Errors
    /// [`MapError::OtherDisk`] for a range that begins behind the end of the disk.
    pub fn new(
        source: &str,
        disk_bytes: u64,
        ranges: impl IntoIterator<Item = Range<u64>>,
    ) -> Result<Self, MapError> {
        let mut builder = builder::Builder::new(disk_bytes);
        for range in ranges {
            builder.add(range.start, range.end.saturating_sub(range.start))?;
        }
        Ok(builder.finish(source.to_owned()))
    }

    /// Reads the map of a disk of `disk_bytes` in any of the known forms.
    ///
    /// # Errors
    /// [`MapError`] for anything that is not wholly understood or does not fit the disk.
    pub fn read(input: impl Read, disk_bytes: u64) -> Result<Self, MapError> {
        json::read(input, disk_bytes, INPUT_BYTES_MAX)
    }

    /// The map in our own form.
    ///
    /// # Errors
    /// [`MapError::Io`] when it cannot be written.
    pub fn write(&self, output: impl io::Write) -> Result<(), MapError> {
        let changed = self
            .ranges
            .iter()
            .map(|range| WrittenRange { offset: range.start, length: range.end.saturating_sub(range.start) });
        let written = Written {
            form: FORM,
            disk_bytes: self.disk_bytes,
            source: &self.source,
            base: self.base.as_deref(),
            changed: changed.collect(),
        };
        serde_json::to_writer(output, &written).map_err(|error| MapError::Io(error.into()))
    }

    /// Who kept count: `qemu-map`, `qemu-bitmap`, `rbd`, or what a helper calls itself.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The same map, of what changed since this snapshot: hexadecimal digits of its id.
    #[must_use]
    pub fn since(self, base: String) -> Self {
        Self { base: Some(base), ..self }
    }

    /// The snapshot since which that changed, if the map says it.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// Size of the disk that the map is of.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// All that changed.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// How many bytes changed.
    pub fn changed_bytes(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)))
    }

    /// What changed inside `range`.
    pub fn inside(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ranges.partition_point(|known| known.end <= range.start);
        let rest = self.ranges.get(first..).unwrap_or_default();
        let (start, end) = (range.start, range.end);
        rest.iter().take_while(move |known| known.start < end).filter_map(move |known| {
            let clipped = known.start.max(start)..known.end.min(end);
            (!clipped.is_empty()).then_some(clipped)
        })
    }
}

#[cfg(test)]
mod tests;
