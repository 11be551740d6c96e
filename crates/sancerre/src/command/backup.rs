//! `backup`: all disks of one machine become one snapshot.

pub(crate) mod import;
mod told;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use sancerre_engine::backup::{self, Allow, BackupOptions, BackupReport, BackupSource, FileCatalogues, Maps};
use sancerre_engine::cache::Cache;
use sancerre_engine::location;
use sancerre_engine::monitor::{Monitor, Topic};
use sancerre_engine::repository::Repository;
use sancerre_engine::suspicion::Suspicion;
use sancerre_format::names::{self, MachineId, Name, Tag, Time, Title};

use super::{Context, Watched, ended};
use crate::access::Access;
use crate::arguments::{DedupScope, parse_name, parse_tag, parse_title, parse_until, rule};
use crate::bitmaps::Bitmaps;
use crate::catalogue::Building;
use crate::changed::Changed;
use crate::clocks;
use crate::exit::{Done, Exit, Failure};
use crate::formats::{Formats, NamedFormat};
use crate::inputs::{ExpectMin, Opening};
use crate::live::{self, LiveOptions};
use crate::named_path;
use crate::plain;
use crate::printed::Ended;
use crate::progress::{Board, Work};
use crate::repository;
use crate::sources::{self, Attachment, DiskSource};

pub(crate) use told::{measure, summary, tell};

/// Most that the cache takes: the page tables of an index of 100 TB.
const CACHE_BYTES: u64 = 2 << 30;

/// Back up the disks of one virtual machine.
///
/// Disks that are named are read as they are: give snapshots or quiesced disks, see docs/QUIESCE.md; or have the hypervisor keep
/// a moment of its machines still, with --source. All of them become one snapshot, or none does.
#[derive(Debug, Args)]
#[command(after_help = "\
A bare PATH is named disk0, the next one disk1, and so on.

Examples:
  sancerre backup --vm web01 /dev/vg0/web01-snap
  sancerre backup --vm db01 system=/dev/vg0/db01-root-snap data=/dev/vg0/db01-data-snap --attach db01.xml
  sancerre backup --vm web01 --machine $(virsh domuuid web01) --retain-until 2027-01-31 /dev/vg0/web01-snap
  sancerre backup --vm 'Büro Server' --public-name m17 'Platte 1=/dev/vg0/m17-snap'
  pg_dumpall | sancerre backup --vm db01 --stdin dump.sql --expect-min 100M --tag nightly
  sancerre backup --vm db01 --stdin dump.sql --stdin-command 'pg_dumpall -U backup'    # fails if pg_dumpall does
  sancerre backup --vm app01 app01.qcow2 data=old.img --format data=vmdk
  sancerre backup --vm app02 'nbd+unix:///?socket=/run/app02.sock'
  sancerre backup --source libvirt --vm web01                             # while it runs, and only what changed
  sancerre backup --source libvirt --all --exclude '*-test'               # all machines of this host
  sancerre backup --source qemu --qmp /run/web03.qmp --vm web03           # the same without libvirt
  sancerre backup --source command --vm web04 --begin './snapshot web04' --end './remove web04'
  sancerre backup --vm web02 /dev/rbd0 --changed web02.map --changed-since web02:latest
  sancerre backup --vm web01 /dev/vg0/web01-snap --catalogue              # what is on it is found in seconds later
  sancerre backup --vm web01 /dev/vg0/web01-snap --fail-on-suspect || page-somebody
  sancerre backup --vm nas1 /dev/sdb --allow-unreadable                   # a disk that is dying
  sancerre backup --vm nas1 /dev/sdb --allow-unreadable --only-unreadable # once more, only what could not be read")]
