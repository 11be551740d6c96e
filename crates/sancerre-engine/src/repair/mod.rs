//! Repair: what small records said and can be told again is written anew, and the administrator gives up by name what cannot.
//!
//! ```text
//! log, listing ──> lost lists ──> their packs, read whole and verified ──> lists that the administrator signs
//!              └─> numbers whose entry is lost ──> filled / the revocation that is kept elsewhere / given up
//!              └─> segments that do not verify ──> the index, made anew
//! ```
//!
//! Nothing is deleted and nothing is changed. What is written counts because the administrator signed it; every reader
//! proves content by its ids as ever.

mod admit;
mod disputes;
mod give_up;
mod lists;
mod noted;

use sancerre_advice::Setting::GivenUp;
use sancerre_advice::Verb::Snapshots;
use sancerre_format::certificate::Role;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::Entry;
use sancerre_format::names::{self, Zone, ZoneKey};
use sancerre_format::record;

use crate::check::tolerate;
use crate::error::{Error, Result};
use crate::index::{Whole, key_of, rebuild_index, segments};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::log::{COPIES, Log, LogEntry, Lost, UNKNOWN, copy_key};
use crate::store::{Creation, Put};

pub use give_up::give_up;
use give_up::is_hidden;
use lists::Anew;

/// Numbers without an entry that are named one by one.
const NAMED_MAX: usize = 100;

/// How to repair.
#[derive(Debug, Clone, Default)]
pub struct RepairOptions {
    /// Only say what would be done; packs are not read then.
    pub dry_run: bool,
    /// Keys of objects that are given up, as messages name them.
    pub give_up: Vec<String>,
    /// Why, for the log.
    pub reason: String,
}

/// What a repair came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was written, or would be, as words.
    pub done: Vec<String>,
    /// What is lost and cannot be made anew: the object, and what to do.
    pub left: Vec<(String, String)>,
    /// The log entry that notes it.
    pub note: Option<u64>,
}

/// Writes anew what can be, and gives up what is named.
///
/// Errors: [`Error::WrongKey`] without the admin's key, but in a dry run; [`Error::Usage`] for an object that is named and is
/// not lost; the store's.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_admin().await?, &scene.monitor);
/// # save(&repository).await?;
/// use sancerre_engine::{RepairOptions, RepairReport, repair};
///
/// let options = RepairOptions { reason: "after the fire".into(), ..RepairOptions::default() };
/// assert_eq!(repair(&repository, &options, monitor).await?, RepairReport::default());
/// # Ok(()) }
/// ```
pub async fn repair(
    repository: &Repository,
    options: &RepairOptions,
    monitor: &Monitor,
) -> Result<RepairReport> {
    // Behind a delete marker that it cannot see, an entry looks like one that never was.
    repository.store.must_tell_versions().await?;
    if !options.dry_run {
        repository.signer(&[Role::Admin])?;
    }
    let mut report = RepairReport::default();
    let mut log = Log::load(repository).await?;
    if bring_back(repository, &log, options, &mut report).await? {
        log.refresh(repository).await?;
    }
    for key in &options.give_up {
        let done = give_up(repository, &mut log, key, options).await?;
        report.done.push(done);
    }
    if !options.dry_run && !options.give_up.is_empty() {
        // What stood for an entry may be another now.
        log = Log::load(repository).await?;
    }
    fill(repository, &log, options, &mut report).await?;
    let void = noted::plan(repository, &log, options, &mut report).await?;
    let mut admitted = admit::plan(repository, &log, &mut report);
    admitted.extend(disputes::plan(repository, &log, options, &mut report).await?);
    let anew = lists::plan(repository, &log, &mut report).await?;
    for one in &anew {
        lists::make(repository, &log, one, options, monitor, &mut report).await?;
    }
    name_lost(repository, &log, &mut report);
    make_index(repository, &log, &anew, options, monitor, &mut report).await?;
    if !options.dry_run && !report.done.is_empty() {
        report.note = noted::note(repository, &report, (&void, &admitted), monitor).await?;
    }
    Ok(report)
}

