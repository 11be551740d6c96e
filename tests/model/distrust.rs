//! Revoked keys, thieves, newer programs, checkpoints, notes: configurations that are explored to the end.

use crate::config::{Config, Doubt, Newer, Repack};
use crate::exhaustive::assert_holds_when_deep;
use crate::explore::assert_holds;
use crate::properties::{
    ANNEXES, BELIEVED, COMMITS, COPIES, DELETES, FAILS, LIES, MOVES, NEWER, RESCUES, REVOKES, STARTS,
};
use crate::state::Budget;

pub(crate) fn budget(backups: u8, gcs: u8, forgets: u8) -> Budget {
    Budget { backups, gcs, forgets, ..Budget::default() }
}

pub(crate) fn repacking(config: Config) -> Config {
    Config { old_disk: 0b11, disks: &[0b01, 0b10], repack: Repack::Any, ..config }
}

#[test]
fn a_writer_is_revoked() {
    let doubt = Doubt::Writer;
    let must_happen = &[COMMITS, DELETES, FAILS, REVOKES];
    let few = Budget { doubtful: 1, revokes: 1, ..budget(1, 1, 1) };
    assert_holds(Config { doubt, must_happen, ..Config::new("revoke of a writer", few) });
    let more = Budget { doubtful: 1, revokes: 1, ..budget(1, 2, 1) };
    let config = Config::new("revoke of a writer, 2 collectors", more);
    assert_holds_when_deep(Config { doubt, must_happen, ..config });
    let few = Budget { doubtful: 1, revokes: 1, ..budget(1, 1, 0) };
    let config = Config { doubt, must_happen, ..Config::new("revoke of a writer, repack", few) };
    assert_holds(repacking(config));
    let more = Budget { doubtful: 2, revokes: 1, ..budget(1, 2, 1) };
    assert_holds_when_deep(Config {
        doubt,
        must_happen,
        ..Config::new("revoke of a writer with 2 sessions", more)
    });
}

#[test]
fn a_keeper_is_revoked_beside_his_gc() {
    let doubt = Doubt::Keeper;
    let must_happen = &[COMMITS, DELETES, BELIEVED];
    let few = Budget { doubtful: 1, revokes: 1, ..budget(1, 1, 1) };
    assert_holds(Config { doubt, must_happen, ..Config::new("revoke of a keeper", few) });
    let more = Budget { doubtful: 1, revokes: 1, ..budget(2, 1, 1) };
    let config = Config::new("revoke of a keeper, 2 writers", more);
    assert_holds_when_deep(Config { doubt, must_happen, ..config });
    let few = Budget { doubtful: 1, revokes: 1, ..budget(1, 1, 0) };
    let must_happen = &[COMMITS, DELETES, BELIEVED, MOVES];
    let config = Config { doubt, must_happen, ..Config::new("revoke of a keeper, repack", few) };
    assert_holds(repacking(config));
    let more = Budget { doubtful: 2, revokes: 1, ..budget(1, 1, 1) };
    let config =
        Config { doubt, must_happen, ..Config::new("revoke of a keeper with 2 sessions, repack", more) };
    assert_holds_when_deep(repacking(config));
}

#[test]
fn a_certificate_ends() {
    let few = Budget { doubtful: 1, expiries: 1, ..budget(1, 1, 1) };
    let config = Config::new("end of a writer's certificate", few);
    assert_holds(Config { doubt: Doubt::Writer, ..config });
    let config = Config::new("end of a keeper's certificate", few);
    let must_happen = &[COMMITS, DELETES, BELIEVED];
    assert_holds(Config { doubt: Doubt::Keeper, must_happen, ..config });
}

