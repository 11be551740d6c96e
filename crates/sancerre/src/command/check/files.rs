//! Which files of a guest a loss touches, by the catalogues of the snapshots that it costs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use sancerre_engine::Error;
use sancerre_engine::check::{Cost, Finding, Severity};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::snapshot_disk::ChunkCache;
use sancerre_engine::restore;
use sancerre_format::file_catalogue::{CataloguedFile, SpotPlace};
use sancerre_format::id::SessionId;
use sancerre_format::names::Title;

use crate::catalogue::{Catalogue, Memo, joined};
use crate::exit::Failure;
use crate::guest_names::shown;

/// Files of one loss that are named for people.
const FILES_SHOWN: usize = 5;

/// The files that a loss touches on a disk of a snapshot, as `get` takes them.
pub(super) type LostFiles = BTreeMap<(SessionId, Title), Vec<String>>;

/// Ranges of a disk.
type Loss = (Title, Vec<(u64, u64)>);

/// Paths within volumes.
type Paths = Vec<Vec<u8>>;

/// Of all losses of disks of which a catalogue tells.
///
/// Errors: the store's. A catalogue that cannot be read tells nothing: it may be what is lost.
pub(super) async fn touched(
    repository: &Repository,
    log: &Log,
    findings: &[Finding],
    memory_bytes: u64,
    monitor: &Monitor,
) -> Result<LostFiles, Failure> {
    let mut lost: BTreeMap<Loss, Vec<SessionId>> = BTreeMap::new();
    let is_loss = |finding: &&Finding| matches!(finding.severity, Severity::Damaged | Severity::Missing);
    for cost in findings.iter().filter(is_loss).flat_map(|finding| &finding.costs) {
        if let Some(disk) = cost.disk.as_ref().filter(|_| !cost.ranges.is_empty()) {
            let ranges = cost.ranges.iter().map(|range| (range.start, range.end)).collect();
            lost.entry((disk.clone(), ranges)).or_default().push(cost.snapshot);
        }
    }
    let cache = ChunkCache::new(memory_bytes);
    let mut files = LostFiles::new();
    for ((disk, ranges), snapshots) in lost {
        let ranges: Vec<Range<u64>> = ranges.into_iter().map(|(start, end)| start..end).collect();
        // Many snapshots have one loss, and nearly one catalogue.
        let mut memo = Memo::default();
        for session in snapshots {
            let found =
                of_snapshot((repository, log), session, (&disk, &ranges), &cache, &mut memo, monitor).await;
            match found {
                Ok(found) => files.entry((session, disk.clone())).or_default().extend(found),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(files)
}

async fn of_snapshot(
    (repository, log): (&Repository, &Log),
    session: SessionId,
    (disk, ranges): (&Title, &[Range<u64>]),
    cache: &Arc<ChunkCache>,
    memo: &mut Memo<Paths>,
    monitor: &Monitor,
) -> Result<Vec<String>, Error> {
    let reader = restore::open(repository, log, session).await?;
    let Some(catalogue) = Catalogue::of(&reader, cache, monitor).await? else { return Ok(Vec::new()) };
    let disks = catalogue.disks().await?;
    let Some(number) = disks.iter().position(|name| name == disk.as_str()) else { return Ok(Vec::new()) };
    let said = catalogue
        .ask(memo, &mut |names, _| {
            let mut paths = Paths::new();
            names.each(&mut |folder, file| {
                if lies_in(file, number, ranges) {
                    paths.push(joined(&folder.path, &file.name));
                }
            })?;
            Ok(paths)
        })
        .await?;
    let mut files = Vec::new();
    for volume in &said.volumes {
        let base = said.place(volume, disk.as_str());
        files.extend(
            volume.parts.iter().flat_map(|paths| paths.iter()).map(|path| format!("{base}/{}", shown(path))),
        );
    }
    Ok(files)
}

fn lies_in(file: &CataloguedFile, number: usize, ranges: &[Range<u64>]) -> bool {
    file.spots.iter().flatten().any(|spot| match spot.place {
        SpotPlace::Disk { disk, offset } if usize::from(disk) == number => {
            let end = offset.saturating_add(spot.length_bytes);
            ranges.iter().any(|range| range.start < end && offset < range.end)
        }
        _ => false,
    })
}

/// What is said of it below the line of a loss.
pub(super) fn describe(cost: &Cost, files: &LostFiles) -> String {
    let Some(found) = of_cost(cost, files).filter(|found| !found.is_empty()) else { return String::new() };
    let more = found.len().saturating_sub(FILES_SHOWN);
    let more = if more > 0 { format!("    and {more} more\n") } else { String::new() };
    let named = found.iter().take(FILES_SHOWN).map(|file| format!("    of {file}\n"));
    format!("{}{more}", named.collect::<String>())
}

/// The files of a loss; none where no catalogue tells.
pub(super) fn of_cost<'a>(cost: &Cost, files: &'a LostFiles) -> Option<&'a Vec<String>> {
    files.get(&(cost.snapshot, cost.disk.clone()?))
}
