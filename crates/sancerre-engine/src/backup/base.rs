//! The snapshot that a backup compares with first.

use std::sync::Arc;

use sancerre_format::id::SessionId;
use sancerre_format::names::{MachineId, Title};
use sancerre_format::outcome::Body;

use crate::dedup::{ReusePolicy, Speaker};
use crate::frames::Frames;
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::log::{Log, Snapshot, open_body};

/// The snapshot before this one.
pub(super) struct Base {
    pub(super) session: SessionId,
    pub(super) frames: Arc<Frames>,
    pub(super) body: Body,
    /// Whose word its map is.
    pub(super) speaker: Speaker,
    /// The same for humans.
    pub(super) described: String,
}

/// The snapshot that change maps are of, if it can be used; else the newest snapshot of the VM by a session that is listened to, as a hint: everything taken from it is checked when
/// it is used. In the own key's all is proven already. Whoever has an id is looked for by it, whatever the name was.
pub(super) fn read(
    repository: &Repository,
    log: &Log,
    vm: &Title,
    machine: Option<MachineId>,
    wanted: Option<SessionId>,
    usable: &ReusePolicy,
    monitor: &Monitor,
) -> Option<Base> {
    let is_usable = |snapshot: &Snapshot<'_>| {
        // Ids of another generation of the zone's keys are not comparable with those of this one.
        usable.avoid.hears(snapshot.session().number) && snapshot.generation() == repository.keys.generation()
    };
    let has_id = |snapshot: &&Snapshot<'_>| machine.is_some() && snapshot.manifest.fields.machine == machine;
    let has_name = |snapshot: &&Snapshot<'_>| {
        let other = &snapshot.manifest.fields;
        other.vm == *vm && (machine.is_none() || other.machine.is_none())
    };
    let snapshots: Vec<_> = log.snapshots().into_iter().filter(is_usable).collect();
    let is_wanted = |snapshot: &&Snapshot<'_>| Some(snapshot.session()) == wanted;
    let found = snapshots.iter().find(is_wanted).or_else(|| snapshots.iter().rfind(has_id));
    let snapshot = found.or_else(|| snapshots.iter().rfind(has_name))?;
    let body = match open_body(repository, snapshot) {
        Ok(body) => body,
        Err(error) => {
            monitor.warn(
                Topic::Hint,
                format!(
                    "the snapshot before this one cannot be used, all is compared with the index: {error}"
                ),
            );
            return None;
        }
    };
    let frames = Frames::new(repository, log, &usable.catalogue);
    let (session, by) = (snapshot.session(), &snapshot.manifest.fields.by.name);
    let speaker = if usable.own.as_ref() == Some(by) { Speaker::Own } else { Speaker::Base };
    let described = format!("the map of snapshot {}, made by {by}", session.short());
    Some(Base { session, frames: Arc::new(frames), body, speaker, described })
}
