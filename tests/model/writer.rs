//! W2-W8: a backup from its number to its report.

use crate::config::{Config, Doubt, Flaw, Fold, Hints};
use crate::protocol::Action;
use crate::state::{By, CHUNKS, Id, Kind, NOW, Outcome, Pack, Phase, Set, State, Stored, Uses};

impl Config {
    pub(crate) fn writer_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.budget.backups > 0 {
            self.start_actions(By::Sound, actions);
        }
        if state.budget.newer > 0 {
            self.start_actions(By::Newer, actions);
        }
        let owned = matches!(self.doubt, Doubt::Writer | Doubt::HostileTwice);
        if state.budget.doubtful > 0 && owned && !state.expired {
            self.start_actions(By::Doubtful, actions);
        }
        for id in state.ids().filter(|&id| state.session(id).acknowledged) {
            if let Kind::Backup(disk) = state.session(id).kind {
                self.session_actions(state, id, disk, actions);
            }
        }
    }

    fn start_actions(&self, by: By, actions: &mut Vec<Action>) {
        actions.extend(self.disks.iter().map(|&disk| Action::StartBackup { disk, by }));
    }

    fn session_actions(&self, state: &State, id: Id, disk: u8, actions: &mut Vec<Action>) {
        let session = state.session(id);
        let has_segment = session.pack.stored != Stored::Never && !state.published.contains(id);
        if self.hints == Hints::Index && has_segment && self.may_publish(state, id) {
            actions.push(Action::PublishSegment(id));
        }
        match session.phase {
            Phase::Announced if self.log_is_readable(state, id) => {
                actions.push(Action::ReadTombstones(id));
            }
            Phase::Avoiding(avoid) => {
                let choices = self.choices(state, id, disk, avoid);
                actions.extend(choices.into_iter().map(|uses| Action::Upload(id, uses)));
            }
            Phase::Uploaded(_) => {
                if state.budget.give_ups > 0 {
                    actions.push(Action::GiveUp(id));
                }
                actions.push(Action::CreateManifest { writer: id, acknowledged: true });
                if state.budget.lost_acks > 0 {
                    actions.push(Action::CreateManifest { writer: id, acknowledged: false });
                }
            }
            Phase::Uncertain(_) => actions.push(Action::ReadOutcomeBack(id)),
            Phase::Won => actions.push(Action::LookForCommitAbove(id)),
            _ => {}
        }
    }

    /// A missing number, an unreadable outcome of a collector that nobody gave up, an entry of a newer program, a key
    /// that was revoked: refuse to start.
    fn log_is_readable(&self, state: &State, id: Id) -> bool {
        let number = state.session(id).number;
        let blind = state
            .hidden
            .is_some_and(|gc| state.session(gc).proposal().is_some() && !state.is_abandoned(gc, number));
        let stops = self.is_puzzled_by_entries(state, id) && !self.has(Flaw::WriterIgnoresUnsupported);
        state.log_is_complete(number) && !blind && !stops && !state.is_void(id, number)
    }

    fn may_publish(&self, state: &State, id: Id) -> bool {
        self.has(Flaw::LateIndexSegment) || state.session(id).outcome != Outcome::Abort
    }

    /// Every way to find the disk's chunks: a pack that is known, or our own.
    fn choices(&self, state: &State, id: Id, disk: u8, avoid: Set) -> Vec<Uses> {
        let mut choices = vec![Uses::default()];
        for chunk in (0..CHUNKS).filter(|chunk| disk & (1 << chunk) != 0) {
            let places: Vec<Id> = state.ids().filter(|&p| self.may_use(state, id, p, chunk, avoid)).collect();
            choices = choices
                .into_iter()
                .flat_map(|uses| places.iter().map(move |&place| with_place(uses, chunk, place)))
                .collect();
        }
        if self.has(Flaw::BaseMapBypassesAvoidSet) {
            let bases = state.counted(NOW).filter_map(|base| state.session(base).manifest());
            choices.extend(bases.filter(|base| disk == chunks_of(*base)));
        }
        choices
    }

    fn may_use(&self, state: &State, writer: Id, pack: Id, chunk: usize, avoid: Set) -> bool {
        if pack == writer {
            return true;
        }
        if self.names_origins && origin_in(state, writer, chunk, pack).is_none() {
            return false;
        }
        let found = state.session(pack).pack;
        let hinted = match self.hints {
            Hints::AnyEverUploaded => true,
            Hints::Listed => found.stored == Stored::Now,
            Hints::Index => state.index.contains(pack),
        };
        let number = state.session(writer).number;
        // The avoid set is as old as W2; a revoked key may have begun sessions since.
        let since = !self.has(Flaw::RevokedSeenInW2Only);
        let void = if since { state.voids(number) } else { Set::default() };
        let tainted = state.tainted(number).union(void);
        let sealed_by_tainted =
            tainted.intersects(state.origins(chunk, pack)) && !self.has(Flaw::TaintByPack);
        let trusted = self.has(Flaw::IndexTrusted) || !avoid.union(void).contains(pack) && !sealed_by_tainted;
        found.stored != Stored::Never && found.chunks & (1 << chunk) != 0 && hinted && trusted
    }

    pub(crate) fn start_backup(&self, state: &mut State, disk: u8, by: By) {
        *state.budget.of(by, |budget| &mut budget.backups) -= 1;
        self.begin(state, Kind::Backup(disk), by, Set::default());
    }

    pub(crate) fn read_tombstones(&self, state: &mut State, id: Id) {
        let number = state.session(id).number;
        let mut avoid = self.avoid_set_of(state, id, number);
        if self.has(Flaw::TombstoneRetired) {
            for pack in avoid.iter().filter(|&p| state.session(p).pack.stored == Stored::Deleted) {
                avoid.remove(pack);
            }
        }
        if self.has(Flaw::LateIndexSegment) {
            for gc in state.retired.iter() {
                let dead = state.session(gc).commit().map(|commit| commit.dead).unwrap_or_default();
                avoid = Set(avoid.0 & !dead.0);
            }
        }
        state.session_mut(id).phase = Phase::Avoiding(avoid);
    }

    pub(crate) fn upload(&self, state: &mut State, id: Id, uses: Uses) {
        let own = uses.iter().filter(|&(_, pack)| pack == id).fold(0, |bits, (chunk, _)| bits | 1 << chunk);
        let named = match () {
            () if self.has(Flaw::FrameNamedByOrigin) => name_by_origin(state, uses),
            () if self.names_origins => name_by_committed_origin(state, id, uses),
            () => uses,
        };
        let session = state.session_mut(id);
        if own != 0 {
            session.pack = Pack { stored: Stored::Now, chunks: own };
        }
        session.phase = Phase::Uploaded(named);
    }

    pub(crate) fn create_manifest(&self, state: &mut State, id: Id, acknowledged: bool) {
        let Phase::Uploaded(uses) = state.session(id).phase else { return };
        state.create_outcome(id, Outcome::Manifest(uses));
        if acknowledged {
            self.after_outcome(state, id, uses);
        } else {
            state.budget.lost_acks -= 1;
            state.session_mut(id).phase = Phase::Uncertain(uses);
        }
    }

    /// W6: the writer decides its session itself, and reads who won.
    pub(crate) fn give_up(&self, state: &mut State, id: Id) {
        let Phase::Uploaded(uses) = state.session(id).phase else { return };
        state.budget.give_ups -= 1;
        state.create_outcome(id, Outcome::Abort);
        self.after_outcome(state, id, uses);
    }

    /// Nothing there means that our request was lost, or an ABORT was folded away: create again.
    pub(crate) fn read_outcome_back(&self, state: &mut State, id: Id) {
        let Phase::Uncertain(uses) = state.session(id).phase else { return };
        if state.session(id).outcome == Outcome::None {
            state.session_mut(id).phase = Phase::Uploaded(uses);
        } else {
            self.after_outcome(state, id, uses);
        }
    }

    fn after_outcome(&self, state: &mut State, id: Id, uses: Uses) {
        let won = state.session(id).manifest().is_some();
        // Without folding an outcome once created stays, so W7 finds nothing: no separate step is needed.
        let reports_at_once = self.fold == Fold::Nothing || self.has(Flaw::WriterSkipsW7);
        state.session_mut(id).phase = match (won, reports_at_once) {
            // W7 reads back what a reader makes of it.
            (true, true) if state.is_void(id, NOW) => Phase::Failed(None),
            (true, true) => Phase::Confirmed,
            (true, false) => Phase::Won,
            (false, _) => {
                let may_linger = self.fold != Fold::Nothing && self.budget.late_puts > 0;
                Phase::Failed(may_linger.then_some(uses))
            }
        };
    }
}

