//! What is known of a snapshot's time, and by whom.
//!
//! Three witnesses: the writer, who signed a time; the store, which saw the manifest arrive; and the keepers, whose
//! commits list the snapshots that were there. A writer can lie about the first alone. Copying a
//! repository renews the second. The third cannot be finer than the time between two collections.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, KEEPERS, Kind};
use sancerre_format::names::{Folder, MachineId, Name, Time, Title, ZoneKey};
use sancerre_format::record::Record as Signed;

use crate::error::Result;
use crate::repository::Repository;
use crate::repository::log::{Log, Snapshot};

/// How far two clocks may be apart: more than any that somebody sets, less than what would move a snapshot to
/// another day unnoticed.
const SLACK_SECONDS: i64 = 3600;

/// The first keeper's record that lists a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvidenceRecord {
    /// Its number in the log.
    pub number: u64,
    /// When it was signed.
    pub time: Time,
    /// When the record before it was signed, which did not list the snapshot.
    pub after: Option<Time>,
}

/// What snapshots are counted together by: a machine keeps its history when it gets another name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MachineEvidence {
    /// By what the hypervisor knows it by.
    Id(MachineId),
    /// By its public name: its backups say no id.
    Named(Title),
}

/// A live snapshot and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its session.
    pub session: SessionId,
    /// Its machine's public name.
    pub vm: Title,
    /// Its machine.
    pub machine: MachineEvidence,
    /// Who signed it.
    pub writer: Name,
    /// The time that the writer signed.
    pub signed: Time,
    /// When the store saw its manifest; none when a listing does not show it.
    pub stored: Option<Time>,
    /// The first keeper's record of it.
    pub record: Option<EvidenceRecord>,
    /// Whether it is held.
    pub is_held: bool,
    /// Until when no forget counts, if that time has not come.
    pub retained: Option<Time>,
    /// The entry by which whoever forgets asked for that already, and which waits for approval.
    pub asked: Option<u64>,
}

/// Why a snapshot counts for no rule, and is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// No keeper's record lists it yet.
    Unrecorded,
    /// The listing does not show its manifest.
    Unlisted,
    /// Store and writer disagree.
    Disagree {
        /// The store's word.
        stored: Time,
        /// The writer's.
        signed: Time,
    },
    /// It is dated outside the time between the two records around its arrival.
    Misdated {
        /// Its time.
        stored: Time,
        /// The first record that lists it.
        record: EvidenceRecord,
    },
}

impl Candidate {
    /// The time that all witnesses agree on.
    pub fn time(&self) -> std::result::Result<(Time, EvidenceRecord), Doubt> {
        let record = self.record.ok_or(Doubt::Unrecorded)?;
        let stored = self.stored.ok_or(Doubt::Unlisted)?;
        let seconds = stored.unix_seconds();
        if seconds.abs_diff(self.signed.unix_seconds()) > SLACK_SECONDS.unsigned_abs() {
            return Err(Doubt::Disagree { stored, signed: self.signed });
        }
        let after = record.after.map_or(i64::MIN, |after| after.unix_seconds().saturating_sub(SLACK_SECONDS));
        let until = record.time.unix_seconds().saturating_add(SLACK_SECONDS);
        match (after..=until).contains(&seconds) {
            true => Ok((stored, record)),
            false => Err(Doubt::Misdated { stored, record }),
        }
    }
}

impl Doubt {
    /// Whether it is that clocks differ, or differed when the repository was copied: that does not pass by itself.
    pub(crate) fn is_of_clocks(&self) -> bool {
        matches!(self, Self::Disagree { .. } | Self::Misdated { .. })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unrecorded => f.write_str("new: no gc has recorded it yet"),
            Self::Unlisted => f.write_str("extra: the store does not say when it arrived"),
            Self::Disagree { stored, signed } => {
                write!(
                    f,
                    "extra: signed {signed}, but the store has it since {stored} (clocks that differ, or a copied repository)"
                )
            }
            Self::Misdated { stored, record } => {
                write!(
                    f,
                    "extra: in the store since {stored}, but first recorded at {} (entry {})",
                    record.time, record.number
                )
            }
        }
    }
}

