//! What a repository is verified against: the admin key of its `config`, and the chain of those that followed it
//! (FORMAT.md §4.6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::certificate::Signer;
use crate::error::{Result, corrupt, ensure, forged};
use crate::id::{Hash, RepositoryId, SessionId};
use crate::names::{self, Time, Zone};
use crate::record::{Fields, Record, field};
use crate::sign::{PublicKey, SigningKey, signing_key_of};
use crate::text::{TextReader, TextWriter, number};

/// What a record must agree with: the repository and its admin's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The repository.
    pub repository: RepositoryId,
    /// The admin key of `config`: its fingerprint is the trust anchor.
    pub admin: PublicKey,
    /// The keys that followed it, each with what it took over.
    successors: Arc<Vec<Successor>>,
}

/// An admin key that followed another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Successor {
    number: u16,
    admin: PublicKey,
    from: BTreeMap<Zone, u64>,
    keeps: BTreeSet<Hash>,
}

impl Trust {
    /// The admin key of `config` alone.
    pub fn new(repository: RepositoryId, admin: PublicKey) -> Self {
        Self { repository, admin, successors: Arc::default() }
    }

    /// The same without the keys that followed: what `config` is verified against.
    pub fn anchor(&self) -> Self {
        Self::new(self.repository, self.admin)
    }

    /// Whether both are of one repository and trust anchor, however far the chain was followed.
    pub fn is_same(&self, other: &Self) -> bool {
        self.repository == other.repository && self.admin == other.admin
    }

    /// Every admin key, from that of `config` on.
    pub fn admins(&self) -> impl Iterator<Item = &PublicKey> {
        std::iter::once(&self.admin).chain(self.successors.iter().map(|successor| &successor.admin))
    }

    /// The admin key that signs what is new.
    pub fn current(&self) -> &PublicKey {
        self.successors.last().map_or(&self.admin, |successor| &successor.admin)
    }

    /// Number of the last record of the chain; 0 without one.
    pub fn number(&self) -> u16 {
        self.successors.last().map_or(0, |successor| successor.number)
    }

    /// Goes on to the next key. `previous` is the hash of the object that the last step was taken from.
    ///
    /// Errors: a record that does not follow on this chain.
    pub fn follow(&mut self, record: &Record<Succession>, previous: Hash) -> Result<()> {
        let next = &record.fields;
        let wrong = |detail: &str| forged(Succession::KIND, detail);
        if next.previous != previous || next.number <= self.number() {
            return Err(wrong("it follows on another record"));
        }
        if self.admins().any(|admin| *admin == next.admin) {
            return Err(wrong("its key was the admin's before"));
        }
        let from: BTreeMap<Zone, u64> = next.from.iter().cloned().collect();
        let last = self.successors.last();
        let earlier = |(zone, number): (&Zone, &u64)| from.get(zone).is_none_or(|from| from < number);
        if last.is_some_and(|last| last.from.iter().any(earlier)) {
            return Err(wrong("it is in force before the key that it follows"));
        }
        next.verify_proof()?;
        let keeps = next.keeps.iter().map(|(_, hash)| *hash).collect();
        let successor = Successor { number: next.number, admin: next.admin, from, keeps };
        Arc::make_mut(&mut self.successors).push(successor);
        Ok(())
    }

    /// Which admin key is in force for what a text says of its place: that of its number in its zone's log, or the last
    /// one for what has no place in a log.
    pub(crate) fn in_force(&self, text: &[u8]) -> usize {
        if self.successors.is_empty() {
            return 0;
        }
        let claim = |key: &[u8]| field(text, key).and_then(|value| std::str::from_utf8(value).ok());
        let zone = claim(b"zone: ").and_then(|zone| Zone::new(zone).ok());
        let at = match claim(b"number: ") {
            Some(text) => number("record", text).ok(),
            // What ends a number of which nothing is known is said of whatever is lost one day: it has no place of its own.
            None => claim(b"session: ")
                .and_then(|id| SessionId::parse(id).ok())
                .filter(|id| id.intent != Hash([0; 32]))
                .map(|id| id.number),
        };
        match (zone, at) {
            (Some(zone), Some(at)) => self.in_force_at(&zone, at),
            _ => self.successors.len(),
        }
    }

    /// The last key of the chain.
    pub(crate) fn last(&self) -> usize {
        self.successors.len()
    }

    fn in_force_at(&self, zone: &Zone, at: u64) -> usize {
        // A zone that a rotation did not know was made under the key that it brought.
        let reached = |successor: &&Successor| successor.from.get(zone).is_none_or(|from| *from <= at);
        self.successors.iter().take_while(reached).count()
    }

    /// Verifies an admin's signature; returns which key made it.
    pub(crate) fn verify(
        &self,
        what: &'static str,
        namespace: &str,
        text: &[u8],
        armor: &str,
    ) -> Result<usize> {
        let index = self.index_of(armor);
        self.admins().nth(index).unwrap_or(&self.admin).verify(what, namespace, text, armor)?;
        Ok(index)
    }

