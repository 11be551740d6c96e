//! Answers to requests: checked, read from the export, and sent a piece at a time, so that a request of any length needs
//! memory for a piece.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use crate::export::{ReadFailure, ServedDisk, Stretch};
use crate::handshake::Agreed;
use crate::limits::{ClientLimits, ConnectionMemory, Held, Tell};
use crate::wire::{self, ClientRequest, REQUEST_BYTES_MAX, ReplyPiece, command, errno};

/// Data of one piece.
const PIECE_BYTES: u32 = 4 << 20;
/// Zeros of less are sent as data: the head of a piece and its handling cost more.
const HOLE_BYTES_MIN: u64 = 32 << 10;
/// Stretches of one answer.
const STRETCHES_MAX: usize = 4096;
/// A client that takes so much is not standing still.
pub(crate) const STEP_BYTES: usize = 64 << 10;

/// Answers on one connection.
pub(crate) struct Answers<W> {
    agreed: Agreed,
    /// None once an answer was sent in part: nothing may come behind it.
    writer: Mutex<Option<W>>,
    pub(crate) memory: ConnectionMemory,
    pub(crate) patience: Duration,
    tell: Tell,
}

impl<W: AsyncWrite + Unpin> Answers<W> {
    pub(crate) fn new(agreed: Agreed, writer: W, limits: &ClientLimits, tell: Tell) -> Self {
        let memory = limits.memory.of_connection();
        Self { agreed, writer: Mutex::new(Some(writer)), memory, patience: limits.patience, tell }
    }

    fn export(&self) -> &Arc<dyn ServedDisk> {
        &self.agreed.export
    }

    /// Answers one request.
    ///
    /// Errors: the connection's. What is wrong with the request or the disk is told to the client.
    pub(crate) async fn answer(&self, request: ClientRequest, payload: Option<Held>) -> io::Result<()> {
        let ClientRequest { command, flags, cookie, .. } = request;
        let range = self.range(&request);
        match (command, range) {
            (command::READ, Some(range)) if self.may_read(&request) => self.read(&request, range).await,
            (command::BLOCK_STATUS, Some(range))
                if self.agreed.has_allocation && flags & !command::FLAG_REQ_ONE == 0 =>
            {
                self.status(&request, range).await
            }
            (command::CACHE, Some(range)) if flags == 0 => {
                self.export().prepare(range);
                self.send(&wire::simple_reply(cookie, 0), &[]).await
            }
            (command::FLUSH | command::WRITE | command::TRIM | command::WRITE_ZEROES, range) => {
                self.change(&request, range, payload).await
            }
            _ => self.refuse(&request, errno::INVALID, "no such request, or not there", None).await,
        }
    }

    /// Room for what a request will write, in memory; none where nothing can be written.
    pub(crate) async fn room(&self, request: &ClientRequest) -> Option<Held> {
        let (Some(_), Some(range)) = (self.export().written(), self.range(request)) else { return None };
        self.hold(&range).await.ok()
    }

    /// Does what changes the disk.
    async fn change(
        &self,
        request: &ClientRequest,
        range: Option<Range<u64>>,
        payload: Option<Held>,
    ) -> io::Result<()> {
        let ClientRequest { command, flags, cookie, offset, .. } = *request;
        let Some(disk) = self.export().written() else {
            return match command {
                command::FLUSH if flags == 0 => self.send(&wire::simple_reply(cookie, 0), &[]).await,
                command::FLUSH => self.refuse(request, errno::INVALID, "no such request", None).await,
                _ => self.refuse(request, errno::PERM, "a snapshot is read-only", None).await,
            };
        };
        let known = match command {
            command::FLUSH => 0,
            command::WRITE_ZEROES => command::FLAG_FUA | command::FLAG_NO_HOLE,
            _ => command::FLAG_FUA,
        };
        let done = match (command, range, payload) {
            _ if flags & !known != 0 => None,
            (command::FLUSH, ..) => Some(disk.flush().await),
            (command::WRITE, Some(_), Some(held)) => Some(disk.write(offset, held.bytes).await),
            (command::WRITE_ZEROES, Some(range), _) => Some(disk.write_zeroes(range).await),
            (command::TRIM, Some(range), _) => Some(disk.trim(range).await),
            _ => None,
        };
        let Some(done) = done else {
            let error = if range_ends(request) > self.export().size_bytes() {
                errno::NO_SPACE
            } else {
                errno::INVALID
            };
            return self.refuse(request, error, "no such request, or not there", None).await;
        };
        let done = match done {
            Ok(()) if flags & command::FLAG_FUA != 0 => disk.flush().await,
            done => done,
        };
        match done {
            Ok(()) => self.send(&wire::simple_reply(cookie, 0), &[]).await,
            Err(failure) => {
                (self.tell)(format!("{}: {failure}", self.export().name()));
                let error = if failure.is_full { errno::NO_SPACE } else { errno::IO };
                self.refuse(request, error, &failure.words, None).await
            }
        }
    }

