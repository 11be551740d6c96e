//! Notes that own packs: complete at once, uploaded afterwards, kept as long as the snapshot they name.

use crate::config::{Config, Flaw};
use crate::protocol::Action;
use crate::state::{Id, NOW, Pack, Phase, Record, State, Stored, Uses};

/// The chunk that stands for an annex.
pub(crate) const ANNEX: usize = 1;

impl Config {
    pub(crate) fn note_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.budget.notes > 0 {
            let backups = state.ids().filter(|&id| state.session(id).is_backup());
            actions.extend(backups.map(|id| Action::StartRecord(Record::Note(id))));
        }
        for id in state.ids().filter(|&id| state.is_note(id)) {
            match state.session(id).phase {
                Phase::Announced => actions.push(Action::UploadAnnex(id)),
                Phase::Uploaded(_) => actions.push(Action::ListAnnex(id)),
                _ => {}
            }
        }
    }

    /// What collectors take for in use; the careless ones forget notes, or those that are not listed yet.
    pub(crate) fn minds(&self, state: &State, id: Id) -> bool {
        let uploading = matches!(state.session(id).phase, Phase::Uploaded(_));
        let careless = self.has(Flaw::NotePacksDead) || self.has(Flaw::UnlistedNotePacksDead) && uploading;
        !(state.is_note(id) && careless)
    }
}

pub(crate) fn upload_annex(state: &mut State, id: Id) {
    let session = state.session_mut(id);
    session.pack = Pack { stored: Stored::Now, chunks: 1 << ANNEX };
    session.phase = Phase::Uploaded(Uses::default());
}

impl State {
    pub(crate) fn is_note(&self, id: Id) -> bool {
        matches!(self.session(id).record(), Some(Record::Note(_)))
    }

    /// The snapshot with which this session lives: of a note the one it names.
    pub(crate) fn owner(&self, id: Id) -> Id {
        match self.session(id).record() {
            Some(Record::Note(snapshot)) => snapshot,
            _ => id,
        }
    }

    /// What a snapshot or a note needs.
    pub(crate) fn uses(&self, id: Id) -> Uses {
        let mut uses = self.session(id).manifest().unwrap_or_default();
        if self.is_note(id) && self.session(id).pack.stored != Stored::Never {
            uses.0[ANNEX] = Some(id);
        }
        uses
    }

    /// Snapshots, and notes of snapshots, live or not.
    pub(crate) fn holders(&self, limit: u8) -> impl Iterator<Item = Id> + '_ {
        let committed = move |id: Id| self.session(id).manifest().is_some() && self.counts(id, limit);
        self.ids().filter(move |&id| committed(self.owner(id)) && self.counts(id, limit))
    }

    /// Live snapshots and their notes.
    pub(crate) fn alive(&self) -> impl Iterator<Item = Id> + '_ {
        self.holders(NOW).filter(|&id| self.is_live(self.owner(id), NOW))
    }
}
