//! Writing a disk to a target: frames in any order, each decoded and written by one job.

use std::ops::Range;
use std::sync::Arc;

use futures::future::try_join;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt, TryStreamExt};
use sancerre_format::outcome::Member;
use tokio::sync::mpsc;

use crate::error::Result;
use crate::restore::arrival::Arrival;
use crate::restore::fallback::{Copies, Gone};
use crate::restore::fetch::{Failed, Fetcher};
use crate::restore::keep::keep;
use crate::restore::plan::{Holes, PackRange, plan};
use crate::restore::sink::{Sink, Written};
use crate::restore::streams::STREAMS_MAX;
use crate::restore::walk::MapWalk;

/// Chunks that may wait for another copy before the index is searched for them: one pass for many.
const LOST_CHUNKS_MAX: usize = 16 << 10;

/// One step of a restore.
enum Step {
    Zero(Vec<Range<u64>>),
    Write(PackRange),
}

/// Writes all of `member` that is not there yet.
pub(super) async fn write(fetcher: &Fetcher<'_>, member: &Member, sink: &Arc<Sink>) -> Result<Written> {
    // One window waits while another is written and a third is planned.
    let (sender, receiver) = mpsc::channel(1);
    let done = try_join(plan_steps(fetcher, member, sink, sender), run_steps(fetcher, sink, receiver)).await;
    if done.is_err() {
        fetcher.join_work().await;
    }
    let (mut gone, chunks_gone) = done?;
    // All that could be had is in place: only now it is said what could not.
    gone.extend(chunks_gone);
    gone.verdict(member)?;
    Ok(sink.written())
}

async fn plan_steps(
    fetcher: &Fetcher<'_>,
    member: &Member,
    sink: &Arc<Sink>,
    steps: mpsc::Sender<Vec<Step>>,
) -> Result<Gone> {
    let (mut walk, mut holes) = (MapWalk::new(fetcher, member)?, Holes::default());
    let blame = |error| fetcher.reader.blame(error);
    while let Some(window) = walk.next().await? {
        let gaps = window.iter().map(|(_, chunk)| holes.before(&chunk.disk()));
        let gaps = gaps.collect::<std::result::Result<Vec<_>, _>>().map_err(blame)?;
        let window = keep(fetcher, sink, window).await?;
        let merge = fetcher.merge(&window);
        let mut planned = vec![Step::Zero(gaps)];
        planned.extend(plan(window, merge).into_iter().map(Step::Write));
        // Nobody listens any more after a failure, which the listener reports.
        if steps.send(planned).await.is_err() {
            return Ok(Gone::default());
        }
    }
    let end = holes.before(&(member.size_bytes..member.size_bytes)).map_err(blame)?;
    let _ = steps.send(vec![Step::Zero(vec![end])]).await;
    Ok(walk.into_gone())
}

async fn run_steps(
    fetcher: &Fetcher<'_>,
    sink: &Arc<Sink>,
    receiver: mpsc::Receiver<Vec<Step>>,
) -> Result<Gone> {
    let windows = stream::unfold(receiver, |mut receiver| async move {
        let steps = receiver.recv().await?;
        Some((stream::iter(steps), receiver))
    });
    let jobs = windows.flatten().map(|step| jobs_of(fetcher, step)).flatten_unordered(STREAMS_MAX);
    let done = jobs.map(|job| async move { run_job(fetcher, sink, job?).await });
    let mut running = std::pin::pin!(done.buffer_unordered(fetcher.jobs_ready()));
    let (mut lost, mut gone): (Vec<Failed>, Gone) = Default::default();
    let mut mending = FuturesUnordered::new();
    loop {
        if chunks(&lost) > LOST_CHUNKS_MAX && mending.is_empty() {
            mending.push(mend(fetcher, sink, std::mem::take(&mut lost)));
        }
        // Both at once: what a request holds, a file or a listing, the search for other copies may need.
        tokio::select! {
            biased;
            Some(mended) = mending.next(), if !mending.is_empty() => gone.extend(mended?),
            done = running.try_next() => match done? {
                Some(failed) => lost.extend(failed),
                None => break,
            },
        }
    }
    while let Some(mended) = mending.next().await {
        gone.extend(mended?);
    }
    gone.extend(mend(fetcher, sink, lost).await?);
    Ok(gone)
}

fn chunks(lost: &[Failed]) -> usize {
    lost.iter().flat_map(|failed| &failed.frames).map(|frame| frame.pieces.len()).sum()
}

/// Work for a processor.
enum Job {
    Zero(Vec<Range<u64>>),
    Write(Arrival),
}

fn jobs_of<'a>(fetcher: &'a Fetcher<'_>, step: Step) -> BoxStream<'a, Result<Job>> {
    match step {
        Step::Zero(gaps) => stream::iter([Ok(Job::Zero(gaps))]).boxed(),
        Step::Write(range) => fetcher.data(range).map_ok(Job::Write).boxed(),
    }
}

/// Returns what could not be written.
async fn run_job(fetcher: &Fetcher<'_>, sink: &Arc<Sink>, job: Job) -> Result<Option<Failed>> {
    let sink = Arc::clone(sink);
    match job {
        Job::Zero(gaps) => fetcher.compute(move || sink.zero(gaps)).await?.map(|()| None),
        Job::Write(Ok(fetched)) => fetcher.compute(move || sink.write(&fetched)).await?,
        Job::Write(Err(failed)) => Ok(Some(failed)),
    }
}

/// Writes what other copies give for the lost chunks; says for which there is none.
async fn mend(fetcher: &Fetcher<'_>, sink: &Sink, mut lost: Vec<Failed>) -> Result<Gone> {
    let mut gone = Gone::default();
    if lost.is_empty() {
        return Ok(gone);
    }
    let mut copies = Copies::locate(fetcher, &mut lost).await?;
    for failed in lost {
        for (frame, piece) in failed.pieces() {
            match copies.chunk(frame, piece).await? {
                Some(chunk) => sink.write_at(piece.at, &chunk)?,
                None => gone.add(piece.disk()),
            }
        }
        gone.because(failed.error);
    }
    Ok(gone)
}
