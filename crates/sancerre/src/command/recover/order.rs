//! Several machines at once: who waits for whom, what says that one is up, and whose disks are filled first.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::exit::Failure;
use crate::units::parse_seconds;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);
/// How long a port may take to answer.
const PORT: Duration = Duration::from_millis(500);

/// What says that a machine is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sign {
    /// Words on its serial console.
    Serial(String),
    /// Its agent answers.
    Agent,
    /// Somebody listens there.
    Port(SocketAddr),
    /// It has run for so long.
    Time(Duration),
}

impl FromStr for Sign {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "agent" => Ok(Self::Agent),
            Some(("serial", words)) if !words.is_empty() => Ok(Self::Serial(words.to_owned())),
            Some(("port", address)) => address
                .parse()
                .map(Self::Port)
                .map_err(|_| format!("{address:?} is not an address and a port, such as 10.0.0.5:5432")),
            Some(("time", time)) => parse_seconds(time).map(|time| Self::Time(Duration::from_secs(time))),
            _ => Err(format!(
                "{text:?} says nothing that can be looked for; write serial:WORDS, agent, port:ADDRESS:PORT or time:2m"
            )),
        }
    }
}

impl Sign {
    /// Whether it is there.
    fn is_there(&self, run: &Run, since: Instant) -> bool {
        match self {
            Self::Serial(words) => {
                sancerre_boot::console(&run.console, run.console_from).contains(words.as_str())
            }
            Self::Agent => run.agent.as_ref().is_some_and(|answers| answers()),
            Self::Port(address) => TcpStream::connect_timeout(address, PORT).is_ok(),
            Self::Time(time) => since.elapsed() >= *time,
        }
    }
}

/// A machine's place among the others.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) vm: String,
    /// Those that must be up before, by their numbers: all of them lower than its own.
    pub(super) after: Vec<usize>,
    pub(super) sign: Sign,
    /// After so long others are started all the same.
    pub(super) patience: Duration,
    /// Whether what it asks for until it is up is recorded: nothing else may be read meanwhile.
    pub(super) is_traced: bool,
}

/// Whether the agent in a guest answers.
pub(super) type AgentAnswers = Arc<dyn Fn() -> bool + Send + Sync>;

/// Where to look for the sign of a guest that runs.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) console: PathBuf,
    /// What stands before in the console is from an earlier life.
    pub(super) console_from: u64,
    pub(super) agent: Option<AgentAnswers>,
}

impl Run {
    /// How long a console is by now.
    pub(super) fn length(console: &Path) -> u64 {
        std::fs::metadata(console).map_or(0, |found| found.len())
    }
}

/// How far one is.
#[derive(Clone)]
enum Stage {
    Waits,
    Runs { run: Run, since: Instant },
    Whole,
    Failed,
}

/// How far all are.
pub(super) struct Order {
    places: Vec<Place>,
    state: Mutex<Vec<(Stage, bool)>>,
}

/// What a look at a machine found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing new.
    Same,
    /// From now on others may start.
    Up,
    /// It is not up, and others are started all the same.
    Overdue,
}

