//! Numbers that several sessions claim: only the administrator can say which stood there. He gives up the outcomes that are
//! lies, and what is left stands.

use std::collections::BTreeSet;

use sancerre_advice::Setting::GivenUp;
use sancerre_format::id::SessionId;
use sancerre_format::names::{self, ZoneKey};

use super::give_up::named;
use super::{RepairOptions, RepairReport};
use crate::error::Result;
use crate::repository::Repository;
use crate::repository::log::{Dispute, Log, filler};
use crate::store::{Creation, Put};

/// Whether an outcome claims a number beside others.
pub(super) fn is_claim(log: &Log, session: &SessionId) -> bool {
    let claims = |dispute: &Dispute| {
        dispute.standing == Some(*session) || dispute.claims.iter().any(|(claim, ..)| claim == session)
    };
    log.dispute(session.number).is_some_and(|dispute| claims(&dispute))
}

/// The sessions that are left where all others were given up: they stand from now on. The others are named.
pub(super) async fn plan(
    repository: &Repository,
    log: &Log,
    options: &RepairOptions,
    report: &mut RepairReport,
) -> Result<Vec<SessionId>> {
    let zone = &repository.keys.zone;
    let given_up = named(zone, &options.give_up, |key| match key {
        ZoneKey::Outcome(session) => Some(session),
        _ => None,
    });
    let mut chosen = Vec::new();
    for dispute in log.disputes(log.end()) {
        let key = names::log(zone, dispute.number);
        let claims = dispute.claims.iter().map(|(session, ..)| *session);
        let all: BTreeSet<SessionId> = claims.chain(dispute.standing).collect();
        let left: Vec<SessionId> = all.difference(&given_up).copied().collect();
        match left.as_slice() {
            [one] if is_backup_or_standing(&dispute, one) => {
                keep_number(repository, log, options, one).await?;
                report
                    .done
                    .push(format!("{key}: on record as session {one}; what else claims it does not count"));
                chosen.push(*one);
            }
            _ => report.left.push((key.clone(), advice(repository, &dispute, &key))),
        }
    }
    Ok(chosen)
}

/// A gc that does not stand may have read another log.
fn is_backup_or_standing(dispute: &Dispute, chosen: &SessionId) -> bool {
    let is_backup = dispute.claims.iter().any(|(claim, _, is_backup)| claim == chosen && *is_backup);
    is_backup || dispute.standing == Some(*chosen)
}

/// Nobody may take the number meanwhile.
async fn keep_number(
    repository: &Repository,
    log: &Log,
    options: &RepairOptions,
    chosen: &SessionId,
) -> Result<()> {
    if options.dry_run || log.entry(chosen.number).is_some() {
        return Ok(());
    }
    let key = names::log(&repository.keys.zone, chosen.number);
    match repository.store.put_new(&key, filler(chosen)).await? {
        // invariant: what is there keeps the number; the note says which session it is
        Put::Created | Put::Occupied(_) => Ok(()),
    }
}

fn advice(repository: &Repository, dispute: &Dispute, key: &str) -> String {
    let zone = &repository.keys.zone;
    let what = |is_backup: bool| if is_backup { "a backup" } else { "a gc" };
    let claims = dispute.claims.iter().map(|(session, by, is_backup)| {
        format!("{} ({} by {by})", names::outcome(zone, session), what(*is_backup))
    });
    let standing =
        dispute.standing.map(|session| format!("{} (which stands now)", names::outcome(zone, &session)));
    let all: Vec<String> = standing.into_iter().chain(claims).collect();
    format!(
        "several sessions claim this number, and only one can have stood there: {}. Until you say which, gc deletes nothing. \
         Somebody lies with a stolen key, or copies of the repository that went on by themselves were put together: find out, \
         revoke the key from number {} on, or give up each that is not so with {GivenUp}. If none is, give up the number with \
         {GivenUp} {key}",
        all.join(", "),
        dispute.number
    )
}
