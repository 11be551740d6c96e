//! The sockets to the child of one disk: made when needed, used by one reader at a time, all given up with the child.

use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Talk;
use super::channel::{self, Lane, Trouble};
use super::wire::Ask;
use crate::ReadError;

/// Each is a thread of the child.
const LANES_MAX: usize = 32;

/// How a question ends without an answer.
pub(super) enum Stop {
    /// The child said so, and its answer was whole: it can be asked again.
    Told(ReadError),
    /// A file could not be read here. What is left of the answer is never read.
    Own(ReadError),
    /// The end of the child.
    Trouble(Trouble),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

#[derive(Debug)]
pub(super) struct Pool {
    state: Mutex<Lanes>,
    freed: Condvar,
}

#[derive(Debug)]
struct Lanes {
    talk: Talk,
    idle: Vec<Lane>,
    /// Those in use too.
    open: usize,
    /// Why nothing is read any more.
    gone: Option<String>,
}

impl Pool {
    pub(super) fn new(talk: Talk) -> Self {
        Self {
            state: Mutex::new(Lanes { talk, idle: Vec::new(), open: 0, gone: None }),
            freed: Condvar::new(),
        }
    }

    /// Works with a socket of its own. Trouble is the end of all of them: `gone` makes an error of what became of the
    /// child.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&mut Lane) -> Result<T, Stop>,
        gone: impl FnOnce(String) -> ReadError,
    ) -> Result<T, ReadError> {
        let mut lane = match self.take() {
            Ok(lane) => lane,
            Err(trouble) => return Err(gone(self.give_up(&trouble))),
        };
        let result = work(&mut lane);
        match result {
            Ok(_) | Err(Stop::Told(_)) => self.state().idle.push(lane),
            Err(_) => {
                let mut state = self.state();
                state.open = state.open.saturating_sub(1);
            }
        }
        self.freed.notify_one();
        result.map_err(|stop| match stop {
            Stop::Told(error) | Stop::Own(error) => error,
            Stop::Trouble(trouble) => gone(self.give_up(&trouble)),
        })
    }

    fn state(&self) -> MutexGuard<'_, Lanes> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever holds a socket gives it back within the child's time, so that waiting here has an end too.
    fn take(&self) -> Result<Lane, Trouble> {
        let mut state = self.state();
        loop {
            if state.gone.is_some() {
                return Err(Trouble::Ended);
            }
            if let Some(lane) = state.idle.pop() {
                return Ok(lane);
            }
            if state.open < LANES_MAX {
                return state.one_more();
            }
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The first trouble is what all are told.
    fn give_up(&self, trouble: &Trouble) -> String {
        let mut state = self.state();
        let problem = match state.gone.take() {
            Some(problem) => problem,
            None => state.talk.end(trouble),
        };
        state.gone = Some(problem.clone());
        state.idle.clear();
        drop(state);
        self.freed.notify_all();
        problem
    }

    #[cfg(test)]
    pub(super) fn process_id(&self) -> Option<u32> {
        self.state().talk.process.as_ref().map(crate::process::Process::id)
    }
}

impl Lanes {
    fn one_more(&mut self) -> Result<Lane, Trouble> {
        let system = |error: std::io::Error| Trouble::System(error.to_string());
        let (ours, theirs) = channel::pair().map_err(system)?;
        self.talk.control.send(&Ask::Lane.encode(), Some(theirs.as_fd()))?;
        self.open = self.open.saturating_add(1);
        Lane::new(ours, Some(self.talk.patience)).map_err(system)
    }
}
