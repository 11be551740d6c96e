//! What a log entry or an outcome must be to count: verified, at its place, of who may sign it.

use sancerre_format::FormatError;
use sancerre_format::certificate::{Role, Signer};
use sancerre_format::checkpoint::CarriedRecord;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Name, Time};
use sancerre_format::outcome::{Abort, Commit, Manifest};
use sancerre_format::record::{self, Fields, Record, Trust, Unverified};

use super::{LogEntry, Outcome};
use crate::repository::Repository;

pub(super) type Verified<T> = Result<T, FormatError>;

/// A log entry that belongs to its place, or what it is instead.
pub(super) enum Found {
    Known(Box<Record<Entry>>),
    /// The same by an admin key that was replaced since.
    OfOldAdmin(Box<Record<Entry>>),
    /// Signed by this key for this very place, and of a later version; whether it is an admin's that was replaced since.
    Opaque(Name, FormatError, bool),
}

impl LogEntry {
    pub(super) fn new(number: u64, intent: Hash, found: Verified<Found>) -> Self {
        let is_of_old_admin = matches!(found, Ok(Found::OfOldAdmin(_) | Found::Opaque(_, _, true)));
        let (entry, opaque_by) = match found {
            Ok(Found::Known(entry) | Found::OfOldAdmin(entry)) => (Ok(entry), None),
            Ok(Found::Opaque(by, error, _)) => (Err(error), Some(by)),
            Err(error) => (Err(error), None),
        };
        let session = SessionId { number, intent };
        Self {
            session,
            entry,
            revoked: None,
            void_by: None,
            opaque_by,
            outcome: Outcome::Undecided,
            lost: None,
            is_of_old_admin,
        }
    }
}

pub(super) fn forged(what: &'static str, detail: &str) -> FormatError {
    FormatError::Forged { what, detail: detail.to_owned() }
}

pub(super) fn decode_entry(repository: &Repository, key: &str, bytes: &[u8]) -> Verified<Found> {
    let entry = match record::decode::<Entry>(&repository.keys.trust, bytes) {
        Err(newer @ FormatError::Unsupported { .. }) => return decode_opaque(repository, key, bytes, newer),
        entry => entry?,
    };
    match read_part(&entry) {
        Err(newer @ FormatError::Unsupported { .. }) => decode_opaque(repository, key, bytes, newer),
        // Nobody can avoid what it proposes, so nobody may collect by it. (A quarantine of nothing harms nobody.)
        Err(damaged) if matches!(entry.fields.kind, Kind::Gc { .. }) => Err(damaged),
        _ => {
            let is_old = is_of_old_admin(repository, &entry.signer, bytes);
            let entry = at_its_place(repository, entry, key)?;
            Ok(if is_old { Found::OfOldAdmin(entry) } else { Found::Known(entry) })
        }
    }
}

fn at_its_place(repository: &Repository, entry: Record<Entry>, key: &str) -> Verified<Box<Record<Entry>>> {
    let (fields, trust) = (&entry.fields, &repository.keys.trust);
    let fits = fields.repository == trust.repository
        && fields.zone == repository.keys.zone
        && names::log(&fields.zone, fields.number) == key;
    if fits { Ok(Box::new(entry)) } else { Err(elsewhere(Entry::KIND)) }
}

/// A log entry that a checkpoint carries.
pub(super) fn carried_entry(repository: &Repository, carried: &CarriedRecord) -> Verified<LogEntry> {
    let CarriedRecord { session, hash, cut, bytes } = carried;
    let entry = record::decode_cut::<Entry>(&repository.keys.trust, bytes, *cut, *hash)?;
    let key = names::log(&repository.keys.zone, session.number);
    let entry = at_its_place(repository, entry, &key)?;
    Ok(LogEntry::new(session.number, session.intent, Ok(Found::Known(entry))))
}

/// The outcome of `announced` that a checkpoint carries.
pub(super) fn carried_outcome(
    trust: &Trust,
    announced: &Record<Entry>,
    carried: &CarriedRecord,
) -> Verified<Outcome> {
    let CarriedRecord { session, hash, cut, bytes } = carried;
    match family(bytes) {
        Some("manifest") => a_manifest(record::decode_cut(trust, bytes, *cut, *hash)?, announced, *session),
        _ => an_abort(record::decode_cut(trust, bytes, *cut, *hash)?, announced, *session),
    }
}

/// Reads the public part of an entry that means something. One that needs a newer version makes its entry so, for what it
/// names is not known.
fn read_part(entry: &Record<Entry>) -> Verified<()> {
    let number = entry.fields.number;
    match &entry.fields.kind {
        Kind::Quarantine { .. } => entry.public().and_then(|part| FrameSet::decode(part, number)).map(drop),
        Kind::Gc { .. } => entry.public().and_then(|part| GcLists::decode(part, number)).map(drop),
        _ => Ok(()),
    }
}

