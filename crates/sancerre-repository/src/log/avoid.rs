//! What a session must not reuse, as the log says it: the heart of W2.

use std::collections::{HashMap, HashSet};

use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FrameName, PackName};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Name};
use sancerre_format::record::Record;

use crate::error::{Error, Result};

use super::moves::{Moves, PackAndFrameSet};
use super::{Log, LogEntry, Outcome};

/// Places that a session must not use (FORMAT.md §9.2).
#[derive(Debug, Clone, Default)]
pub struct Avoid {
    moves: Moves,
    marks: PackAndFrameSet,
    /// The gcs that burn or propose a pack, of packs from or to which something was moved.
    burners: HashMap<PackName, Vec<u64>>,
    sessions: HashSet<u64>,
    /// Packs of sessions below this number may be deleted by who knows whom.
    doubtful: Option<u64>,
    /// Below this number only these packs may be used.
    kept: Option<(u64, FrameSet)>,
    /// Sessions above this number are strangers.
    highest: Option<u64>,
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
        let distrusted = [frame.pack.session, pack.session].iter().any(|session| {
            self.sessions.contains(session) || self.highest.is_some_and(|highest| *session > highest)
        });
        let gone =
            self.kept.as_ref().is_some_and(|(upto, kept)| pack.session < *upto && !kept.contains_pack(&pack));
        let doubtful = self.doubtful.is_some_and(|number| pack.session < number);
        (!distrusted && !gone && !doubtful && !self.marks.contains(frame, &pack) && !self.left_behind(frame))
            .then_some(pack)
    }

    /// Whether a gc burns a pack in which the frame lay by some commit, and does not say that it moved the frame. A writer
    /// does not judge commits: if the one that moved it on is damaged, the frame lies there still.
    fn left_behind(&self, frame: &FrameName) -> bool {
        let moved = self.moves.places_of(frame);
        let burners = moved.iter().chain([&frame.pack]).filter_map(|pack| self.burners.get(pack)).flatten();
        !moved.is_empty() && burners.into_iter().any(|gc| !moved.iter().any(|to| to.session == *gc))
    }

    fn add_gc(&mut self, gc: u64, dead: &FrameSet) {
        self.marks.extend(dead);
        for pack in dead.packs().filter(|pack| self.moves.passes(pack)) {
            self.burners.entry(pack).or_default().push(gc);
        }
    }

    /// Whether a collector announced or gave up a pack, or something in all of it is damaged.
    pub(super) fn has_pack(&self, pack: &PackName) -> bool {
        self.doubtful.is_some_and(|number| pack.session < number) || self.marks.has_pack(pack)
    }

    /// Whether what a session says is listened to. A session whose frames are not used is no witness either.
    pub fn hears(&self, session: u64) -> bool {
        !self.sessions.contains(&session)
    }

    /// Adds all sessions above a number. A writer read the log when it had its own: what is above it may be void since, and
    /// still be uploaded to.
    pub fn nothing_above(&mut self, number: u64) {
        self.highest = Some(number);
    }

    /// Adds the sessions of everybody but this writer: neither what others stored nor what they say is used then.
    pub fn all_but(&mut self, log: &Log, writer: &Name) {
        let others = log.entries().filter_map(LogEntry::announced);
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
        let (moves, marks) = (Moves::below(self, number), self.quarantined(Log::END));
        let kept = self.basis.as_ref().map(|basis| (basis.upto, basis.kept.clone()));
        let mut avoid = Avoid { moves, marks, kept, ..Avoid::default() };
        self.avoid_gcs(&mut avoid, number)?;
        for entry in self.valid() {
            if let Kind::Taint(distrust) | Kind::Revoke(distrust) = &entry.fields.kind {
                avoid.sessions.extend(self.sessions_of(&distrust.writer, distrust.from));
            }
        }
        Ok(avoid)
    }

    /// Adds what collectors below `number` proposed or gave up.
    pub(super) fn avoid_gcs(&self, avoid: &mut Avoid, number: u64) -> Result<()> {
        let (abandoned, waiting) = (self.abandoned(), self.waiting());
        avoid.doubtful = self.doubtful_below(number);
        let from = self.start();
        for (_, entry) in self.entries.range(from..number.max(from)) {
            // The process of one that was given up may have read its own commit, and go on deleting.
            let is_in_force =
                !abandoned.contains_key(&entry.session) && !waiting.contains_key(&entry.session.number);
            avoid_gc(avoid, entry, is_in_force)?;
        }
        for (gc, lists) in self.hinted().filter(|(gc, _)| gc.number < number) {
            avoid.add_gc(gc.number, &lists.dead);
        }
        Ok(())
    }

    /// The sessions that a writer signed at numbers from the given one on, void by revocation or not.
    pub fn sessions_of<'a>(&'a self, writer: &'a Name, from: u64) -> impl Iterator<Item = u64> + 'a {
        let signed =
            move |entry: &&Record<Entry>| entry.fields.by.name == *writer && entry.fields.number >= from;
        let announced = self.entries().filter_map(LogEntry::announced);
        announced.filter(signed).map(|entry| entry.fields.number)
    }
}

fn avoid_gc(avoid: &mut Avoid, entry: &LogEntry, is_in_force: bool) -> Result<()> {
    let Ok(announced) = &entry.entry else { return Ok(()) };
    if !matches!(announced.fields.kind, Kind::Gc { .. }) {
        return Ok(());
    }
    match &entry.outcome {
        Outcome::Abort(_) | Outcome::Manifest(_) => {}
        Outcome::Commit(_, lists) if is_in_force => avoid.add_gc(entry.session.number, &lists.dead),
        // Open, unreadable, or without effect so far: the proposal may still become final.
        Outcome::Undecided | Outcome::Invalid(_) | Outcome::Commit(..) => {
            let key = names::log(&announced.fields.zone, announced.fields.number);
            let part = announced.public().map_err(Error::object(&key))?;
            let proposal = GcLists::decode(part, entry.session.number).map_err(Error::object(&key))?;
            avoid.add_gc(entry.session.number, &proposal.dead);
        }
    }
    Ok(())
}
