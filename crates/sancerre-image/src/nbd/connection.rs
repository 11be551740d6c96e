//! One connection in the transmission phase: reads with several requests under way.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::NbdOptions;
use super::channel::{Channel, receive, receive_array, receive_message, send};
use super::coverage::Coverage;
use super::error::Fault;
use super::negotiate::{Export, negotiate};
use super::wire::{
    CHUNK_DATA, CHUNK_HOLE, CHUNK_NONE, COMMAND_DISCONNECT, COMMAND_READ, FLAG_DF, Head, Request,
    SIMPLE_BYTES, STRUCTURED_MORE_BYTES, Said, ServerFields, error_chunk, head, is_error_chunk,
};
use crate::positional::length;

const READING: &str = "reading";
const WRITING: &str = "writing";
/// An error chunk has a number and a text.
const ERROR_BYTES_MAX: u32 = 4096;
/// No answer has more errors in it.
const ERRORS_MAX: u32 = 64;

/// A connection whose export is open.
pub(super) struct Connection {
    pub(super) channel: Box<dyn Channel>,
    export: Export,
    cookie: u64,
    request_bytes: usize,
    depth: usize,
    read_flags: u16,
    is_abandoned: bool,
}

/// A range that the server could not read, and its words.
#[derive(Debug)]
pub(super) struct Failed(pub(super) Said);

/// A request under way, and where its bytes go.
struct Piece<'a> {
    cookie: u64,
    offset: u64,
    bytes: &'a mut [u8],
    came: Coverage,
    error: Option<Said>,
    errors: u32,
}

impl Piece<'_> {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(length(self.bytes))
    }

    /// Where bytes of an answer belong: inside the request, and not there yet.
    fn place(&mut self, offset: u64, length_bytes: u64) -> Result<&mut [u8], Fault> {
        let whole = self.range();
        let end = offset.checked_add(length_bytes).filter(|end| *end <= whole.end && offset >= whole.start);
        let Some(end) = end.filter(|end| *end > offset) else {
            return Err(Fault::lied(format!(
                "{length_bytes} bytes at offset {offset} where {whole:?} was asked for"
            )));
        };
        if !self.came.add(offset..end) {
            return Err(Fault::lied(format!("bytes of {offset}..{end} come twice")));
        }
        let inside = |at: u64| usize::try_from(at.saturating_sub(whole.start)).unwrap_or(usize::MAX);
        let place = self.bytes.get_mut(inside(offset)..inside(end));
        place.ok_or_else(|| Fault::lied("an answer outside of its request"))
    }

    fn failed(&mut self, said: Said) -> Result<(), Fault> {
        self.errors = self.errors.saturating_add(1);
        self.error.get_or_insert(said);
        if self.errors > ERRORS_MAX { Err(Fault::lied("endless errors in one answer")) } else { Ok(()) }
    }

    /// The last chunk came: everything is there, or an error says why not.
    fn finish(&self) -> Result<(), Fault> {
        if self.error.is_some() || self.came.is_whole(&self.range()) {
            return Ok(());
        }
        Err(Fault::lied(format!("it leaves out bytes of {:?} and says that it is done", self.range())))
    }
}

impl Connection {
    /// Agrees with the server on the export `name`.
    pub(super) fn open(
        mut channel: Box<dyn Channel>,
        name: &str,
        wants_tls: bool,
        options: &NbdOptions,
    ) -> Result<Self, Fault> {
        let export = negotiate(channel.as_mut(), name, wants_tls, options)?;
        let smallest = usize::try_from(export.smallest_block_bytes).unwrap_or(usize::MAX);
        let wanted = options.request_bytes.min(export.largest_block_bytes).max(export.smallest_block_bytes);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let beyond = wanted.checked_rem(smallest).unwrap_or(0);
        let read_flags =
            if options.unfragmented && export.can_unfragment && export.is_structured { FLAG_DF } else { 0 };
        let request_bytes = wanted.saturating_sub(beyond).max(1);
        let depth = options.depth.max(1);
        Ok(Self { channel, export, cookie: 0, request_bytes, depth, read_flags, is_abandoned: false })
    }

