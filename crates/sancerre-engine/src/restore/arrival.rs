//! One request and the frames that arrive with it, handed out one by one.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::id::PackName;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{Error, ErrorKind, Result};
use crate::frames::Frames;
use crate::host::monotonic;
use crate::restore::fetch::{Failed, Fetched, Fetcher, Located};
use crate::restore::plan::{PackRange, WantedFrame};
use crate::restore::streams::Turn;
use crate::store::RangeReader;

/// A frame, or the reason why it and others cannot be had.
pub(super) type Arrival = std::result::Result<Fetched, Failed>;

impl Fetcher<'_> {
    /// The frames of a range of data, as they arrive; waits until another request is worth its while.
    ///
    /// Errors: what is wrong with the store, the keys or the request rather than with the packs.
    pub(super) fn data(&self, range: PackRange) -> BoxStream<'_, Result<Arrival>> {
        let entered = async move {
            let turn = self.streams.enter().await?;
            Ok::<_, Error>(Request::new(self, range, Some(turn)))
        };
        stream::once(entered).map(unfold).flatten().boxed()
    }

    /// The frames of a range of a map, as they arrive: no data waits behind them, and they wait for none.
    ///
    /// Errors: as [`Fetcher::data`].
    pub(super) fn map(&self, range: PackRange) -> BoxStream<'_, Result<Arrival>> {
        unfold(Ok(Request::new(self, range, None)))
    }
}

fn unfold(request: Result<Request<'_>>) -> BoxStream<'_, Result<Arrival>> {
    match request {
        Ok(request) => stream::try_unfold(request, |mut request| async move {
            Ok(request.next().await?.map(|arrival| (arrival, request)))
        })
        .boxed(),
        Err(error) => stream::iter([Err(error)]).boxed(),
    }
}

struct Request<'a> {
    fetcher: &'a Fetcher<'a>,
    pack: PackName,
    end: u64,
    left: VecDeque<WantedFrame>,
    answer: Option<Answer>,
    /// After damage each frame is asked for by itself: a bad one must not cost its neighbours.
    one_by_one: bool,
    turn: Option<Turn<'a>>,
}

/// An answer, and how far it was read.
struct Answer {
    located: Located,
    reader: RangeReader,
    at: u64,
}

impl<'a> Request<'a> {
    fn new(fetcher: &'a Fetcher<'a>, range: PackRange, turn: Option<Turn<'a>>) -> Self {
        Self {
            fetcher,
            pack: range.pack,
            end: range.bytes.end,
            left: range.frames.into(),
            answer: None,
            one_by_one: false,
            turn,
        }
    }

    async fn next(&mut self) -> Result<Option<Arrival>> {
        self.fetcher.monitor.check()?;
        let Some(frame) = self.left.pop_front() else { return Ok(None) };
        let memory = self.fetcher.reserve(u64::from(frame.place.sealed_bytes)).await?;
        let error = match self.read(&frame).await {
            Ok((frames, sealed)) => return Ok(Some(Ok(Fetched { frames, frame, sealed, _memory: memory }))),
            Err(error) => error,
        };
        if error.is_damage()
            && let Some((frames, sealed)) = self.fetcher.read_elsewhere(&frame).await?
        {
            return Ok(Some(Ok(Fetched { frames, frame, sealed, _memory: memory })));
        }
        match error.kind() {
            ErrorKind::Damaged => {
                self.answer = None;
                self.one_by_one = true;
                Ok(Some(Err(Failed { frames: vec![frame], error })))
            }
            ErrorKind::Missing => self.follow(frame, memory, error).await.map(Some),
            _ => Err(error),
        }
    }

    /// After its pack was missing: a frame that gc moved meanwhile is read from where it lies now.
    async fn follow(
        &mut self,
        frame: WantedFrame,
        memory: OwnedSemaphorePermit,
        missing: Error,
    ) -> Result<Arrival> {
        match self.fetcher.again(&frame).await? {
            Some(Ok((frames, sealed))) => Ok(Ok(Fetched { frames, frame, sealed, _memory: memory })),
            Some(Err(error)) => Ok(Err(Failed { frames: vec![frame], error })),
            None => {
                let frames = std::iter::once(frame).chain(self.left.drain(..)).collect();
                Ok(Err(Failed { frames, error: missing }))
            }
        }
    }

    async fn read(&mut self, frame: &WantedFrame) -> Result<(Arc<Frames>, Bytes)> {
        let sealed = frame.sealed();
        let fetcher = self.fetcher;
        // Frames of an honest map do not overlap.
        let usable = self.answer.take().filter(|answer| answer.at <= sealed.start);
        let (is_new, asked) = (usable.is_none(), monotonic());
        let mut answer = match usable {
            Some(answer) => answer,
            None => self.ask(&sealed).await?,
        };
        answer.located.check(&frame.place)?;
        let read = answer.read(frame).await;
        let (bytes, requests) = answer.reader.take_traffic();
        fetcher.count_bytes(bytes);
        fetcher.count_requests(requests);
        let read = match read {
            Ok(read) => read,
            Err(error) => return Err(fetcher.diagnose(self.pack, &answer.located, error).await),
        };
        if is_new {
            fetcher.streams.answered(monotonic().saturating_duration_since(asked));
        }
        if self.turn.is_some() {
            fetcher.streams.arrived(to_u64(read.len()), fetcher.is_idle());
        }
        let frames = Arc::clone(&answer.located.frames);
        self.answer = Some(answer);
        Ok((frames, read))
    }

    /// Asks for all that is left from here, or for these bytes alone.
    async fn ask(&mut self, first: &Range<u64>) -> Result<Answer> {
        let located = self.fetcher.locate(self.pack).await?;
        let end = if self.one_by_one { first.end } else { self.end.min(located.size_bytes).max(first.end) };
        let reader = located.frames.repository().store.range_reader(&located.key, first.start..end);
        Ok(Answer { located, reader, at: first.start })
    }
}

impl Answer {
    async fn read(&mut self, frame: &WantedFrame) -> Result<Bytes> {
        let sealed = frame.sealed();
        self.reader.skip(sealed.start.saturating_sub(self.at)).await?;
        let bytes = self.reader.read(to_usize(frame.place.sealed_bytes)).await?;
        self.at = sealed.end;
        Ok(bytes)
    }
}
