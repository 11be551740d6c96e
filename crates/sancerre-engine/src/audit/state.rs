//! What an audit remembers: every record it saw, so that the next one notices a store that was rolled back, cut short or
//! forked since. Nothing in a store can prove that nothing newer was removed from it; a memory outside of it can.

use std::collections::BTreeMap;

use sancerre_advice::Setting::StateFile;
use sancerre_advice::Verb::Audit;
use sancerre_format::id::{Hash, RepositoryId, SessionId};
use sancerre_format::log::Kind;
use sancerre_format::names::{self, Time, Zone};
use sancerre_format::record::Trust;

use crate::check::{Cost, Finding, Severity};
use crate::error::{Error, Result};
use crate::repository::log::{Log, LogEntry, Outcome};

const FIRST_LINE: &str = "sancerre-audit-state-v1";

/// Sessions by number: the hash of the log entry, and of the outcome if there was one. One that does not verify may still
/// be mended by a true one, so it is not remembered.
type Seen = BTreeMap<u64, (Hash, Option<Hash>)>;

/// A zone when it was last audited.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Memory {
    time: Time,
    seen: Seen,
}

/// The memory of audits of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditState {
    repository: RepositoryId,
    anchor: String,
    zones: BTreeMap<Zone, Memory>,
}

/// A zone as it was seen, in one line that can be printed and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMark {
    /// The highest number in the log.
    pub highest: u64,
    /// BLAKE3 of the zone's lines in the state: of all records up to that number.
    pub records: Hash,
}

impl AuditState {
    /// A memory of nothing yet.
    pub fn new(trust: &Trust) -> Self {
        let anchor = trust.admin.fingerprint();
        Self { repository: trust.repository, anchor, zones: BTreeMap::new() }
    }

    /// When the zone was last audited, if it was.
    pub fn time(&self, zone: &Zone) -> Option<Time> {
        self.zones.get(zone).map(|memory| memory.time)
    }

    /// The zones it remembers.
    pub fn zones(&self) -> impl Iterator<Item = &Zone> {
        self.zones.keys()
    }

    /// Fails with [`Error::Usage`] when it is of another repository.
    pub fn belongs_to(&self, trust: &Trust) -> Result<()> {
        if self.repository == trust.repository && self.anchor == trust.admin.fingerprint() {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "the state file remembers repository {} ({}), not {} ({}); give each repository its own with {StateFile}",
            self.repository,
            self.anchor,
            trust.repository,
            trust.admin.fingerprint()
        )))
    }

    /// Remembers a zone, in place of what was remembered of it.
    pub fn remember(&mut self, zone: &Zone, log: &Log, time: Time) -> LogMark {
        let highest = log.highest();
        let seen = log.entries().take_while(|entry| entry.session.number <= highest);
        let seen: Seen =
            seen.map(|entry| (entry.session.number, (entry.session.intent, entry.outcome_hash()))).collect();
        let records = Hash::of(lines(&seen).as_bytes());
        self.zones.insert(zone.clone(), Memory { time, seen });
        LogMark { highest, records }
    }

    /// What of a remembered zone is not there any more, or not as it was.
    pub fn compare(&self, zone: &Zone, log: &Log) -> Vec<Finding> {
        let Some(memory) = self.zones.get(zone) else { return Vec::new() };
        let retention = log.retention();
        let wrong = |(number, (intent, outcome)): (&u64, &(Hash, Option<Hash>))| {
            let session = SessionId { number: *number, intent: *intent };
            let entry = log.entry(*number);
            let (severity, object, what) =
                difference(zone, entry, session, *outcome, retention.collected_by(&session).is_some())?;
            let problem = format!(
                "{what} since the audit of {}: the store was rolled back, cut short or forked",
                memory.time
            );
            Some(Finding { severity, object, problem, costs: costs(entry, session) })
        };
        memory.seen.iter().filter_map(wrong).collect()
    }

    /// The bytes of the state file.
    pub fn encode(&self) -> String {
        let Self { repository, anchor, zones } = self;
        let head = format!("{FIRST_LINE}\nrepository: {repository}\nadmin: {anchor}\n");
        let zones = zones
            .iter()
            .map(|(zone, memory)| format!("zone: {zone} {}\n{}", memory.time, lines(&memory.seen)));
        zones.fold(head, |text, zone| text + &zone)
    }

    /// Reads a state file.
    ///
    /// Errors: [`Error::Usage`] for one that this program did not write.
    pub fn decode(text: &str) -> Result<Self> {
        read(text).filter(|state| state.encode() == text).ok_or_else(|| {
            Error::Usage(format!(
                "the state file is not one that {Audit} wrote: its first line should be {FIRST_LINE}, and \
                 the rest as it was; give its backup, or another path to start anew"
            ))
        })
    }
}

