//! What a signed outcome says of a session whose log entry is not known (FORMAT.md §7.2): it is verified by itself, and says
//! what the entry must have been.

use sancerre_format::certificate::Signer;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::SessionId;
use sancerre_format::log::{Entry, Intent, Kind};
use sancerre_format::names::{Name, Zone, ZoneKey};
use sancerre_format::outcome::{Abort, Body, Commit, Manifest};
use sancerre_format::record::{self, Fields, Record};
use sancerre_format::seal::{self, UnitKind, UnitName};

use super::Outcome;
use super::decode::{Verified, family, forged};
use super::lost::{GENERATION_UNKNOWN, UNKNOWN};
use crate::repository::Repository;

/// Epochs count from 1.
const EPOCH_UNKNOWN: u16 = 0;

/// What a signed outcome says of a session whose entry is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) by: Name,
    pub(super) kind: ClaimKind,
    /// Of a commit: what it burns and moves.
    pub(super) lists: Option<Box<GcLists>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimKind {
    Manifest,
    Commit,
    Abort,
}

/// What an outcome says of its session.
#[derive(Debug, Clone)]
pub(super) struct StandIn {
    pub(super) entry: Verified<Box<Record<Entry>>>,
    pub(super) outcome: Outcome,
}

/// What an outcome claims that could stand for its entry, by itself alone.
///
/// Errors: what is wrong with it.
pub(super) fn verify(repository: &Repository, key: &str, bytes: &[u8]) -> Verified<Claim> {
    let nobody = || forged("outcome", "it claims nothing");
    let (by, kind, lists) = match decode(repository, key, bytes)?.outcome {
        Outcome::Manifest(record) => (record.fields.by, ClaimKind::Manifest, None),
        Outcome::Commit(record, lists) => (record.fields.by, ClaimKind::Commit, Some(lists)),
        Outcome::Abort(record) => (record.fields.by, ClaimKind::Abort, None),
        Outcome::Undecided | Outcome::Invalid(_) => return Err(nobody()),
    };
    Ok(Claim { by: by.name, kind, lists })
}

pub(super) fn decode(repository: &Repository, key: &str, bytes: &[u8]) -> Verified<StandIn> {
    let (trust, zone) = (&repository.keys.trust, &repository.keys.zone);
    let ZoneKey::Outcome(session) = ZoneKey::parse(zone, key)? else {
        return Err(forged("outcome", "its key is another object's"));
    };
    let is_here = |of: SessionId, in_zone: &Zone| match of == session && in_zone == zone {
        true => Ok(()),
        false => Err(forged("outcome", "it was made for another place")),
    };
    match family(bytes) {
        Some("manifest") => {
            let manifest = record::decode::<Manifest>(trust, bytes)?;
            is_here(manifest.fields.session, &manifest.fields.zone)?;
            of_manifest(repository, manifest)
        }
        Some("commit") => {
            let commit = record::decode::<Commit>(trust, bytes)?;
            is_here(commit.fields.session, &commit.fields.zone)?;
            of_commit(commit)
        }
        _ => {
            let abort = record::decode::<Abort>(trust, bytes)?;
            is_here(abort.fields.session, &abort.fields.zone)?;
            if session.intent == UNKNOWN && abort.signer != Signer::Admin {
                return Err(forged(
                    Abort::KIND,
                    "only the administrator gives up an entry of which nothing is known",
                ));
            }
            let entry = Err(forged(Entry::KIND, "it is lost, and came to nothing"));
            Ok(StandIn { entry, outcome: Outcome::Abort(Box::new(abort)) })
        }
    }
}

fn of_manifest(repository: &Repository, manifest: Record<Manifest>) -> Verified<StandIn> {
    let of = &manifest.fields;
    if !manifest.signer.is_valid_at(of.started) {
        return Err(forged(Manifest::KIND, "its signer's certificate had expired"));
    }
    let intent = Intent {
        vm: of.vm.clone(),
        machine: of.machine,
        generation: generation(repository, &manifest),
        epoch: EPOCH_UNKNOWN,
        commitment: UNKNOWN,
        parents: of.parents.clone(),
    };
    let entry = Entry {
        repository: of.repository,
        zone: of.zone.clone(),
        number: of.session.number,
        by: of.by.clone(),
        time: of.started,
        previous: None,
        checkpoint: None,
        kind: Kind::Backup(intent),
    };
    let entry = Record::implied(entry, &manifest, of.session.intent, None);
    Ok(StandIn { entry: Ok(Box::new(entry)), outcome: Outcome::Manifest(Box::new(manifest)) })
}

/// The generation of the keys at hand that opens the body; which one it was, nothing else says.
fn generation(repository: &Repository, manifest: &Record<Manifest>) -> u16 {
    let session = manifest.fields.session;
    let name = UnitName { kind: UnitKind::Body, session, a: 0, b: 0 };
    let opens = |generation: &u16| {
        let root = repository.keys.metadata_root_in(&session, Some(*generation));
        let raw = root
            .ok()
            .zip(manifest.sealed().ok())
            .and_then(|(root, sealed)| seal::open(&root, &name, sealed).ok());
        raw.is_some_and(|raw| Body::decode(&raw).is_ok())
    };
    repository.keys.generations().into_iter().find(opens).unwrap_or(GENERATION_UNKNOWN)
}

/// What it proposed is not known any more: at least what it burnt.
fn of_commit(commit: Record<Commit>) -> Verified<StandIn> {
    let of = &commit.fields;
    if !commit.signer.is_valid_at(of.time) {
        return Err(forged(Commit::KIND, "its signer's certificate had expired"));
    }
    let lists = GcLists::decode(commit.public()?, of.session.number)?;
    let proposal = GcLists { dead: FrameSet::clone(&lists.dead), ..GcLists::default() }.encode()?;
    let entry = Entry {
        repository: of.repository,
        zone: of.zone.clone(),
        number: of.session.number,
        by: of.by.clone(),
        time: of.time,
        previous: None,
        checkpoint: None,
        kind: Kind::Gc { generation: GENERATION_UNKNOWN },
    };
    let entry = Record::implied(entry, &commit, of.session.intent, Some(proposal));
    let outcome = Outcome::Commit(Box::new(commit), Box::new(lists));
    Ok(StandIn { entry: Ok(Box::new(entry)), outcome })
}
