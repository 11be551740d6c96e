//! Where frames lie after collectors moved them. A frame keeps the name of its first place; a committed gc may have
//! moved it on from there, and later ones from there again.

use std::collections::{BTreeMap, BTreeSet};

use sancerre_format::frames::{FrameSet, Members, Ranges};
use sancerre_format::gc::GcLists;
use sancerre_format::id::{FrameName, PackName};
use sancerre_format::log::Kind;

use super::Log;
use super::lost::GENERATION_UNKNOWN;

/// The moves of committed collectors.
#[derive(Debug, Clone, Default)]
pub struct Moves {
    /// By the pack of their names: where frames went, in the order of the commits. The last word on a frame counts,
    /// for a commit moves what the ones before it left there.
    moved: BTreeMap<PackName, Vec<(PackName, Ranges)>>,
    /// The packs to which something was moved.
    targets: BTreeSet<PackName>,
}

impl Moves {
    /// The moves of collectors below `number`.
    pub fn below(log: &Log, number: u64) -> Self {
        let mut moves = log.basis.as_ref().map(|basis| basis.moves.clone()).unwrap_or_default();
        for (gc, lists) in log.sound_commits().take_while(|(gc, _)| *gc < number) {
            moves.follow(gc, lists);
        }
        moves
    }

    /// The moves of all collectors but one: as if it had ended with nothing.
    pub fn without(log: &Log, gc: u64) -> Self {
        let mut moves = log.basis.as_ref().map(|basis| basis.moves.clone()).unwrap_or_default();
        let others = log.sound_commits().filter(|(other, _)| *other != gc);
        others.for_each(|(other, lists)| moves.follow(other, lists));
        moves
    }

    /// The same of all commits that are not known to be wrong, also those that have no effect yet: where to look.
    pub fn claimed(log: &Log) -> Self {
        Self::of(log.claimed_commits().chain(doubted(log)))
    }

    /// The same of all commits, believed or not.
    pub fn ever(log: &Log) -> Self {
        Self::of(log.commits().map(|(gc, _, lists)| (gc.number, lists)).chain(doubted(log)))
    }

    fn of<'a>(commits: impl Iterator<Item = (u64, &'a GcLists)>) -> Self {
        let (mut moves, commits) = (Self::default(), commits.collect::<BTreeMap<_, _>>());
        commits.into_iter().for_each(|(gc, lists)| moves.follow(gc, lists));
        moves
    }

    /// The packs to which a frame was ever moved, the last first.
    pub(crate) fn places_of(&self, frame: &FrameName) -> Vec<PackName> {
        let moved = self.stops(&frame.pack).iter().rev().filter(|(_, frames)| frames.contains(frame.index));
        moved.map(|(to, _)| *to).collect()
    }

    /// Adds the moves of the next commit.
    pub fn follow(&mut self, gc: u64, lists: &GcLists) {
        for (ordinal, frames) in &lists.moves {
            self.add(PackName { session: gc, ordinal: *ordinal }, frames);
        }
    }

    /// Where frames that are named after a pack went, in the order of the commits.
    pub fn stops(&self, named: &PackName) -> &[(PackName, Ranges)] {
        self.moved.get(named).map_or(&[], Vec::as_slice)
    }

    /// Where all frames lie that were moved to one of these packs and not on from there.
    pub(super) fn settled(&self, kept: &FrameSet) -> BTreeMap<PackName, FrameSet> {
        let mut settled = BTreeMap::<PackName, FrameSet>::new();
        for (named, stops) in &self.moved {
            let mut all = Ranges::default();
            stops.iter().for_each(|(_, ranges)| all.union(ranges));
            let places = self.places(*named, Members::Frames(&all));
            for (at, lying) in places.into_iter().filter(|(at, _)| kept.contains_pack(at)) {
                settled.entry(at).or_default().insert_members(*named, lying.as_members());
            }
        }
        settled
    }

    /// Whether something was moved from or to a pack.
    pub(super) fn passes(&self, pack: &PackName) -> bool {
        self.moved.contains_key(pack) || self.targets.contains(pack)
    }

    pub(super) fn add(&mut self, to: PackName, frames: &FrameSet) {
        self.targets.insert(to);
        for (from, members) in frames.iter() {
            if let Members::Frames(ranges) = members {
                self.moved.entry(from).or_default().push((to, ranges.clone()));
            }
        }
    }

    /// The pack in which a frame lies.
    pub fn pack(&self, frame: &FrameName) -> PackName {
        let moved = self.moved.get(&frame.pack).map_or(&[][..], Vec::as_slice);
        let last = moved.iter().rev().find(|(_, frames)| frames.contains(frame.index));
        last.map_or(frame.pack, |(to, _)| *to)
    }

    /// Frames by the pack in which they lie.
    pub fn by_pack(&self, frames: &FrameSet) -> BTreeMap<PackName, FrameSet> {
        let mut lying = BTreeMap::<PackName, FrameSet>::new();
        for (pack, members) in frames.iter() {
            for (at, members) in self.places(pack, members) {
                lying.entry(at).or_default().insert_members(pack, members.as_members());
            }
        }
        lying
    }

    /// Where frames of one pack lie, and which of them. Of a whole pack also whatever was ever moved out of it.
    fn places(&self, pack: PackName, members: Members<'_>) -> Vec<(PackName, Lying)> {
        let moved = self.moved.get(&pack).map_or(&[][..], Vec::as_slice);
        let (mut places, mut left) = match members {
            Members::Frames(ranges) => (Vec::new(), ranges.clone()),
            Members::Whole => {
                let mut all = Ranges::default();
                moved.iter().for_each(|(_, ranges)| all.union(ranges));
                (vec![(pack, Lying::Whole)], all)
            }
        };
        // The last word on a frame counts.
        for (to, ranges) in moved.iter().rev() {
            let here = left.common(ranges);
            if !here.is_empty() {
                left = left.without(&here);
                places.push((*to, Lying::Frames(here)));
            }
        }
        if !left.is_empty() {
            places.push((pack, Lying::Frames(left)));
        }
        places
    }

    /// The packs in which frames of the set lie.
    pub fn packs(&self, frames: &FrameSet) -> BTreeSet<PackName> {
        let places = frames.iter().flat_map(|(pack, members)| self.places(pack, members));
        places.map(|(pack, _)| pack).collect()
    }

    /// The single frames of `set` that lie in `pack`.
    pub fn lying_in(&self, set: &FrameSet, pack: PackName) -> FrameSet {
        let mut lying = FrameSet::default();
        for (named, ranges) in set.single() {
            let places = self.places(named, Members::Frames(ranges)).into_iter();
            for (_, members) in places.filter(|(at, _)| *at == pack) {
                lying.insert_members(named, members.as_members());
            }
        }
        lying
    }
}