    /// What a request is about, if that is not empty and lies inside.
    fn range(&self, request: &ClientRequest) -> Option<Range<u64>> {
        let end = request.offset.checked_add(u64::from(request.length_bytes))?;
        (request.length_bytes > 0 && end <= self.export().size_bytes()).then_some(request.offset..end)
    }

    fn may_read(&self, request: &ClientRequest) -> bool {
        let flags = if self.agreed.is_structured { command::FLAG_DF } else { 0 };
        request.length_bytes <= REQUEST_BYTES_MAX && request.flags & !flags == 0
    }

    async fn read(&self, request: &ClientRequest, range: Range<u64>) -> io::Result<()> {
        let is_whole = request.flags & command::FLAG_DF != 0;
        if is_whole && request.length_bytes > PIECE_BYTES {
            return self.refuse(request, errno::OVERFLOW, "too long for one piece", None).await;
        }
        if self.agreed.is_structured && !is_whole {
            return self.read_in_pieces(request, range).await;
        }
        let bytes = match self.fetch(&range).await {
            Ok(bytes) => bytes,
            Err(failure) => return self.fail(request, range.start, &failure).await,
        };
        let head = match self.agreed.is_structured {
            true => wire::piece(request.cookie, true, &ReplyPiece::Data(range.start, request.length_bytes)),
            false => wire::simple_reply(request.cookie, 0),
        };
        self.send(&head, &bytes.bytes).await
    }

    async fn read_in_pieces(&self, request: &ClientRequest, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let stretches = match self.export().stretches(at..range.end, STRETCHES_MAX).await {
                Ok(stretches) => in_pieces(at, range.end, stretches),
                Err(failure) => return self.fail(request, at, &failure).await,
            };
            for Stretch { range: piece, is_data } in stretches {
                let (is_last, length) = (piece.end == range.end, length(&piece));
                if is_data {
                    let bytes = match self.fetch(&piece).await {
                        Ok(bytes) => bytes,
                        Err(failure) => return self.fail(request, piece.start, &failure).await,
                    };
                    let head = wire::piece(request.cookie, is_last, &ReplyPiece::Data(piece.start, length));
                    self.send(&head, &bytes.bytes).await?;
                } else {
                    let hole = ReplyPiece::Hole(piece.start, length);
                    self.send(&wire::piece(request.cookie, is_last, &hole), &[]).await?;
                }
                at = piece.end;
            }
        }
        Ok(())
    }

    async fn status(&self, request: &ClientRequest, range: Range<u64>) -> io::Result<()> {
        let most = if request.flags & command::FLAG_REQ_ONE != 0 { 1 } else { STRETCHES_MAX };
        match self.export().stretches(range.clone(), most).await {
            Ok(stretches) => {
                let stretches = stretches.iter().map(|stretch| (length(&stretch.range), stretch.is_data));
                let status = ReplyPiece::Status(stretches.collect());
                self.send(&wire::piece(request.cookie, true, &status), &[]).await
            }
            Err(failure) => self.fail(request, range.start, &failure).await,
        }
    }

    /// Bytes of the export.
    async fn fetch(&self, range: &Range<u64>) -> Result<Held, ReadFailure> {
        let mut held = self.hold(range).await?;
        self.export().read(range.start, &mut held.bytes).await?;
        Ok(held)
    }

    async fn hold(&self, range: &Range<u64>) -> Result<Held, ReadFailure> {
        self.memory.hold(range.end.saturating_sub(range.start)).await
    }

    /// Tells the client and the log that the disk cannot be read there.
    async fn fail(&self, request: &ClientRequest, offset: u64, failure: &ReadFailure) -> io::Result<()> {
        (self.tell)(format!("{}: {failure}", self.export().name()));
        self.refuse(request, errno::IO, &failure.0, Some(offset)).await
    }

    async fn refuse(
        &self,
        request: &ClientRequest,
        error: u32,
        why: &str,
        at: Option<u64>,
    ) -> io::Result<()> {
        let has_pieces = matches!(request.command, command::READ | command::BLOCK_STATUS);
        let head = match self.agreed.is_structured && has_pieces {
            true => wire::piece(request.cookie, true, &ReplyPiece::Error(error, why.to_owned(), at)),
            false => wire::simple_reply(request.cookie, error),
        };
        self.send(&head, &[]).await
    }

    /// Sends what belongs together.
    async fn send(&self, head: &[u8], bytes: &[u8]) -> io::Result<()> {
        let mut place = self.writer.lock().await;
        let mut writer = place.take().ok_or(io::ErrorKind::BrokenPipe)?;
        for step in [head].into_iter().chain(bytes.chunks(STEP_BYTES)) {
            self.memory.bear(self.patience, writer.write_all(step)).await?;
        }
        *place = Some(writer);
        Ok(())
    }
}

