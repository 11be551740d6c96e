//! Which packs go, which stay, and which are rewritten.

use sancerre_format::id::{FrameName, Hash};
use sancerre_format::names;

use super::*;
use crate::repository::catalogue::{Catalogue, Present};
use crate::restore::tests::support::{SparseDisk, TestRepo, noise};
use crate::store::Listed;

const OPTIONS: GcOptions = GcOptions {
    dry_run: false,
    wait_seconds: 0,
    silent_seconds: 0,
    max_repack_bytes: u64::MAX,
    max_unused_percent: 5,
    max_drop_percent: 50,
    checkpoint_after_entries: 1,
};

/// Packs of 100 bytes with so much garbage; the numbers of those that are chosen.
fn chosen(unused: &[u64], options: &GcOptions) -> Vec<u64> {
    let frames = FrameSet::default();
    let candidate = |(session, unused_bytes): (u64, &u64)| {
        let pack = PackName { session, ordinal: 0 };
        let weight = Weight { kept_bytes: 100 - unused_bytes, unused_bytes: *unused_bytes };
        Candidate { pack, frames: &frames, size_bytes: 100, weight }
    };
    let candidates: Vec<_> = (1..).zip(unused).map(candidate).collect();
    let live_bytes = 100 * u64::try_from(unused.len()).unwrap();
    let chosen = choose(candidates, live_bytes, unused.iter().sum(), options);
    chosen.iter().map(|one| one.pack.session).collect()
}

#[test]
fn the_emptiest_packs_come_first_until_little_garbage_is_left() {
    assert_eq!(chosen(&[30, 0, 90, 60], &OPTIONS), [3, 4, 1]);
    // Ten per cent of what is left is enough: 21 of 300 less 79.
    let some = GcOptions { max_unused_percent: 10, ..OPTIONS };
    assert_eq!(chosen(&[21, 0, 79], &some), [3]);
    assert_eq!(chosen(&[40, 0, 0, 0, 0, 0, 0, 0], &OPTIONS), [0u64; 0], "five per cent is left alone");
    assert_eq!(chosen(&[41, 0, 0, 0, 0, 0, 0, 0], &OPTIONS), [1]);
}

/// A large pack with more garbage in bytes and less for its size comes later.
#[test]
fn garbage_is_weighed_by_the_size_of_its_pack() {
    let frames = FrameSet::default();
    let candidate = |session, size_bytes, unused_bytes| Candidate {
        pack: PackName { session, ordinal: 0 },
        frames: &frames,
        size_bytes,
        weight: Weight { kept_bytes: size_bytes - unused_bytes, unused_bytes },
    };
    let candidates = vec![candidate(1, 1000, 300), candidate(2, 100, 90), candidate(3, 10, 5)];
    let chosen = choose(candidates, 1110, 395, &OPTIONS);
    assert_eq!(chosen.iter().map(|one| one.pack.session).collect::<Vec<_>>(), [2, 3, 1]);
}

#[test]
fn what_is_rewritten_is_counted_and_given_back() {
    let pack = |session| PackName { session, ordinal: 0 };
    let kept = |bytes, unused_bytes| Survivors { bytes, unused_bytes, ..Survivors::default() };
    let found = |bytes| [(Hash([0; 32]), bytes)];
    let mut plan = Plan { unused_bytes: 100, ..Plan::default() };
    plan.dead.insert_pack(pack(9));
    plan.rewrite(pack(1), kept(10, 30), &found(50));
    plan.rewrite(pack(2), kept(20, 40), &found(70));
    assert_eq!((plan.rewritten, plan.moved_bytes), (Tally { packs: 2, bytes: 120 }, 30));
    assert_eq!(plan.unused_bytes, 30, "what is left behind is not garbage that stays");
    let proposed: Vec<u64> = plan.proposed().packs().map(|pack| pack.session).collect();
    assert_eq!(proposed, [1, 2, 9]);
    assert_eq!(plan.take_moves().into_keys().collect::<Vec<_>>(), [pack(1), pack(2)]);
    assert_eq!((plan.rewritten, plan.moved_bytes, plan.unused_bytes), (Tally::default(), 0, 100));
    assert!(plan.moves.is_empty());
}

#[test]
fn a_plan_is_empty_when_nothing_at_all_goes() {
    let one = Tally { packs: 1, bytes: 0 };
    assert!(Plan { live: one, pinned: one, healing: one, locked: one, ..Plan::default() }.is_empty());
    assert!(!Plan { garbage: one, ..Plan::default() }.is_empty());
    assert!(!Plan { leftover: one, ..Plan::default() }.is_empty());
    assert!(!Plan { rewritten: one, ..Plan::default() }.is_empty());
}

#[test]
fn what_is_not_worth_it_stays() {
    assert_eq!(chosen(&[19, 20, 19], &OPTIONS), [2]);
    assert_eq!(chosen(&[19, 19], &GcOptions { max_unused_percent: 0, ..OPTIONS }), [0u64; 0]);
}

#[test]
fn the_budget_is_what_is_kept() {
    let budget = |max_repack_bytes| GcOptions { max_repack_bytes, ..OPTIONS };
    assert_eq!(chosen(&[90, 50, 50], &budget(60)), [1, 2], "10 and 50 bytes");
    assert_eq!(chosen(&[90, 50, 50], &budget(59)), [1]);
    assert_eq!(chosen(&[90, 50], &budget(0)), [0u64; 0]);
}

