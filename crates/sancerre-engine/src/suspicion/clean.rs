//! The nights of a machine with their verdicts, and the last clean point. Of records and bodies alone: no content is read.

use std::collections::BTreeMap;

use sancerre_advice::Verb::{Approve, Clean};
use sancerre_format::bytes::to_u64;
use sancerre_format::id::SessionId;
use sancerre_format::log::{KEEPERS, Kind, Note};
use sancerre_format::names::{MachineId, Name, Time, Title};
use sancerre_format::outcome::{Body, MemberKind, PUBLIC_STEP_BYTES};

use super::stored::{SeenNight, seen};
use super::verdict::{Sign, Suspicion};
use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::log::{Log, Snapshot, open_body, suspects};
use crate::repository::session::{append_by, one_line};

/// One snapshot of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineNight {
    /// Its session; the hash is its id.
    pub session: SessionId,
    /// What the machine is called; its public name to whoever has no key for the other.
    pub vm: Title,
    /// What public records call it.
    pub public_name: Title,
    /// The hypervisor's id of it.
    pub machine: Option<MachineId>,
    /// When it ended, by the writer's clock.
    pub finished: Time,
    /// What the statistics of its disks say; none for a key that does not open them.
    pub disks: Option<Vec<(Title, Option<SeenNight>)>>,
    /// The note that says that it is suspect, if it was not cleared.
    pub noted: Option<u64>,
    /// The note that cleared it.
    pub cleared: Option<u64>,
    /// What the public sums alone show.
    pub by_sums: Suspicion,
}

impl MachineNight {
    /// The verdict that counts: of the notes before that of the disks, and of both before that of the sums. None where
    /// nothing is known.
    pub fn verdict(&self) -> Option<Suspicion> {
        if self.noted.is_some() {
            return Some(Suspicion::Suspect);
        }
        let nights = self.disks.iter().flatten().filter_map(|(_, night)| night.as_ref());
        let worst = nights.map(|night| night.judgement.verdict).max();
        match worst {
            Some(Suspicion::Suspect) if self.cleared.is_some() => Some(Suspicion::Unusual),
            Some(worst) => Some(worst.max(self.by_sums)),
            None => (self.by_sums != Suspicion::Normal).then_some(self.by_sums),
        }
    }

    /// Whether it counts as suspect.
    pub fn is_suspect(&self) -> bool {
        self.verdict() == Some(Suspicion::Suspect)
    }

    fn is_of(&self, other: &Self) -> bool {
        match (self.machine, other.machine) {
            (Some(one), Some(other)) => one == other,
            _ => self.public_name == other.public_name,
        }
    }
}

/// The snapshots of all machines with their verdicts, each machine's together, the oldest first.
pub fn machines(repository: &Repository, log: &Log) -> Vec<Vec<MachineNight>> {
    let retention = log.retention();
    let mut machines: Vec<Vec<MachineNight>> = Vec::new();
    for snapshot in log.snapshots() {
        let session = snapshot.session();
        let fields = &snapshot.manifest.fields;
        let body = open_body(repository, &snapshot).ok();
        let sealed = body.as_ref().and_then(|body| body.vm.clone());
        let night = MachineNight {
            session,
            vm: sealed.unwrap_or_else(|| fields.vm.clone()),
            public_name: fields.vm.clone(),
            machine: fields.machine,
            finished: fields.finished,
            disks: body.as_ref().map(|body| disks(body, &snapshot)),
            noted: retention.suspected_by(&session),
            cleared: retention.cleared_by(&session),
            by_sums: Suspicion::Normal,
        };
        match machines.iter_mut().find(|nights| nights.iter().any(|other| other.is_of(&night))) {
            Some(nights) => nights.push(night),
            None => machines.push(vec![night]),
        }
    }
    let sums: BTreeMap<SessionId, Sums> =
        log.snapshots().iter().map(|snapshot| (snapshot.session(), Sums::of(snapshot))).collect();
    for nights in &mut machines {
        let of_machine: Vec<Sums> =
            nights.iter().filter_map(|night| sums.get(&night.session)).copied().collect();
        for (at, night) in nights.iter_mut().enumerate() {
            night.by_sums = by_sums(of_machine.get(..=at).unwrap_or_default());
        }
    }
    machines
}

/// What the disks say, each compared with what the snapshot says of it.
fn disks(body: &Body, snapshot: &Snapshot<'_>) -> Vec<(Title, Option<SeenNight>)> {
    let of_disks = body.members.iter().filter(|member| member.kind == MemberKind::Disk);
    let data = of_disks.clone().fold(0u64, |sum, member| sum.saturating_add(member.data_bytes));
    let is_public = snapshot.manifest.fields.data_bytes.saturating_add(PUBLIC_STEP_BYTES) >= data;
    of_disks
        .map(|member| {
            let mut night = seen(member);
            if let Some(night) = &mut night {
                let counts = &night.counts;
                let fits = counts.new_bytes == member.new_bytes
                    && counts.data.saturating_mul(4096) >= member.data_bytes
                    && is_public;
                if !fits {
                    night.judgement.signs.push(Sign::Contradiction);
                    night.judgement.verdict = night.judgement.verdict.max(Suspicion::Unusual);
                }
            }
            (member.name.clone(), night)
        })
        .collect()
}

/// What is public and signed of a snapshot.
#[derive(Debug, Clone, Copy)]
struct Sums {
    data: u64,
    new: u64,
    stored: u64,
}

