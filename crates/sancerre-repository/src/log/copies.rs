//! Entries that are kept twice (FORMAT.md §4.7): what ends the trust in a key, and how many must approve. Lost they would give
//! back to a thief what he was denied, for all that he signed above them. A copy that has the very hash which the next entry read
//! is the entry.

use std::collections::BTreeMap;

use bytes::Bytes;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::{self, Zone};
use sancerre_format::record::Record;

use super::decode::{Found, decode_entry};
use super::{Log, LogEntry, Lost, Outcome, UNKNOWN};
use crate::cache::Wanted;
use crate::error::Result;
use crate::monitor::Monitor;
use crate::repository::Repository;

/// Folders of copies.
pub const COPIES: [&str; 2] = [names::REVOKED, names::QUORUMS];

/// Where the copy of an entry stands, if it is one that is kept twice.
pub fn copy_key(zone: &Zone, entry: &Entry) -> Option<String> {
    match &entry.kind {
        Kind::Revoke(distrust) => Some(names::revoked(&distrust.writer)),
        Kind::Quorum(_) => Some(names::quorum(zone, entry.number)),
        _ => None,
    }
}

impl Log {
    /// Looks for copies of what is lost and for which nothing else stands; whether there are some.
    pub(super) async fn stand_copies(&mut self, repository: &Repository) -> Result<bool> {
        let lost: BTreeMap<u64, SessionId> =
            self.lost().into_iter().filter(|(_, session)| session.intent != UNKNOWN).collect();
        if lost.is_empty() {
            return Ok(false);
        }
        let mut listed = Vec::new();
        for folder in COPIES {
            listed.extend(repository.store.list(folder).await?);
        }
        let decode = |_: &str, bytes: &Bytes| Ok(bytes.clone());
        let wanted = listed.into_iter().map(Wanted::listed).collect();
        let mut is_found = false;
        for read in repository.read_all(wanted, &Monitor::silent(), decode).await? {
            let Ok(bytes) = read.value else { continue };
            let hash = Hash::of(&bytes);
            let Some(session) = lost.values().find(|session| session.intent == hash) else { continue };
            let key = names::log(&repository.keys.zone, session.number);
            if let Ok(Found::Known(entry) | Found::OfOldAdmin(entry)) = decode_entry(repository, &key, &bytes)
            {
                self.insert_copy(*session, entry, bytes);
                is_found = true;
            }
        }
        self.distrust_revoked();
        Ok(is_found)
    }

    fn insert_copy(&mut self, session: SessionId, entry: Box<Record<Entry>>, bytes: Bytes) {
        let lost = match self.entries.get(&session.number) {
            None => Lost::Missing,
            Some(there) if there.session.intent == UNKNOWN => Lost::Unread,
            Some(_) => Lost::Rotten,
        };
        let (revoked, void_by, opaque_by, is_of_old_admin) = (None, None, None, false);
        let (entry, outcome, lost) = (Ok(entry), Outcome::Undecided, Some(lost));
        let entry = LogEntry { session, entry, revoked, void_by, opaque_by, outcome, lost, is_of_old_admin };
        self.insert(session.number, entry);
        self.copies.insert(session.number, bytes);
    }

    /// Whether a copy of its very bytes stands for a lost entry.
    pub fn is_copied(&self, number: u64) -> bool {
        self.copies.contains_key(&number)
    }
}
