//! The two ends of a pack: its head, and its table and directory. They say what lies in it without its frames.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sancerre_format::FormatError;
use sancerre_format::bytes::to_u64;
use sancerre_format::id::{FramePlace, PackName, RepositoryId, SessionId};
use sancerre_format::list::ListedPack;
use sancerre_format::names;
use sancerre_format::pack::{DirectoryEntry, FrameChunk, OwnFrames, PackTail, Trailer};
use sancerre_format::seal::RootKey;
use tokio::sync::Semaphore;

use crate::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, add};
use crate::repository::Repository;

/// First guesses of how much of a pack's ends to read: nearly always enough for head, and table with directory.
const HEAD_BYTES: u64 = 4 << 10;
const TAIL_BYTES: u64 = 64 << 10;
/// Packs whose ends are read at once: some 100 KiB each, and none more than its pack.
const PACKS_IN_FLIGHT: usize = 32;

/// A pack as its session listed it.
#[derive(Debug, Clone, Copy)]
pub struct PackRef {
    /// Its name.
    pub name: PackName,
    /// The session that made it.
    pub session: SessionId,
    /// Its line in the list.
    pub listed: ListedPack,
}

/// The start of a pack with all of its head, and the end with all of its table and directory.
#[derive(Debug)]
pub struct PackEnds {
    source: PackRef,
    trailer: Trailer,
    head: Bytes,
    tail: Bytes,
}

impl PackRef {
    /// The pack as its list has it; none when no verified list names it.
    pub fn find(catalogue: &Catalogue, name: PackName) -> Option<Self> {
        let (session, listed) = (catalogue.session(name.session)?, *catalogue.pack(name)?);
        Some(Self { name, session, listed })
    }

    /// The object's key.
    pub fn key(&self, repository: &Repository) -> String {
        names::pack(&repository.keys.zone, self.name, &self.listed.hash)
    }

    /// How much is nearly always read of its ends.
    fn ends_bytes(&self) -> u64 {
        self.listed.size_bytes.min(HEAD_BYTES.saturating_add(TAIL_BYTES))
    }
}

/// Reads the ends of many packs, several at once, in no order. What cannot be read is told with its pack, which is no
/// failure of the others; only an interrupt ends it.
pub fn fetch_all<'a>(
    repository: &'a Repository,
    sources: Vec<PackRef>,
    monitor: &'a Monitor,
) -> impl Stream<Item = Result<(PackRef, Result<PackEnds>)>> + 'a {
    let total = sources.iter().fold(0u64, |sum, source| sum.saturating_add(source.ends_bytes()));
    add(&monitor.counters.total_bytes, total);
    let fetch = move |source: PackRef| async move {
        monitor.check()?;
        let ends = PackEnds::fetch(repository, source).await;
        add(&monitor.counters.done_bytes, source.ends_bytes());
        Ok((source, ends))
    };
    futures::stream::iter(sources).map(fetch).buffer_unordered(PACKS_IN_FLIGHT)
}

impl PackEnds {
    /// Reads both ends: two requests, seldom more.
    pub async fn fetch(repository: &Repository, source: PackRef) -> Result<Self> {
        let (key, size_bytes) = (source.key(repository), source.listed.size_bytes);
        let store = &repository.store;
        let tail_from = size_bytes.saturating_sub(TAIL_BYTES);
        let (mut head, mut tail) = futures::try_join!(
            store.need_range(&key, 0..HEAD_BYTES.min(size_bytes)),
            store.need_range(&key, tail_from..size_bytes)
        )?;
        let trailer = Trailer::decode(&tail, size_bytes).map_err(Error::object(&key))?;
        if to_u64(trailer.tail_bytes()) > to_u64(tail.len()) {
            let from = size_bytes.saturating_sub(to_u64(trailer.tail_bytes()));
            tail = store.need_range(&key, from..size_bytes).await?;
        }
        if trailer.head_range().end > to_u64(head.len()) {
            head = store.need_range(&key, trailer.head_range()).await?;
        }
        Ok(Self { source, trailer, head, tail })
    }

