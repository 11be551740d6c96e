//! What must always hold, and what must be seen to happen so that nothing holds vacuously.

use stateright::Property;

use crate::config::{Config, Fold};
use crate::state::{By, First, Id, Kind, NOW, Outcome, Phase, Record, State, Stored, Uses};

pub(crate) const COMMITS: &str = "a snapshot commits";
pub(crate) const DELETES: &str = "gc deletes";
pub(crate) const MOVES: &str = "repack moves a frame and deletes its source";
pub(crate) const RESCUES: &str = "a hold or undelete saves a pack from gc";
pub(crate) const FAILS: &str = "an aborted writer goes on and reports failure";
pub(crate) const VOIDS: &str = "a session begins in a hole that folding left";
pub(crate) const HEALS: &str = "a backup stores a quarantined chunk again";

pub(crate) const REACHABLE: &str = "live snapshots are reachable";
pub(crate) const SAVED: &str = "saved means committed";
pub(crate) const RECORDS: &str = "confirmed records have effect";
pub(crate) const I1: &str = "I1 one outcome per session";
pub(crate) const I2: &str = "I2 deleted packs were in a committed list";
pub(crate) const I3: &str = "I3 final lists are unused";
pub(crate) const I4: &str = "I4 later sessions avoid proposals and final lists";
pub(crate) const I6: &str = "I6 packs are durable before the outcome";
pub(crate) const QUARANTINE: &str = "quarantined packs are not used again";
pub(crate) const TAINT: &str = "frames of tainted sessions are not used again";
pub(crate) const READS: &str = "a restore of a live snapshot finds it";
pub(crate) const FOLLOWS: &str = "a restore follows a pack that went while it ran";
pub(crate) const REVOKED: &str = "frames of revoked sessions are not used again";
pub(crate) const FORGETS: &str = "only what was forgotten and not held is gone";
pub(crate) const HONEST: &str = "honest commits are no lies";
pub(crate) const VIEWS: &str = "a reader from a checkpoint sees what all see";
pub(crate) const STARTS: &str = "a checkpoint with open sessions is read";
pub(crate) const REVOKES: &str = "something that succeeded is made void";
pub(crate) const LIES: &str = "a lie is found out";
pub(crate) const BELIEVED: &str = "a commit of the doubtful key burns packs";
pub(crate) const ANNEXES: &str = "the pack of a note is deleted";
pub(crate) const NEWER: &str = "a newer program succeeds";
pub(crate) const COPIES: &str = "only an abandoned collector has the frame of a live snapshot";
pub(crate) const KEPT: &str = "what is from before a suspect snapshot stays";
pub(crate) const KEPTS: &str = "a suspicion keeps a forgotten snapshot";
pub(crate) const NUMBERS: &str = "numbers are dense and unique";

