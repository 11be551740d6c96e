//! What anybody makes of a log whose entries 2 and 3 may be lost, see [`crate::unsaid`].

use crate::unsaid::{Config, Flaw};
use crate::unsaid_log::{Commit, Entry, Outcome, State, What, Which, outcome_of};

/// What number 2 is to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Second {
    /// The entry is there.
    Sound,
    /// It came to nothing.
    Void,
    /// Nothing says what was there.
    Unsaid,
    /// This session was there, and nothing stands for it.
    Unresolved(Which),
    Manifest(Which),
    /// A manifest for which a line of a backup or a commit speaks, or only itself, and that nobody admitted.
    Alone(Which),
    /// The same of a session for which nothing stands.
    Doubted(Which),
    Commit(Which),
}

impl Second {
    pub(crate) fn session(self) -> Option<Which> {
        match self {
            Self::Sound | Self::Void | Self::Unsaid => None,
            Self::Unresolved(which)
            | Self::Manifest(which)
            | Self::Alone(which)
            | Self::Doubted(which)
            | Self::Commit(which) => Some(which),
        }
    }
}

/// What is said of number 2.
enum Said {
    Nothing,
    Session(Which),
    Alone(Which),
}

/// What number 2 is, by all that is in the store now.
pub(crate) fn reads(config: &Config, state: &State) -> Second {
    if !state.log[0].is_lost && state.log[0].what != What::Filler {
        return Second::Sound;
    }
    if state.given_up && !config.has(Flaw::GivenUpReturns) {
        return Second::Void;
    }
    match said(config, state) {
        None if state.given_up => Second::Void,
        None => Second::Unsaid,
        Some(Said::Nothing) => Second::Void,
        Some(Said::Session(which)) => standing(config, state, which, false),
        Some(Said::Alone(which)) => standing(config, state, which, !is_admitted(state, which)),
    }
}

fn standing(config: &Config, state: &State, which: Which, is_alone: bool) -> Second {
    match outcome_of(state, which) {
        Outcome::Manifest(_) if !is_late(config, state, which) => match is_alone {
            true => Second::Alone(which),
            false => Second::Manifest(which),
        },
        Outcome::Commit(_) if is_admitted(state, which) || config.has(Flaw::CommitCountsAlone) => {
            Second::Commit(which)
        }
        Outcome::Abort if is_alone && !config.has(Flaw::GoesOnAlone) => Second::Unsaid,
        Outcome::Abort => Second::Void,
        _ if state.given_up => Second::Void,
        _ if is_alone => Second::Doubted(which),
        _ => Second::Unresolved(which),
    }
}

fn said(config: &Config, state: &State) -> Option<Said> {
    let parent = || above(state, 2).any(|entry| matches!(entry.what, What::Backup { names_fake: true, .. }));
    if config.has(Flaw::FillerSays) && state.filled {
        return Some(Said::Session(Which::Fake));
    }
    if config.has(Flaw::ParentFirst) && parent() {
        return Some(Said::Session(Which::Fake));
    }
    if let Some(third) = state.log.get(1).filter(|third| !third.is_lost) {
        return Some(third.previous.map_or(Said::Nothing, Said::Session));
    }
    if parent() {
        return Some(Said::Alone(Which::Fake));
    }
    for (_, commit) in commits_above(state) {
        if commit.saw_true || commit.saw_fake {
            return Some(Said::Alone(if commit.saw_true { Which::True } else { Which::Fake }));
        }
    }
    let claims = [Which::True, Which::Fake].into_iter().filter(|which| match outcome_of(state, *which) {
        Outcome::Manifest(_) => !is_late(config, state, *which),
        // Only of the newest.
        Outcome::Commit(_) => state.log.len() == 1,
        _ => false,
    });
    match (claims.collect::<Vec<_>>().as_slice(), state.log.len()) {
        ([only], 1) => Some(Said::Session(*only)),
        ([only], _) => Some(Said::Alone(*only)),
        // With nothing above it and no claim a filler is what nobody misses.
        ([], 1) => Some(Said::Nothing),
        _ => None,
    }
}

fn above(state: &State, skip: usize) -> impl Iterator<Item = &Entry> {
    state.log.iter().skip(skip).filter(|entry| !entry.is_lost)
}

fn commits_above(state: &State) -> impl Iterator<Item = (usize, Commit)> + '_ {
    state.log.iter().enumerate().skip(1).filter_map(|(at, entry)| match entry.outcome {
        Outcome::Commit(commit) => Some((at + 2, commit)),
        _ => None,
    })
}

fn is_late(config: &Config, state: &State, which: Which) -> bool {
    let knows = |commit: &Commit| match which {
        Which::True => commit.saw_true,
        Which::Fake => commit.saw_fake,
    };
    let mut commits = commits_above(state).map(|(_, commit)| commit);
    if config.has(Flaw::LateManifestCounts) {
        return false;
    }
    commits.next().is_some() && !commits_above(state).any(|(_, commit)| knows(&commit))
}

