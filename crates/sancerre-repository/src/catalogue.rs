//! Which packs the sessions of a zone have: their signed pack lists, and what the store lists.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use sancerre_advice::Verb::Check;
use sancerre_format::FormatError;
use sancerre_format::certificate::Signer;
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::list::{ListedPack, PackList};
use sancerre_format::names::{self, Folder, ZoneKey};
use sancerre_format::record::{self, Record};

use crate::cache::{Read, Wanted};
use crate::error::{Error, Result};
use crate::log::{Log, LogEntry};
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use sancerre_store::Listed;

/// More lists than a session has that did not last for days: with so many a listing is not much more to ask, and what a
/// manifest claims beyond costs nothing.
const LISTS_NAMED_MAX: u32 = 64;
/// Folders listed at once.
const LISTINGS_IN_FLIGHT: usize = 16;

/// The listed packs of sessions, by name.
///
/// Functions take it by reference. Whoever keeps one keeps a clone: clones share what was read.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    shared: Arc<Listing>,
}

#[derive(Debug, Clone, Default)]
struct Listing {
    packs: BTreeMap<PackName, ListedPack>,
    sessions: HashMap<u64, SessionId>,
    /// Packs that no list names and that were found in the store's listing: ids prove what is in them, nothing else does.
    unlisted: BTreeSet<PackName>,
    /// Sessions of which the administrator made a list anew.
    made_anew: BTreeSet<u64>,
    /// How many of its own each session has that verify.
    lists: BTreeMap<SessionId, u32>,
}

/// A pack list that does not verify or contradicts the log.
#[derive(Debug, Clone)]
pub struct BadList {
    /// Its key.
    pub key: String,
    /// What is wrong.
    pub error: FormatError,
    /// Why it cannot be read, if that is all that is known of it.
    pub unread: Option<String>,
}

impl BadList {
    /// Says that the work goes on without it.
    pub fn tell(&self, monitor: &Monitor) {
        monitor
            .warn(Topic::Damage, format!("pack list {} is ignored: {}; run {Check}", self.key, self.error));
    }
}

impl Catalogue {
    /// Reads the pack lists of these sessions; lists that do not verify are returned beside it.
    pub async fn load(
        repository: &Repository,
        log: &Log,
        sessions: impl IntoIterator<Item = u64>,
    ) -> Result<(Self, Vec<BadList>)> {
        let (mut wanted, mut open, mut named) = (Vec::new(), Vec::new(), Vec::new());
        for entry in sessions.into_iter().filter_map(|number| log.entry(number)) {
            let (zone, session) = (&repository.keys.zone, entry.session);
            // A manifest says how many lists its session has.
            match entry.snapshot().map(|snapshot| snapshot.manifest.fields.lists) {
                Some(lists @ ..=LISTS_NAMED_MAX) => {
                    wanted.extend((0..lists).map(|list| Wanted::unique(names::list(zone, &session, list))));
                    named.push((session, lists));
                }
                _ => open.push(session),
            }
        }
        let all = listed(repository, open).await?;
        wanted.extend(all.into_iter().map(Wanted::unique_listed));
        let (mut catalogue, mut bad) = Self::read(repository, log, wanted).await?;
        // Where one of them is lost, the administrator may have made another.
        let is_short = |(session, lists): &(SessionId, u32)| catalogue.lists_of(session) < *lists;
        let short: BTreeMap<SessionId, u32> = named.into_iter().filter(is_short).collect();
        let mut more = listed(repository, short.keys().copied().collect()).await?;
        more.retain(|listed| match ZoneKey::parse(&repository.keys.zone, &listed.key) {
            Ok(ZoneKey::List(session, sequence)) => {
                short.get(&session).is_some_and(|lists| sequence >= *lists)
            }
            _ => false,
        });
        let more = more.into_iter().map(Wanted::unique_listed).collect();
        let (others, others_bad) = Self::read(repository, log, more).await?;
        catalogue.add_missing(others);
        bad.extend(others_bad);
        Ok((catalogue, bad))
    }

    /// Reads all pack lists of the zone.
    pub async fn load_all(repository: &Repository, log: &Log) -> Result<(Self, Vec<BadList>)> {
        Self::of(repository, log, &repository.list(Folder::Lists).await?).await
    }

