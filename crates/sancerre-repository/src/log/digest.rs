//! One hash for all records up to a number: what a collector says it read (FORMAT.md §8.3).

use sancerre_format::id::Hash;

use super::{Log, LogEntry, Outcome};

impl LogEntry {
    /// The hash of its outcome's bytes, if that verifies.
    pub fn outcome_hash(&self) -> Option<Hash> {
        match &self.outcome {
            Outcome::Manifest(record) => Some(record.hash),
            Outcome::Abort(record) => Some(record.hash),
            Outcome::Commit(record, _) => Some(record.hash),
            Outcome::Undecided | Outcome::Invalid(_) => None,
        }
    }
}

impl Log {
    /// Digest of every record up to the session `number`, without that one's outcome.
    pub fn digest(&self, number: u64) -> Hash {
        let mut hashes = Vec::new();
        for entry in self.entries.range(..=number).map(|(_, entry)| entry) {
            hashes.extend_from_slice(&entry.session.intent.0);
            let outcome = entry.outcome_hash().filter(|_| entry.session.number != number);
            outcome.iter().for_each(|hash| hashes.extend_from_slice(&hash.0));
        }
        Hash::of(&hashes)
    }
}
