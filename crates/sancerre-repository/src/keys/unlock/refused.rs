//! Why nothing that was given opens a repository.

use sancerre_advice::Verb::ListKeys;
use sancerre_format::record::Trust;

use crate::error::Error;
use sancerre_store::Store;

/// What could not be read may be what would have been opened.
pub(super) fn and_unread(error: Error, unread: Option<String>) -> Error {
    match (error, unread) {
        (Error::WrongKey { what, .. }, Some(unread)) => Error::WrongKey {
            what: format!("{what}. But one that may be meant was not tried: {unread}"),
            advice: format!("make that readable, or use another recipient that {ListKeys} shows"),
        },
        (error, _) => error,
    }
}

pub(super) fn another_admin(store: &Store, config: &Trust, sealed: &Trust) -> Error {
    Error::WrongKey {
        what: format!(
            "the config at {} is of repository {} and its admin key, but the key was sealed for repository {}",
            store.location(),
            config.repository,
            sealed.repository
        ),
        advice:
            "somebody may have replaced objects there: compare the trust anchor with the one you wrote down"
                .into(),
    }
}
