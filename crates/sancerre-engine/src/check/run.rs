//! What the steps of a check share.

use std::collections::BTreeSet;
use std::sync::Arc;

use sancerre_format::id::PackName;

use super::inventory::Inventory;
use super::quarantine::Quarantine;
use super::report::Findings;
use super::subjects::CheckedSnapshot;
use crate::error::{Error, StoreError};
use crate::frames::Frames;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::log::{Log, PackAndFrameSet};

pub(crate) use crate::repository::tolerate::tolerate;

/// A check on its way.
pub(super) struct Run<'a> {
    pub(super) repository: &'a Repository,
    pub(super) monitor: &'a Monitor,
    pub(super) log: Log,
    pub(super) frames: Arc<Frames>,
    pub(super) inventory: Inventory,
    pub(super) subjects: Vec<CheckedSnapshot>,
    pub(super) findings: Findings,
    pub(super) quarantine: Quarantine,
    /// Frames and packs that this run found lost; each has a finding.
    pub(super) lost: PackAndFrameSet,
    /// Data packs that this run read and whose tables it opened.
    pub(super) read: BTreeSet<PackName>,
}

/// Whether an error is about the way to the object, so that trying again may help.
pub(super) fn is_transient(error: &Error) -> bool {
    matches!(error, Error::Store(StoreError::Failed { .. } | StoreError::Withheld { .. }))
}
