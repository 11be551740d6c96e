//! Holds, and taking a forget back. Each is one signed entry, and counts only where no gc was first (C8).

use std::collections::BTreeSet;

use sancerre_advice::Setting::Vm;
use sancerre_advice::Verb::{Approve, Clean, Clear, Snapshots as ListSnapshots};
use sancerre_format::id::SessionId;
use sancerre_format::log::{Held, KEEPERS, Kind, Snapshots};
use sancerre_format::names::Title;

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::log::{Log, LogEntry, Outcome};
use crate::repository::session::{abort_other, append, one_line};

/// Protects snapshots from every forget, until they are released. Returns the entry's number.
///
/// Errors: [`Error::Forgotten`] when a gc gave one up already; [`Error::Refused`] when nobody knows yet whether one did;
/// [`Error::WrongKey`]; the store's.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_admin().await?, &scene.monitor);
/// # let snapshot = save(&repository).await?;
/// use std::collections::BTreeSet;
/// use sancerre_engine::{Error, ForgetOptions, Log, Selection, forget, hold};
///
/// let snapshots = BTreeSet::from([snapshot]);
/// hold(&repository, &snapshots, "the case is open").await?;
/// let options = ForgetOptions::new(Selection::Named { snapshots, even_last: true }, "not needed any more");
/// let refused = forget(&repository, &mut Log::load(&repository).await?, &options).await;
/// assert!(matches!(refused, Err(Error::Refused(_))));
/// # Ok(()) }
/// ```
pub async fn hold(repository: &Repository, snapshots: &BTreeSet<SessionId>, reason: &str) -> Result<u64> {
    let mut log = known(repository, snapshots).await?;
    rescue(repository, &mut log, snapshots, Kind::Hold(held(snapshots, reason))).await
}

/// Takes a forget back. Returns the entry's number.
///
/// Errors: as [`hold`]; [`Error::Usage`] for a snapshot that is not forgotten.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_admin().await?, &scene.monitor);
/// # let snapshot = save(&repository).await?;
/// use std::collections::BTreeSet;
/// use sancerre_engine::{ForgetOptions, Log, Selection, forget, undelete};
///
/// let snapshots = BTreeSet::from([snapshot]);
/// let named = Selection::Named { snapshots: snapshots.clone(), even_last: true };
/// let options = ForgetOptions { max_drop_percent: 100, ..ForgetOptions::new(named, "by mistake") };
/// forget(&repository, &mut Log::load(&repository).await?, &options).await?;
/// undelete(&repository, &snapshots, "it is needed").await?;
/// assert_eq!(Log::load(&repository).await?.snapshots().len(), 1);
/// # Ok(()) }
/// ```
pub async fn undelete(repository: &Repository, snapshots: &BTreeSet<SessionId>, reason: &str) -> Result<u64> {
    let mut log = known(repository, snapshots).await?;
    let retention = log.retention();
    let is_neither =
        |snapshot: &&SessionId| retention.forgotten_by(snapshot).is_none() && !retention.is_asked(snapshot);
    if let Some(other) = snapshots.iter().find(is_neither) {
        return Err(Error::Usage(format!("snapshot {} is not forgotten; nothing was done", other.short())));
    }
    rescue(repository, &mut log, snapshots, Kind::Undelete(named(snapshots, reason))).await
}

/// What came of a wish to end holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Released {
    /// Number of its log entry.
    pub entry: u64,
    /// How many other keepers must approve it before it counts.
    pub approvals_needed: u32,
}

