//! The log and its outcomes: what is missing from it, what does not verify, what belongs to nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sancerre_advice::Verb::{Gc, GiveUp, Repair};
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Title, ZoneKey};
use sancerre_format::outcome::Manifest;
use sancerre_format::record;

use super::report::{Cost, Finding, Severity};
use super::run::tolerate;
use crate::error::Result;
use crate::repository::Repository;
use crate::repository::log::{Log, LogEntry, Lost, Outcome, UNKNOWN, filler};

/// Missing entries reported at most: one forged entry with an absurd number must not flood the report.
const MISSING_MAX: usize = 100;

/// Checks the log. What it costs is snapshots that nobody can read because of it; whether there are such is told besides.
pub(super) async fn check(repository: &Repository, log: &Log) -> Result<(Vec<Finding>, bool)> {
    let stranded = stranded(repository, log).await?;
    let mut findings = Vec::new();
    for number in log.missing().take(MISSING_MAX) {
        findings.push(Finding {
            severity: Severity::Missing,
            object: names::log(&repository.keys.zone, number),
            problem: format!("it is missing: the log has higher numbers; {Repair} says what can be done"),
            costs: costs(&stranded, number),
        });
    }
    findings.extend(breaks(repository, log));
    findings.extend(forked(repository, log, &stranded));
    findings.extend(disputed(repository, log));
    let noted = log.noted();
    let replaced: BTreeSet<SessionId> = log.replaced(Log::END).collect();
    for entry in log.entries() {
        findings.extend(lost(repository, log, entry, &noted).await?);
        findings.extend(check_entry(repository, log, entry, &stranded, &noted).await?);
        findings.extend(check_outcome(repository, log, entry, &replaced));
    }
    Ok((findings, !stranded.is_empty()))
}

/// Entries whose signer read another entry below its own than the one that is there: one of both was put in later.
fn breaks<'a>(repository: &'a Repository, log: &'a Log) -> impl Iterator<Item = Finding> + 'a {
    let zone = &repository.keys.zone;
    log.breaks().map(move |(below, entry)| {
        Finding::new(
            Severity::Damaged,
            names::log(zone, below),
            format!(
                "entry {} of {} follows on another one: this one was replaced, or that key lies",
                entry.fields.number, entry.fields.by.name
            ),
        )
    })
}

/// Signed snapshots at whose number the log has another entry that verifies: two copies of the repository went on, each by
/// itself, and were put together again.
fn forked(repository: &Repository, log: &Log, stranded: &BTreeMap<u64, Vec<Cost>>) -> Vec<Finding> {
    let is_other = |number: &u64| log.entry(*number).is_some_and(|entry| entry.announced().is_some());
    let forked = stranded.iter().filter(|(number, _)| is_other(number)).flat_map(|(_, costs)| costs);
    let finding = |cost: &Cost| Finding {
        severity: Severity::Damaged,
        object: names::outcome(&repository.keys.zone, &cost.snapshot),
        problem: format!(
            "it is a signed snapshot of {}, but log entry {} is another one: two copies of this repository both went on and \
             were put together, or an entry was replaced. Nobody sees this snapshot here, and gc does not keep what only it \
             needs: do not run gc, restore it from the copy in which it was made, and back {} up again",
            cost.vm, cost.snapshot.number, cost.vm
        ),
        costs: vec![cost.clone()],
    };
    forked.map(finding).collect()
}

/// Numbers without an entry that is whole, and which several sessions claim.
fn disputed<'a>(repository: &'a Repository, log: &'a Log) -> impl Iterator<Item = Finding> + 'a {
    let is_whole =
        move |number: u64| log.entry(number).is_some_and(|entry| entry.entry.is_ok() && entry.lost.is_none());
    let disputes = log.disputes(Log::END).into_iter().filter(move |dispute| !is_whole(dispute.number));
    disputes.map(|dispute| {
        let problem = format!(
            "it is lost, and several signed outcomes say that they stood there: gc deletes nothing until the administrator \
             says which; {Repair} names them"
        );
        Finding::new(Severity::Damaged, names::log(&repository.keys.zone, dispute.number), problem)
    })
}

