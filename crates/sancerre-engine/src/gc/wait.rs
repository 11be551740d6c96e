//! G4: every session below is decided before anything is final. Whoever is alive is waited for, the dead are ended.
//!
//! This is about progress alone: a session that is wrongly taken for dead fails, and its data is reused by the next.

use std::collections::BTreeSet;
use std::time::Duration;

use sancerre_advice::Setting::Wait;
use sancerre_format::id::SessionId;
use sancerre_format::log::Kind;
use sancerre_format::names::{self, Folder, Name, Title, ZoneKey};

use super::GcOptions;
use super::account::account;
use crate::error::Result;
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::log::{Log, LogEntry};
use crate::repository::session::abort_other;

/// Between two looks at the sessions under way.
const PAUSE_SECONDS: u64 = 10;
/// Of those that are waited for, so many are named.
const NAMED_MAX: usize = 3;

/// How long the rest of this run still waits.
pub(super) struct Waiting {
    left_seconds: u64,
    silent_seconds: u64,
    is_told: bool,
}

impl Waiting {
    pub(super) fn new(options: &GcOptions) -> Self {
        Self { left_seconds: options.wait_seconds, silent_seconds: options.silent_seconds, is_told: false }
    }

    /// Waits until every session below `number` is decided, and ends those that are dead; returns who is still alive
    /// when waiting is over. Afterwards the log has all outcomes below `number`, each read by its name.
    pub(super) async fn run(
        &mut self,
        repository: &Repository,
        log: &mut Log,
        number: u64,
        monitor: &Monitor,
        ended: &mut Vec<SessionId>,
    ) -> Result<Vec<SessionId>> {
        loop {
            monitor.check()?;
            log.refresh(repository).await?;
            log.complete(repository, number).await?;
            log.settle(repository, number).await?;
            // First: an outcome that is hidden must not be taken for one that never was, and be replaced by an abort.
            account(repository, log, number)?;
            let alive = self.end_dead(repository, log, number, ended).await?;
            if alive.is_empty() {
                log.settle(repository, number).await?;
                return Ok(alive);
            }
            if self.left_seconds == 0 {
                return Ok(alive);
            }
            self.tell(log, &alive, monitor);
            let pause = PAUSE_SECONDS.min(self.left_seconds);
            self.left_seconds = self.left_seconds.saturating_sub(pause);
            tokio::time::sleep(Duration::from_secs(pause)).await;
        }
    }

    /// Says once for whom, and for how long at most.
    fn tell(&mut self, log: &Log, alive: &[SessionId], monitor: &Monitor) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        let names: Vec<String> = alive
            .iter()
            .take(NAMED_MAX)
            .filter_map(|session| {
                let fields = &log.entry(session.number)?.entry.as_ref().ok()?.fields;
                let what = match &fields.kind {
                    Kind::Backup(intent) => format!("the backup of {}", intent.vm),
                    _ => "another command".to_owned(),
                };
                Some(format!(
                    "{what} by {} (number {}, begun {})",
                    fields.by.name, fields.number, fields.time
                ))
            })
            .collect();
        let more = alive.len().saturating_sub(names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let most = match self.left_seconds {
            seconds @ ..120 => format!("{seconds} s"),
            seconds => format!("{} min", seconds.div_ceil(60)),
        };
        monitor.warn(
            Topic::Waiting,
            format!(
                "waiting for {}{more}, which may be under way: {most} at most ({Wait})",
                names.join(", ")
            ),
        );
    }

    /// Ends the sessions that are taken for dead; returns the others.
    async fn end_dead(
        &self,
        repository: &Repository,
        log: &Log,
        number: u64,
        ended: &mut Vec<SessionId>,
    ) -> Result<Vec<SessionId>> {
        let mut alive = Vec::new();
        for entry in log.undecided(number) {
            let reason = match is_followed(log, entry) {
                _ if entry.revoked.is_some() => Some("the key of its writer was revoked"),
                true => Some("the same writer has begun another backup of this machine"),
                false if self.is_silent(repository, entry).await? => Some("it showed no sign of life"),
                false => None,
            };
            match reason {
                Some(reason) => {
                    abort_other(repository, entry.session, reason).await?;
                    ended.push(entry.session);
                }
                None => alive.push(entry.session),
            }
        }
        Ok(alive)
    }

    /// Whether the store has seen nothing of it for too long. Our clock against the store's.
    async fn is_silent(&self, repository: &Repository, entry: &LogEntry) -> Result<bool> {
        let zone = &repository.keys.zone;
        let number = entry.session.number;
        let mut newest = None;
        for listed in repository.list(Folder::Log).await? {
            if ZoneKey::parse(zone, &listed.key) == Ok(ZoneKey::Log(number)) {
                newest = newest.max(Some(listed.modified));
            }
        }
        let lists = names::session_folder(zone, Folder::Lists, &entry.session);
        for folder in [names::pack_folder(zone, number), lists] {
            for listed in repository.store.list(&folder).await? {
                newest = newest.max(Some(listed.modified));
            }
        }
        let now = repository.host.clock.now().unix_seconds();
        let silent = newest.map(|newest| now.saturating_sub(newest.unix_seconds()));
        Ok(silent
            .is_some_and(|silent| u64::try_from(silent).is_ok_and(|silent| silent >= self.silent_seconds)))
    }
}

/// Whether its writer began another backup of the machine: hosts back up a machine once at a time.
fn is_followed(log: &Log, entry: &LogEntry) -> bool {
    let Some(job) = job(entry) else { return false };
    let later = log.entries().filter(|other| other.session.number > entry.session.number);
    later.filter_map(self::job).collect::<BTreeSet<_>>().contains(&job)
}

fn job(entry: &LogEntry) -> Option<(&Name, &Title)> {
    let fields = &entry.entry.as_ref().ok()?.fields;
    match &fields.kind {
        Kind::Backup(intent) => Some((&fields.by.name, &intent.vm)),
        _ => None,
    }
}
