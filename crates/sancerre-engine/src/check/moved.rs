//! Frames that gc moved: is the pack to which the commit sends them one that has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use sancerre_format::frames::FrameSet;
use sancerre_format::id::PackName;

use super::report::Severity;
use super::run::{Run, is_transient, tolerate};
use crate::error::Result;

/// Reads the directories of collectors' packs that snapshots need, and notes the frames that are not in them.
pub(super) async fn check(run: &mut Run<'_>, lying: &BTreeMap<PackName, FrameSet>) -> Result<()> {
    let frames = Arc::clone(&run.frames);
    for (pack, wanted) in lying {
        // A pack that is gone is told already.
        let is_moved = wanted.packs().any(|named| named != *pack);
        if !is_moved || run.inventory.fault(run.repository, *pack).is_some() {
            continue;
        }
        let wanted = &wanted.single_frames();
        let key = run.inventory.catalogue.key(run.repository, *pack)?;
        match frames.lacking(*pack, wanted).await {
            Ok(lacking) if lacking.is_empty() => {}
            Ok(lacking) => {
                let problem =
                    format!("gc moved {} frames to it that it does not hold", lacking.frame_count());
                lose(run, &key, pack, &lacking, true, problem);
            }
            Err(error) => {
                let may_quarantine = !is_transient(&error);
                let problem = format!("its directory: {}", tolerate(run.repository, error).await?);
                lose(run, &key, pack, wanted, may_quarantine, problem);
            }
        }
    }
    Ok(())
}

/// Notes frames as lost; `may_quarantine` says whether to quarantine them.
fn lose(
    run: &mut Run<'_>,
    key: &str,
    pack: &PackName,
    frames: &FrameSet,
    may_quarantine: bool,
    problem: String,
) {
    run.lost.extend(frames);
    let is_quarantined = may_quarantine && run.quarantine.add_all(frames, pack);
    if is_quarantined {
        run.findings.blame_quarantined(key, Severity::Damaged, problem);
    } else {
        run.findings.blame(key, Severity::Damaged, problem);
    }
}
