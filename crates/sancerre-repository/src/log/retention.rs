//! What the records say of snapshots: which are forgotten, held, or removed for good.

use std::collections::{BTreeMap, BTreeSet};

use sancerre_format::certificate::Signer;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, Held, Kind, Note};
use sancerre_format::names::{Name, Time, Title};
use sancerre_format::record::Record;

use super::approval::{ApprovalRequest, Pending};
use super::suspects::{Said, Suspects};
use super::{LogEntry, Outcome};

/// Snapshots by what was decided about them, each with the number of the entry that decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    forgotten: BTreeMap<SessionId, u64>,
    held: BTreeMap<SessionId, u64>,
    /// Machines of which everything is held.
    held_vms: BTreeMap<Title, u64>,
    /// The machine of each backup.
    vms: BTreeMap<SessionId, Title>,
    /// Snapshots that no forget of an earlier time gives up.
    retained: BTreeMap<SessionId, Time>,
    collected: BTreeMap<SessionId, u64>,
    wrongly: BTreeMap<u64, SessionId>,
    /// How many other keepers must approve what needs approval.
    approvals_needed: u32,
    /// What waits for that.
    pending: BTreeMap<SessionId, Pending>,
    suspects: Suspects,
    /// From which number on the log was read. What is known from below it without an outcome came to nothing, or is gone.
    start: u64,
}

impl Retention {
    pub(super) fn new(approvals_needed: u32, start: u64) -> Self {
        Self { approvals_needed, start, ..Self::default() }
    }

    /// How many other keepers must approve a forget from here on.
    pub fn approvals_needed(&self) -> u32 {
        self.approvals_needed
    }