    /// Which admin key a signature says that it was made with; the first for one of nobody here.
    pub(crate) fn index_of(&self, armor: &str) -> usize {
        let made = signing_key_of(armor);
        self.admins().position(|admin| made.as_ref() == Some(admin)).unwrap_or_default()
    }

    /// Whether what an admin key signed counts where another one is in force: only if that one, or one after it, signed,
    /// or if the record that brought that one keeps it, by the hash of its text and signature.
    pub(crate) fn counts(&self, signed_by: usize, in_force: usize, hash: impl FnOnce() -> Hash) -> bool {
        let kept = || in_force.checked_sub(1).and_then(|last| self.successors.get(last));
        signed_by >= in_force || kept().is_some_and(|last| last.keeps.contains(&hash()))
    }
}

/// `keys/admins/<n>`: the admin hands over to another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succession {
    /// The repository.
    pub repository: RepositoryId,
    /// Its place in the chain: above that of the record before, and not always the next one.
    pub number: u16,
    /// The new admin key.
    pub admin: PublicKey,
    /// BLAKE3 of the record before; of `config` for the first.
    pub previous: Hash,
    /// When it was made.
    pub created: Time,
    /// From which number of each zone's log the new key is in force, ascending. In other zones it always is.
    pub from: Vec<(Zone, u64)>,
    /// Objects below `keys/` of earlier admin keys, and aborts with which entries were given up, that go on to count, ascending: key, and BLAKE3 of text and signature.
    pub keeps: Vec<(String, Hash)>,
    /// Base64 of the new key's signature: it agrees.
    pub proof: String,
}

const PROOF: &str = "sancerre-admin-proof-v1";

impl Succession {
    /// Signs it with the new key.
    pub fn prove(mut self, key: &SigningKey) -> Result<Self> {
        self.proof = BASE64.encode(key.sign(PROOF, self.proven().as_bytes())?);
        Ok(self)
    }

    fn verify_proof(&self) -> Result<()> {
        let armor = BASE64.decode(&self.proof).ok().filter(|armor| BASE64.encode(armor) == self.proof);
        let armor = armor.and_then(|armor| String::from_utf8(armor).ok());
        let armor = armor.ok_or_else(|| corrupt(Self::KIND, "its proof is not base64"))?;
        self.admin.verify(Self::KIND, PROOF, self.proven().as_bytes(), &armor)
    }

    /// What the new key signs.
    fn proven(&self) -> String {
        let mut text = TextWriter::new(PROOF);
        self.write_terms(&mut text);
        text.finish()
    }

    fn write_terms(&self, text: &mut TextWriter) {
        text.field("repository", self.repository).field("number", self.number).field("admin", self.admin);
        text.field("previous", self.previous).field("created", self.created);
        text.repeated("from", self.from.iter().map(|(zone, from)| format!("{zone} {from}")));
        text.repeated("keeps", self.keeps.iter().map(|(key, hash)| format!("{key} {hash}")));
    }
}

/// What an admin signs that has no place in the log: objects below `keys/`, and his word that nothing is known of an entry.
fn is_kept_kind(key: &str) -> bool {
    key.starts_with(names::KEYS) || names::is_given_up_unseen(key)
}

impl Fields for Succession {
    const KIND: &'static str = "sancerre-admin-v1";

    fn write(&self, text: &mut TextWriter) {
        self.write_terms(text);
        text.field("proof", &self.proof);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let pair =
            |line| str::rsplit_once(line, ' ').ok_or_else(|| corrupt(Self::KIND, "a line has no value"));
        let from = |line| pair(line).and_then(|(zone, at)| Ok((Zone::new(zone)?, number(Self::KIND, at)?)));
        let keeps = |line| pair(line).and_then(|(key, hash)| Ok((key.to_owned(), Hash::from_hex(hash)?)));
        let succession = Self {
            repository: text.parsed("repository", RepositoryId::from_hex)?,
            number: text.number("number")?,
            admin: text.parsed("admin", PublicKey::parse)?,
            previous: text.parsed("previous", Hash::from_hex)?,
            created: text.parsed("created", Time::parse)?,
            from: text.repeated("from", from)?,
            keeps: text.repeated("keeps", keeps)?,
            proof: text.value("proof")?.to_owned(),
        };
        let ascending = succession.from.is_sorted_by(|(a, _), (b, _)| a < b)
            && succession.keeps.is_sorted_by(|(a, _), (b, _)| a < b);
        ensure(ascending, Self::KIND, || "its lines are not ascending".into())?;
        let in_folder = succession.keeps.iter().all(|(key, _)| is_kept_kind(key) && !key.contains(' '));
        ensure(in_folder, Self::KIND, || {
            "it keeps what is neither below keys/ nor gives an entry up".into()
        })?;
        ensure(succession.number > 0, Self::KIND, || "the key of config is number 0".into())?;
        Ok(succession)
    }

    fn allows(&self, signer: &Signer) -> bool {
        matches!(signer, Signer::Admin)
    }
}