impl Order {
    pub(super) fn new(places: Vec<Place>) -> Self {
        let state = Mutex::new(places.iter().map(|_| (Stage::Waits, false)).collect());
        Self { places, state }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<(Stage, bool)>) -> T) -> T {
        // Whoever panicked left a stage that was true.
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn place(&self, number: usize) -> Option<&Place> {
        self.places.get(number)
    }

    /// Whether somebody waits for this one to come up.
    fn is_awaited(&self, number: usize) -> bool {
        let is_traced = self.place(number).is_some_and(|place| place.is_traced);
        is_traced || self.places.iter().any(|place| place.after.contains(&number))
    }

    /// Blocks until all that this machine waits for are up.
    ///
    /// Errors: one of them did not start.
    pub(super) fn wait(&self, number: usize) -> Result<(), Failure> {
        let after = self.place(number).map(|place| place.after.clone()).unwrap_or_default();
        for other in after {
            while !self.is_up(other)? {
                sleep(LOOK);
            }
        }
        Ok(())
    }

    fn is_up(&self, number: usize) -> Result<bool, Failure> {
        let found = self.with(|all| all.get(number).cloned());
        match found {
            Some((_, true)) => Ok(true),
            Some((Stage::Failed, false)) | None => {
                let vm = self.place(number).map_or("", |place| place.vm.as_str());
                Err(Failure::failed(format!(
                    "not started: {vm}, for which it waits, did not come up. Run the same command again, or take it out of \
                     --after"
                )))
            }
            Some(_) => Ok(false),
        }
    }

    /// From now on it runs.
    pub(super) fn runs(&self, number: usize, run: Run) {
        self.set(number, Stage::Runs { run, since: Instant::now() });
    }

    /// Its disks are whole, or it came to nothing.
    pub(super) fn ends(&self, number: usize, is_whole: bool) {
        self.set(number, if is_whole { Stage::Whole } else { Stage::Failed });
    }

    fn set(&self, number: usize, stage: Stage) {
        self.with(|all| {
            if let Some((of, _)) = all.get_mut(number) {
                *of = stage;
            }
        });
    }

    /// Looks whether a machine that others wait for is up by now.
    pub(super) fn look(&self, number: usize) -> Look {
        let found = self.with(|all| all.get(number).cloned());
        let (Some((Stage::Runs { run, since }, false)), Some(place)) = (found, self.place(number)) else {
            return Look::Same;
        };
        if !self.is_awaited(number) {
            return Look::Same;
        }
        // Not while the lock is held: a port may take its time.
        let look = match place.sign.is_there(&run, since) {
            true => Look::Up,
            false if since.elapsed() >= place.patience => Look::Overdue,
            false => return Look::Same,
        };
        self.with(|all| {
            if let Some((_, is_up)) = all.get_mut(number) {
                *is_up = true;
            }
        });
        look
    }

    /// Whether somebody still waits for this one to come up.
    pub(super) fn is_pending(&self, number: usize) -> bool {
        self.is_awaited(number) && self.with(|all| all.get(number).is_some_and(|(_, is_up)| !is_up))
    }

    /// Whether the disks of this one are to be filled now: of those that run, the first ones first.
    pub(super) fn is_turn(&self, number: usize) -> bool {
        let is_recorded = self.place(number).is_some_and(|place| place.is_traced) && self.is_pending(number);
        !is_recorded
            && self.with(|all| !all.iter().take(number).any(|(stage, _)| matches!(stage, Stage::Runs { .. })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(vm: &str, after: &[usize], sign: Sign) -> Place {
        Place {
            vm: vm.into(),
            after: after.to_vec(),
            sign,
            patience: Duration::from_secs(3600),
            is_traced: false,
        }
    }

    fn run(console: &Path) -> Run {
        Run { console: console.into(), console_from: Run::length(console), agent: None }
    }

    #[test]
    fn signs_are_understood_and_all_else_refused() {
        assert_eq!("serial:login: ".parse(), Ok(Sign::Serial("login: ".into())));
        assert_eq!("agent".parse(), Ok(Sign::Agent));
        assert_eq!("time:2m".parse(), Ok(Sign::Time(Duration::from_secs(120))));
        assert_eq!("port:127.0.0.1:22".parse(), Ok(Sign::Port("127.0.0.1:22".parse().unwrap())));
        for odd in ["", "serial:", "login", "port:22", "port:host:22", "time:soon", "agent:x"] {
            assert!(odd.parse::<Sign>().is_err(), "{odd}");
        }
    }

    #[test]
    fn who_waits_is_let_go_by_this_life_of_the_other_and_fails_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console.log");
        std::fs::write(&console, "old login: ").unwrap();
        let sign = Sign::Serial("login:".into());
        let order = Order::new(vec![place("db", &[], sign.clone()), place("web", &[0], sign)]);
        assert!(!order.is_up(0).unwrap());
        order.runs(0, run(&console));
        assert_eq!(order.look(0), Look::Same, "that was an earlier life");
        std::fs::write(&console, "old login: new login: ").unwrap();
        assert!(order.is_pending(0));
        assert_eq!((order.look(0), order.look(0)), (Look::Up, Look::Same));
        assert!(!order.is_pending(0));
        order.wait(1).unwrap();
        let order = Order::new(vec![place("db", &[], Sign::Agent), place("web", &[0], Sign::Agent)]);
        order.ends(0, false);
        assert!(order.wait(1).unwrap_err().message.contains("db"));
    }

    #[test]
    fn nobody_is_waited_for_without_an_end() {
        let late = Place { patience: Duration::ZERO, ..place("db", &[], Sign::Agent) };
        let order = Order::new(vec![late, place("web", &[0], Sign::Agent)]);
        order.runs(0, run(Path::new("/nowhere")));
        assert_eq!(order.look(0), Look::Overdue);
        order.wait(1).unwrap();
        assert_eq!(order.look(1), Look::Same, "nobody waits for the last one");
    }

    #[test]
    fn what_is_recorded_is_not_filled_before_it_is_up() {
        let traced = Place { is_traced: true, ..place("db", &[], Sign::Time(Duration::ZERO)) };
        let order = Order::new(vec![traced]);
        order.runs(0, run(Path::new("/nowhere")));
        assert!(!order.is_turn(0) && order.is_pending(0));
        assert_eq!(order.look(0), Look::Up);
        assert!(order.is_turn(0) && !order.is_pending(0));
    }

    #[test]
    fn the_first_of_those_that_run_is_filled_first() {
        let order = Order::new((0..3).map(|_| place("vm", &[], Sign::Agent)).collect());
        order.runs(1, run(Path::new("/nowhere")));
        order.runs(2, run(Path::new("/nowhere")));
        assert_eq!([order.is_turn(1), order.is_turn(2)], [true, false]);
        order.runs(0, run(Path::new("/nowhere")));
        assert_eq!([order.is_turn(0), order.is_turn(1)], [true, false]);
        order.ends(0, true);
        order.ends(1, false);
        assert!(order.is_turn(2));
    }
}
