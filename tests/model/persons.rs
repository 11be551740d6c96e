//! Two persons for forgetting, for ending holds and for clearing what is suspect (FORMAT.md §7.1): one snapshot, three keepers and the administrator, one of
//! whose keys is stolen. A number of approvals that the administrator asked for may be lost from the log.
//!
//! The rules are in [`View`], as readers have them; what must come of them is told by persons, in the properties.

use stateright::{Checker, Model, Property};

/// What is left out of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A forget counts at once.
    ForgetAlone,
    /// A release counts at once.
    ReleaseAlone,
    /// A clear counts at once.
    ClearAlone,
    /// Who asked may approve.
    OwnApproval,
    /// A key under two names is two.
    TwoNames,
    /// The administrator's approval counts.
    AdminApproves,
    /// One keeper's approvals count each.
    TwiceByOne,
    /// What a revoked key approves counts.
    RevokedApproves,
    /// An undelete leaves forgets that wait as they are.
    UndeleteKeepsAsked,
    /// A hold leaves releases that wait as they are.
    HoldKeepsAsked,
    /// A suspicion leaves clears that wait as they are.
    SuspectKeepsAsked,
    /// Fewer approvals are needed as soon as the administrator says so.
    LowerAlone,
    /// More approvals leave a wish for fewer as it is.
    RaiseKeepsAsked,
    /// A number of approvals that is lost is no more.
    NotKeptTwice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Alice,
    Bob,
    /// A keeper's whose key may be stolen.
    Carol,
    /// The same key under another name.
    Alias,
    Admin,
}

