//! Flaws in what revokes, hostile commits, newer programs, checkpoints and notes may do: each must be found.

use crate::config::{Config, Doubt, Flaw, Newer, Repack};
use crate::distrust::{budget, repacking};
use crate::exhaustive::is_deep;
use crate::explore::assert_fails;
use crate::properties::{FORGETS, I3, REACHABLE, RECORDS, REVOKED, SAVED, VIEWS};
use crate::state::Budget;

fn flawed(name: &'static str, flaw: Flaw, doubt: Doubt, budget: Budget) -> Config {
    Config { flaw: Some(flaw), doubt, ..Config::new(name, budget) }
}

#[test]
fn revoke_voids_earlier_commits() {
    let budget = Budget { doubtful: 1, revokes: 1, ..budget(0, 0, 0) };
    let flaw = Flaw::RevokeVoidsEarlierCommits;
    let config = flawed("revoke voids a keeper's earlier commits", flaw, Doubt::Keeper, budget);
    assert_fails(repacking(config), REACHABLE);
}

#[test]
fn revoked_gc_taken_for_aborted() {
    let budget = Budget { doubtful: 1, revokes: 1, ..budget(1, 0, 1) };
    let flaw = Flaw::RevokedGcTakenForAborted;
    let config = flawed("open gc of a revoked keeper taken for aborted", flaw, Doubt::Keeper, budget);
    assert_fails(config, REACHABLE);
}

#[test]
fn revoked_collector_goes_on() {
    let budget = Budget { doubtful: 1, revokes: 1, ..budget(1, 0, 1) };
    let flaw = Flaw::RevokedCollectorGoesOn;
    let config = flawed("a revoked collector goes on and deletes", flaw, Doubt::Keeper, budget);
    assert_fails(config, REACHABLE);
}

#[test]
fn revoked_packs_unreadable() {
    let budget = Budget { doubtful: 1, revokes: 1, ..budget(1, 0, 0) };
    let flaw = Flaw::RevokedPacksUnreadable;
    let config = flawed("packs of revoked sessions are not read", flaw, Doubt::Writer, budget);
    assert_fails(config, REACHABLE);
}

#[test]
fn revoked_frames_reused() {
    let budget = Budget { doubtful: 1, revokes: 1, ..budget(1, 0, 0) };
    let flaw = Flaw::RevokedFramesReused;
    let config = flawed("frames of revoked sessions are used again", flaw, Doubt::Writer, budget);
    assert_fails(config, REVOKED);
}

/// The revoked key begins a session above the writer and uploads after W2.
#[test]
fn revoked_seen_in_w2_only() {
    let budget = Budget { doubtful: 1, revokes: 1, ..budget(1, 0, 0) };
    let flaw = Flaw::RevokedSeenInW2Only;
    let config = flawed("void sessions are those that W2 saw", flaw, Doubt::Keeper, budget);
    assert_fails(repacking(config), REVOKED);
}

#[test]
fn expiry_bars_outcomes() {
    let budget = Budget { doubtful: 1, expiries: 1, ..budget(0, 0, 0) };
    let name = "a certificate's end bars manifests";
    assert_fails(flawed(name, Flaw::ExpiryBarsOutcomes, Doubt::Writer, budget), SAVED);
    let config = flawed("a certificate's end bars commits", Flaw::ExpiryBarsOutcomes, Doubt::Keeper, budget);
    assert_fails(repacking(config), REACHABLE);
}

fn hostile(name: &'static str, flaw: Flaw, budget: Budget) -> Config {
    flawed(name, flaw, Doubt::Hostile, budget)
}

#[test]
fn commit_by_another_keeper() {
    let config = hostile("a thief commits another's gc", Flaw::CommitByAnotherKeeper, budget(0, 1, 0));
    assert_fails(Config { repack: Repack::Any, ..config }, FORGETS);
}

#[test]
fn forgotten_as_listed() {
    let few = Budget { doubtful: 1, ..budget(0, 0, 0) };
    assert_fails(hostile("a commit forgets by itself", Flaw::ForgottenAsListed, few), FORGETS);
    let few = Budget { doubtful: 1, rescues: 1, ..budget(0, 0, 1) };
    assert_fails(hostile("a commit forgets what is held", Flaw::ForgottenAsListed, few), FORGETS);
}

#[test]
fn needed_dead_counts() {
    let few = Budget { doubtful: 1, ..budget(0, 0, 0) };
    assert_fails(hostile("a commit burns what is needed", Flaw::NeededDeadCounts, few), I3);
}

