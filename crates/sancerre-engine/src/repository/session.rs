//! A backup session: announced in the log, published as it goes, ended by exactly one outcome (W1, W5–W7).

use bytes::Bytes;
use sancerre_format::bytes::to_u64;
use sancerre_format::certificate::Role;
use sancerre_format::id::{Hash, SessionId};

use sancerre_format::index::{self, IndexEntry};
use sancerre_format::list::{ListedPack, PackList};
use sancerre_format::log::{Entry, Intent, KEEPERS, Kind};
use sancerre_format::names::{self, Name, Time};
use sancerre_format::outcome::{Abort, Manifest};
use sancerre_format::record::{self, Fields};
use sancerre_format::seal::SessionKey;

use crate::error::{Error, Result};
use crate::index::{WHOLE_BYTES, sign_segment};
use crate::keys::{SignerKey, recipients};
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::store::Put;

/// An announced session of this process.
pub struct Session {
    /// Number and hash.
    pub id: SessionId,
    /// Seals its data; in memory only.
    pub key: SessionKey,
    /// The key, sealed to the repository identity: goes into every data pack.
    pub sealed_key: Vec<u8>,
    /// When it was announced.
    pub started: Time,
    /// The VM.
    pub vm: Name,
    /// What it builds on.
    pub parents: Vec<SessionId>,
    /// Until when the store locks the log entry, the session's first object, so that nobody can remove it.
    pub lock_until: Option<Time>,
    writer: SignerKey,
    lists: u32,
    segments: u32,
}

impl Session {
    /// W1: takes the next free number in the log.
    ///
    /// Errors: the store's; no writer key.
    pub async fn announce(repository: &Repository, log: &mut Log, vm: &Name) -> Result<Self> {
        let writer = repository.writer()?.clone();
        let secrets = repository.keys.zone_secrets()?;
        let (epoch, recipient) = recipients::current(
            &repository.store,
            &repository.keys.trust,
            secrets,
            recipients::seen_epoch(log),
        )
        .await?;
        let started = repository.host.clock.now();
        let parents = log.heads(vm);
        let mut number = log.highest();
        loop {
            number = next(number)?;
            refuse_revoked(log, &writer, number)?;
            let key = SessionKey(repository.host.random());
            let sealed_key = repository.host.sealer.seal(&recipient, &key.0)?;
            let intent = Intent {
                vm: vm.clone(),
                generation: secrets.generation,
                epoch,
                commitment: key.commitment(),
                parents: parents.clone(),
            };
            let kind = Kind::Backup(intent);
            let entry = log_entry(repository, &writer, number, started, kind, &[], &sealed_key)?;
            let id = SessionId { number, intent: Hash::of(&entry) };
            let place = names::log(&repository.keys.zone, number);
            match repository.store.put_new(&place, entry.clone()).await? {
                Put::Created => {
                    log.add_own(repository, &place, &entry)?;
                    let lock_until = repository.store.final_lock(&place).await;
                    let vm = vm.clone();
                    return Ok(Self {
                        id,
                        key,
                        sealed_key,
                        started,
                        vm,
                        parents,
                        writer,
                        lock_until,
                        lists: 0,
                        segments: 0,
                    });
                }
                // Somebody else has this number; theirs is as good as ours.
                Put::Occupied(_) => {}
            }
        }
    }

