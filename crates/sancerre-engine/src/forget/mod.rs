//! Forgetting: which snapshots may go, why, and one signed entry that says so. Nothing is removed here; `gc` does that.
//!
//! ```text
//! log, listing of manifests ──> evidence of each snapshot's time ──> plan (pure) ──> limits ──> log entry
//! ```
//!
//! Whoever signs snapshots must not be able to push out earlier ones. So a snapshot counts for a rule only when three
//! witnesses agree on its time (see [`evidence`]), the first one of a period stands for it, and "the last N" counts
//! collections, not snapshots: thousands made between two of them are one turn.

mod approve;
pub mod evidence;
pub mod plan;
mod records;

use std::collections::{BTreeMap, BTreeSet};

use sancerre_advice::Setting::{EvenLast, MaxDrop, PlanOfAll, Vm};
use sancerre_advice::Verb::{Approve, Clean, Clear, Release, Snapshots as ListSnapshots};
use sancerre_format::id::SessionId;
use sancerre_format::log::{Kind, Snapshots};
use sancerre_format::names::{Tag, Title};

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::log::{Log, open_body};
use crate::repository::session::{append, one_line};
use crate::select::sealed_names;
use evidence::{Candidate, MachineEvidence};
use plan::{Decision, ForgetReason, Rules, Verdict};

pub use approve::{Approved, approve, set_quorum};
pub use records::{Released, hold, hold_vms, release, release_vms, undelete};

/// What is asked for.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Rules, for the snapshots of these VMs that have all these tags; without VMs, of all.
    Rules {
        /// What to keep.
        rules: Rules,
        /// Only these machines, by their public or their sealed names.
        vms: Vec<Title>,
        /// Only snapshots with all of these.
        tags: Vec<Tag>,
    },
    /// These snapshots go.
    Named {
        /// Which.
        snapshots: BTreeSet<SessionId>,
        /// Even when no other snapshot of their machine is left.
        even_last: bool,
    },
}

/// Most of a machine's snapshots that may go at once, in per cent, when nothing else is said: a mistake is then half a loss at most.
pub const MAX_DROP_PERCENT: u8 = 50;

/// How to forget.
#[derive(Debug, Clone)]
pub struct ForgetOptions {
    /// Which.
    pub selection: Selection,
    /// Why, for the log.
    pub reason: String,
    /// Most of a machine's snapshots that may go at once, in per cent.
    pub max_drop_percent: u8,
    /// Only say what would happen.
    pub dry_run: bool,
}

