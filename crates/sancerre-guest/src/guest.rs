//! The caller's side: it has the disks, asks the child, and checks every word.

mod checks;
mod child;
mod reader;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sancerre_image::Disk;
use sancerre_image::confined::Trouble;

use checks::is_name;
use child::{ChildState, Step};
pub use reader::{GuestReader, Passphrases};

use crate::bytes::to_u64;
use crate::error::GuestError;
use crate::node::{Extra, FileNode, FileRun, FolderEntry, PlacedEntry, RunPlace};
use crate::wire::{Answer, VolumeInfo, What};

/// Of one answer: names, and bytes of names.
const ENTRIES_MAX: u64 = 20_000_000;
const TEXT_BYTES_MAX: u64 = 1 << 30;

type Result<T> = std::result::Result<T, GuestError>;

impl GuestReader {
    /// Looks at the disks of a guest.
    ///
    /// # Errors
    /// [`GuestError::Reader`] when no child can be started, or none survives.
    pub fn open(&self, disks: Vec<Arc<dyn Disk>>) -> Result<Guest> {
        let mut guest = Guest { reader: self.clone(), disks, state: Mutex::default(), volumes: Vec::new() };
        let mut state = guest.state.lock().unwrap_or_else(PoisonError::into_inner);
        let volumes = guest.start(&mut state)?;
        drop(state);
        guest.volumes = volumes;
        Ok(guest)
    }
}

/// The disks of a guest, and what is on them.
pub struct Guest {
    reader: GuestReader,
    disks: Vec<Arc<dyn Disk>>,
    state: Mutex<ChildState>,
    volumes: Vec<VolumeInfo>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guest").field("volumes", &self.volumes).finish_non_exhaustive()
    }
}

impl Guest {
    /// What is on the disks.
    pub fn volumes(&self) -> &[VolumeInfo] {
        &self.volumes
    }

    /// Its disks.
    pub fn disks(&self) -> &[Arc<dyn Disk>] {
        &self.disks
    }

