//! What a larger device holds behind the end of the disk: wiped if that is asked for, looked at and left alone otherwise.

use sancerre_image::{DiskTarget, Rest, TargetError};

use crate::error::Result;
use crate::monitor::Topic;
use crate::restore::sink::Sink;

/// Bytes wiped between two looks at whether the user wants to stop.
const WIPE_BYTES: u64 = 256 << 20;

/// What a target has behind the end of the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behind {
    /// How many bytes.
    pub size_bytes: u64,
    /// What was found there; none when nothing is there, or it could not be read.
    pub rest: Option<Rest>,
    /// It was made zeros.
    pub is_wiped: bool,
    /// The size of a device's sectors; none for a file. A partition table counts in them.
    pub sector_bytes: Option<u32>,
}

impl Behind {
    /// Looks behind the end of a disk on `target`, and changes nothing.
    ///
    /// # Errors
    /// What lies there cannot be read.
    pub fn of(target: &dyn DiskTarget) -> std::result::Result<Self, TargetError> {
        Ok(Self { rest: target.rest()?, ..Self::unread(target) })
    }

    fn unread(target: &dyn DiskTarget) -> Self {
        let (size_bytes, sector_bytes) = (target.surplus_bytes(), target.sector_bytes());
        Self { size_bytes, rest: None, is_wiped: false, sector_bytes }
    }
}

/// Looks behind the end of a disk that is written; with `wipe`, makes it zeros.
///
/// Errors: those of wiping; the user's wish to stop. What cannot be read and need not be wiped is a warning.
pub(super) fn look(sink: &Sink, disk_bytes: u64, wipe: bool) -> Result<Behind> {
    let target = &*sink.target;
    let behind = match Behind::of(target) {
        Err(error) if wipe => return Err(error.into()),
        Err(error) => {
            sink.monitor.warn(
                Topic::Aside,
                format!("{error}; whether old data lies behind the end of the disk is not known"),
            );
            Behind::unread(target)
        }
        Ok(behind) => behind,
    };
    let Some(rest) = &behind.rest else { return Ok(behind) };
    if wipe {
        let (mut start, end) = (disk_bytes, disk_bytes.saturating_add(rest.size_bytes));
        while start < end {
            sink.monitor.check()?;
            let next = end.min(start.saturating_add(WIPE_BYTES));
            target.wipe(start..next)?;
            start = next;
        }
    }
    Ok(Behind { size_bytes: rest.size_bytes, is_wiped: wipe, ..behind })
}
