//! Each flaw must be found: a model that can't see them would prove nothing.

use crate::config::{Config, Flaw, Fold, Hints, Repack};
use crate::explore::assert_fails;
use crate::properties::{I2, I3, I4, QUARANTINE, REACHABLE, READS, RECORDS, SAVED, TAINT};
use crate::state::Budget;

fn budget(backups: u8, gcs: u8, forgets: u8) -> Budget {
    Budget { backups, gcs, forgets, ..Budget::default() }
}

fn flawed(name: &'static str, flaw: Flaw, budget: Budget) -> Config {
    Config { flaw: Some(flaw), ..Config::new(name, budget) }
}

#[test]
fn tombstone_retired() {
    let config = flawed("tombstone retired", Flaw::TombstoneRetired, budget(1, 1, 1));
    assert_fails(config, REACHABLE);
}

/// Looking whether the pack is there doesn't help: a late PUT brings it back, and it is deleted again.
#[test]
fn tombstone_retired_with_listing() {
    let budget = Budget { late_puts: 1, ..budget(1, 2, 1) };
    let config = flawed("tombstone retired, reuse of listed packs", Flaw::TombstoneRetired, budget);
    assert_fails(Config { hints: Hints::Listed, ..config }, REACHABLE);
}

#[test]
fn delete_before_decision() {
    let config = flawed("delete before the decision", Flaw::DeleteBeforeDecision, budget(1, 1, 1));
    assert_fails(config.clone(), REACHABLE);
    assert_fails(config, I2);
}

#[test]
fn tombstones_before_intent() {
    let config = flawed("tombstones before the intent", Flaw::TombstonesBeforeIntent, budget(1, 1, 1));
    assert_fails(config, REACHABLE);
}

#[test]
fn repack_ignores_late_users() {
    let config = flawed("partial repack ignores late users", Flaw::RepackIgnoresLateUsers, budget(2, 1, 1));
    let config = Config { disks: &[0b01, 0b10], old_disk: 0b11, repack: Repack::Partial, ..config };
    assert_fails(config.clone(), REACHABLE);
    assert_fails(config, I3);
}

#[test]
fn a_reader_that_keeps_its_view() {
    let budget = Budget { readers: 1, ..budget(0, 1, 1) };
    let config = flawed("a restore does not read the log again", Flaw::ReaderKeepsItsView, budget);
    let config = Config { old_disk: 0b11, repack: Repack::Any, ..config };
    assert_fails(config, READS);
}

#[test]
fn known_taken_at_intent() {
    let config = flawed(
        "outcomes between plan and intent are not read again",
        Flaw::KnownTakenAtIntent,
        budget(1, 1, 1),
    );
    assert_fails(config, REACHABLE);
}

#[test]
fn index_trusted() {
    let config = flawed("listing instead of avoid set", Flaw::IndexTrusted, budget(1, 1, 1));
    let config = Config { hints: Hints::Listed, ..config };
    assert_fails(config.clone(), REACHABLE);
    assert_fails(config, I4);
}

#[test]
fn late_index_segment() {
    let config = flawed("aborted writer's late segment", Flaw::LateIndexSegment, budget(2, 2, 1));
    assert_fails(Config { hints: Hints::Index, ..config }, REACHABLE);
}

#[test]
fn base_map_bypasses_avoid_set() {
    let config = flawed("base map bypasses the avoid set", Flaw::BaseMapBypassesAvoidSet, budget(1, 1, 1));
    assert_fails(config, REACHABLE);
}

#[test]
fn rescue_ignores_undecided_gc() {
    let budget = Budget { rescues: 1, ..budget(0, 1, 1) };
    let config = flawed("hold ignores an undecided gc", Flaw::RescueIgnoresUndecidedGc, budget);
    assert_fails(config, RECORDS);
}

#[test]
fn hidden_outcome_as_absent() {
    let budget = Budget { hides: 1, ..budget(1, 1, 1) };
    let config = flawed("unreadable outcome taken for absent", Flaw::HiddenOutcomeAsAbsent, budget);
    assert_fails(config, REACHABLE);
}

fn folding(config: Config) -> Config {
    Config { fold: Fold::IntentsAndAborts, ..config }
}

#[test]
fn writer_skips_w7() {
    let config = flawed("folding, writer skips W7", Flaw::WriterSkipsW7, budget(2, 1, 1));
    assert_fails(folding(config), SAVED);
}

/// Keeping the intents doesn't make W7 superfluous, as long as ABORTs go.
#[test]
fn writer_skips_w7_only_aborts_folded() {
    let config = flawed("ABORTs folded, writer skips W7", Flaw::WriterSkipsW7, budget(1, 1, 1));
    assert_fails(Config { fold: Fold::Aborts, ..config }, SAVED);
}

/// An aborted collector whose ABORT was folded away commits and deletes.
#[test]
fn collector_skips_w7_only_aborts_folded() {
    let config = flawed("ABORTs folded, collector skips W7", Flaw::CollectorSkipsW7, budget(1, 2, 1));
    assert_fails(Config { fold: Fold::Aborts, ..config }, REACHABLE);
}

/// A collector in a hole below a COMMIT commits and deletes: nobody above saw its list.
#[test]
fn collector_skips_w7() {
    let config = flawed("folding, collector skips W7", Flaw::CollectorSkipsW7, budget(2, 2, 1));
    assert_fails(folding(config.clone()), REACHABLE);
    assert_fails(folding(config), I2);
}

/// A hold that lands in a hole below a COMMIT is read by nobody.
#[test]
fn record_skips_w7() {
    let budget = Budget { rescues: 1, ..budget(1, 1, 1) };
    let config = flawed("folding, record skips W7", Flaw::RecordSkipsW7, budget);
    assert_fails(folding(config), RECORDS);
}

#[test]
fn fold_drops_records() {
    let budget = Budget { quarantines: 1, ..budget(2, 1, 1) };
    let config = flawed("folding drops records", Flaw::FoldDropsRecords, budget);
    assert_fails(config, QUARANTINE);
}

#[test]
fn burnt_by_number() {
    let config = flawed("folding, burnt list by number", Flaw::BurntByNumber, budget(3, 1, 1));
    assert_fails(folding(config), REACHABLE);
}

/// An aborted writer uploads its first pack after the collector's listing, another writer uses it.
#[test]
fn whole_sessions_not_checked() {
    let config = flawed("whole sessions burnt unchecked", Flaw::WholeSessionsNotChecked, budget(2, 2, 1));
    assert_fails(Config { burns_whole_sessions: true, ..config }, REACHABLE);
}

#[test]
fn taint_by_pack() {
    let budget = Budget { taints: 1, ..budget(1, 1, 0) };
    let config = flawed("taint by pack, not by origin", Flaw::TaintByPack, budget);
    assert_fails(Config { repack: Repack::Any, ..config }, TAINT);
}

#[test]
fn moves_what_was_not_copied() {
    let budget = Budget { quarantines: 1, ..budget(0, 1, 0) };
    let config = flawed("uncopied frames count as moved", Flaw::MovesWhatWasNotCopied, budget);
    assert_fails(Config { repack: Repack::Any, ..config }, REACHABLE);
}

#[test]
fn frame_named_by_origin() {
    let config = flawed("frame named by its origin", Flaw::FrameNamedByOrigin, budget(1, 2, 1));
    let config = Config { repack: Repack::Any, ..config };
    assert_fails(config, REACHABLE);
}
