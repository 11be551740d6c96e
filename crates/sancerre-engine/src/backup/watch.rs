//! A source that must not change while it is read.

use std::sync::Arc;

use sancerre_image::Disk;

use super::options::Allow;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::monitor::Monitor;
use crate::repository::Repository;

/// Whether the source stays what it was.
pub(super) struct Watch {
    host: Host,
    monitor: Monitor,
    pub(super) disk: Option<Arc<dyn Disk>>,
    allow_changing: bool,
}

impl Watch {
    pub(super) fn new(
        repository: &Repository,
        monitor: &Monitor,
        disk: Option<Arc<dyn Disk>>,
        allow: Allow,
    ) -> Self {
        Self { host: repository.host.clone(), monitor: monitor.clone(), disk, allow_changing: allow.changing }
    }

    /// True when it changed and that is allowed. Asked by a worker: of a disk that is away even this may wait.
    ///
    /// Errors: [`Error::Changed`] when it is not.
    pub(super) async fn changed(&self) -> Result<bool> {
        let Some(disk) = self.disk.clone() else { return Ok(false) };
        let asked = self.host.compute(move || disk.check_unchanged());
        match self.monitor.unless_interrupted(asked).await? {
            Ok(()) => Ok(false),
            Err(_) if self.allow_changing => Ok(true),
            Err(source) => Err(Error::Changed { source }),
        }
    }
}
