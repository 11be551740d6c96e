//! A backup session: announced in the log, published as it goes, ended by exactly one outcome (W1, W5–W7).

mod append;

use std::collections::BTreeMap;

use bytes::Bytes;
use sancerre_advice::Verb::AddKey;
use sancerre_format::bytes::to_u64;
use sancerre_format::certificate::Role;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::index::{self, IndexEntry};
use sancerre_format::list::{ListedPack, PackList};
use sancerre_format::log::{Intent, Kind};
use sancerre_format::names::{self, MachineId, Time, Title};
use sancerre_format::outcome::{Abort, Manifest};
use sancerre_format::record;
use sancerre_format::seal::{RootKey, SessionKey};

use crate::error::{Error, Result, StoreError};
use crate::index::{WHOLE_BYTES, sign_segment};
use crate::keys::lost::{self, Sealing};
use crate::keys::{LostKey, SignerKey};
use crate::log::{Log, Outcome};
use crate::repository::Repository;
use sancerre_store::{Creation, Put};

pub use append::{abort_other, append, append_by, append_revoke, one_line};

use append::New;

/// An announced session of this process.
pub struct Session {
    /// Number and hash.
    pub id: SessionId,
    /// The key, sealed to the repository identity: goes into every data pack.
    pub sealed_key: Vec<u8>,
    /// When it was announced.
    pub started: Time,
    /// The VM's public name.
    pub vm: Title,
    /// What the hypervisor knows the VM by.
    pub machine: Option<MachineId>,
    /// What it builds on.
    pub parents: Vec<SessionId>,
    /// Until when the store locks the log entry, the session's first object, so that nobody can remove it.
    pub lock_until: Option<Time>,
    /// Objects below `keys/` that were not there when it was announced.
    pub lost_keys: Vec<LostKey>,
    /// Seals its data; in memory only.
    key: SessionKey,
    writer: SignerKey,
    lists: u32,
    segments: u32,
}

impl Session {
    /// W1: takes the next free number in the log.
    ///
    /// Errors: the store's; no writer key; [`Error::Gap`] when the log is not whole, and what
    /// [`Log::refuse_opaque`] says: before anything is written.
    pub async fn announce(
        repository: &Repository,
        log: &mut Log,
        vm: &Title,
        machine: Option<MachineId>,
    ) -> Result<Self> {
        let Sealing { writer, epoch, recipient, lost_keys } = lost::sealing(repository, log).await?;
        let secrets = repository.keys.zone_secrets()?;
        let (started, parents) = (repository.host.clock.now(), log.heads(vm, machine));
        let key = SessionKey(repository.host.random());
        let sealed_key = repository.host.sealer.seal(&recipient, &key.0)?;
        let intent = Intent {
            vm: vm.clone(),
            machine,
            generation: secrets.generation,
            epoch,
            commitment: key.commitment(),
            parents: parents.clone(),
        };
        let kind = |_| Kind::Backup(intent.clone());
        let new = New { signer: &writer, kind: &kind, public: &[], sealed: &sealed_key };
        let (id, bytes) = new.take_number(repository, log).await?;
        let place = names::log(&repository.keys.zone, id.number);
        log.add_own(repository, &place, &bytes)?;
        let lock_until = repository.store.final_lock(&place).await;
        let (lists, segments) = (0, 0);
        let vm = vm.clone();
        Ok(Self {
            id,
            key,
            sealed_key,
            started,
            vm,
            machine,
            parents,
            lock_until,
            lost_keys,
            writer,
            lists,
            segments,
        })
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
        self.lists += 1;
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
        self.segments += 1;
        Ok(())
    }

    /// What its data is sealed with.
    pub fn content_root(&self) -> RootKey {
        self.key.root()
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
            machine: self.machine,
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
            class: None,
            retain_until: None,
            lists: self.lists,
            segments: self.segments,
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
        let bytes = repository.sign(&self.writer, manifest, uses, body)?;
        if let Err(failure) = self.put_outcome(repository, bytes.clone()).await {
            self.decide(repository, &bytes, failure).await?;
        }
        // W7. In version 1 the log is never folded, so that no commit above leaves it out is an assertion.
        let read = async {
            log.extend(repository).await?;
            self.read_back(repository, log).await
        };
        match read.await {
            Ok(()) => {
                refuse_revoked(log, &self.writer, self.id.number)?;
                self.confirm(log)
            }
            Err(error @ Error::Store(StoreError::Failed { .. })) => {
                Err(Error::Undecided { session: self.id.to_string(), reason: error.to_string() })
            }
            Err(error) => Err(error),
        }
    }

