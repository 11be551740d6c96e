//! The repository, its disks and its clock; what happens next.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use sancerre_engine::ErrorKind;
use sancerre_engine::gc::{GcOptions, gc};
use sancerre_engine::index::{merge_index, rebuild_index};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_format::certificate::Role;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::log::Kind;
use sancerre_format::names::Name;
use sancerre_tests::dice::Dice;
use sancerre_tests::disk::{guest, noise};
use sancerre_tests::model::assert_same;
use sancerre_tests::repo::{TestRepo, name};

use super::actors::{self, Actor, Deed, Employee, Line};
use super::liar::Liar;
use super::staff::{Newer, Writer};
use super::truth::{Fate, Truth};

const VMS: [&str; 3] = ["web01", "db01", "files01"];
/// Longer than any session is taken to be alive.
const LONG_SECONDS: i64 = 400 * 86_400;

pub(super) struct World {
    pub(super) repo: Arc<TestRepo>,
    pub(super) admin: Repository,
    pub(super) keepers: [Repository; 2],
    pub(super) writers: Vec<Writer>,
    /// So many keys were made.
    pub(super) hired: u64,
    /// A keeper whose key was stolen.
    pub(super) liar: Option<(Name, Repository)>,
    pub(super) newer: Vec<Newer>,
    /// Whether a forget counts only when another keeper approves it.
    needs_approval: bool,
    /// Whether keepers' keys are stolen.
    is_hostile: bool,
    /// What a keeper asked to forget since another approved all that waits.
    asked: BTreeSet<SessionId>,
    pub(super) dice: Dice,
    pub(super) truth: Truth,
    disks: Vec<Vec<u8>>,
    /// What an attacker put into the store.
    pub(super) junk: Vec<String>,
    /// What a later version put there.
    pub(super) strange: Vec<String>,
    pub(super) trace: Vec<String>,
}

