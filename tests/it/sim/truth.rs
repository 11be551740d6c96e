//! What the simulation knows to be true, from what it was told alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sancerre_engine::ErrorKind;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_format::id::SessionId;
use sancerre_format::names::Name;
use sancerre_tests::model::assert_same;
use sancerre_tests::repo::{TestRepo, dump_by};

/// What must be so of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody asked to forget it: it is there.
    Kept,
    /// A hold was confirmed: it is there, whatever is forgotten.
    Held,
    /// Somebody asked to forget or release it. The log says whether it is there.
    AskedFor,
    /// The key of its writer was revoked from this number or an earlier one on: it is none, for ever.
    Void,
}

pub(super) struct Known {
    pub(super) by: Name,
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) fate: Fate,
}

/// Every snapshot that was reported as saved, or found saved though its writer was not told.
#[derive(Default)]
pub(super) struct Truth {
    pub(super) snapshots: BTreeMap<SessionId, Known>,
    /// Notes with packs: their numbers, who signed them, and of which snapshot they speak.
    pub(super) notes: Vec<(u64, Name, SessionId)>,
}

impl Truth {
    pub(super) fn add(&mut self, session: SessionId, by: Name, bytes: Arc<Vec<u8>>) {
        self.snapshots.insert(session, Known { by, bytes, fate: Fate::Kept });
    }

    /// Nothing of a key counts from a number on.
    pub(super) fn void(&mut self, key: &Name, from: u64) {
        let of_key = self.snapshots.iter_mut().filter(|(_, known)| known.by == *key);
        of_key.filter(|(session, _)| session.number >= from).for_each(|(_, known)| known.fate = Fate::Void);
        self.notes.retain(|(number, by, _)| by != key || *number < from);
    }

    pub(super) fn set(&mut self, session: &SessionId, fate: Fate) {
        let known = self.snapshots.get_mut(session).unwrap();
        if known.fate != Fate::Void {
            known.fate = fate;
        }
    }

    pub(super) fn with(&self, fates: &[Fate]) -> Vec<SessionId> {
        let chosen = self.snapshots.iter().filter(|(_, known)| fates.contains(&known.fate));
        chosen.map(|(session, _)| *session).collect()
    }

    /// Reads everything that is there, and asks for what is not.
    pub(super) async fn check(&self, repository: &Repository) {
        let all: Vec<SessionId> = self.snapshots.keys().copied().collect();
        self.check_only(repository, &all).await;
    }

    /// What is listed is what must be; of these snapshots the bytes are read too.
    pub(super) async fn check_only(&self, repository: &Repository, read: &[SessionId]) {
        let log = Log::load(repository).await.unwrap();
        let listed: BTreeSet<SessionId> = log.snapshots().iter().map(|found| found.session()).collect();
        let recent = Log::load_recent(repository, &Monitor::silent()).await.unwrap();
        let from_checkpoint: BTreeSet<_> = recent.snapshots().iter().map(|found| found.session()).collect();
        assert_eq!(from_checkpoint, listed, "from {} on", recent.start());
        for (session, known) in &self.snapshots {
            let is_listed = listed.contains(session);
            match known.fate {
                Fate::AskedFor => {}
                Fate::Void => assert!(!is_listed, "{session} is void, and is listed"),
                Fate::Kept | Fate::Held => assert!(is_listed, "{session} is not listed: {:?}", known.fate),
            }
        }
        let stranger = listed.iter().find(|session| !self.snapshots.contains_key(session));
        assert_eq!(stranger, None, "a snapshot is listed that nobody saved");
        for session in read {
            let log = if session.number.is_multiple_of(2) { &log } else { &recent };
            self.read(repository, log, session, listed.contains(session)).await;
        }
    }

    /// Packs of notes live while the snapshot does.
    pub(super) async fn check_notes(&self, repo: &TestRepo) {
        for (number, _, snapshot) in &self.notes {
            if matches!(self.snapshots[snapshot].fate, Fate::Kept | Fate::Held) {
                let packs = repo.keys_with(&format!("/packs/{number:016x}/")).await;
                assert!(!packs.is_empty(), "the pack of note {number} is gone");
            }
        }
    }

    async fn read(&self, repository: &Repository, log: &Log, session: &SessionId, is_listed: bool) {
        match dump_by(repository, log, *session, "disk0").await {
            Ok(found) => {
                assert!(is_listed, "{session} is forgotten, and was read");
                assert_same(&found, &self.snapshots[session].bytes, &session.to_string());
            }
            Err(error) => {
                assert!(!is_listed, "{session}: {error}");
                // A checkpoint does not name what is gone.
                let is_void = self.snapshots[session].fate == Fate::Void;
                let may_be_unknown = is_void || session.number < log.start();
                let told = (error.kind() == ErrorKind::Usage && may_be_unknown)
                    || (error.kind() == ErrorKind::Forgotten && !is_void);
                assert!(told, "{session}: {error}");
            }
        }
    }
}
