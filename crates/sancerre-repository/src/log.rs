//! The log of a zone: every session and its outcome, verified, and what follows from them.

mod approval;
mod avoid;
mod basis;
mod carried;
mod claims;
mod compare;
mod copies;
mod decode;
mod digest;
mod effect;
mod lost;
mod moves;
mod noted;
mod read;
mod retention;
mod snapshot;
mod stand_in;
mod start;
pub mod suspects;
mod unread;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sancerre_format::FormatError;
use sancerre_format::gc::GcLists;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Distrust, Entry, Intent, Kind};
use sancerre_format::names::{self, MachineId, Name, Title, Zone};
use sancerre_format::outcome::{Abort, Commit, Manifest};
use sancerre_format::record::Record;

use crate::error::{Error, Result};
use sancerre_store::Listed;

pub use approval::{ApprovalRequest, Pending};
pub use avoid::Avoid;
pub use carried::Carried;
pub use claims::Dispute;
pub use copies::{COPIES, copy_key};
pub use lost::Lost;
pub use lost::{UNKNOWN, filler};
pub use moves::{Moves, PackAndFrameSet};
pub use noted::{HEADER as REPAIR_HEADER, LINE as REPAIR_LINE, REPAIR, SESSION_LINE as REPAIR_SESSION_LINE};
pub use retention::Retention;
pub use snapshot::{Snapshot, needed, open_body};
pub use start::decode as decode_checkpoint;
pub use unread::Unread;
pub use verdict::{Complaint, Flaw};

/// A log entry and what became of it.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// Number and hash.
    pub session: SessionId,
    /// The entry; an entry that does not verify keeps its number and is void.
    pub entry: std::result::Result<Box<Record<Entry>>, FormatError>,
    /// The entry, if it is void only because its writer's key was revoked.
    pub revoked: Option<Box<Record<Entry>>>,
    /// The lowest revocation that makes it void: who asks at a number below that does not know of it.
    pub void_by: Option<u64>,
    /// Who signed an entry that is opaque: one of this place that needs a newer version. It keeps its number, readers go
    /// on without it, and writers and collectors stop.
    pub opaque_by: Option<Name>,
    /// Its outcome.
    pub outcome: Outcome,
    /// Why `entry` is what its outcome says of it, and not what its signer wrote: see [`Lost`].
    pub lost: Option<Lost>,
    /// Whether an admin key signed it that was replaced since.
    is_of_old_admin: bool,
}

/// What ended a session.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Nothing yet, or the entry needs none.
    Undecided,
    /// A snapshot.
    Manifest(Box<Record<Manifest>>),
    /// Nothing came of it.
    Abort(Box<Record<Abort>>),
    /// A garbage collection.
    Commit(Box<Record<Commit>>, Box<GcLists>),
    /// An object that does not verify: neither "absent" nor "aborted".
    Invalid(FormatError),
}

/// Everything the log of a zone says.
///
/// Functions take it by reference: `&Log` if they read what it says, `&mut Log` if they read on in the store or add an entry of
/// their own. Whoever keeps one keeps a clone: clones share the entries.
#[derive(Debug, Clone, Default)]
pub struct Log {
    entries: BTreeMap<u64, Arc<LogEntry>>,
    unknown_keys: BTreeSet<String>,
    /// Sessions of which nothing but a signed outcome was found, and what that claims.
    alone: BTreeMap<SessionId, stand_in::Claim>,
    /// Commits whose entry is lost and that the administrator has not admitted.
    doubted: BTreeMap<SessionId, stand_in::StandIn>,
    /// Copies of lost entries, by number.
    copies: BTreeMap<u64, bytes::Bytes>,
    unread: Vec<Unread>,
    verdicts: verdict::Verdicts,
    /// What stands for the log below a number, if it was not read from number 1.
    basis: Option<Arc<basis::Basis>>,
    /// The newest checkpoint, by the number up to which it speaks.
    checkpoint: Option<u64>,
    /// What the repository's config says of approvals.
    approvals_needed: u32,
    /// The objects below `keys/` as they were listed for the revocations, if they were: a backup needs them too.
    key_objects: Option<Vec<Listed>>,
}

impl Log {
    /// Above every number: what lies below it is the whole log.
    pub const END: u64 = u64::MAX;

    fn valid(&self) -> impl Iterator<Item = &Record<Entry>> {
        self.entries().filter_map(|entry| entry.entry.as_deref().ok())
    }

    /// What revokes a key, with the lowest number first, each with the number of its own entry.
    pub fn revocation(&self, name: &Name) -> Option<(u64, &Distrust)> {
        self.revocations().filter(|(_, distrust)| distrust.writer == *name).min_by_key(|(_, one)| one.from)
    }

    fn revocations(&self) -> impl Iterator<Item = (u64, &Distrust)> {
        self.valid().filter_map(|entry| match &entry.fields.kind {
            Kind::Revoke(distrust) => Some((entry.fields.number, distrust)),
            _ => None,
        })
    }

