//! A restore that runs beside everybody else: it reads the log once, then pack after pack. When a pack is not there it
//! reads the log again, and gives up only when no COMMIT has come since.

use crate::config::{Config, Flaw};
use crate::protocol::Action;
use crate::state::{CHUNKS, Id, NOW, Reader, Set, State};

impl Config {
    pub(crate) fn reader_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.reader {
            Some(reader) if !reader.is_lost && usize::from(reader.chunk) < CHUNKS => {
                actions.push(Action::ReadChunk);
            }
            None if state.budget.readers > 0 => {
                let live = state.ids().filter(|&id| state.is_live(id, NOW));
                actions.extend(live.map(Action::StartRestore));
            }
            _ => {}
        }
    }

    pub(crate) fn read_chunk(&self, state: &mut State) {
        let Some(mut reader) = state.reader else { return };
        let uses = state.session(reader.snapshot).manifest().unwrap_or_default();
        let chunk = usize::from(reader.chunk);
        let known = commits(state);
        match uses.0[chunk] {
            None => reader.chunk += 1,
            Some(pack) if holds(state, chunk, place(state, chunk, pack, reader.seen)) => {
                reader.has_followed |= reader.has_missed;
                reader.chunk += 1;
            }
            Some(_) if reader.seen == known || self.has(Flaw::ReaderKeepsItsView) => reader.is_lost = true,
            Some(_) => (reader.seen, reader.has_missed) = (known, true),
        }
        state.reader = Some(reader);
    }
}

pub(crate) fn start_restore(state: &mut State, snapshot: Id) {
    state.budget.readers -= 1;
    state.reader = Some(Reader { snapshot, seen: commits(state), ..Reader::default() });
}

fn commits(state: &State) -> Set {
    let mut seen = Set::default();
    state.counted_commits(NOW).for_each(|gc| seen.insert(gc));
    seen
}

/// Where the COMMITs that were seen leave the frame.
fn place(state: &State, chunk: usize, pack: Id, seen: Set) -> Id {
    let moves = |place: Id, gc: Id| {
        let moved = state.session(gc).commit().is_some_and(|commit| commit.moved[chunk].contains(place));
        if moved { gc } else { place }
    };
    state.counted_commits(NOW).filter(|&gc| seen.contains(gc)).fold(pack, moves)
}

fn holds(state: &State, chunk: usize, place: Id) -> bool {
    let session = state.session(place);
    session.is_stored() && session.pack.chunks & (1 << chunk) != 0
}
