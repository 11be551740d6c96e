//! `nbd`: the disks of a snapshot for QEMU and other clients of NBD, until a signal comes.

mod listen;
mod spool;
mod writable;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::snapshot_disk::{ChunkCache, SnapshotDisk, Spool};
use sancerre_engine::restore::SnapshotReader;
use sancerre_engine::select::Selector;
use sancerre_format::outcome::{Member, MemberKind};
use sancerre_serve::{ClientLimits, ClientMemory, ServedDisk, Server, SnapshotExport};
use serde_json::{Map, Value, json};

use super::{Context, boot, ended, restore};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt::until_signal;
use crate::plain;
use crate::units::{seconds, size};
use crate::unreadable;
use listen::{Listening, TlsOptions};

/// What became of bytes of a disk that was failing.
pub(super) const UNREADABLE: &str = "could not be read when this was backed up, and are read as zeros";

/// Serve the disks of a snapshot over NBD to clients of this machine, or to others with a certificate.
///
/// A guest can boot from it through an overlay, and a copier reads it as it reads a disk; holes are told as such. It is
/// read-only, unless --writable names a file for what clients write. It runs until it is interrupted, which is its normal end. Only this user may connect to the socket. Several clients at once share
/// one cache, which stays within --memory. If a drill stored what the machine asks for when it starts (--trace), that is fetched first. Needs the passphrase: a writer's key file opens no content.
#[derive(Debug, Args)]
#[command(after_help = "\
Each disk is an export of its name; a single one has the empty name too. What is damaged and
has no other copy is an input/output error where it is, and named here; all else can be read.

Examples:
  sancerre nbd web01:latest --socket /run/web01.sock
  nbdinfo --list 'nbd+unix:///?socket=/run/web01.sock'
  qemu-img create -f qcow2 -F raw -b 'nbd+unix:///disk0?socket=/run/web01.sock' web01.qcow2
  nbdcopy 'nbd+unix:///disk0?socket=/run/web01.sock' web01.raw
  sancerre nbd web01:latest:disk0 --socket /run/web01.sock --writable /srv/web01.overlay
  sancerre nbd web01:latest:disk0 --socket /run/web01.sock --spool /var/cache/web01.spool
  sancerre nbd web01:latest --listen 10.0.0.7:10809 --tls-certificate host.pem \\
    --tls-key host.key --tls-clients ca.pem")]
pub(crate) struct Nbd {
    /// The snapshot, and one disk of it if only that is to be served: see `sancerre --help`
    #[arg(value_name = "SNAPSHOT[:DISK]", value_parser = Selector::parse)]
    snapshot: Selector,
    /// Listen on this unix socket, which must not be there yet; it is removed at the end
    #[arg(long, value_name = "PATH", required_unless_present = "listen")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsOptions,
    /// Let clients write: what they write goes into this file, which is made if it is not there, and goes with this disk of this
    /// snapshot alone
    #[arg(long, value_name = "OVERLAY")]
    writable: Option<PathBuf>,
    /// Keep what was fetched in this file, which is made if it is not there, so that it is not fetched again after a restart. It
    /// holds the guest's data unencrypted, readable by this user alone, may become as large as the disk's data, and goes with
    /// this disk of this snapshot alone; delete it when it is not needed any more
    #[arg(long, value_name = "FILE")]
    spool: Option<PathBuf>,
}

impl Nbd {
    /// What it writes, in words, and where.
    pub(crate) fn written(&self) -> Vec<(&'static str, PathBuf)> {
        let socket = self.socket.iter().map(|path| ("the socket", path.clone()));
        let overlay = self.writable.iter().map(|path| ("the overlay", path.clone()));
        let spool = self.spool.iter().map(|path| ("the spool", path.clone()));
        socket.chain(overlay).chain(spool).collect()
    }
}

pub(crate) async fn run(options: Nbd, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    // Before the repository is opened: what cannot be listened on should cost nothing.
    listen::refuse(&options)?;
    let reader = restore::open(&options.snapshot, context).await?;
    let members = members(&reader, &options.snapshot)?;
    let mut is_whole = true;
    for member in &members {
        is_whole &= unreadable::tell(context, member, UNREADABLE)?;
    }
    let (shares, monitor) = (Shares::of(context.global.memory), context.monitor());
    let spool = options.spool.as_deref().map(|path| spool::open(&reader, &members, path)).transpose()?;
    let disks = open_disks(&reader, &members, &shares.cache, &monitor, spool)?;
    let mut exports = exports(&members, &disks);
    let overlay = match &options.writable {
        Some(path) => Some(writable::over(&reader, &mut exports, path)?),
        None => None,
    };
    let server = server(exports, &shares, context);
    let listening = Listening::open(&options).await?;
    announce(&listening, &reader, &members, options.writable.as_deref(), context);
    let _fetching = boot::fetch_first(&reader, disks, context);
    let served = until_signal(async {
        let ended = listening.serve(&server).await;
        Err::<(), Failure>(match ended {
            Ok(never) => match never {},
            Err(error) => Failure::failed(format!("cannot take clients any more: {error}; start it again")),
        })
    });
    // The signal is the normal end.
    if let Err(failure) = served.await
        && failure.exit != Exit::Interrupted
    {
        return Err(failure);
    }
    if let Some(overlay) = overlay {
        writable::finish(&*overlay).await?;
    }
    let (fetched_frames, fetched_bytes) = shares.cache.fetched();
    let summary = [
        ("snapshot", json!(reader.manifest().session.intent.to_string())),
        ("vm", json!(reader.vm().to_string())),
        ("exports", exports_json(&listening, &members)),
        ("fetched_frames", json!(fetched_frames)),
        ("fetched_bytes", json!(fetched_bytes)),
        ("duration_seconds", json!(seconds(started.elapsed()))),
    ];
    Ok(ended(if is_whole { Exit::Done } else { Exit::NotAsAsked }, summary))
}