impl World {
    pub(super) async fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let disks = VMS.map(|_| guest(dice.below(5), 20_000 + dice.pick(1_400_000))).to_vec();
        let needs_approval = dice.one_in(4);
        let repo = Arc::new(TestRepo::needing(seed, needs_approval.into()).await);
        let second = repo.certify("keeper2", Role::Keeper).await;
        let host1 = Employee { name: name("host1"), ends: false };
        let mut world = Self {
            admin: repo.as_admin().await,
            keepers: [repo.as_keeper().await, repo.with_key_file(&second).await],
            writers: vec![Writer { employee: host1, repository: repo.as_writer().await }],
            hired: 0,
            liar: None,
            newer: Vec::new(),
            needs_approval,
            is_hostile: dice.one_in(2),
            asked: BTreeSet::new(),
            repo,
            dice,
            truth: Truth::default(),
            disks,
            junk: Vec::new(),
            strange: Vec::new(),
            trace: Vec::new(),
        };
        world.hire().await;
        world
    }

    pub(super) async fn step(&mut self) {
        if !self.newer.is_empty() && self.dice.one_in(2) {
            self.end_the_future().await;
        }
        match self.dice.below(25) {
            0..3 => self.edit(),
            3 => self.jump(),
            4 => self.quarantine().await,
            5 => self.lose_index().await,
            6 => self.mend_index().await,
            7 => self.attack().await,
            8 => self.lose_checkpoints().await,
            9 => self.taint().await,
            10 => self.annotate().await,
            11 => self.come_from_the_future().await,
            12 if self.liar.is_some() => self.judge().await,
            13 => self.suspect().await,
            _ => self.act_at_once().await,
        }
        self.note_objects().await;
    }

    fn edit(&mut self) {
        let vm = self.dice.pick(VMS.len());
        let (at, length) = (self.dice.pick(self.disks[vm].len()), self.dice.pick(200_000) + 1);
        let disk = &mut self.disks[vm];
        let end = (at + length).min(disk.len());
        match self.dice.below(5) {
            0 => disk[at..end].fill(0),
            1 => disk.truncate(at),
            2 => disk.extend(noise(self.dice.below(9), length)),
            3 => {
                let other = self.dice.pick(VMS.len());
                self.disks.swap(vm, other);
            }
            _ => disk[at..end].copy_from_slice(&noise(self.dice.below(9), end - at)),
        }
        self.trace.push(format!("edit {vm} at {at}"));
    }

    /// Hours forth, or back: a clock that was set.
    fn jump(&mut self) {
        let seconds = self.dice.below(200_000) as i64 - 80_000;
        self.repo.clock.advance(seconds);
        self.trace.push(format!("clock {seconds}"));
    }

    /// Somebody found some packs damaged, and says so; the packs stay, so that older snapshots restore.
    async fn quarantine(&mut self) {
        let mut set = FrameSet::default();
        let highest = Log::load(&self.repo.open).await.unwrap().highest();
        for _ in 0..3 {
            let session = self.dice.below(highest.max(1)) + 1;
            set.insert_pack(PackName { session, ordinal: self.dice.below(3) as u32 });
        }
        self.repo.append(Kind::Quarantine { reason: "test".into() }, &set.encode().unwrap()).await;
        self.trace.push("quarantine".into());
    }

    async fn lose_index(&mut self) {
        let mut keys = self.repo.keys_with("/index/").await;
        keys.retain(|_| self.dice.one_in(2));
        self.repo.lose(&keys).await;
        self.trace.push(format!("{} index segments lost", keys.len()));
    }

    async fn lose_checkpoints(&mut self) {
        let mut keys = self.repo.keys_with("/checkpoints/").await;
        keys.retain(|_| self.dice.one_in(2));
        self.repo.lose(&keys).await;
        self.trace.push(format!("{} checkpoints lost", keys.len()));
    }

    async fn mend_index(&mut self) {
        let monitor = Monitor::silent();
        let done = match self.dice.one_in(2) {
            true => rebuild_index(&self.repo.open, &monitor).await.map(|_| ()),
            false => {
                let mut log = Log::load(&self.keepers[0]).await.unwrap();
                merge_index(&self.keepers[0], &mut log, &monitor).await.map(|_| ())
            }
        };
        self.trace.push(format!("index mended: {:?}", done.map_err(|error| error.to_string())));
    }

    /// Up to four at once. What was asked to be forgotten counts as such from now on.
    async fn act_at_once(&mut self) {
        let first = self.dice.pick(VMS.len());
        let count = 1 + self.dice.pick(4);
        if self.is_hostile && self.liar.is_none() {
            self.liar = Some(self.key("liar", Role::Keeper, None).await);
        }
        let actors: Vec<Actor> = (0..count).map(|number| self.actor(first + number)).collect();
        let troubled: Vec<bool> = actors.iter().map(|actor| actor.is_troubled).collect();
        let deeds = join_all(actors.into_iter().map(|actor| actor.deed)).await;
        let is_rough =
            |deed: &Deed| matches!(deed, Deed::Collect { .. } | Deed::Revoke { .. } | Deed::Lie { .. });
        let is_calm = !self.is_opaque() && !troubled.contains(&true) && !deeds.iter().any(is_rough);
        self.find_silent(&deeds).await;
        let beside = Beside::of(&deeds);
        let has_collected = deeds.iter().any(|deed| matches!(deed, Deed::Collect { .. }));
        let saved: Vec<SessionId> = deeds.iter().filter_map(saved).collect();
        let mut deeds: Vec<(Deed, bool)> = deeds.into_iter().zip(troubled).collect();
        // Readers first: what was taken back meanwhile may not have been there for them.
        deeds.sort_by_key(|(deed, _)| !matches!(deed, Deed::Read { .. }));
        let mut revoked = Vec::new();
        for (deed, is_troubled) in deeds {
            if let Deed::Revoke { key, from, done } = &deed {
                revoked.push((key.clone(), done.is_ok(), *from));
            }
            self.learn(deed, is_troubled, is_calm, &beside);
        }
        for (key, told, asked) in revoked {
            self.note_void(&key, told, asked).await;
        }
        match has_collected {
            true => self.truth.check(&self.repo.open).await,
            // Nothing was deleted, so what was there before is as it was.
            false => self.truth.check_only(&self.repo.open, &saved).await,
        }
        self.truth.check_notes(&self.repo).await;
    }

    fn actor(&mut self, number: usize) -> Actor {
        let line = Line::new(&self.repo, &self.repo.open, &mut self.dice);
        let keeper = Line::new(&self.repo, &self.keepers[0], &mut self.dice);
        let any = [Fate::Kept, Fate::Held, Fate::AskedFor];
        let chosen = match self.dice.below(16) {
            11 if !self.asked.is_empty() && self.needs_approval => Some(self.approve()),
            0..4 => None,
            4 | 5 => {
                self.choose(&any).map(|snapshot| line.act(|repository| actors::read(repository, snapshot)))
            }
            6 | 7 => self.choose(&[Fate::Kept, Fate::AskedFor]).map(|snapshot| {
                // Alone it does not count where another keeper must approve it.
                if !self.needs_approval {
                    self.truth.set(&snapshot, Fate::AskedFor);
                }
                self.asked.insert(snapshot);
                keeper.act(|repository| actors::drop_one(repository, snapshot))
            }),
            8 | 9 => match self.choose(&[Fate::AskedFor]) {
                Some(snapshot) if self.dice.one_in(2) => {
                    Some(keeper.act(|repository| actors::take_back(repository, snapshot)))
                }
                Some(snapshot) => Some(keeper.act(|repository| actors::protect(repository, snapshot))),
                None => self.choose(&[Fate::Held]).map(|snapshot| {
                    self.truth.set(&snapshot, Fate::AskedFor);
                    keeper.act(|repository| actors::let_go(repository, snapshot))
                }),
            },
            10 if self.dice.one_in(2) => Some(self.dismiss()),
            11..14 if self.is_hostile => self.thief(),
            _ => {
                let wait_seconds = [0, 60, 3600][self.dice.pick(3)];
                let silent_seconds = [0, 3600, 86_400][self.dice.pick(3)];
                Some(keeper.act(|repository| actors::collect(repository, wait_seconds, silent_seconds)))
            }
        };
        chosen.unwrap_or_else(|| self.writer(number))
    }

    fn writer(&mut self, number: usize) -> Actor {
        let vm = number % VMS.len();
        let writer = &self.writers[self.dice.pick(self.writers.len())];
        let by = writer.employee.clone();
        let line = Line::new(&self.repo, &writer.repository, &mut self.dice);
        let (bytes, dense) = (Arc::new(self.disks[vm].clone()), self.dice.one_in(2));
        line.act(|repository| actors::save(repository, by, VMS[vm], bytes, dense))
    }

    /// Whatever was asked for by one keeper may be gone as soon as another begins to approve it.
    fn approve(&mut self) -> Actor {
        std::mem::take(&mut self.asked).iter().for_each(|snapshot| self.truth.set(snapshot, Fate::AskedFor));
        Line::new(&self.repo, &self.keepers[1], &mut self.dice).act(actors::approve_all)
    }

    fn thief(&mut self) -> Option<Actor> {
        let (_, key) = self.liar.as_ref()?;
        let may_copy = !self.junk.iter().any(|key| key.contains("/packs/"));
        let dice = Dice::new(self.dice.roll());
        let liar = Liar { repo: self.repo.clone(), key: key.clone(), dice, may_copy };
        Some(Actor { is_troubled: false, deed: liar.lie().boxed_local() })
    }

    pub(super) fn choose(&mut self, fates: &[Fate]) -> Option<SessionId> {
        let chosen = self.truth.with(fates);
        chosen.get(self.dice.pick(chosen.len())).copied()
    }

    /// Saved, although nobody was told: then it is whole. Two of one machine cannot be told apart, and are the same disk.
    async fn find_silent(&mut self, deeds: &[Deed]) {
        let log = Log::load(&self.repo.open).await.unwrap();
        let told: BTreeSet<SessionId> = deeds.iter().filter_map(saved).collect();
        for snapshot in log.snapshots() {
            let session = snapshot.session();
            if self.truth.snapshots.contains_key(&session) || told.contains(&session) {
                continue;
            }
            let fields = &snapshot.manifest.fields;
            let (vm, signer) = (fields.vm.to_string(), fields.by.name.clone());
            let untold = deeds.iter().find_map(|deed| match deed {
                Deed::Backup { by, vm: of, bytes, saved: Err(_) } if *of == vm && by.name == signer => {
                    Some(bytes.clone())
                }
                _ => None,
            });
            let bytes = untold.unwrap_or_else(|| panic!("{session} of {vm}: nobody saved it"));
            self.truth.add(session, signer, bytes);
            self.trace.push(format!("{vm} saved in silence as {}", session.number));
        }
    }

    fn learn(&mut self, deed: Deed, is_troubled: bool, is_calm: bool, beside: &Beside) {
        let line = match deed {
            Deed::Backup { by, vm, bytes, saved } => {
                let has_ended =
                    by.ends && matches!(&saved, Err(error) if error.kind() == ErrorKind::WrongKey);
                assert!(saved.is_ok() || has_ended || !is_calm, "{vm}: nothing was wrong, and {saved:?}");
                if let Ok(session) = &saved {
                    assert!(!self.is_opaque(), "{session} was saved above what nobody understands");
                    self.truth.add(*session, by.name.clone(), bytes);
                }
                let saved = saved.map(|session| session.number);
                format!("{vm} saved as {:?} by {}", saved.map_err(|error| error.kind()), by.name)
            }
            Deed::Read { snapshot, found } => {
                let known = &self.truth.snapshots[&snapshot];
                match &found {
                    Ok(found) => assert_same(found, &known.bytes, "a restore beside others"),
                    Err(error) => {
                        let may_be_void = beside.revoked.contains(&known.by);
                        let may_fail = is_troubled || may_be_void || known.fate == Fate::AskedFor;
                        assert!(may_fail, "{snapshot}: {error}");
                    }
                }
                format!("{} read: {:?}", snapshot.number, found.map(|_| ()).map_err(|error| error.kind()))
            }
            Deed::Undelete { snapshot, done } => {
                if done.is_ok() && !beside.forgotten.contains(&snapshot) {
                    self.truth.set(&snapshot, Fate::Kept);
                }
                format!("undelete of {}: {:?}", snapshot.number, done.map_err(|error| error.kind()))
            }
            Deed::Hold { snapshot, done } => {
                if done.is_ok() && !beside.released.contains(&snapshot) {
                    self.truth.set(&snapshot, Fate::Held);
                }
                format!("hold of {}: {:?}", snapshot.number, done.map_err(|error| error.kind()))
            }
            Deed::Forget { snapshot, done } => {
                format!("forget of {}: {:?}", snapshot.number, done.map_err(|error| error.kind()))
            }
            Deed::Release { snapshot, done } => {
                format!("release of {}: {:?}", snapshot.number, done.map_err(|error| error.kind()))
            }
            Deed::Approve { done } => format!("approval: {:?}", done.map_err(|error| error.kind())),
            Deed::Revoke { key, from, done } => {
                let done = done.map(|revoked| (revoked.number, revoked.ended.len()));
                format!("{key} is revoked from {from:?} on: {:?}", done.map_err(|error| error.kind()))
            }
            Deed::Lie { what } => what,
            Deed::Collect { done } => {
                assert!(done.is_err() || self.newer.is_empty(), "gc above what nobody understands");
                let done = done.map(|report| (report.committed, report.deleted_packs));
                format!("gc: {:?}", done.map_err(|error| error.kind()))
            }
        };
        self.trace.push(line);
    }

    /// Whether an entry of a later version stops writers.
    fn is_opaque(&self) -> bool {
        self.newer.iter().any(|newer| newer.is_entry)
    }

    async fn note_objects(&mut self) {
        let mut hasher = blake3::Hasher::new();
        let keys = self.repo.keys_with("zones/").await;
        for key in &keys {
            hasher.update(key.as_bytes()).update(blake3::hash(&self.repo.object(key).await).as_bytes());
        }
        self.trace.push(format!("{} objects, {}", keys.len(), hasher.finalize()));
    }

    /// Whatever happened: once what is no outcome is swept away, the next backup of every machine works, so does gc, and it
    /// leaves no garbage.
    pub(super) async fn settle(&mut self) {
        let outcomes: Vec<String> =
            self.junk.iter().filter(|key| key.contains("/outcome/")).cloned().collect();
        self.repo.lose(&outcomes).await;
        self.end_the_future().await;
        self.judge().await;
        self.give_up().await;
        self.repo.clock.advance(LONG_SECONDS);
        for (number, vm) in VMS.into_iter().enumerate() {
            let bytes = Arc::new(self.disks[number].clone());
            let (_, repository) = self.key("last", Role::Writer, None).await;
            let by = Employee { name: name(&format!("last{}", self.hired)), ends: false };
            let deed = actors::save(repository, by, vm, bytes, false).await;
            self.learn(deed, false, true, &Beside::default());
        }
        let options =
            GcOptions { dry_run: false, wait_seconds: 0, silent_seconds: 3600, ..crate::gc::OPTIONS };
        let monitor = Monitor::silent();
        // What a dead collector had announced is garbage only to the second.
        let mut is_lied_about = false;
        for _ in 0..2 {
            let report = gc(&self.keepers[0], &options, &monitor).await.unwrap();
            // What a thief sent to nowhere stays where it was.
            let is_explained = report.left.iter().all(|left| left.contains("liar"));
            assert!(is_explained && report.waits_for.is_empty(), "{report:?}");
            is_lied_about = !report.left.is_empty();
        }
        let dry = gc(&self.keepers[0], &GcOptions { dry_run: true, ..options }, &monitor).await.unwrap();
        let has_gone = dry.plan.garbage.packs == 0 && dry.plan.rewritten.packs == 0;
        let is_left = dry.plan.leftover.packs > 0 && !is_lied_about;
        assert!(has_gone && !is_left, "garbage is left: {:?}", dry.plan);
        self.truth.check(&self.repo.open).await;
        assert!(Log::load(&self.repo.open).await.unwrap().missing().next().is_none());
    }
}

/// A life that fails tells what happened in it.
impl Drop for World {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.trace.join("\n"));
        }
    }
}

fn saved(deed: &Deed) -> Option<SessionId> {
    match deed {
        Deed::Backup { saved: Ok(session), .. } => Some(*session),
        _ => None,
    }
}

/// What is asked for at the same time, and may land after what would undo it.
#[derive(Default)]
struct Beside {
    forgotten: BTreeSet<SessionId>,
    released: BTreeSet<SessionId>,
    /// Whose key is revoked.
    revoked: BTreeSet<Name>,
}

impl Beside {
    fn of(deeds: &[Deed]) -> Self {
        let mut beside = Self::default();
        for deed in deeds {
            match deed {
                Deed::Forget { snapshot, .. } => beside.forgotten.insert(*snapshot),
                Deed::Release { snapshot, .. } => beside.released.insert(*snapshot),
                Deed::Revoke { key, .. } => beside.revoked.insert(key.clone()),
                _ => continue,
            };
        }
        beside
    }
}
