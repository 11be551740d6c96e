//! One disk or stream: regions to workers, their results in order to the tree.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use sancerre_advice::Setting::OnlyUnreadable;
use sancerre_format::bytes::to_u64;
use sancerre_format::chunk::Chunker;
use sancerre_format::id::ContentId;
use sancerre_format::names::Title;
use sancerre_format::node::Node;
use sancerre_format::outcome::{Chunking, Member, MemberKind, MemberWords};
use sancerre_image::Disk;
use tokio::sync::{Mutex, Semaphore};

use super::growing::Growing;
use super::hinted::{self, Hinted, How};
use super::noticed::DiskNotice;
use super::options::Allow;
use super::region::{self, BaseChunk, RegionInput, RegionMap};
use super::regions;
use super::reread;
use super::salvage::Salvage;
use super::tree::Grown;
use super::upload::Uploader;
use super::watch::Watch;
use super::{BackupSource, Base, Input, Run, Shared};
use crate::dedup::{PlaceMap, Speaker, Word};
use crate::error::{Error, Result, invariant};
use crate::map::MapReader;
use crate::monitor::{Topic, add};
use crate::repository::Repository;

/// Holes between two looks whether the disk changed.
const HOLES_PER_LOOK: u64 = 256;

/// A region's result and the bytes it covered; of a hole, any number of regions.
pub(super) type Scanned = (RegionMap, u64);
pub(super) type Regions<'a> = BoxStream<'a, Result<Scanned>>;

impl Run {
    /// Backs up one source and adds it to the snapshot.
    pub(super) async fn attempt(
        &mut self,
        source: BackupSource,
        allow: Allow,
        uploader: Option<&mut Uploader>,
        hinted: Option<Arc<Hinted>>,
    ) -> Result<()> {
        let chunking = match (&source.input, &source.kind) {
            (Input::Catalogue(_), _) => Chunking::Pieces,
            (_, MemberKind::Disk) => Chunking::Disk,
            _ => Chunking::Stream,
        };
        let base = self.base_map(&source, &chunking);
        let (disk, least_bytes) = (source.disk(), source.least_bytes);
        let salvage = Salvage::of(&source, allow, &self.shared.monitor);
        let earlier = self.noticed.earlier(&source, base.is_some());
        let mut notice = earlier.as_ref().map(|earlier| earlier.notice());
        let how = How { salvage: salvage.clone(), partly: self.partly(&source)?, hinted, earlier };
        let mut member = Member {
            name: source.name.clone(),
            kind: source.kind.clone(),
            chunking: chunking.clone(),
            phase_bytes: 0,
            size_bytes: 0,
            data_bytes: 0,
            new_bytes: 0,
            chunks: 0,
            new_chunks: 0,
            fuzzy: self.was_fuzzy(&source),
            root: None,
            words: MemberWords::default(),
        };
        let regions = self.regions(source, chunking, base.as_ref(), how)?;
        let watch = Watch::new(&self.repository, &self.shared.monitor, disk, allow);
        let seen = (&watch, &mut notice);
        self.collect(regions, &mut member, base.as_deref(), seen, uploader).await?;
        member.words = self.words(&member, salvage.as_deref())?;
        self.judge_member(&member, least_bytes, allow)?;
        if let Some(notice) = notice {
            self.noticed.judge(&mut member, notice)?;
        }
        self.members.push(member);
        Ok(())
    }

    /// The map of the same disk in the snapshot before.
    fn base_map(&self, source: &BackupSource, chunking: &Chunking) -> Option<Arc<MapReader>> {
        let Base { frames, body, .. } = self.base.as_ref()?;
        let member =
            body.members.iter().find(|member| member.name == source.name && member.chunking == *chunking)?;
        match MapReader::new(Arc::clone(frames), member) {
            Ok(map) => Some(Arc::new(map)),
            Err(error) => {
                self.shared.monitor.warn(
                    Topic::Hint,
                    format!("the map of {} before this one is ignored: {error}", source.name),
                );
                None
            }
        }
    }