#[test]
fn a_thief_commits() {
    let doubt = Doubt::Hostile;
    let must_happen = &[COMMITS, DELETES, LIES, BELIEVED];
    let few = Budget { doubtful: 1, revokes: 1, ..budget(1, 1, 1) };
    assert_holds(Config { doubt, must_happen, ..Config::new("hostile keeper, revoked", few) });
    let few = Budget { doubtful: 1, rescues: 1, ..budget(0, 1, 1) };
    let must_happen = &[DELETES, LIES, BELIEVED, RESCUES];
    assert_holds(Config { doubt, must_happen, ..Config::new("hostile keeper, hold, undelete", few) });
    let few = Budget { doubtful: 1, abandons: 1, ..budget(1, 1, 1) };
    let must_happen = &[COMMITS, DELETES, LIES, BELIEVED];
    assert_holds(Config { doubt, must_happen, ..Config::new("hostile keeper, abandoned", few) });
    let few = Budget { doubtful: 1, ..budget(1, 1, 1) };
    let config = Config::new("hostile keeper, named by origin", few);
    assert_holds(Config { doubt, must_happen, names_origins: true, ..config });
    let more = Budget { doubtful: 2, revokes: 1, ..budget(1, 1, 1) };
    assert_holds_when_deep(Config { doubt, must_happen, ..Config::new("hostile keeper, 2 commits", more) });
    let more = Budget { doubtful: 1, revokes: 1, ..budget(2, 1, 1) };
    assert_holds_when_deep(Config { doubt, must_happen, ..Config::new("hostile keeper, 2 writers", more) });
    let few = Budget { doubtful: 2, revokes: 1, ..budget(1, 0, 0) };
    let config = Config { doubt: Doubt::HostileTwice, ..Config::new("hostile keeper and writer", few) };
    assert_holds_when_deep(Config { must_happen: &[COMMITS, DELETES, LIES, REVOKES], ..config });
    let more = Budget { doubtful: 1, ..budget(1, 1, 1) };
    let config = Config { doubt, must_happen, ..Config::new("hostile keeper, repack", more) };
    assert_holds_when_deep(repacking(config));
}

#[test]
fn a_thief_burns_what_was_given_up() {
    let few = Budget { doubtful: 1, hides: 1, abandons: 1, ..budget(0, 1, 0) };
    let thief = |name, budget| Config {
        doubt: Doubt::Hostile,
        repack: Repack::Any,
        must_happen: &[DELETES, LIES, COPIES],
        ..Config::new(name, budget)
    };
    assert_holds(thief("hostile keeper, hidden commit abandoned", few));
    let more = Budget { doubtful: 1, hides: 1, abandons: 1, ..budget(1, 2, 0) };
    assert_holds_when_deep(thief("hostile keeper, hidden commit abandoned, 2 collectors", more));
}

#[test]
fn a_commit_is_abandoned() {
    let few = Budget { hides: 1, abandons: 1, ..budget(1, 2, 1) };
    assert_holds(Config::new("abandon", few));
    let few = Budget { hides: 1, abandons: 1, rescues: 1, ..budget(0, 2, 1) };
    let must_happen = &[DELETES];
    assert_holds(Config { must_happen, ..Config::new("abandon, hold, undelete", few) });
    let few = Budget { hides: 1, abandons: 1, ..budget(1, 2, 0) };
    let must_happen = &[COMMITS, DELETES, MOVES, COPIES];
    assert_holds(repacking(Config { must_happen, ..Config::new("abandon, repack", few) }));
    let more = Budget { hides: 1, abandons: 1, ..budget(1, 3, 1) };
    assert_holds_when_deep(repacking(Config {
        must_happen,
        ..Config::new("abandon, repack, 3 collectors", more)
    }));
}

#[test]
fn a_commit_on_another_is_abandoned() {
    let happens = |must_happen, name, budget| Config { must_happen, ..Config::new(name, budget) };
    let few = Budget { hides: 1, abandons: 2, ..budget(0, 2, 0) };
    assert_holds(repacking(happens(&[DELETES, MOVES, COPIES], "2 abandons, repack", few)));
    let more = Budget { hides: 1, abandons: 2, ..budget(1, 2, 1) };
    let must_happen = &[COMMITS, DELETES, MOVES, COPIES];
    assert_holds_when_deep(repacking(happens(must_happen, "2 abandons, repack, 1 writer", more)));
    let more = Budget { hides: 1, abandons: 2, rescues: 1, ..budget(0, 3, 1) };
    let config = happens(&[DELETES, MOVES, COPIES], "2 abandons, repack, hold, undelete, 3 collectors", more);
    assert_holds_when_deep(repacking(config));
    let few = Budget { hides: 1, abandons: 1, rescues: 1, ..budget(0, 2, 1) };
    assert_holds(repacking(happens(&[DELETES, MOVES, COPIES], "abandon, repack, hold, undelete", few)));
    let few = Budget { hides: 1, abandons: 1, ..budget(1, 2, 1) };
    let config = repacking(happens(must_happen, "abandon, repack, named by origin", few));
    assert_holds(Config { names_origins: true, ..config });
}

