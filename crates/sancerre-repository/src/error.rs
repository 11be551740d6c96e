//! What can go wrong, in kinds that tell the caller what to do.

mod kind;
mod next;

use sancerre_advice::Setting::AllowChanging;
use sancerre_advice::Verb::{
    Abandon, Check, ForgetOne, GiveUp, Init, Repair, RevokeKey, Snapshots, UndeleteOne,
};
use sancerre_format::FormatError;
use sancerre_format::id::SessionId;
use sancerre_format::names::{Name, Time};
use sancerre_image::{ChangedError, OpenError, ReadError, TargetError};

pub use kind::ErrorKind;
pub use sancerre_advice::{Advice, Setting, Verb};
pub use sancerre_store::StoreError;

use crate::keys::LostKey;

/// The result of everything in the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// Ends the function with [`Error::Bug`] unless the condition holds. For what follows from the code around it and would, if
/// it did not hold, become less data or wrong data: such a state must end loudly.
#[macro_export]
macro_rules! invariant {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err($crate::error::Error::bug(format!($($what)+)));
        }
    };
}
pub use crate::invariant;

/// A failure of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No `config` object.
    #[error(
        "there is no repository at {location}: check the location, and of a folder whether its disk or share is mounted. \
         {Init} is for a new repository only"
    )]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// No `config` object beside what sessions saved.
    #[error(
        "{location} holds what sessions of a repository saved, and its object config is missing: it was lost, or never copied. \
         Bring it back from a copy of the repository, it never changes; until then nothing here can be opened. Do not empty the \
         location, and make no new repository there"
    )]
    ConfigLost {
        /// Where.
        location: String,
    },
    /// A log entry is lost, and nothing says what became of its session that a collector may believe.
    #[error(
        "log entry {key} is lost, and what session {session} came to is not certain, so nothing is added or deleted. \
         {Repair} says what can be done; the entry can also be brought back from a copy of the repository"
    )]
    Unresolved {
        /// The entry's key.
        key: String,
        /// The session that stood there.
        session: SessionId,
    },
    /// An abort where a snapshot was seen.
    #[error(
        "{key} is an abort, and an earlier gc saw a snapshot there: its manifest was lost, and somebody put that in its place. \
         Nothing was deleted. Bring the snapshot back from a copy of the repository; if nobody can, give it up with {}",
        GiveUp(key.clone())
    )]
    Replaced {
        /// The outcome's key.
        key: String,
        /// The snapshot that was there.
        session: SessionId,
    },
    /// `init` on an existing repository.
    #[error("{location} holds a repository already; nothing was changed. Use another location for a new one")]
    RepositoryExists {
        /// Where.
        location: String,
    },
    /// A key does not fit.
    #[error("{what}; {advice}")]
    WrongKey {
        /// What did not open.
        what: String,
        /// What to do.
        advice: String,
    },
    /// An object is not what the format says.
    #[error("object {key}: {source}; {}", advice(source))]
    Object {
        /// Its key.
        key: String,
        /// What is wrong.
        source: FormatError,
    },
    /// An object below `keys/` that must be there is not.
    #[error("{0}")]
    KeyLost(Box<LostKey>),
    /// A log entry is missing below one that verifies.
    #[error(
        "log entry {number} is missing: entry {above} of {by} is above it, and nothing can be added to the log. Bring it back; if it is gone for good, {Repair} says what can be done; or, if {by} was taken over and signed a number far above all others, run {RevokeKey} for that key"
    )]
    Gap {
        /// The first number that is missing.
        number: u64,
        /// A number above it.
        above: u64,
        /// The name of the key that signed that.
        by: Name,
    },
    /// Two log entries do not follow on each other.
    #[error(
        "log entry {above} of {by} follows on another entry {number} than stands there: somebody replaced that, or {by} lies. Nothing was deleted. Bring entry {number} back; or, if {by} was taken over, run {RevokeKey} for that key"
    )]
    Broken {
        /// The entry that is another one than was read.
        number: u64,
        /// The entry that says so.
        above: u64,
        /// Who signed that.
        by: Name,
    },
    /// Readers would refuse what is about to be written.
    #[error("{signer} cannot sign this: readers would refuse it ({source}); nothing was written")]
    Unreadable {
        /// Role and name of the key.
        signer: String,
        /// What a reader says.
        source: FormatError,
    },
    /// Something that the repository should hold cannot be found in it.
    #[error("{what} is missing from the repository; run {Check} to see what depends on it")]
    Lost {
        /// What.
        what: String,
    },
    /// The store, or one object in it.
    #[error(transparent)]
    Store(StoreError),
    /// Part of a disk cannot be restored.
    #[error("{ranges} of disk {disk} cannot be restored, and no other copy was found: {source}")]
    Unrestorable {
        /// The disk's name in its snapshot.
        disk: String,
        /// Which bytes of it, as words.
        ranges: String,
        /// Why, naming the object.
        source: Box<Error>,
    },
    /// An object is there and cannot be read, though the store works.
    #[error(
        "object {key} cannot be read: {reason}. Without it nothing can be written or deleted safely, so nothing was; restore and other reading commands go on without it. Make it readable or bring it back, then run again; if it is gone for good, {Repair} says what can be done"
    )]
    Unread {
        /// Its key.
        key: String,
        /// What the store says.
        reason: String,
    },
    /// The session was ended by somebody else.
    #[error("session {session} was ended by {by}: {reason}; nothing was saved, run the backup again")]
    SessionEnded {
        /// Which.
        session: String,
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// A collection was ended by somebody else.
    #[error("gc {gc} was ended by {by}: {reason}; nothing was deleted, run it again")]
    GcEnded {
        /// Its number.
        gc: u64,
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// An outcome that somebody saw is neither there nor forgotten.
    #[error(
        "object {key} is missing: log entry {entry} knew it, and nobody forgot it. Somebody hides or removed it; nothing was deleted. Bring it back (on a store with versions, remove the delete marker), and run {Check}; if it is gone for good, {}",
        GiveUp(key.clone())
    )]
    Hidden {
        /// Its key.
        key: String,
        /// Number of the entry that knew it.
        entry: u64,
    },
    /// What ended a session does not verify, so it is not known what must be kept.
    #[error("object {key} cannot be read: {source}. {}", unverified(source, *number, backup.as_deref()))]
    Unverified {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: FormatError,
        /// Its session's number.
        number: u64,
        /// Its session, if that is a backup.
        backup: Option<Box<SessionId>>,
    },
    /// The store went away at the commit point.
    #[error(
        "the store went away while snapshot {session} was being committed: {reason}; {Snapshots} shows whether it was saved once the store is back"
    )]
    Undecided {
        /// Which.
        session: String,
        /// What the store said.
        reason: String,
    },
    /// The snapshot was given up, by decision and not by damage.
    #[error(transparent)]
    Forgotten(Box<Forgotten>),
    /// The request would lose more than it may, or what the repository says does not add up.
    #[error("{0}")]
    Refused(String),
    /// Nothing fits what the user named.
    #[error("{0}")]
    Usage(String),
    /// A disk cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A disk cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A disk changed while it was read.
    #[error(
        "{source}. Nothing was saved. docs/QUIESCE.md has recipes; {AllowChanging} saves it all the same, marked fuzzy"
    )]
    Changed {
        /// How.
        source: ChangedError,
    },
    /// A target cannot be written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A local file other than a disk.
    #[error("cannot {operation} {path}: {source}")]
    File {
        /// read, write …
        operation: &'static str,
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Values that cannot be encoded: a bug or an absurd request.
    #[error("{0}; this is a bug, please report it")]
    Encode(#[from] FormatError),
    /// What should be impossible: it ends the command before it can become less data.
    #[error(
        "{what}: this should be impossible, so the command stopped before anything was made final. Please report it"
    )]
    Bug {
        /// What was found.
        what: String,
    },
    /// What failed for several who waited for the same.
    #[error(transparent)]
    Shared(#[from] std::sync::Arc<Error>),
    /// A worker died.
    #[error("a worker stopped unexpectedly; this is a bug, please report it")]
    Worker,
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Whether something stored is of no use to this program: damaged, gone or too new. Another copy of it may serve.
    pub fn is_damage(&self) -> bool {
        matches!(self.kind(), ErrorKind::Damaged | ErrorKind::Missing | ErrorKind::Unsupported)
    }

    /// What should be impossible.
    pub fn bug(what: impl Into<String>) -> Self {
        Self::Bug { what: what.into() }
    }

    /// Whether there was no room on the disk, or within a quota.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }

    /// Blames an object for a format error.
    pub fn object(key: &str) -> impl FnOnce(FormatError) -> Self {
        move |source| Self::Object { key: key.to_owned(), source }
    }
}