/// What needs a newer version may stop writers, so its signer must be of this zone and have meant this place: else anybody
/// could copy an entry of another zone or number here.
fn decode_opaque(repository: &Repository, key: &str, bytes: &[u8], newer: FormatError) -> Verified<Found> {
    let (trust, zone) = (&repository.keys.trust, &repository.keys.zone);
    let unverified = Unverified::split_head(Entry::KIND, bytes)?;
    let claim = |line: &str| unverified.claim(trust, line).map(|(_, value)| value.unwrap_or_default());
    let (signer, _) = unverified.claim(trust, "zone")?;
    let number = claim("number")?.parse().unwrap_or_default();
    let is_here = claim("zone")? == zone.to_string() && names::log(zone, number) == key;
    let is_valid = match &signer {
        Signer::Admin => true,
        Signer::Certified(certificate) => certificate.zone == *zone,
    };
    let in_time = Time::parse(&claim("time")?).is_ok_and(|time| signer.is_valid_at(time));
    if !(is_here && is_valid && in_time) {
        return Err(elsewhere(Entry::KIND));
    }
    let is_old = is_of_old_admin(repository, &signer, bytes);
    Ok(Found::Opaque(Name::new(signer.name())?, newer, is_old))
}

fn is_of_old_admin(repository: &Repository, signer: &Signer, bytes: &[u8]) -> bool {
    *signer == Signer::Admin && !record::is_of_last_admin(&repository.keys.trust, bytes)
}

fn elsewhere(what: &'static str) -> FormatError {
    forged(what, "it was made for another place")
}

pub(super) fn decode_outcome(
    trust: &Trust,
    announced: &Record<Entry>,
    session: SessionId,
    bytes: &[u8],
) -> Verified<Outcome> {
    let outcome = match family(bytes) {
        Some("manifest") => {
            record::decode(trust, bytes).and_then(|manifest| a_manifest(manifest, announced, session))
        }
        Some("commit") => decode_commit(trust, announced, session, bytes),
        _ => record::decode(trust, bytes).and_then(|abort| an_abort(abort, announced, session)),
    };
    match outcome {
        // Of another session or of somebody else it is junk, whatever version it claims.
        Err(newer @ FormatError::Unsupported { .. }) => {
            let unverified = Unverified::split_head("outcome", bytes)?;
            let (signer, claimed) = unverified.claim(trust, "session")?;
            let is_here = claimed.is_some_and(|claimed| claimed == session.to_string());
            if is_here && may_end(announced, &signer) { Err(newer) } else { Err(elsewhere("outcome")) }
        }
        outcome => outcome,
    }
}

/// What an outcome is, whatever its version.
pub(super) fn family(bytes: &[u8]) -> Option<&'static str> {
    let line = record::first_line(bytes);
    ["manifest", "commit"]
        .into_iter()
        .find(|family| line.starts_with(format!("sancerre-{family}-v").as_bytes()))
}

/// Whether a key may sign any outcome of this session: its own signer, and for an abort a keeper.
fn may_end(announced: &Record<Entry>, signer: &Signer) -> bool {
    *signer == announced.signer || matches!(signer.role(), Role::Keeper | Role::Admin)
}

fn a_manifest(record: Record<Manifest>, announced: &Record<Entry>, session: SessionId) -> Verified<Outcome> {
    let fits = record.fields.session == session
        && record.signer == announced.signer
        && matches!(&announced.fields.kind, Kind::Backup(intent)
            if intent.vm == record.fields.vm
                && intent.machine == record.fields.machine
                && intent.parents == record.fields.parents);
    if fits { Ok(Outcome::Manifest(Box::new(record))) } else { Err(elsewhere(Manifest::KIND)) }
}

/// A commit of the key that announced the collection, or of the admin: another keeper, who may have been revoked, cannot
/// end it so.
fn decode_commit(
    trust: &Trust,
    announced: &Record<Entry>,
    session: SessionId,
    bytes: &[u8],
) -> Verified<Outcome> {
    let record = record::decode::<Commit>(trust, bytes)?;
    let is_own = record.signer == Signer::Admin || record.signer == announced.signer;
    if record.fields.session != session || !is_own || !matches!(announced.fields.kind, Kind::Gc { .. }) {
        return Err(elsewhere(Commit::KIND));
    }
    let lists = GcLists::decode(record.public()?, session.number)?;
    // Writers above it avoid what was proposed: whatever else it burnt, one of them may use by now.
    let proposed = GcLists::decode(announced.public()?, session.number)?.dead;
    if !lists.dead.is_subset(&proposed) {
        return Err(forged(Commit::KIND, "it burns what its log entry did not propose"));
    }
    Ok(Outcome::Commit(Box::new(record), Box::new(lists)))
}

fn an_abort(record: Record<Abort>, announced: &Record<Entry>, session: SessionId) -> Verified<Outcome> {
    let is_writer = record.signer.role() == Role::Writer;
    if record.fields.session != session || (is_writer && record.fields.by.name != announced.fields.by.name) {
        return Err(elsewhere(Abort::KIND));
    }
    Ok(Outcome::Abort(Box::new(record)))
}