pub(crate) struct Backup {
    /// The machine's name, as the hypervisor has it; everybody who reads the bucket sees it, unless --public-name is given
    #[arg(long, value_name = "NAME", value_parser = parse_title, required_unless_present = "all")]
    pub(crate) vm: Option<Title>,
    /// A pseudonym that stands for the machine's name in all that can be read without a key; always give the same one
    #[arg(long, value_name = "NAME", value_parser = parse_title)]
    pub(crate) public_name: Option<Title>,
    /// The hypervisor's id of the machine, which everybody sees; with it the history goes on when the machine is renamed
    #[arg(long, value_name = "UUID", value_parser = parse_machine)]
    machine: Option<MachineId>,
    /// A word to group snapshots by, which everybody sees
    #[arg(long, value_name = "WORD", value_parser = parse_name)]
    class: Option<Name>,
    /// Until then no `forget` counts for this snapshot; a day, or a time in UTC
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    retain_until: Option<Time>,
    /// Its disks: files, block devices, or exports of NBD servers (nbd://, nbds://, nbd+unix://)
    #[arg(value_name = "[NAME=]PATH", required_unless_present_any = ["stdin", "attach", "source"], value_parser = named_path::disk())]
    pub(crate) disks: Vec<DiskSource>,
    /// A label for the snapshot; may be given several times
    #[arg(long = "tag", value_name = "TAG", value_parser = parse_tag)]
    tags: Vec<Tag>,
    /// Read and compare everything, but store nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Save even if a disk changes while it is read, is mounted read-write here or open in a running guest; the snapshot is
    /// marked fuzzy, and the exit code is 3
    #[arg(long)]
    allow_changing: bool,
    /// Save a disk or stream of no bytes, and a disk that is less than half as large as in the machine's last snapshot, or all
    /// zeros and was not then; a first snapshot of nothing but zeros is saved without it
    #[arg(long)]
    allow_small: bool,
    /// Save all of a failing disk that can be read, and name the rest, which is zeros in the snapshot; the exit code is
    /// then 3
    #[arg(long)]
    allow_unreadable: bool,
    /// Read of a failing disk only what the last snapshot could not, and take all else from there; for a disk that nobody
    /// writes to
    #[arg(long, requires = "allow_unreadable")]
    only_unreadable: bool,
    #[command(flatten)]
    pub(crate) changed: Changed,
    /// In what form the disks are: raw, qcow2, vmdk, vhd, vhdx, vdi, parallels or qed; NAME=FORMAT for one of them. Without
    /// it the suffix of the name says it, and what has no such suffix is raw
    #[arg(long = "format", value_name = "[NAME=]FORMAT")]
    pub(crate) formats: Vec<NamedFormat>,
    /// Where the files may lie that an image stands on: backing files, data files, extents. Without it an image that names
    /// others is refused
    #[arg(long, value_name = "DIRECTORY")]
    image_parts: Option<PathBuf>,
    /// Read images without confining what reads them, where this kernel cannot: an image that was made to do harm may then
    /// read every file of this user, and keys
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    /// Read what the file system calls holes, too; for one that is wrong about them
    #[arg(long)]
    read_holes: bool,
    /// Save nothing if a disk or stream has fewer bytes, such as 10G; NAME=SIZE for one of them, may be given several times
    #[arg(long, value_name = "[NAME=]SIZE")]
    pub(crate) expect_min: Vec<ExpectMin>,
    /// Whose stored data counts as known: that of all hosts of the zone, or only this writer's own, which no other host
    /// can have spoiled
    #[arg(long, value_enum, default_value_t)]
    dedup: DedupScope,
    /// Keep log, index and maps, as the store has them, in this folder, so that the next backup need not fetch them;
    /// 2 GiB at most, may be deleted at any time [env: SANCERRE_CACHE_DIR] [default, for buckets: ~/.cache/sancerre]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache_dir: Option<PathBuf>,
    /// Fetch all from the store, and keep nothing
    #[arg(long)]
    no_cache: bool,
    /// Count nothing of what changed on the disks: then nobody can say whether this night looks suspect, and the next one is
    /// unusual for it
    #[arg(long)]
    no_statistics: bool,
    /// Keep a catalogue of the files on the disks in the snapshot, sealed like the disks: `find`, `history` and `diff --files` then
    /// need not look at the disks
    #[arg(long)]
    catalogue: bool,
    /// End with 30 if the snapshot, which is saved all the same, looks suspect; see docs/SUSPICION.md
    #[arg(long, conflicts_with = "no_statistics")]
    fail_on_suspect: bool,
    /// Write Prometheus metrics to this file, which everybody may read, also when the backup fails
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics_file: Option<PathBuf>,
    /// Back up standard input under this name
    #[arg(long, value_name = "NAME", value_parser = parse_title)]
    pub(crate) stdin: Option<Title>,
    /// Run this with `sh -c` and back up what it prints, in place of standard input; if it fails nothing is saved. It can ask
    /// nothing at the terminal, and ends when the backup does
    #[arg(long, value_name = "COMMAND", requires = "stdin")]
    stdin_command: Option<String>,
    /// A file that belongs to the machine, such as its configuration; may be given several times
    #[arg(long, value_name = "[NAME=]FILE", value_parser = named_path::attachment())]
    pub(crate) attach: Vec<Attachment>,
    #[command(flatten)]
    pub(crate) live: LiveOptions,
}