/// Ends holds, where approvals are needed once there are as many: what was held may go then.
///
/// Errors: [`Error::Usage`] for a snapshot that is not held, or whose machine is; [`Error::Refused`] when this key asked for
/// it already; [`Error::WrongKey`]; the store's.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_admin().await?, &scene.monitor);
/// # let snapshot = save(&repository).await?;
/// use std::collections::BTreeSet;
/// use sancerre_engine::{hold, release};
///
/// let snapshots = BTreeSet::from([snapshot]);
/// hold(&repository, &snapshots, "the case is open").await?;
/// let released = release(&repository, &snapshots, "the case is closed").await?;
/// assert_eq!(released.approvals_needed, 0);
/// # Ok(()) }
/// ```
pub async fn release(
    repository: &Repository,
    snapshots: &BTreeSet<SessionId>,
    reason: &str,
) -> Result<Released> {
    let log = known(repository, snapshots).await?;
    let retention = log.retention();
    if let Some(other) = snapshots.iter().find(|snapshot| retention.held_by(snapshot).is_none()) {
        return Err(Error::Usage(format!("snapshot {} is not held; nothing was done", other.short())));
    }
    let is_suspicion = |snapshot: &&SessionId| {
        !retention.is_held_itself(snapshot)
            && retention.kept_by_suspicion(snapshot) == retention.held_by(snapshot)
    };
    if let Some(other) = snapshots.iter().find(is_suspicion) {
        return Err(Error::Usage(format!(
            "snapshot {} stays because a snapshot is suspect; nothing was done. See {Clean}, and end that with \
             {Clear}",
            other.intent
        )));
    }
    if let Some(other) = snapshots.iter().find(|snapshot| !retention.is_held_itself(snapshot)) {
        return Err(Error::Usage(format!(
            "snapshot {} is held because its machine is; nothing was done. Release the machine with {Vm}",
            other.intent
        )));
    }
    refuse_asked(repository, &log, snapshots, &BTreeSet::new())?;
    end_holds(repository, &log, held(snapshots, reason)).await
}

/// Protects all snapshots of machines from every forget, those to come too. Returns the entry's number.
///
/// Errors: [`Error::Usage`] for a public name that no backup has; as [`hold`].
pub async fn hold_vms(repository: &Repository, vms: &BTreeSet<Title>, reason: &str) -> Result<u64> {
    let mut log = Log::load(repository).await?;
    log.refuse_unread(&repository.keys.zone)?;
    let announced = |vm: &Title| {
        log.entries()
            .filter_map(|entry| entry.entry.as_deref().ok())
            .any(|entry| matches!(&entry.fields.kind, Kind::Backup(intent) if intent.vm == *vm))
    };
    if let Some(stranger) = vms.iter().find(|vm| !announced(vm)) {
        return Err(Error::Usage(format!(
            "there is no backup of {stranger}; nothing was done. See {ListSnapshots} for the names"
        )));
    }
    let retention = log.retention();
    let of_vms = log.committed().filter(|snapshot| vms.contains(&snapshot.manifest.fields.vm));
    let there = |session: &SessionId| retention.collected_by(session).is_none();
    let snapshots = of_vms.map(|snapshot| snapshot.session()).filter(there).collect();
    rescue(repository, &mut log, &snapshots, Kind::Hold(held_vms(vms, reason))).await
}

/// Ends the holds of machines as [`release`] does; snapshots that are held themselves stay so.
///
/// Errors: [`Error::Usage`] for a machine that is not held; as [`release`].
pub async fn release_vms(repository: &Repository, vms: &BTreeSet<Title>, reason: &str) -> Result<Released> {
    let log = Log::load(repository).await?;
    log.refuse_unread(&repository.keys.zone)?;
    let retention = log.retention();
    if let Some(other) = vms.iter().find(|vm| retention.vm_held_by(vm).is_none()) {
        return Err(Error::Usage(format!("the machine {other} is not held; nothing was done")));
    }
    refuse_asked(repository, &log, &BTreeSet::new(), vms)?;
    end_holds(repository, &log, held_vms(vms, reason)).await
}

fn refuse_asked(
    repository: &Repository,
    log: &Log,
    snapshots: &BTreeSet<SessionId>,
    vms: &BTreeSet<Title>,
) -> Result<()> {
    let by = &repository.signer(KEEPERS)?.by.name;
    match log.retention().release_asked_by(by, snapshots, vms) {
        None => Ok(()),
        Some(entry) => Err(Error::Refused(format!(
            "the release of one of them waits for approval already, as log entry {entry}; see {Approve}. Nothing was \
             done"
        ))),
    }
}

async fn end_holds(repository: &Repository, log: &Log, held: Held) -> Result<Released> {
    let approvals_needed = log.retention().approvals_needed();
    let entry = append(repository, log, Kind::Release(held), &[]).await?.number;
    Ok(Released { entry, approvals_needed })
}