    /// Reads entry and outcome as every reader will, by a fresh look at the store: "saved" means that they are there.
    ///
    /// Errors: [`StoreError::Vanished`] when the place is not what it was; an outcome that readers refuse.
    async fn read_back(&self, repository: &Repository, log: &mut Log) -> Result<()> {
        let zone = &repository.keys.zone;
        let vanished = |key| {
            Error::Store(StoreError::Vanished { key, location: repository.store.location().to_owned() })
        };
        let key = names::log(zone, self.id.number);
        let found = repository.store.get(&key).await?;
        if found.is_none_or(|bytes| Hash::of(&bytes) != self.id.intent) {
            return Err(vanished(key));
        }
        log.read_outcome(repository, self.id).await?;
        let key = names::outcome(zone, &self.id);
        match log.entry(self.id.number).map(|entry| &entry.outcome) {
            Some(Outcome::Manifest(_)) => Ok(()),
            Some(Outcome::Invalid(source)) => Err(Error::Object { key, source: source.clone() }),
            _ => Err(vanished(key)),
        }
    }

    /// After a manifest whose fate is unknown: either an abort of ours is the outcome, or whatever was there first.
    async fn decide(&self, repository: &Repository, manifest: &[u8], failure: Error) -> Result<()> {
        if !matches!(failure, Error::Store(StoreError::Failed { .. })) {
            return Err(failure);
        }
        let key = names::outcome(&repository.keys.zone, &self.id);
        let abort = self.sign_abort(repository, &failure.to_string())?;
        match repository.store.put_new(&key, abort).await {
            // A folder shows a file before it is flushed, and a second try would not bring back what the first one lost.
            Ok(Put::Occupied(found)) if found == manifest && may_be_lost(&failure) => {
                let reason = format!("it is written, but the disk did not confirm it ({failure})");
                Err(Error::Undecided { session: self.id.to_string(), reason })
            }
            Ok(Put::Occupied(found)) if found == manifest => Ok(()),
            Ok(_) => Err(failure),
            Err(source) => Err(Error::Undecided { session: self.id.to_string(), reason: source.to_string() }),
        }
    }

    /// Ends the session with nothing.
    pub async fn abort(&self, repository: &Repository, reason: &str) -> Result<()> {
        // On a disk that this backup filled, `gc` would wait for the session for hours.
        repository.store.spend_reserve();
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
        repository.sign(&self.writer, &abort, &[], &[])
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
        let is_gone = log.retention().collected_by(&self.id).is_some();
        if !is_gone && !log.closed_by_gc(&self.id) {
            return Ok(());
        }
        Err(Error::SessionEnded {
            session: self.id.to_string(),
            by: "a garbage collection".into(),
            reason: "it closed the session before the manifest was written".into(),
        })
    }
}

/// Whether a write that failed so can be seen and not be on the disk.
fn may_be_lost(failure: &Error) -> bool {
    matches!(failure, Error::Store(error) if error.is_of_a_folder())
}

/// Publishes a signed list of packs of a session that are durable.
pub async fn publish_list(
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
        words: BTreeMap::new(),
    };
    let bytes = repository.sign(signer, &list, &[], &[])?;
    let key = names::list(&repository.keys.zone, &session, sequence);
    repository.store.put_own(&key, bytes.clone(), OTHER_PROCESS).await?;
    repository.keep(&key, bytes).await
}

/// What a revoked key signs is void for everybody: whoever holds it must not take it for done.
pub fn refuse_revoked(log: &Log, signer: &SignerKey, number: u64) -> Result<()> {
    match log.revocation(&signer.by.name).filter(|(_, revoked)| revoked.from <= number) {
        Some((_, revoked)) if signer.role != Role::Admin => Err(Error::WrongKey {
            what: format!(
                "{signer} was revoked from log number {} on ({}): nothing it signs is trusted",
                revoked.from, revoked.reason
            ),
            advice: format!("have the administrator make a new key with {AddKey}"),
        }),
        _ => Ok(()),
    }
}

const OTHER_PROCESS: &str = "another process uses this session; run the backup again";