/// Some entries are kept twice: the newest of the log, of which nothing else says that it was there, is put back as it was.
/// Whether something was.
async fn bring_back(
    repository: &Repository,
    log: &Log,
    options: &RepairOptions,
    report: &mut RepairReport,
) -> Result<bool> {
    let mut is_changed = false;
    let mut copies = Vec::new();
    for folder in COPIES {
        copies.extend(repository.store.list(folder).await?);
    }
    for listed in copies {
        let bytes = match repository.store.get(&listed.key).await {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) => {
                tolerate(repository, error).await?;
                continue;
            }
        };
        let Ok(entry) = record::decode::<Entry>(&repository.keys.trust, &bytes) else { continue };
        let session = SessionId { number: entry.fields.number, intent: Hash::of(&bytes) };
        let is_ours = entry.fields.zone == repository.keys.zone
            && copy_key(&repository.keys.zone, &entry.fields).as_ref() == Some(&listed.key);
        let is_said = log.said_of(session.number) == Some(session) || is_next(log, &entry.fields);
        if !is_ours || log.entry(session.number).is_some() || !is_said {
            continue;
        }
        let key = names::log(&repository.keys.zone, session.number);
        if !options.dry_run {
            match repository.store.put_new(&key, bytes).await? {
                Put::Created => is_changed = true,
                Put::Occupied(_) => continue,
            }
        }
        report.done.push(format!("{key}: put back, as it is kept at {}", listed.key));
    }
    Ok(is_changed)
}

/// Whether an entry belongs to the first free number: it follows on the highest that there is, and nobody could say yet that
/// it was there.
fn is_next(log: &Log, entry: &Entry) -> bool {
    let below = entry.number.checked_sub(1).and_then(|below| log.hash_at(below));
    entry.number == log.end() && (entry.previous == below)
}

/// Numbers whose session stands by its outcome.
async fn fill(
    repository: &Repository,
    log: &Log,
    options: &RepairOptions,
    report: &mut RepairReport,
) -> Result<()> {
    let missing = log.lost_entries().filter(|(_, why)| *why == Lost::Missing);
    for (session, _) in missing {
        let key = names::log(&repository.keys.zone, session.number);
        if log.is_copied(session.number) {
            report.done.push(format!("{key}: put back, as its copy below keys/ is"));
            continue;
        }
        if log.entry(session.number).is_none_or(|entry| !entry.has_ended()) {
            continue;
        }
        report.done.push(format!(
            "{key}: filled, so that nobody can put another entry there; its outcome stands for it"
        ));
    }
    if options.dry_run { Ok(()) } else { log.fill_lost(repository, Log::END).await }
}

/// What only the right bytes, or the administrator's word, can help.
fn name_lost(repository: &Repository, log: &Log, report: &mut RepairReport) {
    let zone = &repository.keys.zone;
    name_entries(zone, log, report);
    name_unread(zone, log, report);
    name_outcomes(zone, log, report);
}

/// The way to go on without an entry of which nothing says what it was.
fn without_entry(key: &str) -> String {
    format!(
        "nothing says what it said: bring it back from a copy of the repository, or give it up with {GivenUp} {key}. Until \
         then nothing is added to the log, and nothing is deleted. If it was a hold, an undelete, a quarantine, a \
         taint, a revocation or a number of approvals, its effect is lost with it, also on what was signed above it: stop every \
         gc (timers too) first, and say it again before the next one; look at what is forgotten with {Snapshots}"
    )
}

fn name_entries(zone: &Zone, log: &Log, report: &mut RepairReport) {
    let is_disputed = |number: u64| log.dispute(number).is_some();
    for number in log.missing().filter(|number| !is_disputed(*number)).take(NAMED_MAX) {
        let key = names::log(zone, number);
        let advice = without_entry(&key);
        report.left.push((key, format!("it is missing; {advice}")));
    }
    let void = log.entries().map(|entry| entry.session).filter(|session| is_void(log, session));
    for session in void.filter(|session| !is_disputed(session.number)) {
        let key = names::log(zone, session.number);
        let advice = format!(
            "an entry was there, nothing says what it said, and it is void: bring it back from a copy of the repository, or give \
             it up with {GivenUp} {key}. If it was a hold, a forget, a quarantine, a taint or a revocation, say it again"
        );
        report.left.push((key, advice));
    }
}