#[test]
fn newer_programs() {
    let must_happen = &[COMMITS, DELETES, NEWER];
    let few = Budget { newer: 1, ..budget(2, 1, 1) };
    assert_holds(Config { must_happen, ..Config::new("unsupported entry", few) });
    let config = Config { must_happen, ..Config::new("unsupported outcome", few) };
    assert_holds(Config { newer: Newer::Outcome, ..config });
    let few = Budget { newer: 1, rescues: 1, ..budget(0, 1, 1) };
    let must_happen = &[DELETES, NEWER, RESCUES];
    assert_holds(Config { must_happen, ..Config::new("unsupported entry, hold, undelete", few) });
    let few = Budget { newer: 1, ..budget(1, 1, 1) };
    let must_happen = &[COMMITS, DELETES, NEWER, MOVES];
    assert_holds(repacking(Config { must_happen, ..Config::new("unsupported entry, repack", few) }));
    let must_happen = &[COMMITS, DELETES, NEWER];
    let more = Budget { newer: 1, ..budget(2, 2, 1) };
    let config = Config::new("unsupported entry, 2 collectors", more);
    assert_holds_when_deep(Config { must_happen, ..config });
    let config = Config::new("unsupported outcome, 2 collectors", more);
    assert_holds_when_deep(Config { newer: Newer::Outcome, must_happen, ..config });
    let more = Budget { newer: 2, ..budget(2, 1, 1) };
    assert_holds_when_deep(Config { must_happen, ..Config::new("2 unsupported entries", more) });
}

#[test]
fn checkpoints() {
    let must_happen = &[COMMITS, DELETES, STARTS];
    let few = Budget { checkpoints: 1, ..budget(2, 1, 1) };
    assert_holds(Config { must_happen, ..Config::new("checkpoint", few) });
    let few = Budget { checkpoints: 1, rescues: 1, releases: 1, ..budget(1, 1, 1) };
    assert_holds(Config { must_happen, ..Config::new("checkpoint, hold, undelete, release", few) });
    let few = Budget { checkpoints: 1, ..budget(1, 1, 1) };
    let must_happen = &[COMMITS, DELETES, MOVES, STARTS];
    assert_holds(repacking(Config { must_happen, ..Config::new("checkpoint, repack", few) }));
    let must_happen = &[COMMITS, DELETES, STARTS, REVOKES];
    let few = Budget { checkpoints: 1, doubtful: 1, revokes: 1, ..budget(1, 1, 0) };
    let config = Config { must_happen, ..Config::new("checkpoint, revoke of a writer", few) };
    assert_holds(Config { doubt: Doubt::Writer, ..config });
    let few = Budget { checkpoints: 1, doubtful: 1, revokes: 1, ..budget(1, 1, 1) };
    let must_happen = &[COMMITS, DELETES, STARTS];
    let config = Config { must_happen, ..Config::new("checkpoint, revoke of a keeper", few) };
    assert_holds(Config { doubt: Doubt::Keeper, ..config });
    let more = Budget { checkpoints: 1, rescues: 1, ..budget(1, 2, 1) };
    let config = Config { must_happen, ..Config::new("checkpoint, hold, undelete, 2 collectors", more) };
    assert_holds_when_deep(config);
}

#[test]
fn notes_that_own_packs() {
    let must_happen = &[COMMITS, DELETES, ANNEXES];
    let few = Budget { notes: 1, ..budget(1, 2, 2) };
    assert_holds(Config { must_happen, ..Config::new("note", few) });
    let few = Budget { notes: 1, rescues: 1, ..budget(0, 2, 1) };
    let must_happen = &[DELETES, ANNEXES, RESCUES];
    assert_holds(Config { must_happen, ..Config::new("note, hold, undelete", few) });
    let few = Budget { notes: 1, ..budget(1, 1, 1) };
    let must_happen = &[COMMITS, DELETES, MOVES, ANNEXES];
    let config = Config { must_happen, ..Config::new("note, repack", few) };
    assert_holds(Config { repack: Repack::Any, ..config });
    let more = Budget { notes: 2, ..budget(1, 2, 2) };
    let must_happen = &[COMMITS, DELETES, ANNEXES];
    assert_holds_when_deep(Config { must_happen, ..Config::new("2 notes", more) });
}
