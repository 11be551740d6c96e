//! Drills: on record is that a snapshot was started, and whether it came up. A note of the log, signed by whoever tried it,
//! public, and without effect on anything.

use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, Kind, Note};
use sancerre_format::names::{Name, Time};
use sancerre_format::record::{self, Record};

use crate::error::Result;
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::repository::session::{append, one_line};

/// The topic of such a note, and its results.
const TOPIC: &str = "drill";
const PASSED: &str = "passed";
const FAILED: &str = "failed";
/// How its public part begins.
const HEADER: &str = "sancerre-drill-v1\ncritical: -\n";

/// What came of starting a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drilled {
    /// Which.
    pub snapshot: SessionId,
    /// Whether it came up.
    pub is_passed: bool,
    /// How long that took, or until it was given up.
    pub seconds: u64,
    /// What said that it is up, or why it is not, in a line.
    pub why: String,
}

/// A drill on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillRecord {
    /// Its number in the log.
    pub number: u64,
    /// When, as its signer signed.
    pub time: Time,
    /// Who signed it.
    pub by: Name,
    /// What came of it. Where the note was cut to its head nobody knows how long it took: then 0.
    pub drilled: Drilled,
}

/// Writes down a drill; returns the number of the entry.
///
/// Errors: [`Error::WrongKey`](crate::Error::WrongKey) without a key that signs; the store's.
pub async fn record(repository: &Repository, drilled: &Drilled) -> Result<u64> {
    let log = Log::load(repository).await?;
    let result = Name::new(if drilled.is_passed { PASSED } else { FAILED })?;
    let text = format!("{HEADER}seconds: {}\nwhy: {}\n", drilled.seconds, one_line(&drilled.why));
    let note = Note { topic: Name::new(TOPIC)?, result: Some(result), snapshots: vec![drilled.snapshot] };
    let public = record::compress_public(&text)?;
    Ok(append(repository, &log, Kind::Note(note), &public).await?.number)
}

/// All drills that a log has, in its order: those whose signer is trusted.
pub fn records(log: &Log) -> Vec<DrillRecord> {
    let notes = log.entries().filter_map(|entry| Some((entry.session.number, entry.entry.as_deref().ok()?)));
    notes.filter_map(|(number, entry)| read(number, entry)).collect()
}

fn read(number: u64, entry: &Record<Entry>) -> Option<DrillRecord> {
    let Kind::Note(note) = &entry.fields.kind else { return None };
    let (true, [snapshot]) = (note.topic.as_str() == TOPIC, note.snapshots.as_slice()) else { return None };
    let is_passed = note.result.as_ref()?.as_str() == PASSED;
    let (seconds, why) = text(entry).unwrap_or_default();
    let drilled = Drilled { snapshot: *snapshot, is_passed, seconds, why };
    Some(DrillRecord { number, time: entry.fields.time, by: entry.fields.by.name.clone(), drilled })
}

/// What the public part says, if it is there and says it.
fn text(entry: &Record<Entry>) -> Option<(u64, String)> {
    let open = || record::decompress_public("note", entry.public()?);
    let text = String::from_utf8(open().ok()?).ok()?;
    let lines = text.strip_prefix(HEADER)?;
    let value = |key: &str| lines.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    Some((value("seconds")?.parse().ok()?, value("why").unwrap_or_default().to_owned()))
}
