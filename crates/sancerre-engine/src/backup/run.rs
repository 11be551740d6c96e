//! One backup under way: what its workers share, and what it has come to so far.

use std::sync::Arc;

use sancerre_format::bytes::to_usize;
use sancerre_format::chunk::Chunker;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::{ContentId, SessionId};
use sancerre_format::key::ZoneKeys;
use sancerre_format::names::{self, Folder, Title};
use sancerre_format::outcome::{Annex, Member};
use sancerre_image::Disk;

use super::base::{self, Base};
use super::budget::Budget;
use super::hinted::Hinted;
use super::maps::Maps;
use super::noticed::Noticed;
use super::options::{Allow, BackupOptions, BackupReport, BackupSource, Dedup, Input};
use super::packer::{PackKeys, Packer};
use super::reread::{self, Reread};
use super::sample::Sample;
use super::scratch::ScratchPool;
use super::stored::Stored;
use super::tables::Tables;
use super::upload::Uploader;
use super::watch::Watch;
use crate::dedup::ReusePolicy;
use crate::error::Result;
use crate::index::{Index, Lookup};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::catalogue::{Catalogue, Present};
use crate::repository::log::Log;
use crate::store::Listed;

/// What all workers of a session share.
pub(super) struct Shared {
    pub(super) monitor: Monitor,
    pub(super) zone_keys: ZoneKeys,
    pub(super) frame_bytes: usize,
    pub(super) usable: ReusePolicy,
    pub(super) index: Index,
    pub(super) tables: Tables,
    /// Names the snapshot before this one, for who doubts its map.
    pub(super) base_speaker: String,
    pub(super) stored: Stored,
    pub(super) packer: Packer,
    pub(super) scratch: ScratchPool,
    pub(super) disk_chunker: Chunker,
    pub(super) stream_chunker: Chunker,
    pub(super) piece_chunker: Chunker,
}

impl Shared {
    /// Where a chunk lies already: stored by this session, or known from the index.
    pub(super) fn find(&self, id: &ContentId) -> Lookup {
        self.stored.get(id).map_or_else(|| self.index.find(id), Lookup::Known)
    }
}

/// One backup under way.
pub(super) struct Run {
    pub(super) repository: Repository,
    pub(super) shared: Arc<Shared>,
    pub(super) workers: usize,
    pub(super) parent: Option<SessionId>,
    /// The snapshot of which only what is missing is read.
    pub(super) reread: Option<Arc<Reread>>,
    /// Change maps that were not used yet, and disks that were read by theirs.
    pub(super) maps: Maps,
    pub(super) hinted: Vec<Arc<Hinted>>,
    /// Disks whose change map was wrong.
    pub(super) belied: Vec<Title>,
    /// Members that are much smaller than they were, and were saved all the same.
    pub(super) shrunk: Vec<Title>,
    /// How the file systems of the machine were frozen.
    pub(super) frozen: Option<String>,
    pub(super) base: Option<Base>,
    pub(super) members: Vec<Member>,
    pub(super) uses: FrameSet,
    /// New leaves of each member's map, in the order of the members.
    pub(super) samples: Vec<Sample>,
    pub(super) noticed: Noticed,
    pub(super) statistics: Vec<Annex>,
}

pub(super) fn budget(repository: &Repository, options: &BackupOptions) -> Budget {
    Budget::divide(
        options.memory_bytes,
        u64::from(repository.layout.pack_bytes),
        repository.host.pool.width(),
    )
}

/// Of a log that is not longer, two entries a number are on one page of a listing with all packs of a small repository.
const ONE_LISTING_ENTRIES: u64 = 300;

/// Packs, their lists and the index. One listing of the zone is one request while the log is short; after years its
/// entries would be most of what is listed.
async fn list_stored(repository: &Repository, log: &Log) -> Result<Vec<Listed>> {
    if log.highest() <= ONE_LISTING_ENTRIES {
        return Ok(repository.store.list(&names::zone_folder(&repository.keys.zone)).await?);
    }
    let list = |folder| repository.list(folder);
    let (packs, lists, index) =
        futures::try_join!(list(Folder::Packs), list(Folder::Lists), list(Folder::Index))?;
    Ok([packs, lists, index].concat())
}