    /// The regions of a source, scanned by workers, in order.
    fn regions<'a>(
        &self,
        source: BackupSource,
        chunking: Chunking,
        base: Option<&Arc<MapReader>>,
        how: How,
    ) -> Result<Regions<'a>> {
        if how.partly.is_some() && base.is_none() {
            let name = &source.name;
            return Err(Error::Refused(format!(
                "the map of {name} in the last snapshot cannot be read; leave {OnlyUnreadable} out"
            )));
        }
        if let (Some(hinted), None) = (&how.hinted, base) {
            return Err(hinted.doubt.lost(&Error::Lost { what: format!("the map of {}", source.name) }));
        }
        let scan = Arc::new(Scanning {
            repository: self.repository.clone(),
            shared: Arc::clone(&self.shared),
            chunking,
            base: base.cloned(),
            base_speaker: self.base.as_ref().map_or(Speaker::Base, |base| base.speaker),
            workers: Semaphore::new(self.workers),
            how,
        });
        Ok(match source.input {
            Input::Disk(disk) => regions::of_disk(scan, disk, self.workers),
            Input::Stream(stream) | Input::Catalogue(stream) => stream_regions(scan, stream, source.name),
        })
    }

    async fn collect(
        &mut self,
        mut regions: Regions<'_>,
        member: &mut Member,
        base: Option<&MapReader>,
        (watch, notice): (&Watch, &mut Option<DiskNotice>),
        mut uploader: Option<&mut Uploader>,
    ) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let known_size = watch.disk.as_ref().map(|disk| disk.size_bytes());
        let seed = u64::from_le_bytes(self.repository.host.random());
        let mut growing = Growing::new(&shared, base, self.repository.layout, seed, known_size)?;
        let mut holes = 0;
        while let Some((map, length_bytes)) = regions.try_next().await? {
            shared.monitor.check()?;
            member.count(&map, length_bytes)?;
            if let Some(notice) = notice {
                notice.region(&map);
            }
            // Of a huge disk nearly all is holes, and the question costs more than they do.
            if !map.chunks.is_empty() || holes % HOLES_PER_LOOK == 0 {
                member.fuzzy |= watch.changed().await?;
            }
            holes += u64::from(map.chunks.is_empty());
            growing.add(map, length_bytes).await?;
            if let Some(uploader) = uploader.as_deref_mut() {
                uploader.submit(shared.packer.take_finished()).await?;
            }
        }
        member.fuzzy |= watch.changed().await?;
        let Grown { root, uses, data_bytes, sample } = growing.finish(member.size_bytes).await?;
        let (size_bytes, counted) = (member.size_bytes, member.data_bytes);
        invariant!(
            known_size.is_none_or(|size| size == size_bytes),
            "of {known_size:?} bytes {size_bytes} were read"
        );
        invariant!(
            data_bytes == counted,
            "a map of {data_bytes} bytes of data for {counted} bytes that were read"
        );
        member.root = root;
        self.uses.union(&uses);
        self.samples.push(sample);
        Ok(())
    }
}

/// Counts a region into its member.
trait Count {
    fn count(&mut self, map: &RegionMap, length_bytes: u64) -> Result<()>;
}

impl Count for Member {
    fn count(&mut self, map: &RegionMap, length_bytes: u64) -> Result<()> {
        invariant!(map.open.is_empty(), "{} chunks of a region have no place", map.open.len());
        invariant!(
            map.data_bytes <= length_bytes,
            "{} bytes of data in a region of {length_bytes}",
            map.data_bytes
        );
        self.size_bytes += length_bytes;
        self.data_bytes += map.data_bytes;
        self.new_bytes += map.new_bytes;
        self.chunks += to_u64(map.chunks.len());
        self.new_chunks += map.new_chunks;
        Ok(())
    }
}

