//! Two clones of one file: where both show the same place of the file system, they hold the same bytes, because each keeps
//! what it shows from being used again. Where that is not certain, they differ.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fiemap::{Fiemap, FiemapExtent, FiemapExtentFlags, FiemapFlags};
use rustix::fs::fstatfs;

use super::builder::Builder;
use super::{ChangeMap, MapError};

/// File systems whose files share blocks, and never write to one that is shared: XFS, Btrfs, bcachefs.
const SHARING: [u64; 3] = [0x5846_5342, 0x9123_683e, 0xca45_1a4e];
/// An extent in these states does not say where its bytes are, or not all of it.
const UNSURE: FiemapExtentFlags = FiemapExtentFlags::UNKNOWN
    .union(FiemapExtentFlags::DELALLOC)
    .union(FiemapExtentFlags::ENCODED)
    .union(FiemapExtentFlags::DATA_ENCRYPTED)
    .union(FiemapExtentFlags::NOT_ALIGNED)
    .union(FiemapExtentFlags::DATA_INLINE)
    .union(FiemapExtentFlags::DATA_TAIL)
    .union(FiemapExtentFlags::UNWRITTEN);

/// Why two files cannot be compared so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloneError {
    /// One cannot be read.
    #[error("cannot compare {}: {source}; check the path and that this user may read it", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// They are no clones that can be compared.
    #[error("cannot compare {}: {problem}", path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// Why not, and what to do.
        problem: &'static str,
    },
    /// The map.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A stretch of a file that is somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapped {
    start: u64,
    end: u64,
    physical: u64,
    is_sure: bool,
}

impl ChangeMap {
    /// What differs between two clones that nobody writes to: `old` must be the one that was backed up, and still be there.
    ///
    /// # Errors
    /// Files that are no regular ones, on different file systems, or on one that does not share blocks.
    pub fn of_clones(old: &Path, new: &Path) -> Result<Self, CloneError> {
        let (before, after) = (open(old)?, open(new)?);
        let unfit = |path: &Path, problem| CloneError::Unfit { path: path.to_owned(), problem };
        let device =
            |file: &File, path: &Path| file.metadata().map(|found| found.dev()).map_err(|e| failed(path, e));
        if device(&before, old)? != device(&after, new)? {
            let problem = "the other file is on another file system or in another subvolume, and places in two cannot be \
                           compared; keep both clones in one folder";
            return Err(unfit(new, problem));
        }
        let disk_bytes = after.metadata().map_err(|error| failed(new, error))?.len();
        let changed = differences(&extents(&before, old)?, &extents(&after, new)?);
        let mut builder = Builder::new(disk_bytes);
        for (start, end) in changed.into_iter().filter(|(start, _)| *start < disk_bytes) {
            builder.add(start, end.saturating_sub(start))?;
        }
        // What the disk grew by is no hole that both have.
        let old_bytes = before.metadata().map_err(|error| failed(old, error))?.len();
        if old_bytes < disk_bytes {
            builder.add(old_bytes, disk_bytes.saturating_sub(old_bytes))?;
        }
        Ok(builder.finish("reflink".to_owned()))
    }
}

fn failed(path: &Path, source: io::Error) -> CloneError {
    CloneError::Io { path: path.to_owned(), source }
}

fn open(path: &Path) -> Result<File, CloneError> {
    let file = File::open(path).map_err(|error| failed(path, error))?;
    let unfit = |problem| Err(CloneError::Unfit { path: path.to_owned(), problem });
    if !file.metadata().map_err(|error| failed(path, error))?.is_file() {
        return unfit("it is no regular file");
    }
    let kind = fstatfs(&file).map_err(|error| failed(path, error.into()))?.f_type;
    match SHARING.contains(&(u64::try_from(kind).unwrap_or(0) & 0xffff_ffff)) {
        true => Ok(file),
        false => unfit("it is on no file system whose files share blocks (XFS, Btrfs, bcachefs)"),
    }
}

/// Where all of a file is, after what was written to it is there.
fn extents(file: &File, path: &Path) -> Result<Vec<Mapped>, CloneError> {
    let mut found: Vec<Mapped> = Vec::new();
    for extent in Fiemap::with_flags(file, FiemapFlags::SYNC) {
        let FiemapExtent { fe_logical, fe_physical, fe_length, fe_flags, .. } =
            extent.map_err(|error| failed(path, error))?;
        let end = fe_logical.checked_add(fe_length);
        let (Some(end), true) = (end, found.last().is_none_or(|last| last.end <= fe_logical)) else {
            let problem = "the file system says of a place twice where it is; back it up whole";
            return Err(CloneError::Unfit { path: path.to_owned(), problem });
        };
        found.push(Mapped {
            start: fe_logical,
            end,
            physical: fe_physical,
            is_sure: !fe_flags.intersects(UNSURE),
        });
    }
    Ok(found)
}

/// Where one is not surely what the other is. Both ascend.
fn differences(old: &[Mapped], new: &[Mapped]) -> Vec<(u64, u64)> {
    let borders = old.iter().chain(new).flat_map(|extent| [extent.start, extent.end]);
    let mut borders: Vec<u64> = borders.collect();
    borders.sort_unstable();
    borders.dedup();
    let (mut old, mut new) = (MappedCursor(old), MappedCursor(new));
    let mut changed: Vec<(u64, u64)> = Vec::new();
    for pair in borders.windows(2) {
        let &[start, end] = pair else { continue };
        let is_same = match (old.at(start), new.at(start)) {
            // A hole in both.
            (None, None) => true,
            (Some(a), Some(b)) => {
                let place = |extent: Mapped| extent.physical.checked_add(start.saturating_sub(extent.start));
                a.is_sure && b.is_sure && place(a).is_some() && place(a) == place(b)
            }
            _ => false,
        };
        match changed.last_mut() {
            _ if is_same => {}
            Some(last) if last.1 == start => last.1 = end,
            _ => changed.push((start, end)),
        }
    }
    changed
}

/// Extents that are asked for at ascending places.
struct MappedCursor<'a>(&'a [Mapped]);

impl MappedCursor<'_> {
    fn at(&mut self, place: u64) -> Option<Mapped> {
        while let Some((first, rest)) = self.0.split_first() {
            if first.end > place {
                return (first.start <= place).then_some(*first);
            }
            self.0 = rest;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: u64, end: u64, physical: u64) -> Mapped {
        Mapped { start, end, physical, is_sure: true }
    }

    #[test]
    fn the_same_place_in_both_is_unchanged_however_it_is_cut() {
        let old = [at(0, 100, 1000), at(200, 300, 5000)];
        let new = [at(0, 40, 1000), at(40, 100, 1040), at(200, 300, 5000)];
        assert!(differences(&old, &new).is_empty());
    }

    #[test]
    fn what_moved_vanished_came_or_is_not_sure_changed() {
        let old = [at(0, 100, 1000), at(200, 300, 5000), at(400, 500, 9000)];
        let mut unsure = at(400, 500, 9000);
        unsure.is_sure = false;
        let new = [at(0, 50, 1000), at(50, 60, 7000), at(60, 100, 1060), at(150, 160, 1), unsure];
        assert_eq!(differences(&old, &new), [(50, 60), (150, 160), (200, 300), (400, 500)]);
        let inside = [at(0, 100, 1001)];
        assert_eq!(differences(&old[..1], &inside), [(0, 100)]);
        assert_eq!(differences(&[], &old[..1]), [(0, 100)]);
    }
}