fn doubted(log: &Log) -> impl Iterator<Item = (u64, &GcLists)> {
    log.hinted().map(|(session, lists)| (session.number, lists))
}

/// What lies in one place of the frames of one pack.
enum Lying {
    Whole,
    Frames(Ranges),
}

impl Lying {
    fn as_members(&self) -> Members<'_> {
        match self {
            Self::Whole => Members::Whole,
            Self::Frames(ranges) => Members::Frames(ranges),
        }
    }
}

/// Packs, and single frames wherever they lie: what was found unusable.
#[derive(Debug, Clone, Default)]
pub struct PackAndFrameSet {
    /// Whole packs only. A set by itself: a marked pack is what lies in it, a marked frame is one wherever it lies.
    packs: FrameSet,
    /// Single frames only.
    frames: FrameSet,
}

impl PackAndFrameSet {
    /// Adds a pack: everything that lies in it.
    pub fn add_pack(&mut self, pack: PackName) {
        self.packs.insert_pack(pack);
    }

    /// Adds a frame by its name.
    pub fn add(&mut self, frame: FrameName) {
        self.frames.insert(frame);
    }

    /// Adds whole packs and single frames.
    pub fn extend(&mut self, set: &FrameSet) {
        self.packs.union(&set.whole_packs());
        set.single().for_each(|(pack, ranges)| self.frames.insert_members(pack, Members::Frames(ranges)));
    }

    /// Whether a frame that lies in `pack` is marked, alone or with the pack.
    pub fn contains(&self, frame: &FrameName, pack: &PackName) -> bool {
        self.packs.contains_pack(pack) || self.frames.contains(frame)
    }

    /// Whether a pack is marked as a whole.
    pub fn has_pack(&self, pack: &PackName) -> bool {
        self.packs.contains_pack(pack)
    }

    /// The frames marked one by one.
    pub fn frames(&self) -> &FrameSet {
        &self.frames
    }

    /// Packs that are marked, or of which a frame is, as whole packs of a set.
    pub fn touched(&self, moves: &Moves) -> FrameSet {
        let mut packs = self.packs.clone();
        moves.packs(&self.frames).into_iter().for_each(|pack| packs.insert_pack(pack));
        packs
    }

    /// The same as a set to be published.
    pub fn to_set(&self) -> FrameSet {
        let mut set = self.frames.clone();
        set.union(&self.packs);
        set
    }
}