    /// Reads the pack lists among the keys listed.
    pub async fn of(repository: &Repository, log: &Log, listed: &[Listed]) -> Result<(Self, Vec<BadList>)> {
        let lists = repository.folder(Folder::Lists);
        let listed = listed.iter().filter(|listed| listed.key.starts_with(&lists)).cloned();
        Self::read(repository, log, listed.map(Wanted::unique_listed).collect()).await
    }

    async fn read(
        repository: &Repository,
        log: &Log,
        mut wanted: Vec<Wanted>,
    ) -> Result<(Self, Vec<BadList>)> {
        // Anybody may put something under the hash of an entry that never was, or under a key of no form.
        wanted.retain(|wanted| match ZoneKey::parse(&repository.keys.zone, &wanted.key) {
            Ok(ZoneKey::List(session, _)) => log.has(&session),
            _ => false,
        });
        let (mut catalogue, mut bad) = (Self::default(), Vec::new());
        let decode = |key: &str, bytes: &Bytes| decode(repository, log, key, bytes);
        // Ascending: lists come in order, and the first word on a pack stands.
        for Read { key, value, unread, .. } in repository.read_all(wanted, &Monitor::silent(), decode).await?
        {
            match value {
                Ok((list, is_made_anew)) => catalogue.add(list, is_made_anew),
                Err(error) => bad.push(BadList { key, error, unread }),
            }
        }
        Ok((catalogue, bad))
    }

    fn change(&mut self) -> &mut Listing {
        Arc::make_mut(&mut self.shared)
    }

    fn add(&mut self, list: PackList, is_made_anew: bool) {
        let shared = self.change();
        shared.sessions.insert(list.session.number, list.session);
        match is_made_anew {
            true => drop(shared.made_anew.insert(list.session.number)),
            false => {
                let count = shared.lists.entry(list.session).or_default();
                *count = count.saturating_add(1);
            }
        }
        for pack in list.packs {
            let name = PackName { session: list.session.number, ordinal: pack.ordinal };
            shared.packs.entry(name).or_insert(pack);
        }
    }

    /// Adds what other lists say.
    pub fn extend(&mut self, other: Self) {
        self.change().extend(Arc::unwrap_or_clone(other.shared));
    }

    /// The same, but what is known stands.
    pub fn add_missing(&mut self, other: Self) {
        let mut all = Arc::unwrap_or_clone(other.shared);
        all.extend(Arc::unwrap_or_clone(std::mem::take(&mut self.shared)));
        let packs = &all.packs;
        all.unlisted.retain(|pack| packs.contains_key(pack));
        self.shared = Arc::new(all);
    }

    /// Adds a pack that no list names, by what it says of itself.
    pub fn add_unlisted(&mut self, name: PackName, session: SessionId, pack: ListedPack) {
        let shared = self.change();
        if let Entry::Vacant(free) = shared.packs.entry(name) {
            free.insert(pack);
            shared.unlisted.insert(name);
            shared.sessions.entry(name.session).or_insert(session);
        }
    }

    /// Packs that no list names and that were found all the same.
    pub fn unlisted(&self) -> &BTreeSet<PackName> {
        &self.shared.unlisted
    }

    /// Whether the administrator made a list of this session anew.
    pub fn is_made_anew(&self, session: u64) -> bool {
        self.shared.made_anew.contains(&session)
    }

    fn lists_of(&self, session: &SessionId) -> u32 {
        self.shared.lists.get(session).copied().unwrap_or_default()
    }

    /// Adds packs that this session lists.
    pub fn add_own(&mut self, session: SessionId, packs: &[ListedPack]) {
        let shared = self.change();
        shared.sessions.insert(session.number, session);
        let name = |pack: &ListedPack| PackName { session: session.number, ordinal: pack.ordinal };
        shared.packs.extend(packs.iter().map(|pack| (name(pack), *pack)));
    }

    /// What is known of a pack.
    pub fn pack(&self, name: PackName) -> Option<&ListedPack> {
        self.shared.packs.get(&name)
    }

    /// The session a number stands for.
    pub fn session(&self, number: u64) -> Option<SessionId> {
        self.shared.sessions.get(&number).copied()
    }

    /// All packs.
    pub fn packs(&self) -> impl Iterator<Item = (PackName, &ListedPack)> {
        self.shared.packs.iter().map(|(name, pack)| (*name, pack))
    }

