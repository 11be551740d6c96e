//! What outcomes may stand for when log entries are lost (FORMAT.md §7.2), with thieves. Snapshot S needs pack P and was
//! forgotten before number 2, which is a hold over it, a backup that needs P too, a collector that burnt P, or what a thief put
//! there: the filler of a session that never was. Entries 2 and 3 may be lost at any time, but not while they are the newest:
//! of these nobody can say anything but themselves. A keeper's revocation counts from its own number on, so it is no
//! transition here: what a thief signs for number 2 is as good after it as before.
//!
//! With one lost entry the rules of FORMAT.md hold as they stand. Where both are lost they need what `GoesOnUnsaid`,
//! `GoesOnAlone` and `LinesJudge` leave out: whatever does not come from the next entry itself is good enough to read by, but
//! a collector waits until the administrator has confirmed it or given the number up.

use stateright::{Model, Property};

use crate::unsaid_log::{Commit, Entry, Outcome, State, What, Which, outcome_of};
use crate::unsaid_view::{Second, dead, is_damaged, is_gone, is_held, needs, reads};

/// What is left out of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// A commit counts that the administrator did not admit.
    CommitCountsAlone,
    /// A manifest counts that no commit above it knew.
    LateManifestCounts,
    /// A commit is judged by snapshots that a line, or only their own manifest, speaks for.
    LinesJudge,
    /// What fills a number says which session was there.
    FillerSays,
    /// A `parent` line above says it, whatever the next entry says.
    ParentFirst,
    /// The collector goes on above a session that was there and for which nothing stands.
    GoesOnUnresolved,
    /// The same above a number of which nothing is said.
    GoesOnUnsaid,
    /// A line of a backup or a commit, or an outcome by itself, is enough for a collector.
    GoesOnAlone,
    /// The administrator admits a commit without a look at the `records` of those above.
    AdmitsBlindly,
    /// He gives up by the session's own key alone, which may be taken.
    NoUnknownAbort,
    /// What he gave up so can be had back by what is said later.
    GivenUpReturns,
    /// A writer uses what a commit burnt that nobody admitted.
    DoubtedNotAvoided,
}

/// What number 2 really was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Was {
    Hold,
    Backup,
    Gc,
    Filler,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thief {
    Nobody,
    Keeper,
    Writer,
    Both,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    pub(crate) second: Was,
    pub(crate) thief: Thief,
    /// Whether entry 3 may be lost as well.
    pub(crate) both_lost: bool,
    pub(crate) flaw: Flaw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    LoseSecond,
    LoseThird,
    /// An honest writer, which may need P, keeper and collector.
    Number(bool),
    Save,
    Hold,
    Announce,
    Commit,
    Delete,
    /// The collector of number 2 goes on to delete, whatever became of its entry.
    OldDelete,
    /// The thief.
    Fill,
    LieAbove,
    NameAsParent,
    FakeManifest,
    FakeCommit,
    FakeAbort,
    SeeFake,
    /// The administrator.
    GiveUp(Which),
    GiveUpUnknown,
    Admit(Which),
}

/// A thief's commit that says nothing yet.
const LIES: Commit =
    Commit { is_honest: false, dead: false, moves: false, forgets: false, saw_true: false, saw_fake: false };

/// Entries in all: more make new orders, and no new case.
const LOG_MAX: usize = 5;

impl Config {
    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn keeper_is_stolen(&self) -> bool {
        matches!(self.thief, Thief::Keeper | Thief::Both)
    }

    fn writer_is_stolen(&self) -> bool {
        matches!(self.thief, Thief::Writer | Thief::Both)
    }

    /// Whether a collector may go on, by what it reads.
    fn may_collect(&self, state: &State) -> bool {
        match reads(self, state) {
            Second::Unresolved(_) => self.has(Flaw::GoesOnUnresolved),
            Second::Doubted(_) => self.has(Flaw::GoesOnUnresolved) || self.has(Flaw::GoesOnUnsaid),
            Second::Unsaid => self.has(Flaw::GoesOnUnsaid),
            Second::Alone(_) => self.has(Flaw::GoesOnAlone) || self.has(Flaw::GoesOnUnsaid),
            _ => true,
        }
    }

    /// How the administrator can end what stops collectors.
    fn decisions(&self, state: &State) -> Vec<Action> {
        let unknown = (!state.given_up).then_some(Action::GiveUpUnknown);
        let room = state.log.len() < LOG_MAX;
        let admits = |which| {
            let is_commit =
                matches!(outcome_of(state, which), Outcome::Commit(_)) && self.may_admit(state, which);
            (is_commit && room).then_some(Action::Admit(which))
        };
        let decisions = match reads(self, state) {
            Second::Unresolved(which) => {
                let own = (outcome_of(state, which) == Outcome::None).then_some(Action::GiveUp(which));
                let taken = if self.has(Flaw::NoUnknownAbort) || own.is_some() { None } else { unknown };
                [own, admits(which), taken]
            }
            Second::Doubted(which) => [unknown, admits(which), None],
            Second::Alone(which) => [unknown, room.then_some(Action::Admit(which)), None],
            Second::Unsaid => [unknown, None, None],
            _ => [None; 3],
        };
        decisions.into_iter().flatten().collect()
    }