    /// Publishes a signed list of packs that are durable, then an index segment that names their content.
    pub async fn publish(
        &mut self,
        repository: &Repository,
        packs: Vec<ListedPack>,
        entries: Vec<IndexEntry>,
    ) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        publish_list(repository, &self.writer, self.id, self.lists, packs).await?;
        self.lists = self.lists.saturating_add(1);
        self.publish_segment(repository, entries).await
    }

    async fn publish_segment(&mut self, repository: &Repository, mut entries: Vec<IndexEntry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let root = repository.keys.metadata_root(&self.id)?;
        let (id, sequence) = (self.id, self.segments);
        let built =
            repository.host.compute(move || index::build_sealed(&mut entries, &root, id, sequence)).await??;
        let bytes = sign_segment(repository, &self.writer, id, sequence, Vec::new(), &built)?;
        let key = names::index(&repository.keys.zone, &self.id, sequence);
        repository.store.put_own(&key, bytes.clone(), OTHER_PROCESS).await?;
        if to_u64(bytes.len()) <= WHOLE_BYTES {
            repository.keep(&key, bytes).await?;
        }
        self.segments = self.segments.saturating_add(1);
        Ok(())
    }

    /// Number of index segments published.
    pub fn segments(&self) -> u32 {
        self.segments
    }

    /// Number of pack lists published.
    pub fn lists(&self) -> u32 {
        self.lists
    }

    /// The fields every manifest of this session has; the caller adds sizes.
    pub fn manifest(&self, repository: &Repository) -> Manifest {
        Manifest {
            repository: repository.keys.trust.repository,
            zone: repository.keys.zone.clone(),
            session: self.id,
            by: self.writer.by.clone(),
            vm: self.vm.clone(),
            started: self.started,
            finished: repository.host.clock.now(),
            parents: self.parents.clone(),
            disks: 0,
            size_bytes: 0,
            data_bytes: 0,
            new_bytes: 0,
            stored_bytes: 0,
            consistency: sancerre_format::outcome::Consistency::Crash,
            scan: "full".into(),
            lists: self.lists,
            lock_until: self.lock_until,
        }
    }

    /// W6: the commit point. Nothing is saved before it, and everything is after it.
    ///
    /// Errors: [`Error::SessionEnded`] when another outcome was there first.
    pub async fn commit(
        &self,
        repository: &Repository,
        log: &mut Log,
        manifest: &Manifest,
        uses: &[u8],
        body: &[u8],
    ) -> Result<()> {
        let bytes = self.sign(repository, manifest, uses, body)?;
        if let Err(failure) = self.put_outcome(repository, bytes.clone()).await {
            self.decide(repository, &bytes, failure).await?;
        }
        match log.extend(repository).await {
            Ok(()) => {
                refuse_revoked(log, &self.writer, self.id.number)?;
                self.confirm(log)
            }
            // The manifest is there. In version 1 the log is never folded, so W7 is an assertion, not a condition.
            Err(Error::Store { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// After a manifest whose fate is unknown: either an abort of ours is the outcome, or whatever was there first.
    async fn decide(&self, repository: &Repository, manifest: &[u8], failure: Error) -> Result<()> {
        if !matches!(failure, Error::Store { .. }) {
            return Err(failure);
        }
        let key = names::outcome(&repository.keys.zone, &self.id);
        let abort = self.sign_abort(repository, &failure.to_string())?;
        match repository.store.put_new(&key, abort).await {
            Ok(Put::Occupied(found)) if found == manifest => Ok(()),
            Ok(_) => Err(failure),
            Err(source) => Err(Error::Undecided { session: self.id.to_string(), reason: source.to_string() }),
        }
    }

    /// Ends the session with nothing.
    pub async fn abort(&self, repository: &Repository, reason: &str) -> Result<()> {
        let bytes = self.sign_abort(repository, reason)?;
        self.put_outcome(repository, bytes).await
    }

    fn sign_abort(&self, repository: &Repository, reason: &str) -> Result<Bytes> {
        let abort = Abort {
            repository: repository.keys.trust.repository,
            zone: repository.keys.zone.clone(),
            session: self.id,
            by: self.writer.by.clone(),
            time: repository.host.clock.now(),
            reason: one_line(reason),
        };
        self.sign(repository, &abort, &[], &[])
    }

    async fn put_outcome(&self, repository: &Repository, bytes: Bytes) -> Result<()> {
        let key = names::outcome(&repository.keys.zone, &self.id);
        match repository.store.put_new(&key, bytes).await? {
            Put::Created => Ok(()),
            Put::Occupied(found) => Err(self.ended(repository, &found)),
        }
    }

    fn ended(&self, repository: &Repository, found: &[u8]) -> Error {
        let (by, reason) = match record::decode::<Abort>(&repository.keys.trust, found) {
            Ok(abort) => (abort.signer.to_string(), abort.fields.reason),
            Err(error) => ("somebody unknown".to_owned(), error.to_string()),
        };
        Error::SessionEnded { session: self.id.to_string(), by, reason }
    }

    /// W5: fails when somebody else ended the session.
    pub async fn still_open(&self, repository: &Repository) -> Result<()> {
        match repository.store.get(&names::outcome(&repository.keys.zone, &self.id)).await? {
            None => Ok(()),
            Some(found) => Err(self.ended(repository, &found)),
        }
    }

    /// W7: a commit that came after a collector had folded this number away does not count. The manifest itself is
    /// known to be there, so a listing that does not show it yet changes nothing.
    fn confirm(&self, log: &Log) -> Result<()> {
        if !log.closed_by_gc(&self.id) {
            return Ok(());
        }
        Err(Error::SessionEnded {
            session: self.id.to_string(),
            by: "a garbage collection".into(),
            reason: "it closed the session before the manifest was written".into(),
        })
    }

    fn sign<F: Fields>(
        &self,
        repository: &Repository,
        fields: &F,
        public: &[u8],
        sealed: &[u8],
    ) -> Result<Bytes> {
        Ok(record::encode(fields, repository.host.tool, &self.writer.key, public, sealed)?.into())
    }
}

/// Publishes a signed list of packs of a session that are durable.
pub(crate) async fn publish_list(
    repository: &Repository,
    signer: &SignerKey,
    session: SessionId,
    sequence: u32,
    packs: Vec<ListedPack>,
) -> Result<()> {
    let list = PackList {
        repository: repository.keys.trust.repository,
        zone: repository.keys.zone.clone(),
        session,
        sequence,
        by: signer.by.clone(),
        packs,
    };
    let bytes: Bytes = record::encode(&list, repository.host.tool, &signer.key, &[], &[])?.into();
    let key = names::list(&repository.keys.zone, &session, sequence);
    repository.store.put_own(&key, bytes.clone(), OTHER_PROCESS).await?;
    repository.keep(&key, bytes).await
}

/// What a revoked key signs is void for everybody: whoever holds it must not take it for done.
fn refuse_revoked(log: &Log, signer: &SignerKey, number: u64) -> Result<()> {
    match log.revocation(&signer.by.name).filter(|revoked| revoked.from <= number) {
        Some(revoked) if signer.role != Role::Admin => Err(Error::WrongKey {
            what: format!(
                "{} {} was revoked from log number {} on ({}): nothing it signs is trusted",
                signer.role, signer.by.name, revoked.from, revoked.reason
            ),
            advice: "have the administrator make a new key with `sancerre key add`",
        }),
        _ => Ok(()),
    }
}

const OTHER_PROCESS: &str = "another process uses this session; run the backup again";

fn log_entry(
    repository: &Repository,
    signer: &SignerKey,
    number: u64,
    time: Time,
    kind: Kind,
    public: &[u8],
    sealed: &[u8],
) -> Result<Bytes> {
    let entry = Entry {
        repository: repository.keys.trust.repository,
        zone: repository.keys.zone.clone(),
        number,
        by: signer.by.clone(),
        time,
        kind,
    };
    Ok(record::encode(&entry, repository.host.tool, &signer.key, public, sealed)?.into())
}

fn next(number: u64) -> Result<u64> {
    let full = || Error::Lost { what: "a free number in the log".into() };
    number.checked_add(1).ok_or_else(full)
}

/// Appends an entry of any kind but `backup`, such as a quarantine, at the next free number.
///
/// Errors: [`Error::WrongKey`] when no key at hand may sign it; the store's.
pub async fn append(repository: &Repository, log: &Log, kind: Kind, public: &[u8]) -> Result<SessionId> {
    let signer = repository.signer(kind.roles())?;
    let time = repository.host.clock.now();
    let mut number = log.highest();
    loop {
        number = next(number)?;
        refuse_revoked(log, signer, number)?;
        let entry = log_entry(repository, signer, number, time, kind.clone(), public, &[])?;
        let intent = Hash::of(&entry);
        match repository.store.put_new(&names::log(&repository.keys.zone, number), entry).await? {
            Put::Created => return Ok(SessionId { number, intent }),
            Put::Occupied(_) => {}
        }
    }
}

/// Ends somebody else's session with nothing, unless it ended by itself meanwhile: a keeper's right.
///
/// Errors: [`Error::WrongKey`] without a keeper's or the admin's key; the store's.
pub async fn abort_other(repository: &Repository, session: SessionId, reason: &str) -> Result<()> {
    let signer = repository.signer(KEEPERS)?;
    let abort = Abort {
        repository: repository.keys.trust.repository,
        zone: repository.keys.zone.clone(),
        session,
        by: signer.by.clone(),
        time: repository.host.clock.now(),
        reason: one_line(reason),
    };
    let bytes = record::encode(&abort, repository.host.tool, &signer.key, &[], &[])?;
    repository.store.put_new(&names::outcome(&repository.keys.zone, &session), bytes.into()).await?;
    Ok(())
}

/// Free text as a field: printable ASCII in one line.
pub fn one_line(text: &str) -> String {
    let plain: String =
        text.chars().map(|letter| if matches!(letter, ' '..='~') { letter } else { ' ' }).collect();
    let plain: String = plain.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(1000).collect();
    if plain.is_empty() { "unknown".into() } else { plain }
}
