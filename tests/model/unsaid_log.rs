//! The log and the outcomes of [`crate::unsaid`].

/// Which session of number 2: that of its entry, or one that a thief made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Which {
    True,
    Fake,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Commit {
    pub(crate) is_honest: bool,
    /// P is burnt.
    pub(crate) dead: bool,
    /// And what a snapshot needs of it was moved.
    pub(crate) moves: bool,
    pub(crate) forgets: bool,
    /// The sessions of number 2 that it saw.
    pub(crate) saw_true: bool,
    pub(crate) saw_fake: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    None,
    /// Whether it needs P.
    Manifest(bool),
    Commit(Commit),
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Hold,
    Backup { uses: bool, names_fake: bool },
    Gc,
    Note(Which),
    Filler,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) what: What,
    pub(crate) outcome: Outcome,
    pub(crate) is_lost: bool,
    /// What it says of number 2, if it is number 3: nothing where it follows on a filler.
    pub(crate) previous: Option<Which>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// From number 2 on.
    pub(crate) log: Vec<Entry>,
    /// The outcome of the session that the thief made up.
    pub(crate) fake: Outcome,
    /// A thief's filler lies at number 2.
    pub(crate) filled: bool,
    /// The administrator's abort of a session of which nothing is known.
    pub(crate) given_up: bool,
    /// He gave up the very session that was there.
    pub(crate) ended: bool,
    pub(crate) deleted: bool,
}

pub(crate) fn outcome_of(state: &State, which: Which) -> Outcome {
    match which {
        Which::True => state.log[0].outcome,
        Which::Fake => state.fake,
    }
}