    /// The `records` of honest commits above have the outcome, and it burns nothing that is needed below it.
    fn may_admit(&self, state: &State, which: Which) -> bool {
        let is_above = state.log.iter().skip(1).any(|entry| is_honest(&entry.outcome));
        let agrees = which == Which::True && self.second == Was::Gc;
        self.has(Flaw::AdmitsBlindly) || agrees || !is_above && !is_thiefs(state, which)
    }

    fn number(&self, state: &State, what: What) -> Entry {
        // Whoever goes on above a session that was there says so.
        let previous = match (state.log.len(), reads(self, state)) {
            (1, Second::Sound) => Some(Which::True),
            (1, second) => second.session(),
            _ => None,
        };
        Entry { what, outcome: Outcome::None, is_lost: false, previous }
    }

    fn honest(&self, state: &State, actions: &mut Vec<Action>) {
        let room = state.log.len() < LOG_MAX;
        let open = |is: fn(&What) -> bool| {
            state.log.iter().any(|entry| is(&entry.what) && entry.outcome == Outcome::None)
        };
        let (writes, collects) = (open(is_honest_backup), open(is_gc));
        let collected = state.log.iter().skip(1).any(|entry| is_honest(&entry.outcome));
        let has_begun = state.log.iter().skip(1).any(|entry| is_honest_burn(&entry.outcome));
        let may_write = room
            && !writes
            && state.log.iter().skip(1).filter(|entry| is_honest_backup(&entry.what)).count() < 2;
        let has_hold = state.log.iter().any(|entry| entry.what == What::Hold);
        let all = [
            (Action::Number(false), may_write),
            (Action::Number(true), may_write && !self.avoids(state) && !state.deleted),
            (Action::Save, writes),
            (
                Action::Hold,
                room && !has_hold && !is_gone(self, state, usize::MAX) && self.second == Was::Filler,
            ),
            (Action::Announce, room && !collects && self.may_collect(state) && !has_begun),
            (Action::Commit, collects && self.may_collect(state) && !writes),
            (
                Action::Delete,
                collected && dead(self, state, usize::MAX) && self.may_collect(state) && !state.deleted,
            ),
            (Action::OldDelete, self.second == Was::Gc && !state.deleted),
        ];
        actions.extend(all.into_iter().filter(|(_, may)| *may).map(|(action, _)| action));
    }

    fn hostile(&self, state: &State, actions: &mut Vec<Action>) {
        let (keeper, writer) = (self.keeper_is_stolen(), self.writer_is_stolen());
        let (room, free) = (state.log.len() < LOG_MAX, state.fake == Outcome::None);
        let says = |entry: &Entry| matches!(entry.what, What::Backup { names_fake: true, .. });
        let saw =
            state.log.iter().any(|entry| matches!(entry.outcome, Outcome::Commit(commit) if commit.saw_fake));
        let is_lost = state.log[0].is_lost && !state.filled;
        let all = [
            (Action::Fill, (keeper || writer) && is_lost),
            (Action::LieAbove, writer && state.log.len() == 1 && self.second == Was::Filler),
            (Action::NameAsParent, writer && state.log.len() >= 2 && room && !state.log.iter().any(says)),
            (Action::FakeManifest, writer && free),
            (Action::FakeCommit, keeper && free),
            (Action::FakeAbort, (keeper || writer) && free),
            (Action::SeeFake, keeper && writer && room && !saw && state.log.len() >= 2),
        ];
        actions.extend(all.into_iter().filter(|(_, may)| *may).map(|(action, _)| action));
    }

    /// The collector decides by what it reads now.
    fn decide(&self, state: &mut State) {
        let Some(at) =
            state.log.iter().position(|entry| is_gc(&entry.what) && entry.outcome == Outcome::None)
        else {
            return;
        };
        let needed = needs(self, state, at + 2);
        let second = reads(self, state);
        let saw = |which| matches!(second, Second::Manifest(seen) | Second::Alone(seen) if seen == which);
        let is_backup = self.second == Was::Backup && second == Second::Sound;
        // What is dead already is left as it is.
        let dead = !dead(self, state, at + 2);
        state.log[at].outcome = Outcome::Commit(Commit {
            is_honest: true,
            dead,
            moves: dead && needed,
            forgets: !is_held(state, at + 2),
            saw_true: saw(Which::True) || is_backup,
            saw_fake: saw(Which::Fake),
        });
    }

    /// What the thief and the administrator do.
    fn interfere(&self, last: &State, state: &mut State, action: Action) {
        match action {
            Action::Fill => state.filled = true,
            Action::LieAbove => state.log.push(thiefs(Some(Which::Fake))),
            Action::NameAsParent => state.log.push(thiefs(None)),
            Action::FakeManifest => state.fake = Outcome::Manifest(true),
            Action::FakeAbort => state.fake = Outcome::Abort,
            Action::FakeCommit => {
                let lies = Commit { dead: true, moves: true, forgets: true, ..LIES };
                state.fake = Outcome::Commit(lies);
            }
            Action::SeeFake => {
                let lies = Commit { saw_fake: true, ..LIES };
                state.log.push(Entry { outcome: Outcome::Commit(lies), ..self.number(last, What::Gc) });
            }
            Action::GiveUp(which) => {
                state.ended |= which == Which::True;
                match which {
                    Which::True => state.log[0].outcome = Outcome::Abort,
                    Which::Fake => state.fake = Outcome::Abort,
                }
            }
            Action::GiveUpUnknown => (state.given_up, state.ended) = (true, true),
            _ => {}
        }
    }
}