/// A log entry for which its outcome stands.
async fn lost(
    repository: &Repository,
    log: &Log,
    entry: &LogEntry,
    noted: &BTreeSet<SessionId>,
) -> Result<Option<Finding>> {
    let Some(why) = entry.lost else { return Ok(None) };
    let number = entry.session.number;
    let object = names::log(&repository.keys.zone, number);
    let (mut severity, what) = match why {
        Lost::Missing => (Severity::Missing, "it is missing".to_owned()),
        Lost::Rotten => (Severity::Damaged, "it is not what its signer wrote".to_owned()),
        Lost::Unread => {
            let unread = log.unread().iter().find(|unread| unread.key == object);
            (
                Severity::Damaged,
                format!("it cannot be read: {}", unread.map_or("", |unread| unread.reason.as_str())),
            )
        }
    };
    let stands = match &entry.outcome {
        Outcome::Abort(abort) => format!(
            "its session came to nothing, as {} signed ({}). If it said something else, such as a forget, a hold or a \
             revocation, that is lost with it: say it again",
            abort.signer, abort.fields.reason
        ),
        Outcome::Undecided if log.is_copied(number) => "a copy of it stands for it, and nothing is lost".to_owned(),
        Outcome::Undecided => "its session ended with a commit, which counts once the administrator has admitted it; until then gc \
                               deletes nothing"
            .to_owned(),
        _ => "its outcome stands for it, and nothing is lost".to_owned(),
    };
    let (there, _) = at_log(repository, number).await?;
    let is_noted = why != Lost::Missing && noted.contains(&there);
    let is_open = matches!(entry.outcome, Outcome::Undecided) && !log.is_copied(number);
    if !is_open && is_noted
        || !is_open && why == Lost::Rotten && there.intent == Hash::of(&filler(&entry.session))
    {
        // Nobody can do more about it.
        severity = Severity::Note;
    }
    let way = match why {
        _ if severity == Severity::Note => String::new(),
        _ if is_open => format!(". {Repair} looks at it"),
        Lost::Missing => format!(". {Repair}, or whatever is written next, fills its number"),
        Lost::Rotten | Lost::Unread => format!(". {Repair} puts that on record"),
    };
    Ok(Some(Finding::new(severity, object, format!("{what}; {stands}{way}"))))
}

/// What is at a number of the log: the hash of its bytes, zeros where there are none or they cannot be read, and the bytes.
pub(crate) async fn at_log(repository: &Repository, number: u64) -> Result<(SessionId, Bytes)> {
    match repository.store.get(&names::log(&repository.keys.zone, number)).await {
        Ok(Some(bytes)) => Ok((SessionId { number, intent: Hash::of(&bytes) }, bytes)),
        Ok(None) => Ok((SessionId { number, intent: UNKNOWN }, Bytes::new())),
        Err(error) => {
            tolerate(repository, error).await?;
            Ok((SessionId { number, intent: UNKNOWN }, Bytes::new()))
        }
    }
}

/// Manifests whose log entry is not there or not as it was, by number.
async fn stranded(repository: &Repository, log: &Log) -> Result<BTreeMap<u64, Vec<Cost>>> {
    let mut stranded: BTreeMap<u64, Vec<Cost>> = BTreeMap::new();
    for key in log.unknown_keys() {
        let Ok(ZoneKey::Outcome(session)) = ZoneKey::parse(&repository.keys.zone, key) else { continue };
        let bytes = match repository.store.get(key).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tolerate(repository, error).await?;
                None
            }
        };
        let manifest =
            bytes.and_then(|bytes| record::decode::<Manifest>(&repository.keys.trust, &bytes).ok());
        if let Some(manifest) = manifest.filter(|manifest| manifest.fields.session == session) {
            stranded.entry(session.number).or_default().push(whole(session, manifest.fields.vm));
        }
    }
    Ok(stranded)
}

