//! The newest entry is lost, that of a saved snapshot S, and a thief of a writer's key says that something else stood there
//! (FORMAT.md §7.2): by an outcome of his, by what fills the number, by an entry above or in its place. Readers follow whom the
//! rules say; a collector must not take what S needs for garbage, and the administrator can always have S back.

use stateright::{Checker, Model, Property};

/// What is left out of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A collector follows what fills the number, or the least hash.
    FollowsFiller,
    /// A collector follows the entry above.
    FollowsAbove,
    /// What was rotten when somebody above read it was never an entry.
    RottenWasNone,
    /// An entry that is whole is not asked about.
    EntryStands,
    /// Whoever adds to the log says of a disputed number what he took for true, and that is believed.
    Vouches,
    /// The administrator's word does not come first.
    WordIsLast,
    /// A revocation takes the number.
    RevokeTakesNumber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    /// S's own entry.
    True,
    Missing,
    Rotten,
    /// What fills the number, for S or for the thief's session.
    Filler(Session),
    /// An entry of the thief.
    Taken,
    /// The revocation of the thief's key.
    Revoke,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Session {
    S,
    Fake,
}

/// What the next entry says of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Above {
    Free,
    Says(Session),
    /// The bytes that are there now.
    SaysRotten,
    SaysNothing,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    slot: Slot,
    above: Above,
    /// The thief's outcome is there.
    claims: bool,
    /// The thief's key is revoked from this number on.
    is_revoked: bool,
    /// Which session the administrator said it was.
    word: Option<Session>,
    deleted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Lose(Slot),
    Put(Slot),
    LieAbove(Above),
    Claim,
    /// An honest writer goes on above.
    GoOn,
    Revoke,
    Say,
    Collect,
}

struct Config {
    flaw: Flaw,
    /// The thief's hash is the lesser one.
    is_least: bool,
}

impl Config {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn claims(&self, state: &State) -> bool {
        state.claims && !state.is_revoked
    }

    /// What a reader takes to have stood there; nothing where several keys claim it, or something else is there.
    fn reads(&self, state: &State) -> Option<Session> {
        if state.slot == Slot::True {
            return Some(Session::S);
        }
        if state.slot == Slot::Revoke || state.slot == Slot::Taken && !state.is_revoked {
            return None;
        }
        let word = state.word.filter(|_| !self.has(Flaw::WordIsLast));
        let above = match state.above {
            Above::Says(session) => Some(Some(session)),
            Above::SaysRotten if state.slot == Slot::Rotten => Some(None),
            _ => None,
        };
        let filler = match state.slot {
            Slot::Filler(Session::Fake) if !self.claims(state) => None,
            Slot::Filler(session) => Some(session),
            _ => None,
        };
        let alone = match (self.claims(state), self.is_least) {
            (true, true) => Session::Fake,
            _ => Session::S,
        };
        match (word, above) {
            (Some(session), _) => Some(session),
            (None, Some(said)) => said,
            (None, None) => Some(filler.unwrap_or(alone)),
        }
    }

    /// S's manifest claims the number always: it is there.
    fn is_disputed(&self, state: &State) -> bool {
        let reads = self.reads(state);
        if state.slot == Slot::True || state.word.is_some() && state.word == reads {
            return state.slot == Slot::True && self.claims(state);
        }
        let others = reads != Some(Session::S) || self.claims(state);
        let excused = match state.slot {
            Slot::Taken => self.has(Flaw::EntryStands),
            Slot::Revoke => self.has(Flaw::RevokeTakesNumber),
            _ => match state.above {
                Above::SaysRotten => self.has(Flaw::RottenWasNone),
                Above::Says(_) => self.has(Flaw::FollowsAbove) || self.has(Flaw::Vouches),
                _ => self.has(Flaw::FollowsFiller),
            },
        };
        others && !excused
    }