/// What the parts of a program that serves disks have of `--memory`.
pub(super) struct Shares {
    /// Frames of all disks: five eighths.
    pub(super) cache: Arc<ChunkCache>,
    /// Answers and writes of all clients: an eighth.
    clients: ClientMemory,
}

impl Shares {
    /// A quarter is left for the program itself: log, catalogue, nodes of maps.
    pub(super) fn of(memory_bytes: u64) -> Self {
        let eighth = memory_bytes / 8;
        Self { cache: ChunkCache::new(eighth.saturating_mul(5)), clients: ClientMemory::new(eighth) }
    }
}

/// These members of a snapshot, for reads here and there; what is fetched of an only one is kept in `spool`.
pub(super) fn open_disks(
    reader: &SnapshotReader,
    members: &[&Member],
    cache: &Arc<ChunkCache>,
    monitor: &Monitor,
    spool: Option<Arc<dyn Spool>>,
) -> Result<Vec<Arc<SnapshotDisk>>, Failure> {
    reader.warn(monitor);
    let open = |member: &&Member| SnapshotDisk::open_spooled(reader, member, cache, monitor, spool.clone());
    Ok(members.iter().map(open).collect::<Result<_, _>>()?)
}

/// Each under its own name.
pub(super) fn exports(members: &[&Member], disks: &[Arc<SnapshotDisk>]) -> Vec<Arc<dyn ServedDisk>> {
    let export = |(member, disk): (&&Member, &Arc<SnapshotDisk>)| -> Arc<dyn ServedDisk> {
        Arc::new(SnapshotExport::new(member.name.as_str(), Arc::clone(disk)))
    };
    members.iter().zip(disks).map(export).collect()
}

/// A server that says in the log what clients do wrong.
pub(super) fn server(exports: Vec<Arc<dyn ServedDisk>>, shares: &Shares, context: &Context) -> Arc<Server> {
    let output = Arc::clone(&context.output);
    let limits = ClientLimits { memory: shares.clients.clone(), ..ClientLimits::default() };
    Server::new(exports, limits, move |message| output.warning(&message))
}

/// The id of the repository that a snapshot is of.
pub(super) fn repository_id(reader: &SnapshotReader) -> String {
    reader.frames().repository().keys.trust.repository.to_string()
}

/// The member that was named, or all disks.
fn members<'a>(reader: &'a SnapshotReader, snapshot: &Selector) -> Result<Vec<&'a Member>, Failure> {
    match snapshot.member {
        Some(_) => Ok(vec![restore::one(reader, snapshot)?]),
        None => disks(reader),
    }
}

/// All disks.
pub(super) fn disks(reader: &SnapshotReader) -> Result<Vec<&Member>, Failure> {
    let all = reader.body().members.iter();
    let disks: Vec<&Member> = all.filter(|member| member.kind == MemberKind::Disk).collect();
    if disks.is_empty() {
        return Err(Failure::usage(
            "the snapshot has no disk; write :NAME behind it to serve one of its streams or files",
        ));
    }
    Ok(disks)
}

/// Says that clients may come, and how.
fn announce(
    listening: &Listening,
    reader: &SnapshotReader,
    members: &[&Member],
    overlay: Option<&Path>,
    context: &Context,
) {
    if context.output.is_json() {
        let fields = [("exports".to_owned(), exports_json(listening, members))];
        context.output.status(fields.into_iter().collect::<Map<_, _>>());
        return;
    }
    for member in members {
        context.output.message(&format!(
            "serving {} of {} ({}) as {}",
            member.name,
            reader.vm(),
            size(member.size_bytes),
            listening.uri(member.name.as_str())
        ));
    }
    if let Some(path) = overlay {
        let path = plain::path(path);
        context
            .output
            .message(&format!("what clients write goes into {path}, and is durable there once they flush"));
    } else if let (Listening::Unix { .. }, Some(first)) = (listening, members.first()) {
        let uri = listening.uri(first.name.as_str());
        context.output.message(&format!(
            "a guest boots from an overlay: qemu-img create -f qcow2 -F raw -b '{uri}' overlay.qcow2"
        ));
    }
    context.output.message(&format!("listening on {} until interrupted", listening.place()));
}

fn exports_json(listening: &Listening, members: &[&Member]) -> Value {
    let export = |member: &&Member| {
        json!({
            "name": member.name.to_string(),
            "size_bytes": member.size_bytes,
            "uri": listening.uri(member.name.as_str()),
            "unreadable": unreadable::json(member),
        })
    };
    json!(members.iter().map(export).collect::<Vec<_>>())
}