fn name_unread(zone: &Zone, log: &Log, report: &mut RepairReport) {
    let (retention, abandoned) = (log.retention(), log.abandoned());
    let is_given_up = |key: &str| match ZoneKey::parse(zone, key) {
        Ok(ZoneKey::Outcome(session)) => {
            // Nobody waits for one of a session that the log does not have (any more).
            abandoned.contains_key(&session)
                || !log.has(&session)
                || log.entry(session.number).is_some_and(|entry| retention.gave_up(entry))
        }
        _ => false,
    };
    for unread in log.unread().iter().filter(|unread| !is_given_up(&unread.key)) {
        let advice = match ZoneKey::parse(zone, &unread.key) {
            Ok(ZoneKey::Log(number)) if log.entry(number).is_some_and(|entry| entry.lost.is_some()) => {
                continue;
            }
            Ok(ZoneKey::Log(_)) => without_entry(&unread.key),
            _ => format!("make it readable again, or give it up with {GivenUp} {}", unread.key),
        };
        report.left.push((unread.key.clone(), format!("it cannot be read ({}); {advice}", unread.reason)));
    }
}

fn name_outcomes(zone: &Zone, log: &Log, report: &mut RepairReport) {
    let retention = log.retention();
    for entry in log.entries().filter(|entry| is_hidden(log, entry)) {
        let key = names::outcome(zone, &entry.session);
        let advice = format!(
            "it is missing, and was a snapshot or an abort: bring it back, or give it up with {GivenUp} {key}"
        );
        report.left.push((key, advice));
    }
    for session in log.replaced(Log::END) {
        let key = names::outcome(zone, &session);
        let advice = format!(
            "it is an abort, and an earlier gc saw a snapshot there, whose packs stay until then: give it up with {GivenUp} {key}"
        );
        report.left.push((key, advice));
    }
    let is_unread = |key: &String| log.unread().iter().any(|unread| unread.key == *key);
    for (session, vm) in log.damaged().filter(|(session, _)| retention.is_live(session)) {
        let key = names::outcome(zone, &session);
        if !is_unread(&key) {
            let advice = format!(
                "it may have been a snapshot of {vm}: bring the right bytes back, or give it up with {GivenUp} {key}"
            );
            report.left.push((key, advice));
        }
    }
}

async fn make_index(
    repository: &Repository,
    log: &Log,
    anew: &[Anew],
    options: &RepairOptions,
    monitor: &Monitor,
    report: &mut RepairReport,
) -> Result<()> {
    if repository.keys.zone_secrets().is_err() {
        return Ok(());
    }
    let bad = unsound_segments(repository, log, monitor).await?;
    // Who wrote those of a session that was given up nobody knows, so they are not heard.
    let is_void = |one: &Anew| log.entry(one.session.number).is_none_or(|entry| entry.announced().is_none());
    if bad.is_empty() && !anew.iter().any(is_void) {
        return Ok(());
    }
    report.done.push(match bad.first() {
        Some(key) => format!(
            "the index, made anew from the packs: {} segments do not verify, such as {key}",
            bad.len()
        ),
        None => "the index, made anew from the packs".to_owned(),
    });
    if options.dry_run {
        return Ok(());
    }
    match rebuild_index(repository, monitor).await {
        Ok(_) => {}
        Err(error @ (Error::Gap { .. } | Error::Unread { .. })) => {
            report.left.push((
                bad.first().cloned().unwrap_or_default(),
                format!("the index was not made anew: {error}"),
            ));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The keys of segments that do not verify.
async fn unsound_segments(repository: &Repository, log: &Log, monitor: &Monitor) -> Result<Vec<String>> {
    let mut unsound = Vec::new();
    for name in segments(repository, log).await?.into_keys() {
        monitor.check()?;
        let key = key_of(repository, log, name)?;
        let is_sound = match repository.store.get(&key).await {
            Ok(None) => continue,
            Ok(Some(bytes)) => Whole::decode(repository, log, name, &bytes).is_ok(),
            Err(error) => tolerate(repository, error).await.map(|_| false)?,
        };
        if !is_sound {
            unsound.push(key);
        }
    }
    Ok(unsound)
}

/// Whether nobody knows what an entry said.
fn is_unknown(session: &SessionId) -> bool {
    session.intent == UNKNOWN
}

/// Whether something else is at a number than the entry that was there, and nothing stands for that.
fn is_void(log: &Log, there: &SessionId) -> bool {
    let is_void = |entry: &LogEntry| !is_sound(entry) && entry.lost.is_none() && !is_unknown(there);
    log.entry(there.number).is_some_and(is_void) && log.said_of(there.number).is_some()
}

/// Whether an entry is there and says what its signer wrote.
fn is_sound(entry: &LogEntry) -> bool {
    entry.lost.is_none() && (entry.announced().is_some() || entry.opaque_by.is_some())
}