pub(crate) fn all() -> Vec<Property<Config>> {
    vec![
        Property::always(REACHABLE, |_, state: &State| live_snapshots_are_reachable(state)),
        Property::always(SAVED, |_, state: &State| saved_means_committed(state)),
        Property::always(RECORDS, |_, state: &State| confirmed_records_have_effect(state)),
        Property::always(I1, |_, state: &State| outcomes_never_change(state)),
        Property::always(I2, |_, state: &State| deleted_packs_were_listed(state)),
        Property::always(I3, |_, state: &State| final_lists_are_unused(state)),
        Property::always(I4, |_, state: &State| later_sessions_avoid(state)),
        Property::always(I6, |_, state: &State| packs_are_durable(state)),
        Property::always(QUARANTINE, |_, state: &State| quarantine_is_kept(state)),
        Property::always(TAINT, |_, state: &State| taint_is_kept(state)),
        Property::always(READS, |_, state: &State| restores_find(state)),
        Property::sometimes(FOLLOWS, |_, state: &State| {
            state.reader.is_some_and(|reader| reader.has_followed)
        }),
        Property::always(REVOKED, |_, state: &State| revoked_frames_are_not_used(state)),
        Property::always(FORGETS, |_, state: &State| only_forgets_remove(state)),
        Property::always(HONEST, honest_commits_stand),
        Property::always(VIEWS, |_, state: &State| crate::checkpoint::has_no_effect(state)),
        Property::sometimes(STARTS, |_, state: &State| crate::checkpoint::is_used(state)),
        Property::sometimes(REVOKES, |_, state: &State| {
            state.ids().any(|id| state.is_void(id, NOW) && state.session(id).first == First::Success)
        }),
        Property::sometimes(LIES, |_, state: &State| state.ids().any(|id| state.is_lie(id))),
        Property::sometimes(BELIEVED, |_, state: &State| {
            let doubtful = |&id: &Id| state.session(id).by == By::Doubtful;
            state
                .counted_commits(NOW)
                .filter(doubtful)
                .any(|id| state.session(id).commit().is_some_and(|commit| !commit.dead.is_empty()))
        }),
        Property::sometimes(ANNEXES, |_, state: &State| {
            state.ids().any(|id| state.is_note(id) && state.session(id).pack.stored == Stored::Deleted)
        }),
        Property::sometimes(NEWER, |_, state: &State| {
            let newer = state.sessions.iter().filter(|s| s.by == By::Newer);
            newer.into_iter().any(|s| s.first == First::Success)
        }),
        Property::sometimes(COPIES, |_, state: &State| a_copy_is_all_there_is(state)),
        Property::always(KEPT, |_, state: &State| crate::suspects::the_clean_points_stay(state)),
        Property::sometimes(KEPTS, |_, state: &State| crate::suspects::a_suspicion_keeps(state)),
        Property::always(NUMBERS, |_, state: &State| numbers_are_dense_and_unique(state)),
        Property::sometimes(COMMITS, |_, state: &State| a_snapshot_commits(state)),
        Property::sometimes(DELETES, |_, state: &State| {
            state.sessions.iter().any(|session| session.pack.stored == Stored::Deleted)
        }),
        Property::sometimes(MOVES, |_, state: &State| a_move_completes(state)),
        Property::sometimes(RESCUES, |_, state: &State| a_rescue_saves(state)),
        Property::sometimes(FAILS, |_, state: &State| {
            let failed = |phase| matches!(phase, Phase::Failed(_));
            state.sessions.iter().any(|s| matches!(s.kind, Kind::Backup(_)) && failed(s.phase))
        }),
        Property::sometimes(VOIDS, |_, state: &State| state.sessions.iter().any(|session| session.void)),
        Property::sometimes(HEALS, |_, state: &State| a_backup_heals(state)),
    ]
}

fn live_snapshots_are_reachable(state: &State) -> bool {
    state.alive().all(|id| state.uses(id).iter().all(|(chunk, pack)| state.is_reachable(chunk, pack, None)))
}

fn saved_means_committed(state: &State) -> bool {
    let saved = |id: &Id| {
        let session = state.session(*id);
        matches!(session.kind, Kind::Backup(_)) && session.phase == Phase::Confirmed
    };
    // Who is revoked later was told the truth.
    let stands = |id: Id| state.session(id).manifest().is_some() && state.counts(id, NOW);
    state.ids().filter(saved).all(|id| stands(id) || state.is_void(id, NOW))
}

fn confirmed_records_have_effect(state: &State) -> bool {
    state.ids().filter(|&id| state.session(id).phase == Phase::Confirmed).all(|id| {
        match state.session(id).record() {
            None => true,
            Some(Record::Hold(snapshot) | Record::Undelete(snapshot)) => {
                state.counts(id, NOW) && state.rescue_works(id, snapshot, NOW)
            }
            Some(_) => state.counts(id, NOW),
        }
    })
}

fn outcomes_never_change(state: &State) -> bool {
    state.ids().all(|id| {
        let session = state.session(id);
        match session.first {
            First::None => true,
            First::Abort => !state.counts(id, NOW),
            First::Success => {
                // Revoked, given up, or the lie of a thief.
                let distrusted =
                    state.is_void(id, NOW) || state.is_abandoned(id, NOW) || session.by == By::Doubtful;
                session.void || distrusted || state.counts(id, NOW)
            }
        }
    })
}