fn is_thiefs(state: &State, which: Which) -> bool {
    matches!(outcome_of(state, which), Outcome::Commit(commit) if !commit.is_honest)
}

fn is_gc(what: &What) -> bool {
    *what == What::Gc
}

fn is_honest_backup(what: &What) -> bool {
    matches!(what, What::Backup { names_fake: false, .. })
}

fn is_honest(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Commit(commit) if commit.is_honest)
}

fn is_honest_burn(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Commit(commit) if commit.is_honest && commit.dead)
}

/// A backup by the thief, which needs nothing and is complete.
fn thiefs(previous: Option<Which>) -> Entry {
    let what = What::Backup { uses: false, names_fake: true };
    Entry { what, outcome: Outcome::Manifest(false), is_lost: false, previous }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let commit = Commit {
            is_honest: true,
            dead: true,
            moves: false,
            forgets: true,
            saw_true: false,
            saw_fake: false,
        };
        let (what, outcome) = match self.second {
            Was::Hold => (What::Hold, Outcome::None),
            Was::Backup => (What::Backup { uses: true, names_fake: false }, Outcome::Manifest(true)),
            Was::Gc => (What::Gc, Outcome::Commit(commit)),
            Was::Filler => (What::Filler, Outcome::None),
        };
        let second = Entry { what, outcome, is_lost: false, previous: None };
        let filled = self.second == Was::Filler;
        vec![State {
            log: vec![second],
            fake: Outcome::None,
            filled,
            given_up: false,
            ended: false,
            deleted: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let is_newest = state.log.len() == 1;
        if self.second != Was::Filler && !is_newest && !state.log[0].is_lost {
            actions.push(Action::LoseSecond);
        }
        let third = state
            .log
            .get(1)
            .is_some_and(|entry| !entry.is_lost && matches!(entry.outcome, Outcome::Manifest(_)));
        if self.both_lost && third && state.log.len() > 2 {
            actions.push(Action::LoseThird);
        }
        self.honest(state, actions);
        self.hostile(state, actions);
        actions.extend(self.decisions(state));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let mut push = |what| state.log.push(self.number(last, what));
        match action {
            Action::LoseSecond => state.log[0].is_lost = true,
            Action::LoseThird => state.log[1].is_lost = true,
            Action::Number(uses) => push(What::Backup { uses, names_fake: false }),
            Action::Hold => push(What::Hold),
            Action::Announce => push(What::Gc),
            Action::Admit(which) => push(What::Note(which)),
            Action::Save => {
                let open = state
                    .log
                    .iter_mut()
                    .find(|entry| is_honest_backup(&entry.what) && entry.outcome == Outcome::None)?;
                let What::Backup { uses, .. } = open.what else { return None };
                open.outcome = Outcome::Manifest(uses);
            }
            Action::Commit => self.decide(&mut state),
            Action::Delete => {
                // What a snapshot needs of it lies elsewhere, or nothing needs it: else it stays.
                let moved = state.log.iter().any(|entry| matches!(entry.outcome, Outcome::Commit(commit) if commit.is_honest && commit.moves));
                if !moved && needs(self, &state, usize::MAX) {
                    return None;
                }
                state.deleted = true;
            }
            Action::OldDelete => state.deleted = true,
            _ => self.interfere(last, &mut state, action),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(KEPT, |config: &Config, state: &State| !config.is_lost_for_good(state)),
            Property::always(SOUND, |config: &Config, state: &State| {
                (1..state.log.len())
                    .all(|at| !is_honest(&state.log[at].outcome) || !is_damaged(config, state, at + 2))
            }),
            Property::always(DECIDES, |config: &Config, state: &State| {
                config.may_collect(state) || state.log.len() == LOG_MAX || !config.decisions(state).is_empty()
            }),
            Property::sometimes("the writer goes on", |_, state: &State| {
                let saved = |entry: &Entry| is_honest_backup(&entry.what) && entry.outcome != Outcome::None;
                (state.log[0].is_lost || state.filled) && state.log.iter().skip(1).any(saved)
            }),
            Property::sometimes("the collector goes on", |_, state: &State| {
                (state.log[0].is_lost || state.filled) && state.deleted
            }),
        ]
    }
}

/// What a saved or held snapshot needs is there.
pub(crate) const KEPT: &str = "what a saved or held snapshot needs is there";
/// An honest commit stays sound, whatever comes later.
pub(crate) const SOUND: &str = "an honest commit is not called damaged";
/// Whatever stops a collector the administrator can end.
pub(crate) const DECIDES: &str = "the administrator can let a collector go on";
