//! Garbage collection: the only thing that deletes, and only packs that a committed list names.
//!
//! ```text
//! account (G1) ─> weigh ─> plan (pure) ─> announce (G2) ─> copy what is kept of packs worth rewriting (G3)
//!              ─> wait or abort (G4) ─> read again, strike (G5) ─> commit (G6) ─> delete (G7)
//! ```
//!
//! The steps are those of docs/decisions/0001-commit-protocol.md, and so is the argument why nothing is lost. Frames
//! are copied as ciphertext: no key that opens content is used.

mod abandon;
mod account;
mod checkpoint;
mod commit;
mod copy;
mod gate;
mod gather;
mod healers;
mod lists;
mod locks;
mod moved;
mod packs;
pub mod plan;
mod source;
mod sweep;
mod wait;
mod weigh;

use std::collections::BTreeSet;

use sancerre_advice::Verb::Check;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::{KEEPERS, Kind};

use crate::error::{Error, Result};
use crate::forget::MAX_DROP_PERCENT;
use crate::lock::clean::{self, CleanLocks, Whose};
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::catalogue::Present;
use crate::repository::log::{Log, Moves, Pending, needed};
use crate::repository::session::refuse_revoked;
use crate::repository::session::{abort_other, append};
use crate::store::Leftovers;
use crate::suspicion;
pub use abandon::abandon;
use copy::{Copied, copy};
use healers::Stock;
use packs::Packs;
use plan::{Plan, PlanInput};
use wait::Waiting;
use weigh::weigh;

/// How to collect.
#[derive(Debug, Clone, Copy)]
pub struct GcOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// How long to wait for sessions that are under way.
    pub wait_seconds: u64,
    /// After how long without a sign of life a session is taken for dead and ended.
    pub silent_seconds: u64,
    /// Most bytes of frames to keep, and so to read and to write again, of packs that are rewritten; 0 rewrites nothing.
    /// Frames move whole, with whatever else is in one of which a chunk is needed.
    pub max_repack_bytes: u64,
    /// So many bytes of frames that nobody needs, in per cent, may stay in the packs of which something is needed, all of
    /// them together.
    pub max_unused_percent: u8,
    /// Most of a machine's snapshots that may have gone since the last collection, in per cent: forgotten by however many
    /// records, or void because of a revocation. A dry run shows the plan all the same.
    pub max_drop_percent: u8,
    /// A checkpoint is written when the log has grown by so many entries since the last one.
    pub checkpoint_after_entries: u64,
}

/// As everybody collects who says nothing else; the command line takes its defaults from here.
impl Default for GcOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            wait_seconds: 60 * 60,
            silent_seconds: 12 * 60 * 60,
            max_repack_bytes: 64 << 30,
            max_unused_percent: 5,
            max_drop_percent: MAX_DROP_PERCENT,
            checkpoint_after_entries: CHECKPOINT_AFTER_ENTRIES,
        }
    }
}

/// Entries since the last checkpoint from which a new one is worth it: two requests each for who reads them one by one.
pub const CHECKPOINT_AFTER_ENTRIES: u64 = 16;

/// What a collection came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcReport {
    /// What was planned.
    pub plan: Plan,
    /// Its number in the log; none in a dry run, or when sessions under way kept it from starting.
    pub number: Option<u64>,
    /// Whether its lists are final.
    pub committed: bool,
    /// Packs in its final list.
    pub dead_packs: u64,
    /// Packs that it wrote, for frames of packs that go.
    pub written_packs: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Of those the frames: what the plan announced, but for packs of which something could not be read. The rest is what
    /// every pack has around them.
    pub moved_bytes: u64,
    /// Packs deleted now, of this list and of earlier ones.
    pub deleted_packs: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Packs that the store did not delete, each with the reason; the next collection tries again.
    pub left: Vec<String>,
    /// Sessions that were ended because they had shown no sign of life.
    pub ended: Vec<SessionId>,
    /// Entries that wait for other keepers' approval: what they would forget stays.
    pub pending: Vec<Pending>,
    /// Sessions under way that it did not wait for any longer; then nothing was deleted.
    pub waits_for: Vec<SessionId>,
    /// Files of writes that died, which were removed.
    pub leftovers: Leftovers,
    /// What was done about the locks of the last clean snapshots of suspect machines.
    pub clean_locks: Option<CleanLocks>,
}