impl ForgetOptions {
    /// So, but not more than [`MAX_DROP_PERCENT`] of a machine's snapshots at once.
    pub fn new(selection: Selection, reason: &str) -> Self {
        Self { selection, reason: reason.to_owned(), max_drop_percent: MAX_DROP_PERCENT, dry_run: false }
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForgetReport {
    /// Every snapshot that was considered, in log order.
    pub decisions: Vec<Decision>,
    /// The log entry; none in a dry run or when nothing goes.
    pub entry: Option<u64>,
    /// How many other keepers must approve it before it counts.
    pub approvals_needed: u32,
}

/// Decides by a log that was just read, and unless it is a dry run signs the decision.
///
/// Errors: [`Error::Refused`] when more would go than may; [`Error::Usage`] for snapshots that cannot be forgotten;
/// [`Error::WrongKey`] without a keeper's or the admin's key; the store's.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_admin().await?, &scene.monitor);
/// # let snapshot = save(&repository).await?;
/// use std::collections::BTreeSet;
/// use sancerre_engine::{ForgetOptions, Log, Selection, forget};
///
/// let selection = Selection::Named { snapshots: BTreeSet::from([snapshot]), even_last: true };
/// // The only snapshot of its machine is all of them.
/// let options = ForgetOptions { max_drop_percent: 100, ..ForgetOptions::new(selection, "not needed any more") };
/// let report = forget(&repository, &mut Log::load(&repository).await?, &options).await?;
/// assert!(report.entry.is_some());
/// assert!(Log::load(&repository).await?.snapshots().is_empty());
/// # Ok(()) }
/// ```
pub async fn forget(repository: &Repository, log: &mut Log, options: &ForgetOptions) -> Result<ForgetReport> {
    log.refuse_unread(&repository.keys.zone)?;
    let next = log.end();
    log.complete(repository, next).await?;
    let all = evidence::gather(repository, log).await?;
    let approvals_needed = log.retention().approvals_needed();
    let decisions = match &options.selection {
        Selection::Rules { rules, vms, tags } => {
            rules.validate()?;
            let considered = filtered(repository, log, &all, vms, tags)?;
            plan::plan(rules, &considered, &all)
        }
        Selection::Named { snapshots, even_last } => named(log, &all, snapshots, *even_last)?,
    };
    check_limit(&decisions, &all, options.max_drop_percent)?;
    let dropped: Vec<SessionId> = decisions
        .iter()
        .filter(|decision| matches!(decision.verdict, Verdict::Drop(_)))
        .map(|decision| decision.session)
        .collect();
    let entry = match dropped.is_empty() || options.dry_run {
        true => None,
        false => {
            let named = Snapshots { snapshots: dropped, reason: one_line(&options.reason) };
            Some(append(repository, log, Kind::Forget(named), &[]).await?.number)
        }
    };
    Ok(ForgetReport { decisions, entry, approvals_needed })
}

fn filtered(
    repository: &Repository,
    log: &Log,
    all: &[Candidate],
    vms: &[Title],
    tags: &[Tag],
) -> Result<Vec<Candidate>> {
    let is_public = |vm: &Title| all.iter().any(|candidate| candidate.vm == *vm);
    let sealed = if vms.iter().all(is_public) { BTreeMap::new() } else { sealed_names(repository, log) };
    let is_of = |candidate: &Candidate, vm: &Title| {
        candidate.vm == *vm || sealed.get(&candidate.session).is_some_and(|sealed| sealed == vm)
    };
    if let Some(stranger) = vms.iter().find(|vm| !all.iter().any(|candidate| is_of(candidate, vm))) {
        return Err(Error::Usage(format!("there are no snapshots of {stranger}; see {ListSnapshots}")));
    }
    let of_vm = all.iter().filter(|candidate| vms.is_empty() || vms.iter().any(|vm| is_of(candidate, vm)));
    if tags.is_empty() {
        return Ok(of_vm.cloned().collect());
    }
    let mut tagged = BTreeSet::new();
    for snapshot in log.snapshots() {
        let body = open_body(repository, &snapshot)?;
        if tags.iter().all(|tag| body.tags.contains(tag)) {
            tagged.insert(snapshot.session());
        }
    }
    Ok(of_vm.filter(|candidate| tagged.contains(&candidate.session)).cloned().collect())
}

fn named(
    log: &Log,
    all: &[Candidate],
    snapshots: &BTreeSet<SessionId>,
    even_last: bool,
) -> Result<Vec<Decision>> {
    let stays = all.iter().filter(|candidate| !snapshots.contains(&candidate.session));
    let left: BTreeSet<&MachineEvidence> = stays.map(|candidate| &candidate.machine).collect();
    let mut decisions = Vec::with_capacity(snapshots.len());
    for session in snapshots {
        let (candidate, verdict) = candidate(log, all, session)?;
        let id = session.short();
        if let Some(note) = log.retention().kept_by_suspicion(session) {
            return Err(Error::Refused(format!(
                "snapshot {id} stays: by log entry {note} a snapshot is suspect, and what is from before it is not let go \
                 until somebody looked. See {Clean}, then {Clear}"
            )));
        }
        if candidate.is_held {
            return Err(Error::Refused(format!(
                "snapshot {id} is held; {} first, or {Vm} if its machine is held",
                Release(id.clone())
            )));
        }
        if let Some(entry) = candidate.asked {
            return Err(Error::Refused(format!(
                "that snapshot {id} is forgotten waits for approval already, as log entry {entry}; see {Approve}"
            )));
        }
        if let Some(until) = candidate.retained {
            return Err(Error::Refused(format!(
                "snapshot {id} was made to be kept until {until}, and no forget counts before; nothing was done"
            )));
        }
        if !even_last && !left.contains(&candidate.machine) {
            return Err(Error::Refused(format!(
                "no snapshot of {} would be left; if that is what you want, say {EvenLast}",
                candidate.vm
            )));
        }
        decisions.push(Decision::new(&candidate, Verdict::Drop(verdict)));
    }
    Ok(decisions)
}

/// A snapshot that was named, also one that is damaged: nothing else may give that up.
fn candidate(log: &Log, all: &[Candidate], session: &SessionId) -> Result<(Candidate, ForgetReason)> {
    if let Some(candidate) = all.iter().find(|candidate| candidate.session == *session) {
        return Ok((candidate.clone(), ForgetReason::Named));
    }
    if let Some(candidate) = evidence::damaged(log, session) {
        return Ok((candidate, ForgetReason::Damaged));
    }
    log.refuse_forgotten(session)?;
    Err(Error::Usage(format!("there is no snapshot {}; see {ListSnapshots}", session.short())))
}

/// A wrong rule or a lying host must not empty a repository in one run.
fn check_limit(decisions: &[Decision], all: &[Candidate], max_drop_percent: u8) -> Result<()> {
    let mut counts: BTreeMap<&MachineEvidence, (&Title, usize, usize)> = BTreeMap::new();
    for candidate in all {
        let (vm, _, of) = counts.entry(&candidate.machine).or_insert((&candidate.vm, 0, 0));
        // The newest name is the one that people know.
        (*vm, *of) = (&candidate.vm, of.saturating_add(1));
    }
    // What is damaged is none of the snapshots that are counted here.
    let goes = |decision: &&Decision| {
        matches!(decision.verdict, Verdict::Drop(ForgetReason::Named | ForgetReason::NoRule))
    };
    for decision in decisions.iter().filter(goes) {
        let (_, dropped, _) = counts.entry(&decision.machine).or_insert((&decision.vm, 0, 0));
        *dropped = dropped.saturating_add(1);
    }
    let over = |(_, dropped, of): &(&Title, usize, usize)| {
        dropped.saturating_mul(100) > of.saturating_mul(usize::from(max_drop_percent))
    };
    match counts.values().find(|counts| over(counts)) {
        None => Ok(()),
        Some((vm, dropped, of)) => Err(Error::Refused(format!(
            "{dropped} of {of} snapshots of {vm} would be forgotten, more than {max_drop_percent}%; nothing was done. \
             Look at the plan with {PlanOfAll}, then allow it with {MaxDrop}"
        ))),
    }
}
