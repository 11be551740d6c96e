//! Sets of frames and packs as compact public text (FORMAT.md §9.1): what a snapshot needs, what is damaged, what may go.
//!
//! A few bytes can name very many frames, and anybody with a writer's key signs them. So ranges stay ranges: nothing here
//! takes time or memory by the number of frames, or of whole packs, that a range spans.

mod ranges;

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::bytes::to_u64;
use crate::error::{Result, ensure};
use crate::id::{FrameName, PackName};
use crate::limits::PACKS_NAMED_MAX;
use crate::record::{compress_public, decompress_public};
use crate::text::{TextReader, TextWriter, number};

pub use ranges::Ranges;

const WHAT: &str = "sancerre-frames-v1";

/// What a set holds of one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Members<'a> {
    /// All its frames.
    Whole,
    /// The frames at these positions.
    Frames(&'a Ranges),
}

/// A set of frames, in which whole packs may stand for all their frames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameSet {
    /// Ordinals of the whole packs, by session; never empty.
    whole: BTreeMap<u64, Ranges>,
    /// Positions of the single frames of other packs; never empty.
    single: BTreeMap<PackName, Ranges>,
}

impl FrameSet {
    /// Adds one frame.
    pub fn insert(&mut self, frame: FrameName) {
        if !self.contains_pack(&frame.pack) {
            self.single.entry(frame.pack).or_default().insert(frame.index);
        }
    }

    /// Adds a whole pack.
    pub fn insert_pack(&mut self, pack: PackName) {
        self.single.remove(&pack);
        self.whole.entry(pack.session).or_default().insert(pack.ordinal);
    }

    /// Adds all of `other`.
    pub fn union(&mut self, other: &Self) {
        for (session, ordinals) in &other.whole {
            self.whole.entry(*session).or_default().union(ordinals);
        }
        let whole = &self.whole;
        self.single.retain(|pack, _| !has_pack(whole, pack));
        for (pack, ranges) in &other.single {
            self.insert_members(*pack, Members::Frames(ranges));
        }
    }

    /// Adds what another set holds of a pack.
    pub fn insert_members(&mut self, pack: PackName, members: Members<'_>) {
        match members {
            Members::Whole => self.insert_pack(pack),
            Members::Frames(ranges) if !ranges.is_empty() && !self.contains_pack(&pack) => {
                self.single.entry(pack).or_default().union(ranges);
            }
            Members::Frames(_) => {}
        }
    }

