//! What a session must not reuse, as the log says it: the heart of W2.

use std::collections::HashSet;

use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::FrameName;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Name};
use sancerre_format::record::Record;

use crate::error::{Error, Result};

use super::{Log, LogEntry, Outcome};

/// Places that a session must not use (FORMAT.md §9.2).
#[derive(Debug, Clone, Default)]
pub struct Avoid {
    frames: FrameSet,
    sessions: HashSet<u64>,
}

impl Avoid {
    /// Whether a frame must not be used.
    pub fn contains(&self, frame: &FrameName) -> bool {
        self.sessions.contains(&frame.pack.session) || self.frames.contains(frame)
    }

    /// Adds frames found unusable.
    pub fn extend(&mut self, frames: &FrameSet) {
        self.frames.union(frames);
    }

    /// Adds the sessions of everybody but this writer: what others stored is not known then, and cannot be poisoned.
    pub fn all_but(&mut self, log: &Log, writer: &Name) {
        let others = log.entries.values().filter_map(LogEntry::announced);
        let others = others.filter(|entry| entry.fields.by.name != *writer);
        self.sessions.extend(others.map(|entry| entry.fields.number));
    }
}

impl Log {
    /// What a session with this number must not reuse.
    ///
    /// Errors: a proposal that a keeper signed and nobody can read; to ignore it could lose data.
    pub fn avoid(&self, number: u64) -> Result<Avoid> {
        let mut avoid = Avoid::default();
        if let Some((.., lists)) = self.newest_commit(number) {
            avoid.frames.union(&lists.burnt);
        }
        for (_, entry) in self.entries.range(..number) {
            avoid_gc(&mut avoid, entry)?;
        }
        for entry in self.valid() {
            match &entry.fields.kind {
                Kind::Quarantine { .. } => {
                    // A set that does not decode was not made by this program. It names nothing, and must not stop
                    // the others: any writer may sign a quarantine.
                    avoid.frames.union(&FrameSet::decode(&entry.public).unwrap_or_default());
                }
                Kind::Taint(distrust) | Kind::Revoke(distrust) => {
                    avoid.sessions.extend(self.sessions_of(&distrust.writer, distrust.from));
                }
                _ => {}
            }
        }
        Ok(avoid)
    }

    /// The sessions that a writer signed at numbers from the given one on, void by revocation or not.
    pub(crate) fn sessions_of<'a>(&'a self, writer: &'a Name, from: u64) -> impl Iterator<Item = u64> + 'a {
        let signed =
            move |entry: &&Record<Entry>| entry.fields.by.name == *writer && entry.fields.number >= from;
        let announced = self.entries.values().filter_map(LogEntry::announced);
        announced.filter(signed).map(|entry| entry.fields.number)
    }
}

fn avoid_gc(avoid: &mut Avoid, entry: &LogEntry) -> Result<()> {
    let Ok(announced) = &entry.entry else { return Ok(()) };
    if !matches!(announced.fields.kind, Kind::Gc) {
        return Ok(());
    }
    let lists = match &entry.outcome {
        Outcome::Abort(_) | Outcome::Manifest(_) => return Ok(()),
        Outcome::Commit(_, lists) => lists.as_ref().clone(),
        // Open or unreadable: the proposal may still become final.
        Outcome::Undecided | Outcome::Invalid(_) => {
            let key = names::log(&announced.fields.zone, announced.fields.number);
            GcLists::decode(&announced.public).map_err(Error::object(&key))?
        }
    };
    avoid.frames.union(&lists.dead);
    for moved in &lists.moves {
        avoid.frames.insert(moved.frame);
    }
    Ok(())
}
