//! The protocol as it is meant to be, in configurations that are explored to the end.

use crate::config::{Config, Fold, Hints, Repack};
use crate::explore::assert_holds;
use crate::properties::{COMMITS, DELETES, FAILS, FOLLOWS, HEALS, MOVES, RESCUES, VOIDS};
use crate::state::Budget;

pub(crate) fn is_deep() -> bool {
    std::env::var_os("SANCERRE_MODEL").is_some_and(|value| value == "deep")
}

pub(crate) fn assert_holds_when_deep(config: Config) {
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
    let budget = Budget { late_puts: 2, lost_acks: 2, ..budget(2, 1, 2) };
    let config = Config::new("2 writers, 1 collector", budget);
    assert_holds(Config { must_happen: &[COMMITS, DELETES, FAILS], ..config });
}

#[test]
fn two_writers_and_two_collectors() {
    let budget = Budget { late_puts: 1, lost_acks: 1, ..budget(2, 2, 2) };
    assert_holds(Config::new("2 writers, 2 collectors", budget));
}

#[test]
fn three_writers_and_two_collectors() {
    assert_holds(Config::new("3 writers, 2 collectors", budget(3, 2, 1)));
    assert_holds_when_deep(Config::new(
        "3 writers, 2 collectors, late PUT",
        Budget { late_puts: 1, ..budget(3, 2, 2) },
    ));
}

#[test]
fn three_collectors() {
    assert_holds_when_deep(Config::new("2 writers, 3 collectors", budget(2, 3, 1)));
}

/// The burnt list may name whole sessions, when those are announced and struck like packs.
#[test]
fn burning_whole_sessions() {
    let config = Config::new("burning whole sessions", budget(2, 2, 1));
    assert_holds(Config { burns_whole_sessions: true, ..config });
}

#[test]
fn writers_that_give_up() {
    let budget = Budget { give_ups: 1, ..budget(2, 2, 1) };
    let config = Config::new("writers that abort themselves", budget);
    assert_holds(Config { must_happen: &[COMMITS, DELETES, FAILS], ..config });
    let config =
        Config::new("writers that abort themselves, ABORTs folded", Budget { late_puts: 1, ..budget });
    assert_holds(folding(config, Fold::Aborts));
}

/// W1 as four separate steps, each with everything else in between.
#[test]
fn single_steps_of_numbering() {
    let few = Budget { lost_acks: 1, ..budget(2, 1, 1) };
    assert_holds(Config { stepwise_numbers: true, ..Config::new("numbers in single steps", few) });
    let more = Budget { lost_acks: 1, ..budget(2, 2, 1) };
    let config = Config::new("numbers in single steps, 2 collectors", more);
    assert_holds_when_deep(Config { stepwise_numbers: true, ..config });
}

/// W4 heals, but adds nothing to safety: what a listing excludes the avoid set has excluded already.
#[test]
fn listed_hints() {
    let budget = Budget { late_puts: 1, ..budget(2, 2, 1) };
    let any = assert_holds(Config::new("reuse of any pack ever uploaded", budget));
    let config = Config::new("reuse only of listed packs", budget);
    let listed = assert_holds(Config { hints: Hints::Listed, ..config });
    assert_eq!(any, listed, "a listing excluded a pack that the avoid set allows");
}

#[test]
fn quarantine() {
    let config = Config::new("quarantine", Budget { quarantines: 1, ..budget(2, 2, 1) });
    assert_holds(Config { must_happen: &[COMMITS, DELETES, HEALS], ..config });
}

#[test]
fn unreadable_outcomes() {
    assert_holds(Config::new("unreadable outcome", Budget { hides: 1, ..budget(2, 2, 1) }));
    let rescued = Budget { hides: 1, rescues: 1, ..budget(1, 2, 1) };
    assert_holds(Config::new("unreadable outcome given up, hold, undelete", rescued));
}

fn repacking(config: Config, repack: Repack) -> Config {
    let must_happen = &[COMMITS, DELETES, MOVES];
    Config { disks: &[0b01, 0b10], old_disk: 0b11, repack, must_happen, ..config }
}

#[test]
fn partial_repack() {
    let late = Budget { late_puts: 1, lost_acks: 1, ..budget(2, 1, 1) };
    assert_holds(repacking(Config::new("partial repack, 2 writers, 1 collector", late), Repack::Partial));
    let config = Config::new("partial repack, 2 writers, 2 collectors, stale listings", budget(2, 2, 1));
    assert_holds_when_deep(repacking(Config { stale_lists: true, ..config }, Repack::Partial));
    let config = Config::new("partial repack, 3 writers, 2 collectors", budget(3, 2, 1));
    assert_holds_when_deep(repacking(config, Repack::Partial));
}

#[test]
fn repack_of_repacked_packs() {
    let config = Config::new("repack, 1 writer, 2 collectors", Budget { late_puts: 1, ..budget(1, 2, 1) });
    assert_holds(repacking(config, Repack::Any));
    let config = Config::new("repack, 1 writer, 3 collectors", budget(1, 3, 1));
    assert_holds_when_deep(repacking(config, Repack::Any));
    let config = Config::new("repack, 2 writers, 2 collectors", budget(2, 2, 1));
    assert_holds_when_deep(repacking(config, Repack::Any));
}