/// Deletes what no snapshot needs. Any number of backups, restores and collections may run meanwhile.
///
/// Errors: [`StoreError::Missing`](crate::StoreError::Missing) or an object's damage when what the repository says does not add
/// up, before anything is deleted; [`Error::WrongKey`] without a keeper's or the admin's key;
/// [`Error::SessionEnded`] when somebody ended it; the store's.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_admin().await?, &scene.monitor);
/// # let snapshot = save(&repository).await?;
/// use std::collections::BTreeSet;
/// use sancerre_engine::{ForgetOptions, GcOptions, Log, Selection, forget, gc};
///
/// let named = Selection::Named { snapshots: BTreeSet::from([snapshot]), even_last: true };
/// // The only snapshot of its machine is all of them.
/// let options = ForgetOptions { max_drop_percent: 100, ..ForgetOptions::new(named, "not needed any more") };
/// forget(&repository, &mut Log::load(&repository).await?, &options).await?;
/// let report = gc(&repository, &GcOptions { max_drop_percent: 100, ..GcOptions::default() }, monitor).await?;
/// assert!(report.committed && report.freed_bytes > 0);
/// # Ok(()) }
/// ```
pub async fn gc(repository: &Repository, options: &GcOptions, monitor: &Monitor) -> Result<GcReport> {
    repository.signer(KEEPERS)?;
    if options.dry_run {
        return run(repository, options, monitor).await;
    }
    repository.store.refuse_read_only()?;
    // On a full disk that may be the room for what follows.
    let leftovers = repository.store.clear_leftovers().await?;
    repository.store.spend_reserve();
    let report = match run(repository, options, monitor).await {
        Err(error) if error.is_full() && options.max_repack_bytes > 0 => {
            monitor
                .warn(Topic::Aside, format!("no pack is rewritten this time, for there is no room: {error}"));
            run(repository, &GcOptions { max_repack_bytes: 0, ..*options }, monitor).await?
        }
        report => report?,
    };
    if let Err(error) = repository.store.keep_reserve(repository.host.random.clone()).await {
        monitor.warn(Topic::Aside, format!("no room is left for the next gc on a full disk: {error}"));
    }
    Ok(GcReport { leftovers, ..report })
}

/// The same, once.
async fn run(repository: &Repository, options: &GcOptions, monitor: &Monitor) -> Result<GcReport> {
    // Behind a delete marker that it cannot see, a manifest looks like one that never was.
    repository.store.must_tell_versions().await?;
    let mut report = GcReport::default();
    let mut log = read_log(repository).await?;
    report.pending = log.pending();
    if let Some(stays) = suspicion::what_stays(&log) {
        monitor.warn(Topic::Policy, stays);
    }
    if !options.dry_run {
        let newest = log.highest();
        report.clean_locks = clean::keep(repository, &log, Whose::AllSuspect, newest, monitor).await;
    }
    let mut waiting = Waiting::new(options);
    account::account(repository, &mut log, Log::END)?;
    if !options.dry_run {
        gate::check_drop(&log, options.max_drop_percent)?;
        // Before anything is announced: what is announced as dead, nobody reuses.
        let next = log.end();
        report.waits_for = waiting.run(repository, &mut log, next, monitor, &mut report.ended).await?;
        if !report.waits_for.is_empty() {
            return Ok(report);
        }
    }
    let packs = Packs::load(repository, &log, monitor).await?;
    report.plan = make_plan(repository, &log, &packs, options, monitor).await?;
    if options.dry_run || !is_worth_it(&log, &report) {
        return Ok(report);
    }
    collect(repository, &mut log, &packs, options, &mut waiting, monitor, &mut report).await?;
    Ok(report)
}

