//! What the administrator has seen: numbers of the log at which other bytes are than an entry's. Nobody can write there again,
//! so `check` would name them for ever; what `repair` noted of exactly these bytes it tells as a note.

use std::collections::BTreeSet;

use sancerre_format::certificate::Signer;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::record::{self, Record};

use super::Log;

/// The topic of what `repair` notes.
pub(crate) const REPAIR: &str = "repair";
/// How such a note begins.
pub(crate) const HEADER: &str = "sancerre-repair-v1\ncritical: -\n";
/// A number, and the hash of what is there: zeros where it cannot be read.
pub(crate) const LINE: &str = "void: ";

impl Log {
    /// The numbers of which the administrator noted that no entry is there, each with the hash of what is.
    pub(crate) fn noted(&self) -> BTreeSet<SessionId> {
        self.valid().filter_map(lines).flatten().collect()
    }
}

/// What one entry notes; nothing if it is no such note, or does not read as one.
fn lines(entry: &Record<Entry>) -> Option<Vec<SessionId>> {
    let Kind::Note(note) = &entry.fields.kind else { return None };
    if entry.signer != Signer::Admin || note.topic.as_str() != REPAIR {
        return None;
    }
    let text = String::from_utf8(record::decompress_public("note", entry.public().ok()?).ok()?).ok()?;
    let lines = text.strip_prefix(HEADER)?.lines().filter_map(|line| line.strip_prefix(LINE));
    Some(lines.filter_map(|session| SessionId::parse(session).ok()).collect())
}