fn is_admitted(state: &State, which: Which) -> bool {
    above(state, 1).any(|entry| entry.what == What::Note(which))
}

/// The commits that count below a number, each with its own.
fn commits(config: &Config, state: &State, below: usize) -> Vec<(usize, Commit)> {
    let second = match reads(config, state) {
        Second::Commit(which) => outcome_of(state, which),
        Second::Sound => state.log[0].outcome,
        _ => Outcome::None,
    };
    let first = match second {
        Outcome::Commit(commit) => Some((2, commit)),
        _ => None,
    };
    first.into_iter().chain(commits_above(state)).filter(|(number, _)| *number < below).collect()
}

/// Whether S is held by the entries below a number.
pub(crate) fn is_held(state: &State, below: usize) -> bool {
    let mut log = state.log.iter().enumerate();
    log.any(|(at, entry)| entry.what == What::Hold && !entry.is_lost && at + 2 < below)
}

/// Whether a commit gave S up.
pub(crate) fn is_gone(config: &Config, state: &State, below: usize) -> bool {
    commits(config, state, below)
        .into_iter()
        .any(|(number, commit)| commit.forgets && !is_held(state, number))
}

/// Whether P is burnt by commits below a number.
pub(crate) fn dead(config: &Config, state: &State, below: usize) -> bool {
    commits(config, state, below).into_iter().any(|(_, commit)| commit.dead)
}

/// Whether a snapshot below a number that is not gone needs P.
pub(crate) fn needs(config: &Config, state: &State, below: usize) -> bool {
    needs_if(config, state, below, |_| true)
}

/// Whether a commit is judged by this session of number 2: the next entry or a note below the commit speaks for it.
fn judges(config: &Config, state: &State, which: Which, number: usize) -> bool {
    let next = state.log.get(1).is_none_or(|third| !third.is_lost && third.previous == Some(which));
    let mut log = state.log.iter().enumerate();
    let noted = log.any(|(at, entry)| at + 2 < number && entry.what == What::Note(which));
    next || noted || config.has(Flaw::LinesJudge) || config.has(Flaw::LateManifestCounts)
}

fn needs_if(config: &Config, state: &State, below: usize, counts: impl Fn(Which) -> bool) -> bool {
    let s = is_held(state, below) && !is_gone(config, state, below);
    let second = match reads(config, state) {
        Second::Sound => state.log[0].outcome == Outcome::Manifest(true),
        Second::Manifest(which) | Second::Alone(which) => {
            counts(which) && outcome_of(state, which) == Outcome::Manifest(true)
        }
        _ => false,
    };
    // Of entry 3 alone is lost what is in it: its manifest stands for it.
    let mut log = state.log.iter().enumerate().skip(1);
    s || second || log.any(|(at, entry)| at + 2 < below && entry.outcome == Outcome::Manifest(true))
}

/// Whether the commit at a number burns what is needed, or moves what lies elsewhere.
pub(crate) fn is_damaged(config: &Config, state: &State, number: usize) -> bool {
    let Outcome::Commit(commit) = state.log[number - 2].outcome else { return false };
    let needed = needs_if(config, state, number, |which| judges(config, state, which, number));
    let burns = commit.dead && !commit.moves && needed;
    let is_moved = commits(config, state, number).into_iter().any(|(_, below)| below.moves);
    burns || commit.moves && is_moved
}

impl Config {
    /// Whether a writer keeps away from P.
    pub(crate) fn avoids(&self, state: &State) -> bool {
        let burns = |which| matches!(outcome_of(state, which), Outcome::Commit(commit) if commit.dead);
        let is_doubted = !matches!(reads(self, state), Second::Sound | Second::Commit(_));
        // Whatever the log says of it: what is lost may have been this.
        let doubted = is_doubted && (burns(Which::True) || burns(Which::Fake));
        let proposed = above(state, 1).any(|entry| entry.what == What::Gc);
        let unknown = state.given_up;
        doubted && !self.has(Flaw::DoubtedNotAvoided) || proposed || unknown || dead(self, state, usize::MAX)
    }

    /// Whether P was deleted, and somebody who was told that his snapshot is saved or held has lost it.
    pub(crate) fn is_lost_for_good(&self, state: &State) -> bool {
        let mut commits = commits_above(state).filter(|(_, commit)| commit.is_honest);
        if !state.deleted || commits.any(|(_, commit)| commit.moves) {
            return false;
        }
        let gone = commits_above(state)
            .find(|(_, commit)| commit.is_honest && commit.forgets)
            .map(|(number, _)| number);
        let counts = |at: usize| at > 0 || !state.ended;
        state.log.iter().enumerate().any(|(at, entry)| match entry.what {
            What::Hold => counts(at) && gone.is_none_or(|gone| at + 2 < gone),
            What::Backup { names_fake: false, .. } => counts(at) && entry.outcome == Outcome::Manifest(true),
            _ => false,
        })
    }
}