    /// What is in the set and not in `other`. A whole pack of which `other` has frames stays whole.
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for (session, ordinals) in &self.whole {
            let ordinals =
                other.whole.get(session).map_or_else(|| ordinals.clone(), |gone| ordinals.without(gone));
            if !ordinals.is_empty() {
                left.whole.insert(*session, ordinals);
            }
        }
        for (pack, ranges) in self.single.iter().filter(|(pack, _)| !other.contains_pack(pack)) {
            let ranges = other.single.get(pack).map_or_else(|| ranges.clone(), |gone| ranges.without(gone));
            if !ranges.is_empty() {
                left.single.insert(*pack, ranges);
            }
        }
        left
    }

    /// Every pack of which something is in the set, and what, ascending. Whole packs come one by one.
    pub fn iter(&self) -> impl Iterator<Item = (PackName, Members<'_>)> {
        let whole = self.whole.iter().flat_map(|(session, ordinals)| {
            ordinals.iter().map(|ordinal| (PackName { session: *session, ordinal }, Members::Whole))
        });
        let single = self.single.iter().map(|(pack, ranges)| (*pack, Members::Frames(ranges)));
        merged(whole, single, |(pack, _)| *pack)
    }

    /// The whole packs in the set, as a set of their own.
    pub fn whole_packs(&self) -> Self {
        Self { whole: self.whole.clone(), single: BTreeMap::new() }
    }

    /// The single frames in the set, as a set of their own.
    pub fn single_frames(&self) -> Self {
        Self { whole: BTreeMap::new(), single: self.single.clone() }
    }

    /// The packs of which single frames are in the set, and which, ascending.
    pub fn single(&self) -> impl Iterator<Item = (PackName, &Ranges)> {
        self.single.iter().map(|(pack, ranges)| (*pack, ranges))
    }

    /// The frames that are in the set one by one, ascending: none of whole packs. For sets that this program made: others
    /// may name very many.
    pub fn frames(&self) -> impl Iterator<Item = FrameName> + '_ {
        self.single().flat_map(|(pack, ranges)| ranges.iter().map(move |index| FrameName { pack, index }))
    }

    /// How many frames are in the set one by one.
    pub fn frame_count(&self) -> u64 {
        self.single.values().map(Ranges::count).fold(0, u64::saturating_add)
    }

    /// Of how many packs something is in the set.
    pub fn pack_count(&self) -> u64 {
        let single = u64::try_from(self.single.len()).unwrap_or(u64::MAX);
        self.whole.values().map(Ranges::count).fold(single, u64::saturating_add)
    }

    /// The highest session of which a frame or pack is in the set.
    pub fn newest_session(&self) -> Option<u64> {
        let single = self.single.last_key_value().map(|(pack, _)| pack.session);
        single.max(self.whole.last_key_value().map(|(session, _)| *session))
    }

    /// Whether everything in the set is in `other`; of a whole pack the whole one must be.
    pub fn is_subset(&self, other: &Self) -> bool {
        let whole = |(session, ordinals): (&u64, &Ranges)| {
            other.whole.get(session).is_some_and(|all| ordinals.is_subset(all))
        };
        let single = |(pack, ranges): (&PackName, &Ranges)| {
            other.contains_pack(pack) || other.single.get(pack).is_some_and(|all| ranges.is_subset(all))
        };
        self.whole.iter().all(whole) && self.single.iter().all(single)
    }

    /// Whether the frame or its whole pack is in the set.
    pub fn contains(&self, frame: &FrameName) -> bool {
        self.contains_pack(&frame.pack)
            || self.single.get(&frame.pack).is_some_and(|ranges| ranges.contains(frame.index))
    }

    /// Whether the whole pack is in the set.
    pub fn contains_pack(&self, pack: &PackName) -> bool {
        has_pack(&self.whole, pack)
    }

    /// What the set holds of a pack.
    pub fn members(&self, pack: &PackName) -> Option<Members<'_>> {
        let single = self.single.get(pack).map(Members::Frames);
        single.or_else(|| self.contains_pack(pack).then_some(Members::Whole))
    }

    /// Whether both sets have a frame of this pack in common.
    pub fn shares(&self, other: &Self, pack: &PackName) -> bool {
        match (self.members(pack), other.members(pack)) {
            (None, _) | (_, None) => false,
            (Some(Members::Frames(ours)), Some(Members::Frames(theirs))) => ours.meets(theirs),
            _ => true,
        }
    }

    /// Whether it holds whole packs only.
    pub fn is_whole_packs(&self) -> bool {
        self.single.is_empty()
    }

    /// Whether it holds no whole pack.
    pub fn is_single_frames(&self) -> bool {
        self.whole.is_empty()
    }

    /// Every pack of which something is in the set, ascending.
    pub fn packs(&self) -> impl Iterator<Item = PackName> + '_ {
        self.iter().map(|(pack, _)| pack)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.single.is_empty()
    }

    /// The public part of a record that carries this set.
    ///
    /// Errors: a set of more packs than a reader accepts.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check_packs()?;
        compress_public(&self.text(&[]))
    }

    fn text(&self, extensions: &[String]) -> String {
        let mut text = TextWriter::new(WHAT);
        text.no_features();
        self.write(&mut text, "frames");
        text.extensions(extensions);
        text.finish()
    }

    /// Reads what [`FrameSet::encode`] wrote into a record of this session.
    ///
    /// Errors: also a set that names later sessions, which its signer cannot have known.
    pub fn decode(part: &[u8], session: u64) -> Result<Self> {
        let bytes = decompress_public(WHAT, part)?;
        let mut text = TextReader::unbounded(WHAT, &bytes)?;
        text.no_features()?;
        let set = Self::read(&mut text, "frames")?;
        let extensions = text.extensions()?;
        text.finish()?;
        set.check_sessions(session)?;
        ensure(set.text(&extensions).as_bytes() == bytes, WHAT, || "not in its one spelling".into())?;
        Ok(set)
    }

    pub(crate) fn check_sessions(&self, session: u64) -> Result<()> {
        let newest = self.newest_session().unwrap_or_default();
        ensure(newest <= session, WHAT, || {
            format!("session {session} names session {newest}, which comes later")
        })
    }

    pub(crate) fn check_packs(&self) -> Result<()> {
        let count = self.pack_count();
        ensure(count <= PACKS_NAMED_MAX, WHAT, || {
            format!("it names {count} packs, at most {PACKS_NAMED_MAX}")
        })
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

    fn items(&self) -> impl Iterator<Item = (u64, String)> {
        let whole = self.whole.iter().flat_map(|(session, ordinals)| {
            let run = |(first, last): &(u32, u32)| {
                (PackName { session: *session, ordinal: *first }, vec![range_text(*first, *last)])
            };
            ordinals.as_slice().iter().map(run)
        });
        let single = self.single.iter().map(|(pack, ranges)| (*pack, frame_items(*pack, ranges)));
        let items = merged(whole, single, |(pack, _)| *pack);
        items.flat_map(|(pack, items)| items.into_iter().map(move |item| (pack.session, item)))
    }

    pub(crate) fn read(text: &mut TextReader<'_>, key: &str) -> Result<Self> {
        let mut set = Self::default();
        text.repeated(key, |line| set.read_line(line))?;
        set.check_packs()?;
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
        let pack = |ordinal| PackName { session, ordinal };
        let twice = self.single.range(pack(first)..=pack(last)).next();
        ensure(twice.is_none(), WHAT, || format!("a pack of {word:?} stands twice"))?;
        self.whole.entry(session).or_default().push(first, last)
    }

    fn read_frames(&mut self, pack: PackName, text: &str) -> Result<()> {
        ensure(!self.contains_pack(&pack), WHAT, || format!("pack {pack} stands twice"))?;
        let is_new = !self.single.contains_key(&pack);
        let room = to_u64(self.single.len()) < PACKS_NAMED_MAX;
        ensure(!is_new || room, WHAT, || format!("it names more than {PACKS_NAMED_MAX} packs"))?;
        let ranges = self.single.entry(pack).or_default();
        for item in text.split(',') {
            let (first, last) = range(item)?;
            ensure(last < PACK_FRAMES_MAX, WHAT, || format!("no pack has a frame {last}"))?;
            ranges.push(first, last)?;
        }
        Ok(())
    }
}

fn has_pack(whole: &BTreeMap<u64, Ranges>, pack: &PackName) -> bool {
    whole.get(&pack.session).is_some_and(|ordinals| ordinals.contains(pack.ordinal))
}

/// Two ascending sequences as one.
fn merged<T, K: Ord>(
    one: impl Iterator<Item = T>,
    other: impl Iterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> impl Iterator<Item = T> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(first), Some(second)) if key(second) < key(first) => other.next(),
        (None, _) => other.next(),
        _ => one.next(),
    })
}

const LINE_BYTES: usize = 32 << 10;
/// Frames per item: keeps a line below the limit of the text.
const FRAME_RANGES: usize = 1024;
/// Most frames in a pack (FORMAT.md §5).
const PACK_FRAMES_MAX: u32 = 1 << 16;

fn frame_items(pack: PackName, ranges: &Ranges) -> Vec<String> {
    let item = |part: &[(u32, u32)]| {
        let texts: Vec<String> = part.iter().map(|(first, last)| range_text(*first, *last)).collect();
        format!("{}:{}", pack.ordinal, texts.join(","))
    };
    ranges.as_slice().chunks(FRAME_RANGES).map(item).collect()
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
