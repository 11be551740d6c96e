//! What the records say of snapshots: which are forgotten, held, or removed for good.

use std::collections::BTreeMap;

use sancerre_format::certificate::Signer;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{Name, Time};
use sancerre_format::record::Record;

use super::approval::{Pending, Request};
use super::{Log, LogEntry, Outcome, Snapshot};
use crate::error::{Error, Forgotten, Result};

/// Snapshots by what was decided about them, each with the number of the entry that decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    forgotten: BTreeMap<SessionId, u64>,
    held: BTreeMap<SessionId, u64>,
    /// Machines of which everything is held.
    held_vms: BTreeMap<Name, u64>,
    /// The machine of each backup.
    vms: BTreeMap<SessionId, Name>,
    /// Snapshots that no forget of an earlier time gives up.
    retained: BTreeMap<SessionId, Time>,
    collected: BTreeMap<SessionId, u64>,
    wrongly: BTreeMap<u64, SessionId>,
    /// How many other keepers must approve what needs approval.
    approvals_needed: u32,
    /// What waits for that.
    pending: BTreeMap<SessionId, Pending>,
}

impl Standing {
    fn new(approvals_needed: u32) -> Self {
        Self { approvals_needed, ..Self::default() }
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
            Request::Forget(snapshots) => pending.by == *signer && snapshots.contains(snapshot),
            Request::Quorum(_) => false,
        };
        self.pending().find(asks).map(|pending| pending.session.number)
    }

    /// Whether an entry that waits for approval would forget it.
    pub fn is_asked(&self, snapshot: &SessionId) -> bool {
        self.pending()
            .any(|pending| matches!(&pending.request, Request::Forget(asked) if asked.contains(snapshot)))
    }

    /// Does at once what needs no approval.
    fn ask(&mut self, session: SessionId, entry: &Record<Entry>, request: Request) {
        let needed = match request {
            // More are never less safe, and end what asked for fewer before.
            Request::Quorum(more) if more >= self.approvals_needed => 0,
            _ => self.approvals_needed,
        };
        match needed {
            0 => self.grant(session.number, request),
            _ => drop(self.pending.insert(session, Pending::new(session, entry, request, needed))),
        }
    }

    fn grant(&mut self, number: u64, request: Request) {
        match request {
            Request::Forget(snapshots) => {
                self.forgotten.extend(snapshots.into_iter().map(|snapshot| (snapshot, number)));
            }
            Request::Quorum(needed) => {
                self.approvals_needed = needed;
                self.pending.retain(|_, pending| !matches!(pending.request, Request::Quorum(_)));
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
            Request::Forget(asked) => {
                asked.retain(stays);
                !asked.is_empty()
            }
            Request::Quorum(_) => true,
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

    /// The entry that holds it or its machine, if that was not released.
    pub fn held_by(&self, snapshot: &SessionId) -> Option<u64> {
        let of_vm = || self.held_vms.get(self.vms.get(snapshot)?);
        self.held.get(snapshot).or_else(of_vm).copied()
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

    /// What a commit gives up counts only if by then a record forgot it, and none held it.
    fn collect(&mut self, number: u64, snapshot: &SessionId) {
        if self.is_live(snapshot) || snapshot.number >= number {
            self.wrongly.entry(number).or_insert(*snapshot);
        } else {
            self.collected.entry(*snapshot).or_insert(number);
        }
    }

    fn apply(&mut self, entry: &LogEntry, is_abandoned: bool) {
        let number = entry.session.number;
        if let Some((_, lists)) = entry.commit().filter(|_| !is_abandoned) {
            lists.forgotten.iter().for_each(|snapshot| self.collect(number, snapshot));
        }
        let Ok(record) = &entry.entry else { return };
        match &record.fields.kind {
            Kind::Backup(intent) => {
                self.vms.insert(entry.session, intent.vm.clone());
                let retained = entry.snapshot().and_then(|snapshot| snapshot.manifest.fields.retain_until);
                self.retained.extend(retained.map(|until| (entry.session, until)));
            }
            Kind::Forget(named) => {
                let may_go = |snapshot: &&SessionId| {
                    self.retained.get(*snapshot).is_none_or(|until| *until <= record.fields.time)
                };
                let snapshots: Vec<SessionId> = named.snapshots.iter().filter(may_go).copied().collect();
                self.ask(entry.session, record, Request::Forget(snapshots));
            }
            Kind::Quorum(quorum) => {
                self.ask(entry.session, record, Request::Quorum(quorum.approvals_needed));
            }
            Kind::Approve(approval) => self.approve(&approval.entries, &record.signer),
            Kind::Undelete(named) => self.take_back(&named.snapshots),
            Kind::Hold(held) => {
                self.held.extend(held.snapshots.iter().map(|snapshot| (*snapshot, number)));
                self.held_vms.extend(held.vms.iter().map(|vm| (vm.clone(), number)));
            }
            Kind::Release(held) => {
                self.held.retain(|snapshot, _| held.snapshots.binary_search(snapshot).is_err());
                self.held_vms.retain(|vm, _| held.vms.binary_search(vm).is_err());
            }
            _ => {}
        }
    }

    /// The snapshots of which an entry, or its commit, says something that may change whether they are live.
    fn touched(&self, entry: &LogEntry) -> Vec<SessionId> {
        if let Some((_, lists)) = entry.commit() {
            return lists.forgotten.clone();
        }
        match entry.entry.as_deref().map(|record| &record.fields.kind) {
            Ok(Kind::Forget(named) | Kind::Undelete(named)) => named.snapshots.clone(),
            Ok(Kind::Approve(approval)) => {
                let granted = |number: &u64| approval.entries.iter().any(|one| one.number == *number);
                let forgotten = self.forgotten.iter().filter(|(_, number)| granted(number));
                forgotten.map(|(snapshot, _)| *snapshot).collect()
            }
            Ok(Kind::Hold(held) | Kind::Release(held)) => {
                let of_vms = |snapshot: &&SessionId| {
                    self.vms.get(*snapshot).is_some_and(|vm| held.vms.binary_search(vm).is_ok())
                };
                // What is not forgotten is live whether it is held or not.
                held.snapshots.iter().chain(self.forgotten.keys().filter(of_vms)).copied().collect()
            }
            _ => Vec::new(),
        }
    }
}

/// When each snapshot that was ever forgotten, held or given up was live: the entries that changed it, ascending.
#[derive(Debug, Default)]
pub(super) struct Lives {
    changes: BTreeMap<SessionId, Vec<(u64, bool)>>,
}

impl Lives {
    /// Whether a snapshot was live by the entries below `number`.
    pub(super) fn is_live(&self, snapshot: &SessionId, number: u64) -> bool {
        let changes = self.changes.get(snapshot).map_or(&[][..], Vec::as_slice);
        let below = changes.partition_point(|(at, _)| *at < number);
        below.checked_sub(1).and_then(|last| changes.get(last)).is_none_or(|(_, is_live)| *is_live)
    }
}

impl LogEntry {
    /// The entry and the machine of a backup whose outcome does not verify: it may have been a snapshot.
    pub fn damaged(&self) -> Option<(&Record<Entry>, &Name)> {
        match (self.entry.as_deref(), &self.outcome) {
            (Ok(entry), Outcome::Invalid(_)) => match &entry.fields.kind {
                Kind::Backup(intent) => Some((entry, &intent.vm)),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Log {
    /// Every backup whose outcome does not verify, and its machine.
    pub fn damaged(&self) -> impl Iterator<Item = (SessionId, &Name)> {
        self.entries.values().filter_map(|entry| Some((entry.session, entry.damaged()?.1)))
    }

    /// What the entries below `number` say of snapshots.
    pub fn standing(&self, number: u64) -> Standing {
        let (mut standing, abandoned) = (Standing::new(self.approvals_needed), self.abandoned());
        for (_, entry) in self.entries.range(..number) {
            standing.apply(entry, abandoned.contains(&entry.session));
        }
        standing
    }

    /// When snapshots were live.
    pub(super) fn lives(&self) -> Lives {
        let (mut standing, mut lives) = (Standing::new(self.approvals_needed), Lives::default());
        let abandoned = self.abandoned();
        for entry in self.entries.values() {
            standing.apply(entry, abandoned.contains(&entry.session));
            for snapshot in &standing.touched(entry) {
                let change = (entry.session.number, standing.is_live(snapshot));
                lives.changes.entry(*snapshot).or_default().push(change);
            }
        }
        lives
    }

    /// Every committed snapshot that is not forgotten, or is held, in log order.
    pub fn snapshots(&self) -> Vec<Snapshot<'_>> {
        self.snapshots_below(u64::MAX)
    }

    /// The same, by the entries below `number`.
    pub fn snapshots_below(&self, number: u64) -> Vec<Snapshot<'_>> {
        let standing = self.standing(number);
        let committed = self.entries.range(..number).filter_map(|(_, entry)| entry.snapshot());
        committed.filter(|snapshot| standing.is_live(&snapshot.session())).collect()
    }

    /// Every committed snapshot, forgotten or not, in log order.
    pub fn committed(&self) -> impl Iterator<Item = Snapshot<'_>> {
        self.entries.values().filter_map(LogEntry::snapshot)
    }

    /// Fails when the snapshot is forgotten, saying by whom, when, and whether it can be had back.
    pub fn refuse_forgotten(&self, snapshot: &SessionId) -> Result<()> {
        let standing = self.standing(u64::MAX);
        if standing.is_live(snapshot) {
            return Ok(());
        }
        let collected = standing.collected_by(snapshot);
        let number = standing.forgotten_by(snapshot).or(collected).unwrap_or_default();
        let record = self.entry(number).and_then(|entry| entry.entry.as_deref().ok());
        let record = record.ok_or_else(|| Error::Lost { what: format!("log entry {number}") })?;
        let reason = match &record.fields.kind {
            Kind::Forget(named) => named.reason.clone(),
            _ => "garbage collection".to_owned(),
        };
        Err(Error::Forgotten(Box::new(Forgotten {
            snapshot: *snapshot,
            by: record.fields.by.name.clone(),
            time: record.fields.time,
            entry: number,
            reason,
            collected,
        })))
    }
}
