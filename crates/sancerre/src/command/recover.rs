//! `recover`: a machine starts from its snapshot at once, on its final storage, and its disks become whole while it runs.
//!
//! ```text
//! recovery.json ──> overlays ──> export (here) ──> QEMU, on its own ──> block-stream ──> nothing needs the export
//! ```
//!
//! Each step finds what an earlier run left, and goes on from there. What the guest writes lies in its overlay from the first
//! moment, where no crash of this program, of the store or of the network reaches it.

mod bring_up;
mod state;
mod steps;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use clap::{Args, ValueEnum};
use sancerre_boot::HydrationProgress;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::snapshot_disk::ChunkCache;
use sancerre_engine::restore::SnapshotReader;
use sancerre_engine::select::{Selector, Which};
use sancerre_format::id::SessionId;
use sancerre_format::outcome::{Member, MemberKind};
use serde_json::{Value, json};

use super::{Context, ended, nbd, restore};
use crate::access::Access;
use crate::exit::{Done, Exit, Failure};
use crate::file_names;
use crate::guests::GuestOptions;
use crate::interrupt::until_signal;
use crate::plain;
use crate::progress::{Progress, Work};
use crate::repository;
use crate::socket::{self, Socket};
use crate::units::{duration, seconds};
use crate::unreadable;
use bring_up::{Brought, Disk, Job};
use state::Recovery;

/// Start a machine from its snapshot at once, and make its disks whole while it runs.
///
/// The guest starts within seconds: what it reads comes from the repository, what it writes goes to the storage that is its
/// own from then on. Meanwhile the rest is copied, until its disks need nothing else, and this command ends; the guest runs
/// on. After any crash, of this program, the store or the host, run the same command again: it goes on, and nothing that the
/// guest wrote is lost. Needs the passphrase: a writer's key file opens no content.
#[derive(Debug, Args)]
#[command(after_help = "\
In DIR a folder is made that is called like the machine: its disks (NAME.qcow2), console.log, and
the sockets monitor.sock (QMP) and screen.sock (VNC). Without a network, unless QEMU is told of
one behind --.

Examples:
  sancerre recover web01:latest --to qemu --storage /srv/guests
  sancerre recover web01:latest --to qemu --storage /srv/guests --guest-memory 8G -- -nic bridge,br=br0
  sancerre recover web01:latest --to qemu --storage /srv/guests --print")]
pub(crate) struct Recover {
    /// The snapshot: see `sancerre --help`
    #[arg(value_name = "SNAPSHOT", value_parser = Selector::parse)]
    snapshot: Selector,
    /// What runs the guest
    #[arg(long, value_name = "WHAT")]
    to: Hypervisor,
    /// A directory for the guest's disks, which stay there
    #[arg(long, value_name = "DIR")]
    storage: PathBuf,
    /// Say which steps would be taken, as commands for a shell, and do nothing
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    guest: GuestOptions,
}

/// What runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Hypervisor {
    /// A QEMU of its own
    Qemu,
}

impl Recover {
    /// What it writes, in words, and where.
    pub(crate) fn written(&self) -> Vec<(&'static str, PathBuf)> {
        vec![("the storage", self.storage.clone())]
    }
}

pub(crate) async fn run(options: Recover, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let Hypervisor::Qemu = options.to;
    if options.snapshot.member.is_some() {
        return Err(Failure::usage("a machine is recovered with all its disks: name the snapshot alone"));
    }
    let repository = repository::open(context, Access::Content).await?;
    let reader = restore::open_in(&repository, &options.snapshot, context).await?;
    let folder = folder(&options.storage, &reader)?;
    let (reader, recovery) = found(&repository, reader, &folder, &options, context).await?;
    let members = nbd::members(&reader, &options.snapshot)?;
    let disks = disks(&members, &folder);
    let job =
        Job { vm: reader.vm().to_string(), disks, folder: folder.clone(), guest: options.guest.clone() };
    if options.print {
        return steps::print(&reader, &job, context);
    }
    state::make_folder(&folder)?;
    // Whoever listens there is the one recovery of this machine.
    let socket = Socket::bind(&job.exports())?;
    tell_unreadable(&members, context)?;
    let recovery = prepare(recovery, &reader, &job)?;
    let (cache, monitor) = (ChunkCache::new(context.global.memory), context.monitor());
    let server = nbd::server(&reader, &members, &cache, &monitor, context)?;
    let progress = Progress::start(Work::Hydrate, &monitor, &context.output);
    let counters = monitor.clone();
    let tell = move |at: HydrationProgress| {
        counters.counters.total_bytes.store(at.total_bytes, Relaxed);
        counters.counters.done_bytes.store(at.done_bytes, Relaxed);
    };
    let output = Arc::clone(&context.output);
    let brought = tokio::task::spawn_blocking(move || bring_up::run(&job, &output, tell));
    let served = until_signal(async {
        tokio::select! {
            ended = server.serve(&socket.listener) => Err(match ended {
                Ok(never) => match never {},
                Err(error) => Failure::failed(format!("cannot take clients any more: {error}; start it again")),
            }),
            brought = brought => brought.map_err(|error| Failure::failed(error.to_string())).and_then(|brought| brought),
        }
    });
    let brought = served.await.map_err(interrupted)?;
    drop(progress);
    finish(&brought, &recovery, &cache, started, context)
}

