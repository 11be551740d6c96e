//! What can go wrong with a store.

use sancerre_advice::Verb::Check;
use sancerre_format::FormatError;

use crate::messages::{self, explain};

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A failure of a store, or of one object in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The location cannot be understood or opened.
    #[error("cannot use {location:?} as a repository: {reason}")]
    Location {
        /// As it was given.
        location: String,
        /// Why not.
        reason: String,
    },
    /// There is no folder at the location.
    #[error("there is no folder at {location}")]
    NoFolder {
        /// As it was given.
        location: String,
    },
    /// A local file or folder.
    #[error("cannot {operation} {path}: {source}{}", messages::next_step(source))]
    File {
        /// find, open …
        operation: &'static str,
        /// Its path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store failed after all retries.
    #[error("the store failed to {operation} {key}: {}; {}", explain(source), messages::advice(source))]
    Failed {
        /// read, write, list …
        operation: &'static str,
        /// Key of the object, or the prefix.
        key: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The store cannot do what is asked of it, or does not tell these credentials.
    #[error("{0}")]
    Refused(String),
    /// An object that must be there is not.
    #[error("object {key} is missing; run {Check} to see what depends on it")]
    Missing {
        /// Its key.
        key: String,
    },
    /// An object is larger than its kind may be: nothing of it was fetched.
    #[error("object {key}: {source}")]
    TooLarge {
        /// Its key.
        key: String,
        /// How large it is, and may be.
        source: FormatError,
    },
    /// An object is there and cannot be read, though the store works: nothing says that it rotted.
    #[error(
        "object {key} cannot be read: {reason}; the store as such works, so it is this object alone. Make it readable again, or see with {Check} what depends on it"
    )]
    Withheld {
        /// Its key.
        key: String,
        /// What the store says.
        reason: String,
    },
    /// What was there, or was written, is not there any more.
    #[error(
        "what is at {location} is not what it was when the command began: object {key} was there, and is not any more. The place, or a part of it, was unmounted, moved or replaced meanwhile, or cleared. Nothing counts as done: see what is mounted there and, once the repository is back, whether the command took effect in it; then run it again"
    )]
    Vanished {
        /// Its key.
        key: String,
        /// Where the store is.
        location: String,
    },
    /// The store does not delete an object for good.
    #[error(
        "object {key} was not deleted: {}",
        .until.as_ref().map_or_else(|| format!("the store answers {reason}"), |until| format!("it is locked until {until}"))
    )]
    DeleteRefused {
        /// Its key.
        key: String,
        /// Until when the version that was refused is locked, as the store says.
        until: Option<String>,
        /// What the store answers.
        reason: String,
    },
    /// This program made an object that is larger than its kind may be: it was not written.
    #[error("{0}; this is a bug, please report it")]
    Bug(FormatError),
    /// Another object stands where this one had to be written.
    #[error("object {key} exists with other content; {advice}")]
    Occupied {
        /// Its key.
        key: String,
        /// What to do.
        advice: String,
    },
}

impl StoreError {
    /// Whether there was no room on the disk, or within a quota.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if messages::is_full(source))
    }

    /// Whether a folder of this machine failed, and no line in between: nothing that was asked for can have arrived.
    pub fn is_of_a_folder(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if crate::causes::is_of_a_folder(source))
    }
}