/// What the scans of one member share.
pub(super) struct Scanning {
    pub(super) repository: Repository,
    pub(super) shared: Arc<Shared>,
    chunking: Chunking,
    base: Option<Arc<MapReader>>,
    base_speaker: Speaker,
    workers: Semaphore,
    pub(super) how: How,
}

fn stream_regions<'a>(scanning: Arc<Scanning>, stream: Box<dyn Read + Send>, name: Title) -> Regions<'a> {
    let region_bytes = scanning.repository.layout.region_bytes;
    let stream = Arc::new(Mutex::new(stream));
    let read = move |number: u64| {
        let (scanning, stream, name) = (Arc::clone(&scanning), Arc::clone(&stream), name.clone());
        async move {
            let mut stream = stream.lock_owned().await;
            let reading = scanning.repository.host.compute(move || read_region(&mut **stream, region_bytes));
            let read = scanning.shared.monitor.unless_interrupted(reading).await?;
            let bytes = read.map_err(|source| Error::File {
                operation: "read",
                path: format!("what is to become {name}"),
                source,
            })?;
            if bytes.is_empty() {
                return Ok::<_, Error>(None);
            }
            let length_bytes = to_u64(bytes.len());
            add(&scanning.shared.monitor.counters.total_bytes, length_bytes);
            let scanned = scanning.region(number, RegionInput::Memory(bytes), length_bytes).await?;
            let more = length_bytes == u64::from(region_bytes);
            Ok(Some((scanned, more)))
        }
    };
    let next = move |state: Option<u64>| {
        let read = state.map(|number| (number, read(number)));
        async move {
            let Some((number, read)) = read else { return Ok(None) };
            Ok(read.await?.map(|(scanned, more)| (scanned, more.then_some(number + 1))))
        }
    };
    stream::try_unfold(Some(0), next).boxed()
}

impl Scanning {
    pub(super) async fn region(&self, number: u64, input: RegionInput, length_bytes: u64) -> Result<Scanned> {
        let base = self.base_chunks(number).await?;
        let input = Arc::new(input);
        let (shared, scanned) = (Arc::clone(&self.shared), Arc::clone(&input));
        let How { partly, hinted, earlier, .. } = self.how.clone();
        let begun = match earlier {
            Some(earlier) => earlier.begin(input.extent().0, length_bytes, &shared.monitor).await,
            None => RegionMap::default(),
        };
        let by = hinted.clone();
        let scan = move |chunker: &Chunker| match (partly, by) {
            (Some(partly), _) => reread::scan(&shared, chunker, &scanned, &base, &partly, begun),
            (None, Some(hinted)) => hinted::scan(&shared, chunker, &scanned, &base, &hinted, begun),
            (None, None) => region::scan(&shared, chunker, &scanned, &base, begun),
        };
        let mut map = self.work(scan).await?;
        if !map.open.is_empty() {
            let known = self.resolve(&map).await?;
            let shared = Arc::clone(&self.shared);
            let (start, _) = input.extent();
            let ids = map.open.iter().filter_map(|open| Some((open.slot, map.chunks.get(open.slot)?.id)));
            let ids: Vec<(usize, ContentId)> = ids.collect();
            map = self
                .work(move |chunker| region::resolve_undecided(&shared, chunker, &input, map, &known))
                .await?;
            if let Some(hinted) = hinted {
                hinted.doubt.settled(&ids, &map, start)?;
            }
        }
        add(&self.shared.monitor.counters.done_bytes, length_bytes);
        Ok((map, length_bytes))
    }

    /// Reads what is left of the sample of what was not read.
    pub(super) async fn verify(&self, disk: &Arc<dyn Disk>) -> Result<()> {
        let How { hinted: Some(hinted), salvage, .. } = self.how.clone() else { return Ok(()) }; // invariant: no map, no doubt
        let (shared, disk) = (Arc::clone(&self.shared), Arc::clone(disk));
        let verified = move || hinted.doubt.finish(&shared, &disk, salvage.as_ref());
        let verified = self.repository.host.compute(verified);
        self.shared.monitor.unless_interrupted(verified).await?
    }

