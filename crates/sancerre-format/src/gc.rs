//! A collector's proposal and its final lists (FORMAT.md §9.2). Writers read them to know what to avoid.

use std::fmt;

use crate::error::{Result, corrupt, ensure};
use crate::frames::FrameSet;
use crate::id::{FrameName, PackName, SessionId};
use crate::log::sessions;
use crate::record::{compress_public, decompress_public};
use crate::text::{TextReader, TextWriter, number};

const WHAT: &str = "sancerre-gc-v1";

/// A frame and where it lies now: pack and position in the collector's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    /// The frame's lasting name.
    pub frame: FrameName,
    /// Pack of the collector's session.
    pub ordinal: u32,
    /// Position there.
    pub index: u32,
}

impl Move {
    fn parse(line: &str) -> Result<Self> {
        let bad = || corrupt(WHAT, format!("{line:?} is not a move"));
        let (from, to) = line.split_once(' ').ok_or_else(bad)?;
        let numbers: Vec<&str> = from.split('/').collect();
        let &[session, ordinal, index] = numbers.as_slice() else { return Err(bad()) };
        let (to_ordinal, to_index) = to.split_once('/').ok_or_else(bad)?;
        let pack = PackName { session: number(WHAT, session)?, ordinal: number(WHAT, ordinal)? };
        let frame = FrameName { pack, index: number(WHAT, index)? };
        Ok(Self { frame, ordinal: number(WHAT, to_ordinal)?, index: number(WHAT, to_index)? })
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.frame, self.ordinal, self.index)
    }
}

/// The public part of a `gc` entry, a commit or a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcLists {
    /// Whole packs that go.
    pub dead: FrameSet,
    /// Frames that lie elsewhere now, ascending.
    pub moves: Vec<Move>,
    /// Every pack that a commit up to this one put in `dead`.
    pub burnt: FrameSet,
    /// Snapshots neither forgotten nor aborted, ascending.
    pub live: Vec<SessionId>,
    /// Snapshots whose forget this commit honours, ascending.
    pub forgotten: Vec<SessionId>,
}

impl GcLists {
    /// The public part.
    pub fn encode(&self) -> Result<Vec<u8>> {
        compress_public(&self.text())
    }

    fn text(&self) -> String {
        let mut text = TextWriter::new(WHAT);
        self.dead.write(&mut text, "dead");
        text.repeated("move", &self.moves);
        self.burnt.write(&mut text, "burnt");
        text.repeated("live", &self.live).repeated("forgotten", &self.forgotten);
        text.finish()
    }

    /// Reads what [`GcLists::encode`] wrote.
    pub fn decode(part: &[u8]) -> Result<Self> {
        let bytes = decompress_public(WHAT, part)?;
        let mut text = TextReader::unbounded(WHAT, &bytes)?;
        let lists = Self {
            dead: FrameSet::read(&mut text, "dead")?,
            moves: text.repeated("move", Move::parse)?,
            burnt: FrameSet::read(&mut text, "burnt")?,
            live: sessions(&mut text, "live")?,
            forgotten: sessions(&mut text, "forgotten")?,
        };
        text.finish()?;
        ensure(lists.dead.is_whole_packs() && lists.burnt.is_whole_packs(), WHAT, || {
            "only whole packs can be dead or burnt".into()
        })?;
        let ascending = lists.moves.is_sorted_by(|a, b| a.frame < b.frame);
        ensure(ascending, WHAT, || "moves are not ascending".into())?;
        ensure(lists.text().as_bytes() == bytes, WHAT, || "not in its one spelling".into())?;
        Ok(lists)
    }
}