/// The engine's naming: a frame keeps the name of its first place, and COMMITs say where it lies.
#[test]
fn frames_named_by_their_origin() {
    let named = |config: Config| Config { names_origins: true, ..repacking(config, Repack::Any) };
    let late = Budget { late_puts: 1, ..budget(1, 2, 1) };
    assert_holds(named(Config::new("repack, named by origin, 1 writer, 2 collectors", late)));
    let damage = Budget { quarantines: 1, ..budget(1, 2, 1) };
    assert_holds(named(Config::new("repack, named by origin, quarantine", damage)));
    let config =
        named(Config::new("repack, named by origin, partial, 2 writers, 1 collector", budget(2, 1, 1)));
    assert_holds(Config { repack: Repack::Partial, ..config });
    assert_holds_when_deep(named(Config::new(
        "repack, named by origin, 1 writer, 3 collectors",
        budget(1, 3, 1),
    )));
    assert_holds_when_deep(named(Config::new(
        "repack, named by origin, 2 writers, 2 collectors",
        budget(2, 2, 1),
    )));
}

#[test]
fn repack_and_quarantine() {
    let config = Config::new("repack, quarantine", Budget { quarantines: 1, ..budget(1, 2, 1) });
    assert_holds(repacking(config, Repack::Any));
}

#[test]
fn holds_and_undeletes() {
    let budget = Budget { rescues: 1, releases: 1, ..budget(1, 2, 2) };
    let config = Config::new("hold, undelete, release; 1 writer, 2 collectors", budget);
    assert_holds(Config { must_happen: &[COMMITS, DELETES, RESCUES], ..config });
    let budget = Budget { rescues: 2, releases: 1, ..budget };
    let config = Config::new("2 holds or undeletes, release; 1 writer, 2 collectors", budget);
    assert_holds_when_deep(Config { must_happen: &[COMMITS, DELETES, RESCUES], ..config });
}

#[test]
fn taint_and_repack() {
    let config = Config::new("repack, taint", Budget { taints: 1, ..budget(1, 2, 1) });
    assert_holds(repacking(config, Repack::Any));
}

#[test]
fn holds_and_repack() {
    let budget = Budget { rescues: 1, ..budget(1, 2, 1) };
    let config = repacking(Config::new("hold, undelete, repack", budget), Repack::Any);
    assert_holds(Config { must_happen: &[COMMITS, DELETES, MOVES, RESCUES], ..config });
}

#[test]
fn a_restore_beside_collectors() {
    let reader = |backups, gcs| Budget { readers: 1, ..budget(backups, gcs, 1) };
    let happens = &[COMMITS, DELETES, MOVES, FOLLOWS];
    let named = |config: Config| Config {
        names_origins: true,
        must_happen: happens,
        ..repacking(config, Repack::Any)
    };
    assert_holds(named(Config::new("restore, repack, 1 writer, 2 collectors", reader(1, 2))));
    assert_holds_when_deep(named(Config::new("restore, repack, 2 writers, 2 collectors", reader(2, 2))));
    let config = Config::new("restore, 2 writers, 2 collectors", reader(2, 2));
    assert_holds(config);
}

fn folding(config: Config, fold: Fold) -> Config {
    Config { fold, must_happen: &[COMMITS, DELETES, FAILS], ..config }
}

#[test]
fn folding_of_aborts() {
    let few = Budget { late_puts: 1, lost_acks: 1, ..budget(2, 1, 1) };
    assert_holds(folding(Config::new("ABORTs folded, 2 writers, 1 collector", few), Fold::Aborts));
    let more = Budget { late_puts: 1, lost_acks: 1, ..budget(2, 2, 1) };
    assert_holds_when_deep(folding(
        Config::new("ABORTs folded, 2 writers, 2 collectors", more),
        Fold::Aborts,
    ));
}

#[test]
fn folding_of_intents() {
    let all = Fold::IntentsAndAborts;
    let late = Budget { late_puts: 1, ..budget(2, 1, 1) };
    let config = folding(Config::new("folding, 2 writers, 1 collector", late), all);
    assert_holds(Config { must_happen: &[COMMITS, DELETES, FAILS, VOIDS], ..config });
    let lost = Budget { lost_acks: 1, ..budget(1, 2, 1) };
    assert_holds(folding(Config::new("folding, 1 writer, 2 collectors, lost answer", lost), all));
    assert_holds_when_deep(folding(Config::new("folding, 2 writers, 2 collectors", budget(2, 2, 1)), all));
}

#[test]
fn folding_and_records() {
    let all = Fold::IntentsAndAborts;
    let rescue = Budget { rescues: 1, ..budget(1, 1, 1) };
    assert_holds(folding(Config::new("folding, hold, undelete", rescue), all));
    let damage = Budget { quarantines: 1, ..budget(2, 1, 1) };
    assert_holds_when_deep(folding(Config::new("folding, quarantine", damage), all));
    let rescue = Budget { rescues: 1, ..budget(1, 2, 1) };
    assert_holds_when_deep(folding(Config::new("folding, hold, undelete, 2 collectors", rescue), all));
}

#[test]
fn folding_and_repack() {
    let config =
        repacking(Config::new("folding, repack, 1 writer, 2 collectors", budget(1, 2, 1)), Repack::Any);
    assert_holds_when_deep(Config { fold: Fold::IntentsAndAborts, ..config });
}