impl Backup {
    /// What it writes besides the repository, in words, and where.
    pub(crate) fn written(&self, context: &Context) -> Vec<(&'static str, PathBuf)> {
        let cache = cache_folder(self, context, false).ok().flatten().map(|folder| ("the cache", folder));
        let metrics = self.metrics_file.clone().map(|path| ("the metrics file", path));
        cache.into_iter().chain(metrics).collect()
    }
}

/// Hypervisors write it in either case.
fn parse_machine(text: &str) -> Result<MachineId, String> {
    MachineId::parse(&text.to_ascii_lowercase()).map_err(rule)
}

pub(crate) async fn run(options: Backup, context: &Context) -> Result<Done, Failure> {
    match options.live.source {
        Some(_) => live::run(&options, context).await,
        None => {
            options.live.refuse_without_source()?;
            given(options, context).await
        }
    }
}

/// Backs up the disks that were named.
async fn given(options: Backup, context: &Context) -> Result<Done, Failure> {
    let subject = Subject { vm: options.vm.clone().ok_or_else(no_name)?, machine: options.machine };
    let started = Instant::now();
    let result = save(&options, &subject, context).await.map_err(|failure| interrupted(&options, failure));
    let took = started.elapsed();
    let is_measured = measure(&options, &subject, context, took, result.as_ref().ok());
    let report = result?;
    let is_whole = tell(&subject, context, &report, took)?;
    let exit = options.exit(&report, is_whole && is_measured);
    Ok(ended(exit, summary(&options, &subject, &report, took)))
}

/// Nothing of an interrupted backup was in vain.
pub(crate) fn interrupted(options: &Backup, failure: Failure) -> Failure {
    match failure.exit {
        Exit::Interrupted if !options.dry_run => {
            let message = format!("{}; what was uploaded is reused by the next backup", failure.message);
            Failure { message, ..failure }
        }
        _ => failure,
    }
}

fn no_name() -> Failure {
    Failure::usage("which machine? Give its name with --vm")
}

/// The machine that is backed up.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) vm: Title,
    pub(crate) machine: Option<MachineId>,
}

async fn save(options: &Backup, subject: &Subject, context: &Context) -> Result<BackupReport, Failure> {
    refuse_past(options, context)?;
    // Whatever happens from here on, no command is left behind.
    let _ended = Ended;
    let planned = sources::plan(&options.disks, options.stdin.as_ref(), &options.attach)?;
    let bitmaps = options.changed.bitmaps();
    let sources = options.opening(&bitmaps, &options.formats).all(planned, context)?;
    let maps = options.changed.maps(&sources, &bitmaps, context)?;
    store(options, subject, sources, maps, context).await
}

/// Makes a snapshot of sources that are open.
async fn store(
    options: &Backup,
    subject: &Subject,
    sources: Vec<BackupSource>,
    maps: Maps,
    context: &Context,
) -> Result<BackupReport, Failure> {
    let (repository, monitor, _watched) = open(options, context).await?;
    let began = context.host.clock.now();
    let options = options.engine(subject, sources, maps, context.global.memory);
    let report = backup::backup(&repository, options, &monitor).await?;
    compare_clocks(context, &repository, &report, began).await;
    Ok(report)
}

/// The repository with its cache, and what shows progress.
pub(crate) async fn open(
    options: &Backup,
    context: &Context,
) -> Result<(Repository, Monitor, Watched), Failure> {
    let repository = repository::open(context, Access::Metadata).await?;
    let (monitor, watched) = context.watched(Work::Backup)?;
    Ok((cached(options, context, repository, &monitor)?, monitor, watched))
}

/// The same for several machines.
pub(crate) async fn open_all(
    options: &Backup,
    context: &Context,
    board: &Arc<Board>,
) -> Result<(Repository, Monitor, Watched), Failure> {
    let repository = repository::open(context, Access::Metadata).await?;
    let (monitor, watched) = context.watched_machines(board)?;
    Ok((cached(options, context, repository, &monitor)?, monitor, watched))
}