    /// Runs a job as one of the workers.
    async fn work(
        &self,
        job: impl FnOnce(&Chunker) -> Result<RegionMap> + Send + 'static,
    ) -> Result<RegionMap> {
        let _worker = self.workers.acquire().await.map_err(|_| Error::Worker)?;
        self.shared.monitor.check()?;
        let (shared, chunking) = (Arc::clone(&self.shared), self.chunking.clone());
        let done = self.repository.host.compute(move || {
            job(match chunking {
                Chunking::Disk => &shared.disk_chunker,
                Chunking::Stream => &shared.stream_chunker,
                Chunking::Pieces => &shared.piece_chunker,
                Chunking::Other(word) => {
                    return Err(Error::Refused(format!("cannot cut by the rule {word:?}")));
                }
            })
        });
        // A read of storage that is away may never come back; its thread then ends with the process.
        self.shared.monitor.unless_interrupted(done).await?
    }

    /// Where the chunks that were left open lie for certain: first what was said of them already is put to the proof, then
    /// what the pages of the index say of the others.
    async fn resolve(&self, map: &RegionMap) -> Result<PlaceMap> {
        let Shared { index, usable, monitor, tables, .. } = self.shared.as_ref();
        let chunks = map.open.iter().filter_map(|open| Some((map.chunks.get(open.slot)?, open.word)));
        let sizes: HashMap<ContentId, u32> =
            chunks.clone().map(|(chunk, _)| (chunk.id, chunk.place.size_bytes)).collect();
        let said: Vec<(ContentId, Word)> =
            chunks.filter_map(|(chunk, word)| Some((chunk.id, word?))).collect();
        let mut known = PlaceMap::default();
        tables.prove(&self.shared, &said, &mut known).await?;
        let rest: Vec<ContentId> = sizes.keys().filter(|id| !known.contains_key(id)).copied().collect();
        if !rest.is_empty() {
            let mut said = index.resolve(&self.repository, usable, monitor, &rest).await?;
            said.retain(|(id, word)| sizes.get(id) == Some(&word.place.size_bytes));
            tables.prove(&self.shared, &said, &mut known).await?;
        }
        Ok(known)
    }

    /// The chunks of the same region in the snapshot before. What cannot be read is found by the index, or stored anew.
    ///
    /// Errors: it cannot be read, and the disk is not read in its place: it would become zeros.
    async fn base_chunks(&self, region: u64) -> Result<Vec<BaseChunk>> {
        let Some(base) = &self.base else { return Ok(Vec::new()) };
        let layout = self.repository.layout;
        let leaves = layout.region_bytes / layout.leaf_bytes;
        let mut chunks = Vec::new();
        for within in 0..leaves {
            let (leaf, start) = (region * u64::from(leaves) + u64::from(within), within * layout.leaf_bytes);
            let node = match base.node(0, leaf).await {
                Ok(node) => node,
                Err(error) if self.how.partly.is_some() => return Err(error),
                Err(error) if self.how.hinted.is_some() => return Err(self.how.unread(error)),
                Err(error) => {
                    self.shared
                        .monitor
                        .warn(Topic::Hint, format!("part of the map before this one is ignored: {error}"));
                    None
                }
            };
            if let Some(Node::Leaf(entries)) = node.as_deref().map(|node| &node.node) {
                chunks.extend(entries.iter().map(|entry| BaseChunk {
                    offset_bytes: start + entry.offset_bytes,
                    id: entry.id,
                    word: Word { place: entry.place, speaker: self.base_speaker },
                }));
            }
        }
        Ok(chunks)
    }
}

/// Reads one region of a stream; shorter only at its end.
fn read_region(stream: &mut dyn Read, region_bytes: u32) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::from(region_bytes);
    stream.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