    /// What waits for approval, ascending.
    pub fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.pending.values()
    }

    /// The entry of this signer that would forget a snapshot and waits for approval.
    pub fn asked_by(&self, signer: &Name, snapshot: &SessionId) -> Option<u64> {
        let asks = |pending: &&Pending| match &pending.request {
            ApprovalRequest::Forget(snapshots) => pending.by == *signer && snapshots.contains(snapshot),
            _ => false,
        };
        self.pending().find(asks).map(|pending| pending.session.number)
    }

    /// What holds for snapshots to come: the machines that are held, and how many must approve a forget.
    pub(super) fn to_come(&self) -> (&BTreeMap<Title, u64>, u32, Vec<SessionId>) {
        (&self.held_vms, self.approvals_needed, self.suspect_machines())
    }

    /// The note that a snapshot is suspect because of which this one stays: deletion stands still.
    pub fn kept_by_suspicion(&self, snapshot: &SessionId) -> Option<u64> {
        self.suspects.keeps(snapshot, |session| self.collected.contains_key(session))
    }

    /// The note that a snapshot is suspect, if it was not cleared.
    pub fn suspected_by(&self, snapshot: &SessionId) -> Option<u64> {
        self.suspects.noted(snapshot)
    }

    /// The note that cleared a snapshot which was suspect.
    pub fn cleared_by(&self, snapshot: &SessionId) -> Option<u64> {
        self.suspects.cleared(snapshot)
    }

    /// All suspect snapshots that were not cleared, with the public names of their machines.
    pub fn suspects(&self) -> Vec<(SessionId, Title)> {
        let is_gone = |session: &SessionId| self.collected.contains_key(session);
        self.suspects.all(&is_gone).map(|(session, vm)| (session, vm.clone())).collect()
    }

    /// The first suspect snapshot of each machine that has one.
    pub fn suspect_machines(&self) -> Vec<SessionId> {
        self.suspects.machines(&|session: &SessionId| self.collected.contains_key(session))
    }

    /// Whether an entry that waits for approval would forget it.
    pub fn is_asked(&self, snapshot: &SessionId) -> bool {
        self.pending().any(
            |pending| matches!(&pending.request, ApprovalRequest::Forget(asked) if asked.contains(snapshot)),
        )
    }

    /// The entry of this signer that would release one of these snapshots or machines and waits for approval.
    pub fn release_asked_by(
        &self,
        signer: &Name,
        snapshots: &BTreeSet<SessionId>,
        vms: &BTreeSet<Title>,
    ) -> Option<u64> {
        let asks = |pending: &&Pending| match &pending.request {
            ApprovalRequest::Release(of, of_vms) => {
                let is_named = of.iter().any(|snapshot| snapshots.contains(snapshot));
                pending.by == *signer && (is_named || of_vms.iter().any(|vm| vms.contains(vm)))
            }
            _ => false,
        };
        self.pending().find(asks).map(|pending| pending.session.number)
    }

    /// The entry of this signer that would clear one of these snapshots and waits for approval.
    pub fn clear_asked_by(&self, signer: &Name, snapshots: &[SessionId]) -> Option<u64> {
        let asks = |pending: &&Pending| match &pending.request {
            ApprovalRequest::Clear(of) => {
                pending.by == *signer && of.iter().any(|one| snapshots.contains(one))
            }
            _ => false,
        };
        self.pending().find(asks).map(|pending| pending.session.number)
    }

    /// Whether an entry that waits for approval would clear it.
    pub fn is_clear_asked(&self, snapshot: &SessionId) -> bool {
        self.pending().any(
            |pending| matches!(&pending.request, ApprovalRequest::Clear(asked) if asked.contains(snapshot)),
        )
    }

    /// Does at once what needs no approval.
    fn ask(&mut self, session: SessionId, entry: &Record<Entry>, request: ApprovalRequest) {
        let needed = match request {
            // More are never less safe, and end what asked for fewer before.
            ApprovalRequest::Quorum(more) if more >= self.approvals_needed => 0,
            _ => self.approvals_needed,
        };
        match needed {
            0 => self.grant(session.number, request),
            _ => drop(self.pending.insert(session, Pending::new(session, entry, request, needed))),
        }
    }

    fn grant(&mut self, number: u64, request: ApprovalRequest) {
        match request {
            ApprovalRequest::Forget(snapshots) => {
                self.forgotten.extend(snapshots.into_iter().map(|snapshot| (snapshot, number)));
            }
            ApprovalRequest::Release(snapshots, vms) => {
                self.held.retain(|snapshot, _| snapshots.binary_search(snapshot).is_err());
                self.held_vms.retain(|vm, _| vms.binary_search(vm).is_err());
            }
            ApprovalRequest::Clear(snapshots) => self.suspects.clear(number, &snapshots),
            ApprovalRequest::Quorum(needed) => {
                self.approvals_needed = needed;
                self.pending.retain(|_, pending| !matches!(pending.request, ApprovalRequest::Quorum(_)));
            }
        }
    }

    fn approve(&mut self, entries: &[SessionId], signer: &Signer) {
        for session in entries {
            let counts = self.pending.get_mut(session).is_some_and(|pending| pending.approve(signer));
            if let Some(pending) = counts.then(|| self.pending.remove(session)).flatten() {
                self.grant(session.number, pending.request);
            }
        }
    }

    fn take_back(&mut self, snapshots: &[SessionId]) {
        let stays = |snapshot: &SessionId| snapshots.binary_search(snapshot).is_err();
        self.forgotten.retain(|snapshot, _| stays(snapshot));
        self.pending.retain(|_, pending| match &mut pending.request {
            ApprovalRequest::Forget(asked) => {
                asked.retain(stays);
                !asked.is_empty()
            }
            _ => true,
        });
    }

    /// A hold is for good, whatever release waits: what it names is asked for anew, by who knows of the hold.
    fn hold(&mut self, number: u64, held: &Held) {
        self.held.extend(held.snapshots.iter().map(|snapshot| (*snapshot, number)));
        self.held_vms.extend(held.vms.iter().map(|vm| (vm.clone(), number)));
        self.pending.retain(|_, pending| match &mut pending.request {
            ApprovalRequest::Release(snapshots, vms) => {
                snapshots.retain(|snapshot| held.snapshots.binary_search(snapshot).is_err());
                vms.retain(|vm| held.vms.binary_search(vm).is_err());
                !(snapshots.is_empty() && vms.is_empty())
            }
            _ => true,
        });
    }

    /// Whether a committed snapshot counts: neither forgotten, or held all the same, nor given up by a gc.
    pub fn is_live(&self, snapshot: &SessionId) -> bool {
        !self.collected.contains_key(snapshot)
            && (!self.forgotten.contains_key(snapshot) || self.held_by(snapshot).is_some())
    }

    /// The entry that forgot it, if that was not taken back.
    pub fn forgotten_by(&self, snapshot: &SessionId) -> Option<u64> {
        self.forgotten.get(snapshot).copied()
    }

    /// The entry that holds it or its machine, if that was not released; a suspicion holds too, until it is cleared.
    pub fn held_by(&self, snapshot: &SessionId) -> Option<u64> {
        let of_vm = || self.held_vms.get(self.vms.get(snapshot)?);
        let held = self.held.get(snapshot).or_else(of_vm).copied();
        held.or_else(|| self.kept_by_suspicion(snapshot))
    }

    /// The entry that holds a machine, if that was not released.
    pub fn vm_held_by(&self, vm: &Title) -> Option<u64> {
        self.held_vms.get(vm).copied()
    }

    /// Whether the snapshot itself is held, not its machine alone.
    pub fn is_held_itself(&self, snapshot: &SessionId) -> bool {
        self.held.contains_key(snapshot)
    }

    /// The gc that gave it up: nothing brings it back.
    pub fn collected_by(&self, snapshot: &SessionId) -> Option<u64> {
        self.collected.get(snapshot).copied()
    }

    /// Whether a backup's outcome does not verify and a keeper's record gave it up all the same. Should the right bytes
    /// come back, it is a snapshot like others that are forgotten.
    pub fn gave_up(&self, entry: &LogEntry) -> bool {
        entry.damaged().is_some() && !self.is_live(&entry.session)
    }

    /// Commits that give up a snapshot which at their number was live, each with one of them. They are not believed.
    pub fn wrongly(&self) -> &BTreeMap<u64, SessionId> {
        &self.wrongly
    }

    /// A snapshot that was forgotten, is not gone, and that its manifest keeps for longer than `now`: whoever forgot it said
    /// that it was later than it is.
    pub fn forgotten_too_early(&self, now: Time) -> Option<(SessionId, u64)> {
        let forgotten = self
            .forgotten
            .iter()
            .filter(|(snapshot, _)| !self.is_live(snapshot) && !self.collected.contains_key(snapshot));
        let mut early =
            forgotten.filter(|(snapshot, _)| self.retained.get(snapshot).is_some_and(|until| *until > now));
        early.next().map(|(snapshot, number)| (*snapshot, *number))
    }

    /// What a commit gives up counts only if by then a record forgot it, none held it, and its manifest does not keep it for
    /// longer than the commit's own time.
    fn collect(&mut self, number: u64, time: Time, snapshot: &SessionId) {
        let is_retained = self.retained.get(snapshot).is_some_and(|until| *until > time);
        if self.is_live(snapshot) || snapshot.number >= number || is_retained {
            self.wrongly.entry(number).or_insert(*snapshot);
        } else {
            self.collected.entry(*snapshot).or_insert(number);
        }
    }

    /// Takes note that these are gone, by a commit that is judged elsewhere.
    pub(super) fn let_go(&mut self, number: u64, snapshots: &[SessionId]) {
        for snapshot in snapshots {
            self.collected.entry(*snapshot).or_insert(number);
        }
    }

    /// Adds an entry, and what the outcome of a gc means for snapshots.
    pub(super) fn apply(&mut self, entry: &LogEntry, effect: Effect) {
        let number = entry.session.number;
        match (effect, entry.commit()) {
            (Effect::Commit, Some((commit, lists))) => {
                let time = commit.fields.time;
                lists.forgotten.iter().for_each(|snapshot| self.collect(number, time, snapshot));
            }
            // It may have been a commit that its own process read, and that deleted what only these need.
            (Effect::GivenUp, _) => {
                let forgotten: Vec<SessionId> = self.forgotten.keys().copied().collect();
                let gone = forgotten.into_iter().filter(|snapshot| !self.is_live(snapshot));
                gone.collect::<Vec<_>>().into_iter().for_each(|snapshot| {
                    self.collected.entry(snapshot).or_insert(number);
                });
            }
            _ => {}
        }
        self.apply_backup(entry);
        let Ok(record) = &entry.entry else { return };
        match &record.fields.kind {
            Kind::Forget(named) => {
                let may_go = |snapshot: &&SessionId| {
                    self.retained.get(*snapshot).is_none_or(|until| *until <= record.fields.time)
                };
                let snapshots: Vec<SessionId> = named.snapshots.iter().filter(may_go).copied().collect();
                self.ask(entry.session, record, ApprovalRequest::Forget(snapshots));
            }
            Kind::Quorum(quorum) => {
                self.ask(entry.session, record, ApprovalRequest::Quorum(quorum.approvals_needed));
            }
            Kind::Approve(approval) => self.approve(&approval.entries, &record.signer),
            Kind::Undelete(named) => self.take_back(&named.snapshots),
            Kind::Hold(held) => self.hold(number, held),
            Kind::Release(held) => {
                let request = ApprovalRequest::Release(held.snapshots.clone(), held.vms.clone());
                self.ask(entry.session, record, request);
            }
            Kind::Note(note) => self.note(entry.session, record, note),
            _ => {}
        }
    }

    /// A note that clears waits for approval. A note that suspects counts at once, and takes what it names out of those that wait.
    fn note(&mut self, session: SessionId, entry: &Record<Entry>, note: &Note) {
        match self.suspects.note(session.number, entry, note) {
            Said::Nothing => {}
            Said::Suspect(suspect) => self.pending.retain(|_, pending| match &mut pending.request {
                ApprovalRequest::Clear(asked) => {
                    asked.retain(|one| !suspect.contains(one));
                    !asked.is_empty()
                }
                _ => true,
            }),
            Said::Clear => self.ask(session, entry, ApprovalRequest::Clear(note.snapshots.clone())),
        }
    }

    /// The machine of a backup, and for how long it is kept: also of one that a later revocation made void, for at the
    /// numbers below that it counted.
    fn apply_backup(&mut self, entry: &LogEntry) {
        let Some(record) = entry.announced() else { return };
        let Kind::Backup(intent) = &record.fields.kind else { return };
        let came_to_nothing = match entry.outcome {
            Outcome::Abort(_) => true,
            Outcome::Undecided => entry.session.number < self.start,
            _ => false,
        };
        if !came_to_nothing {
            self.suspects.backup(entry.session, record, entry.void_by);
        }
        self.vms.insert(entry.session, intent.vm.clone());
        let retained = entry.snapshot_below(0).and_then(|snapshot| snapshot.manifest.fields.retain_until);
        self.retained.extend(retained.map(|until| (entry.session, until)));
    }
}

/// What the outcome of an entry means for snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing, or nothing yet.
    Nothing,
    /// What a commit gives up is gone.
    Commit,
    /// A gc that the admin gave up: whatever was forgotten and not held is gone.
    GivenUp,
}
