//! Suspect snapshots: nothing from before one is let go until it is cleared. All backups of the model are of one machine.

use crate::config::{Config, Flaw, Repack};
use crate::exhaustive::assert_holds_when_deep;
use crate::explore::{assert_fails, assert_holds};
use crate::properties::{COMMITS, DELETES, KEPT, KEPTS, MOVES, STARTS};
use crate::protocol::Action;
use crate::state::{Budget, By, Id, NOW, Phase, Record, State};

impl Config {
    /// A writer says so of the snapshot that it is about to commit; a keeper clears it at any time.
    pub(crate) fn suspect_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.budget.suspects > 0 {
            let late = self.has(Flaw::SuspicionAfterManifest);
            let is_time = |&id: &Id| match late {
                true => state.session(id).phase == Phase::Confirmed && state.session(id).manifest().is_some(),
                false => {
                    matches!(state.session(id).phase, Phase::Uploaded(_)) && state.session(id).is_backup()
                }
            };
            let noted = |&id: &Id| !state.noted(id);
            let chosen = state.ids().filter(is_time).filter(noted);
            actions.extend(chosen.map(|id| Action::StartRecord(Record::Suspect(id))));
        }
        if state.budget.clears > 0 {
            let suspects = state.ids().filter(|&id| state.is_suspect(id, NOW));
            actions.extend(suspects.map(|id| Action::StartRecord(Record::Clear(id))));
        }
    }

    /// A collector about to decide looks at notes above its own number too: what it would let go may be from before a
    /// snapshot below it that is suspect.
    pub(crate) fn lets_go_of_kept(&self, state: &State, gc: Id) -> bool {
        let lower = state.session(gc).number;
        let gone =
            |&id: &Id| state.session(id).is_backup() && state.retention_below(id, lower) == (true, false);
        !self.has(Flaw::SuspicionAboveNotRead) && state.ids().filter(gone).any(|id| state.is_kept(id, NOW))
    }
}

impl State {
    fn noted(&self, id: Id) -> bool {
        self.ids().any(|note| self.session(note).record() == Some(Record::Suspect(id)))
    }

    fn is_suspect(&self, id: Id, limit: u8) -> bool {
        self.counted(limit).fold(false, |suspect, note| match self.session(note).record() {
            Some(Record::Suspect(of)) if of == id => true,
            Some(Record::Clear(of)) if of == id => false,
            _ => suspect,
        })
    }

    /// Whether it stays because of a suspect snapshot above it, or is one.
    pub(crate) fn is_kept(&self, snapshot: Id, limit: u8) -> bool {
        let number = self.session(snapshot).number;
        let above = |&id: &Id| self.session(id).number >= number && self.is_suspect(id, limit);
        !self.has(Flaw::SuspicionHoldsNothing) && self.ids().any(|id| above(&id))
    }
}

/// No honest collector lets go of what is from before a suspect snapshot below it that nobody cleared.
pub(crate) fn the_clean_points_stay(state: &State) -> bool {
    let commits = state.counted_commits(NOW).filter(|&gc| state.session(gc).by == By::Sound);
    let commits: Vec<Id> = commits.collect();
    state.ids().filter(|&id| state.session(id).manifest().is_some() && state.noted(id)).all(|suspect| {
        let cleared = |note: Id| state.session(note).record() == Some(Record::Clear(suspect));
        let number = state.session(suspect).number;
        state.ids().any(cleared)
            || commits.iter().filter(|&&gc| state.session(gc).number > number).all(|&gc| {
                let forgotten = state.session(gc).commit().map(|commit| commit.forgotten).unwrap_or_default();
                forgotten.iter().all(|snapshot| state.session(snapshot).number > number)
            })
    })
}

/// Somebody asked that it be forgotten, a collector committed above that, and it is live.
pub(crate) fn a_suspicion_keeps(state: &State) -> bool {
    state.ids().filter(|&id| state.is_kept(id, NOW) && state.is_live(id, NOW)).any(|id| {
        let forgets = state.ids().filter(|&f| state.session(f).record() == Some(Record::Forget(id)));
        let lowest = forgets.map(|forget| state.session(forget).number).min();
        let above = |number| state.counted_commits(NOW).any(|gc| state.session(gc).number > number);
        lowest.is_some_and(above)
    })
}

fn budget(backups: u8, gcs: u8, forgets: u8) -> Budget {
    Budget { backups, gcs, forgets, suspects: 1, ..Budget::default() }
}

#[test]
fn suspicions() {
    let must_happen = &[COMMITS, DELETES, KEPTS];
    assert_holds(Config { must_happen, ..Config::new("suspicion", budget(1, 2, 1)) });
    let cleared = Budget { clears: 1, ..budget(1, 2, 1) };
    assert_holds(Config { must_happen, ..Config::new("suspicion, cleared", cleared) });
    let must_happen = &[COMMITS, DELETES, MOVES, KEPTS];
    let config = Config { must_happen, ..Config::new("suspicion, repack", budget(1, 1, 1)) };
    assert_holds(Config { disks: &[0b01, 0b10], old_disk: 0b11, repack: Repack::Any, ..config });
    let must_happen = &[COMMITS, DELETES, STARTS];
    let few = Budget { checkpoints: 1, clears: 1, ..budget(1, 1, 1) };
    assert_holds(Config { must_happen, ..Config::new("suspicion, checkpoint", few) });
    let must_happen = &[COMMITS, DELETES, KEPTS];
    let more = Budget { clears: 1, ..budget(2, 2, 1) };
    assert_holds_when_deep(Config { must_happen, ..Config::new("suspicion, 2 writers, 2 collectors", more) });
}

fn flawed(name: &'static str, flaw: Flaw, budget: Budget) -> Config {
    Config { flaw: Some(flaw), ..Config::new(name, budget) }
}

#[test]
fn a_suspicion_that_holds_nothing() {
    assert_fails(flawed("suspicions hold nothing", Flaw::SuspicionHoldsNothing, budget(1, 1, 1)), KEPT);
}

#[test]
fn a_collector_that_reads_no_note_above_it() {
    assert_fails(flawed("notes above are not read", Flaw::SuspicionAboveNotRead, budget(1, 1, 1)), KEPT);
}

#[test]
fn a_note_after_the_manifest() {
    let config = flawed("the note comes after the manifest", Flaw::SuspicionAfterManifest, budget(1, 1, 1));
    assert_fails(config, KEPT);
}

#[test]
fn a_checkpoint_without_suspicions() {
    let budget = Budget { checkpoints: 1, ..budget(1, 1, 1) };
    let config = flawed("checkpoint without suspicions", Flaw::CheckpointOmitsSuspicions, budget);
    assert_fails(config, crate::properties::VIEWS);
}