fn cached(
    options: &Backup,
    context: &Context,
    mut repository: Repository,
    monitor: &Monitor,
) -> Result<Repository, Failure> {
    if let Some(folder) = cache_folder(options, context, repository.store.is_remote())? {
        context.output.detail(&format!("cache {}", plain::path(&folder)));
        let warned = monitor.clone();
        repository.cache = Cache::new(folder, CACHE_BYTES, move |warning| warned.warn(Topic::Hint, warning));
    }
    Ok(repository)
}

/// Says so if the store's clock is another one.
pub(crate) async fn compare_clocks(
    context: &Context,
    repository: &Repository,
    report: &BackupReport,
    began: Time,
) {
    if let Some(session) = &report.snapshot {
        let zone = &repository.keys.zone;
        let keys = [names::log(zone, session.number), names::outcome(zone, session)];
        clocks::compare(context, repository, &keys, began).await;
    }
}

impl Backup {
    /// What the engine is asked to do with these sources.
    pub(crate) fn engine(
        &self,
        subject: &Subject,
        sources: Vec<BackupSource>,
        maps: Maps,
        memory_bytes: u64,
    ) -> BackupOptions {
        BackupOptions {
            vm: subject.vm.clone(),
            public_name: self.public_name.clone(),
            machine: subject.machine,
            class: self.class.clone(),
            retain_until: self.retain_until,
            sources,
            tags: self.tags.clone(),
            allow: self.allow(),
            only_unreadable: self.only_unreadable,
            maps,
            dedup: self.dedup.into(),
            statistics: !self.no_statistics,
            catalogue: self
                .catalogue
                .then(|| -> Box<dyn FileCatalogues> { Box::new(Building { sandbox: !self.no_sandbox }) }),
            dry_run: self.dry_run,
            memory_bytes,
        }
    }

    /// How a backup that saved something ends.
    pub(crate) fn exit(&self, report: &BackupReport, is_as_asked: bool) -> Exit {
        match is_as_asked {
            _ if self.fail_on_suspect && told::verdict(report) == Some(Suspicion::Suspect) => Exit::Suspect,
            true => Exit::Done,
            false => Exit::NotAsAsked,
        }
    }

    fn allow(&self) -> Allow {
        Allow { changing: self.allow_changing, small: self.allow_small, unreadable: self.allow_unreadable }
    }

    pub(crate) fn opening<'a>(&'a self, bitmaps: &'a Bitmaps, formats: &'a [NamedFormat]) -> Opening<'a> {
        Opening {
            allow: self.allow(),
            formats: Formats {
                given: formats,
                parts: self.image_parts.as_deref(),
                sandbox: !self.no_sandbox,
                bitmaps,
            },
            read_holes: self.read_holes,
            expect_min: &self.expect_min,
            command: self.stdin_command.as_deref(),
        }
    }
}

/// A year too early would keep nothing, and nobody would notice.
pub(crate) fn refuse_past(options: &Backup, context: &Context) -> Result<(), Failure> {
    match options.retain_until {
        Some(until) if until <= context.host.clock.now() => {
            Err(Failure::usage(format!("--retain-until {until} is over; give a time to come")))
        }
        _ => Ok(()),
    }
}

/// Where to keep what the next backup would fetch again. A repository on this machine needs no copy of itself.
///
/// Errors: a path that surely was meant otherwise.
fn cache_folder(options: &Backup, context: &Context, is_remote: bool) -> Result<Option<PathBuf>, Failure> {
    let variable = |name| context.environment.path(name);
    let given = options.cache_dir.clone().or_else(|| variable("SANCERRE_CACHE_DIR"));
    let meant = given.as_deref().and_then(Path::to_str).and_then(location::of_folder);
    if let (Some(path), Some(meant)) = (&given, meant) {
        return Err(Failure::usage(format!(
            "cannot use {:?} as a cache (--cache-dir): {meant}",
            path.display()
        )));
    }
    let usual = || {
        let home = || variable("HOME").map(|home| home.join(".cache"));
        Some(variable("XDG_CACHE_HOME").or_else(home)?.join("sancerre"))
    };
    Ok(match given {
        _ if options.no_cache => None,
        None if is_remote => usual(),
        given => given,
    })
}