/// A repository with two snapshots, and a pack of a session that nobody knows.
struct Given {
    repo: TestRepo,
    log: Log,
    packs: Packs,
}

const STRANGE: PackName = PackName { session: 99, ordinal: 0 };

async fn given() -> Given {
    let repo = TestRepo::new().await;
    for seed in [1, 2] {
        repo.back_up(SparseDisk::of(&noise(seed, 3 << 20))).await;
    }
    Given::read(repo).await
}

/// What snapshots need is none of it, if the fields do not say otherwise.
#[derive(Default)]
struct Needs {
    lying: BTreeMap<PackName, FrameSet>,
    weights: BTreeMap<PackName, Weight>,
    copies: BTreeSet<PackName>,
    healers: BTreeSet<PackName>,
}

impl Given {
    async fn read(repo: TestRepo) -> Self {
        let repository = &repo.repository;
        let log = Log::load(repository).await.unwrap();
        let (catalogue, _) = Catalogue::load_all(repository, &log).await.unwrap();
        let mut listed = repository.list(names::Folder::Packs).await.unwrap();
        let key = names::pack(&repository.keys.zone, STRANGE, &Hash([7; 32]));
        listed.push(Listed { key, ..listed[0].clone() });
        let present = Present::of(repository, &listed);
        Self { repo, log, packs: Packs { catalogue, present } }
    }

    fn plan(&self, needs: &Needs, generation: Option<u16>) -> Plan {
        let Needs { lying, weights, copies, healers } = needs;
        let (log, packs) = (&self.log, &self.packs);
        let input = PlanInput { log, packs, lying, weights, copies, healers, generation };
        plan(&input, &GcOptions { max_unused_percent: 0, ..OPTIONS })
    }

    /// Any pack of the first snapshot's.
    fn one(&self) -> PackName {
        self.packs.present.names().find(|pack| pack.session != STRANGE.session).unwrap()
    }
}

#[tokio::test]
async fn what_nothing_needs_goes_unless_it_may_hold_what_something_lost() {
    let given = given().await;
    let (one, all) = (given.one(), given.packs.present.names().count());
    assert!(all > 3);
    let dead = |plan: &Plan| plan.dead.packs().count();
    let plain = given.plan(&Needs::default(), None);
    assert_eq!((dead(&plain), plain.garbage.packs, plain.pinned.packs), (all - 1, all as u64 - 1, 1));
    assert!(!plain.dead.contains_pack(&STRANGE), "its session may still become a snapshot");
    let copies = given.plan(&Needs { copies: BTreeSet::from([one]), ..Needs::default() }, None);
    assert_eq!((dead(&copies), copies.pinned.packs), (all - 2, 2));
    let healers = BTreeSet::from([one]);
    let healing = given.plan(&Needs { healers: healers.clone(), ..Needs::default() }, None);
    assert_eq!((dead(&healing), healing.healing.packs), (all - 2, 1));
    assert_eq!(healing.healers, healers, "the gate before the commit asks for them");
    assert!(!healing.dead.contains_pack(&one) && !copies.dead.contains_pack(&one));
}

/// One whose backup is under way, or was killed: it may still end, and reuses what it wrote.
#[tokio::test]
async fn what_an_open_session_wrote_stays() {
    let given = given().await;
    let last = given.log.entries().last().unwrap().session;
    given.repo.delete(&names::outcome(&given.repo.repository.keys.zone, &last)).await;
    let given = Given::read(given.repo).await;
    let of_last = given.packs.present.names().filter(|pack| pack.session == last.number).count();
    let plan = given.plan(&Needs::default(), None);
    assert!(of_last > 1 && plan.dead.packs().all(|pack| pack.session != last.number));
    assert_eq!(plan.pinned.packs, of_last as u64 + 1, "with the strange one");
}

#[tokio::test]
async fn only_what_is_whole_and_can_be_opened_is_rewritten() {
    let given = given().await;
    let (one, generation) = (given.one(), given.repo.repository.keys.generation());
    assert!(generation.is_some());
    let mut frames = FrameSet::default();
    frames.insert(FrameName { pack: one, index: 0 });
    let weight = Weight { kept_bytes: 1, unused_bytes: 1 << 20 };
    let needs = Needs {
        lying: BTreeMap::from([(one, frames)]),
        weights: BTreeMap::from([(one, weight)]),
        ..Needs::default()
    };
    let rewritten = |plan: Plan| (plan.rewritten.packs, plan.live.packs, plan.dead.contains_pack(&one));
    assert_eq!(rewritten(given.plan(&needs, generation)), (1, 1, false));
    assert_eq!(rewritten(given.plan(&needs, None)), (0, 1, false), "nobody has the key of its table");
    let other = generation.map(|made| made + 1);
    assert_eq!(rewritten(given.plan(&needs, other)), (0, 1, false));
    let healers = BTreeSet::from([one]);
    let needs = Needs { healers, ..needs };
    assert_eq!(rewritten(given.plan(&needs, generation)), (0, 1, false), "its copies are needed as they lie");
}

#[test]
fn a_pack_without_garbage_is_not_worth_it_whatever_its_size() {
    let frames = FrameSet::default();
    let candidate = |size_bytes, unused_bytes| Candidate {
        pack: STRANGE,
        frames: &frames,
        size_bytes,
        weight: Weight { kept_bytes: 0, unused_bytes },
    };
    assert!(!candidate(0, 0).is_worth_it() && !candidate(100, 0).is_worth_it());
    assert!(candidate(100, 20).is_worth_it());
}
