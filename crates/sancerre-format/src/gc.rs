//! A collector's proposal and its final lists (FORMAT.md §9.2). Writers read them to know what to avoid.

use std::collections::BTreeMap;

use crate::error::{Result, corrupt, ensure};
use crate::frames::FrameSet;
use crate::id::SessionId;
use crate::limits::PACKS_NAMED_MAX;
use crate::log::sessions;
use crate::record::{compress_public, decompress_public};
use crate::text::{TextReader, TextWriter, number};

const WHAT: &str = "sancerre-gc-v1";

/// Frames that lie elsewhere now, by the pack of the collector's session in which they lie. Its directory says where.
pub type PackMoves = BTreeMap<u32, FrameSet>;

/// The public part of a `gc` entry or a commit: what is new since the commit before. What holds in all follows from all
/// commits together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcLists {
    /// Whole packs that go.
    pub dead: FrameSet,
    /// Frames that lie elsewhere now; none in a proposal.
    pub moves: PackMoves,
    /// Snapshots that count, and that no earlier commit saw, ascending; none in a proposal.
    pub seen: Vec<SessionId>,
    /// Snapshots whose forget this commit is the first to honour, ascending; none in a proposal.
    pub forgotten: Vec<SessionId>,
}

impl GcLists {
    /// The public part.
    ///
    /// Errors: lists of more packs than a reader accepts.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check_packs()?;
        compress_public(&self.text(&[]))
    }

    fn text(&self, extensions: &[String]) -> String {
        let mut text = TextWriter::new(WHAT);
        text.no_features();
        self.dead.write(&mut text, "dead");
        text.repeated("move", self.moves.iter().flat_map(move_lines));
        text.repeated("seen", &self.seen).repeated("forgotten", &self.forgotten);
        text.extensions(extensions);
        text.finish()
    }

    /// Each set for itself, and all moves together.
    fn check_packs(&self) -> Result<()> {
        self.dead.check_packs()?;
        refuse_many(self.moves.values().map(FrameSet::pack_count).fold(0, u64::saturating_add))
    }

    fn check_sessions(&self, session: u64) -> Result<()> {
        [&self.dead].into_iter().chain(self.moves.values()).try_for_each(|set| set.check_sessions(session))
    }

    /// Reads what [`GcLists::encode`] wrote into a record of this session.
    ///
    /// Errors: also lists that name frames or packs of later sessions.
    pub fn decode(part: &[u8], session: u64) -> Result<Self> {
        let bytes = decompress_public(WHAT, part)?;
        let mut text = TextReader::unbounded(WHAT, &bytes)?;
        text.no_features()?;
        let lists = Self {
            dead: FrameSet::read(&mut text, "dead")?,
            moves: read_moves(&mut text)?,
            seen: sessions(&mut text, "seen")?,
            forgotten: sessions(&mut text, "forgotten")?,
        };
        let extensions = text.extensions()?;
        text.finish()?;
        lists.check_sessions(session)?;
        check_moves(&lists.moves)?;
        ensure(lists.dead.is_whole_packs(), WHAT, || "only whole packs can be dead".into())?;
        ensure(lists.text(&extensions).as_bytes() == bytes, WHAT, || "not in its one spelling".into())?;
        Ok(lists)
    }
}

fn move_lines((ordinal, frames): (&u32, &FrameSet)) -> Vec<String> {
    frames.lines().into_iter().map(|line| format!("{ordinal} {line}")).collect()
}

fn read_moves(text: &mut TextReader<'_>) -> Result<PackMoves> {
    let (mut moves, mut packs) = (PackMoves::new(), 0u64);
    text.repeated("move", |line| {
        let (ordinal, frames) =
            line.split_once(' ').ok_or_else(|| corrupt(WHAT, format!("{line:?} is not a move")))?;
        let set = moves.entry(number(WHAT, ordinal)?).or_default();
        packs = packs.saturating_sub(set.pack_count());
        set.read_line(frames)?;
        ensure(set.is_single_frames(), WHAT, || "only single frames can move".into())?;
        packs = packs.saturating_add(set.pack_count());
        refuse_many(packs)
    })?;
    Ok(moves)
}

fn refuse_many(packs: u64) -> Result<()> {
    ensure(packs <= PACKS_NAMED_MAX, WHAT, || {
        format!("it moves frames of {packs} packs, at most {PACKS_NAMED_MAX}")
    })
}

/// A frame moves alone, and to one place.
fn check_moves(moves: &PackMoves) -> Result<()> {
    let mut moved = FrameSet::default();
    for frames in moves.values() {
        ensure(frames.packs().all(|pack| !moved.shares(frames, &pack)), WHAT, || {
            "a frame moves to two packs".into()
        })?;
        moved.union(frames);
    }
    Ok(())
}