#[test]
fn unannounced_dead_counts() {
    let few = Budget { doubtful: 1, ..budget(1, 0, 1) };
    let config = hostile("a commit burns what it did not announce", Flaw::UnannouncedDeadCounts, few);
    assert_fails(config, REACHABLE);
}

#[test]
fn unsettled_commit_counts() {
    let few = Budget { doubtful: 1, ..budget(1, 0, 1) };
    let config = hostile("a commit counts above open sessions", Flaw::UnsettledCommitCounts, few);
    assert_fails(config, REACHABLE);
}

/// The snapshot that needs the pack is made void, and the lie would be none: another backup that used the pack meanwhile
/// is still open.
#[test]
fn judged_by_later_revokes() {
    let few = Budget { doubtful: 2, revokes: 1, ..budget(1, 0, 0) };
    let flaw = Flaw::JudgedByLaterRevokes;
    if is_deep() {
        let config = flawed("a commit is judged by later revokes", flaw, Doubt::HostileTwice, few);
        assert_fails(Config { old_disk: 0, ..config }, REACHABLE);
    }
}

#[test]
fn unsettled_not_avoided() {
    let few = Budget { doubtful: 1, ..budget(2, 0, 1) };
    let flaw = Flaw::UnsettledNotAvoided;
    assert_fails(hostile("what a commit above open sessions proposed is used", flaw, few), REACHABLE);
}

#[test]
fn unlisted_forgotten_counts() {
    let few = Budget { doubtful: 1, rescues: 1, ..budget(0, 0, 1) };
    let flaw = Flaw::UnlistedForgottenCounts;
    assert_fails(hostile("a commit burns the forgotten and does not say so", flaw, few), REACHABLE);
}

#[test]
fn deletes_without_proof() {
    let few = Budget { doubtful: 1, ..budget(0, 0, 0) };
    let config = hostile("moves are believed and their sources deleted", Flaw::DeletesWithoutProof, few);
    assert_fails(config, REACHABLE);
}

#[test]
fn proof_of_live_only() {
    let few = Budget { doubtful: 1, rescues: 1, ..budget(0, 0, 1) };
    let flaw = Flaw::ProofOfLiveOnly;
    assert_fails(hostile("what was forgotten above a lying move is deleted", flaw, few), REACHABLE);
}

/// An honest collector moved the frames and is about to delete where they were; a thief says that he moved them on.
#[test]
fn proof_by_any_place() {
    let few = Budget { doubtful: 1, ..budget(0, 1, 0) };
    let flaw = Flaw::ProofByAnyPlace;
    let config = hostile("two packs are unneeded because of each other", flaw, few);
    assert_fails(repacking(config), REACHABLE);
}

/// A thief burns the packs of a gc that was given up.
#[test]
fn abandoned_copies_not_asked() {
    let few = Budget { doubtful: 1, hides: 1, abandons: 1, ..budget(0, 1, 0) };
    let flaw = Flaw::AbandonedCopiesNotAsked;
    let config = hostile("a thief burns copies of an abandoned gc", flaw, few);
    assert_fails(Config { repack: Repack::Any, ..config }, REACHABLE);
}

#[test]
fn unsupported_entries_ignored() {
    let newer = |name, flaw, budget| Config { flaw: Some(flaw), ..Config::new(name, budget) };
    let few = Budget { newer: 1, ..budget(1, 0, 1) };
    let config = newer("a writer goes on above an unsupported entry", Flaw::WriterIgnoresUnsupported, few);
    assert_fails(config, REACHABLE);
    let few = Budget { newer: 1, ..budget(0, 1, 1) };
    let flaw = Flaw::CollectorIgnoresUnsupported;
    let config = newer("a collector goes on above an unsupported entry", flaw, few);
    assert_fails(config, REACHABLE);
    let config = newer("a collector goes on beside an unsupported outcome", flaw, few);
    assert_fails(Config { newer: Newer::Outcome, ..config }, REACHABLE);
    let few = Budget { newer: 1, rescues: 1, ..budget(0, 0, 1) };
    let config = newer("a hold is confirmed above an unsupported entry", Flaw::RescueIgnoresUnsupported, few);
    assert_fails(config, RECORDS);
}