impl Key {
    fn person(self) -> Self {
        if self == Self::Alias { Self::Carol } else { self }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Forget,
    Release,
    Undelete,
    Hold,
    /// What was saved looks suspect, so deletion stands still.
    Suspect,
    Clear,
    /// Of the entry at this place.
    Approve(usize),
    Quorum(u8),
    /// Of Carol's key.
    Revoke,
    /// A collector that commits: what is not live is gone.
    Commit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Entry {
    by: Key,
    what: What,
    is_lost: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    log: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Say(Key, What),
    /// A number of approvals, of the log.
    Lose(usize),
}

struct Config {
    needed: u8,
    stolen: Option<Key>,
    /// What each may say, once.
    words: &'static [(Key, What)],
    loses: bool,
    length: usize,
    flaw: Flaw,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    at: usize,
    by: Key,
    what: What,
    needed: u8,
    approved: Vec<Key>,
}

/// What a reader of the log makes of it.
#[derive(Debug, Clone, Default)]
struct View {
    needed: u8,
    asked: Vec<Asked>,
    is_forgotten: bool,
    is_held: bool,
    is_suspect: bool,
    is_gone: bool,
    is_revoked: bool,
    /// A number of approvals fell though fewer than it had agreed.
    fell_alone: bool,
}

impl View {
    fn of(config: &Config, log: &[Entry]) -> Self {
        let mut view = Self { needed: config.needed, ..Self::default() };
        for (at, entry) in log.iter().enumerate() {
            let is_carols = entry.by.person() == Key::Carol;
            let is_void = is_carols && view.is_revoked && config.flaw != Flaw::RevokedApproves;
            if !(is_void || entry.is_lost && config.flaw == Flaw::NotKeptTwice) {
                view.apply(config, at, *entry);
            }
        }
        view
    }

    fn is_live(&self) -> bool {
        !self.is_gone && (!self.is_forgotten || self.is_held || self.is_suspect)
    }

    fn apply(&mut self, config: &Config, at: usize, Entry { by, what, .. }: Entry) {
        let flaw = config.flaw;
        let is_alone = match what {
            What::Forget => flaw == Flaw::ForgetAlone,
            What::Release => flaw == Flaw::ReleaseAlone,
            What::Clear => flaw == Flaw::ClearAlone,
            What::Quorum(more) => more >= self.needed || flaw == Flaw::LowerAlone,
            _ => false,
        };
        match what {
            What::Forget | What::Release | What::Clear | What::Quorum(_) if is_alone || self.needed == 0 => {
                self.grant(flaw, what, 0);
            }
            What::Forget | What::Release | What::Clear | What::Quorum(_) => {
                self.asked.push(Asked { at, by, what, needed: self.needed, approved: Vec::new() });
            }
            What::Approve(of) => self.approve(flaw, of, by),
            What::Undelete => {
                self.is_forgotten = false;
                if flaw != Flaw::UndeleteKeepsAsked {
                    self.asked.retain(|asked| asked.what != What::Forget);
                }
            }
            What::Hold => {
                self.is_held = true;
                if flaw != Flaw::HoldKeepsAsked {
                    self.asked.retain(|asked| asked.what != What::Release);
                }
            }
            What::Suspect => {
                self.is_suspect = true;
                if flaw != Flaw::SuspectKeepsAsked {
                    self.asked.retain(|asked| asked.what != What::Clear);
                }
            }
            What::Revoke => self.is_revoked = true,
            What::Commit => self.is_gone |= !self.is_live(),
        }
    }

    fn approve(&mut self, flaw: Flaw, of: usize, by: Key) {
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.at == of) else { return };
        let one = |key: Key| if flaw == Flaw::TwoNames { key } else { key.person() };
        let is_keeper = by != Key::Admin || flaw == Flaw::AdminApproves;
        let is_own = one(asked.by) == one(by) && flaw != Flaw::OwnApproval;
        let is_again = asked.approved.iter().any(|key| one(*key) == one(by)) && flaw != Flaw::TwiceByOne;
        if !is_keeper || is_own || is_again {
            return;
        }
        asked.approved.push(by);
        if asked.approved.len() >= usize::from(asked.needed) {
            let (what, approvals) = (asked.what, asked.approved.len());
            self.asked.retain(|asked| asked.at != of);
            self.grant(flaw, what, approvals);
        }
    }

    fn grant(&mut self, flaw: Flaw, what: What, approvals: usize) {
        match what {
            What::Forget => self.is_forgotten = true,
            What::Release => self.is_held = false,
            What::Clear => self.is_suspect = false,
            What::Quorum(needed) => {
                self.fell_alone |= needed < self.needed && approvals < usize::from(self.needed);
                self.needed = needed;
                if flaw != Flaw::RaiseKeepsAsked {
                    self.asked.retain(|asked| !matches!(asked.what, What::Quorum(_)));
                }
            }
            _ => {}
        }
    }
}

impl Config {
    fn is_honest(&self, key: Key) -> bool {
        self.stolen != Some(key.person())
    }

    /// An honest keeper approves what another asked for; a thief whatever he likes.
    fn may_say(&self, state: &State, by: Key, what: What) -> bool {
        let view = View::of(self, &state.log);
        let asks = |what: What| view.asked.iter().any(|asked| asked.what == what && asked.by == by);
        match what {
            _ if !self.is_honest(by) => true,
            What::Forget => view.is_live() && !asks(what),
            What::Release => view.is_held && !asks(what),
            What::Clear => view.is_suspect && !asks(what),
            What::Undelete => !view.is_gone,
            What::Hold => {
                let waits = view.asked.iter().any(|asked| asked.what == What::Release);
                !view.is_gone && (!view.is_held || waits)
            }
            What::Suspect => {
                let waits = view.asked.iter().any(|asked| asked.what == What::Clear);
                !view.is_gone && (!view.is_suspect || waits)
            }
            What::Approve(of) => {
                view.asked.iter().any(|asked| asked.at == of && asked.by.person() != by.person())
            }
            What::Commit => !view.is_gone && !view.is_live(),
            _ => true,
        }
    }

