//! Consent of another keeper to what one of them asked for, and how many must consent.

use std::collections::BTreeSet;

use sancerre_advice::Verb::Approve;
use sancerre_format::certificate::{Role, Signer};
use sancerre_format::id::SessionId;
use sancerre_format::log::{Approval, Kind, Quorum};
use sancerre_format::names;

use crate::error::{Error, Result, StoreError};
use crate::repository::Repository;
use crate::repository::log::{ApprovalRequest, Log, Pending};
use crate::repository::session::{append, one_line};
use crate::store::Creation;

/// What an approval came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Approved {
    /// Number of its log entry.
    pub entry: u64,
    /// Those of the approved that wait for others still.
    pub pending: Vec<Pending>,
}

/// Approves entries by their numbers, as the keeper whose key is at hand.
///
/// Errors: [`Error::Usage`] for a number at which nothing waits for approval; [`Error::Refused`] for the signer's own
/// entry, or one that this key approved before; [`Error::WrongKey`] without a keeper's key; the store's.
pub async fn approve(repository: &Repository, numbers: &BTreeSet<u64>, reason: &str) -> Result<Approved> {
    let keeper = repository.signer(&[Role::Keeper])?;
    let signer = match &keeper.by.certificate {
        Some(certificate) => Signer::of_portable(certificate.as_bytes(), &repository.keys.trust)
            .map_err(|source| Error::Unreadable { signer: keeper.to_string(), source })?,
        None => Signer::Admin,
    };
    let mut log = Log::load(repository).await?;
    log.refuse_unread(&repository.keys.zone)?;
    let waiting = log.pending();
    let mut entries = BTreeSet::<SessionId>::new();
    for number in numbers {
        let pending = waiting.iter().find(|pending| pending.session.number == *number);
        let pending = pending.ok_or_else(|| nothing_waits(*number))?;
        if !pending.may_approve(&signer) {
            return Err(Error::Refused(format!(
                "{pending}: {keeper} asked for it, or approved it already; it must be another keeper. Nothing was done"
            )));
        }
        entries.insert(pending.session);
    }
    let approval = Approval { entries: entries.iter().copied().collect(), reason: one_line(reason) };
    let entry = append(repository, &log, Kind::Approve(approval), &[]).await?.number;
    log.refresh(repository).await?;
    let pending = log.pending().into_iter().filter(|pending| entries.contains(&pending.session));
    Ok(Approved { entry, pending: pending.collect() })
}

fn nothing_waits(number: u64) -> Error {
    Error::Usage(format!(
        "log entry {number} waits for no approval; {Approve} without a number lists what does. Nothing was done"
    ))
}

/// Asks for so many approvals of what is forgotten from now on. More count at once; fewer when as many keepers as are
/// needed now approved that. Returns the entry's number, and whether it waits.
///
/// So many as are needed already ends what waits and asks for fewer.
///
/// Errors: [`Error::Usage`] when so many are needed already and nothing waits; [`Error::WrongKey`] without the admin's key; the store's.
pub async fn set_quorum(repository: &Repository, approvals_needed: u32, reason: &str) -> Result<(u64, bool)> {
    let log = Log::load(repository).await?;
    log.refuse_unread(&repository.keys.zone)?;
    let retention = log.retention();
    let now = retention.approvals_needed();
    let waits = retention.pending().any(|pending| matches!(pending.request, ApprovalRequest::Quorum(_)));
    if now == approvals_needed && !waits {
        return Err(Error::Usage(format!("{now} approvals are needed already; nothing was done")));
    }
    let quorum = Quorum { approvals_needed, reason: one_line(reason) };
    let entry = append(repository, &log, Kind::Quorum(quorum), &[]).await?.number;
    // Lost, it would let count what was forgotten above it without anybody's consent.
    let zone = &repository.keys.zone;
    let key = names::log(zone, entry);
    let bytes = repository.store.get(&key).await?.ok_or(Error::Store(StoreError::Missing { key }))?;
    repository.store.put_new(&names::quorum(zone, entry), bytes).await?;
    Ok((entry, approvals_needed < now))
}
