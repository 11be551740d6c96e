//! What the server says of ranges: where zeros are, and what changed.

use std::ops::Range;

use super::channel::{receive, receive_array};
use super::connection::{Connection, Failed};
use super::error::Fault;
use super::wire::{
    CHUNK_BLOCK_STATUS, CHUNK_NONE, COMMAND_BLOCK_STATUS, FLAG_REQ_ONE, Head, Said, ServerFields,
    is_error_chunk,
};

const ASKING: &str = "asking which ranges hold data";
/// A descriptor: length and flags.
const DESCRIPTOR_BYTES: u32 = 8;
/// QEMU sends up to 131,072 descriptors in an answer, nbdkit up to a million.
const DESCRIPTORS_MAX: u32 = 1 << 21;
/// Descriptors received at once.
const BATCH: usize = 512;
/// Answers for a range may be short; a server that never gets anywhere is not asked for ever.
const STEP_BYTES: u64 = 4096;
const STEPS_MIN: u64 = 64;

/// Which of the two contexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// Where zeros are.
    Allocation,
    /// What changed.
    Bitmap,
}

/// Extents that follow each other from the start of a window, as the end of each and whether the bit in question is
/// set; equal neighbours are one.
#[derive(Debug, Default, Clone)]
pub(super) struct Extents {
    ends: Vec<(u64, bool)>,
}

impl Extents {
    fn push(&mut self, end: u64, is_set: bool) {
        match self.ends.last_mut() {
            Some((last, known)) if *known == is_set => *last = end,
            _ => self.ends.push((end, is_set)),
        }
    }

    fn end(&self, start: u64) -> u64 {
        self.ends.last().map_or(start, |(end, _)| *end)
    }

    /// The ranges of a window from `start` whose bit is `wanted`, clipped to `range`.
    pub(super) fn ranges(
        &self,
        start: u64,
        range: &Range<u64>,
        wanted: bool,
    ) -> impl Iterator<Item = Range<u64>> {
        let starts = std::iter::once(start).chain(self.ends.iter().map(|(end, _)| *end));
        let range = range.clone();
        starts.zip(&self.ends).filter(move |(_, (_, is_set))| *is_set == wanted).filter_map(
            move |(from, (to, _))| {
                let clipped = from.max(range.start)..(*to).min(range.end);
                (!clipped.is_empty()).then_some(clipped)
            },
        )
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// What to ask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub(super) context: Context,
    /// The bit of the flags that matters.
    pub(super) bit: u32,
    /// What to believe of a range that the server does not come to: the side on which nothing is lost.
    pub(super) fallback: bool,
    pub(super) one_extent: bool,
}

impl Connection {
    /// All extents of `window`, whose ends are multiples of the smallest block.
    pub(super) fn extents(
        &mut self,
        window: Range<u64>,
        question: Question,
    ) -> Result<Result<Extents, Failed>, Fault> {
        let mut extents = Extents::default();
        let size = window.end.saturating_sub(window.start);
        let steps = size.checked_div(STEP_BYTES).unwrap_or(0).saturating_add(STEPS_MIN);
        for _ in 0..steps {
            let at = extents.end(window.start);
            if at >= window.end {
                return Ok(Ok(extents));
            }
            if let Err(failed) = self.step(at..window.end, question, &mut extents)? {
                return Ok(Err(failed));
            }
        }
        if extents.end(window.start) < window.end {
            extents.push(window.end, question.fallback);
        }
        Ok(Ok(extents))
    }

    /// One request; its answer may be short but not empty.
    fn step(
        &mut self,
        range: Range<u64>,
        question: Question,
        extents: &mut Extents,
    ) -> Result<Result<(), Failed>, Fault> {
        self.channel.progress();
        let size = range.end.saturating_sub(range.start);
        let length_bytes = u32::try_from(size).map_err(|_| Fault::lied("a window is too large"))?;
        let flags = if question.one_extent { FLAG_REQ_ONE } else { 0 };
        let cookie = self.ask(flags, COMMAND_BLOCK_STATUS, range.start, length_bytes, ASKING)?;
        let mut seen = Seen::default();
        loop {
            let (head, length_bytes) = self.hear(ASKING)?;
            match head {
                Head::Simple { error, cookie: theirs } if theirs == cookie && error != 0 => {
                    return Ok(Err(Failed(Said::errno(error, &[]))));
                }
                Head::Chunk { is_last, kind, cookie: theirs } if theirs == cookie => {
                    self.status_chunk(&range, question, extents, &mut seen, (kind, length_bytes))?;
                    if is_last {
                        return seen.finish();
                    }
                }
                _ => return Err(Fault::lied("it answers a request that is not under way")),
            }
        }
    }

