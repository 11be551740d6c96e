//! Check: is everything there that the snapshots need, and is it what their writers signed.
//!
//! ```text
//! log, keys ──> snapshots (frame sets, disks) ──> packs there? read? ──> maps ──> findings ──> quarantine
//! ```
//!
//! Packs are compared and read before the maps are walked, so that one pass over the maps finds what each loss costs
//! while only the lost frames are held. A check goes on to its end: an object that cannot be read is a finding; only
//! a store that does not answer at all, or the user, stops it.

mod checkpoints;
mod distrust;
mod elsewhere;
mod history;
mod index;
mod inventory;
mod keys;
mod moved;
mod nodes;
mod packs;
mod quarantine;
mod records;
mod report;
mod run;
mod sample;
mod select;
mod subjects;
mod tables;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use std::collections::BTreeSet;
use std::sync::Arc;

use sancerre_advice::Verb::Repair;
use sancerre_format::names::ZoneKey;

pub use report::{CheckReport, Cost, Finding, Severity};
pub use sample::{Sample, Sampled};
pub use select::ReadData;

use crate::error::Result;
use crate::frames::Frames;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::log::{Log, PackAndFrameSet};
use inventory::Instead;
use packs::Counted;
use quarantine::Quarantine;
use report::Findings;
use run::Run;

pub(crate) use history::{CLOCK_SECONDS, agrees_with_records};
pub(crate) use inventory::missing_lists;
pub(crate) use records::{at_log, witness};
pub(crate) use run::tolerate;
pub(crate) use verify::{Expected, verify};

/// What to check.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckOptions {
    /// Which packs are read.
    pub read_data: ReadData,
    /// Publish what is damaged or missing, so that the next backup stores it anew. Needs a key that signs.
    pub quarantine: bool,
}

impl CheckOptions {
    /// All that can be told of packs that are read so far; nothing is published.
    pub fn new(read_data: ReadData) -> Self {
        Self { read_data, quarantine: false }
    }
}

/// Checks the zone's snapshots and everything they need.
///
/// Errors: a store that does not answer or refuses; an interrupt; [`Error::Usage`](crate::Error::Usage) for options
/// that make no sense; [`Error::WrongKey`](crate::Error::WrongKey) when something is to be quarantined without a key
/// that signs. Damage is no error but a finding.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_host().await?, &scene.monitor);
/// # save(&repository).await?;
/// use sancerre_engine::{CheckOptions, ReadData, check};
///
/// let report = check(&repository, &CheckOptions::new(ReadData::All), monitor).await?;
/// assert_eq!((report.snapshots, report.worst()), (1, None));
/// # Ok(()) }
/// ```
pub async fn check(
    repository: &Repository,
    options: &CheckOptions,
    monitor: &Monitor,
) -> Result<CheckReport> {
    options.read_data.validate()?;
    if options.quarantine {
        // Better now than after hours of reading.
        repository.signer(quarantine::entry().roles())?;
    }
    let mut log = Log::load(repository).await?;
    // What no listing shows, such as a link that leads nowhere, is told when it is read by name.
    log.settle(repository, Log::END).await?;
    log.judge();
    check_log(repository, &log, options, monitor).await
}