fn with_place(mut uses: Uses, chunk: usize, place: Id) -> Uses {
    uses.0[chunk] = Some(place);
    uses
}

fn chunks_of(uses: Uses) -> u8 {
    uses.iter().fold(0, |bits, (chunk, _)| bits | 1 << chunk)
}

/// The pack a copied frame came from.
fn name_by_origin(state: &State, uses: Uses) -> Uses {
    let mut named = uses;
    for (chunk, pack) in uses.iter() {
        named.0[chunk] = state.origins(chunk, pack).iter().next();
    }
    named
}

/// A session whose frame the COMMITs below the writer's number leave in this pack.
fn origin_in(state: &State, writer: Id, chunk: usize, pack: Id) -> Option<Id> {
    let number = state.session(writer).number;
    let lies_here = |origin: &Id| state.follow_moves(chunk, *origin, number, number) == Some(pack);
    state.origins(chunk, pack).iter().find(lies_here)
}

fn name_by_committed_origin(state: &State, writer: Id, uses: Uses) -> Uses {
    let mut named = uses;
    for (chunk, pack) in uses.iter().filter(|(_, pack)| *pack != writer) {
        named.0[chunk] = origin_in(state, writer, chunk, pack);
    }
    named
}

pub(crate) fn publish_segment(state: &mut State, id: Id) {
    state.published.insert(id);
    state.index.insert(id);
}
