//! What changes an export. A backup never sends any of it.

use std::ops::Range;

use super::connection::Failed;
use super::disk::NbdDisk;
use super::error::{Fault, NbdError};
use super::wire::{COMMAND_FLUSH, COMMAND_WRITE, COMMAND_WRITE_ZEROES};
use crate::Disk;
use crate::positional::length;

/// A change of an export: of whole blocks, and no more of them than a request may have.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    /// These bytes from an offset on.
    Write(u64, &'a [u8]),
    /// Zeros, which are not sent.
    Zero(Range<u64>),
    /// All that was answered becomes durable.
    Flush,
}

impl NbdDisk {
    /// Has the server change its export, and waits until it has.
    ///
    /// # Errors
    /// What the server said, or why it could not be asked.
    pub(crate) fn change(&self, change: Change<'_>) -> Result<(), NbdError> {
        let (command, range, bytes) = match change {
            Change::Write(at, bytes) => (COMMAND_WRITE, at..at.saturating_add(length(bytes)), bytes),
            Change::Zero(range) => (COMMAND_WRITE_ZEROES, range, &[][..]),
            Change::Flush => (COMMAND_FLUSH, 0..0, &[][..]),
        };
        let said = self.pool().with(|connection| connection.command(command, &range, bytes));
        let fault = match said {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Failed(said))) => Fault::Failed(said),
            Err(fault) => fault,
        };
        Err(fault.at(&self.path().display().to_string()))
    }
}
