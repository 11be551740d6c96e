//! What is different when a disk is restored to a device: something may lie behind its end, and sectors may be of
//! another size.

use sancerre_engine::Error;
use sancerre_engine::monitor::Monitor;
use sancerre_image::{RawTarget, Rest, TargetError};

use crate::command::Context;
use crate::plain;
use crate::units::size;

/// The size of sectors that disks of virtual machines have, but for few.
const USUAL_SECTOR: u32 = 512;
/// Bytes wiped between two looks at whether the user wants to stop.
const WIPE_BYTES: u64 = 256 << 20;

/// Wipes what lies behind the end of the disk, or says that it is there; how many bytes it is. Called once the disk is
/// written.
///
/// Errors: those of wiping; the user's wish to stop.
pub(super) fn look_behind(
    target: &RawTarget,
    disk_bytes: u64,
    wipe: bool,
    context: &Context,
    monitor: &Monitor,
) -> Result<u64, Error> {
    let path = plain::path(target.path());
    if let Some(sector) = target.sector_bytes().filter(|sector| *sector != USUAL_SECTOR) {
        context.output.warning(&format!(
            "{path} has sectors of {sector} bytes: a partition table that was made on a disk with sectors of {USUAL_SECTOR} is \
             not understood there; if that one was, restore to a device that has them too"
        ));
    }
    let rest = match target.rest() {
        Ok(None) => return Ok(0),
        Ok(Some(rest)) => rest,
        Err(error) if wipe => return Err(error.into()),
        Err(error) => {
            context
                .output
                .warning(&format!("{error}; whether old data lies behind the end of the disk is not known"));
            return Ok(target.surplus_bytes());
        }
    };
    if wipe {
        self::wipe(target, disk_bytes, rest.size_bytes, monitor)?;
        context
            .output
            .message(&format!("{} behind the end of the disk are zeros now", size(rest.size_bytes)));
    } else {
        tell(&path, &rest, context);
    }
    Ok(rest.size_bytes)
}

fn wipe(target: &RawTarget, disk_bytes: u64, size_bytes: u64, monitor: &Monitor) -> Result<(), Error> {
    let (mut start, end) = (disk_bytes, disk_bytes.saturating_add(size_bytes));
    while start < end {
        monitor.check()?;
        let next = end.min(start.saturating_add(WIPE_BYTES));
        target.wipe(start..next).map_err(|error: TargetError| Error::from(error))?;
        start = next;
    }
    Ok(())
}

fn tell(path: &str, rest: &Rest, context: &Context) {
    let larger = format!("{path} is {} larger than the disk", size(rest.size_bytes));
    if !rest.holds_data {
        context.output.message(&format!("{larger}; what lies behind its end was left as it is"));
        return;
    }
    let what = match rest.labels.as_slice() {
        [] => "old data".to_owned(),
        labels => labels.join(", "),
    };
    context.output.warning(&format!(
        "{larger}, and {what} behind the end of the disk was left there, where systems may find it; --overwrite with \
         --wipe-rest makes it zeros"
    ));
}
