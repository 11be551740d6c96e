//! What a session must not reuse, as the log says it: the heart of W2.

use std::collections::HashSet;

use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::FrameName;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::Name;
use sancerre_format::record::Record;

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
}

impl Log {
    /// What a session with this number must not reuse.
    pub fn avoid(&self, number: u64) -> Avoid {
        let mut avoid = Avoid::default();
        if let Some((_, lists)) = self.newest_commit(number) {
            avoid.frames.union(&lists.burnt);
        }
        for (_, entry) in self.entries.range(..number) {
            avoid_gc(&mut avoid, entry);
        }
        for entry in self.valid() {
            match &entry.fields.kind {
                Kind::Quarantine { .. } => {
                    // A set that does not decode can't have been signed by this program; it names nothing.
                    avoid.frames.union(&FrameSet::decode(&entry.public).unwrap_or_default());
                }
                Kind::Taint(distrust) => {
                    avoid.sessions.extend(self.sessions_of(&distrust.writer, distrust.from));
                }
                _ => {}
            }
        }
        avoid
    }

    fn sessions_of<'a>(&'a self, writer: &'a Name, from: u64) -> impl Iterator<Item = u64> + 'a {
        let signed =
            move |entry: &&Record<Entry>| entry.fields.by.name == *writer && entry.fields.number >= from;
        self.valid().filter(signed).map(|entry| entry.fields.number)
    }
}

fn avoid_gc(avoid: &mut Avoid, entry: &LogEntry) {
    let Ok(announced) = &entry.entry else { return };
    if !matches!(announced.fields.kind, Kind::Gc) {
        return;
    }
    let lists = match &entry.outcome {
        Outcome::Abort(_) | Outcome::Manifest(_) => return,
        Outcome::Commit(_, lists) => lists.as_ref().clone(),
        // Open or unreadable: the proposal may still become final.
        Outcome::Undecided | Outcome::Invalid(_) => GcLists::decode(&announced.public).unwrap_or_default(),
    };
    avoid.frames.union(&lists.dead);
    for moved in &lists.moves {
        avoid.frames.insert(moved.frame);
    }
}