    /// A file or folder by its number.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn node(&self, volume: u16, id: u64) -> Result<FileNode> {
        self.one_node(volume, id, What::FileNode)
    }

    /// A file or folder by its name in a folder.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn find(&self, volume: u16, folder: u64, name: &[u8]) -> Result<FileNode> {
        self.one_node(volume, folder, What::Find(name))
    }

    /// The names in a folder, without a further one for the folder itself and the one above. What was read before a fault is
    /// given to `each` all the same.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn list(&self, volume: u16, folder: u64, each: &mut dyn FnMut(FolderEntry)) -> Result<()> {
        let (mut entries, mut text_bytes) = (0_u64, 0_u64);
        self.ask(volume, folder, What::List, &mut |answer| match answer {
            Answer::FolderEntry(entry) => {
                entries = entries.saturating_add(1);
                text_bytes = text_bytes.saturating_add(to_u64(entry.name.len()));
                if entries > ENTRIES_MAX || text_bytes > TEXT_BYTES_MAX {
                    return Err(Trouble::Lie("more names than there can be"));
                }
                if !is_name(&entry.name) {
                    return Ok(Step::More);
                }
                each(entry);
                Ok(Step::More)
            }
            Answer::Done => Ok(Step::Last),
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })
    }

    /// The same with the places of files that lie at no more than `most`, in any order.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn list_placed(
        &self,
        volume: u16,
        folder: u64,
        most: u16,
        each: &mut dyn FnMut(PlacedEntry),
    ) -> Result<()> {
        let (mut entries, mut text_bytes) = (0_u64, 0_u64);
        self.ask(volume, folder, What::ListPlaced(most), &mut |answer| match answer {
            Answer::Placed(placed) => {
                entries = entries.saturating_add(to_u64(placed.len()));
                let names = placed.iter().map(|placed| to_u64(placed.entry.name.len()));
                text_bytes = text_bytes.saturating_add(names.sum());
                if placed.is_empty() || entries > ENTRIES_MAX || text_bytes > TEXT_BYTES_MAX {
                    return Err(Trouble::Lie("more names than there can be"));
                }
                for placed in placed {
                    let range = 0..placed.entry.node.size_bytes;
                    placed.runs.iter().try_for_each(|runs| self.check_runs(runs, &range))?;
                    if is_name(&placed.entry.name) {
                        each(placed);
                    }
                }
                Ok(Step::More)
            }
            Answer::Done => Ok(Step::Last),
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })
    }

    /// Where the bytes of a range that lies inside a stream are, from its start on; the end of the list may come before the end
    /// of the range. The stream without a name is the file itself.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn runs(&self, volume: u16, id: u64, stream: &[u8], range: Range<u64>) -> Result<Vec<FileRun>> {
        let mut found = Vec::new();
        self.ask(volume, id, What::Runs(stream, range.clone()), &mut |answer| match answer {
            Answer::Runs(runs) => {
                self.check_runs(&runs, &range)?;
                found = runs;
                Ok(Step::Last)
            }
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })?;
        Ok(found)
    }

    /// Bytes that [`Guest::runs`] calls held.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn held(&self, volume: u16, id: u64, stream: &[u8], offset: u64, buffer: &mut [u8]) -> Result<()> {
        let range = offset..offset.saturating_add(to_u64(buffer.len()));
        let mut done = 0_usize;
        self.ask(volume, id, What::Bytes(stream, range), &mut |answer| match answer {
            Answer::Bytes(bytes) => {
                let to = buffer.get_mut(done..done.saturating_add(bytes.len()));
                to.ok_or(Trouble::Lie("an answer of another length"))?.copy_from_slice(bytes);
                done = done.saturating_add(bytes.len());
                if bytes.is_empty() { Err(Trouble::Lie("bytes without bytes")) } else { Ok(Step::More) }
            }
            Answer::Done if done == buffer.len() => Ok(Step::Last),
            _ => Err(Trouble::Lie("an answer of another length")),
        })
    }

    /// Where a link leads, as it is written there.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn link(&self, volume: u16, id: u64) -> Result<Vec<u8>> {
        let mut found = Vec::new();
        self.ask(volume, id, What::Link, &mut |answer| match answer {
            Answer::Link(target) => {
                found = target.to_vec();
                Ok(Step::Last)
            }
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })?;
        Ok(found)
    }

    /// Attributes and streams beside the bytes of a file.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn extras(&self, volume: u16, id: u64) -> Result<Vec<Extra>> {
        const MOST: usize = 10_000;
        let mut found = Vec::new();
        self.ask(volume, id, What::Extras, &mut |answer| match answer {
            Answer::Extra(extra) if found.len() < MOST => {
                found.push(extra);
                Ok(Step::More)
            }
            Answer::Done => Ok(Step::Last),
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })?;
        Ok(found)
    }

    fn one_node(&self, volume: u16, id: u64, what: What<'_>) -> Result<FileNode> {
        let mut found = None;
        self.ask(volume, id, what, &mut |answer| match answer {
            Answer::FileNode(node) => {
                found = Some(node);
                Ok(Step::Last)
            }
            _ => Err(Trouble::Lie("an answer that does not fit")),
        })?;
        found.ok_or(GuestError::Missing)
    }

    /// Inside of the range, each on a disk that there is.
    fn check_runs(&self, runs: &[FileRun], range: &Range<u64>) -> std::result::Result<(), Trouble> {
        let mut left = range.end.saturating_sub(range.start);
        for run in runs {
            left = left.checked_sub(run.length_bytes).ok_or(Trouble::Lie("an answer of another length"))?;
            if let RunPlace::Disk { disk, offset } = run.place {
                self.check_place(disk, offset, run.length_bytes)?;
            }
        }
        Ok(())
    }

    fn check_place(&self, disk: u16, offset: u64, length_bytes: u64) -> std::result::Result<(), Trouble> {
        let disk = self.disks.get(usize::from(disk)).ok_or(Trouble::Lie("a disk that there is not"))?;
        match offset.checked_add(length_bytes) {
            Some(end) if end <= disk.size_bytes() => Ok(()),
            _ => Err(Trouble::Lie("a place outside of its disk")),
        }
    }
}

#[cfg(test)]
mod tests;