fn deleted_packs_were_listed(state: &State) -> bool {
    state.ids().filter(|&id| state.session(id).pack.stored == Stored::Deleted).all(|pack| {
        let lists = |gc| state.session(gc).commit().is_some_and(|commit| commit.dead.contains(pack));
        state.ids().filter(|&gc| state.counts(gc, NOW) || state.is_abandoned(gc, NOW)).any(lists)
    })
}

fn final_lists_are_unused(state: &State) -> bool {
    state.counted_commits(NOW).all(|gc| {
        // The collector's own digest, not the objects below it: those may have been folded.
        let number = state.session(gc).number;
        let limit = number + 1;
        let Some(commit) = state.session(gc).commit() else { return true };
        state.holders(limit).filter(|&id| state.is_live(state.owner(id), limit)).all(|id| {
            let uses = state.uses(id);
            uses.iter().all(|(chunk, pack)| match state.follow_moves(chunk, pack, number, limit) {
                Some(place) => !commit.dead.contains(place) || commit.moved[chunk].contains(place),
                None => false,
            })
        })
    })
}

/// The packs in which lies what a backup refers to, or is about to, as the COMMITs below it say.
fn chosen(state: &State, id: Id) -> Option<Uses> {
    let uses = match state.session(id).phase {
        Phase::Uploaded(uses) | Phase::Uncertain(uses) => Some(uses),
        _ => state.session(id).manifest(),
    };
    uses.map(|uses| where_they_lay(state, id, uses))
}

fn where_they_lay(state: &State, id: Id, mut uses: Uses) -> Uses {
    let number = state.session(id).number;
    for (chunk, pack) in uses.iter().collect::<Vec<_>>() {
        uses.0[chunk] = state.follow_moves(chunk, pack, number, number).or(Some(pack));
    }
    uses
}

fn later_sessions_avoid(state: &State) -> bool {
    state.ids().all(|id| {
        let Some(uses) = chosen(state, id) else { return true };
        state.ids().filter(|&gc| state.session(gc).number < state.session(id).number).all(|gc| {
            let Some(proposal) = state.session(gc).proposal() else { return true };
            match state.session(gc).outcome {
                Outcome::Commit(commit) if state.counts(gc, NOW) => !uses.packs().intersects(commit.dead),
                Outcome::None if state.is_void(gc, NOW) => true,
                Outcome::None if !state.is_decided(gc, NOW) => {
                    !uses.packs().intersects(proposal.dead.union(proposal.empty))
                }
                _ => true,
            }
        })
    })
}

fn packs_are_durable(state: &State) -> bool {
    state.sessions.iter().filter_map(|session| session.manifest()).all(|uses| {
        uses.iter().all(|(chunk, pack)| {
            let pack = state.session(pack).pack;
            pack.stored != Stored::Never && pack.chunks & (1 << chunk) != 0
        })
    })
}

fn quarantine_is_kept(state: &State) -> bool {
    state.ids().all(|id| {
        let session = state.session(id);
        let Some(Record::Quarantine(pack)) = session.record() else { return true };
        let later = |&other: &Id| state.session(other).number > session.number && state.counts(other, NOW);
        let users = state
            .ids()
            .filter(later)
            .filter_map(|other| Some(where_they_lay(state, other, state.session(other).manifest()?)));
        session.phase != Phase::Confirmed || users.into_iter().all(|uses| !uses.packs().contains(pack))
    })
}

fn taint_is_kept(state: &State) -> bool {
    state.ids().all(|id| {
        let session = state.session(id);
        let Some(Record::Taint(tainted)) = session.record() else { return true };
        let later = |&other: &Id| state.session(other).number > session.number && state.counts(other, NOW);
        let users = state.ids().filter(later).filter_map(|other| state.session(other).manifest());
        let clean = |uses: Uses| uses.iter().all(|(c, pack)| !state.origins(c, pack).contains(tainted));
        session.phase != Phase::Confirmed || users.into_iter().all(clean)
    })
}