/// Where the machine's disks are or will be.
fn folder(storage: &Path, reader: &SnapshotReader) -> Result<PathBuf, Failure> {
    let storage = std::path::absolute(storage)
        .map_err(|error| Failure::usage(format!("{}: {error}; name a directory", plain::path(storage))))?;
    Ok(storage.join(file_names::of(reader.vm(), &MemberKind::Disk, "")))
}

/// The snapshot that is recovered: what an earlier run began with, if there was one. `latest` may mean another one by now.
async fn found(
    repository: &Repository,
    reader: SnapshotReader,
    folder: &Path,
    options: &Recover,
    context: &Context,
) -> Result<(SnapshotReader, Option<Recovery>), Failure> {
    let Some(recovery) = Recovery::read(folder)? else { return Ok((reader, None)) };
    let begun = recovery.snapshot;
    if recovery.repository != id(&reader) {
        return Err(other(folder, &begun, "of another repository"));
    }
    if begun == reader.manifest().session {
        return Ok((reader, Some(recovery)));
    }
    if let Which::Id(_) = options.snapshot.snapshot {
        return Err(other(folder, &begun, "and not this one"));
    }
    context.output.message(&format!(
        "going on with snapshot {}, which the recovery in {} began with",
        begun.intent,
        plain::path(folder)
    ));
    let selector = Selector { snapshot: Which::Id(begun.intent.to_string()), member: None };
    Ok((restore::open_in(repository, &selector, context).await?, Some(recovery)))
}

fn other(folder: &Path, begun: &SessionId, what: &str) -> Failure {
    Failure::failed(format!(
        "the disks in {} stand on snapshot {}, {what}; nothing was changed. Go on with that one by its id, or name another \
         storage",
        plain::path(folder),
        begun.intent
    ))
}

fn id(reader: &SnapshotReader) -> String {
    reader.frames().repository().keys.trust.repository.to_string()
}

fn disks(members: &[&Member], folder: &Path) -> Vec<Disk> {
    let disk = |member: &&Member| Disk {
        export: member.name.to_string(),
        size_bytes: member.size_bytes,
        path: folder.join(file_names::of(&member.name, &member.kind, ".qcow2")),
    };
    members.iter().map(disk).collect()
}

fn tell_unreadable(members: &[&Member], context: &Context) -> Result<(), Failure> {
    for member in members {
        unreadable::tell(context, member, nbd::UNREADABLE)?;
    }
    Ok(())
}

/// Writes down what is recovered, then makes the overlays that are not there yet.
fn prepare(recovery: Option<Recovery>, reader: &SnapshotReader, job: &Job) -> Result<Recovery, Failure> {
    let mut recovery = recovery.unwrap_or_else(|| Recovery {
        repository: id(reader),
        snapshot: reader.manifest().session,
        is_ready: false,
    });
    if !recovery.is_ready {
        recovery.write(&job.folder)?;
        for disk in job.disks.iter().filter(|disk| !disk.path.exists()) {
            let uri = socket::uri(&disk.export, &job.exports());
            sancerre_boot::make_overlay(&disk.path, &uri, disk.size_bytes)?;
        }
        recovery.is_ready = true;
        recovery.write(&job.folder)?;
    }
    match job.disks.iter().find(|disk| !disk.path.exists()) {
        None => Ok(recovery),
        Some(lost) => Err(Failure::failed(format!(
            "{} is not there, and what the guest wrote was in it; nothing was changed. Bring it back, or recover into another \
             storage",
            plain::path(&lost.path)
        ))),
    }
}

fn interrupted(failure: Failure) -> Failure {
    match failure.exit {
        Exit::Interrupted => Failure::new(
            Exit::Interrupted,
            "interrupted. The guest runs on, and waits where it reads what is not there yet: run the same command again, which \
             goes on",
        ),
        _ => failure,
    }
}

fn finish(
    brought: &Brought,
    recovery: &Recovery,
    cache: &ChunkCache,
    started: Instant,
    context: &Context,
) -> Result<Done, Failure> {
    let took = started.elapsed();
    context.output.message(&format!(
        "{} needs the repository no more, after {}: its disks are in {}",
        brought.vm,
        duration(took),
        plain::path(&brought.folder)
    ));
    let (fetched_frames, fetched_bytes) = cache.fetched();
    let paths: Vec<Value> = brought.disks.iter().map(|path| json!(path.display().to_string())).collect();
    let summary = [
        ("snapshot", json!(recovery.snapshot.intent.to_string())),
        ("vm", json!(brought.vm)),
        ("folder", json!(brought.folder.display().to_string())),
        ("disks", json!(paths)),
        ("was_running", json!(brought.was_running)),
        ("running_after_seconds", json!(brought.running_after.map(seconds))),
        ("fetched_frames", json!(fetched_frames)),
        ("fetched_bytes", json!(fetched_bytes)),
        ("duration_seconds", json!(seconds(took))),
    ];
    Ok(ended(Exit::Done, summary))
}

/// A program's name and its arguments.
fn command(program: &Path, arguments: Vec<OsString>) -> Vec<OsString> {
    std::iter::once(program.as_os_str().to_owned()).chain(arguments).collect()
}