    fn status_chunk(
        &mut self,
        range: &Range<u64>,
        question: Question,
        extents: &mut Extents,
        seen: &mut Seen,
        (kind, length_bytes): (u16, u32),
    ) -> Result<(), Fault> {
        if is_error_chunk(kind) {
            seen.error = Some(self.hear_error(kind, length_bytes, ASKING)?);
            return seen.chunk();
        }
        if kind == CHUNK_NONE && length_bytes == 0 {
            return seen.chunk();
        }
        let content = length_bytes.saturating_sub(4);
        let count = content.checked_div(DESCRIPTOR_BYTES).unwrap_or(0);
        let is_whole = content.checked_rem(DESCRIPTOR_BYTES) == Some(0) && length_bytes > 4;
        if kind != CHUNK_BLOCK_STATUS || !is_whole || count > DESCRIPTORS_MAX {
            return Err(Fault::lied(format!("a chunk of kind {kind} with {length_bytes} bytes on extents")));
        }
        let number = u32::from_be_bytes(receive_array(self.channel.as_mut(), ASKING)?);
        let (own, other) = match question.context {
            Context::Allocation => (self.export().allocation, self.export().bitmap),
            Context::Bitmap => (self.export().bitmap, self.export().allocation),
        };
        let number = Some(number);
        let mut ignored = Extents::default();
        let into = match () {
            () if number == own && !std::mem::replace(&mut seen.own, true) => extents,
            () if number == other && !std::mem::replace(&mut seen.other, true) => &mut ignored,
            () => return Err(Fault::lied("a context that was not agreed on, or twice the same")),
        };
        seen.chunk()?;
        self.descriptors(range, question.bit, count, into)
    }

    fn descriptors(
        &mut self,
        range: &Range<u64>,
        bit: u32,
        count: u32,
        extents: &mut Extents,
    ) -> Result<(), Fault> {
        let mut bytes = [0; 8 * BATCH];
        let mut left = usize::try_from(count).unwrap_or(usize::MAX);
        let mut at = range.start;
        while left > 0 {
            let batch = left.min(BATCH);
            let content = bytes.get_mut(..batch.saturating_mul(8)).unwrap_or_default();
            receive(self.channel.as_mut(), content, ASKING)?;
            let mut fields = ServerFields(content);
            for _ in 0..batch {
                let (length_bytes, flags) = (fields.u32()?, fields.u32()?);
                // Only the last extent may reach over the end, and none may be empty or begin behind it.
                if length_bytes == 0 || at >= range.end {
                    return Err(Fault::lied("an extent that is empty or outside of the question"));
                }
                at = at.saturating_add(u64::from(length_bytes));
                extents.push(at.min(range.end), flags & bit != 0);
            }
            left = left.saturating_sub(batch);
        }
        Ok(())
    }
}

/// What has come of an answer.
#[derive(Debug, Default)]
struct Seen {
    own: bool,
    other: bool,
    error: Option<Said>,
    chunks: u8,
}

impl Seen {
    /// Two contexts, a few errors, an end: more is no answer.
    fn chunk(&mut self) -> Result<(), Fault> {
        self.chunks = self.chunks.saturating_add(1);
        if self.chunks > 16 { Err(Fault::lied("endless chunks in one answer")) } else { Ok(()) }
    }

    fn finish(self) -> Result<Result<(), Failed>, Fault> {
        match (self.error, self.own) {
            (Some(said), _) => Ok(Err(Failed(said))),
            (None, true) => Ok(Ok(())),
            (None, false) => Err(Fault::lied("an answer on extents without any")),
        }
    }
}
