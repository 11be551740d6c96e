//! What commits may not say (FORMAT.md §8.3). One is believed only as far as the log below it allows: it gives up no
//! snapshot that no record forgot, burns no pack of which it does not move a frame that a snapshot needs which is not gone
//! with it, forgotten or not, and moves nothing but from packs that it burns.
//!
//! Who pays for that: what is given up follows from the entries alone, so every reader knows it
//! ([`Retention`]). The other two need the frame sets of all snapshots that were there at the commit's
//! number. A collector and `check` always judge. A restore judges when a frame is not where a commit says
//! it is. A backup need not: to avoid what a wrong commit calls dead costs space alone, and frames that it
//! sends astray are found by nobody, so they are stored anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sancerre_format::frames::{FrameSet, Members, Ranges};
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FrameName, PackName, SessionId};
use sancerre_format::names::Name;
use sancerre_format::outcome::Commit;
use sancerre_format::record::Record;

use super::moves::Moves;
use super::{Log, LogEntry, Outcome, Retention};

/// Why a commit burns nothing and moves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It burns a pack that a snapshot needs.
    Burns {
        /// The pack.
        pack: PackName,
        /// The snapshot.
        snapshot: SessionId,
    },
    /// It moves a frame out of a pack that it does not burn.
    Moves(FrameName),
}

/// A commit that says what no collector says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The collector's session.
    pub gc: SessionId,
    /// Who signed.
    pub by: Name,
    /// What it says, as a sentence that names the signer.
    pub problem: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Burns { pack, snapshot } => write!(
                f,
                "it gives up pack {}/{}, of which snapshot {} needs a frame that it does not move",
                pack.session, pack.ordinal, snapshot
            ),
            Self::Moves(frame) => write!(f, "it moves frame {frame} out of a pack that it does not give up"),
        }
    }
}

/// What is known of commits so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdicts {
    judged: BTreeSet<u64>,
    flaws: BTreeMap<u64, Flaw>,
}

impl Log {
    /// Every commit that verifies and was not abandoned, also those that are wrong.
    pub fn commits(&self) -> impl Iterator<Item = (SessionId, &Record<Commit>, &GcLists)> {
        let abandoned = self.abandoned();
        let commits = self.entries().filter_map(|entry| Some((entry.session, entry.commit()?)));
        commits
            .filter(move |(session, _)| !abandoned.contains_key(session))
            .map(|(session, (commit, lists))| (session, commit, lists))
    }

    /// What is wrong with commits, as far as it was judged, by number.
    pub fn flaws(&self) -> &BTreeMap<u64, Flaw> {
        &self.verdicts.flaws
    }

    /// What commits say that is not believed, as far as it was judged.
    pub fn complaints(&self) -> Vec<Complaint> {
        let retention = self.retention();
        let complaint = |(gc, commit, _): (SessionId, &Record<Commit>, &GcLists)| {
            let wrongly = retention.wrongly().get(&gc.number).map(|snapshot| {
                format!("it gives up snapshot {snapshot}, which no log entry below it forgets, or one holds")
            });
            let problem = self.flaws().get(&gc.number).map(Flaw::to_string).or(wrongly)?;
            let problem = format!("{problem}: {} signed that", commit.signer);
            Some(Complaint { gc, by: commit.fields.by.name.clone(), problem })
        };
        self.commits().filter_map(complaint).collect()
    }

    /// Judges the commits that were read since the last time.
    ///
    /// Whether a commit is wrong depends on what lies below it alone. So all are taken for right, the lowest that is not
    /// is found, and the others are looked at again without it. One frame set is in memory at a time. A manifest without
    /// one is nobody's witness: whoever needs to know what it needs stops there.
    pub fn judge(&mut self) {
        let waiting = self.waiting();
        let commits = self.commits().map(|(session, ..)| session.number);
        let commits: BTreeSet<u64> = commits.filter(|number| !waiting.contains_key(number)).collect();
        if commits == self.verdicts.judged {
            return;
        }
        self.verdicts = Verdicts { judged: commits, flaws: BTreeMap::new() };
        let retention = self.retention();
        while let Some((number, flaw)) = self.lowest_flaw(&retention) {
            self.verdicts.flaws.insert(number, flaw);
        }
    }

