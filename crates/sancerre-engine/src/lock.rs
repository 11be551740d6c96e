//! Until when the store keeps what live snapshots need, and for longer if asked.
//!
//! ```text
//! log ─> needs: every object that must stay ─> ask, one request each ─> locks: the weakest object of each snapshot
//!                                                                         └─> extend, one request for each that falls short
//! ```
//!
//! A pack is locked when it is uploaded, and later snapshots go on needing it when that lock has run out. So a keeper extends.
//! [`clean`] does so by itself for the last clean snapshots of suspect machines.

pub mod clean;

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use sancerre_advice::Verb::ExtendLocks;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::names::{self, Folder, Time, Title, ZoneKey};

use crate::error::{Error, Result, StoreError};
use crate::monitor::{Monitor, Topic, add};
use crate::repository::Repository;
use crate::repository::catalogue::Catalogue;
use crate::repository::log::{Log, Moves, Outcome, Snapshot, needed};
use crate::repository::session::Session;
use crate::store::Locking;
use crate::store::lock::{Lock, Mode};

/// Requests in flight at once.
const REQUESTS_IN_FLIGHT: usize = 32;
/// What is left of a lock is short below this, where the bucket has no rule that says what is usual.
const SHORT_SECONDS: i64 = 7 * 86_400;
/// Sessions whose packs a backup looks at, the oldest first.
const SESSIONS_LOOKED_AT: usize = 64;

/// What an object is to snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// The configuration or a key: needed by all.
    Keys,
    /// A log entry.
    Entry(u64),
    /// Its outcome.
    Outcome(u64),
    /// A pack list of a session.
    List(u64),
    /// A pack.
    Pack(PackName),
}

/// An object: what it is, its key, and its size as far as that says how much work is done.
struct Object {
    part: Part,
    key: String,
    bytes: u64,
}

/// Every object that must stay while its snapshots live: their packs and lists, the whole log, and the keys.
pub struct Needs {
    repository: Repository,
    log: Log,
    objects: Vec<Object>,
}

/// The objects and until when each is locked.
pub struct Locks {
    needs: Needs,
    locks: Vec<Option<Lock>>,
}

/// Until when everything that a snapshot needs is locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotLock {
    /// Which.
    pub session: SessionId,
    /// Of which machine.
    pub vm: Title,
    /// When it was saved, by its writer's clock.
    pub finished: Time,
    /// The minimum over its objects; none when one of them is not locked, or only in a mode that can be bypassed.
    pub until: Option<Time>,
    /// The object that goes first.
    pub weakest: String,
}

/// What an extension came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extended {
    /// Objects that are locked for longer now.
    pub objects: u64,
    /// What the store refused, with its reasons.
    pub refused: Vec<String>,
}

impl Needs {
    /// Reads which objects the live snapshots of a zone need, and its log.
    pub async fn load(repository: &Repository, log: &Log) -> Result<Self> {
        let (catalogue, _) = Catalogue::load_all(repository, log).await?;
        let packs = packs(log, log.snapshots())?;
        Self::of(repository, log, &packs, &catalogue).await
    }

    /// The keys, the log, and these packs with their lists.
    async fn of(
        repository: &Repository,
        log: &Log,
        packs: &BTreeSet<PackName>,
        catalogue: &Catalogue,
    ) -> Result<Self> {
        let zone = &repository.keys.zone;
        let sessions: BTreeSet<u64> = packs.iter().map(|pack| pack.session).collect();
        let small = |part, key| Object { part, key, bytes: 1 };
        let mut objects = vec![small(Part::Keys, names::CONFIG.to_owned())];
        let keys = repository.store.list(names::KEYS).await?;
        objects.extend(keys.into_iter().map(|listed| small(Part::Keys, listed.key)));
        for entry in log.entries() {
            let number = entry.session.number;
            objects.push(small(Part::Entry(number), names::log(zone, number)));
            if !matches!(entry.outcome, Outcome::Undecided) {
                objects.push(small(Part::Outcome(number), names::outcome(zone, &entry.session)));
            }
        }
        for listed in repository.list(Folder::Lists).await? {
            match ZoneKey::parse(zone, &listed.key) {
                Ok(ZoneKey::List(session, _)) if sessions.contains(&session.number) && log.has(&session) => {
                    objects.push(small(Part::List(session.number), listed.key));
                }
                _ => {}
            }
        }
        // A pack that no list names is missing, which `snapshots` below notices.
        let named = packs.iter().filter_map(|pack| Some((*pack, catalogue.pack(*pack)?)));
        objects.extend(named.map(|(pack, listed)| Object {
            part: Part::Pack(pack),
            key: names::pack(zone, pack, &listed.hash),
            bytes: listed.size_bytes,
        }));
        Ok(Self { repository: repository.clone(), log: log.clone(), objects })
    }

