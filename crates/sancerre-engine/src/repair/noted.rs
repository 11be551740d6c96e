//! One entry that says what was done, and at which numbers of the log other bytes are than an entry's: nobody can write there
//! again, so once the administrator has seen them `check` need not call for him any more.

use std::collections::BTreeSet;

use sancerre_format::certificate::Role;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Kind, Note};
use sancerre_format::names::{self, Name, ZoneKey};
use sancerre_format::record;

use super::give_up::named;
use super::{RepairOptions, RepairReport, is_sound};
use crate::check::at_log;
use crate::error::{Error, Result, StoreError};
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::log::{
    Log, LogEntry, Lost, REPAIR, REPAIR_HEADER, REPAIR_LINE, REPAIR_SESSION_LINE, filler,
};
use crate::repository::session::{append_by, one_line};

/// What is at numbers whose entry is rotten or cannot be read, and for which something stands; and at those that were just
/// given up. What fills a number says for itself what it is.
pub(super) async fn plan(
    repository: &Repository,
    log: &Log,
    options: &RepairOptions,
    report: &mut RepairReport,
) -> Result<Vec<SessionId>> {
    let (zone, known) = (&repository.keys.zone, log.noted());
    let given_up = named(zone, &options.give_up, |key| match key {
        ZoneKey::Log(number) => Some(number),
        _ => None,
    });
    let mut void = Vec::new();
    for entry in log.entries().filter(|entry| is_other(entry, &given_up)) {
        let number = entry.session.number;
        let (there, _) = at_log(repository, number).await?;
        let is_filled = there.intent == Hash::of(&filler(&entry.session));
        if is_filled || known.contains(&there) {
            continue;
        }
        if !given_up.contains(&number) {
            let key = names::log(zone, number);
            report.done.push(format!("{key}: on record as no entry any more; its outcome stands for it"));
        }
        void.push(there);
    }
    Ok(void)
}

fn is_other(entry: &LogEntry, given_up: &BTreeSet<u64>) -> bool {
    match entry.lost {
        Some(why) => why != Lost::Missing,
        None => given_up.contains(&entry.session.number) && !is_sound(entry),
    }
}

/// While something else stops the log it cannot be written, and each record that was made says so itself.
pub(super) async fn note(
    repository: &Repository,
    report: &RepairReport,
    (void, admitted): (&[SessionId], &[SessionId]),
    monitor: &Monitor,
) -> Result<Option<u64>> {
    let mut text = REPAIR_HEADER.to_owned();
    let done = report.done.iter().map(|line| format!("did: {}\n", one_line(line)));
    let void = void.iter().map(|there| format!("{REPAIR_LINE}{there}\n"));
    let admitted = admitted.iter().map(|session| format!("{REPAIR_SESSION_LINE}{session}\n"));
    done.chain(void).chain(admitted).for_each(|line| text.push_str(&line));
    let public = record::compress_public(&text)?;
    let (topic, result) = (Name::new(REPAIR)?, Some(Name::new("done")?));
    let note = Kind::Note(Note { topic, result, snapshots: Vec::new() });
    let log = Log::load(repository).await?;
    match append_by(repository, &log, &[Role::Admin], note, &public).await {
        Ok(session) => Ok(Some(session.number)),
        Err(
            error @ (Error::Gap { .. } | Error::Store(StoreError::Missing { .. }) | Error::Unread { .. }),
        ) => {
            monitor.warn(Topic::Aside, format!("what was done could not be noted in the log: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
