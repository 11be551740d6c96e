//! Packs that a note owns: they stay while a snapshot that the note names may still be had.

use sancerre_format::id::SessionId;
use sancerre_format::log::Kind;

use crate::repository::log::{Log, LogEntry, Outcome, Retention};

/// Whether the packs of a note stay; none for any other entry. What is said here of a snapshot once, holds for ever: one that
/// is gone, ended with nothing or void never comes back. So a note that names none owns nothing.
pub(crate) fn keeps(log: &Log, retention: &Retention, entry: &LogEntry) -> Option<bool> {
    let Kind::Note(note) = &entry.announced()?.fields.kind else { return None };
    let may_be_had = |session: &SessionId| {
        let named = log.entry(session.number).filter(|named| named.session == *session);
        retention.collected_by(session).is_none()
            && named.is_some_and(|named| named.entry.is_ok() && !matches!(named.outcome, Outcome::Abort(_)))
    };
    Some(entry.entry.is_ok() && note.snapshots.iter().any(may_be_had))
}
