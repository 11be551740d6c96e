//! A guest that stands still while its picture is taken, or does not, and what is said of it.

use std::path::PathBuf;

use sancerre_advice::Setting::FreezeMust;

use crate::agent::Agent;
use crate::error::CaptureError;
use crate::guard::{Freeze, Frozen};
use crate::picture::Pull;

/// A guest that may be frozen.
pub(crate) struct Freezing<'a> {
    /// None has a machine without a way to an agent.
    pub(crate) agent: Option<Agent>,
    /// There while it is frozen by us.
    pub(crate) marker: PathBuf,
    /// The machine's name.
    pub(crate) name: &'a str,
}

impl Freezing<'_> {
    /// Thaws what a guard that was killed left frozen. A guest that does not answer was perhaps started anew; one that still
    /// stands still is frozen for whoever asks next, who says so.
    pub(crate) fn thaw_left(&self) {
        if let Some(agent) = self.agent.as_ref().filter(|_| self.marker.exists()) {
            let _ = agent.thaw();
        }
    }

    /// Freezes the guest if that is asked for.
    ///
    /// # Errors
    /// It cannot be, and must be.
    pub(crate) fn freeze(
        &self,
        pull: &Pull,
        notes: &mut Vec<String>,
    ) -> Result<Option<Freeze>, CaptureError> {
        let Some(options) = &pull.freeze else { return Ok(None) };
        let Some(agent) = &self.agent else {
            // A machine that never had an agent is no news each night.
            return match pull.must_freeze {
                true => self.failed(pull, "it has no channel to an agent", notes).map(|()| None),
                false => Ok(None),
            };
        };
        match Freeze::begin(agent, &self.marker, options) {
            Ok(freeze) => Ok(Some(freeze)),
            Err(why) => self.failed(pull, &why, notes).map(|()| None),
        }
    }

    /// Thaws it again.
    ///
    /// # Errors
    /// It did not stand still until now, and must.
    pub(crate) fn thaw(
        &self,
        pull: &Pull,
        freeze: Option<Freeze>,
        notes: &mut Vec<String>,
    ) -> Result<Option<Frozen>, CaptureError> {
        let (Some(freeze), Some(options)) = (freeze, &pull.freeze) else { return Ok(None) };
        match freeze.thaw(options.hold) {
            Ok(frozen) => Ok(Some(frozen)),
            Err(why) => self.failed(pull, &why, notes).map(|()| None),
        }
    }

    fn failed(&self, pull: &Pull, why: &str, notes: &mut Vec<String>) -> Result<(), CaptureError> {
        // A guard that was killed thaws nothing any more.
        self.thaw_left();
        let said = format!("{} was not frozen: {why}", self.name);
        if pull.must_freeze {
            return Err(CaptureError::Unfit(format!(
                "{said}. Nothing was saved; install or start the agent in the guest, or leave {FreezeMust} out"
            )));
        }
        notes.push(format!("{said}; its file systems are as after a power cut"));
        Ok(())
    }
}
