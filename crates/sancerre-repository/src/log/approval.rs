//! Entries that count only when other keepers approved them: two persons for forgetting, for ending holds, and for clearing
//! what is suspect (FORMAT.md §7.1).
//!
//! One stolen keeper's key, or the admin's, can then ask that snapshots go, and no more.

use std::fmt;

use sancerre_format::certificate::{Role, Signer};
use sancerre_format::id::SessionId;
use sancerre_format::log::Entry;
use sancerre_format::names::{Name, Title};
use sancerre_format::record::Record;

use super::Log;

/// What counts once it is approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApprovalRequest {
    /// These snapshots go.
    Forget(Vec<SessionId>),
    /// These snapshots, and these machines, are held no longer.
    Release(Vec<SessionId>, Vec<Title>),
    /// These snapshots are not suspect any more.
    Clear(Vec<SessionId>),
    /// So few approvals are needed from then on.
    Quorum(u32),
}

/// An entry that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The entry.
    pub session: SessionId,
    /// Who signed it: one who cannot approve it.
    pub by: Name,
    /// What it asks for.
    pub request: ApprovalRequest,
    /// How many approvals it needs: as many as were needed at its number.
    pub needed: u32,
    signer: Signer,
    approvals: Vec<Signer>,
}

impl Pending {
    pub(super) fn new(
        session: SessionId,
        entry: &Record<Entry>,
        request: ApprovalRequest,
        needed: u32,
    ) -> Self {
        let (by, signer) = (entry.fields.by.name.clone(), entry.signer.clone());
        Self { session, by, request, needed, signer, approvals: Vec::new() }
    }

    /// Who approved it so far.
    pub fn approved_by(&self) -> impl Iterator<Item = &str> {
        self.approvals.iter().map(Signer::name)
    }

    /// Whether a key may approve it: a keeper's that is neither its signer's nor one that did so already. A key under two
    /// names is one.
    pub fn may_approve(&self, signer: &Signer) -> bool {
        let others = std::iter::once(&self.signer).chain(&self.approvals);
        signer.role() == Role::Keeper && others.into_iter().all(|other| !is_one(signer, other))
    }

    /// Adds an approval; whether it counts now.
    pub(super) fn approve(&mut self, signer: &Signer) -> bool {
        if self.may_approve(signer) {
            self.approvals.push(signer.clone());
        }
        u32::try_from(self.approvals.len()).unwrap_or(u32::MAX) >= self.needed
    }
}

/// Whether two signers are one person, as far as names and keys tell.
fn is_one(one: &Signer, other: &Signer) -> bool {
    let is_same_key = match (one, other) {
        (Signer::Certified(one), Signer::Certified(other)) => one.key == other.key,
        _ => false,
    };
    is_same_key || one.name() == other.name()
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log entry {} of {}: ", self.session.number, self.by)?;
        match &self.request {
            ApprovalRequest::Forget(snapshots) => write!(f, "forget {} snapshots", snapshots.len())?,
            ApprovalRequest::Release(snapshots, vms) => {
                write!(f, "release {} snapshots and {} machines", snapshots.len(), vms.len())?;
            }
            ApprovalRequest::Clear(snapshots) => write!(f, "clear {} suspect snapshots", snapshots.len())?,
            ApprovalRequest::Quorum(needed) => write!(f, "need {needed} approvals only")?,
        }
        write!(f, ", {} of {} approvals", self.approvals.len(), self.needed)
    }
}

impl Log {
    /// The entries that wait for approval, ascending.
    pub fn pending(&self) -> Vec<Pending> {
        self.retention().pending().cloned().collect()
    }
}
