//! A file of a guest, read by its places.

use std::ops::Range;
use std::sync::Arc;

use crate::bytes::{to_u64, to_usize};
use crate::error::GuestError;
use crate::guest::Guest;
use crate::node::{FileRun, RunPlace};

/// A file, or a further stream of one. It remembers where the bytes after the last ones are.
#[derive(Debug)]
pub struct GuestFile {
    guest: Arc<Guest>,
    volume: u16,
    id: u64,
    stream: Vec<u8>,
    size_bytes: u64,
    /// Where the first of `runs` begins.
    start: u64,
    runs: Vec<FileRun>,
}

impl GuestFile {
    /// The file with this number, of which its node says the size.
    pub fn new(guest: Arc<Guest>, volume: u16, id: u64, stream: &[u8], size_bytes: u64) -> Self {
        Self { guest, volume, id, stream: stream.to_vec(), size_bytes, start: 0, runs: Vec::new() }
    }

    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What is at `at`, and how far it goes; none at the end.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn run(&mut self, at: u64) -> Result<Option<FileRun>, GuestError> {
        if at >= self.size_bytes {
            return Ok(None);
        }
        if let Some(run) = self.known(at) {
            return Ok(Some(run));
        }
        self.runs = self.guest.runs(self.volume, self.id, &self.stream, at..self.size_bytes)?;
        self.start = at;
        match self.known(at) {
            Some(run) => Ok(Some(run)),
            None => Err(GuestError::Fault("it has no bytes where it should have some".to_owned())),
        }
    }

    fn known(&self, at: u64) -> Option<FileRun> {
        let mut start = self.start;
        for run in &self.runs {
            let end = start.saturating_add(run.length_bytes);
            if (start..end).contains(&at) {
                let skip = at.saturating_sub(start);
                let place = match run.place {
                    RunPlace::Disk { disk, offset } => {
                        RunPlace::Disk { disk, offset: offset.saturating_add(skip) }
                    }
                    other => other,
                };
                return Some(FileRun { length_bytes: run.length_bytes.saturating_sub(skip), place });
            }
            start = end;
        }
        None
    }

    /// Fills `buffer` from inside of the file.
    ///
    /// # Errors
    /// [`GuestError`]; the content of `buffer` is then unspecified.
    pub fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), GuestError> {
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let run = self.run(at)?.ok_or_else(|| GuestError::Fault("a place behind its end".to_owned()))?;
            let length = rest.len().min(to_usize(run.length_bytes));
            let (piece, behind) = std::mem::take(&mut rest).split_at_mut(length);
            match run.place {
                RunPlace::Hole => piece.fill(0),
                RunPlace::Held => self.guest.held(self.volume, self.id, &self.stream, at, piece)?,
                RunPlace::Disk { disk, offset } => {
                    let disk = self.guest.disks().get(usize::from(disk)).ok_or(GuestError::Missing)?;
                    disk.read_at(offset, piece)?;
                }
            }
            rest = behind;
            at = at.saturating_add(to_u64(length));
        }
        Ok(())
    }

    /// The ranges of the file that hold data, as places on disks; what is held in structures has none.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn places(&mut self) -> Result<Vec<(u16, Range<u64>)>, GuestError> {
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(run) = self.run(at)? {
            if let RunPlace::Disk { disk, offset } = run.place {
                found.push((disk, offset..offset.saturating_add(run.length_bytes)));
            }
            at = at.saturating_add(run.length_bytes);
        }
        Ok(found)
    }
}