/// What the whole engine has a word of its own for is said with it.
impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoFolder { location } => Self::NoRepository { location },
            StoreError::TooLarge { key, source } => Self::Object { key, source },
            StoreError::Refused(why) => Self::Refused(why),
            StoreError::Bug(source) => Self::Encode(source),
            error => Self::Store(error),
        }
    }
}

fn advice(source: &FormatError) -> String {
    match source {
        FormatError::Unsupported { .. } => {
            "nothing is wrong with it: use a newer version of sancerre".to_owned()
        }
        _ => format!("run {Check} to see what depends on it"),
    }
}

fn unverified(source: &FormatError, number: u64, backup: Option<&SessionId>) -> String {
    if matches!(source, FormatError::Unsupported { .. }) {
        return format!("Nothing was deleted; {}", advice(source));
    }
    let bring = "Nothing was deleted. Bring the right bytes back";
    match backup {
        None => format!("{bring}, or have the administrator end it with {}", Abandon(number)),
        Some(session) => format!(
            "It may have been a snapshot. {bring}, or give it up for good with {}",
            ForgetOne(session.short())
        ),
    }
}

/// By whom and when a snapshot was forgotten.
#[derive(Debug, thiserror::Error)]
#[error("snapshot {} was forgotten by {by} at {time} (log entry {entry}: {reason}); {}", snapshot.short(), self.way())]
pub struct Forgotten {
    /// Which.
    pub snapshot: SessionId,
    /// Who signed the decision.
    pub by: Name,
    /// When, by the signer's clock.
    pub time: Time,
    /// Number of its log entry.
    pub entry: u64,
    /// Why.
    pub reason: String,
    /// Number of the gc that made it final, if one did.
    pub collected: Option<u64>,
}

impl Forgotten {
    fn way(&self) -> String {
        match self.collected {
            Some(gc) => format!("gc {gc} made that final, so it cannot be had back"),
            None => format!("{} takes that back, until gc has run", UndeleteOne(self.snapshot.short())),
        }
    }
}
