//! Writing a disk in order to a pipe: slices of it are fetched ahead, in parallel, and written one after another.

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;
use futures::future::try_join;
use futures::stream::{self, StreamExt, TryStreamExt};
use sancerre_format::bytes::{to_u64, to_usize};
use sancerre_format::outcome::Member;
use tokio::sync::{Semaphore, mpsc};

use crate::error::{Error, Result};
use crate::monitor::{Monitor, add};
use crate::restore::fallback::{Copies, Gone};
use crate::restore::fetch::{Failed, Fetched, Fetcher};
use crate::restore::open::{open, stretch};
use crate::restore::plan::{Holes, Piece, plan};
use crate::restore::walk::{MapWalk, Window};

/// Slices being fetched at once.
const SLICES_IN_FLIGHT: usize = 16;
/// Requests in flight for one slice.
const REQUESTS_PER_SLICE: usize = 16;
/// Slices that fit into the memory for output, at least.
const SLICES_PER_BUDGET: u64 = 8;
/// The output's memory is counted in these.
const UNIT_BYTES: u64 = 1 << 10;

static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// Chunks by their offset on the disk.
type Slice = BTreeMap<u64, Bytes>;

/// Writes all of `member` to `out` and returns the bytes of data among them. `output_bytes` bounds what waits for
/// its turn.
pub(super) async fn dump(
    fetcher: &Fetcher<'_>,
    member: &Member,
    out: &mut (dyn Write + Send),
    output_bytes: u64,
) -> Result<u64> {
    let memory = Memory::new(output_bytes);
    let (sender, receiver) = mpsc::channel(1);
    let mut output = Output { out, monitor: fetcher.monitor, holes: Holes::default(), data_bytes: 0 };
    let write = write_slices(fetcher, member, &memory, receiver, &mut output);
    let done = try_join(plan_slices(fetcher, member, output_bytes, sender), write).await;
    if done.is_err() {
        fetcher.join_work().await;
    }
    done?;
    output.finish(fetcher, member)?;
    Ok(output.data_bytes)
}

struct Memory {
    units: Semaphore,
    most: u32,
}

impl Memory {
    fn new(bytes: u64) -> Self {
        let most = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        Self { units: Semaphore::new(to_usize(most)), most }
    }

    /// All of the budget at most, so that a large slice waits until it is alone.
    async fn reserve(&self, bytes: u64) -> Result<tokio::sync::SemaphorePermit<'_>> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.most);
        self.units.acquire_many(units).await.map_err(|_| Error::Worker)
    }
}

async fn plan_slices(
    fetcher: &Fetcher<'_>,
    member: &Member,
    output_bytes: u64,
    slices: mpsc::Sender<Vec<Window>>,
) -> Result<()> {
    let region_bytes = u64::from(fetcher.frames().repository().layout.region_bytes);
    let slice_bytes = (output_bytes / SLICES_PER_BUDGET).max(1);
    let mut walk = MapWalk::new(fetcher, member)?;
    while let Some(window) = walk.next().await? {
        walk.refuse_gone()?;
        // Nobody listens any more after a failure, which the listener reports.
        if slices.send(cut(window, region_bytes, slice_bytes)).await.is_err() {
            break;
        }
    }
    walk.refuse_gone()
}

/// Cuts a window at the ends of regions, which frames do not cross, and wherever a slice would be too large.
fn cut(window: Window, region_bytes: u64, slice_bytes: u64) -> Vec<Window> {
    let (mut slices, mut held_bytes, mut region) = (Vec::<Window>::new(), 0u64, 0u64);
    for wanted in window {
        let (chunk_region, chunk_bytes) = (wanted.1.at / region_bytes.max(1), u64::from(wanted.1.size_bytes));
        let grown = held_bytes.saturating_add(chunk_bytes);
        match slices.last_mut() {
            Some(slice) if chunk_region == region && grown <= slice_bytes => {
                slice.push(wanted);
                held_bytes = grown;
            }
            _ => {
                slices.push(vec![wanted]);
                (held_bytes, region) = (chunk_bytes, chunk_region);
            }
        }
    }
    slices
}

