//! Whether a checkpoint says what the log says: whoever starts at it must see the same as who reads all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sancerre_format::frames::FrameSet;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::Kind;
use sancerre_format::names::Name;

use super::{Avoid, Log, LogEntry, Moves, Outcome, UNKNOWN, needed};
use crate::error::Result;

impl Log {
    /// What a reader who starts at a checkpoint sees differently from `whole`, as a clause; `self` is what the checkpoint
    /// carries. None if nothing.
    ///
    /// Errors: a snapshot whose frames are not known.
    pub fn differs_from(mut self, whole: &Self) -> Result<Option<String>> {
        let upto = self.start();
        self.entries.extend(whole.entries.range(upto..).map(|(number, entry)| (*number, Arc::clone(entry))));
        self.distrust_revoked();
        let unlike = self.unlike_snapshots(whole).or_else(|| self.unlike_words(whole));
        match unlike {
            None => self.unlike_places(whole, upto),
            unlike => Ok(unlike),
        }
    }

    fn unlike_snapshots(&self, whole: &Self) -> Option<String> {
        let (ours, theirs) = (self.not_gone(), whole.not_gone());
        if let Some(one) = theirs.keys().find(|session| ours.get(session) != theirs.get(session)) {
            return Some(format!("it leaves out snapshot {one}, or says something else of it"));
        }
        if let Some(one) =
            ours.keys().find(|session| !theirs.contains_key(session) && !whole.was_given_up(session))
        {
            return Some(format!("it has snapshot {one}, which is none"));
        }
        let unlike = self.heads_below(Log::END) != whole.heads_below(Log::END);
        unlike.then(|| "it names other backups as the newest of a machine".to_owned())
    }

    /// Whether a session ended with an abort that stands for what was lost, of the entry or of the outcome. A checkpoint from
    /// before may have what was lost. One whose outcome is rotten was given up without its hash.
    fn was_given_up(&self, session: &SessionId) -> bool {
        let is_forgotten = || self.retention().forgotten_by(session).is_some();
        let aborted = self.entry(session.number).filter(|entry| matches!(entry.outcome, Outcome::Abort(_)));
        aborted.is_some_and(|entry| match entry.lost {
            Some(_) => entry.session == *session || entry.session.intent == UNKNOWN,
            None => entry.session == *session && is_forgotten(),
        })
    }

    /// Snapshots that no commit gave up: their manifests, and which entries forget or hold them.
    fn not_gone(&self) -> BTreeMap<SessionId, (Hash, Option<u64>, Option<u64>)> {
        let retention = self.retention();
        let stay = self.committed().filter(|snapshot| retention.collected_by(&snapshot.session()).is_none());
        stay.map(|snapshot| {
            let session = snapshot.session();
            (session, (snapshot.manifest.hash, retention.forgotten_by(&session), retention.held_by(&session)))
        })
        .collect()
    }

    fn unlike_words(&self, whole: &Self) -> Option<String> {
        let unlike = self.distrust() != whole.distrust();
        if unlike {
            return Some("it leaves out that a key is not trusted".to_owned());
        }
        if self.retention().to_come() != whole.retention().to_come() {
            return Some(
                "it leaves out that a machine is held, or how many must approve a forget".to_owned(),
            );
        }
        let epoch = |log: &Self| {
            let kinds = log.valid().map(|entry| &entry.fields.kind);
            kinds
                .filter_map(|kind| if let Kind::Backup(intent) = kind { Some(intent.epoch) } else { None })
                .max()
        };
        (epoch(self) != epoch(whole)).then(|| "it leaves out the newest identity".to_owned())
    }

    fn distrust(&self) -> BTreeSet<(u64, &Name, u64)> {
        let words = self.valid().filter_map(|entry| match &entry.fields.kind {
            Kind::Taint(distrust) | Kind::Revoke(distrust) => {
                Some((entry.fields.number, &distrust.writer, distrust.from))
            }
            _ => None,
        });
        words.collect()
    }

    fn unlike_places(&self, whole: &Self, upto: u64) -> Result<Option<String>> {
        let Some(basis) = &self.basis else { return Ok(None) };
        let (ours, theirs) = (Moves::below(self, Log::END), Moves::below(whole, Log::END));
        let retention = whole.retention();
        let stay = whole.committed().filter(|snapshot| retention.collected_by(&snapshot.session()).is_none());
        let needed = needed(stay)?;
        if ours.by_pack(&needed) != theirs.by_pack(&needed) {
            return Ok(Some("it says of frames that they lie elsewhere".to_owned()));
        }
        let mut avoid = Avoid::default();
        whole.avoid_gcs(&mut avoid, upto)?;
        if let Some(pack) = basis.kept.packs().find(|pack| avoid.has_pack(pack)) {
            return Ok(Some(format!("it keeps pack {pack}, which a gc gave up")));
        }
        let damaged = whole.quarantined(Log::END).touched(&theirs);
        let known = self.quarantined(Log::END).touched(&ours);
        if let Some(pack) =
            basis.kept.packs().find(|pack| damaged.contains_pack(pack) && !known.contains_pack(pack))
        {
            return Ok(Some(format!("it leaves out that something in pack {pack} is damaged")));
        }
        Ok(self.unlike_owner(whole, &basis.kept, &needed))
    }

    fn unlike_owner(&self, whole: &Self, kept: &FrameSet, needed: &FrameSet) -> Option<String> {
        let announced = |log: &'_ Self, number: u64| {
            let entry = log.entry(number)?;
            Some((entry.session, LogEntry::announced(entry)?.fields.clone()))
        };
        let owners: BTreeSet<u64> = kept.packs().chain(needed.packs()).map(|pack| pack.session).collect();
        // What stands for a lost one says less.
        let is_lost = |number: &u64| whole.entry(*number).is_some_and(|entry| entry.lost.is_some());
        let mut owners = owners.into_iter().filter(|number| !is_lost(number));
        let unlike = owners.find(|number| announced(self, *number) != announced(whole, *number));
        unlike.map(|number| format!("it leaves out log entry {number}, whose packs are used"))
    }
}