    /// The persons who agreed to this, who asked or approved what was asked for above what honest people said against it: none
    /// that is the thief.
    fn consents(&self, state: &State, what: What, against: Option<usize>) -> usize {
        let mut persons = Vec::new();
        let counts = |at: usize| {
            state.log.get(at).is_some_and(|entry| entry.what == what) && against.is_none_or(|said| at > said)
        };
        for (at, entry) in state.log.iter().enumerate() {
            let is_consent = counts(at) || matches!(entry.what, What::Approve(of) if counts(of));
            if is_consent && self.is_honest(entry.by) && !persons.contains(&entry.by.person()) {
                persons.push(entry.by.person());
            }
        }
        persons.len()
    }

    fn last(&self, state: &State, what: What) -> Option<usize> {
        state.log.iter().rposition(|entry| entry.what == what && self.is_honest(entry.by))
    }

    /// Who has one key alone takes nothing away: somebody honest agreed, and above what honest people said against it.
    fn nobody_alone(&self, state: &State) -> bool {
        let view = View::of(self, &state.log);
        let is_lowered = state.log.iter().any(|entry| matches!(entry.what, What::Quorum(0)));
        // Where none are needed, as enough agreed, one alone may forget.
        let was_none = |end: usize| View::of(self, &state.log[..end]).needed == 0;
        let was_none = is_lowered && !view.fell_alone && (1..=state.log.len()).any(was_none);
        if !view.is_gone || was_none {
            return true;
        }
        let forgets = self.consents(state, What::Forget, self.last(state, What::Undelete));
        let held = self.last(state, What::Hold);
        let releases = held.is_none() || self.consents(state, What::Release, held) > 0;
        let suspect = self.last(state, What::Suspect);
        let clears = suspect.is_none() || self.consents(state, What::Clear, suspect) > 0;
        forgets > 0 && releases && clears
    }
}

impl Config {
    fn enough(&self, state: &State) -> bool {
        let is_number = |entry: &Entry| matches!(entry.what, What::Quorum(_));
        if !View::of(self, &state.log).is_gone || state.log.iter().any(is_number) {
            return true;
        }
        let revoked = state.log.iter().position(|entry| entry.what == What::Revoke).unwrap_or(usize::MAX);
        let approvers = |of: usize| {
            let mut persons: Vec<Key> = state
                .log
                .iter()
                .enumerate()
                .filter(|(at, entry)| {
                    let is_good = entry.by.person() != Key::Carol || *at < revoked;
                    entry.what == What::Approve(of) && entry.by != Key::Admin && is_good
                })
                .map(|(_, entry)| entry.by.person())
                .filter(|person| *person != state.log[of].by.person())
                .collect();
            persons.sort_unstable();
            persons.dedup();
            persons.len()
        };
        let mut forgets = (0..state.log.len()).filter(|at| state.log[*at].what == What::Forget);
        forgets.any(|at| approvers(at) >= usize::from(self.needed))
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Where none are needed by `config`, the administrator has asked for one since.
        let number = Entry { by: Key::Admin, what: What::Quorum(1), is_lost: false };
        let log = if self.needed == 0 { vec![number] } else { Vec::new() };
        vec![State { log }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let all = || state.log.iter();
        let said = |by: Key, what: What| {
            all().any(|entry| entry.by == by && same_kind(entry.what, what) && self.is_honest(by))
                || all().any(|entry| entry.by == by && entry.what == what)
        };
        if state.log.len() < self.length {
            for (by, what) in self.words {
                let targets = match what {
                    What::Approve(_) => (0..state.log.len()).map(What::Approve).collect(),
                    what => vec![*what],
                };
                let is_asked = |what: &What| match what {
                    What::Approve(of) => asks(state.log[*of].what),
                    _ => true,
                };
                let new = targets.into_iter().filter(|what| !said(*by, *what) && is_asked(what));
                let new = new.filter(|what| self.may_say(state, *by, *what));
                actions.extend(new.map(|what| Action::Say(*by, what)));
            }
        }
        let is_number =
            |at: &usize| matches!(state.log[*at].what, What::Quorum(_)) && !state.log[*at].is_lost;
        if self.loses {
            actions.extend((0..state.log.len()).filter(is_number).map(Action::Lose));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Say(by, what) => state.log.push(Entry { by, what, is_lost: false }),
            Action::Lose(at) => state.log[at].is_lost = true,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ALONE, |config: &Config, state: &State| config.nobody_alone(state)),
            Property::always(ENOUGH, |config: &Config, state: &State| config.enough(state)),
            Property::always(FALLS, |config: &Config, state: &State| {
                !View::of(config, &state.log).fell_alone
            }),
            Property::always(AGREED, |config: &Config, state: &State| {
                let mut log = state.log.iter().enumerate();
                config.flaw != Flaw::None || log.all(|(at, entry)| !agrees(config, state, at, entry))
            }),
            Property::sometimes("two persons forget it", |config: &Config, state: &State| {
                View::of(config, &state.log).is_gone
            }),
        ]
    }
}

/// Whether enough persons agreed that the snapshot goes, one asking at this place, nobody said anything else, and it is live
/// all the same.
fn agrees(config: &Config, state: &State, at: usize, entry: &Entry) -> bool {
    let is_other = |what: What| !matches!(what, What::Approve(_) | What::Forget | What::Commit);
    let is_quiet = !state.log.iter().any(|entry| is_other(entry.what));
    let approvers = state.log.iter().filter(|approval| approval.what == What::Approve(at));
    let mut keepers: Vec<Key> = approvers
        .map(|entry| entry.by.person())
        .filter(|key| *key != Key::Admin && *key != entry.by.person())
        .collect();
    keepers.sort_unstable();
    keepers.dedup();
    let is_agreed = entry.what == What::Forget && keepers.len() >= usize::from(config.needed);
    is_quiet && is_agreed && View::of(config, &state.log).is_live()
}

fn asks(what: What) -> bool {
    matches!(what, What::Forget | What::Release | What::Clear | What::Quorum(_))
}

fn same_kind(one: What, other: What) -> bool {
    std::mem::discriminant(&one) == std::mem::discriminant(&other)
}

/// One stolen key forgets nothing, ends no hold, and clears nothing.
const ALONE: &str = "nobody alone takes a snapshot away";
/// Each of them another keeper, whose key was good when he said it.
const ENOUGH: &str = "as many others approved as are needed";
/// Fewer approvals are needed only with as many as are needed.
const FALLS: &str = "the number of approvals falls with consent alone";
/// Who is asked and agrees is heard.
const AGREED: &str = "what enough persons agreed on counts";

const APPROVE: What = What::Approve(0);

/// A thief asks and approves whatever he likes; Alice asks, Bob saves, approves and collects.
const FORGETS: &[(Key, What)] = &[
    (Key::Carol, What::Forget),
    (Key::Carol, APPROVE),
    (Key::Alias, APPROVE),
    (Key::Alice, What::Forget),
    (Key::Bob, APPROVE),
    (Key::Bob, What::Undelete),
    (Key::Bob, What::Commit),
    (Key::Admin, What::Revoke),
    (Key::Admin, APPROVE),
];

const HOLDS: &[(Key, What)] = &[
    (Key::Carol, What::Forget),
    (Key::Carol, What::Release),
    (Key::Alias, APPROVE),
    (Key::Alice, What::Hold),
    (Key::Alice, What::Release),
    (Key::Alice, APPROVE),
    (Key::Bob, APPROVE),
    (Key::Bob, What::Hold),
    (Key::Bob, What::Commit),
];

const CLEARS: &[(Key, What)] = &[
    (Key::Carol, What::Forget),
    (Key::Carol, What::Clear),
    (Key::Alias, APPROVE),
    (Key::Alice, What::Suspect),
    (Key::Alice, What::Clear),
    (Key::Alice, APPROVE),
    (Key::Bob, APPROVE),
    (Key::Bob, What::Suspect),
    (Key::Bob, What::Commit),
];

const NUMBERS: &[(Key, What)] = &[
    (Key::Admin, What::Quorum(2)),
    (Key::Admin, What::Quorum(0)),
    (Key::Admin, APPROVE),
    (Key::Carol, What::Forget),
    (Key::Alice, APPROVE),
    (Key::Bob, APPROVE),
    (Key::Bob, What::Commit),
];

fn config(words: &'static [(Key, What)], stolen: Key, flaw: Flaw) -> Config {
    Config { needed: 1, stolen: Some(stolen), words, loses: false, length: 7, flaw }
}

fn broken(config: Config) -> Option<&'static str> {
    let (stolen, flaw, needed) = (config.stolen, config.flaw, config.needed);
    let checker = config.checker().threads(2).spawn_bfs().join();
    let broken = [ALONE, ENOUGH, FALLS, AGREED].into_iter().find(|name| checker.discovery(name).is_some());
    let states = checker.unique_state_count();
    eprintln!(
        "persons, {needed} needed, {stolen:?} stolen, {flaw:?}: {states} states, {}",
        broken.unwrap_or("holds")
    );
    if let Some(path) = broken.and_then(|name| checker.discovery(name)) {
        if std::env::var_os("SANCERRE_MODEL_TRACE").is_some() {
            eprintln!("{:?}", path.into_actions());
        }
    } else {
        assert!(
            checker.discovery("two persons forget it").is_some(),
            "{flaw:?}: never: two persons forget it"
        );
    }
    broken
}

