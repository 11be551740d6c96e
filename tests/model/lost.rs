//! A log entry is lost, and writers go on above it (FORMAT.md §7.2): why the number is filled first, and why what is given up
//! ends with an abort. A small model of its own: one collector that would delete pack P, one writer that would reuse it, and
//! whoever makes number 2 a hole.

use stateright::{Checker, Model, Property};

/// What is left out of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A writer goes on above a hole for which an outcome stands, and leaves it free.
    NotFilled,
    /// The administrator gives up an entry whose session may still commit.
    NotEnded,
    /// The collector does not look whether its own entry is there before it deletes.
    NotReadBack,
}

/// How number 2 comes to be a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hole {
    /// A thief of a writer's key never made the entry: he signs an outcome for it, and an entry above it that says it was there.
    Lie,
    /// The collector's own entry is lost while it runs, and the entry above says what it was.
    Loss,
    /// The same, but nobody says what it was: the administrator gives it up unseen.
    Unsaid,
    /// The collector's entry is the newest when it is lost: its commit alone says that it was there. Before that is made, the
    /// writer's entry takes its number.
    Newest,
}

struct Config {
    hole: Hole,
    flaw: Flaw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    Free,
    Gc,
    Filler,
    Writer,
}

/// The collector: it read the log when 1 was the highest number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Collector {
    Planning,
    /// Its number is 2.
    Low,
    /// Its number is above all that there were.
    High {
        above_writer: bool,
    },
    Committed {
        burns: bool,
    },
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    /// It has its number, and read all below.
    Numbered {
        uses: bool,
    },
    Saved {
        uses: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Outcome {
    None,
    Commit,
    Abort,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    second: Slot,
    third: bool,
    /// The thief's outcome for a number 2 that never was.
    lie: bool,
    /// Of the collector's session, if its number is 2.
    outcome: Outcome,
    given_up: bool,
    collector: Collector,
    writer: Writer,
    deleted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    LieOutcome,
    LieEntry,
    Lose,
    GiveUp,
    /// The collector creates its entry at 2, or takes the next number.
    Announce,
    Commit,
    Delete,
    /// The writer fills a hole that an outcome stands for.
    Fill,
    Number,
    Save,
}

impl Config {
    /// Whether an object stands for number 2 while it is a hole.
    fn stands(&self, state: &State) -> bool {
        match self.hole {
            Hole::Lie => state.lie,
            Hole::Loss => state.outcome != Outcome::None || state.given_up,
            Hole::Unsaid => state.given_up,
            Hole::Newest => state.outcome != Outcome::None,
        }
    }

    /// Whether the writer may take a number: the log below is dense, or what is not there is stood for and filled.
    fn may_number(&self, state: &State) -> bool {
        match state.second {
            Slot::Free if self.hole == Hole::Newest => !self.stands(state),
            // Without anything above it, 2 is the next number and nobody misses it.
            Slot::Free if !state.third => false,
            Slot::Free => self.stands(state) && self.flaw == Flaw::NotFilled,
            Slot::Gc => true,
            Slot::Filler => self.stands(state),
            Slot::Writer => false,
        }
    }

    /// Whether the writer's avoid set has P.
    fn avoids(&self, state: &State) -> bool {
        let is_read = state.second == Slot::Gc;
        match self.hole {
            _ if is_read => state.outcome != Outcome::Abort,
            Hole::Lie => false,
            Hole::Loss | Hole::Newest => state.outcome == Outcome::Commit,
            // Everything below is avoided.
            Hole::Unsaid => self.flaw != Flaw::NotEnded,
        }
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let is_lie = self.hole == Hole::Lie;
        vec![State {
            second: if is_lie { Slot::Free } else { Slot::Gc },
            third: !is_lie && self.hole != Hole::Newest,
            lie: false,
            outcome: Outcome::None,
            given_up: false,
            collector: if is_lie { Collector::Planning } else { Collector::Low },
            writer: Writer::Idle,
            deleted: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let is_lie = self.hole == Hole::Lie;
        let is_newest = self.hole == Hole::Newest;
        let all = [
            (Action::LieOutcome, is_lie && !state.lie),
            (Action::LieEntry, is_lie && !state.third),
            (Action::Lose, !is_lie && state.second == Slot::Gc),
            (Action::GiveUp, !is_lie && !is_newest && state.second != Slot::Gc && !state.given_up),
            (Action::Announce, state.collector == Collector::Planning),
            (Action::Commit, matches!(state.collector, Collector::Low | Collector::High { .. })),
            (Action::Delete, state.collector == Collector::Committed { burns: true } && !state.deleted),
            (Action::Fill, state.second == Slot::Free && (state.third || is_newest) && self.stands(state)),
            (Action::Number, state.writer == Writer::Idle && self.may_number(state)),
            (Action::Save, matches!(state.writer, Writer::Numbered { .. })),
        ];
        actions.extend(all.into_iter().filter(|(_, may)| *may).map(|(action, _)| action));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let uses_p = matches!(state.writer, Writer::Saved { uses: true });
        match action {
            Action::LieOutcome => state.lie = true,
            Action::LieEntry => state.third = true,
            Action::Lose => state.second = Slot::Free,
            Action::Fill => state.second = Slot::Filler,
            Action::GiveUp => {
                state.second = Slot::Filler;
                state.given_up = true;
                let ends = self.hole == Hole::Loss && self.flaw != Flaw::NotEnded;
                if ends && state.outcome == Outcome::None {
                    state.outcome = Outcome::Abort;
                }
            }
            Action::Announce if state.second == Slot::Free => {
                (state.second, state.collector) = (Slot::Gc, Collector::Low);
            }
            Action::Announce => {
                let above_writer = state.writer != Writer::Idle;
                state.collector = Collector::High { above_writer };
            }
            // All below 2 has ended. What the records say of any number is looked at once more.
            Action::Commit if state.collector == Collector::Low => {
                state.collector = match state.outcome {
                    Outcome::None => {
                        state.outcome = Outcome::Commit;
                        Collector::Committed { burns: !uses_p }
                    }
                    _ => Collector::Ended,
                };
            }
            Action::Commit => {
                // It waits for the writer below it; one above it reads its proposal.
                let waits = state.collector == Collector::High { above_writer: true };
                if waits && matches!(state.writer, Writer::Numbered { .. }) {
                    return None;
                }
                state.collector = Collector::Committed { burns: !uses_p };
            }
            // And once more before anything is deleted.
            Action::Delete if uses_p => state.collector = Collector::Ended,
            // Who has its number did not see what it proposed.
            Action::Delete if self.hole == Hole::Newest && state.second != Slot::Gc => match self.flaw {
                Flaw::NotReadBack => state.deleted = true,
                _ => state.collector = Collector::Ended,
            },
            Action::Delete => state.deleted = true,
            Action::Number => {
                let announced = matches!(state.collector, Collector::High { above_writer: false })
                    || matches!(state.collector, Collector::Committed { burns: true })
                        && state.second != Slot::Gc
                        && self.hole == Hole::Lie;
                let uses = !self.avoids(&state) && !announced && !state.deleted;
                state.writer = Writer::Numbered { uses };
                if self.hole == Hole::Newest && state.second == Slot::Free {
                    state.second = Slot::Writer;
                }
            }
            Action::Save => {
                if let Writer::Numbered { uses } = state.writer {
                    state.writer = Writer::Saved { uses };
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what a saved snapshot needs is there", |_, state: &State| {
                !(state.deleted && state.writer == Writer::Saved { uses: true })
            }),
            Property::sometimes("the writer goes on", |_, state: &State| {
                matches!(state.writer, Writer::Saved { .. })
            }),
            Property::sometimes("the collector deletes", |_, state: &State| state.deleted),
        ]
    }
}

fn holds(hole: Hole, flaw: Flaw) -> bool {
    let checker = Config { hole, flaw }.checker().spawn_bfs().join();
    let states = checker.unique_state_count();
    let lost = checker.discovery("what a saved snapshot needs is there");
    for happening in ["the writer goes on", "the collector deletes"] {
        assert!(
            checker.discovery(happening).is_some() || lost.is_some(),
            "{hole:?} {flaw:?}: never: {happening}"
        );
    }
    eprintln!(
        "lost entry, {hole:?}, {flaw:?}: {states} states, {}",
        if lost.is_none() { "holds" } else { "loses P" }
    );
    lost.is_none()
}

#[test]
fn who_goes_on_above_a_lost_entry_loses_nothing() {
    for hole in [Hole::Lie, Hole::Loss, Hole::Unsaid, Hole::Newest] {
        assert!(holds(hole, Flaw::None), "{hole:?}");
    }
}

#[test]
fn a_hole_that_is_not_filled_loses_data() {
    assert!(!holds(Hole::Lie, Flaw::NotFilled));
}

#[test]
fn what_is_given_up_and_not_ended_loses_data() {
    assert!(!holds(Hole::Loss, Flaw::NotEnded));
    assert!(!holds(Hole::Unsaid, Flaw::NotEnded));
}

#[test]
fn a_collector_that_deletes_without_its_entry_loses_data() {
    assert!(!holds(Hole::Newest, Flaw::NotReadBack));
}
