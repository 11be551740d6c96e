//! The model: a repository is a list of snapshots, and a snapshot is a list of named byte vectors.

use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_format::id::SessionId;

use crate::repo::dump_by;

/// A disk's name and bytes.
pub type DiskBytes = (String, Vec<u8>);

/// Every snapshot that was reported as saved.
#[derive(Default, Clone)]
pub struct Model {
    pub snapshots: Vec<(SessionId, Vec<DiskBytes>)>,
}

impl Model {
    pub fn add(&mut self, session: SessionId, disks: Vec<DiskBytes>) {
        self.snapshots.push((session, disks));
    }

    pub fn add_disk(&mut self, session: SessionId, bytes: &[u8]) {
        self.add(session, vec![("disk0".into(), bytes.to_vec())]);
    }

    /// Every snapshot is listed and every disk comes back bit for bit.
    pub async fn check(&self, repository: &Repository) {
        let log = Log::load(repository).await.unwrap();
        for (session, disks) in &self.snapshots {
            assert!(
                log.snapshots().iter().any(|found| found.session() == *session),
                "{session} is not listed"
            );
            for (name, bytes) in disks {
                let found = dump_by(repository, &log, *session, name).await;
                let found = found.unwrap_or_else(|error| panic!("{session} {name}: {error}"));
                assert_same(&found, bytes, &format!("{session} {name}"));
            }
        }
    }
}

/// Says where two disks differ instead of printing them.
pub fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    if found == expected {
        return;
    }
    assert_eq!(found.len(), expected.len(), "{what}: size");
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(at, None, "{what}: first byte that differs");
}
