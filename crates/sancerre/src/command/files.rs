//! Files of guests: `ls`, `cat`, `get`, `find`, `history`, `diff --files`, `catalogue`. What they have in common: a snapshot whose disks a
//! confined child looks at.

pub(crate) mod cat;
pub(crate) mod catalogue;
pub(crate) mod diff;
pub(crate) mod find;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod ls;
pub(crate) mod mount;
pub(super) mod walk;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use sancerre_confine::Helper;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::snapshot_disk::{BlockingSnapshotDisk, ChunkCache, SnapshotDisk};
use sancerre_engine::restore::SnapshotReader;
use sancerre_format::outcome::MemberKind;
use sancerre_guest::{FileNode, Guest, GuestReader, Moment, NodeKind, Passphrases};
use sancerre_image::Disk;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::Context;
use crate::exit::{Done, Exit, Failure};
use crate::guest_names::shown;
use crate::interrupt::until_signal;
use crate::plain;

/// What became of bytes of a disk that was failing.
const UNREADABLE: &str = "could not be read when this was backed up, and are read as zeros";

/// Options of all that looks into guests.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sandbox {
    /// The passphrase of an encrypted volume of the guest (LUKS), without the end of its line; may be given several times. It
    /// is given to what reads the guest, and to nobody else
    #[arg(long, value_name = "FILE")]
    unlock: Vec<PathBuf>,
    /// Read file systems without confining what reads them, where this kernel cannot: a guest that was made to do harm may
    /// then read every file of this user, and keys
    #[arg(long)]
    no_sandbox: bool,
}

impl Sandbox {
    /// Whether encrypted volumes are to be opened, of which no catalogue knows.
    pub(super) fn unlocks(&self) -> bool {
        !self.unlock.is_empty()
    }

    fn passphrases(&self) -> Result<Passphrases, Failure> {
        let all = self.unlock.iter().map(|path| passphrase(path));
        Ok(Passphrases::new(all.collect::<Result<_, _>>()?))
    }
}

fn passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let wrong = |why: String| {
        Failure::usage(format!("no passphrase can be read from {} (--unlock): {why}", plain::path(path)))
    };
    let most = Passphrases::BYTES_MAX as u64;
    let (mut bytes, file) =
        (Zeroizing::new(Vec::new()), File::open(path).map_err(|error| wrong(error.to_string()))?);
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    match bytes.len() as u64 {
        0 => Err(wrong("it is empty".to_owned())),
        length if length > most => Err(wrong(format!("it has more than {most} bytes"))),
        _ => Ok(bytes),
    }
}

/// A snapshot whose disks were looked at.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) guest: Arc<Guest>,
    /// The names of its disks, in their order.
    pub(super) disks: Vec<String>,
    pub(super) snapshot_disks: Vec<Arc<SnapshotDisk>>,
    pub(super) cache: Arc<ChunkCache>,
    pub(super) is_whole: bool,
}