/// A revocation taints what it makes void.
fn revoked_frames_are_not_used(state: &State) -> bool {
    let void = |id: Id| state.ids().filter(move |&other| state.is_void(other, state.session(id).number));
    state.ids().filter(|&id| state.counts(id, NOW)).all(|id| {
        let uses = state.session(id).manifest().unwrap_or_default();
        uses.iter().all(|(c, pack)| void(id).all(|v| !state.origins(c, pack).contains(v) && pack != v))
    })
}

/// A snapshot is gone only where a record below the collector forgot it and none held it.
fn only_forgets_remove(state: &State) -> bool {
    state.counted_commits(NOW).all(|gc| {
        // With the collector's own digest: below it intents may have been folded away.
        let number = state.session(gc).number + 1;
        let gone = state.ids().filter(|&id| state.honours(gc, id));
        gone.into_iter().all(|id| state.retention_below(id, number) == (true, false))
    })
}

/// What honest collectors commit is never taken for a lie.
fn honest_commits_stand(config: &Config, state: &State) -> bool {
    let honest = |id: &Id| !config.has_thief() || state.session(*id).by != By::Doubtful;
    config.fold != Fold::Nothing
        || state
            .ids()
            .filter(|&id| state.session(id).commit().is_some())
            .filter(honest)
            .all(|id| state.is_settled(id) && !state.is_damaged(id))
}

fn restores_find(state: &State) -> bool {
    state.reader.is_none_or(|reader| !reader.is_lost || !state.is_live(reader.snapshot, NOW))
}

fn numbers_are_dense_and_unique(state: &State) -> bool {
    let folded = state.newest_commit(NOW).map_or(0, |gc| state.session(gc).number);
    let holders = |number| state.sessions.iter().filter(|s| s.intent && s.number == number).count();
    (1..=state.highest_number()).all(|number| match holders(number) {
        0 => number < folded,
        count => count == 1,
    })
}

fn a_snapshot_commits(state: &State) -> bool {
    state.sessions.iter().any(|s| s.manifest().is_some() && s.phase == Phase::Confirmed)
}

fn a_move_completes(state: &State) -> bool {
    state.counted_commits(NOW).any(|gc| {
        let moved = state.session(gc).commit().map(|commit| commit.moved).unwrap_or_default();
        moved.iter().any(|sources| sources.iter().any(|p| state.session(p).pack.stored == Stored::Deleted))
    })
}

/// A collector proposed a pack of a forgotten snapshot and struck it, because of a confirmed record.
fn a_rescue_saves(state: &State) -> bool {
    state.ids().filter(|&id| state.session(id).phase == Phase::Confirmed).any(|id| {
        let Some(Record::Hold(snapshot) | Record::Undelete(snapshot)) = state.session(id).record() else {
            return false;
        };
        let packs = state.session(snapshot).manifest().unwrap_or_default().packs();
        state.counted_commits(NOW).any(|gc| {
            let session = state.session(gc);
            let proposed = session.proposal().is_some_and(|proposal| proposal.dead.intersects(packs));
            let kept = session.commit().is_some_and(|commit| !commit.dead.intersects(packs));
            session.number > state.session(id).number && proposed && kept
        })
    })
}

fn a_copy_is_all_there_is(state: &State) -> bool {
    state.alive().any(|id| {
        state.uses(id).iter().any(|(chunk, pack)| {
            let mut copies = state.abandoned_copies(chunk, pack, NOW);
            copies.any(|copy| {
                !state.is_reachable(chunk, pack, Some(copy)) && state.is_reachable(chunk, pack, None)
            })
        })
    })
}

fn a_backup_heals(state: &State) -> bool {
    let quarantined = state.quarantined(NOW);
    let saved = state.sessions.iter().filter(|s| s.phase == Phase::Confirmed && s.manifest().is_some());
    saved.filter_map(|session| session.manifest()).any(|uses| {
        uses.iter().any(|(chunk, pack)| {
            let lost = |p: Id| state.session(p).pack.chunks & (1 << chunk) != 0;
            !quarantined.contains(pack) && quarantined.iter().any(lost)
        })
    })
}