    fn lowest_flaw(&self, retention: &Retention) -> Option<(u64, Flaw)> {
        let court = Court::new(self);
        let mut lowest = court.astray(self);
        for entry in self.entries() {
            // By the revocations below each commit: what was made void later was a snapshot then.
            let Some(snapshot) = entry.snapshot_below(0) else { continue };
            let (session, gone) = (snapshot.session(), retention.collected_by(&entry.session));
            let certain_from = if entry.lost.is_some() { self.certain_from(&session) } else { Some(0) };
            let counts = |gc: u64| {
                gc > session.number
                    && certain_from.is_some_and(|from| gc >= from)
                    && !entry.is_void_below(gc)
                    && gone.is_none_or(|gone| gone > gc)
            };
            // A set that does not decode convicts nobody here; the gate of gc stops at it before anything is deleted.
            for (named, members) in snapshot.uses().unwrap_or_default().iter() {
                let found = court.burnt_too_early(named, &members, &counts);
                if let Some((gc, pack)) = found.filter(|(gc, _)| lowest.is_none_or(|(low, _)| *gc < low)) {
                    lowest = Some((gc, Flaw::Burns { pack, snapshot: session }));
                }
            }
        }
        lowest
    }
}

impl LogEntry {
    /// The commit this entry became.
    pub fn commit(&self) -> Option<(&Record<Commit>, &GcLists)> {
        match (&self.entry, &self.outcome) {
            (Ok(_), Outcome::Commit(commit, lists)) => Some((commit.as_ref(), lists.as_ref())),
            _ => None,
        }
    }
}

/// Where frames went and which packs went, by the commits that are taken for right.
struct Court {
    moves: Moves,
    /// The commits that burn each pack, ascending.
    deaths: BTreeMap<PackName, Vec<u64>>,
}

impl Court {
    fn new(log: &Log) -> Self {
        let mut deaths = BTreeMap::<PackName, Vec<u64>>::new();
        for (number, lists) in log.sound_commits() {
            lists.dead.packs().for_each(|pack| deaths.entry(pack).or_default().push(number));
        }
        Self { moves: Moves::below(log, Log::END), deaths }
    }

    fn deaths(&self, pack: &PackName) -> &[u64] {
        self.deaths.get(pack).map_or(&[], Vec::as_slice)
    }

    /// The first commit that counts and burns a pack in which one of these frames lies and stays.
    fn burnt_too_early(
        &self,
        named: PackName,
        members: &Members,
        counts: &dyn Fn(u64) -> bool,
    ) -> Option<(u64, PackName)> {
        let stops = self.moves.stops(&named);
        let places = std::iter::once(named).chain(stops.iter().map(|(to, _)| *to));
        let mut first: Option<(u64, PackName)> = None;
        for (place, pack) in places.enumerate() {
            let came = place.checked_sub(1).and_then(|at| stops.get(at));
            let deaths = self.deaths(&pack).iter().copied();
            let burnt = deaths.filter(|gc| counts(*gc) && came.is_none_or(|(to, _)| to.session <= *gc));
            let lost = burnt.filter(|gc| first.is_none_or(|(low, _)| *gc < low)).find(|gc| {
                let onwards = stops.iter().skip(place).take_while(|(to, _)| to.session <= *gc);
                stays(members, came.map(|(_, here)| here), &onwards.map(|(_, gone)| gone).collect::<Vec<_>>())
            });
            first = lost.map(|gc| (gc, pack)).or(first);
        }
        first
    }

    /// The lowest commit that moves a frame out of a pack that it does not burn.
    fn astray(&self, log: &Log) -> Option<(u64, Flaw)> {
        let mut before = Moves::default();
        for (number, lists) in log.sound_commits() {
            let frames = lists.moves.values().flat_map(FrameSet::frames);
            let mut astray = frames.filter(|frame| !lists.dead.contains_pack(&before.pack(frame)));
            if let Some(frame) = astray.next() {
                return Some((number, Flaw::Moves(frame)));
            }
            before.follow(number, lists);
        }
        None
    }
}

/// Whether one of these frames came to a place and did not go on. Those of a whole pack nobody can follow.
fn stays(members: &Members, came: Option<&Ranges>, gone: &[&Ranges]) -> bool {
    match members {
        Members::Whole => came.is_none(),
        Members::Frames(ranges) => ranges.iter().any(|index| {
            came.is_none_or(|here| here.contains(index)) && !gone.iter().any(|gone| gone.contains(index))
        }),
    }
}
