//! The state of the model: the objects in the store, and what each running process remembers.
//!
//! A process has no name of its own: once its intent is created it *is* its session, before that it is one of
//! a sorted list of starters. So states that differ only in which host runs a session are one state.
//! A process that is never scheduled again is a crashed one, and one that goes on after an ABORT is a zombie;
//! neither needs a transition.

use crate::checkpoint::Facts;
use crate::config::Flaw;

/// Position of a session in [`State::sessions`]. Stands for (n, h): two sessions may share a number.
pub(crate) type Id = u8;

/// Chunks of content in the model.
pub(crate) const CHUNKS: usize = 2;

/// A number no log entry reaches: "as of now".
pub(crate) const NOW: u8 = u8::MAX;

/// A set of sessions, or of the packs they uploaded (one pack per session).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Set(pub(crate) u16);

impl Set {
    pub(crate) fn contains(self, id: Id) -> bool {
        self.0 & (1 << id) != 0
    }

    pub(crate) fn insert(&mut self, id: Id) {
        self.0 |= 1 << id;
    }

    pub(crate) fn remove(&mut self, id: Id) {
        self.0 &= !(1 << id);
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn union(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    pub(crate) fn intersects(self, other: Set) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Id> {
        (0..16).filter(move |&id| self.contains(id))
    }
}

/// For each chunk the pack in which it is found; `None`: the snapshot doesn't contain the chunk.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Uses(pub(crate) [Option<Id>; CHUNKS]);

impl Uses {
    /// (chunk, pack) pairs.
    pub(crate) fn iter(self) -> impl Iterator<Item = (usize, Id)> {
        self.0.into_iter().enumerate().filter_map(|(chunk, pack)| pack.map(|pack| (chunk, pack)))
    }

    pub(crate) fn packs(self) -> Set {
        self.iter().fold(Set::default(), |mut set, (_, pack)| {
            set.insert(pack);
            set
        })
    }
}

/// What a collector announces: the tombstone.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Proposal {
    /// Packs that shall go, those emptied by moves included.
    pub(crate) dead: Set,
    /// For each chunk the packs whose frame of it moves.
    pub(crate) moved: [Set; CHUNKS],
    /// Sessions of which the listing shows no pack; the burnt list shall name them as a whole.
    pub(crate) empty: Set,
}

/// What a collector decides.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Commit {
    pub(crate) dead: Set,
    /// For each chunk the packs whose frame of it now lies in this collector's pack.
    pub(crate) moved: [Set; CHUNKS],
    /// Snapshots that nothing brings back from here on.
    pub(crate) forgotten: Set,
    /// The digest: all lower sessions that succeeded and all lower records. Others at these numbers are void.
    pub(crate) counted: Set,
}

/// A log entry that is complete when it exists.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Record {
    Forget(Id),
    Undelete(Id),
    Hold(Id),
    Release(Id),
    Quarantine(Id),
    /// Nothing this session sealed shall be used again.
    Taint(Id),
    /// The doubtful key is not trusted at numbers from here on; [`NOW`]: from the record's own number on.
    Revoke {
        from: u8,
    },
    /// The commit of this collector can't be read, or lies; it has no effect above.
    Abandon(Id),
    /// What is known below a number, see [`crate::checkpoint`].
    Checkpoint,
    /// Owns packs of its own, as long as this snapshot lives.
    Note(Id),
    /// This backup is suspect: nothing from before it is let go.
    Suspect(Id),
    /// It is not any more.
    Clear(Id),
}

/// Who runs a session.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum By {
    #[default]
    Sound,
    /// A key that may be revoked or end, or is in hostile hands.
    Doubtful,
    /// A sound key in a newer program, which writes what others can't read.
    Newer,
}