async fn write_slices(
    fetcher: &Fetcher<'_>,
    member: &Member,
    memory: &Memory,
    receiver: mpsc::Receiver<Vec<Window>>,
    output: &mut Output<'_>,
) -> Result<()> {
    let windows = stream::unfold(receiver, |mut receiver| async move {
        let slices = receiver.recv().await?;
        Some((stream::iter(slices), receiver))
    });
    let fetch = |window: Window| async move {
        let size_bytes = window.iter().map(|(_, chunk)| u64::from(chunk.size_bytes)).sum();
        // Taken in the order of the slices, all at once: the first one never waits for a later one.
        let permit = memory.reserve(size_bytes).await?;
        Ok::<_, Error>((fetch_slice(fetcher, member, window).await?, permit))
    };
    let mut slices = std::pin::pin!(windows.flatten().map(fetch).buffered(SLICES_IN_FLIGHT));
    while let Some((slice, _memory)) = slices.try_next().await? {
        for (at, chunk) in &slice {
            output.write(fetcher, *at, chunk)?;
        }
    }
    Ok(())
}

async fn fetch_slice(fetcher: &Fetcher<'_>, member: &Member, window: Window) -> Result<Slice> {
    let merge = fetcher.merge(&window);
    let requests = stream::iter(plan(window, merge)).map(|range| fetcher.data(range));
    let opened = requests.flatten_unordered(REQUESTS_PER_SLICE).map(|arrival| async move {
        match arrival? {
            Ok(fetched) => fetcher.compute(move || open_chunks(&fetched)).await?,
            Err(failed) => Ok((Chunks::new(), Some(failed))),
        }
    });
    let mut opened = std::pin::pin!(opened.buffer_unordered(fetcher.jobs_ready()));
    let (mut slice, mut lost) = (Slice::new(), Vec::new());
    while let Some((chunks, failed)) = opened.try_next().await? {
        slice.extend(chunks);
        lost.extend(failed);
    }
    mend(fetcher, member, lost, &mut slice).await?;
    Ok(slice)
}

type Chunks = Vec<(u64, Bytes)>;

fn open_chunks(fetched: &Fetched) -> Result<(Chunks, Option<Failed>)> {
    let mut chunks = Chunks::new();
    let failed = open(fetched, |pieces, raw| {
        let wanted_bytes: usize = pieces.iter().map(|piece| to_usize(piece.size_bytes)).sum();
        // A frame of which little is wanted must not be kept whole while the slice waits for its turn.
        if wanted_bytes >= raw.len() / 2 {
            let raw = Bytes::from(raw);
            let slice = |piece: &Piece| (piece.at, raw.slice(piece.raw()));
            chunks.extend(pieces.iter().map(slice));
            return Ok(());
        }
        for piece in pieces {
            chunks.push((piece.at, Bytes::copy_from_slice(stretch(&raw, piece.raw())?)));
        }
        Ok(())
    })?;
    Ok((chunks, failed))
}

async fn mend(
    fetcher: &Fetcher<'_>,
    member: &Member,
    mut lost: Vec<Failed>,
    slice: &mut Slice,
) -> Result<()> {
    if lost.is_empty() {
        return Ok(());
    }
    let mut copies = Copies::locate(fetcher, &mut lost).await?;
    let mut gone = Gone::default();
    for failed in lost {
        for (frame, piece) in failed.pieces() {
            match copies.chunk(frame, piece).await? {
                Some(chunk) => drop(slice.insert(piece.at, chunk.into())),
                None => gone.add(piece.disk()),
            }
        }
        gone.because(failed.error);
    }
    gone.verdict(member)
}

/// The pipe, and how far it is.
struct Output<'a> {
    out: &'a mut (dyn Write + Send),
    monitor: &'a Monitor,
    holes: Holes,
    data_bytes: u64,
}

impl Output<'_> {
    fn write(&mut self, fetcher: &Fetcher<'_>, at: u64, chunk: &[u8]) -> Result<()> {
        let size_bytes = to_u64(chunk.len());
        let end = at.saturating_add(size_bytes);
        let hole = self.holes.before(&(at..end)).map_err(|error| fetcher.reader.blame(error))?;
        self.zeros(hole.end.saturating_sub(hole.start))?;
        self.monitor.check()?;
        self.out.write_all(chunk).map_err(failed)?;
        self.data_bytes = self.data_bytes.saturating_add(size_bytes);
        add(&self.monitor.counters.done_bytes, size_bytes);
        Ok(())
    }

    fn zeros(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            self.monitor.check()?;
            let part = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
            self.out.write_all(ZEROS.get(..part).unwrap_or(&ZEROS)).map_err(failed)?;
            count = count.saturating_sub(to_u64(part));
        }
        Ok(())
    }

    fn finish(&mut self, fetcher: &Fetcher<'_>, member: &Member) -> Result<()> {
        let end = member.size_bytes..member.size_bytes;
        let hole = self.holes.before(&end).map_err(|error| fetcher.reader.blame(error))?;
        self.zeros(hole.end.saturating_sub(hole.start))?;
        self.out.flush().map_err(failed)
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::File { operation: "write to", path: "the output".into(), source }
}