    /// Of these only what some snapshots need.
    fn only(mut self, parts: &BTreeSet<Part>) -> Self {
        self.objects.retain(|object| parts.contains(&object.part));
        self
    }

    /// How many objects there are: so many requests it takes to ask for their locks, and at most as many to extend them.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Asks the store for every lock.
    ///
    /// Errors: the store does not tell these credentials; an interrupt.
    pub async fn ask(self, monitor: &Monitor) -> Result<Locks> {
        // Which packs were tampered with, for all sessions at once.
        self.repository.list(Folder::Packs).await?;
        let all = self.objects.iter().fold(0, |sum: u64, object| sum.saturating_add(object.bytes));
        add(&monitor.counters.total_bytes, all);
        let asked = self.objects.iter().map(|object| async {
            monitor.check()?;
            let lock = match self.repository.store.lock_of(&object.key).await {
                Err(StoreError::Missing { .. }) => None,
                lock => lock?,
            };
            add(&monitor.counters.done_bytes, object.bytes);
            Ok(lock)
        });
        let asked: Vec<Result<Option<Lock>>> =
            futures::stream::iter(asked).buffered(REQUESTS_IN_FLIGHT).collect().await;
        let locks = asked.into_iter().collect::<Result<_>>()?;
        Ok(Locks { needs: self, locks })
    }
}

impl Locks {
    /// How many objects are not locked until then.
    pub fn short_of(&self, wanted: Time) -> usize {
        self.short(wanted).count()
    }

    fn short(&self, wanted: Time) -> impl Iterator<Item = (&Object, Option<Lock>)> {
        let all = self.needs.objects.iter().zip(self.locks.iter().copied());
        all.filter(move |(_, lock)| lock.map(|lock| lock.until) < Some(wanted))
    }

    /// Until when each live snapshot is locked, in log order.
    pub fn snapshots(&self) -> Result<Vec<SnapshotLock>> {
        let mut weakest: BTreeMap<Part, (Option<Time>, &str)> = BTreeMap::new();
        for (object, lock) in self.needs.objects.iter().zip(&self.locks) {
            let until = lock.filter(|lock| lock.mode == Mode::Compliance).map(|lock| lock.until);
            let held = weakest.entry(object.part).or_insert((until, &object.key));
            *held = (*held).min((until, &object.key));
        }
        let lock = |snapshot: Snapshot<'_>| {
            let session = snapshot.session();
            let parts = parts(&self.needs.log, snapshot)?;
            let held = parts
                .into_iter()
                .map(|part| weakest.get(&part).copied().unwrap_or((None, "something that is missing")));
            let (until, key) = held.min().unwrap_or((None, names::CONFIG));
            let fields = &snapshot.manifest.fields;
            let (vm, finished) = (fields.vm.clone(), fields.finished);
            Ok(SnapshotLock { session, vm, finished, until, weakest: key.to_owned() })
        };
        self.needs.log.snapshots().into_iter().map(lock).collect()
    }

    /// What an extension would be refused as far as that is known before: all that falls short, where the store locks nothing.
    ///
    /// Errors: the store's.
    pub async fn foresee(&self, wanted: Time) -> Result<Extended> {
        let refused = match self.needs.repository.store.can_lock().await {
            Ok(()) => Vec::new(),
            Err(refused @ StoreError::Refused(_)) => {
                vec![Error::from(refused).to_string(); self.short_of(wanted)]
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Extended { objects: 0, refused })
    }

    /// Locks every object at least until then.
    ///
    /// Errors: an interrupt. What the store refuses is in the result.
    pub async fn extend(&self, wanted: Time, monitor: &Monitor) -> Result<Extended> {
        self.extend_short_of(wanted, wanted, monitor).await
    }

    /// Locks until then the objects that are not locked until `enough`.
    async fn extend_short_of(&self, enough: Time, wanted: Time, monitor: &Monitor) -> Result<Extended> {
        let store = &self.needs.repository.store;
        let usual = store.default_lock().await?.map_or(Mode::Compliance, |lock| lock.mode);
        let all = self.short(enough).fold(0, |sum: u64, (object, _)| sum.saturating_add(object.bytes));
        add(&monitor.counters.total_bytes, all);
        let extended = self.short(enough).map(|(object, lock)| async move {
            monitor.check()?;
            let mode = lock.map_or(usual, |lock| lock.mode);
            store.lock(&object.key, Lock { until: wanted, mode }).await?;
            add(&monitor.counters.done_bytes, object.bytes);
            Ok(())
        });
        let mut results =
            std::pin::pin!(futures::stream::iter(extended).buffer_unordered(REQUESTS_IN_FLIGHT));
        let mut report = Extended::default();
        while let Some(result) = results.next().await {
            match result {
                Ok(()) => report.objects = report.objects.saturating_add(1),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => report.refused.push(error.to_string()),
            }
        }
        Ok(report)
    }
}