/// G1, second half: what would go, and what would be rewritten.
async fn make_plan(
    repository: &Repository,
    log: &Log,
    packs: &Packs,
    options: &GcOptions,
    monitor: &Monitor,
) -> Result<Plan> {
    let moves = Moves::below(log, Log::END);
    // What is forgotten is given up by this very gc.
    let live = log.snapshots();
    gate::prove(repository, log, (&moves, &live), &gate::doomed(&packs.present, &log.burnt(Log::END)))?;
    let lying = moves.by_pack(&needed(live.iter().copied())?);
    let gone = lying.keys().filter(|pack| packs.lacks(**pack)).count();
    if gone > 0 {
        monitor.warn(Topic::Damage, format!(
            "{gone} packs that snapshots need are missing from the store: run {Check} before anything else is forgotten"
        ));
    }
    let weights = weigh(repository, packs, &lying, monitor).await?;
    let stock = Stock { log, packs, moves: &moves, lying: &lying };
    let healers = healers::healers(repository, &stock, &live, monitor).await?;
    let copies = abandon::needed_copies(repository, log, packs, monitor).await?;
    let generation = repository.keys.generation();
    let input = PlanInput {
        log,
        packs,
        lying: &lying,
        weights: &weights,
        copies: &copies,
        healers: &healers,
        generation,
    };
    let mut plan = plan::plan(&input, options);
    locks::leave_locked(repository, &packs.present, &mut plan).await?;
    if plan.healing.packs > 0 {
        monitor.warn(Topic::Damage, format!(
            "packs that no snapshot names stay ({} of them): they hold other copies of what snapshots need from packs that \
             are missing or quarantined; they go when those snapshots are forgotten",
            plan.healing.packs
        ));
    }
    Ok(plan)
}

async fn read_log(repository: &Repository) -> Result<Log> {
    let mut log = Log::load(repository).await?;
    let next = log.end();
    log.complete(repository, next).await?;
    log.settle(repository, next).await?;
    log.refuse_unread(&repository.keys.zone)?;
    Ok(log)
}

/// Something is to be deleted, or there is something that no collection has recorded yet.
fn is_worth_it(log: &Log, report: &GcReport) -> bool {
    let retention = log.retention();
    let is_given_up =
        |snapshot: &SessionId| !retention.is_live(snapshot) && retention.collected_by(snapshot).is_none();
    !report.plan.is_empty()
        || !commit::unseen(log, Log::END).is_empty()
        || log.committed().any(|snapshot| is_given_up(&snapshot.session()))
}

/// G2 to G7.
async fn collect(
    repository: &Repository,
    log: &mut Log,
    packs: &Packs,
    options: &GcOptions,
    waiting: &mut Waiting,
    monitor: &Monitor,
    report: &mut GcReport,
) -> Result<()> {
    let known = commit::decided(log);
    let proposal = GcLists { dead: report.plan.proposed(), ..GcLists::default() };
    let kind = Kind::Gc { generation: repository.keys.zone_secrets()?.generation };
    let session = append(repository, log, kind, &proposal.encode()?).await?;
    report.number = Some(session.number);
    let copied = copy_and_close(repository, log, session, packs, waiting, monitor, report).await;
    let copied = match copied {
        Ok(copied) => copied,
        Err(error) => {
            give_up(repository, session, &error.to_string(), monitor).await;
            return Err(error);
        }
    };
    if !report.waits_for.is_empty() {
        give_up(repository, session, "sessions below it were still under way", monitor).await;
        return Ok(());
    }
    let seen = (&proposal, &copied, &known, &report.plan.healers);
    let lists = match last_look(repository, log, session, seen, &packs.present, options).await {
        Ok(lists) => lists,
        Err(error) => {
            give_up(repository, session, &error.to_string(), monitor).await;
            return Err(error);
        }
    };
    commit::commit(repository, log, session, &lists).await?;
    report.committed = true;
    report.dead_packs = u64::try_from(lists.dead.packs().count()).unwrap_or(u64::MAX);
    (report.written_packs, report.written_bytes) = (copied.packs, copied.bytes);
    report.moved_bytes = copied.frame_bytes;
    let doomed = gate::before_sweep(repository, log, (session, &lists), &packs.present).await?;
    delete(repository, log, &lists, doomed, packs, monitor, report).await?;
    checkpoint::follow(repository, log, session, options.checkpoint_after_entries, monitor).await;
    Ok(())
}

