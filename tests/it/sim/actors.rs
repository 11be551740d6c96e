//! Who acts at the same time: each in a process of its own, over a line of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use sancerre_engine::Result;
use sancerre_engine::forget::{Approved, ForgetOptions, Selection, approve, hold, release, undelete};
use sancerre_engine::gc::{GcOptions, GcReport, gc};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::revoke::{Revoked, revoke};
use sancerre_engine::store::Store;
use sancerre_format::certificate::Role;
use sancerre_format::id::SessionId;
use sancerre_format::names::Name;
use sancerre_tests::dice::Dice;
use sancerre_tests::disk::MemoryDisk;
use sancerre_tests::faults::FaultStore;
use sancerre_tests::repo::{TestRepo, back_up, dump_bytes};
use sancerre_tests::slow::SlowStore;
use sancerre_tests::store::{Cut, TestStore};

use super::FOR_EVER;
use crate::forget::decide;

/// What somebody did, and what came of it.
#[allow(clippy::large_enum_variant)] // a few of them live at a time
pub(super) enum Deed {
    Backup {
        by: Employee,
        vm: &'static str,
        bytes: Arc<Vec<u8>>,
        saved: Result<SessionId>,
    },
    Forget {
        snapshot: SessionId,
        done: Result<u64>,
    },
    Undelete {
        snapshot: SessionId,
        done: Result<u64>,
    },
    Hold {
        snapshot: SessionId,
        done: Result<u64>,
    },
    Release {
        snapshot: SessionId,
        done: Result<u64>,
    },
    Approve {
        done: Result<Approved>,
    },
    /// A key was revoked from its own number on, or from an earlier one.
    Revoke {
        key: Name,
        from: Option<u64>,
        done: Result<Revoked>,
    },
    /// A keeper signed what is not so.
    Lie {
        what: String,
    },
    Collect {
        done: Result<GcReport>,
    },
    Read {
        snapshot: SessionId,
        found: Result<Vec<u8>>,
    },
}

/// A deed under way, and whether its line or its process may fail.
pub(super) struct Actor {
    pub(super) is_troubled: bool,
    pub(super) deed: LocalBoxFuture<'static, Deed>,
}

/// A repository as one process sees it.
pub(super) struct Line {
    pub(super) repository: Repository,
    pub(super) is_troubled: bool,
}

impl Line {
    /// Calls take their time; one line in four fails now and then, and one process in five dies at some call.
    pub(super) fn new(repo: &TestRepo, keys: &Repository, dice: &mut Dice) -> Self {
        let slow = SlowStore::new(repo.memory.clone(), dice.roll());
        let (fails, dies) = (dice.one_in(4), dice.one_in(5));
        let chances = if fails { 3 + dice.below(10) } else { u64::MAX };
        let faulty = FaultStore::new(slow, dice.roll(), chances, false);
        let mortal = TestStore::new(faulty);
        if dies {
            let cut = if dice.one_in(2) { Cut::Before } else { Cut::After };
            mortal.crash_at(dice.below(40), cut);
        }
        let repository = Repository { store: Store::new(mortal, "memory"), ..keys.clone() };
        Self { repository, is_troubled: fails || dies }
    }

    pub(super) fn act<F>(self, deed: impl FnOnce(Repository) -> F) -> Actor
    where
        F: Future<Output = Deed> + 'static,
    {
        let deed = tokio::time::timeout(FOR_EVER, deed(self.repository));
        let what = std::any::type_name::<F>();
        let deed = deed.map(move |done| done.unwrap_or_else(|_| panic!("{what} never ends")));
        Actor { is_troubled: self.is_troubled, deed: deed.boxed_local() }
    }
}

/// A writer's name, and whether its certificate ends some day.
#[derive(Clone)]
pub(super) struct Employee {
    pub(super) name: Name,
    pub(super) ends: bool,
}

pub(super) async fn save(
    repository: Repository,
    by: Employee,
    vm: &'static str,
    bytes: Arc<Vec<u8>>,
    dense: bool,
) -> Deed {
    let disk = if dense { MemoryDisk::dense(bytes.to_vec()) } else { MemoryDisk::new(bytes.to_vec()) };
    let saved = back_up(&repository, vm, disk).await.map(|report| report.snapshot.unwrap());
    Deed::Backup { by, vm, bytes, saved }
}

pub(super) async fn drop_one(repository: Repository, snapshot: SessionId) -> Deed {
    let selection = Selection::Named { snapshots: BTreeSet::from([snapshot]), even_last: true };
    let options = ForgetOptions { selection, reason: "test".into(), max_drop_percent: 100, dry_run: false };
    let done = decide(&repository, &options).await.map(|report| report.entry.unwrap());
    Deed::Forget { snapshot, done }
}

pub(super) async fn take_back(repository: Repository, snapshot: SessionId) -> Deed {
    let done = undelete(&repository, &BTreeSet::from([snapshot]), "test").await;
    Deed::Undelete { snapshot, done }
}

pub(super) async fn protect(repository: Repository, snapshot: SessionId) -> Deed {
    Deed::Hold { snapshot, done: hold(&repository, &BTreeSet::from([snapshot]), "test").await }
}

pub(super) async fn let_go(repository: Repository, snapshot: SessionId) -> Deed {
    Deed::Release {
        snapshot,
        done: release(&repository, &BTreeSet::from([snapshot]), "test").await.map(|released| released.entry),
    }
}

/// Approves whatever waits for this keeper.
pub(super) async fn approve_all(repository: Repository) -> Deed {
    let done = async {
        let pending = Log::load(&repository).await?.pending();
        let waiting = pending.iter().filter(|one| one.by != repository_name(&repository));
        approve(&repository, &waiting.map(|one| one.session.number).collect(), "test").await
    };
    Deed::Approve { done: done.await }
}

fn repository_name(repository: &Repository) -> Name {
    repository.signer(&[Role::Keeper]).unwrap().by.name.clone()
}

pub(super) async fn revoke_key(repository: Repository, key: Name, from: Option<u64>) -> Deed {
    let done = async {
        let mut log = Log::load(&repository).await?;
        revoke(&repository, &mut log, &key, from, "test").await
    };
    let done = done.await;
    Deed::Revoke { key, from, done }
}

pub(super) async fn collect(repository: Repository, wait_seconds: u64, silent_seconds: u64) -> Deed {
    let options = GcOptions { dry_run: false, wait_seconds, silent_seconds, ..crate::gc::OPTIONS };
    Deed::Collect { done: gc(&repository, &options, &Monitor::silent()).await }
}

pub(super) async fn read(repository: Repository, snapshot: SessionId) -> Deed {
    Deed::Read { snapshot, found: dump_bytes(&repository, snapshot, "disk0").await }
}
