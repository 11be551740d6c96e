//! The rules of [`crate::unsaid`] hold, and each is needed.

use stateright::{Checker, Model};

use crate::unsaid::{Config, DECIDES, Flaw, KEPT, SOUND, Thief, Was};

fn flawed(second: Was, thief: Thief, both_lost: bool, flaw: Flaw) -> Option<&'static str> {
    let config = Config { second, thief, both_lost, flaw };
    let checker = config.checker().spawn_bfs().join();
    let broken = [KEPT, SOUND, DECIDES].into_iter().find(|&name| checker.discovery(name).is_some());
    eprintln!("{config:?}: {} states, {}", checker.unique_state_count(), broken.unwrap_or("holds"));
    if let Some(path) = broken
        .and_then(|name| checker.discovery(name))
        .filter(|_| std::env::var_os("SANCERRE_MODEL_TRACE").is_some())
    {
        eprintln!("{path}");
    }
    for happening in ["the writer goes on", "the collector goes on"] {
        let may_lack = broken.is_some();
        assert!(may_lack || checker.discovery(happening).is_some(), "{config:?}: never: {happening}");
    }
    broken
}

#[test]
fn nobody_but_the_administrator_says_what_a_lost_entry_was() {
    for second in [Was::Hold, Was::Backup, Was::Gc, Was::Filler] {
        for thief in [Thief::Nobody, Thief::Keeper, Thief::Writer, Thief::Both] {
            for both_lost in [false, true] {
                assert_eq!(flawed(second, thief, both_lost, Flaw::None), None);
            }
        }
    }
}

#[test]
fn a_commit_that_nobody_admitted_must_not_count() {
    assert_eq!(flawed(Was::Filler, Thief::Both, false, Flaw::CommitCountsAlone), Some(KEPT));
}

#[test]
fn a_manifest_that_came_too_late_must_not_count() {
    assert_eq!(flawed(Was::Filler, Thief::Writer, true, Flaw::LateManifestCounts), Some(SOUND));
}

#[test]
fn a_commit_must_not_be_judged_by_what_nobody_but_a_line_speaks_for() {
    assert_eq!(flawed(Was::Filler, Thief::Both, true, Flaw::LinesJudge), Some(SOUND));
}

#[test]
fn what_fills_a_number_must_not_say_what_was_there() {
    assert_eq!(flawed(Was::Hold, Thief::Writer, false, Flaw::FillerSays), Some(KEPT));
}

#[test]
fn the_next_entry_must_come_before_parents() {
    assert_eq!(flawed(Was::Hold, Thief::Writer, false, Flaw::ParentFirst), Some(KEPT));
}

#[test]
fn a_collector_must_stop_while_a_session_is_unresolved() {
    assert_eq!(flawed(Was::Hold, Thief::Nobody, false, Flaw::GoesOnUnresolved), Some(KEPT));
}

#[test]
fn a_collector_must_stop_where_nothing_is_said() {
    assert_eq!(flawed(Was::Hold, Thief::Nobody, true, Flaw::GoesOnUnsaid), Some(KEPT));
}

#[test]
fn a_line_must_not_be_enough_for_a_collector() {
    assert_eq!(flawed(Was::Hold, Thief::Writer, true, Flaw::GoesOnAlone), Some(KEPT));
}

#[test]
fn a_commit_must_agree_with_the_records_of_those_above() {
    assert!(flawed(Was::Filler, Thief::Both, true, Flaw::AdmitsBlindly).is_some());
}

#[test]
fn what_cannot_be_given_up_stops_collectors_for_ever() {
    assert_eq!(flawed(Was::Filler, Thief::Both, false, Flaw::NoUnknownAbort), Some(DECIDES));
}

#[test]
fn what_was_given_up_must_not_come_back() {
    assert_eq!(flawed(Was::Gc, Thief::Both, true, Flaw::GivenUpReturns), Some(DECIDES));
}

#[test]
fn what_an_unadmitted_commit_burnt_must_not_be_used() {
    assert_eq!(flawed(Was::Gc, Thief::Nobody, false, Flaw::DoubtedNotAvoided), Some(KEPT));
}