/// G7: deletes those of the doomed packs of which nothing must stay.
async fn delete(
    repository: &Repository,
    log: &Log,
    lists: &GcLists,
    mut doomed: BTreeSet<PackName>,
    packs: &Packs,
    monitor: &Monitor,
    report: &mut GcReport,
) -> Result<()> {
    // First, so that whoever says of what is not there that it was moved is named.
    report.left = moved::keep_unproven(repository, log, lists, &mut doomed, monitor).await?;
    report.left.extend(abandon::keep_copies(repository, log, packs, &mut doomed, monitor).await?);
    // Those that an earlier gc burnt, and that were still there when something was lost.
    doomed.retain(|pack| !report.plan.healers.contains(pack));
    let swept = sweep::sweep(repository, &packs.present, &doomed, monitor).await?;
    (report.deleted_packs, report.freed_bytes) = (swept.packs, swept.bytes);
    report.left.extend(swept.left);
    if report.left.is_empty() {
        lists::sweep(repository, log, packs, &doomed, monitor).await;
    }
    Ok(())
}

/// The final lists, and the proof by the records as they are now that they may become final.
async fn last_look(
    repository: &Repository,
    log: &mut Log,
    session: SessionId,
    (proposal, copied, known, healers): (&GcLists, &Copied, &BTreeSet<SessionId>, &BTreeSet<PackName>),
    present: &Present,
    options: &GcOptions,
) -> Result<GcLists> {
    let lists = commit::final_lists(log, session.number, &proposal.dead, copied, known)?;
    log.refresh(repository).await?;
    // What this key signs above its revocation is void, and nobody waits for it.
    refuse_revoked(log, repository.signer(KEEPERS)?, Log::END)?;
    if log.snapshots().iter().any(|snapshot| lists.forgotten.binary_search(&snapshot.session()).is_ok()) {
        // Whoever did that is about to end this gc anyway.
        let reason = "a snapshot was held or taken back while it ran".to_owned();
        return Err(Error::GcEnded { gc: session.number, by: "itself".into(), reason });
    }
    gate::check_drop(log, options.max_drop_percent)?;
    gate::keeps_healers(&lists.dead, healers)?;
    gate::before_commit(repository, log, (session.number, &lists), present)?;
    Ok(lists)
}

/// G3, G4, and the reading of G5: every session below is decided and read, and what the repository says still adds up.
async fn copy_and_close(
    repository: &Repository,
    log: &mut Log,
    session: SessionId,
    packs: &Packs,
    waiting: &mut Waiting,
    monitor: &Monitor,
    report: &mut GcReport,
) -> Result<Copied> {
    log.refresh(repository).await?;
    log.complete(repository, session.number).await?;
    let copied = copy(repository, session, &packs.catalogue, &report.plan.moves, monitor).await?;
    report.waits_for = waiting.run(repository, log, session.number, monitor, &mut report.ended).await?;
    if report.waits_for.is_empty() {
        log.refuse_unread(&repository.keys.zone)?;
        account::account(repository, log, session.number)?;
    }
    Ok(copied)
}

/// An open proposal keeps writers from reusing its packs, so it is not left behind.
async fn give_up(repository: &Repository, session: SessionId, reason: &str, monitor: &Monitor) {
    if let Err(error) = abort_other(repository, session, reason).await {
        monitor.warn(
            Topic::Aside,
            format!("gc {} could not be closed, which does no harm: {error}", session.number),
        );
    }
}