/// All live snapshots, in log order.
pub(crate) async fn gather(repository: &Repository, log: &Log) -> Result<Vec<Candidate>> {
    let stored = arrivals(repository).await?;
    let records = records(log);
    let retention = log.retention();
    let (snapshots, now) = (log.snapshots(), repository.host.clock.now());
    let ids = ids(&snapshots);
    let signer = repository.signer(KEEPERS).ok().map(|signer| signer.by.name.clone());
    let candidate = |snapshot: &Snapshot<'_>| {
        let (session, fields) = (snapshot.session(), &snapshot.manifest.fields);
        Candidate {
            session,
            vm: fields.vm.clone(),
            machine: machine(&fields.vm, fields.machine, &ids),
            writer: fields.by.name.clone(),
            signed: fields.finished,
            stored: stored.get(&session).copied(),
            record: records.get(&session).copied(),
            is_held: retention.held_by(&session).is_some(),
            retained: fields.retain_until.filter(|until| *until > now),
            asked: signer.as_ref().and_then(|signer| retention.asked_by(signer, &session)),
        }
    };
    Ok(snapshots.iter().map(candidate).collect())
}

/// The ids that snapshots of each name say.
pub(crate) fn ids<'a>(snapshots: &[Snapshot<'a>]) -> BTreeMap<&'a Title, BTreeSet<MachineId>> {
    let mut ids: BTreeMap<&Title, BTreeSet<MachineId>> = BTreeMap::new();
    for fields in snapshots.iter().map(|snapshot| &snapshot.manifest.fields) {
        ids.entry(&fields.vm).or_default().extend(fields.machine);
    }
    ids
}

/// A snapshot without an id belongs to those of its name, if they say one and the same.
pub(crate) fn machine(
    vm: &Title,
    id: Option<MachineId>,
    ids: &BTreeMap<&Title, BTreeSet<MachineId>>,
) -> MachineEvidence {
    let only = || ids.get(vm).filter(|ids| ids.len() == 1).and_then(BTreeSet::first).copied();
    id.or_else(only).map_or_else(|| MachineEvidence::Named(vm.clone()), MachineEvidence::Id)
}

/// What the log entry says of a backup whose outcome does not verify, and that was not given up yet.
pub(crate) fn damaged(log: &Log, session: &SessionId) -> Option<Candidate> {
    let (entry, vm) = log.entry(session.number).filter(|entry| entry.session == *session)?.damaged()?;
    let retention = log.retention();
    retention.is_live(session).then(|| Candidate {
        session: *session,
        vm: vm.clone(),
        machine: machine(vm, announced(entry), &ids(&log.snapshots())),
        writer: entry.fields.by.name.clone(),
        signed: entry.fields.time,
        stored: None,
        record: None,
        is_held: retention.held_by(session).is_some(),
        // What its manifest asked for cannot be read.
        retained: None,
        asked: None,
    })
}

fn announced(entry: &Signed<Entry>) -> Option<MachineId> {
    match &entry.fields.kind {
        Kind::Backup(intent) => intent.machine,
        _ => None,
    }
}

async fn arrivals(repository: &Repository) -> Result<BTreeMap<SessionId, Time>> {
    let listed = repository.list(Folder::Outcome).await?;
    let arrival = |listed: crate::store::Listed| match ZoneKey::parse(&repository.keys.zone, &listed.key) {
        Ok(ZoneKey::Outcome(session)) => Some((session, listed.modified)),
        _ => None,
    };
    Ok(listed.into_iter().filter_map(arrival).collect())
}

/// The first commit that saw each snapshot.
fn records(log: &Log) -> BTreeMap<SessionId, EvidenceRecord> {
    let mut records = BTreeMap::new();
    let mut after = None;
    for (gc, commit, lists) in log.commits() {
        let time = commit.fields.time;
        for session in &lists.seen {
            records.entry(*session).or_insert(EvidenceRecord { number: gc.number, time, after });
        }
        after = Some(time);
    }
    records
}