fn costs(stranded: &BTreeMap<u64, Vec<Cost>>, number: u64) -> Vec<Cost> {
    stranded.get(&number).cloned().unwrap_or_default()
}

fn whole(snapshot: SessionId, vm: Title) -> Cost {
    Cost { snapshot, vm, disk: None, ranges: Vec::new() }
}

async fn check_entry(
    repository: &Repository,
    log: &Log,
    entry: &LogEntry,
    stranded: &BTreeMap<u64, Vec<Cost>>,
    noted: &BTreeSet<SessionId>,
) -> Result<Option<Finding>> {
    let Err(error) = &entry.entry else { return Ok(None) };
    if entry.lost.is_some() && entry.revoked.is_none() {
        return Ok(None);
    }
    let number = entry.session.number;
    let object = names::log(&repository.keys.zone, number);
    if let Some(by) = &entry.opaque_by {
        let problem =
            format!("{error}; {by} signed it, and until it can be read nothing is added or deleted");
        return Ok(Some(Finding::new(Severity::Unsupported, object, problem)));
    }
    // An entry of a revoked writer is void by decision, not by damage: it still verifies by itself.
    let (there, bytes) = at_log(repository, number).await?;
    let sound = record::decode::<Entry>(&repository.keys.trust, &bytes)
        .is_ok_and(|entry| entry.fields.number == number && entry.fields.zone == repository.keys.zone);
    let is_known = sound || noted.contains(&there);
    let severity = if is_known { Severity::Note } else { Severity::Damaged };
    let way = match (is_known, log.said_of(number)) {
        (true, _) => String::new(),
        (false, Some(_)) => format!(
            ", though an entry was there: bring it back, or give it up with {}",
            GiveUp(object.clone())
        ),
        (false, None) => {
            format!("; if no right bytes will come back, put that on record with {}", GiveUp(object.clone()))
        }
    };
    let problem = format!("{error}; the entry is void{way}");
    Ok(Some(Finding { severity, object, problem, costs: costs(stranded, number) }))
}

fn check_outcome(
    repository: &Repository,
    log: &Log,
    entry: &LogEntry,
    replaced: &BTreeSet<SessionId>,
) -> Option<Finding> {
    let announced = entry.entry.as_deref().ok()?;
    let object = names::outcome(&repository.keys.zone, &entry.session);
    let costs = match &announced.fields.kind {
        Kind::Backup(intent) => vec![whole(entry.session, intent.vm.clone())],
        _ => Vec::new(),
    };
    match &entry.outcome {
        Outcome::Abort(abort) if replaced.contains(&entry.session) => {
            let problem = format!(
                "it is an abort by {}, and an earlier gc saw a snapshot there: the manifest was lost, and this was put in its \
                 place. gc deletes nothing until that is given up; {Repair} says how",
                abort.signer
            );
            Some(Finding { severity: Severity::Damaged, object, problem, costs })
        }
        Outcome::Invalid(error) if log.retention().gave_up(entry) => {
            let problem = format!("{error}; it was given up by a keeper, so nothing needs it");
            Some(Finding::new(Severity::Note, object, problem))
        }
        Outcome::Invalid(error) if log.abandoned().contains_key(&entry.session) => {
            let problem = format!("{error}; the administrator gave that gc up, so it ended with nothing");
            Some(Finding::new(Severity::Note, object, problem))
        }
        Outcome::Invalid(error) => {
            let problem = format!("{error}; its session counts as neither ended nor aborted");
            Some(Finding { severity: Severity::of(error), object, problem, costs })
        }
        Outcome::Undecided => {
            let witness = witness(log, &entry.session)?;
            let problem =
                format!("it is missing: log entry {witness} saw it; {Repair} says what can be done");
            Some(Finding { severity: Severity::Missing, object, problem, costs })
        }
        _ => None,
    }
}

