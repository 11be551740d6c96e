//! The protocol as it is meant to be, in configurations that are explored to the end.

use crate::config::{Config, Fold, Hints, Repack};
use crate::explore::assert_holds;
use crate::properties::{COMMITS, DELETES, FAILS, HEALS, MOVES, RESCUES, VOIDS};
use crate::state::Budget;

fn is_deep() -> bool {
    std::env::var_os("SANCERRE_MODEL").is_some_and(|value| value == "deep")
}

fn assert_holds_when_deep(config: Config) {
    if is_deep() {
        assert_holds(config);
    } else {
        eprintln!("{}: explored only with SANCERRE_MODEL=deep", config.name);
    }
}

fn budget(backups: u8, gcs: u8, forgets: u8) -> Budget {
    Budget { backups, gcs, forgets, ..Budget::default() }
}

#[test]
fn two_writers_and_one_collector() {
    let config =
        Config::new("2 writers, 1 collector", Budget { late_puts: 1, lost_acks: 1, ..budget(2, 1, 2) });
    assert_holds(Config { must_happen: &[COMMITS, DELETES, FAILS], ..config });
}

#[test]
fn two_writers_and_two_collectors() {
    assert_holds(Config::new("2 writers, 2 collectors", Budget { late_puts: 1, ..budget(2, 2, 1) }));
}

#[test]
fn three_writers_and_two_collectors() {
    assert_holds_when_deep(Config::new("3 writers, 2 collectors", budget(3, 2, 1)));
}

#[test]
fn single_steps_of_numbering() {
    let budget = Budget { lost_acks: 1, ..budget(2, 1, 1) };
    assert_holds(Config { stepwise_numbers: true, ..Config::new("numbers in single steps", budget) });
}

#[test]
fn partial_repack() {
    let config = Config::new("partial repack, 2 writers, 1 collector", budget(2, 1, 1));
    let config = Config { disks: &[0b01, 0b10], old_disk: 0b11, repack: Repack::Partial, ..config };
    assert_holds(Config { must_happen: &[COMMITS, DELETES, MOVES], ..config });
}

#[test]
fn repack_with_two_collectors() {
    let config = Config::new("repack, 1 writer, 2 collectors", budget(1, 2, 1));
    let config = Config { disks: &[0b01, 0b11], old_disk: 0b11, repack: Repack::Any, ..config };
    assert_holds(Config { must_happen: &[COMMITS, DELETES, MOVES], ..config });
}

#[test]
fn holds_and_undeletes() {
    let budget = Budget { rescues: 1, releases: 1, ..budget(1, 2, 2) };
    let config = Config::new("hold, undelete, release; 1 writer, 2 collectors", budget);
    assert_holds(Config { must_happen: &[COMMITS, DELETES, RESCUES], ..config });
}

#[test]
fn quarantine() {
    let config = Config::new("quarantine", Budget { quarantines: 1, ..budget(2, 1, 1) });
    assert_holds(Config { must_happen: &[COMMITS, DELETES, HEALS], ..config });
}

#[test]
fn unreadable_outcomes() {
    assert_holds(Config::new("unreadable outcome", Budget { hides: 1, ..budget(2, 1, 1) }));
}

#[test]
fn folding() {
    let config = Config::new("folding, 2 writers, 1 collector", Budget { late_puts: 1, ..budget(2, 1, 1) });
    assert_holds(Config {
        fold: Fold::IntentsAndAborts,
        must_happen: &[COMMITS, DELETES, FAILS, VOIDS],
        ..config
    });
}

#[test]
fn folding_with_two_collectors() {
    let config = Config::new("folding, 1 writer, 2 collectors", budget(1, 2, 1));
    assert_holds(Config { fold: Fold::IntentsAndAborts, must_happen: &[COMMITS, DELETES, VOIDS], ..config });
}

#[test]
fn listed_hints() {
    let config = Config::new("reuse only of listed packs", Budget { late_puts: 1, ..budget(2, 1, 1) });
    assert_holds(Config { hints: Hints::Listed, ..config });
}
