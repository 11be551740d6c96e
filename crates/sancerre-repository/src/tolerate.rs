//! The policy for objects that cannot be read: what is wrong with one object is no failure of the store.

use sancerre_store::explain;

use crate::error::{Error, Result, StoreError};
use crate::repository::Repository;

/// Goes on after an object could not be read when the store as such works.
///
/// Returns what is wrong with the object. Errors: the error itself when even `config` cannot be read, or the user
/// asked to stop.
pub async fn tolerate(repository: &Repository, error: impl Into<Error>) -> Result<String> {
    let error = error.into();
    match &error {
        Error::Store(StoreError::Failed { .. }) if !repository.store.works().await => Err(error),
        Error::Interrupted | Error::Worker | Error::Bug { .. } => Err(error),
        _ => Ok(reason(&error)),
    }
}

/// What is wrong with an object, without the object's name: the finding has that.
pub fn reason(error: &Error) -> String {
    match error {
        Error::Object { source, .. } => source.to_string(),
        Error::Store(StoreError::Failed { operation, source, .. }) => {
            format!("the store failed to {operation} it: {}", explain(source))
        }
        Error::Store(StoreError::Withheld { reason, .. }) => format!("it cannot be read: {reason}"),
        other => other.to_string(),
    }
}