    /// From now on the server may be silent for so long.
    pub(super) fn be_patient(&mut self, patience: Duration) -> Result<(), Fault> {
        self.channel.be_patient(patience).map_err(Fault::Connect)
    }

    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    /// Nothing is said on it any more.
    pub(super) fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    /// Sends a request and returns its cookie.
    pub(super) fn ask(
        &mut self,
        flags: u16,
        command: u16,
        offset: u64,
        length_bytes: u32,
        doing: &'static str,
    ) -> Result<u64, Fault> {
        self.cookie = self.cookie.wrapping_add(1);
        let request = Request { flags, command, cookie: self.cookie, offset, length_bytes };
        send(self.channel.as_mut(), &request.encode(), doing)?;
        Ok(self.cookie)
    }

    /// The head of the next answer or chunk, and the length of a chunk's content.
    pub(super) fn hear(&mut self, doing: &'static str) -> Result<(Head, u32), Fault> {
        let first: [u8; SIMPLE_BYTES] = receive_array(self.channel.as_mut(), doing)?;
        let head = head(&first)?;
        if !matches!(head, Head::Chunk { .. }) {
            return Ok((head, 0));
        }
        if !self.export.is_structured {
            return Err(Fault::lied("a structured answer, which was not agreed on"));
        }
        let more: [u8; STRUCTURED_MORE_BYTES] = receive_array(self.channel.as_mut(), doing)?;
        Ok((head, u32::from_be_bytes(more)))
    }

    /// What an error chunk of this length says.
    pub(super) fn hear_error(
        &mut self,
        kind: u16,
        length_bytes: u32,
        doing: &'static str,
    ) -> Result<Said, Fault> {
        let content = receive_message(self.channel.as_mut(), length_bytes, ERROR_BYTES_MAX, doing)?;
        error_chunk(kind, &content)
    }

    /// Fills `buffer`, from `offset` on; both ends are multiples of the smallest block. What the server could not
    /// read is no fault of the connection, which may be used again; the buffer is then not whole.
    pub(super) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<Result<(), Failed>, Fault> {
        self.channel.progress();
        let mut waiting = self.pieces(offset, buffer);
        let mut flying: Vec<Piece<'_>> = Vec::new();
        let mut failed = None;
        loop {
            while flying.len() < self.depth && failed.is_none() {
                let Some(mut piece) = waiting.pop_front() else { break };
                let length_bytes = u32::try_from(piece.bytes.len()).unwrap_or(u32::MAX);
                let (flags, at) = (self.read_flags, piece.offset);
                piece.cookie = self.ask(flags, COMMAND_READ, at, length_bytes, READING)?;
                flying.push(piece);
            }
            if flying.is_empty() {
                return Ok(failed.map_or(Ok(()), |said| Err(Failed(said))));
            }
            if let Some(at) = self.answer(&mut flying)? {
                failed = failed.or(flying.swap_remove(at).error);
                self.channel.progress();
            }
        }
    }

    /// Reads with one request, whatever the size of the others is.
    pub(super) fn read_at_once(&mut self, buffer: &mut [u8]) -> Result<Result<(), Failed>, Fault> {
        let usual = std::mem::replace(&mut self.request_bytes, buffer.len().max(1));
        let result = self.read(0, buffer);
        self.request_bytes = usual;
        result
    }

    /// Sends a command that changes the export, and waits until it is done. The range is whole blocks, and no more of them than a
    /// request may have.
    pub(super) fn command(
        &mut self,
        command: u16,
        range: &Range<u64>,
        bytes: &[u8],
    ) -> Result<Result<(), Failed>, Fault> {
        self.channel.progress();
        let length_bytes = u32::try_from(range.end.saturating_sub(range.start));
        let length_bytes = length_bytes.map_err(|_| Fault::lied("a range too long to be asked for"))?;
        let cookie = self.ask(0, command, range.start, length_bytes, WRITING)?;
        send(self.channel.as_mut(), bytes, WRITING)?;
        let (mut failed, mut errors) = (None, 0_u32);
        loop {
            let (head, length_bytes) = self.hear(WRITING)?;
            let (Head::Simple { cookie: answered, .. } | Head::Chunk { cookie: answered, .. }) = head;
            if answered != cookie {
                return Err(Fault::lied("it answers a request that is not under way"));
            }
            match head {
                Head::Simple { error: 0, .. } => return Ok(Ok(())),
                Head::Simple { error, .. } => return Ok(Err(Failed(Said::errno(error, &[])))),
                Head::Chunk { is_last: true, kind: CHUNK_NONE, .. } if length_bytes == 0 => {
                    return Ok(failed.map_or(Ok(()), |said| Err(Failed(said))));
                }
                Head::Chunk { is_last, kind, .. } if is_error_chunk(kind) && errors < ERRORS_MAX => {
                    errors = errors.saturating_add(1);
                    let said = self.hear_error(kind, length_bytes, WRITING)?;
                    if is_last {
                        return Ok(Err(Failed(failed.unwrap_or(said))));
                    }
                    failed.get_or_insert(said);
                }
                Head::Chunk { kind, .. } => {
                    return Err(Fault::lied(format!("a chunk of kind {kind} answers a write")));
                }
            }
        }
    }

