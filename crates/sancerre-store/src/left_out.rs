//! What listings left out, and commands that must not go on then.

use std::sync::PoisonError;

use crate::Store;
use crate::error::{Result, StoreError};

impl Store {
    /// What was left out of listings so far because of its key, by key; and why.
    pub fn strange(&self) -> Vec<(String, String)> {
        let strange = &self.shared.strange;
        let all = [&strange.keys, &strange.closed].map(|notes| {
            let notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
            notes.iter().map(|(key, why)| (key.clone(), why.clone())).collect::<Vec<_>>()
        });
        let within = |key: String| key.strip_prefix(&self.shared.root).map(str::to_owned).unwrap_or(key);
        all.concat().into_iter().map(|(key, why)| (within(key), why)).collect()
    }

    /// Fails where a folder was met that could not be listed: what is in it is unknown.
    ///
    /// Errors: [`StoreError::Refused`] then.
    pub fn must_list_all(&self) -> Result<()> {
        let closed = self.shared.strange.closed.lock().unwrap_or_else(PoisonError::into_inner);
        match closed.first_key_value() {
            None => Ok(()),
            Some((folder, why)) => Err(StoreError::Refused(format!(
                "{folder} cannot be listed ({why}), so what is in it is not known, and nothing was deleted: let this user \
                 read it, or take it out of the repository"
            ))),
        }
    }
}
