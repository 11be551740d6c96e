//! G3: the frames that are kept of packs worth rewriting, read, compared with their hashes, and stored in packs of the
//! collector. They stay sealed as they are.
//!
//! ```text
//! read (both ends of a pack, then the frames wanted) ─> gather, by kind ─> build, seal the table ─> upload ─> list
//! ```

use std::collections::BTreeMap;
use std::ops::RangeFrom;

use futures::{StreamExt, TryStreamExt};
use sancerre_advice::Verb::Check;
use sancerre_format::bytes::to_usize;
use sancerre_format::frames::FrameSet;
use sancerre_format::gc;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::list::ListedPack;
use sancerre_format::log::KEEPERS;
use sancerre_format::pack::PackKind;

use super::gather::{MovedFrame, PackFiller, PackInMaking};
use super::plan::Survivors;
use super::source::read;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Topic, add};
use crate::repository::Repository;
use crate::repository::catalogue::Catalogue;
use crate::repository::log::Moves;
use crate::repository::pack_ends::PackRef;
use crate::repository::session::publish_list;

/// Packs read at once, and built and uploaded at once: with what is gathered, eight packs in memory.
const PACKS_IN_FLIGHT: usize = 2;
const UPLOADS_IN_FLIGHT: usize = 2;
/// Packs that one list names at most: keeps its text far below the limit.
const LISTED_MAX: usize = 10_000;

/// What lies in the collector's packs.
#[derive(Debug, Default)]
pub(super) struct Copied {
    moves: gc::PackMoves,
    /// How many packs were stored, and their bytes.
    pub(super) packs: u64,
    pub(super) bytes: u64,
    /// Of those bytes, the sealed frames.
    pub(super) frame_bytes: u64,
}

impl Copied {
    /// All frames that were copied.
    pub(super) fn frames(&self) -> FrameSet {
        let mut all = FrameSet::default();
        self.moves.values().for_each(|frames| all.union(frames));
        all
    }

    /// The moves away from packs that really go: all others lie where they lay, and their copies are garbage.
    pub(super) fn leaving(&self, dead: &FrameSet, before: &Moves) -> gc::PackMoves {
        let mut leaving = gc::PackMoves::new();
        for (ordinal, frames) in &self.moves {
            for frame in frames.frames().filter(|frame| dead.contains_pack(&before.pack(frame))) {
                leaving.entry(*ordinal).or_default().insert(frame);
            }
        }
        leaving
    }
}

/// Copies the frames of `moves` into packs of `session`, and lists them. A pack of which something cannot be had is told
/// and left out: what of it is not copied keeps it from going.
///
/// Errors: the store's; the user's wish to stop.
pub(super) async fn copy(
    repository: &Repository,
    session: SessionId,
    catalogue: &Catalogue,
    moves: &BTreeMap<PackName, Survivors>,
    monitor: &Monitor,
) -> Result<Copied> {
    if moves.is_empty() {
        return Ok(Copied::default());
    }
    add(&monitor.counters.total_bytes, moves.values().fold(0, |sum, kept| kept.bytes + sum));
    let sources = moves.iter().filter_map(|(pack, kept)| Some((PackRef::find(catalogue, *pack)?, kept)));
    let mut read = futures::stream::iter(sources)
        .map(|(source, kept)| async move { (source, read(repository, source, &kept.frames, monitor).await) })
        .buffered(PACKS_IN_FLIGHT)
        .boxed();
    let mut output = Output::new(repository, session, monitor);
    while let Some((source, carried)) = read.next().await {
        match carried {
            Ok(carried) => output.add(source.listed.kind, carried).await?,
            Err(error) if error.is_damage() => {
                monitor.warn(
                    Topic::Damage,
                    format!("pack {} is left as it is: {error}; run {Check}", source.name),
                );
            }
            Err(error) => return Err(error),
        }
    }
    output.finish().await
}

/// The collector's packs in the making.
struct Output<'a> {
    repository: &'a Repository,
    session: SessionId,
    monitor: &'a Monitor,
    data: PackFiller,
    metadata: PackFiller,
    annex: PackFiller,
    ordinals: RangeFrom<u32>,
    waiting: Vec<(u32, PackInMaking)>,
    listed: Vec<ListedPack>,
    copied: Copied,
}

impl<'a> Output<'a> {
    fn new(repository: &'a Repository, session: SessionId, monitor: &'a Monitor) -> Self {
        let pack_bytes = to_usize(repository.layout.pack_bytes);
        Self {
            repository,
            session,
            monitor,
            data: PackFiller::new(PackKind::Data, pack_bytes),
            metadata: PackFiller::new(PackKind::Metadata, pack_bytes),
            annex: PackFiller::new(PackKind::Annex, pack_bytes),
            ordinals: 0..,
            waiting: Vec::new(),
            listed: Vec::new(),
            copied: Copied::default(),
        }
    }

    async fn add(&mut self, kind: PackKind, carried: Vec<MovedFrame>) -> Result<()> {
        for frame in carried {
            let frame_bytes = u64::from(frame.place.sealed_bytes);
            self.copied.frame_bytes += frame_bytes;
            let gathering = match kind {
                PackKind::Data => &mut self.data,
                PackKind::Metadata => &mut self.metadata,
                PackKind::Annex => &mut self.annex,
            };
            let full = gathering.add(frame);
            self.submit(full).await?;
        }
        Ok(())
    }

    async fn submit(&mut self, full: Option<PackInMaking>) -> Result<()> {
        // invariant: none means that there was room
        let Some(full) = full else { return Ok(()) };
        let ordinal =
            self.ordinals.next().ok_or_else(|| Error::Lost { what: "a free pack number".into() })?;
        self.waiting.push((ordinal, full));
        if self.waiting.len() < UPLOADS_IN_FLIGHT { Ok(()) } else { self.upload().await }
    }

    async fn upload(&mut self) -> Result<()> {
        let (repository, session, monitor) = (self.repository, self.session, self.monitor);
        let waiting = std::mem::take(&mut self.waiting);
        for (ordinal, gathered) in &waiting {
            self.copied.moves.insert(*ordinal, gathered.names());
        }
        let uploads = waiting.into_iter().map(|(ordinal, gathered)| async move {
            monitor.check()?;
            gathered.store(repository, session, ordinal).await
        });
        let stored: Vec<ListedPack> =
            futures::stream::iter(uploads).buffered(UPLOADS_IN_FLIGHT).try_collect().await?;
        for pack in stored {
            self.copied.packs += 1;
            self.copied.bytes += pack.size_bytes;
            add(&monitor.counters.stored_bytes, pack.size_bytes);
            self.listed.push(pack);
        }
        Ok(())
    }

    /// Stores what is gathered, and then the lists: what no list names lies nowhere.
    async fn finish(mut self) -> Result<Copied> {
        for rest in [self.data.take(), self.metadata.take(), self.annex.take()] {
            self.submit(rest).await?;
        }
        self.upload().await?;
        for (sequence, packs) in (0..).zip(self.listed.chunks(LISTED_MAX)) {
            let signer = self.repository.signer(KEEPERS)?;
            publish_list(self.repository, signer, self.session, sequence, packs.to_vec()).await?;
        }
        Ok(self.copied)
    }
}