/// Checks what a log that was read names. With no keys at hand it sees what is public, and that is what an audit is.
pub(crate) async fn check_log(
    repository: &Repository,
    log: &Log,
    options: &CheckOptions,
    monitor: &Monitor,
) -> Result<CheckReport> {
    let zone = &repository.keys.zone;
    let (mut findings, is_stranded) = records::check(repository, log).await?;
    findings.extend(history::check(zone, log, repository.host.clock.now()));
    findings.extend(keys::check(repository, log).await?);
    let named: BTreeSet<String> = findings.iter().map(|finding| finding.object.clone()).collect();
    let unknown_keys = records::unknown_keys(repository, log).await?;
    findings.extend(unknown_keys.into_iter().filter(|stranger| !named.contains(&stranger.object)));
    findings.extend(records::covered(repository));
    findings.extend(checkpoints::check(repository, log).await?);
    findings.extend(records::strange(repository));
    findings.extend(records::leftovers(repository).await?);

    let mut run = prepare(repository, log, monitor).await?;
    findings.extend(distrust::check(zone, log, &run.subjects));
    blame_lists(&mut run);
    let mut counted = Counted::default();
    let needed = packs::compare(&mut run, &mut counted).await?;
    packs::read(&mut run, &options.read_data, &needed, &mut counted).await?;
    packs::note_orphans(&mut run, &needed, is_stranded);
    walk::walk(&mut run).await?;
    index::check(&mut run).await?;

    let quarantined = if options.quarantine { run.quarantine.publish(repository, log).await? } else { None };
    let disks: usize = run.subjects.iter().map(|subject| subject.members.len()).sum();
    let snapshots = run.subjects.len();
    findings.extend(run.findings.finish(&run.subjects));
    // The worst first, then by key.
    findings.sort_by(|a, b| (a.severity, &a.object).cmp(&(b.severity, &b.object)));
    Ok(CheckReport {
        snapshots: u64::try_from(snapshots).unwrap_or(u64::MAX),
        disks: u64::try_from(disks).unwrap_or(u64::MAX),
        packs: counted.packs,
        pack_bytes: counted.pack_bytes,
        read_packs: counted.read_packs,
        read_bytes: counted.read_bytes,
        readable_packs: counted.readable_packs,
        sampled: counted.sampled,
        content_opened: counted.content_opened,
        findings,
        quarantined,
    })
}

async fn prepare<'a>(repository: &'a Repository, log: &Log, monitor: &'a Monitor) -> Result<Run<'a>> {
    let (log, inventory) = inventory::take(repository, log).await?;
    let mut findings = Findings::default();
    let subjects = subjects::read(repository, &log, &mut findings);
    let frames = Frames::new(repository, &log, &inventory.catalogue);
    for subject in &subjects {
        frames.learn(&subject.uses.clone().unwrap_or_default()).await?;
    }
    Ok(Run {
        repository,
        monitor,
        quarantine: Quarantine::of(&log),
        log,
        frames: Arc::new(frames),
        inventory,
        subjects,
        findings,
        lost: PackAndFrameSet::default(),
        read: BTreeSet::new(),
    })
}

/// Pack lists that do not verify or are not there; what they cost is added when their packs are met.
fn blame_lists(run: &mut Run<'_>) {
    let zone = &run.repository.keys.zone;
    let session = |key: &str| match ZoneKey::parse(zone, key) {
        Ok(ZoneKey::List(session, _)) => session.number,
        _ => 0,
    };
    let bad = run.inventory.bad_lists.iter();
    let bad =
        bad.map(|bad| (bad.key.clone(), session(&bad.key), Severity::of(&bad.error), bad.error.to_string()));
    let missing = run
        .inventory
        .missing_lists()
        .map(|(session, key)| (key.clone(), session, Severity::Missing, "it is missing".to_owned()));
    let lists: Vec<_> = bad.chain(missing).collect();
    for (key, session, severity, problem) in lists {
        match run.inventory.instead_of_list(session) {
            Instead::MadeAnew => {
                let problem = format!("{problem}; the administrator made it anew, so it costs nothing");
                run.findings.blame(&key, Severity::Note, problem);
            }
            Instead::Found(packs) => {
                let problem = format!(
                    "{problem}: {packs} packs that snapshots need are named by no other list. They are there, and restores find \
                     them; {Repair} writes the list anew, so that backups build on them again"
                );
                run.findings.blame(&key, severity, problem);
            }
            Instead::Nothing => {
                run.findings.blame(
                    &key,
                    severity,
                    format!("{problem}: packs that only it names cannot be found"),
                );
            }
        }
    }
}
