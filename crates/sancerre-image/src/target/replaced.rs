//! The file whose name a new one gets: it passes on its owner, mode and attributes, and none that is in use is replaced.

use std::fs::File;
use std::path::Path;

use super::attributes::Attributes;
use super::partial::Partial;
use super::{in_use, old, refuse_in_use};
use crate::TargetError;

/// The file that has the name now, an empty one perhaps; none where there is none.
///
/// # Errors
/// It is in use, or the new file cannot be given what it has; the partial file is then gone if nothing was in it.
pub(super) fn look(partial: Partial, path: &Path) -> Result<(Partial, Option<File>), TargetError> {
    let look = || -> Result<Option<File>, TargetError> {
        let Some(file) = old::open(path)? else { return Ok(None) };
        refuse_in_use(&file, path)?;
        let tried = Attributes::of(&file).and_then(|kept| kept.try_on(partial.file()));
        tried.map_err(|source| TargetError::Attributes { path: path.to_owned(), source })?;
        Ok(Some(file))
    };
    match look() {
        Ok(replaced) => Ok((partial, replaced)),
        Err(error) => {
            if !partial.is_used() {
                // It is empty, and the refusal is what matters to the caller.
                let _ = partial.remove();
            }
            Err(error)
        }
    }
}

/// Gives the new file, which is durable, the name of the old one, with what that passes on.
///
/// # Errors
/// Any error means that the old file is there as it was.
pub(super) fn publish(partial: Partial, replaced: Option<&File>) -> Result<(), TargetError> {
    if let Some(replaced) = replaced {
        // A machine may have been started meanwhile.
        in_use::refuse_locked(replaced, partial.name())?;
        let given = Attributes::of(replaced).and_then(|kept| kept.give(partial.file()));
        let given = given.and_then(|()| partial.file().sync_all());
        given.map_err(|source| TargetError::Attributes { path: partial.name().to_owned(), source })?;
    }
    partial.publish()
}