    /// Fails when an entry below `number` needs a newer version: what it announced is not known, so nothing may be added
    /// or deleted.
    pub fn refuse_opaque(&self, zone: &Zone, number: u64) -> Result<()> {
        let opaque = self.entries.range(..number).find(|(_, entry)| entry.opaque_by.is_some());
        match opaque.map(|(number, entry)| (number, &entry.entry)) {
            Some((number, Err(source))) => {
                Err(Error::Object { key: names::log(zone, *number), source: source.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The newest checkpoint known, by the number up to which it speaks.
    pub fn newest_checkpoint(&self) -> Option<u64> {
        self.checkpoint
    }

    /// The objects below `keys/`, if they were listed when the log was read.
    pub(crate) fn key_objects(&self) -> Option<&[Listed]> {
        self.key_objects.as_deref()
    }

    /// All entries, ascending.
    pub fn entries(&self) -> impl Iterator<Item = &LogEntry> {
        self.entries.values().map(Arc::as_ref)
    }

    /// The entry with this number.
    pub fn entry(&self, number: u64) -> Option<&LogEntry> {
        self.entries.get(&number).map(Arc::as_ref)
    }

    fn insert(&mut self, number: u64, entry: LogEntry) {
        self.entries.insert(number, Arc::new(entry));
    }

    /// Changes an entry, if it is there. Clones of the log keep it as it was.
    fn change(&mut self, number: u64, change: impl FnOnce(&mut LogEntry)) {
        if let Some(entry) = self.entries.get_mut(&number) {
            change(Arc::make_mut(entry));
        }
    }

    /// BLAKE3 of the object at a number: what the entry above it names.
    pub fn hash_at(&self, number: u64) -> Option<Hash> {
        let entry = self.entries.get(&number).map(|entry| entry.session.intent);
        entry.filter(|intent| *intent != UNKNOWN).or_else(|| self.basis.as_ref()?.hash_of(number))
    }

    /// Whether a session is in the log: its number, with this very entry.
    pub fn has(&self, session: &SessionId) -> bool {
        self.entries.get(&session.number).is_some_and(|entry| entry.session == *session)
    }

    /// What an entry above a number says of the bytes there: nothing of one of which nobody can tell what it was.
    pub fn previous_at(&self, number: u64) -> Option<Hash> {
        if self.dispute(number).is_some() { None } else { self.hash_at(number) }
    }

    /// Keys below `log/` and `outcome/` that belong to nothing, of those that were listed.
    pub fn unknown_keys(&self) -> &BTreeSet<String> {
        &self.unknown_keys
    }

    /// The highest number taken; 0 in an empty log. Entries that do not verify count while they follow without a gap:
    /// junk under a far higher number is no part of the log.
    pub fn highest(&self) -> u64 {
        self.highest_where(|_| true)
    }

    /// The number after the highest: the first that a new entry may take. The last number of all has none after it.
    pub fn end(&self) -> u64 {
        self.highest().saturating_add(1)
    }

    /// The same without what a key signed beyond a gap: its revocation must come below that.
    pub(crate) fn highest_but(&self, writer: &Name) -> u64 {
        self.highest_where(|entry| entry.fields.by.name != *writer)
    }

    fn highest_where(&self, counts: impl Fn(&Record<Entry>) -> bool) -> u64 {
        let verified = self.entries.iter().rfind(|(_, entry)| entry.entry.as_deref().is_ok_and(&counts));
        // A checkpoint was written above all that it speaks of.
        let below = self.start().saturating_sub(1);
        let mut highest = verified.map_or(0, |(number, _)| *number).max(below);
        while let Some(next) = highest.checked_add(1).filter(|next| self.entries.contains_key(next)) {
            highest = next;
        }
        highest
    }

    /// The first number below `end` that has no entry: a stale view of the store, or damage.
    pub fn first_gap(&self, end: u64) -> Option<u64> {
        let mut expected = self.start();
        for number in self.entries.range(expected..end.max(expected)).map(|(number, _)| *number) {
            if number != expected {
                return Some(expected);
            }
            expected = number.saturating_add(1);
        }
        (expected < end).then_some(expected)
    }

    /// The numbers below the highest that have no entry; there may be very many.
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        (self.start()..self.highest()).filter(|number| !self.entries.contains_key(number))
    }

    /// Entries that follow on another one than stands below them, each with that number: the log is a chain of hashes.
    pub fn breaks(&self) -> impl Iterator<Item = (u64, &Record<Entry>)> {
        self.valid().filter_map(|entry| {
            let below = entry.fields.number.checked_sub(1)?;
            if let Some(expected) = self.basis.as_ref().and_then(|basis| basis.hash_of(below)) {
                return (entry.fields.previous != Some(expected)).then_some((below, entry));
            }
            // One that does not verify is named for that; who could not read it says nothing of it.
            let found = self.entries.get(&below).filter(|found| found.announced().is_some())?;
            // Who read what fills the number of a lost one did not replace it, nor did who took a lie for it.
            let is_filler = |previous: Hash| {
                let was_lied_to = || self.admitted().contains_key(&found.session);
                found.lost.is_some() && (previous == Hash::of(&filler(&found.session)) || was_lied_to())
            };
            let differs = entry
                .fields
                .previous
                .is_some_and(|previous| previous != found.session.intent && !is_filler(previous));
            differs.then_some((below, entry))
        })
    }

    /// Sessions below `end` that no outcome has ended yet. Also those that a revocation above them made void: for commits
    /// between the two they are open.
    pub fn undecided(&self, end: u64) -> impl Iterator<Item = &LogEntry> {
        let open = |entry: &LogEntry| {
            let announced = entry.announced().filter(|_| !entry.is_void_below(entry.session.number));
            announced.is_some_and(|entry| entry.fields.kind.needs_outcome())
                && matches!(entry.outcome, Outcome::Undecided)
        };
        // Below a checkpoint all have ended.
        let from = self.start();
        self.entries.range(from..end.max(from)).map(|(_, entry)| &**entry).filter(move |entry| open(entry))
    }

    /// The newest committed gc below `number`.
    pub fn newest_commit(&self, number: u64) -> Option<(u64, &Record<Commit>)> {
        let commits = self.commits().take_while(|(session, ..)| session.number < number);
        commits.last().map(|(session, commit, _)| (session.number, commit))
    }

    /// The VM's newest snapshot.
    pub fn latest(&self, vm: &Title) -> Option<Snapshot<'_>> {
        self.snapshots().into_iter().rfind(|snapshot| snapshot.manifest.fields.vm == *vm)
    }

    /// The VM's newest outcomes that no later session names as a parent: what the next one builds on.
    pub fn heads(&self, vm: &Title, machine: Option<MachineId>) -> Vec<SessionId> {
        let is_of = |session: &SessionId| self.ended(session).is_some_and(|intent| intent.is_of(vm, machine));
        let of_vm = self.entries().map(|entry| &entry.session).filter(|session| is_of(session));
        let named: BTreeSet<&SessionId> =
            of_vm.filter_map(|session| self.ended(session)).flat_map(|intent| &intent.parents).collect();
        let heads = self.heads_below(Log::END).into_iter();
        heads.filter(|head| is_of(head) && !named.contains(head)).collect()
    }

    /// What a backup announced that has ended.
    fn ended(&self, session: &SessionId) -> Option<&Intent> {
        let entry = self.entries.get(&session.number).filter(|entry| entry.session == *session)?;
        let Kind::Backup(intent) = &entry.entry.as_deref().ok()?.fields.kind else { return None };
        // Below a checkpoint all have ended, also those whose outcome it does not carry.
        let has_ended = matches!(entry.outcome, Outcome::Manifest(_) | Outcome::Abort(_));
        (has_ended || session.number < self.start()).then_some(intent)
    }

    /// The backups below `number` that have ended and that no later one under the same name and id names as a parent.
    fn heads_below(&self, number: u64) -> BTreeSet<SessionId> {
        let mut heads = BTreeMap::<(&Title, Option<MachineId>), BTreeSet<SessionId>>::new();
        let from = self.start();
        let below = self.basis.iter().flat_map(|basis| &basis.heads).copied();
        let above = self.entries.range(from..number.max(from)).map(|(_, entry)| entry.session);
        for session in below.chain(above) {
            if let Some(intent) = self.ended(&session) {
                let heads = heads.entry((&intent.vm, intent.machine)).or_default();
                heads.retain(|head| intent.parents.binary_search(head).is_err());
                heads.insert(session);
            }
        }
        heads.into_values().flatten().collect()
    }

    /// Whether gc closed the session without a manifest (W7): commits above it, and none knows it.
    pub(crate) fn closed_by_gc(&self, session: &SessionId) -> bool {
        let mut above = self.commits().skip_while(|(gc, ..)| gc.number <= session.number).peekable();
        let knows = |lists: &GcLists| {
            lists.seen.binary_search(session).is_ok() || lists.forgotten.binary_search(session).is_ok()
        };
        above.peek().is_some() && !above.any(|(.., lists)| knows(lists))
    }
}

impl LogEntry {
    /// What its signer announced, also if that is not trusted any more: it still says whose packs these are.
    pub fn announced(&self) -> Option<&Record<Entry>> {
        self.entry.as_deref().ok().or(self.revoked.as_deref())
    }

    /// Whether its session ended with an outcome that verifies.
    pub fn has_ended(&self) -> bool {
        matches!(self.outcome, Outcome::Manifest(_) | Outcome::Abort(_) | Outcome::Commit(..))
    }

    /// Whether it announces a garbage collection.
    pub fn is_gc(&self) -> bool {
        self.entry.as_ref().is_ok_and(|entry| matches!(entry.fields.kind, Kind::Gc { .. }))
    }

    /// The snapshot this entry became.
    pub fn snapshot(&self) -> Option<Snapshot<'_>> {
        self.snapshot_below(Log::END)
    }
}
