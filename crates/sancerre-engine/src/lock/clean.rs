//! While a machine is suspect, the newest of its snapshots from before that stays locked: nobody may notice for longer than a
//! lock lasts.
//!
//! Bounded, whoever makes what suspect: one snapshot of a machine, and no longer than the store itself locks what is new. So
//! no clock of this machine decides it, and nobody is locked in for longer than one such time after the last suspect night.

use std::collections::BTreeSet;

use sancerre_advice::Verb::ExtendLocks;
use sancerre_format::bytes::to_u64;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::names::{self, MachineId, Time, Title};

use super::{Extended, Needs, Part, packs, parts};
use crate::error::Result;
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::catalogue::Catalogue;
use crate::repository::log::Log;
use crate::store::Locking;
use crate::store::lock::Lock;
use crate::suspicion::{MachineNight, last_clean, machines};

/// A store's clock may be so far ahead of ours.
const AHEAD_SECONDS: i64 = 86_400;

/// Whose last clean snapshot is meant.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    /// Of a machine that is suspect now, whatever the log says yet: by its public name, and by the id that its hypervisor gave it.
    Of(&'a Title, Option<MachineId>),
    /// Of every machine that is suspect.
    AllSuspect,
}

/// What was done about locks because machines are suspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanLocks {
    /// The newest clean snapshot of each of these machines.
    pub snapshots: Vec<SessionId>,
    /// Objects that these need.
    pub objects: u64,
    /// Until when those of them are locked now of which the lock had less than three quarters left.
    pub until: Time,
    /// What that came to.
    pub extended: Extended,
}

/// Extends the locks of the newest clean snapshots of suspect machines, to what the store gave log entry `entry`. What that
/// costs is said before. None where the bucket locks nothing by itself, where there is no such snapshot, and where it failed,
/// which is warned of and keeps nothing else from being done.
pub async fn keep(
    repository: &Repository,
    log: &Log,
    whose: Whose<'_>,
    entry: u64,
    monitor: &Monitor,
) -> Option<CleanLocks> {
    match extend(repository, log, whose, entry, monitor).await {
        Ok(done) => done,
        Err(error) => {
            monitor.warn(Topic::Policy, format!(
                "the locks of the last clean snapshots of suspect machines were not extended: {error}; have a keeper run \
                 {ExtendLocks}, docs/SUSPICION.md"
            ));
            None
        }
    }
}

async fn extend(
    repository: &Repository,
    log: &Log,
    whose: Whose<'_>,
    entry: u64,
    monitor: &Monitor,
) -> Result<Option<CleanLocks>> {
    if matches!(whose, Whose::AllSuspect) && log.retention().suspects().is_empty() {
        return Ok(None);
    }
    let clean = clean(repository, log, whose);
    if clean.is_empty() {
        return Ok(None);
    }
    let Some(term) = term(repository, entry).await? else { return Ok(None) };
    let needs = needs(repository, log, &clean).await?;
    let objects = to_u64(needs.objects());
    monitor.warn(Topic::Policy, format!(
        "because of suspect nights the locks of what the last clean snapshot of {} needs are extended until {} where they have \
         less than three quarters left: {objects} requests to ask for them, and at most as many to extend them",
        named(&clean),
        term.until
    ));
    needs.try_one(&term).await?;
    let locks = needs.ask(monitor).await?;
    let extended = locks.extend_short_of(term.enough, term.until, monitor).await?;
    if let Some(reason) = extended.refused.first() {
        let number = extended.refused.len();
        monitor.warn(Topic::Policy, format!("{number} of these locks were not extended: {reason}"));
    }
    let snapshots = clean.iter().map(|night| night.session).collect();
    Ok(Some(CleanLocks { snapshots, objects, until: term.until, extended }))
}

/// The newest clean snapshot of each machine that is meant.
fn clean(repository: &Repository, log: &Log, whose: Whose<'_>) -> Vec<MachineNight> {
    let is_meant = |nights: &Vec<MachineNight>| match whose {
        Whose::AllSuspect => nights.iter().any(MachineNight::is_suspect),
        Whose::Of(vm, machine) => nights.iter().any(|night| match (machine, night.machine) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => night.public_name == *vm,
        }),
    };
    let all = machines(repository, log);
    all.iter().filter(|nights| is_meant(nights)).filter_map(|nights| last_clean(nights).cloned()).collect()
}

/// How long these locks are to be.
struct Term {
    until: Time,
    /// A lock until then is left as it is, so that not every night extends it by a day.
    enough: Time,
}

/// As the store locks what is new; none where it locks nothing by itself.
async fn term(repository: &Repository, entry: u64) -> Result<Option<Term>> {
    let Some(usual) = repository.store.default_lock().await? else { return Ok(None) };
    let newest = names::log(&repository.keys.zone, entry);
    let Some(until) = repository.store.lock_of(&newest).await?.map(|lock| lock.until) else {
        return Ok(None);
    };
    // Should somebody have locked that entry for longer, this does not follow.
    let now = repository.host.clock.now().unix_seconds();
    let most = now.saturating_add(usual.seconds).saturating_add(AHEAD_SECONDS);
    let until = until.min(Time::from_unix_seconds(most));
    let enough = Time::from_unix_seconds(until.unix_seconds().saturating_sub(usual.seconds / 4));
    Ok(Some(Term { until, enough }))
}

async fn needs(repository: &Repository, log: &Log, clean: &[MachineNight]) -> Result<Needs> {
    let sessions: BTreeSet<SessionId> = clean.iter().map(|night| night.session).collect();
    let snapshots = log.snapshots();
    let wanted = || snapshots.iter().filter(|one| sessions.contains(&one.session())).copied();
    let needed: BTreeSet<PackName> = packs(log, wanted())?;
    let mut of_all: BTreeSet<Part> = BTreeSet::new();
    for snapshot in wanted() {
        of_all.extend(parts(log, snapshot)?);
    }
    let (catalogue, _) = Catalogue::load_all(repository, log).await?;
    let needs = Needs::of(repository, log, &needed, &catalogue).await?;
    Ok(needs.only(&of_all))
}

impl Needs {
    /// Tries it with the first object, so that credentials that may not extend locks are told from those that may by two requests.
    async fn try_one(&self, term: &Term) -> Result<()> {
        let Some(object) = self.objects.first() else { return Ok(()) };
        let store = &self.repository.store;
        match store.lock_of(&object.key).await? {
            Some(lock) if lock.until < term.enough => {
                store.lock(&object.key, Lock { until: term.until, ..lock }).await?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Machines that are named.
const NAMED_MAX: usize = 3;

fn named(clean: &[MachineNight]) -> String {
    let mut named: Vec<String> = clean.iter().take(NAMED_MAX).map(|night| night.vm.to_string()).collect();
    let more = clean.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        named.push(format!("{more} more machines"));
    }
    named.join(", ")
}
