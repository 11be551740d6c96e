//! The snapshots under check: what each says it needs, and its disks.

use sancerre_format::frames::FrameSet;
use sancerre_format::id::SessionId;
use sancerre_format::names::Title;
use sancerre_format::outcome::Member;

use super::report::{Findings, Severity};
use crate::repository::Repository;
use crate::repository::log::{self, Log, Snapshot};
use crate::repository::tolerate::reason;

/// One snapshot.
#[derive(Debug)]
pub(super) struct CheckedSnapshot {
    /// Its session.
    pub(super) session: SessionId,
    /// Its VM.
    pub(super) vm: Title,
    /// Key of its manifest.
    pub(super) key: String,
    /// The generation of the zone's keys it was made with.
    pub(super) generation: Option<u16>,
    /// The frames it says it needs: all that a collector keeps for it. None when that cannot be read.
    pub(super) uses: Option<FrameSet>,
    /// Its disks; none when its body cannot be opened.
    pub(super) members: Vec<Member>,
}

/// Reads every snapshot that is not forgotten; what cannot be read is a finding that costs the snapshot.
pub(super) fn read(repository: &Repository, log: &Log, findings: &mut Findings) -> Vec<CheckedSnapshot> {
    let snapshots = log.snapshots();
    let mut subjects = Vec::with_capacity(snapshots.len());
    for (place, snapshot) in snapshots.iter().enumerate() {
        subjects.push(read_one(repository, snapshot, place, findings));
    }
    subjects
}

fn read_one(
    repository: &Repository,
    snapshot: &Snapshot<'_>,
    place: usize,
    findings: &mut Findings,
) -> CheckedSnapshot {
    let session = snapshot.session();
    let fields = &snapshot.manifest.fields;
    let key = snapshot.key();
    let mut members = Vec::new();
    let generation = snapshot.generation();
    if generation.is_some_and(|made| repository.keys.zone_keys(made).is_ok()) {
        match log::open_body(repository, snapshot) {
            Ok(body) => members = body.members,
            Err(error) => {
                findings.blame(
                    &key,
                    Severity::Damaged,
                    format!("its body cannot be read: {}", reason(&error)),
                );
                findings.cost(&key, (place, None), None);
            }
        }
    } else if repository.keys.zone_secrets().is_ok() {
        findings.blame(
            &key,
            Severity::Note,
            "its maps were made with other keys of the zone than are at hand, and are not read",
        );
    }
    let uses = snapshot.uses();
    if let Err(error) = &uses {
        let problem = format!("its frame set cannot be read, so a collector cannot work: {}", reason(error));
        findings.blame(&key, Severity::Damaged, problem);
        findings.cost(&key, (place, None), None);
    }
    CheckedSnapshot { session, vm: fields.vm.clone(), key, generation, uses: uses.ok(), members }
}