/// W2 to W4: what the store has, and what of it a session with this number may build on.
async fn reuse(
    repository: &Repository,
    log: &Log,
    number: u64,
    options: &BackupOptions,
    listed: &[Listed],
    monitor: &Monitor,
) -> Result<ReusePolicy> {
    let (catalogue, bad) = Catalogue::of(repository, log, listed).await?;
    bad.iter().for_each(|bad| bad.tell(monitor));
    let present = Present::of(repository, listed);
    let mut avoid = log.avoid(number)?;
    avoid.nothing_above(number);
    let own = repository.writer()?.by.name.clone();
    if options.dedup == Dedup::Own {
        avoid.all_but(log, &own);
    }
    Ok(ReusePolicy { own: Some(own), avoid, catalogue, present })
}

impl Run {
    /// W3, W4: reads everything that helps to reuse what is stored.
    pub(super) async fn prepare(
        repository: &Repository,
        log: &Log,
        number: u64,
        keys: Option<PackKeys>,
        options: &BackupOptions,
        monitor: &Monitor,
    ) -> Result<Self> {
        let budget = budget(repository, options);
        let listed = list_stored(repository, log).await?;
        let usable = reuse(repository, log, number, options, &listed, monitor).await?;
        let index = Index::of(repository, log, &usable, &listed, budget.index_bytes, monitor).await?;
        let base = {
            let (vm, wanted) = (options.public_name(), options.maps.base());
            base::read(repository, log, vm, options.machine, wanted, &usable, monitor)
        };
        let noticed = Noticed::of(repository, log, options, base.as_ref(), monitor).await?;
        let layout = repository.layout;
        let zone_keys = repository.keys.zone_secrets()?.keys.clone();
        let shared = Shared {
            monitor: monitor.clone(),
            frame_bytes: to_usize(layout.frame_bytes),
            usable,
            index,
            tables: Tables::new(repository, log, budget.tables_bytes),
            base_speaker: base.as_ref().map_or_else(String::new, |base| base.described.clone()),
            stored: Stored::new(budget.session_bytes),
            packer: Packer::new(keys, &layout),
            scratch: ScratchPool::default(),
            disk_chunker: Chunker::disk(&zone_keys.cut, layout.disk)?,
            stream_chunker: Chunker::stream(&zone_keys.cut, layout.stream)?,
            piece_chunker: Chunker::pieces(),
            zone_keys,
        };
        Ok(Self {
            repository: repository.clone(),
            shared: Arc::new(shared),
            workers: budget.workers,
            parent: base.as_ref().map(|base| base.session),
            reread: reread::of(options, base.as_ref())?,
            maps: Maps::default(),
            hinted: Vec::new(),
            belied: Vec::new(),
            shrunk: Vec::new(),
            frozen: None,
            base,
            members: Vec::new(),
            uses: FrameSet::default(),
            samples: Vec::new(),
            noticed,
            statistics: Vec::new(),
        })
    }

    /// Backs up the sources one after the other.
    pub(super) async fn members(
        &mut self,
        sources: Vec<BackupSource>,
        allow: Allow,
        mut uploader: Option<&mut Uploader>,
    ) -> Result<()> {
        self.judge_sizes(&sources, allow)?;
        self.judge_reread(&sources)?;
        let sizes = sources.iter().map(|source| match &source.input {
            Input::Disk(disk) => disk.size_bytes(),
            Input::Stream(_) | Input::Catalogue(_) => 0,
        });
        crate::monitor::add(&self.shared.monitor.counters.total_bytes, sizes.sum());
        let disks: Vec<Option<Arc<dyn Disk>>> = sources.iter().map(BackupSource::disk).collect();
        for source in sources {
            self.member(source, allow, uploader.as_deref_mut()).await?;
        }
        // The disks of a VM are one state only if none changed until the last one was read.
        for (member, disk) in self.members.iter_mut().zip(disks) {
            let watch = Watch::new(&self.repository, &self.shared.monitor, disk, allow);
            member.fuzzy |= watch.changed().await?;
        }
        Ok(())
    }

    pub(super) fn report(&self, snapshot: Option<SessionId>) -> BackupReport {
        let sum = |field: fn(&Member) -> u64| self.members.iter().map(field).sum();
        BackupReport {
            snapshot,
            parent: self.parent,
            size_bytes: sum(|member| member.size_bytes),
            data_bytes: sum(|member| member.data_bytes),
            new_bytes: sum(|member| member.new_bytes),
            stored_bytes: self.shared.packer.sealed_bytes(),
            fuzzy: self.members.iter().any(|member| member.fuzzy),
            frozen: self.frozen.clone(),
            shrunk: self.shrunk.clone(),
            belied: self.belied.clone(),
            scan: self.scan(),
            lost_keys: Vec::new(),
            clean_locks: None,
            members: self.members.clone(),
        }
    }
}