    fn thief(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.claims {
            actions.push(Action::Claim);
        }
        if state.slot == Slot::Missing {
            actions.extend([Slot::Filler(Session::Fake), Slot::Taken].map(Action::Put));
        }
        if state.above == Above::Free && state.slot != Slot::True {
            let lies = [Above::Says(Session::Fake), Above::SaysRotten, Above::SaysNothing];
            actions.extend(lies.map(Action::LieAbove));
        }
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (slot, above) = (Slot::True, Above::Free);
        vec![State { slot, above, claims: false, is_revoked: false, word: None, deleted: false }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.slot == Slot::True && state.above == Above::Free {
            actions.extend([Slot::Missing, Slot::Rotten].map(Action::Lose));
        }
        if !state.is_revoked {
            self.thief(state, actions);
        }
        if state.above == Above::Free {
            actions.push(Action::GoOn);
        }
        if !state.is_revoked {
            actions.push(Action::Revoke);
        }
        let gives_way = !matches!(state.slot, Slot::True | Slot::Missing | Slot::Revoke)
            && (state.slot != Slot::Taken || state.is_revoked);
        if state.word.is_none() && (gives_way || state.slot == Slot::Missing) && state.above != Above::Free {
            actions.push(Action::Say);
        }
        if !state.deleted && !self.is_disputed(state) && self.reads(state) != Some(Session::S) {
            actions.push(Action::Collect);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Lose(slot) | Action::Put(slot) => state.slot = slot,
            Action::LieAbove(above) => state.above = above,
            Action::Claim => state.claims = true,
            Action::GoOn => {
                let reads = self.reads(last);
                if state.slot == Slot::Missing {
                    state.slot = Slot::Filler(reads?);
                }
                let vouches = !self.is_disputed(last) || self.has(Flaw::Vouches);
                state.above = match reads {
                    Some(session) if vouches => Above::Says(session),
                    _ => Above::SaysNothing,
                };
            }
            Action::Revoke => {
                state.is_revoked = true;
                match state.slot {
                    Slot::Missing if self.has(Flaw::RevokeTakesNumber) => state.slot = Slot::Revoke,
                    Slot::Missing => {
                        state.slot = Slot::Filler(Session::S);
                        if state.above == Above::Free {
                            state.above = Above::SaysNothing;
                        }
                    }
                    _ => {}
                }
            }
            Action::Say => {
                state.word = Some(Session::S);
                if state.slot == Slot::Missing {
                    state.slot = Slot::Filler(Session::S);
                }
            }
            Action::Collect => state.deleted = true,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(KEPT, |_, state: &State| !state.deleted),
            Property::always(BACK, |config: &Config, state: &State| {
                state.word.is_none() || state.deleted || config.reads(state) == Some(Session::S)
            }),
            Property::sometimes("a liar is followed", |config: &Config, state: &State| {
                config.reads(state) == Some(Session::Fake)
            }),
            Property::sometimes("the administrator says what it was", |_, state: &State| {
                state.word.is_some()
            }),
        ]
    }
}

/// What a saved snapshot needs is no garbage.
const KEPT: &str = "what the snapshot needs is there";
/// Once the administrator has said which session it was, it is read.
const BACK: &str = "the administrator has the snapshot back";

fn broken(flaw: Flaw) -> Option<&'static str> {
    let mut found = None;
    for is_least in [false, true] {
        let checker = Config { flaw, is_least }.checker().spawn_bfs().join();
        let broken = [KEPT, BACK].into_iter().find(|name| checker.discovery(name).is_some());
        let states = checker.unique_state_count();
        eprintln!("disputed number, {flaw:?}: {states} states, {}", broken.unwrap_or("holds"));
        for happening in ["a liar is followed", "the administrator says what it was"] {
            assert!(
                broken.is_some() || checker.discovery(happening).is_some(),
                "{flaw:?}: never: {happening}"
            );
        }
        found = found.or(broken);
    }
    found
}

#[test]
fn nobody_has_a_lost_newest_snapshot_collected() {
    assert_eq!(broken(Flaw::None), None);
}

#[test]
fn each_rule_of_disputes_is_needed() {
    let flaws = [
        Flaw::FollowsFiller,
        Flaw::FollowsAbove,
        Flaw::RottenWasNone,
        Flaw::EntryStands,
        Flaw::Vouches,
        Flaw::RevokeTakesNumber,
    ];
    for flaw in flaws {
        assert_eq!(broken(flaw), Some(KEPT), "{flaw:?}");
    }
    assert_eq!(broken(Flaw::WordIsLast), Some(BACK));
}
