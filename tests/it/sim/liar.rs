//! A keeper whose key was stolen: he announces and commits what he likes, and deletes nothing himself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, LogEntry};
use sancerre_format::frames::FrameSet;
use sancerre_format::gc::GcLists;
use sancerre_format::id::SessionId;
use sancerre_format::log::Kind;
use sancerre_format::names::ZoneKey;
use sancerre_tests::dice::Dice;
use sancerre_tests::repo::{TestRepo, zone};

use super::actors::Deed;

const GC: Kind = Kind::Gc { generation: 1 };

/// A thief at work, beside others or alone.
pub(super) struct Liar {
    pub(super) repo: Arc<TestRepo>,
    pub(super) key: Repository,
    pub(super) dice: Dice,
    /// Whether packs of writers are what they say: then he may copy some.
    pub(super) may_copy: bool,
}

impl Liar {
    /// Announces a gc, ends one, his own or another's, or both.
    pub(super) async fn lie(mut self) -> Deed {
        tokio::time::sleep(Duration::from_millis(self.dice.below(3000))).await;
        let log = Log::load(&self.repo.open).await.unwrap();
        let open: Vec<&LogEntry> = log.undecided(u64::MAX).filter(|entry| entry.is_gc()).collect();
        let chosen = open.get(self.dice.pick(open.len())).copied().filter(|_| self.dice.one_in(2));
        let (gc, proposal, is_own) = match chosen.and_then(proposal) {
            Some((gc, proposal)) => (gc, proposal, false),
            None => {
                let proposal = self.packs().await;
                let lists = GcLists { dead: proposal.clone(), ..GcLists::default() };
                let part = lists.encode().unwrap();
                (self.repo.append_as(&self.key, GC, &part).await, proposal, true)
            }
        };
        let what = match is_own && self.dice.one_in(3) {
            true => format!("a lie is announced: gc {}", gc.number),
            false => {
                let lists = self.lists(&log, gc, proposal, is_own).await;
                self.repo.commit_gc_as(&self.key, gc, &lists).await;
                format!("a lie: gc {} burns {:?}, {:?}", gc.number, lists.dead, lists.forgotten)
            }
        };
        Deed::Lie { what }
    }

    /// Some packs, or all.
    async fn packs(&mut self) -> FrameSet {
        let (mut set, all) = (FrameSet::default(), self.dice.one_in(3));
        for key in self.repo.keys_with("/packs/").await {
            if let Ok(ZoneKey::Pack(pack, _)) = ZoneKey::parse(&zone(), &key)
                && (all || self.dice.one_in(2))
            {
                set.insert_pack(pack);
            }
        }
        set
    }

    async fn lists(&mut self, log: &Log, gc: SessionId, proposal: FrameSet, is_own: bool) -> GcLists {
        let snapshots: Vec<_> = log.committed().collect();
        let retention = log.retention();
        let all = self.dice.one_in(2);
        let gone = snapshots.iter().map(|snapshot| snapshot.session());
        let gone = gone.filter(|session| all || !retention.is_live(session)).collect();
        let forgotten = if self.dice.one_in(2) { Vec::new() } else { gone };
        let chosen = snapshots.get(self.dice.pick(snapshots.len())).copied();
        let moves = match (self.dice.below(3), chosen) {
            (0, Some(snapshot)) => [(0, snapshot.uses().unwrap())].into(),
            (1, Some(snapshot)) if is_own && self.may_copy => self.copy(snapshot.session(), gc).await,
            _ => BTreeMap::new(),
        };
        let dead = if self.dice.one_in(4) { FrameSet::default() } else { proposal };
        GcLists { dead, moves, forgotten, ..GcLists::default() }
    }

    /// Copies what a writer stored, as a collector would.
    async fn copy(&self, from: SessionId, gc: SessionId) -> BTreeMap<u32, FrameSet> {
        self.repo.copy_packs_as(&self.key, from, gc).await;
        self.repo.moves_of(gc).await
    }
}

fn proposal(entry: &LogEntry) -> Option<(SessionId, FrameSet)> {
    let record = entry.announced()?;
    let lists = GcLists::decode(record.public().ok()?, entry.session.number).ok()?;
    Some((entry.session, lists.dead))
}
