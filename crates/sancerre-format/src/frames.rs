//! Sets of frames and packs as compact public text (FORMAT.md §9.1): what a snapshot needs, what is damaged, what may go.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

use crate::error::{Result, corrupt, ensure};
use crate::id::{FrameName, PackName};
use crate::record::{compress_public, decompress_public};
use crate::text::{TextReader, TextWriter, number};

const WHAT: &str = "sancerre-frames-v1";

/// Inclusive ranges, ascending, disjoint, maximal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// Whether `value` is in one of the ranges.
    pub fn contains(&self, value: u32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= value);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| value <= *last)
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        let length = |(first, last): &(u32, u32)| u64::from(last.saturating_sub(*first)).saturating_add(1);
        self.0.iter().map(length).fold(0, u64::saturating_add)
    }

    /// All values, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    fn insert(&mut self, value: u32) {
        let at = self.0.partition_point(|(first, _)| *first <= value);
        let before = at.checked_sub(1).and_then(|index| self.0.get(index).copied());
        if before.is_some_and(|(_, last)| value <= last) {
            return;
        }
        let joins_before = before.is_some_and(|(_, last)| last.checked_add(1) == Some(value));
        let joins_after = self.0.get(at).is_some_and(|(first, _)| value.checked_add(1) == Some(*first));
        match (joins_before, joins_after) {
            (true, true) => {
                let (_, last) = self.0.remove(at);
                self.last_mut(at).iter_mut().for_each(|range| range.1 = last);
            }
            (true, false) => self.last_mut(at).iter_mut().for_each(|range| range.1 = value),
            (false, true) => self.0.get_mut(at).into_iter().for_each(|range| range.0 = value),
            (false, false) => self.0.insert(at, (value, value)),
        }
    }

    fn union(&mut self, other: &Self) {
        let mut all = [self.0.as_slice(), other.0.as_slice()].concat();
        all.sort_unstable();
        self.0.clear();
        for (first, last) in all {
            match self.0.last_mut() {
                Some((_, end)) if end.checked_add(1).is_none_or(|next| first <= next) => {
                    *end = last.max(*end);
                }
                _ => self.0.push((first, last)),
            }
        }
    }

    fn last_mut(&mut self, at: usize) -> Option<&mut (u32, u32)> {
        self.0.get_mut(at.checked_sub(1)?)
    }

    fn push(&mut self, first: u32, last: u32) -> Result<()> {
        let gap = self.0.last().is_none_or(|(_, end)| end.checked_add(1).is_some_and(|next| next < first));
        ensure(first <= last && gap, WHAT, || format!("range {first}-{last} is out of order"))?;
        self.0.push((first, last));
        Ok(())
    }
}

/// What a set holds of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// All its frames.
    Whole,
    /// The frames at these positions.
    Frames(Ranges),
}

/// A set of frames, in which whole packs may stand for all their frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameSet(BTreeMap<PackName, Members>);

impl FrameSet {
    /// Adds one frame.
    pub fn insert(&mut self, frame: FrameName) {
        let members = self.0.entry(frame.pack).or_insert_with(|| Members::Frames(Ranges::default()));
        if let Members::Frames(ranges) = members {
            ranges.insert(frame.index);
        }
    }

    /// Adds a whole pack.
    pub fn insert_pack(&mut self, pack: PackName) {
        self.0.insert(pack, Members::Whole);
    }

    /// Adds all of `other`.
    pub fn union(&mut self, other: &Self) {
        other.iter().for_each(|(pack, members)| self.insert_members(pack, members));
    }

    /// Adds what another set holds of a pack.
    pub fn insert_members(&mut self, pack: PackName, members: &Members) {
        match members {
            Members::Whole => self.insert_pack(pack),
            Members::Frames(ranges) => match self.0.entry(pack) {
                Entry::Vacant(place) => drop(place.insert(members.clone())),
                Entry::Occupied(mut held) => {
                    if let Members::Frames(held) = held.get_mut() {
                        held.union(ranges);
                    }
                }
            },
        }
    }