/// A later entry that proves that the session had an outcome. After a commit aborts below it may be gone, unless the
/// commit itself counts the session as a snapshot.
pub(crate) fn witness(log: &Log, session: &SessionId) -> Option<u64> {
    if !log.retention().is_live(session) {
        // A commit gave it up, so that its manifest may go, or a keeper did.
        return None;
    }
    let seen = log.commits().find(|(.., lists)| lists.seen.binary_search(session).is_ok());
    if let Some((gc, ..)) = seen {
        return Some(gc.number);
    }
    let mut child = None;
    for entry in log.entries().filter(|entry| entry.session.number > session.number) {
        let Ok(announced) = &entry.entry else { continue };
        if entry.commit().is_some() {
            child = None;
        }
        if let Kind::Backup(intent) = &announced.fields.kind
            && intent.parents.contains(session)
        {
            child = child.or(Some(entry.session.number));
        }
    }
    child
}

/// Keys of the zone that belong to nothing.
pub(super) async fn unknown_keys(repository: &Repository, log: &Log) -> Result<Vec<Finding>> {
    let zone = &repository.keys.zone;
    let mut keys: BTreeSet<String> = log.unknown_keys().clone();
    for listed in repository.store.list(&format!("zones/{zone}/")).await? {
        let belongs = match ZoneKey::parse(zone, &listed.key) {
            Ok(ZoneKey::List(session, _) | ZoneKey::Index(session, _)) => log.has(&session),
            parsed => parsed.is_ok(),
        };
        if !belongs {
            keys.insert(listed.key);
        }
    }
    let finding = |object: String| {
        let of_a_session = match ZoneKey::parse(zone, &object) {
            Ok(ZoneKey::Outcome(_) | ZoneKey::List(..) | ZoneKey::Index(..)) => {
                ": the log has no such session. If two copies of the repository both went on and were put together, only \
                 the other copy has what this session saved: restore it from there"
            }
            _ => "",
        };
        let problem = format!("it belongs to nothing and is ignored{of_a_session}");
        Finding::new(Severity::Note, object, problem)
    };
    Ok(keys.into_iter().map(finding).collect())
}

/// What lies under keys that no program of ours can name, or in folders that cannot be listed. All was listed before.
pub(super) fn strange(repository: &Repository) -> Vec<Finding> {
    let finding = |(object, why): (String, String)| {
        let problem =
            format!("it is left out of listings ({why}): it belongs to nothing that the format knows");
        Finding::new(Severity::Note, object, problem)
    };
    repository.store.strange().into_iter().map(finding).collect()
}

/// Files of writes that are under way, or died.
pub(super) async fn leftovers(repository: &Repository) -> Result<Option<Finding>> {
    let found = repository.store.leftovers().await?;
    let Some(object) = found.largest else { return Ok(None) };
    let (files, verb) = if found.files == 1 {
        ("1 file".to_owned(), "is")
    } else {
        (format!("{} files", found.files), "are")
    };
    let problem = format!(
        "{files} of {} bytes {verb} of writes that are under way, or died; {Gc} removes what is older than a day",
        found.bytes
    );
    Ok(Some(Finding::new(Severity::Note, object, problem)))
}

/// Objects that somebody tried to hide or to replace on a store with versions. Everything of the zone was listed before.
pub(super) fn covered(repository: &Repository) -> Vec<Finding> {
    let zone = format!("zones/{}/", repository.keys.zone);
    let folders = [names::CONFIG, names::KEYS, zone.as_str()].into_iter();
    let finding = |folder: &str| {
        let keys = repository.store.covered(folder);
        let (first, count) = (keys.first()?, keys.len());
        let (object, over) = match count {
            1 => (first.as_str(), "it".to_owned()),
            _ => (folder, format!("{count} objects, such as {first}")),
        };
        let problem = format!(
            "delete markers or other versions were put over {over}: they hide nothing, but whoever did that has \
             credentials that write; find out who, and replace them"
        );
        Some(Finding::new(Severity::Note, object, problem))
    };
    folders.filter_map(finding).collect()
}