impl Log {
    /// The gcs that say where frames lie.
    pub fn collectors(&self) -> impl Iterator<Item = u64> + '_ {
        self.claimed_commits().map(|(gc, _)| gc)
    }

    /// Every whole pack that a commit below `number` burnt.
    pub fn burnt(&self, number: u64) -> FrameSet {
        let mut burnt = FrameSet::default();
        let commits = self.sound_commits().take_while(|(gc, _)| *gc < number);
        commits.for_each(|(_, lists)| burnt.union(&lists.dead));
        burnt
    }

    /// Generation of the zone's keys with which a session seals; none for entries that seal nothing.
    pub fn generation(&self, session: u64) -> Option<u16> {
        let generation = match &self.entry(session)?.announced()?.fields.kind {
            Kind::Backup(intent) => intent.generation,
            Kind::Gc { generation } => *generation,
            _ => return None,
        };
        (generation != GENERATION_UNKNOWN).then_some(generation)
    }

    /// What is quarantined below `number`.
    pub fn quarantined(&self, number: u64) -> PackAndFrameSet {
        let mut marks = PackAndFrameSet::default();
        for (_, entry) in self.entries.range(..number) {
            let Ok(record) = &entry.entry else { continue };
            if matches!(record.fields.kind, Kind::Quarantine { .. }) {
                // A set that does not decode was not made by this program. It names nothing, and must not stop the
                // others: any writer may sign a quarantine.
                let named = record.public().and_then(|part| FrameSet::decode(part, record.fields.number));
                marks.extend(&named.unwrap_or_default());
            }
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn pack(session: u64, ordinal: u32) -> PackName {
        PackName { session, ordinal }
    }

    const fn frame(session: u64, ordinal: u32, index: u32) -> FrameName {
        FrameName { pack: pack(session, ordinal), index }
    }

    fn set(frames: &[FrameName]) -> FrameSet {
        let mut set = FrameSet::default();
        frames.iter().for_each(|frame| set.insert(*frame));
        set
    }

    /// Gc 5 empties pack 1/0 into 5/0 and 5/1; gc 9 takes one of them further.
    fn moves() -> Moves {
        let mut moves = Moves::default();
        moves.add(pack(5, 0), &set(&[frame(1, 0, 0), frame(1, 0, 3)]));
        moves.add(pack(5, 1), &set(&[frame(1, 0, 4)]));
        moves.add(pack(9, 0), &set(&[frame(1, 0, 3), frame(2, 7, 1)]));
        moves
    }

    #[test]
    fn the_last_move_of_a_frame_counts() {
        let moves = moves();
        let at = |index| moves.pack(&frame(1, 0, index));
        assert_eq!((at(0), at(3), at(4)), (pack(5, 0), pack(9, 0), pack(5, 1)));
        assert_eq!(at(1), pack(1, 0), "nobody moved it");
        assert_eq!(moves.pack(&frame(3, 0, 0)), pack(3, 0));
    }

    #[test]
    fn frames_are_told_by_where_they_lie() {
        let moves = moves();
        let used = set(&[frame(1, 0, 0), frame(1, 0, 3), frame(2, 7, 1), frame(2, 7, 2), frame(8, 0, 0)]);
        let lying = moves.by_pack(&used);
        assert_eq!(lying[&pack(5, 0)], set(&[frame(1, 0, 0)]));
        assert_eq!(lying[&pack(9, 0)], set(&[frame(1, 0, 3), frame(2, 7, 1)]));
        assert_eq!(lying[&pack(2, 7)], set(&[frame(2, 7, 2)]));
        assert_eq!(lying[&pack(8, 0)], set(&[frame(8, 0, 0)]));
        assert_eq!(lying.len(), 4, "nothing lies in 1/0");
        let mut whole = FrameSet::default();
        whole.insert_pack(pack(1, 0));
        let all = [pack(1, 0), pack(5, 0), pack(5, 1), pack(9, 0)];
        assert_eq!(moves.packs(&whole), all.into_iter().collect(), "all that was ever called so");
    }

    #[test]
    fn a_marked_pack_is_what_lies_in_it_and_a_marked_frame_is_one_wherever_it_lies() {
        let moves = moves();
        let mut marks = PackAndFrameSet::default();
        marks.add_pack(pack(1, 0));
        marks.add_pack(pack(5, 1));
        marks.add(frame(2, 7, 1));
        let marked = |frame: FrameName| marks.contains(&frame, &moves.pack(&frame));
        assert!(marked(frame(1, 0, 1)) && !marked(frame(1, 0, 0)), "it left the pack in time");
        assert!(marked(frame(1, 0, 4)) && marked(frame(2, 7, 1)) && !marked(frame(2, 7, 2)));
        let touched = [pack(1, 0), pack(5, 1), pack(9, 0)];
        assert_eq!(marks.touched(&moves).packs().collect::<Vec<_>>(), touched);
    }
}