    /// The object key of a pack.
    ///
    /// Errors: [`Error::Lost`] when no verified list names it.
    pub fn key(&self, repository: &Repository, name: PackName) -> Result<String> {
        let pack = self
            .pack(name)
            .ok_or_else(|| Error::Lost { what: format!("the pack list that names pack {name}") })?;
        Ok(names::pack(&repository.keys.zone, name, &pack.hash))
    }
}

impl Listing {
    fn extend(&mut self, other: Self) {
        self.packs.extend(other.packs);
        self.sessions.extend(other.sessions);
        self.unlisted.extend(other.unlisted);
        self.made_anew.extend(other.made_anew);
        self.lists.extend(other.lists);
    }
}

/// The lists of these sessions.
async fn listed(repository: &Repository, sessions: Vec<SessionId>) -> Result<Vec<Listed>> {
    let list = |session: SessionId| async move {
        let folder = names::session_folder(&repository.keys.zone, Folder::Lists, &session);
        repository.store.list(&folder).await
    };
    let mut listings = std::pin::pin!(futures::stream::iter(sessions).map(list).buffered(LISTINGS_IN_FLIGHT));
    let mut all = Vec::new();
    while let Some(listed) = listings.try_next().await? {
        all.extend(listed);
    }
    Ok(all)
}

/// A list that verifies and is one that its session may have; and whether the administrator made it, for one that was
/// lost.
fn decode(
    repository: &Repository,
    log: &Log,
    key: &str,
    bytes: &[u8],
) -> std::result::Result<(PackList, bool), FormatError> {
    let place = ZoneKey::parse(&repository.keys.zone, key)?;
    let Record { fields: list, signer, .. } = record::decode::<PackList>(&repository.keys.trust, bytes)?;
    let forged = |detail: &str| Err(FormatError::Forged { what: "pack list", detail: detail.to_owned() });
    let entry = log.entry(list.session.number).filter(|entry| entry.session == list.session);
    // Also of a writer that was revoked since: others' snapshots may need its packs, and each chunk is verified.
    let announced = entry.and_then(LogEntry::announced);
    let is_own = announced.is_some_and(|announced| announced.signer == signer);
    // He has looked at the packs; what another list of the session says comes first.
    let is_made_anew = !is_own && signer == Signer::Admin && entry.is_some();
    let fits = place == ZoneKey::List(list.session, list.sequence)
        && list.repository == repository.keys.trust.repository
        && list.zone == repository.keys.zone
        && (is_own || is_made_anew);
    if !fits {
        return forged("it does not belong to the session it names");
    }
    // What a manifest counted is final: its writer must not add to it, or change it, later.
    let counted = entry.and_then(|entry| entry.snapshot()).map(|snapshot| snapshot.manifest.fields.lists);
    if is_own && counted.is_some_and(|lists| list.sequence >= lists) {
        return forged("its session's manifest counts fewer lists");
    }
    Ok((list, is_made_anew))
}

/// Packs as the store lists them: object hash and size by name.
#[derive(Debug, Clone, Default)]
pub struct Present {
    packs: HashMap<PackName, Vec<(Hash, u64)>>,
}

impl Present {
    /// Lists every pack of the zone.
    pub async fn load(repository: &Repository) -> Result<Self> {
        Ok(Self::of(repository, &repository.list(Folder::Packs).await?))
    }

    /// The packs among the keys listed.
    pub fn of(repository: &Repository, listed: &[Listed]) -> Self {
        let mut present = Self::default();
        for listed in listed {
            if let Ok(ZoneKey::Pack(name, hash)) = ZoneKey::parse(&repository.keys.zone, &listed.key) {
                present.packs.entry(name).or_default().push((hash, listed.size_bytes));
            }
        }
        present
    }

    /// Whether the store has this very pack with its right size.
    pub fn has(&self, name: PackName, pack: &ListedPack) -> bool {
        self.packs.get(&name).is_some_and(|found| found.contains(&(pack.hash, pack.size_bytes)))
    }

    /// What the store has under this name.
    pub fn found(&self, name: PackName) -> &[(Hash, u64)] {
        self.packs.get(&name).map_or(&[], Vec::as_slice)
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = PackName> + '_ {
        self.packs.keys().copied()
    }
}