impl Opened {
    /// How a command ends that read of them, with one thing more to say in its summary or none.
    pub(super) fn ended(&self, reader: &SnapshotReader, more: Option<(&'static str, Value)>) -> Done {
        let (_, fetched_bytes) = self.cache.fetched();
        let fields = [
            ("snapshot", json!(reader.manifest().session.intent.to_string())),
            ("vm", json!(reader.vm().to_string())),
            ("fetched_bytes", json!(fetched_bytes)),
        ];
        let exit = if self.is_whole { Exit::Done } else { Exit::NotAsAsked };
        super::ended(exit, fields.into_iter().chain(more))
    }
}

/// Looks at the disks of a snapshot.
pub(super) async fn open(
    reader: &SnapshotReader,
    sandbox: &Sandbox,
    context: &Context,
) -> Result<Opened, Failure> {
    let (cache, monitor) = (ChunkCache::new(context.global.memory), context.monitor());
    reader.warn(&monitor);
    open_with(reader, sandbox, context, cache, &monitor).await
}

/// The same with a cache that is shared, and warnings of one's own.
pub(super) async fn open_with(
    reader: &SnapshotReader,
    sandbox: &Sandbox,
    context: &Context,
    cache: Arc<ChunkCache>,
    monitor: &Monitor,
) -> Result<Opened, Failure> {
    let members = reader.body().members.iter().filter(|member| member.kind == MemberKind::Disk);
    let (mut disks, mut snapshot_disks, mut is_whole) = (Vec::new(), Vec::new(), true);
    for member in members {
        is_whole &= crate::unreadable::tell(context, member, UNREADABLE)?;
        disks.push(member.name.to_string());
        snapshot_disks.push(SnapshotDisk::open(reader, member, &cache, monitor)?);
    }
    if disks.is_empty() {
        return Err(Failure::usage("the snapshot has no disk; `sancerre dump` gives its streams and files"));
    }
    let reader = GuestReader::new(helper()?, !sandbox.no_sandbox).unlocking(sandbox.passphrases()?);
    let runtime = Handle::current();
    let blocking: Vec<Arc<dyn Disk>> = snapshot_disks
        .iter()
        .map(|disk| -> Arc<dyn Disk> {
            Arc::new(BlockingSnapshotDisk::new(Arc::clone(disk), runtime.clone()))
        })
        .collect();
    let guest =
        waiting(move || reader.open(blocking).map_err(|error| Failure::failed(error.to_string()))).await?;
    Ok(Opened { guest: Arc::new(guest), disks, snapshot_disks, cache, is_whole })
}

/// This program, as the confined child that reads file systems.
pub(crate) fn helper() -> Result<Helper, Failure> {
    std::env::current_exe()
        .map(|program| Helper { program, arguments: vec![sancerre_guest::SUBCOMMAND.into()] })
        .map_err(|error| Failure::failed(format!("cannot find this program to start it again: {error}")))
}

/// Runs what waits for disks and for a child, until a signal comes.
pub(super) async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    until_signal(async { joined(tokio::task::spawn_blocking(work).await) }).await
}

/// The same for what has safe points of its own: it is told of the signal, and then waited for.
pub(super) async fn stopping<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let mut running = tokio::task::spawn_blocking(move || work(&told));
    let ended = until_signal(async { joined((&mut running).await) }).await;
    if let Err(failure) = &ended
        && failure.exit == Exit::Interrupted
        && !running.is_finished()
    {
        stop.store(true, Ordering::Relaxed);
        // What it left is cleared away then.
        let _ = running.await;
    }
    ended
}

fn joined<T>(joined: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    joined.map_err(|error| {
        Failure::new(Exit::Bug, format!("reading a guest failed: {error}; please report this"))
    })?
}

/// A moment for people.
pub(super) fn time(moment: Option<Moment>) -> String {
    moment.map_or_else(
        || "-".to_owned(),
        |moment| sancerre_format::names::Time::from_unix_seconds(moment.seconds).to_string(),
    )
}

/// As `ls` writes what something is.
pub(super) fn letter(kind: NodeKind) -> char {
    match kind {
        NodeKind::File => '-',
        NodeKind::Directory => 'd',
        NodeKind::Link => 'l',
        NodeKind::Special => 's',
        NodeKind::Broken => '?',
    }
}

/// The name of a kind, for JSON.
fn kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Directory => "directory",
        NodeKind::Link => "link",
        NodeKind::Special => "special",
        NodeKind::Broken => "broken",
    }
}

/// A name and what it names, for JSON.
pub(super) fn entry_json(name: &[u8], node: &FileNode, target: Option<&[u8]>) -> Value {
    let mut entry = json!({
        "name": shown(name),
        "kind": kind(node.kind),
        "size_bytes": node.size_bytes,
        "modified": node.modified.map(|moment| json!(time(Some(moment)))),
        "mode": node.mode.map(|mode| format!("{mode:04o}")),
        "user": node.owner.map(|(user, _)| user),
        "group": node.owner.map(|(_, group)| group),
    });
    if let Some(fields) = entry.as_object_mut() {
        if std::str::from_utf8(name).is_err() {
            let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
            fields.insert("name_hex".to_owned(), json!(hex));
        }
        if let Some(target) = target {
            fields.insert("target".to_owned(), json!(shown(target)));
        }
    }
    entry
}