fn range_ends(request: &ClientRequest) -> u64 {
    request.offset.saturating_add(u64::from(request.length_bytes))
}

/// Stretches as pieces of an answer: short holes become data, long data is cut. What an export says beyond the range is
/// left out, and what it says nothing of is data.
fn in_pieces(start: u64, end: u64, stretches: Vec<Stretch>) -> Vec<Stretch> {
    let mut joined: Vec<Stretch> = Vec::new();
    let mut at = start;
    for stretch in stretches {
        let range = at..stretch.range.end.min(end);
        if range.is_empty() || stretch.range.start > at {
            break;
        }
        at = range.end;
        let is_data = stretch.is_data || range.end.saturating_sub(range.start) < HOLE_BYTES_MIN;
        match joined.last_mut() {
            Some(last) if last.is_data == is_data => last.range.end = range.end,
            _ => joined.push(Stretch { range, is_data }),
        }
    }
    if joined.is_empty() {
        joined.push(Stretch { range: start..end, is_data: true });
    }
    joined.into_iter().flat_map(cut).collect()
}

fn cut(stretch: Stretch) -> Vec<Stretch> {
    let Stretch { range, is_data } = stretch;
    if !is_data {
        return vec![Stretch { range, is_data }];
    }
    let (mut pieces, mut at) = (Vec::new(), range.start);
    while at < range.end {
        let end = at.saturating_add(u64::from(PIECE_BYTES)).min(range.end);
        pieces.push(Stretch { range: at..end, is_data });
        at = end;
    }
    pieces
}

/// The length of a part of a request, which is 32-bit.
fn length(range: &Range<u64>) -> u32 {
    u32::try_from(range.end.saturating_sub(range.start)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_range_whatever_an_export_says() {
        let stretch = |range: Range<u64>, is_data| Stretch { range, is_data };
        let mib = 1 << 20;
        for stretches in [
            vec![],
            vec![stretch(0..10 * mib, true)],
            vec![stretch(0..4096, false), stretch(4096..8192, true), stretch(8192..mib, false)],
            vec![stretch(0..mib, false), stretch(mib..90 * mib, true)],
            vec![stretch(0..mib, false), stretch(2 * mib..3 * mib, true)],
            vec![stretch(5..5, true)],
        ] {
            let pieces = in_pieces(0, 10 * mib, stretches);
            assert!(pieces.first().is_some_and(|first| first.range.start == 0));
            assert!(pieces.last().is_some_and(|last| last.range.end <= 10 * mib));
            assert!(pieces.iter().all(|piece| !piece.range.is_empty()));
            assert!(pieces.is_sorted_by(|a, b| a.range.end == b.range.start));
            assert!(pieces.iter().all(|piece| !piece.is_data || length(&piece.range) <= PIECE_BYTES));
        }
    }
}
