//! What is different when a disk comes to lie on a device: something may lie behind its end, and sectors may be of
//! another size.

use std::path::Path;

use sancerre_engine::restore::Behind;
use sancerre_image::Rest;

use crate::command::Context;
use crate::plain;
use crate::units::size;

/// The size of sectors that disks of virtual machines have, but for few.
const USUAL_SECTOR: u32 = 512;

/// How a restore makes zeros of what it would leave.
pub(super) const WIPE: &str = "--overwrite with --wipe-rest makes it zeros";

/// Says what lies behind the end of a disk on a device, and `how` that becomes zeros.
pub(in crate::command) fn tell(path: &Path, behind: &Behind, how: &str, context: &Context) {
    let path = plain::path(path);
    if let Some(sector) = behind.sector_bytes.filter(|sector| *sector != USUAL_SECTOR) {
        context.output.warning(&format!(
            "{path} has sectors of {sector} bytes: a partition table that was made on a disk with sectors of {USUAL_SECTOR} is \
             not understood there; if that one was, take a device that has them too"
        ));
    }
    match &behind.rest {
        Some(rest) if behind.is_wiped => context
            .output
            .message(&format!("{} behind the end of the disk are zeros now", size(rest.size_bytes))),
        Some(rest) => tell_rest(&path, rest, how, context),
        None => {}
    }
}

fn tell_rest(path: &str, rest: &Rest, how: &str, context: &Context) {
    let larger = format!("{path} is {} larger than the disk", size(rest.size_bytes));
    if !rest.holds_data {
        context.output.message(&format!("{larger}; what lies behind its end is left as it is"));
        return;
    }
    let what = match rest.labels.as_slice() {
        [] => "old data".to_owned(),
        labels => labels.join(", "),
    };
    context.output.warning(&format!(
        "{larger}, and {what} behind the end of the disk is left there, where systems may find it; {how}"
    ));
}
