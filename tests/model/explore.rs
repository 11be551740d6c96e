//! Runs the checker and says what it found.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use stateright::report::{ReportData, ReportDiscovery, Reporter};
use stateright::{Checker, HasDiscoveries, Model};

use crate::config::Config;
use crate::protocol::Action;

/// The shortest violation is worth the memory of a breadth-first search only once there is one:
/// `SANCERRE_MODEL_TRACE` asks for it.
fn wants_trace() -> bool {
    std::env::var_os("SANCERRE_MODEL_TRACE").is_some()
}

/// `SANCERRE_MODEL_ONLY` explores the configuration of this name and no other.
fn is_left_out(name: &str) -> bool {
    std::env::var_os("SANCERRE_MODEL_ONLY").is_some_and(|only| only != name)
}

/// Says every minute how far a long exploration is.
struct Progress {
    name: &'static str,
    minutes: u64,
}

impl Reporter<Config> for Progress {
    fn report_checking(&mut self, data: ReportData) {
        let minutes = data.duration.as_secs() / 60;
        if minutes > self.minutes && !data.done {
            self.minutes = minutes;
            let (states, depth) = (data.unique_states, data.max_depth);
            eprintln!("{}: {minutes} min, {states} states so far, depth {depth}", self.name);
        }
    }

    fn report_discoveries(&mut self, _: &Config, _: BTreeMap<&'static str, ReportDiscovery<Config>>) {}

    fn delay(&self) -> Duration {
        Duration::from_millis(50)
    }
}

/// Explores to exhaustion; every property must hold and everything in `must_happen` must have happened.
/// Returns the number of states.
pub(crate) fn assert_holds(config: Config) -> usize {
    let (name, must_happen) = (config.name, config.must_happen);
    if is_left_out(name) {
        return 0;
    }
    let start = Instant::now();
    let checker = config.checker().threads(2);
    if wants_trace() {
        return report(checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join(), name, start, &[]);
    }
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_dfs();
    report(checker.join_and_report(&mut Progress { name, minutes: 0 }), name, start, must_happen)
}

fn report(
    checker: impl Checker<Config>,
    name: &'static str,
    start: Instant,
    must_happen: &'static [&'static str],
) -> usize {
    let seconds = start.elapsed().as_secs_f32();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    let discoveries = checker.discoveries();
    for property in checker.model().properties() {
        let path = discoveries.get(property.name);
        if let (true, Some(path)) = (property.expectation.discovery_is_failure(), path) {
            print_steps(&path.clone().into_actions());
            panic!("{name}: violates \"{}\" after {states} states, steps above", property.name);
        }
    }
    for happening in must_happen {
        assert!(discoveries.contains_key(happening), "{name}: never happened: {happening}");
    }
    assert!(checker.is_done(), "{name}: the exploration stopped early");
    eprintln!("{name}: {states} states, depth {depth}, {seconds:.1} s: holds");
    states
}

/// The flawed protocol must violate `property`; prints how.
pub(crate) fn assert_fails(config: Config, property: &'static str) {
    let name = config.name;
    let start = Instant::now();
    let wanted = HasDiscoveries::AnyOf([property].into());
    let checker = config.checker().threads(2).finish_when(wanted).spawn_bfs().join();
    let seconds = start.elapsed().as_secs_f32();
    let states = checker.unique_state_count();
    let Some(path) = checker.discovery(property) else {
        panic!("{name}: no violation of \"{property}\" in {states} states: the model misses the flaw");
    };
    let steps = path.into_actions();
    eprintln!("{name}: {states} states, {seconds:.1} s: violates \"{property}\" in {} steps", steps.len());
    if wants_trace() {
        print_steps(&steps);
    }
}

fn print_steps(steps: &[Action]) {
    steps.iter().for_each(|step| eprintln!("    {step:?}"));
}