    /// Decodes them, and compares them with what the pack's session listed.
    pub fn decode(&self) -> std::result::Result<PackTail<'_>, FormatError> {
        let tail = PackTail::decode(self.trailer, &self.head, &self.tail)?;
        let listed = tail.hash() == self.source.listed.tail;
        if listed && tail.head().name() == self.source.name && tail.head().writer() == self.source.session {
            return Ok(tail);
        }
        Err(not_listed())
    }

    /// What a pack that no list names says of itself, and who wrote it: it is of this name and repository, and nothing is
    /// proven but by the ids of what is in it. The hash of all its bytes is the one in its key, and that of SHA-256 is not
    /// known.
    pub(crate) fn decode_unlisted(
        &self,
        repository: RepositoryId,
    ) -> std::result::Result<(PackTail<'_>, ListedPack), FormatError> {
        let tail = PackTail::decode(self.trailer, &self.head, &self.tail)?;
        let head = tail.head();
        if head.repository != repository || head.name() != self.source.name {
            let detail = "it is another pack than its key says".to_owned();
            return Err(FormatError::Forged { what: "pack", detail });
        }
        let frames = u32::try_from(tail.directory().len()).unwrap_or(u32::MAX);
        let pack = ListedPack { kind: head.kind, tail: tail.hash(), frames, ..self.source.listed };
        Ok((tail, pack))
    }
}

/// The frames of a pack, where they lie in it, and the pieces in each.
pub type Contents = Vec<(FramePlace, Vec<FrameChunk>)>;

/// What a read of a pack's end came to.
enum Told {
    All(Contents),
    /// So many bytes are needed.
    Longer(u64),
}

/// What a pack's own table says, as its session signed it. One request unless the table is very large, and one more for
/// the head if frames may have been moved into it. Very large tables are read while `large` has a permit: who lies can
/// make them as large as a pack.
///
/// Errors: also a pack that is not the listed one.
pub async fn contents(
    repository: &Repository,
    source: PackRef,
    may_be_moved: bool,
    large: &Semaphore,
) -> Result<Contents> {
    let (key, size_bytes) = (source.key(repository), source.listed.size_bytes);
    let read = async |tail_bytes: u64| {
        let range = size_bytes.saturating_sub(tail_bytes)..size_bytes;
        repository.cached(&key, range, |tail| read_contents(repository, source, may_be_moved, tail)).await
    };
    let needed = match read(TAIL_BYTES).await? {
        Told::All(contents) => return Ok(contents),
        Told::Longer(needed) => needed,
    };
    let _large = large.acquire().await.map_err(|_| Error::Worker)?;
    match read(needed).await? {
        Told::All(contents) => Ok(contents),
        // Another trailer than the first time.
        Told::Longer(_) => Err(Error::object(&key)(not_listed())),
    }
}

async fn read_contents(
    repository: &Repository,
    source: PackRef,
    may_be_moved: bool,
    tail: Bytes,
) -> Result<Told> {
    let key = source.key(repository);
    let trailer = Trailer::decode(&tail, source.listed.size_bytes).map_err(Error::object(&key))?;
    let needed = to_u64(trailer.tail_bytes());
    if needed > to_u64(tail.len()) {
        return Ok(Told::Longer(needed));
    }
    let root = repository.keys.metadata_root(&source.session)?;
    if !may_be_moved {
        let read = move || own_contents(source, trailer, &tail, &root);
        return repository.host.compute(read).await?.map_err(Error::object(&key));
    }
    let read = |head: Bytes| {
        let (tail, root, key) = (tail.clone(), root.clone(), &key);
        async move {
            let ends = PackEnds { source, trailer, head, tail };
            let read = move || moved_contents(&ends, &root);
            repository.host.compute(read).await?.map_err(Error::object(key))
        }
    };
    repository.cached(&key, trailer.head_range(), read).await
}

fn own_contents(
    source: PackRef,
    trailer: Trailer,
    tail: &[u8],
    root: &RootKey,
) -> std::result::Result<Told, FormatError> {
    let own = OwnFrames::decode(trailer, (source.name, source.session), tail, root)?;
    if own.hash() != source.listed.tail {
        return Err(not_listed());
    }
    Ok(Told::All(own.into_frames()))
}

fn moved_contents(ends: &PackEnds, root: &RootKey) -> std::result::Result<Told, FormatError> {
    let tail = ends.decode()?;
    let table = tail.open_table(root)?;
    Ok(Told::All(tail.directory().iter().map(DirectoryEntry::place).zip(table).collect()))
}

fn not_listed() -> FormatError {
    FormatError::Forged { what: "pack", detail: "it is not the one its session listed".to_owned() }
}