    /// Every pack of which something is in the set, and what.
    pub fn iter(&self) -> impl Iterator<Item = (PackName, &Members)> {
        self.0.iter().map(|(pack, members)| (*pack, members))
    }

    /// The frames that are in the set one by one, ascending: none of whole packs.
    pub fn frames(&self) -> impl Iterator<Item = FrameName> + '_ {
        self.iter().flat_map(|(pack, members)| {
            let ranges = if let Members::Frames(ranges) = members { Some(ranges) } else { None };
            ranges.into_iter().flat_map(Ranges::iter).map(move |index| FrameName { pack, index })
        })
    }

    /// Whether everything in the set is in `other`; of a whole pack the whole one must be.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.iter().all(|(pack, members)| match members {
            Members::Whole => other.contains_pack(&pack),
            Members::Frames(ranges) => ranges.iter().all(|index| other.contains(&FrameName { pack, index })),
        })
    }

    /// Whether the frame or its whole pack is in the set.
    pub fn contains(&self, frame: &FrameName) -> bool {
        match self.0.get(&frame.pack) {
            None => false,
            Some(Members::Whole) => true,
            Some(Members::Frames(ranges)) => ranges.contains(frame.index),
        }
    }

    /// Whether the whole pack is in the set.
    pub fn contains_pack(&self, pack: &PackName) -> bool {
        self.0.get(pack) == Some(&Members::Whole)
    }

    /// Whether both sets have a frame of this pack in common.
    pub fn shares(&self, other: &Self, pack: &PackName) -> bool {
        match (self.0.get(pack), other.0.get(pack)) {
            (None, _) | (_, None) => false,
            (Some(Members::Frames(ours)), Some(Members::Frames(theirs))) => {
                ours.iter().any(|index| theirs.contains(index))
            }
            _ => true,
        }
    }

    /// Whether it holds whole packs only.
    pub fn is_whole_packs(&self) -> bool {
        self.0.values().all(|members| *members == Members::Whole)
    }

    /// Whether it holds no whole pack.
    pub fn is_single_frames(&self) -> bool {
        self.0.values().all(|members| *members != Members::Whole)
    }

    /// Every pack of which something is in the set.
    pub fn packs(&self) -> impl Iterator<Item = PackName> + '_ {
        self.0.keys().copied()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The public part of a record that carries this set.
    pub fn encode(&self) -> Result<Vec<u8>> {
        compress_public(&self.text())
    }

    fn text(&self) -> String {
        let mut text = TextWriter::new(WHAT);
        self.write(&mut text, "frames");
        text.finish()
    }

    /// Reads what [`FrameSet::encode`] wrote.
    pub fn decode(part: &[u8]) -> Result<Self> {
        let bytes = decompress_public(WHAT, part)?;
        let mut text = TextReader::unbounded(WHAT, &bytes)?;
        let set = Self::read(&mut text, "frames")?;
        text.finish()?;
        ensure(set.text().as_bytes() == bytes, WHAT, || "not in its one spelling".into())?;
        Ok(set)
    }

    pub(crate) fn write(&self, text: &mut TextWriter, key: &str) {
        text.repeated(key, self.lines());
    }

    /// Lines of at most some 32 KiB; a session with more goes on in the next line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line: Option<(u64, String)> = None;
        for (session, item) in self.items() {
            match &mut line {
                Some((number, items)) if *number == session && items.len() < LINE_BYTES => {
                    let _ = write!(items, " {item}");
                }
                _ => {
                    lines.extend(line.replace((session, item)));
                }
            }
        }
        lines.extend(line);
        lines.into_iter().map(|(number, items)| format!("{number} {items}")).collect()
    }

    fn items(&self) -> Vec<(u64, String)> {
        let mut items = Vec::new();
        let mut whole: Option<(u64, u32, u32)> = None;
        for (pack, members) in &self.0 {
            if let (Some((session, _, last)), Members::Whole) = (&mut whole, members)
                && *session == pack.session
                && last.checked_add(1) == Some(pack.ordinal)
            {
                *last = pack.ordinal;
                continue;
            }
            items.extend(whole.take().map(whole_item));
            match members {
                Members::Whole => whole = Some((pack.session, pack.ordinal, pack.ordinal)),
                Members::Frames(ranges) => items.extend(frame_items(*pack, ranges)),
            }
        }
        items.extend(whole.map(whole_item));
        items
    }

    pub(crate) fn read(text: &mut TextReader<'_>, key: &str) -> Result<Self> {
        let mut set = Self::default();
        text.repeated(key, |line| set.read_line(line))?;
        Ok(set)
    }

    pub(crate) fn read_line(&mut self, line: &str) -> Result<()> {
        let mut words = line.split(' ');
        let session = number(WHAT, words.next().unwrap_or_default())?;
        for word in words {
            match word.split_once(':') {
                None => self.read_packs(session, word)?,
                Some((ordinal, frames)) => {
                    let pack = PackName { session, ordinal: number(WHAT, ordinal)? };
                    self.read_frames(pack, frames)?;
                }
            }
        }
        Ok(())
    }

    fn read_packs(&mut self, session: u64, word: &str) -> Result<()> {
        let (first, last) = range(word)?;
        let room = PACKS_MAX.saturating_sub(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        ensure(last.saturating_sub(first) < room, WHAT, || format!("{word:?} makes too many packs"))?;
        for ordinal in first..=last {
            self.insert_pack(PackName { session, ordinal });
        }
        Ok(())
    }

    fn read_frames(&mut self, pack: PackName, text: &str) -> Result<()> {
        let mut ranges = match self.0.remove(&pack) {
            None => Ranges::default(),
            Some(Members::Frames(ranges)) => ranges,
            Some(Members::Whole) => return Err(corrupt(WHAT, format!("pack {pack} stands twice"))),
        };
        for item in text.split(',') {
            let (first, last) = range(item)?;
            ensure(last < PACK_FRAMES_MAX, WHAT, || format!("no pack has a frame {last}"))?;
            ranges.push(first, last)?;
        }
        self.0.insert(pack, Members::Frames(ranges));
        Ok(())
    }
}

