//! Objects of the log that are there and cannot be read: readers go on without them and name them; who writes a record
//! that others build on, or deletes, stops. What was announced there is not known.

use sancerre_format::names::{Zone, ZoneKey};

use super::{Log, Outcome};
use crate::error::{Error, Result};

/// An object that cannot be read, though the store works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Its key.
    pub key: String,
    /// What the store says.
    pub reason: String,
}

impl Log {
    /// Log entries and outcomes that are there and cannot be read.
    pub fn unread(&self) -> &[Unread] {
        &self.unread
    }

    /// Fails for who adds to the log: an entry that cannot be read may have announced anything, and the outcome of a gc says
    /// what must not be reused. What became of a backup only collectors must know, who look at that themselves; an entry
    /// for which its outcome stands, and a gc that was given up, are known well enough.
    ///
    /// Errors: [`Error::Unread`] for the first such object.
    pub fn refuse_unread(&self, zone: &Zone) -> Result<()> {
        let abandoned = self.abandoned();
        let matters = |unread: &&Unread| match ZoneKey::parse(zone, &unread.key) {
            Ok(ZoneKey::Log(number)) => self.entries.get(&number).is_none_or(|entry| entry.lost.is_none()),
            Ok(ZoneKey::Outcome(session)) => {
                let entry = self.entries.get(&session.number).filter(|entry| entry.session == session);
                entry.is_some_and(|entry| entry.damaged().is_none()) && !abandoned.contains_key(&session)
            }
            _ => true,
        };
        match self.unread.iter().find(matters) {
            Some(Unread { key, reason }) => Err(Error::Unread { key: key.clone(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn note_unread(&mut self, key: &str, reason: Option<String>) {
        self.unread.retain(|unread| unread.key != key);
        self.unread.extend(reason.map(|reason| Unread { key: key.to_owned(), reason }));
    }

    /// Before the store is asked again: an entry that was not read counts as one that is not known, an outcome as open.
    pub(super) fn retry_unread(&mut self, zone: &Zone) {
        for Unread { key, .. } in std::mem::take(&mut self.unread) {
            match ZoneKey::parse(zone, &key) {
                Ok(ZoneKey::Log(number)) => drop(self.entries.remove(&number)),
                Ok(ZoneKey::Outcome(session)) => {
                    self.change(session.number, |entry| entry.outcome = Outcome::Undecided);
                }
                _ => {}
            }
        }
    }
}
