//! What the simulation knows to be true, from what it was told alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sancerre_engine::ErrorKind;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_format::id::SessionId;
use sancerre_tests::model::assert_same;
use sancerre_tests::repo::dump_by;

/// What must be so of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody asked to forget it: it is there.
    Kept,
    /// A hold was confirmed: it is there, whatever is forgotten.
    Held,
    /// Somebody asked to forget or release it. The log says whether it is there.
    AskedFor,
}

pub(super) struct Known {
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) fate: Fate,
}

/// Every snapshot that was reported as saved, or found saved though its writer was not told.
#[derive(Default)]
pub(super) struct Truth {
    pub(super) snapshots: BTreeMap<SessionId, Known>,
}

impl Truth {
    pub(super) fn add(&mut self, session: SessionId, bytes: Arc<Vec<u8>>) {
        self.snapshots.insert(session, Known { bytes, fate: Fate::Kept });
    }

    pub(super) fn set(&mut self, session: &SessionId, fate: Fate) {
        self.snapshots.get_mut(session).unwrap().fate = fate;
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
        let log = Arc::new(Log::load(repository).await.unwrap());
        let listed: BTreeSet<SessionId> = log.snapshots().iter().map(|found| found.session()).collect();
        let recent = Log::load_recent(repository, &Monitor::silent()).await.unwrap();
        let from_checkpoint: BTreeSet<_> = recent.snapshots().iter().map(|found| found.session()).collect();
        assert_eq!(from_checkpoint, listed, "from {} on", recent.start());
        for (session, known) in &self.snapshots {
            let is_listed = listed.contains(session);
            assert!(is_listed || known.fate == Fate::AskedFor, "{session} is not listed: {:?}", known.fate);
        }
        let stranger = listed.iter().find(|session| !self.snapshots.contains_key(session));
        assert_eq!(stranger, None, "a snapshot is listed that nobody saved");
        for session in read {
            self.read(repository, &log, session, listed.contains(session)).await;
        }
    }

    async fn read(&self, repository: &Repository, log: &Arc<Log>, session: &SessionId, is_listed: bool) {
        match dump_by(repository, log.clone(), *session, "disk0").await {
            Ok(found) => {
                assert!(is_listed, "{session} is forgotten, and was read");
                assert_same(&found, &self.snapshots[session].bytes, &session.to_string());
            }
            Err(error) => {
                assert!(!is_listed, "{session}: {error}");
                assert_eq!(error.kind(), ErrorKind::Forgotten, "{session}: {error}");
            }
        }
    }
}
