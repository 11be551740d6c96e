//! What a larger device holds behind the end of the disk: wiped if that is asked for, looked at and left alone otherwise.

use sancerre_image::Rest;

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

/// Looks behind the end of a disk that is written; with `wipe`, makes it zeros.
///
/// Errors: those of wiping; the user's wish to stop. What cannot be read and need not be wiped is a warning.
pub(super) fn look(sink: &Sink, disk_bytes: u64, wipe: bool) -> Result<Behind> {
    let target = &sink.target;
    let (size_bytes, sector_bytes) = (target.surplus_bytes(), target.sector_bytes());
    let rest = match target.rest() {
        Err(error) if wipe => return Err(error.into()),
        Err(error) => {
            sink.monitor.warn(
                Topic::Aside,
                format!("{error}; whether old data lies behind the end of the disk is not known"),
            );
            None
        }
        Ok(rest) => rest,
    };
    let Some(rest) = rest else { return Ok(Behind { size_bytes, rest, is_wiped: false, sector_bytes }) };
    if wipe {
        let (mut start, end) = (disk_bytes, disk_bytes.saturating_add(rest.size_bytes));
        while start < end {
            sink.monitor.check()?;
            let next = end.min(start.saturating_add(WIPE_BYTES));
            target.wipe(start..next)?;
            start = next;
        }
    }
    Ok(Behind { size_bytes: rest.size_bytes, rest: Some(rest), is_wiped: wipe, sector_bytes })
}
