//! What a session must not reuse, as the log says it: the heart of W2.

use std::collections::HashSet;

use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FrameName, PackName};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Name};
use sancerre_format::record::Record;

use crate::error::{Error, Result};

use super::moves::{Marks, Moves};
use super::{Log, LogEntry, Outcome};

/// Places that a session must not use (FORMAT.md §9.2).
#[derive(Debug, Clone, Default)]
pub struct Avoid {
    moves: Moves,
    marks: Marks,
    sessions: HashSet<u64>,
    /// Below this number only these packs may be used.
    kept: Option<(u64, FrameSet)>,
}

impl Avoid {
    /// Whether a frame must not be used.
    pub fn contains(&self, frame: &FrameName) -> bool {
        self.pack(frame).is_none()
    }

    /// The pack in which a frame lies, or none if it must not be used. What counts is the pack where it lies now, and,
    /// for trust, also the session that sealed it.
    pub fn pack(&self, frame: &FrameName) -> Option<PackName> {
        let pack = self.moves.pack(frame);
        let distrusted = self.sessions.contains(&frame.pack.session) || self.sessions.contains(&pack.session);
        let gone =
            self.kept.as_ref().is_some_and(|(upto, kept)| pack.session < *upto && !kept.contains_pack(&pack));
        (!distrusted && !gone && !self.marks.contains(frame, &pack)).then_some(pack)
    }

    /// Whether what a session says is listened to. A session whose frames are not used is no witness either.
    pub fn hears(&self, session: u64) -> bool {
        !self.sessions.contains(&session)
    }

    /// Adds the sessions of everybody but this writer: neither what others stored nor what they say is used then.
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
        // Copies in a collector's pack count when its commit is below: only then do they stay wherever they are moved.
        let (moves, marks) = (Moves::below(self, number), self.quarantined(u64::MAX));
        let kept = self.basis.as_ref().map(|basis| (basis.upto, basis.kept.clone()));
        let mut avoid = Avoid { moves, marks, sessions: HashSet::new(), kept };
        self.avoid_gcs(&mut avoid.marks, number)?;
        for entry in self.valid() {
            if let Kind::Taint(distrust) | Kind::Revoke(distrust) = &entry.fields.kind {
                avoid.sessions.extend(self.sessions_of(&distrust.writer, distrust.from));
            }
        }
        Ok(avoid)
    }

    /// Adds what collectors below `number` proposed or gave up.
    pub(super) fn avoid_gcs(&self, marks: &mut Marks, number: u64) -> Result<()> {
        let abandoned = self.abandoned();
        let from = self.start();
        for (_, entry) in self.entries.range(from..number.max(from)) {
            if !abandoned.contains(&entry.session) {
                avoid_gc(marks, entry)?;
            }
        }
        Ok(())
    }

    /// The sessions that a writer signed at numbers from the given one on, void by revocation or not.
    pub(crate) fn sessions_of<'a>(&'a self, writer: &'a Name, from: u64) -> impl Iterator<Item = u64> + 'a {
        let signed =
            move |entry: &&Record<Entry>| entry.fields.by.name == *writer && entry.fields.number >= from;
        let announced = self.entries.values().filter_map(LogEntry::announced);
        announced.filter(signed).map(|entry| entry.fields.number)
    }
}

fn avoid_gc(marks: &mut Marks, entry: &LogEntry) -> Result<()> {
    let Ok(announced) = &entry.entry else { return Ok(()) };
    if !matches!(announced.fields.kind, Kind::Gc { .. }) {
        return Ok(());
    }
    match &entry.outcome {
        Outcome::Abort(_) | Outcome::Manifest(_) => {}
        Outcome::Commit(_, lists) => marks.extend(&lists.dead),
        // Open or unreadable: the proposal may still become final.
        Outcome::Undecided | Outcome::Invalid(_) => {
            let key = names::log(&announced.fields.zone, announced.fields.number);
            let part = announced.public().map_err(Error::object(&key))?;
            let proposal = GcLists::decode(part, entry.session.number).map_err(Error::object(&key))?;
            marks.extend(&proposal.dead);
        }
    }
    Ok(())
}
