//! What the administrator has seen: numbers of the log at which other bytes are than an entry's. Nobody can write there again,
//! so `check` would name them for ever; what `repair` noted of exactly these bytes it tells as a note.

use std::collections::{BTreeMap, BTreeSet};

use sancerre_format::certificate::Signer;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::record::{self, Record};

use super::Log;

/// The topic of what `repair` notes.
pub const REPAIR: &str = "repair";
/// How such a note begins.
pub const HEADER: &str = "sancerre-repair-v1\ncritical: -\n";
/// A number, and the hash of what is there: zeros where it cannot be read.
pub const LINE: &str = "void: ";
/// A session that stood at its number, though its entry is lost, and whose outcome stands for that.
pub const SESSION_LINE: &str = "session: ";

impl Log {
    /// The numbers of which the administrator noted that no entry is there, each with the hash of what is.
    pub fn noted(&self) -> BTreeSet<SessionId> {
        self.valid().filter_map(|entry| lines(entry, LINE)).flatten().collect()
    }

    /// The sessions of which the administrator noted that their outcome stands for their lost entry, each with the number of the
    /// first note that says so.
    pub(super) fn admitted(&self) -> BTreeMap<SessionId, u64> {
        let mut admitted = BTreeMap::new();
        for entry in self.valid() {
            for session in lines(entry, SESSION_LINE).unwrap_or_default() {
                // invariant: other entries admit nothing
                admitted.entry(session).or_insert(entry.fields.number);
            }
        }
        admitted
    }
}

/// What one entry notes in lines of this kind; nothing if it is no such note, or does not read as one.
fn lines(entry: &Record<Entry>, kind: &str) -> Option<Vec<SessionId>> {
    let Kind::Note(note) = &entry.fields.kind else { return None };
    if entry.signer != Signer::Admin || note.topic.as_str() != REPAIR {
        return None;
    }
    let text = String::from_utf8(record::decompress_public("note", entry.public().ok()?).ok()?).ok()?;
    let lines = text.strip_prefix(HEADER)?.lines().filter_map(|line| line.strip_prefix(kind));
    Some(lines.filter_map(|session| SessionId::parse(session).ok()).collect())
}
