//! A machine that is saved as it was at one moment: its picture is taken once the session has its number, for what counts
//! changes from that moment on is named after the session. So the next base follows from that name and the log alone.

use sancerre_format::file_catalogue::ROLE;
use sancerre_format::id::SessionId;
use sancerre_format::names::Name;
use sancerre_format::outcome::{Chunking, Member, MemberKind, MemberWords};

use super::Run;
use super::maps::{self, Maps};
use super::options::{BackupOptions, BackupSource};
use super::salvage::Salvage;
use crate::error::Result;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::log::Log;

/// The word of a disk that says how its file systems were frozen.
const FROZEN: &str = "x-frozen";

/// What takes a machine's picture.
pub trait Capture: Send {
    /// Takes it; may block. `session` is none in a dry run, which leaves nothing behind. `snapshots` are those of the machine,
    /// the newest last: only these may be built on.
    ///
    /// Errors: why there is no picture; the session then comes to nothing.
    fn take(self: Box<Self>, session: Option<SessionId>, snapshots: Vec<SessionId>) -> Result<Captured>;
}

/// A machine's picture.
pub struct Captured {
    /// Its disks and files.
    pub sources: Vec<BackupSource>,
    /// What changed on the disks since a snapshot.
    pub maps: Maps,
    /// How its file systems were frozen at that moment, as a word without blanks; none if they were not.
    pub frozen: Option<String>,
}

/// Takes the picture, if one is to be taken, and makes it what is backed up.
pub(super) async fn take(
    repository: &Repository,
    log: &Log,
    options: &mut BackupOptions,
    capture: Option<Box<dyn Capture>>,
    session: Option<SessionId>,
    monitor: &Monitor,
) -> Result<Option<String>> {
    let Some(capture) = capture else { return Ok(None) };
    let snapshots = maps::snapshots_of(log, options);
    let captured = repository.host.compute(move || capture.take(session, snapshots)).await??;
    options.sources = captured.sources;
    options.maps = captured.maps;
    options.check_names()?;
    maps::resolve(repository, log, options, monitor)?;
    Ok(captured.frozen)
}

impl Run {
    /// What there is to say of a member besides its bytes.
    pub(super) fn words(&self, member: &Member, salvage: Option<&Salvage>) -> Result<MemberWords> {
        if member.chunking == Chunking::Pieces {
            return Ok(MemberWords::of_role(&Name::new(ROLE)?));
        }
        let found = salvage.map(Salvage::found);
        let unreadable = found.as_ref().map_or_else(MemberWords::default, MemberWords::of_unreadable);
        let Some(frozen) = self.frozen.as_ref().filter(|_| member.kind == MemberKind::Disk) else {
            return Ok(unreadable);
        };
        let unreadable = unreadable.get("unreadable").map(|ranges| format!("unreadable={ranges}"));
        let words = unreadable.into_iter().chain([format!("{FROZEN}={frozen}")]).collect();
        Ok(MemberWords::new(words)?)
    }
}