/// What is left of a lock is short when it is less than this: a quarter of what new objects get, if that is known.
pub fn short_seconds(usual_seconds: Option<i64>) -> i64 {
    usual_seconds.map_or(SHORT_SECONDS, |seconds| seconds / 4)
}

/// After a backup on a bucket that locks new objects: warns when what it built on runs out of its lock soon.
///
/// A sample: objects of one session are as old as each other, so one pack of each of the oldest sessions is asked for, and
/// the oldest objects of all.
pub(crate) async fn warn_after_backup(
    repository: &Repository,
    packs: &BTreeSet<PackName>,
    catalogue: &Catalogue,
    session: &Session,
    monitor: &Monitor,
) {
    let Some(until) = session.lock_until else { return };
    let usual_seconds = until.unix_seconds().saturating_sub(session.started.unix_seconds());
    let now = repository.host.clock.now().unix_seconds();
    let soon = Time::from_unix_seconds(now.saturating_add(short_seconds(Some(usual_seconds))));
    let soonest = soonest(repository, packs, catalogue).await;
    if let Some((until, key)) = soonest.filter(|(until, _)| *until < soon) {
        monitor.warn(Topic::Policy, format!(
            "snapshots need object {key}, which is locked only until {until}; have a keeper run {ExtendLocks}, \
             docs/STORES.md"
        ));
    }
}

/// The object whose lock ends first; none where the store does not tell.
async fn soonest(
    repository: &Repository,
    packs: &BTreeSet<PackName>,
    catalogue: &Catalogue,
) -> Option<(Time, String)> {
    let mut oldest: BTreeMap<u64, PackName> = BTreeMap::new();
    for pack in packs {
        oldest.entry(pack.session).or_insert(*pack);
    }
    let packs = oldest.into_values().filter_map(|pack| catalogue.key(repository, pack).ok());
    let first = [names::CONFIG.to_owned(), names::log(&repository.keys.zone, 1)];
    let keys = first.into_iter().chain(packs.take(SESSIONS_LOOKED_AT));
    let asked = keys.map(|key| async move { Some((repository.store.final_lock(&key).await?, key)) });
    let asked = futures::stream::iter(asked).buffer_unordered(REQUESTS_IN_FLIGHT);
    asked.filter_map(std::future::ready).collect::<Vec<_>>().await.into_iter().min()
}

/// Packs in which frames lie that snapshots need.
fn packs<'a>(log: &Log, snapshots: impl IntoIterator<Item = Snapshot<'a>>) -> Result<BTreeSet<PackName>> {
    Ok(Moves::below(log, Log::END).packs(&needed(snapshots)?))
}

/// What one snapshot needs: its own records, those of the sessions that stored its packs, the packs, and the keys.
fn parts(log: &Log, snapshot: Snapshot<'_>) -> Result<BTreeSet<Part>> {
    let session = snapshot.session();
    let packs = packs(log, [snapshot])?;
    let own = [Part::Keys, Part::Entry(session.number), Part::Outcome(session.number)];
    let others = packs.iter().flat_map(|pack| [Part::Entry(pack.session), Part::List(pack.session)]);
    Ok(own.into_iter().chain(others).chain(packs.iter().copied().map(Part::Pack)).collect())
}