fn read(text: &str) -> Option<AuditState> {
    let mut lines = text.lines();
    (lines.next()? == FIRST_LINE).then_some(())?;
    let mut field = |name: &str| lines.next()?.strip_prefix(name);
    let repository = RepositoryId::from_hex(field("repository: ")?).ok()?;
    let anchor = field("admin: ")?.to_owned();
    let mut zones: BTreeMap<Zone, Memory> = BTreeMap::new();
    let mut current = None;
    for line in lines {
        if let Some(zone) = line.strip_prefix("zone: ") {
            let (zone, time) = zone.split_once(' ')?;
            let (zone, time) = (Zone::new(zone).ok()?, Time::parse(time).ok()?);
            zones.insert(zone.clone(), Memory { time, seen: Seen::new() });
            current = Some(zone);
            continue;
        }
        let (session, outcome) = line.strip_prefix("session: ")?.split_once(' ')?;
        let session = SessionId::parse(session).ok()?;
        let outcome = match outcome {
            "-" => None,
            hash => Some(Hash::from_hex(hash).ok()?),
        };
        zones.get_mut(current.as_ref()?)?.seen.insert(session.number, (session.intent, outcome));
    }
    Some(AuditState { repository, anchor, zones })
}

/// How a session that was seen differs from what the log has now: what to blame, and for what.
fn difference(
    zone: &Zone,
    entry: Option<&LogEntry>,
    session: SessionId,
    outcome: Option<Hash>,
    is_given_up: bool,
) -> Option<(Severity, String, &'static str)> {
    let object = names::log(zone, session.number);
    let Some(entry) = entry else { return Some((Severity::Missing, object, "it is gone")) };
    if entry.session != session {
        return Some((Severity::Damaged, object, "another entry stands in its place"));
    }
    // What a revoked writer signed counts for nothing, whatever it is by now.
    let outcome = outcome.filter(|_| entry.revoked.is_none())?;
    let object = names::outcome(zone, &session);
    match (entry.outcome_hash(), &entry.outcome) {
        (Some(now), _) if now == outcome => None,
        (None, Outcome::Undecided) if is_given_up => None,
        (None, Outcome::Undecided) => Some((Severity::Missing, object, "it is gone")),
        _ => Some((Severity::Damaged, object, "another one stands in its place")),
    }
}

fn lines(seen: &Seen) -> String {
    seen.iter()
        .map(|(number, (intent, outcome))| {
            let session = SessionId { number: *number, intent: *intent };
            let outcome = outcome.map_or_else(|| "-".to_owned(), |hash| hash.to_string());
            format!("session: {session} {outcome}\n")
        })
        .collect()
}

/// The snapshot that a lost record was of, where the log still tells.
fn costs(entry: Option<&LogEntry>, session: SessionId) -> Vec<Cost> {
    let intent = entry.filter(|entry| entry.session == session).and_then(LogEntry::announced);
    let vm = intent.and_then(|entry| match &entry.fields.kind {
        Kind::Backup(intent) => Some(intent.vm.clone()),
        _ => None,
    });
    vm.map(|vm| Cost { snapshot: session, vm, disk: None, ranges: Vec::new() }).into_iter().collect()
}
