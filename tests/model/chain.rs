//! The chain of admin keys (FORMAT.md §4.6): the administrator hands over from key 0 to key 1, whose number in the chain is the
//! first free one, while a thief has key 0 and may create whatever is free: entries, links, certificates, and aborts that give
//! entries up. The store may lose an entry, but not while it is the newest: of that nothing but itself says what it was. Nothing of
//! the thief's that he makes after the hand-over counts, and all that was honest does.

use stateright::{Checker, Model, Property};

/// What is left out of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// Of two links that follow on one key the higher number stands.
    LastLinkStands,
    /// The new link is not put at the first number that is free.
    LeavesNumberFree,
    /// The new key is in force from above the highest number, whatever is free below.
    FromAboveGap,
    /// What the old key says of a lost entry goes by the entry's number alone.
    GivesUpByNumber,
    /// Certificates of the old key count, kept or not.
    KeepsAll,
    /// Nothing of the old key is kept.
    KeepsNothing,
    /// A link that the thief signs for the same key again is followed.
    GoesBack,
    /// An entry of the old key counts where the next one read another.
    ContradictedCounts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Entry {
    Free,
    /// By the old key, honest, or before the hand-over.
    Old,
    /// By the old key, after it.
    Late,
    New,
    /// A backup of a writer, and what fills its number once the entry is lost; its manifest is there.
    Backup,
    Lost,
    Filler,
    Junk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Link {
    Free,
    Junk,
    /// From key 0 to key 1.
    Honest {
        from: usize,
        keeps_abort: bool,
    },
    /// From key 0 to the thief's, or back to key 0.
    Thiefs {
        is_late: bool,
    },
    Back,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Abort {
    None,
    /// Of before the hand-over.
    Early,
    Late,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Hands {
    Idle,
    /// The numbers of the log, and which abort is there, are read.
    Read {
        from: usize,
        sees_abort: bool,
    },
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    log: [Entry; 5],
    links: [Link; 3],
    /// What gives up number 1, whose entry may be lost.
    abort: Abort,
    /// The thief's certificate is there, since before the hand-over or after it.
    certificate: Abort,
    hands: Hands,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    ReadLog,
    PutLink,
    Lose,
    /// Somebody with a key that counts appends.
    Append(Entry),
    PutEntry(usize, Entry),
    PutThiefsLink(usize, Link),
    PutAbort,
    PutCertificate,
}

#[derive(Debug, Clone, Copy)]
struct Config {
    flaw: Flaw,
}

/// Whom the chain leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Current {
    First,
    Second { from: usize, keeps_abort: bool },
    Thief { is_late: bool },
}

impl Config {
    fn has(self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn walk(self, state: &State) -> Current {
        let mut links: Vec<Link> = state.links.to_vec();
        if self.has(Flaw::LastLinkStands) {
            links.reverse();
        }
        let mut current = Current::First;
        for link in links {
            current = match (current, link) {
                (Current::First, Link::Honest { from, keeps_abort }) => Current::Second { from, keeps_abort },
                (Current::First, Link::Thiefs { is_late }) => Current::Thief { is_late },
                // Key 0 would sign for itself.
                (Current::Second { .. }, Link::Back) if self.has(Flaw::GoesBack) => Current::First,
                (current, _) => current,
            };
        }
        current
    }

    /// Whether the old key's entry at a number counts.
    fn counts_at(self, state: &State, number: usize) -> bool {
        match self.walk(state) {
            Current::First => true,
            // The one above has read the backup.
            Current::Second { .. } if number == 1 && !self.has(Flaw::ContradictedCounts) => false,
            Current::Second { from, .. } => number < from,
            Current::Thief { .. } => false,
        }
    }

    /// Whether an abort of the old key ends number 1.
    fn gives_up(self, state: &State) -> bool {
        let is_lost = matches!(state.log[1], Entry::Lost | Entry::Filler);
        let counts = match self.walk(state) {
            Current::First => true,
            Current::Second { from, keeps_abort } => {
                keeps_abort || self.has(Flaw::GivesUpByNumber) && 1 < from
            }
            Current::Thief { .. } => false,
        };
        state.abort != Abort::None && is_lost && counts
    }

    /// Whether what an honest writer's certificate says counts: it was there before the hand-over.
    fn is_kept(self, state: &State) -> bool {
        !(self.has(Flaw::KeepsNothing) && matches!(self.walk(state), Current::Second { .. }))
    }

    fn certificate_counts(self, state: &State) -> bool {
        match (self.walk(state), state.certificate) {
            (_, Abort::None) => false,
            (Current::First, _) => true,
            // The administrator drops what he does not know.
            (Current::Second { .. }, _) => self.has(Flaw::KeepsAll),
            (Current::Thief { .. }, _) => false,
        }
    }

    fn free_from(self, state: &State) -> usize {
        let is_free = |entry: &Entry| *entry == Entry::Free;
        match self.has(Flaw::FromAboveGap) {
            true => state.log.iter().rposition(|entry| !is_free(entry)).map_or(0, |last| last + 1),
            false => state.log.iter().position(is_free).unwrap_or(state.log.len()),
        }
    }

    fn thief(self, state: &State, actions: &mut Vec<Action>) {
        let is_late = state.hands == Hands::Done;
        let entry = if is_late { Entry::Late } else { Entry::Old };
        for (number, there) in state.log.iter().enumerate() {
            if matches!(there, Entry::Free | Entry::Lost) {
                actions.push(Action::PutEntry(number, entry));
                actions.push(Action::PutEntry(number, Entry::Junk));
            }
        }
        for (number, there) in state.links.iter().enumerate().filter(|(_, link)| **link == Link::Free) {
            debug_assert_eq!(*there, Link::Free);
            // One who is first to hand over cannot be undone: that is said, and left out here.
            let links = if is_late {
                vec![Link::Thiefs { is_late }, Link::Back, Link::Junk]
            } else {
                vec![Link::Junk]
            };
            actions.extend(links.into_iter().map(|link| Action::PutThiefsLink(number, link)));
        }
        if state.abort == Abort::None {
            actions.push(Action::PutAbort);
        }
        if state.certificate == Abort::None {
            actions.push(Action::PutCertificate);
        }
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let log = [Entry::Old, Entry::Backup, Entry::Old, Entry::Free, Entry::Free];
        let links = [Link::Free; 3];
        vec![State { log, links, abort: Abort::None, certificate: Abort::None, hands: Hands::Idle }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.hands {
            Hands::Idle => actions.push(Action::ReadLog),
            Hands::Read { .. } if state.links.contains(&Link::Free) => actions.push(Action::PutLink),
            _ => {}
        }
        if state.log[1] == Entry::Backup {
            actions.push(Action::Lose);
        }
        if state.hands == Hands::Done && state.log.contains(&Entry::Free) {
            actions.push(Action::Append(Entry::New));
        }
        self.thief(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let is_late = state.hands == Hands::Done;
        let now = if is_late { Abort::Late } else { Abort::Early };
        match action {
            Action::ReadLog => {
                if state.log[1] == Entry::Lost {
                    state.log[1] = Entry::Filler;
                }
                let sees_abort = self.gives_up(&state);
                state.hands = Hands::Read { from: self.free_from(&state), sees_abort };
            }
            Action::PutLink => {
                let Hands::Read { from, sees_abort } = state.hands else { return None };
                let mut free = (0..state.links.len()).filter(|at| state.links[*at] == Link::Free);
                let skips = usize::from(self.has(Flaw::LeavesNumberFree));
                let at = free.nth(skips)?;
                state.links[at] = Link::Honest { from, keeps_abort: sees_abort };
                state.hands = Hands::Done;
            }
            Action::Lose => state.log[1] = Entry::Lost,
            Action::Append(entry) => {
                let at = state.log.iter().position(|entry| *entry == Entry::Free)?;
                // Who appends fills what is lost below first.
                if state.log[1] == Entry::Lost {
                    state.log[1] = Entry::Filler;
                }
                state.log[at] = entry;
            }
            Action::PutEntry(number, entry) => state.log[number] = entry,
            Action::PutThiefsLink(number, link) => state.links[number] = link,
            Action::PutAbort => state.abort = now,
            Action::PutCertificate => state.certificate = now,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LATE, |config: &Config, state: &State| {
                let late =
                    |number: usize| state.log[number] == Entry::Late && config.counts_at(state, number);
                let is_forked = config.walk(state) == Current::Thief { is_late: true };
                let gives_up = state.abort == Abort::Late && config.gives_up(state);
                let certifies = state.certificate == Abort::Late && config.certificate_counts(state);
                !((0..state.log.len()).any(late) || is_forked || gives_up || certifies)
            }),
            Property::always(KEPT, |config: &Config, state: &State| {
                let is_done = state.hands == Hands::Done;
                let stands = matches!(config.walk(state), Current::Second { .. });
                let first = state.log[0] != Entry::Old || config.counts_at(state, 0);
                first && config.is_kept(state) && (!is_done || stands)
            }),
            Property::sometimes("the new key signs", |config: &Config, state: &State| {
                state.log.contains(&Entry::New) && matches!(config.walk(state), Current::Second { .. })
            }),
            Property::sometimes("what the old key gave up stays so", |config: &Config, state: &State| {
                state.hands == Hands::Done && state.abort == Abort::Early && config.gives_up(state)
            }),
        ]
    }
}

/// Nothing that the old key signs after the hand-over counts.
const LATE: &str = "what the old key signs later does not count";
/// What was there before does, and so does the hand-over.
const KEPT: &str = "what was there before the hand-over counts";

fn broken(flaw: Flaw) -> Option<&'static str> {
    let checker = Config { flaw }.checker().threads(2).spawn_bfs().join();
    let broken = [LATE, KEPT].into_iter().find(|name| checker.discovery(name).is_some());
    let states = checker.unique_state_count();
    eprintln!("chain of admin keys, {flaw:?}: {states} states, {}", broken.unwrap_or("holds"));
    match broken.and_then(|name| checker.discovery(name)) {
        Some(path) if std::env::var_os("SANCERRE_MODEL_TRACE").is_some() => {
            eprintln!("{:?}", path.into_actions());
        }
        Some(_) => {}
        None => {
            for happening in ["the new key signs", "what the old key gave up stays so"] {
                assert!(checker.discovery(happening).is_some(), "{flaw:?}: never: {happening}");
            }
        }
    }
    broken
}

#[test]
fn an_admin_key_that_was_replaced_adds_nothing() {
    assert_eq!(broken(Flaw::None), None);
}

#[test]
fn each_rule_of_the_chain_is_needed() {
    let late = [
        Flaw::LastLinkStands,
        Flaw::LeavesNumberFree,
        Flaw::FromAboveGap,
        Flaw::GivesUpByNumber,
        Flaw::KeepsAll,
        Flaw::ContradictedCounts,
    ];
    for flaw in late {
        assert_eq!(broken(flaw), Some(LATE), "{flaw:?}");
    }
    for flaw in [Flaw::KeepsNothing, Flaw::GoesBack] {
        assert!(broken(flaw).is_some(), "{flaw:?}");
    }
}