    fn pieces<'b>(&self, mut offset: u64, buffer: &'b mut [u8]) -> VecDeque<Piece<'b>> {
        let chunks = buffer.chunks_mut(self.request_bytes);
        let pieces = chunks.map(|bytes| {
            let at = offset;
            offset = offset.saturating_add(length(bytes));
            Piece { cookie: 0, offset: at, bytes, came: Coverage::default(), error: None, errors: 0 }
        });
        pieces.collect()
    }

    /// Takes one answer or chunk; the place of a piece that is now complete.
    fn answer(&mut self, flying: &mut [Piece<'_>]) -> Result<Option<usize>, Fault> {
        let (head, length_bytes) = self.hear(READING)?;
        let (Head::Simple { cookie, .. } | Head::Chunk { cookie, .. }) = head;
        let position = flying.iter().position(|piece| piece.cookie == cookie);
        let Some((at, piece)) = position.and_then(|at| Some((at, flying.get_mut(at)?))) else {
            return Err(Fault::lied("it answers a request that is not under way"));
        };
        match head {
            Head::Simple { error: 0, .. } if self.export.is_structured => {
                Err(Fault::lied("a simple answer to a read after structured ones were agreed on"))
            }
            Head::Simple { error: 0, .. } => {
                receive(self.channel.as_mut(), piece.bytes, READING)?;
                Ok(Some(at))
            }
            Head::Simple { error, .. } => {
                piece.failed(Said::errno(error, &[]))?;
                Ok(Some(at))
            }
            Head::Chunk { is_last, kind, .. } => {
                self.chunk(piece, kind, is_last, length_bytes)?;
                if is_last {
                    piece.finish()?;
                }
                Ok(is_last.then_some(at))
            }
        }
    }

    fn chunk(
        &mut self,
        piece: &mut Piece<'_>,
        kind: u16,
        is_last: bool,
        length_bytes: u32,
    ) -> Result<(), Fault> {
        match (kind, length_bytes) {
            (CHUNK_NONE, 0) if is_last => Ok(()),
            (CHUNK_DATA, 9..) => {
                let offset = u64::from_be_bytes(receive_array(self.channel.as_mut(), READING)?);
                let place = piece.place(offset, u64::from(length_bytes.saturating_sub(8)))?;
                receive(self.channel.as_mut(), place, READING)
            }
            (CHUNK_HOLE, 12) => {
                let content: [u8; 12] = receive_array(self.channel.as_mut(), READING)?;
                let mut fields = ServerFields(&content);
                let (offset, zeros) = (fields.u64()?, fields.u32()?);
                piece.place(offset, u64::from(zeros))?.fill(0);
                Ok(())
            }
            (kind, _) if is_error_chunk(kind) => {
                let said = self.hear_error(kind, length_bytes, READING)?;
                piece.failed(said)
            }
            _ => Err(Fault::lied(format!("a chunk of kind {kind} with {length_bytes} bytes answers a read"))),
        }
    }
}

impl Drop for Connection {
    /// Says goodbye; nobody waits for an answer.
    fn drop(&mut self) {
        if self.is_abandoned {
            return;
        }
        let request =
            Request { flags: 0, command: COMMAND_DISCONNECT, cookie: 0, offset: 0, length_bytes: 0 };
        let _ = send(self.channel.as_mut(), &request.encode(), "leaving");
    }
}