impl Sums {
    fn of(snapshot: &Snapshot<'_>) -> Self {
        let fields = &snapshot.manifest.fields;
        Self { data: fields.data_bytes, new: fields.new_bytes, stored: fields.stored_bytes }
    }

    /// New bytes of all, in millionths.
    fn change(&self) -> u64 {
        self.new.saturating_mul(1_000_000).checked_div(self.data).unwrap_or(0)
    }

    /// How little they could be compressed, in parts of a thousand.
    fn density(&self) -> u64 {
        self.stored.saturating_mul(1000).checked_div(self.new).unwrap_or(0)
    }
}

/// Nights that must be known before the sums say anything, and how far from them is unusual.
const NIGHTS: usize = 7;
const DEVIATIONS: u64 = 6;
/// Fewer new bytes say nothing: sums are rounded to MiB.
const NEW_BYTES: u64 = 32 << 20;

/// What a keeper can tell of the last of these nights without any key: far more than usual is new, and it cannot be
/// compressed.
fn by_sums(nights: &[Sums]) -> Suspicion {
    let Some((night, before)) = nights.split_last() else { return Suspicion::Normal };
    // The first backup of a machine is all new.
    let before = before.get(1..).unwrap_or_default();
    if before.len() < NIGHTS || night.new < NEW_BYTES {
        return Suspicion::Normal;
    }
    let away = |of: fn(&Sums) -> u64, floor: u64| {
        let middle = median(before.iter().map(of).collect());
        let spread = median(before.iter().map(|other| of(other).abs_diff(middle)).collect());
        of(night).saturating_sub(middle) / spread.max(floor).max(middle / 10).max(1)
    };
    match away(Sums::change, 2000) > DEVIATIONS && night.density() > 900 {
        true => Suspicion::Unusual,
        false => Suspicion::Normal,
    }
}

fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}

/// The newest snapshot before the first suspect one; the newest of all where none is suspect.
pub fn last_clean(nights: &[MachineNight]) -> Option<&MachineNight> {
    let first = nights.iter().position(MachineNight::is_suspect).unwrap_or(nights.len());
    nights.get(..first)?.last()
}

/// What clearing a machine came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClearedSuspects {
    /// The number of the note.
    pub entry: u64,
    /// The snapshots that are not suspect any more.
    pub snapshots: Vec<SessionId>,
    /// How many snapshots of all machines are suspect still, or would be.
    pub left: u64,
    /// How many other keepers must approve it before it counts.
    pub approvals_needed: u32,
}

/// Says that somebody looked at a machine: its suspect snapshots hold nothing any more, where approvals are needed once there
/// are as many.
///
/// Errors: [`Error::Usage`] when none of it is suspect; [`Error::Refused`] when this key asked for it already; [`Error::WrongKey`] without a keeper's or the admin's key; the store's.
pub async fn clear(repository: &Repository, log: &Log, vm: &Title, reason: &str) -> Result<ClearedSuspects> {
    repository.signer(KEEPERS)?;
    log.refuse_unread(&repository.keys.zone)?;
    let machines = machines(repository, log);
    let is_named =
        |nights: &&Vec<MachineNight>| nights.iter().any(|night| night.vm == *vm || night.public_name == *vm);
    let mut of_vm: Vec<SessionId> = Vec::new();
    for (session, public_name) in log.retention().suspects() {
        let by_snapshot = machines.iter().filter(is_named).flatten().any(|night| night.session == session);
        if by_snapshot || public_name == *vm {
            of_vm.push(session);
        }
    }
    if of_vm.is_empty() {
        return Err(Error::Usage(format!(
            "nothing of {vm} is suspect, or it was cleared already; {Clean} shows all machines"
        )));
    }
    of_vm.sort_unstable();
    let retention = log.retention();
    if let Some(entry) = retention.clear_asked_by(&repository.signer(KEEPERS)?.by.name, &of_vm) {
        return Err(Error::Refused(format!(
            "that {vm} is cleared waits for approval already, as log entry {entry}; see {Approve}. Nothing was done"
        )));
    }
    let note = Note {
        topic: Name::new(suspects::TOPIC)?,
        result: Some(Name::new(suspects::CLEARED)?),
        snapshots: of_vm.clone(),
    };
    let text = format!("sancerre-suspicion-v1\ncritical: -\nreason: {}\n", one_line(reason));
    let public = sancerre_format::record::compress_public(&text)?;
    let entry = append_by(repository, log, KEEPERS, Kind::Note(note), &public).await?.number;
    let left = to_u64(retention.suspects().len()).saturating_sub(to_u64(of_vm.len()));
    let approvals_needed = retention.approvals_needed();
    Ok(ClearedSuspects { entry, snapshots: of_vm, left, approvals_needed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_sums_show_a_flood_of_what_cannot_be_compressed() {
        let night = |new: u64, stored: u64| Sums { data: 100 << 30, new, stored };
        let mut nights = vec![night(100 << 30, 50 << 30)];
        nights.extend(vec![night(1 << 30, 400 << 20); 8]);
        assert_eq!(by_sums(&nights), Suspicion::Normal);
        nights.push(night(30 << 30, 30 << 30));
        assert_eq!(by_sums(&nights), Suspicion::Unusual);
        // Much that is new and can be compressed is an update.
        nights.pop();
        nights.push(night(30 << 30, 9 << 30));
        assert_eq!(by_sums(&nights), Suspicion::Normal);
        assert_eq!(by_sums(&nights[..3]), Suspicion::Normal);
    }
}