#[test]
fn checkpoints_that_omit() {
    let config = |name, flaw, budget| Config { flaw: Some(flaw), ..Config::new(name, budget) };
    let few = Budget { checkpoints: 1, ..budget(1, 0, 0) };
    assert_fails(config("a checkpoint omits open sessions", Flaw::CheckpointOmitsOpen, few), VIEWS);
    let few = Budget { checkpoints: 1, rescues: 1, ..budget(0, 0, 1) };
    assert_fails(config("a checkpoint omits holds", Flaw::CheckpointOmitsHolds, few), VIEWS);
    let few = Budget { checkpoints: 1, ..budget(0, 0, 1) };
    assert_fails(config("a checkpoint omits forgets", Flaw::CheckpointOmitsForgets, few), VIEWS);
    let few = Budget { checkpoints: 1, ..budget(0, 1, 0) };
    let moves = config("a checkpoint omits moves", Flaw::CheckpointOmitsMoves, few);
    assert_fails(repacking(moves), VIEWS);
    let few = Budget { checkpoints: 1, doubtful: 1, revokes: 1, ..budget(0, 0, 0) };
    let flaw = Flaw::CheckpointOmitsSigners;
    assert_fails(flawed("a checkpoint omits the signers", flaw, Doubt::Writer, few), VIEWS);
}

#[test]
fn checkpoints_at_the_wrong_place() {
    let config = |name, flaw, budget| Config { flaw: Some(flaw), ..Config::new(name, budget) };
    let few = Budget { checkpoints: 1, ..budget(0, 0, 1) };
    let flaw = Flaw::CheckpointAtItsNumber;
    assert_fails(config("a checkpoint claims all below its own number", flaw, few), VIEWS);
    let few = Budget { checkpoints: 1, rescues: 1, ..budget(0, 1, 1) };
    let flaw = Flaw::CheckpointBesideOpenGc;
    assert_fails(config("a checkpoint beside an open gc", flaw, few), VIEWS);
    let few = Budget { checkpoints: 1, doubtful: 1, revokes: 1, ..budget(0, 0, 0) };
    let flaw = Flaw::StartsAtRevokedCheckpoint;
    assert_fails(flawed("a reader starts at a revoked keeper's", flaw, Doubt::Keeper, few), VIEWS);
}

#[test]
fn notes_taken_for_garbage() {
    let config = |name, flaw, budget| Config { flaw: Some(flaw), ..Config::new(name, budget) };
    let few = Budget { notes: 1, ..budget(0, 1, 0) };
    assert_fails(config("packs without a manifest are dead", Flaw::NotePacksDead, few), REACHABLE);
    let flaw = Flaw::UnlistedNotePacksDead;
    assert_fails(config("packs of a note under way are dead", flaw, few), REACHABLE);
    let few = Budget { notes: 1, ..budget(1, 1, 0) };
    let flaw = Flaw::NotesJudgedOnce;
    assert_fails(config("G5 does not look at notes again: late snapshot", flaw, few), REACHABLE);
    let few = Budget { notes: 1, rescues: 1, ..budget(0, 1, 1) };
    assert_fails(config("G5 does not look at notes again: undelete", flaw, few), REACHABLE);
}

#[test]
fn abandoned_is_not_aborted() {
    let config = |name, flaw, budget| Config { flaw: Some(flaw), ..Config::new(name, budget) };
    let few = Budget { hides: 1, abandons: 1, ..budget(1, 1, 1) };
    let flaw = Flaw::AbandonForgetsProposal;
    assert_fails(config("writers reuse what an abandoned gc proposed", flaw, few), REACHABLE);
    let few = Budget { hides: 1, abandons: 1, rescues: 1, ..budget(0, 1, 1) };
    let flaw = Flaw::AbandonRevives;
    assert_fails(config("an undelete above an abandon", flaw, few), REACHABLE);
    let few = Budget { hides: 1, abandons: 1, ..budget(0, 1, 0) };
    let flaw = Flaw::AbandonedCopiesNotRead;
    let repack = Repack::Any;
    let name = "copies of an abandoned gc are not read";
    assert_fails(Config { repack, ..config(name, flaw, few) }, REACHABLE);
    let few = Budget { hides: 1, abandons: 1, ..budget(0, 2, 0) };
    let flaw = Flaw::AbandonedCopiesAreGarbage;
    let name = "copies of an abandoned gc are garbage";
    assert_fails(Config { repack, ..config(name, flaw, few) }, REACHABLE);
    let few = Budget { hides: 1, abandons: 1, ..budget(1, 2, 1) };
    let flaw = Flaw::AbandonedCopiesNotStruck;
    let late = repacking(config("copies for a late snapshot are not struck", flaw, few));
    assert_fails(Config { names_origins: true, ..late }, REACHABLE);
    let few = Budget { hides: 1, abandons: 1, rescues: 1, ..budget(0, 2, 1) };
    let name = "copies for a snapshot that came back are not struck";
    assert_fails(Config { repack, ..config(name, flaw, few) }, REACHABLE);
}
