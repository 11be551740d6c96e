//! What is in an OVA, read out of bytes that anybody may have made: where in the archive the description, the sums and the disks
//! of one machine lie. Nothing is unpacked, so no name in it is ever a path.
//!
//! It runs in a confined child ([`ConfinedReader::package`](crate::confined::ConfinedReader::package)).

mod archive;
mod description;
mod sums;

use std::ops::Range;

use archive::Members;
use description::Description;
use sancerre_advice::Setting::Format;
use sha2::{Digest, Sha256};

use crate::positional::{is_inside, length};
use crate::{ChangedError, Disk, ReadError};

/// Longest description, and longest manifest.
const TEXT_BYTES_MAX: u64 = 4 << 20;
/// Sums are made of so much at once.
const PIECE: usize = 1 << 20;
/// What a disk's file must end in.
const SUFFIX: &[u8] = b".vmdk";

/// A machine in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its description.
    pub description: PackageMember,
    /// Its disks, in the order of the description.
    pub disks: Vec<PackageMember>,
    /// Whether there is a manifest, though perhaps with sums of a kind that is not compared.
    pub has_manifest: bool,
}

/// A file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageMember {
    /// Its name, as it is spelled there.
    pub name: String,
    /// Where its bytes lie in the archive.
    pub range: Range<u64>,
    /// The SHA-256 that the manifest says it has.
    pub sum: Option<[u8; 32]>,
    /// For a disk: its size by the description.
    pub capacity_bytes: u64,
}

/// Why an archive is no machine that can be imported.
#[derive(Debug, thiserror::Error)]
pub enum PackageFault {
    /// What is wrong with it.
    #[error("{0}")]
    Malformed(String),
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl PackageFault {
    fn new(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}

/// Looks whether a VMDK that lies in the archive is as long as its tables say, and says why not: QEMU would read zeros behind
/// its end, and other files where it names them.
pub type LooksWhole<'a> = dyn Fn(&dyn Disk) -> Result<(), String> + 'a;

/// Reads what is in an OVA.
///
/// # Errors
/// [`PackageFault`]: archives, descriptions and manifests that are malformed, or hold what is not imported.
pub fn read_package(file: &dyn Disk, whole: &LooksWhole<'_>) -> Result<Package, PackageFault> {
    let members = Members::list(file)?;
    let descriptions = members.ending(b".ovf");
    let [(name, range)] = descriptions.as_slice() else {
        return Err(PackageFault::new(match descriptions.len() {
            0 => "it has no description, a file that ends in .ovf, so it is no OVA".to_owned(),
            many => format!("it has {many} descriptions, and one machine has one"),
        }));
    };
    let text = text(file, range)?;
    let described = Description::read(&text)?;
    let manifest = name.strip_suffix(b".ovf").and_then(|stem| members.find(&[stem, b".mf"].concat()));
    let sums = match &manifest {
        Some(range) => sums::read(&self::text(file, range)?)?,
        None => Default::default(),
    };
    let member = |name: &[u8], range: &Range<u64>, capacity_bytes| PackageMember {
        name: String::from_utf8_lossy(name).into_owned(),
        range: range.clone(),
        sum: sums.get(name).copied(),
        capacity_bytes,
    };
    let mut disks = Vec::with_capacity(described.disks.len());
    for disk in &described.disks {
        let shown = String::from_utf8_lossy(&disk.file).into_owned();
        let range = members.find(&disk.file).ok_or_else(|| {
            PackageFault::new(format!("it is not whole: {shown}, which its description names, is not in it"))
        })?;
        let length_bytes = range.end.saturating_sub(range.start);
        if let Some(said) = disk.file_bytes.filter(|said| *said != length_bytes) {
            return Err(PackageFault::new(format!(
                "{shown} has {length_bytes} bytes, and its description says {said}"
            )));
        }
        if !disk.file.to_ascii_lowercase().ends_with(SUFFIX) {
            return Err(PackageFault::new(format!(
                "{shown} is no VMDK by its name, and disks of other forms in an OVA are not read; unpack it with tar, and \
                 back up the disks with {Format}"
            )));
        }
        if length_bytes % archive::SECTOR_BYTES != 0 {
            return Err(PackageFault::new(format!("{shown} is no VMDK: it ends within a sector")));
        }
        whole(&Window { file, range: range.clone() })
            .map_err(|why| PackageFault::new(format!("{shown}: {why}")))?;
        disks.push(member(&disk.file, &range, disk.capacity_bytes));
    }
    Ok(Package { description: member(name, range, 0), disks, has_manifest: manifest.is_some() })
}

/// Whether the bytes of a file in the archive have the sum that the manifest says; yes where it says none.
///
/// # Errors
/// Those of reading.
pub fn has_its_sum(file: &dyn Disk, member: &PackageMember) -> Result<bool, ReadError> {
    let Some(wanted) = member.sum else { return Ok(true) };
    let (mut at, mut sum) = (member.range.start, Sha256::new());
    let mut buffer = vec![0; PIECE];
    while at < member.range.end {
        let left = usize::try_from(member.range.end.saturating_sub(at)).unwrap_or(PIECE);
        let piece = buffer.get_mut(..left.min(PIECE)).unwrap_or_default();
        file.read_at(at, piece)?;
        sum.update(&*piece);
        at = at.saturating_add(length(piece));
    }
    Ok(sum.finalize().as_slice() == wanted)
}

fn text(file: &dyn Disk, range: &Range<u64>) -> Result<String, PackageFault> {
    let length_bytes = range.end.saturating_sub(range.start);
    if length_bytes > TEXT_BYTES_MAX {
        return Err(PackageFault::new(format!("a text of {length_bytes} bytes, which none of an OVA has")));
    }
    let mut bytes = vec![0; usize::try_from(length_bytes).unwrap_or(0)];
    file.read_at(range.start, &mut bytes)?;
    String::from_utf8(bytes).map_err(|_| PackageFault::new("its description or manifest is not UTF-8"))
}

/// A stretch of a file, as a file of its own.
struct Window<'a> {
    file: &'a dyn Disk,
    range: Range<u64>,
}

impl Disk for Window<'_> {
    fn size_bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length_bytes = length(buffer);
        if is_inside(offset, length_bytes, self.size_bytes()) {
            return self.file.read_at(self.range.start.saturating_add(offset), buffer);
        }
        let (path, size_bytes) = (self.path().to_owned(), self.size_bytes());
        Err(ReadError::OutOfRange { path, offset, length_bytes, size_bytes })
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        Ok(std::iter::once(range).filter(|range| !range.is_empty()).collect())
    }

    fn check_unchanged(&self) -> Result<(), ChangedError> {
        self.file.check_unchanged()
    }

    fn path(&self) -> &std::path::Path {
        self.file.path()
    }
}

#[cfg(test)]
mod tests;
