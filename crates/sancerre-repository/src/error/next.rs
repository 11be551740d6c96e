//! The next step after a failure, for programs: what the messages say in words.

use sancerre_format::FormatError;
use sancerre_image::{ReadError, TargetError};

use super::{Advice, Error, Forgotten, Setting, StoreError, Verb};

impl Error {
    /// What to do next, where one step is it. The message names it too, beside whatever else may help.
    ///
    /// ```
    /// use sancerre_repository::Error;
    /// use sancerre_repository::error::{Advice, Verb};
    ///
    /// let lost = Error::Lost { what: "pack list 7".into() };
    /// assert_eq!(lost.advice(), Some(Advice::Do(Verb::Check)));
    /// assert!(lost.to_string().contains("run `check`"));
    /// ```
    pub fn advice(&self) -> Option<Advice> {
        match self {
            Self::Changed { .. } => Some(Advice::Set(Setting::AllowChanging)),
            Self::Read(ReadError::Unreadable { .. }) => Some(Advice::Set(Setting::AllowUnreadable)),
            Self::Target(
                TargetError::Exists { .. } | TargetError::HoldsData { .. } | TargetError::OtherSize { .. },
            ) => Some(Advice::Set(Setting::Overwrite)),
            Self::Unrestorable { source, .. } => source.advice(),
            Self::Shared(error) => error.advice(),
            error => error.verb().map(Advice::Do),
        }
    }

    fn verb(&self) -> Option<Verb> {
        match self {
            Self::NoRepository { .. } => Some(Verb::Init),
            Self::Unresolved { .. } | Self::Gap { .. } | Self::Unread { .. } => Some(Verb::Repair),
            Self::Replaced { key, .. } | Self::Hidden { key, .. } => Some(Verb::GiveUp(key.clone())),
            Self::Broken { .. } => Some(Verb::RevokeKey),
            Self::Undecided { .. } => Some(Verb::Snapshots),
            Self::Forgotten(forgotten) => forgotten.undelete(),
            // A newer program reads it; there is nothing to be done about it.
            Self::Object { source: FormatError::Unsupported { .. }, .. }
            | Self::Unverified { source: FormatError::Unsupported { .. }, .. } => None,
            Self::Unverified { backup: Some(session), .. } => Some(Verb::ForgetOne(session.short())),
            Self::Unverified { number, backup: None, .. } => Some(Verb::Abandon(*number)),
            Self::Object { .. }
            | Self::Lost { .. }
            | Self::Store(StoreError::Missing { .. } | StoreError::Withheld { .. }) => Some(Verb::Check),
            error if error.is_full() => Some(Verb::Forget),
            _ => None,
        }
    }
}

impl Forgotten {
    fn undelete(&self) -> Option<Verb> {
        self.collected.is_none().then(|| Verb::UndeleteOne(self.snapshot.short()))
    }
}
