//! Makes the repository.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use sancerre_engine::host::Host;
use sancerre_engine::init::{NewRepository, init};
use sancerre_engine::keys::{Keys, SecretString, SignerKey};
use sancerre_engine::location;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::session::{Session, append};
use sancerre_engine::store::StoreOptions;
use sancerre_format::config::Layout;
use sancerre_format::id::{Hash, PackName, SessionId};
use sancerre_format::index::{SegmentBuilder, SegmentFields, SegmentName};
use sancerre_format::list::{ListedPack, PackList};
use sancerre_format::log::Kind;
use sancerre_format::names::{self, Name, Title, Zone};
use sancerre_format::pack::PackKind;
use sancerre_format::record;

use crate::synthetic::{Chunks, PACK_BYTES, SESSION_PACKS};

const TOOL: &str = "sancerre benches";
/// As a merge makes them.
const SEGMENT_ENTRIES: u64 = 1 << 19;

struct Maker {
    root: PathBuf,
    repository: Repository,
    signer: SignerKey,
    chunks: Chunks,
}

pub(crate) async fn run(dir: &Path, chunks: u64) -> Result<()> {
    let (root, chunks) = (dir.join("repo"), Chunks(chunks));
    fs::create_dir_all(&root)?;
    let store =
        location::open(root.to_str().context("the path is not text")?, [], true, &StoreOptions::default())?;
    let host = Host::real(TOOL);
    let new = NewRepository {
        passphrase: SecretString::from("benches".to_owned()),
        zone: Zone::new("default")?,
        writer: Name::new("bench")?,
        layout: Layout::default(),
        approvals_needed: 0,
    };
    let key_file = init(&store, &host, &new).await?.key_file;
    fs::write(dir.join("writer.key"), key_file.as_bytes())?;
    // Others must not read it, or it is refused.
    fs::set_permissions(dir.join("writer.key"), fs::Permissions::from_mode(0o600))?;
    let keys = Keys::from_key_file(key_file.as_bytes())?;
    let repository = Repository::open(store, host, keys).await?;
    let signer = repository.writer()?.clone();
    let maker = Arc::new(Maker { root, repository, signer, chunks });
    let mut log = Log::load(&maker.repository).await?;
    for number in 0..chunks.sessions() {
        maker.session(&mut log, number).await?;
    }
    maker.index().await?;
    println!("{} chunks in {} packs of {} sessions", chunks.0, chunks.packs(), chunks.sessions());
    Ok(())
}

impl Maker {
    fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let path = self.root.join(key);
        fs::create_dir_all(path.parent().context("a key has a folder")?)?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// A session that stored packs and never ended.
    async fn session(&self, log: &mut Log, number: u64) -> Result<()> {
        let session = Session::announce(&self.repository, log, &Title::new("synthetic")?, None).await?;
        let first = number * SESSION_PACKS;
        let packs =
            (first..self.chunks.packs().min(first + SESSION_PACKS)).map(|pack| self.pack(Chunks::pack(pack)));
        let list = PackList {
            repository: self.repository.keys.trust.repository,
            zone: self.repository.keys.zone.clone(),
            session: session.id,
            sequence: 0,
            by: self.signer.by.clone(),
            packs: packs.collect::<Result<_>>()?,
            words: BTreeMap::new(),
        };
        let bytes = record::encode(&list, TOOL, &self.signer.key, &[], &[])?;
        self.put(&names::list(&self.repository.keys.zone, &session.id, 0), &bytes)
    }

    fn pack(&self, name: PackName) -> Result<ListedPack> {
        let hash = Hash::of(name.to_string().as_bytes());
        let path = self.root.join(names::pack(&self.repository.keys.zone, name, &hash));
        fs::create_dir_all(path.parent().context("a key has a folder")?)?;
        File::create(path)?.set_len(PACK_BYTES)?;
        let (size_bytes, frames) = (PACK_BYTES, 125);
        Ok(ListedPack {
            ordinal: name.ordinal,
            kind: PackKind::Data,
            size_bytes,
            hash,
            sha256: hash,
            tail: hash,
            frames,
        })
    }

    /// One run of segments, made by two threads.
    async fn index(self: &Arc<Self>) -> Result<()> {
        let mut log = Log::load(&self.repository).await?;
        let number = append(&self.repository, &log, Kind::Index, &[]).await?.number;
        log.refresh(&self.repository).await?;
        let session = log.entry(number).context("the entry is there")?.session;
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                loop {
                    let sequence = next.fetch_add(1, Ordering::Relaxed);
                    if sequence * SEGMENT_ENTRIES >= self.chunks.0 {
                        return Ok(());
                    }
                    self.segment(session, sequence)?;
                }
            };
            let threads = [scope.spawn(work), scope.spawn(work)];
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
        })
    }

    fn segment(&self, session: SessionId, number: u64) -> Result<()> {
        let sequence = u32::try_from(number)?;
        let root = self.repository.keys.metadata_root(&session)?;
        let sessions: Arc<[u64]> = (1..=self.chunks.sessions()).collect();
        let mut builder = SegmentBuilder::new(root, session, sequence, sessions);
        let first = number * SEGMENT_ENTRIES;
        let end = self.chunks.0.min(first + SEGMENT_ENTRIES);
        (first..end).try_for_each(|number| builder.push(self.chunks.entry(number)))?;
        let built = builder.finish()?;
        let covers =
            if end == self.chunks.0 { vec![SegmentName { session: 1, sequence: 0 }] } else { Vec::new() };
        let fields = SegmentFields {
            repository: self.repository.keys.trust.repository,
            zone: self.repository.keys.zone.clone(),
            session,
            sequence,
            by: self.signer.by.clone(),
            generation: self.repository.keys.zone_secrets()?.generation,
            covers,
            entries: built.entries,
            table_bytes: built.table_bytes,
            table_hash: built.table_hash,
        };
        let bytes = record::encode(&fields, TOOL, &self.signer.key, &[], &built.sealed)?;
        self.put(&names::index(&self.repository.keys.zone, &session, sequence), &bytes)
    }
}