async fn known(repository: &Repository, snapshots: &BTreeSet<SessionId>) -> Result<Log> {
    let log = Log::load(repository).await?;
    log.refuse_unread(&repository.keys.zone)?;
    for session in snapshots {
        let entry = log.entry(session.number).filter(|entry| entry.session == *session);
        if !entry.is_some_and(|entry| entry.snapshot().is_some() || entry.damaged().is_some()) {
            return Err(Error::Usage(format!(
                "there is no snapshot {}; see {ListSnapshots}",
                session.intent
            )));
        }
        if log.retention().collected_by(session).is_some() {
            log.refuse_forgotten(session)?;
        }
    }
    Ok(log)
}

fn held(snapshots: &BTreeSet<SessionId>, reason: &str) -> Held {
    let Snapshots { snapshots, reason } = named(snapshots, reason);
    Held { snapshots, vms: Vec::new(), reason }
}

fn held_vms(vms: &BTreeSet<Title>, reason: &str) -> Held {
    Held { snapshots: Vec::new(), vms: vms.iter().cloned().collect(), reason: one_line(reason) }
}

fn named(snapshots: &BTreeSet<SessionId>, reason: &str) -> Snapshots {
    Snapshots { snapshots: snapshots.iter().copied().collect(), reason: one_line(reason) }
}

/// A collector with a lower number may not have read the record: it is ended, or what it did is known.
async fn rescue(
    repository: &Repository,
    log: &mut Log,
    snapshots: &BTreeSet<SessionId>,
    kind: Kind,
) -> Result<u64> {
    let number = append(repository, log, kind, &[]).await?.number;
    log.refresh(repository).await?;
    log.complete(repository, number).await?;
    // It may be a collector of a later version, which has not read this record.
    log.refuse_opaque(&repository.keys.zone, number)?;
    let open: Vec<SessionId> =
        log.undecided(number).filter(|entry| entry.is_gc()).map(|entry| entry.session).collect();
    for gc in open {
        abort_other(repository, gc, "a snapshot was held or taken back while it ran; run gc again").await?;
    }
    log.settle(repository, number).await?;
    let retention = log.retention();
    if let Some(late) = snapshots.iter().find(|snapshot| retention.collected_by(snapshot).is_some()) {
        log.refuse_forgotten(late)?;
    }
    log.judge();
    match in_doubt(log, snapshots, number) {
        None => Ok(number),
        Some((gc, snapshot)) => Err(Error::Refused(format!(
            "log entry {number} is written, but may be too late: snapshot {} was forgotten below gc {gc}, whose commit \
             cannot be read, is wrong, or has no effect so far. If that changes, or the administrator gives that gc up, \
             the snapshot is gone. Have its signer's key revoked and run gc; then hold the snapshot",
            snapshot.intent
        ))),
    }
}

/// A gc below `number` of which nobody knows yet what it comes to, and one of the snapshots that it may have given up: what
/// was forgotten at its number. One that is wrong stays so once a sound commit stands above it.
fn in_doubt(log: &Log, snapshots: &BTreeSet<SessionId>, number: u64) -> Option<(u64, SessionId)> {
    let (waiting, abandoned) = (log.waiting(), log.abandoned());
    let newest_sound = log.sound_commits().map(|(gc, _)| gc).last().unwrap_or_default();
    let is_doubtful = |entry: &&LogEntry| {
        let gc = entry.session.number;
        let is_wrong = log.flaws().contains_key(&gc) && newest_sound < gc;
        matches!(entry.outcome, Outcome::Invalid(_)) || waiting.contains_key(&gc) || is_wrong
    };
    let below = log.entries().filter(|entry| entry.is_gc() && entry.session.number < number);
    let doubtful = below.filter(|entry| !abandoned.contains_key(&entry.session)).filter(is_doubtful);
    doubtful.map(|entry| entry.session.number).find_map(|gc| {
        let then = log.retention_below(gc);
        let gone = snapshots.iter().find(|snapshot| !then.is_live(snapshot))?;
        Some((gc, *gone))
    })
}