const LINE_BYTES: usize = 32 << 10;
/// Frames per item: keeps a line below the limit of the text.
const FRAME_RANGES: usize = 1024;
/// Most packs in a set that a reader accepts: bounds what hostile ranges can make it insert.
const PACKS_MAX: u32 = 1 << 24;
/// Most frames in a pack (FORMAT.md §5): bounds what a hostile range can make [`FrameSet::union`] walk.
const PACK_FRAMES_MAX: u32 = 1 << 16;

fn whole_item((session, first, last): (u64, u32, u32)) -> (u64, String) {
    (session, range_text(first, last))
}

fn frame_items(pack: PackName, ranges: &Ranges) -> Vec<(u64, String)> {
    let item = |part: &[(u32, u32)]| {
        let texts: Vec<String> = part.iter().map(|(first, last)| range_text(*first, *last)).collect();
        (pack.session, format!("{}:{}", pack.ordinal, texts.join(",")))
    };
    ranges.0.chunks(FRAME_RANGES).map(item).collect()
}

fn range_text(first: u32, last: u32) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn range(text: &str) -> Result<(u32, u32)> {
    match text.split_once('-') {
        None => number(WHAT, text).map(|value| (value, value)),
        Some((first, last)) => {
            let (first, last) = (number(WHAT, first)?, number(WHAT, last)?);
            ensure(first < last, WHAT, || format!("range {text:?} is empty"))?;
            Ok((first, last))
        }
    }
}