#[test]
fn one_person_takes_nothing_away() {
    for words in [FORGETS, HOLDS, CLEARS, NUMBERS] {
        for stolen in [Key::Carol, Key::Admin] {
            assert_eq!(broken(config(words, stolen, Flaw::None)), None);
        }
    }
    assert_eq!(broken(Config { needed: 2, ..config(FORGETS, Key::Carol, Flaw::None) }), None);
    assert_eq!(broken(lost_number(Flaw::None)), None);
    if std::env::var_os("SANCERRE_MODEL").is_some_and(|value| value == "deep") {
        for words in [FORGETS, HOLDS, CLEARS, NUMBERS] {
            assert_eq!(broken(Config { length: 9, ..config(words, Key::Carol, Flaw::None) }), None);
        }
    }
}

/// The administrator asked for approvals before the thief forgets, and the log loses that he asked.
fn lost_number(flaw: Flaw) -> Config {
    Config { needed: 0, loses: true, ..config(FORGETS, Key::Carol, flaw) }
}

#[test]
fn each_rule_of_approvals_is_needed() {
    let alone = [
        (FORGETS, Key::Carol, Flaw::ForgetAlone),
        (FORGETS, Key::Carol, Flaw::OwnApproval),
        (FORGETS, Key::Carol, Flaw::TwoNames),
        (FORGETS, Key::Carol, Flaw::UndeleteKeepsAsked),
        (HOLDS, Key::Carol, Flaw::ReleaseAlone),
        (HOLDS, Key::Carol, Flaw::HoldKeepsAsked),
        (CLEARS, Key::Carol, Flaw::ClearAlone),
        (CLEARS, Key::Carol, Flaw::SuspectKeepsAsked),
    ];
    for (words, stolen, flaw) in alone {
        assert_eq!(broken(config(words, stolen, flaw)), Some(ALONE), "{flaw:?}");
    }
    assert_eq!(broken(lost_number(Flaw::NotKeptTwice)), Some(ALONE));
    let enough = [(1, Flaw::AdminApproves), (1, Flaw::RevokedApproves), (2, Flaw::TwiceByOne)];
    for (needed, flaw) in enough {
        assert_eq!(broken(Config { needed, ..config(FORGETS, Key::Carol, flaw) }), Some(ENOUGH), "{flaw:?}");
    }
    for flaw in [Flaw::LowerAlone, Flaw::RaiseKeepsAsked] {
        let found = broken(config(NUMBERS, Key::Admin, flaw));
        assert_eq!(found, Some(FALLS), "{flaw:?}");
    }
}