/// The bytes of an intent.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    /// With the chunks of the disk, as bits.
    Backup(u8),
    Gc(Proposal),
    Record(Record),
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Outcome {
    None,
    Abort,
    Manifest(Uses),
    Commit(Commit),
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Stored {
    Never,
    Now,
    Deleted,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Pack {
    pub(crate) stored: Stored,
    /// Chunks in it, as bits.
    pub(crate) chunks: u8,
}

/// What the process of a session remembers, and how far it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Phase {
    /// Intent acknowledged, nothing read since.
    Announced,
    /// Writer after W2.
    Avoiding(Set),
    /// Writer after W3-W5.
    Uploaded(Uses),
    /// Writer whose commit was not acknowledged.
    Uncertain(Uses),
    /// Writer that knows it won, before W7.
    Won,
    /// Writer that reported "saved", or record reported as effective.
    Confirmed,
    /// Writer or record that reported failure; a request of it may still be under way.
    Failed(Option<Uses>),
    /// Collector after G2, with the outcomes it knew when planning (K).
    Proposed { known: Set },
    /// Collector after G3, with the frames that were copied.
    Copied { known: Set, copied: [Set; CHUNKS] },
    /// Collector after G5, about to create this outcome.
    Decided(Commit),
    /// Nothing left to do, or (records) nothing to report.
    Done,
}

/// The first outcome ever created for a session: kept by the model to check that it never changes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum First {
    None,
    Abort,
    Success,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Session {
    pub(crate) number: u8,
    pub(crate) kind: Kind,
    pub(crate) by: By,
    /// Its outcome came after the end of its certificate.
    pub(crate) late: bool,
    /// Whether `log/<n>` is there and holds this intent.
    pub(crate) intent: bool,
    pub(crate) outcome: Outcome,
    pub(crate) first: First,
    /// Created below a COMMIT, in a hole that folding left.
    pub(crate) void: bool,
    /// The process knows that its intent was created.
    pub(crate) acknowledged: bool,
    pub(crate) pack: Pack,
    pub(crate) phase: Phase,
}

impl Budget {
    /// What a session of this key draws on.
    pub(crate) fn of(&mut self, by: By, sound: impl FnOnce(&mut Budget) -> &mut u8) -> &mut u8 {
        match by {
            By::Sound => sound(self),
            By::Doubtful => &mut self.doubtful,
            By::Newer => &mut self.newer,
        }
    }
}

impl Session {
    pub(crate) fn commit(&self) -> Option<&Commit> {
        match &self.outcome {
            Outcome::Commit(commit) => Some(commit),
            _ => None,
        }
    }

    pub(crate) fn manifest(&self) -> Option<Uses> {
        match self.outcome {
            Outcome::Manifest(uses) => Some(uses),
            _ => None,
        }
    }

    pub(crate) fn record(&self) -> Option<Record> {
        match self.kind {
            Kind::Record(record) => Some(record),
            _ => None,
        }
    }

    pub(crate) fn proposal(&self) -> Option<&Proposal> {
        match &self.kind {
            Kind::Gc(proposal) => Some(proposal),
            _ => None,
        }
    }

    pub(crate) fn is_backup(&self) -> bool {
        matches!(self.kind, Kind::Backup(_))
    }

    pub(crate) fn is_stored(&self) -> bool {
        self.pack.stored == Stored::Now
    }
}

/// A process that has no number yet.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Starter {
    pub(crate) kind: Kind,
    pub(crate) by: By,
    /// The number it will try: 1 + the highest it saw, which may be long ago.
    pub(crate) next: u8,
    /// Collectors: the outcomes known when planning (K).
    pub(crate) known: Set,
    /// Only for the flaw that reads tombstones before the intent.
    pub(crate) avoid: Option<Set>,
}

/// A restore under way.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Reader {
    pub(crate) snapshot: Id,
    /// The COMMITs it has read.
    pub(crate) seen: Set,
    /// The chunk it reads next.
    pub(crate) chunk: u8,
    /// A pack was not where the log it had read said, and it has read the log again.
    pub(crate) has_missed: bool,
    /// And then it was found.
    pub(crate) has_followed: bool,
    /// It reported damage.
    pub(crate) is_lost: bool,
}

/// How many more times something may happen.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Budget {
    pub(crate) backups: u8,
    pub(crate) gcs: u8,
    pub(crate) forgets: u8,
    /// Holds and undeletes.
    pub(crate) rescues: u8,
    pub(crate) releases: u8,
    pub(crate) quarantines: u8,
    pub(crate) taints: u8,
    /// Delayed or repeated PUTs that land after the object was removed.
    pub(crate) late_puts: u8,
    pub(crate) lost_acks: u8,
    /// Writers that create the ABORT of their own session.
    pub(crate) give_ups: u8,
    /// Outcomes that become unreadable.
    pub(crate) hides: u8,
    /// Restores.
    pub(crate) readers: u8,
    /// Sessions of the doubtful key, and of newer programs.
    pub(crate) doubtful: u8,
    pub(crate) newer: u8,
    pub(crate) revokes: u8,
    /// Ends of the doubtful key's certificate.
    pub(crate) expiries: u8,
    pub(crate) abandons: u8,
    pub(crate) checkpoints: u8,
    pub(crate) notes: u8,
    /// Notes that a snapshot is suspect, and that it is not.
    pub(crate) suspects: u8,
    pub(crate) clears: u8,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct State {
    pub(crate) sessions: Vec<Session>,
    /// Sorted.
    pub(crate) starters: Vec<Starter>,
    pub(crate) budget: Budget,
    /// The session whose outcome can't be read at present.
    pub(crate) hidden: Option<Id>,
    pub(crate) reader: Option<Reader>,
    /// Only for flaws that use an index: packs whose segment was ever published, and those in the index now.
    pub(crate) published: Set,
    pub(crate) index: Set,
    /// Only for flaws that retire tombstones.
    pub(crate) retired: Set,
    /// Whether the certificate of the doubtful key has ended.
    pub(crate) expired: bool,
    /// Packs of which a collector has proven that nobody needs them, and which it is about to delete.
    pub(crate) proven: Set,
    /// A checkpoint that is written but has no number yet, and the one in the log.
    pub(crate) draft: Option<Facts>,
    pub(crate) checkpoint: Option<(Id, Facts)>,
    /// The same as in the configuration, for what parties make of what they read.
    pub(crate) flaw: Option<Flaw>,
}
