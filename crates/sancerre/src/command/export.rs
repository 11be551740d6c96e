//! `export`: a disk, or a whole machine, as a file of another hypervisor.

mod image;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use sancerre_engine::Error;
use sancerre_engine::monitor::{Monitor, add};
use sancerre_engine::repository::snapshot_disk::{BlockingSnapshotDisk, ChunkCache, SnapshotDisk};
use sancerre_engine::restore::SnapshotReader;
use sancerre_engine::select::Selector;
use sancerre_format::outcome::{Member, MemberKind};
use sancerre_image::export::{Appliance, ApplianceDisk, ExportError, Firmware, write_ova, write_vmdk};
use sancerre_image::foreign::ImageFormat;
use sancerre_image::{Disk, NewFile};
use serde_json::json;
use tokio::runtime::Handle;

use super::{Context, done, restore};
use crate::exit::{Done, Exit, Failure};
use crate::plain;
use crate::progress::Work;
use crate::units::{duration, parse_size, seconds, size};
use crate::unreadable;

/// A longer name would not fit into the headers of an archive.
const FILE_NAME_BYTES_MAX: usize = 60;
const MEBIBYTE: u64 = 1 << 20;
/// More threads than this compress faster than any store gives.
const WORKERS_MAX: usize = 8;
/// Disks that a SATA controller takes.
const DISKS_MAX: usize = 30;
/// What became of bytes of a disk that was failing.
const UNREADABLE: &str = "could not be read when this was backed up, and are exported as zeros";

/// In what form something is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// A machine: all disks, and a description
    Ova,
    /// A disk for VMware and VirtualBox, stream-optimised
    Vmdk,
    /// A disk for Hyper-V
    Vhdx,
    /// A disk for older Hyper-V, Xen and Azure
    Vhd,
    /// A disk for VirtualBox
    Vdi,
}

/// What starts the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FirmwareKind {
    /// A BIOS
    Bios,
    /// UEFI
    Efi,
}

impl From<FirmwareKind> for Firmware {
    fn from(kind: FirmwareKind) -> Self {
        match kind {
            FirmwareKind::Bios => Self::Bios,
            FirmwareKind::Efi => Self::Efi,
        }
    }
}

/// Write a machine, or one disk, as a file that another hypervisor imports.
///
/// The file gets its name only when it is whole. Holes and zeros take no room in it. vhdx, vhd and vdi are written by
/// qemu-img, which is confined and sees nothing but the disk. Needs the passphrase: a writer's key file opens no content.
#[derive(Debug, Args)]
#[command(after_help = "\
An OVA describes processors, memory, firmware and disks; networks are for whoever imports it.

Examples:
  sancerre export web01:latest --target web01.ova --cpus 4 --guest-memory 8G
  sancerre export web01:latest:disk0 --target web01.vmdk
  sancerre export 3f9a12cc:disk0 --format vhdx --target /srv/out/disk.vhdx")]
pub(crate) struct Export {
    /// The snapshot, and one disk of it if only that is wanted: see `sancerre --help`
    #[arg(value_name = "SNAPSHOT[:DISK]", value_parser = Selector::parse)]
    snapshot: Selector,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub(crate) target: PathBuf,
    /// In what form; without it the suffix of the file's name says it
    #[arg(long, value_enum)]
    format: Option<ExportFormat>,
    /// Replace a file that is there
    #[arg(long)]
    overwrite: bool,
    /// Processors of the machine in an OVA
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    cpus: u32,
    /// Memory of the machine in an OVA, in whole MiB
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = parse_size)]
    guest_memory: u64,
    /// What starts the machine in an OVA
    #[arg(long, value_enum, default_value_t = FirmwareKind::Bios)]
    firmware: FirmwareKind,
    /// Run qemu-img without confining it, where this kernel cannot
    #[arg(long)]
    no_sandbox: bool,
}

/// What was written.
struct Written {
    file_bytes: u64,
    /// What the target's disks have more than those of the snapshot.
    surplus_bytes: u64,
}

pub(crate) async fn run(options: Export, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let format = options.form()?;
    if options.guest_memory < MEBIBYTE || !options.guest_memory.is_multiple_of(MEBIBYTE) {
        return Err(Failure::usage("--guest-memory is whole MiB, and at least one"));
    }
    // Before the repository is opened: what can take no file should cost nothing.
    NewFile::create(&options.target, options.overwrite)?.abandon()?;
    let reader = restore::open(&options.snapshot, context).await?;
    let members = members(&reader, &options.snapshot, format)?;
    let mut is_whole = true;
    for member in &members {
        is_whole &= unreadable::tell(context, member, UNREADABLE)?;
    }
    let (monitor, watched) = context.watched(Work::Restore)?;
    reader.warn(&monitor);
    let cache = ChunkCache::new(context.global.memory);
    let mut disks = Vec::with_capacity(members.len());
    for member in &members {
        add(&monitor.counters.total_bytes, member.data_bytes);
        disks.push(SnapshotDisk::open(&reader, member, &cache, &monitor)?);
    }
    let file = NewFile::create(&options.target, options.overwrite)?;
    let written = match format.image() {
        Some(format) => image::write(&options, format, &disks, &file, &monitor, context).await,
        None => write(&options, format, &reader, &members, &disks, &file, &monitor),
    };
    drop(watched);
    let written = match written {
        Ok(written) => written,
        Err(failure) => {
            let path = file.path().to_owned();
            return Err(match file.abandon() {
                Ok(()) => failure,
                Err(_) => Failure {
                    message: format!("{}. {} could not be removed", failure.message, plain::path(&path)),
                    ..failure
                },
            });
        }
    };
    file.finish()?;
    let done = tell(&options, &reader, &members, &written, &cache, started, context);
    Ok(if is_whole { done } else { Done { exit: Exit::NotAsAsked, ..done } })
}

/// What it came to.
fn tell(
    options: &Export,
    reader: &SnapshotReader,
    members: &[&Member],
    written: &Written,
    cache: &ChunkCache,
    started: Instant,
    context: &Context,
) -> Done {
    if written.surplus_bytes > 0 {
        context.output.message(&format!(
            "{} bytes of zeros were put behind the disk: the format knows whole sectors only",
            written.surplus_bytes
        ));
    }
    let (fetched_frames, fetched_bytes) = cache.fetched();
    let took = started.elapsed();
    context.output.message(&format!(
        "{} exported to {}: {}, {} fetched, in {}",
        names(members),
        plain::path(&options.target),
        size(written.file_bytes),
        size(fetched_bytes),
        duration(took)
    ));
    let summary = [
        ("snapshot", json!(reader.manifest().session.intent.to_string())),
        ("vm", json!(reader.vm().to_string())),
        ("disks", json!(members.iter().map(|member| member.name.to_string()).collect::<Vec<_>>())),
        ("path", json!(options.target.display().to_string())),
        ("file_bytes", json!(written.file_bytes)),
        ("surplus_bytes", json!(written.surplus_bytes)),
        ("fetched_frames", json!(fetched_frames)),
        ("fetched_bytes", json!(fetched_bytes)),
        ("duration_seconds", json!(seconds(took))),
    ];
    done(summary)
}

impl Export {
    fn form(&self) -> Result<ExportFormat, Failure> {
        let suffix = || ExportFormat::from_str(self.target.extension()?.to_str()?, true).ok();
        self.format.or_else(suffix).ok_or_else(|| {
            Failure::usage(format!(
                "{} does not say in what form to export: give --format ova, vmdk, vhdx, vhd or vdi (restore writes raw \
                 and qcow2)",
                plain::path(&self.target)
            ))
        })
    }
}

impl ExportFormat {
    /// What QEMU writes for us.
    fn image(self) -> Option<ImageFormat> {
        match self {
            Self::Ova | Self::Vmdk => None,
            Self::Vhdx => Some(ImageFormat::Vhdx),
            Self::Vhd => Some(ImageFormat::Vhd),
            Self::Vdi => Some(ImageFormat::Vdi),
        }
    }
}

/// All disks for a machine, else the one that is meant.
fn members<'a>(
    reader: &'a SnapshotReader,
    snapshot: &Selector,
    format: ExportFormat,
) -> Result<Vec<&'a Member>, Failure> {
    let members: Vec<&Member> = match format {
        ExportFormat::Ova if snapshot.member.is_none() => {
            reader.body().members.iter().filter(|member| member.kind == MemberKind::Disk).collect()
        }
        _ => vec![restore::one(reader, snapshot)?],
    };
    match members.as_slice() {
        [] => Err(Failure::usage("the snapshot has no disk; `sancerre dump` gives its streams and files")),
        [other] if other.kind != MemberKind::Disk => Err(Failure::usage(format!(
            "{} is a {} and no disk; `sancerre dump` gives it as it is",
            other.name, other.kind
        ))),
        many if many.len() > DISKS_MAX => Err(Failure::usage(format!(
            "the snapshot has {} disks, and an OVA takes {DISKS_MAX}; export them one by one",
            many.len()
        ))),
        _ => Ok(members),
    }
}

/// Writes what is ours. It reads and compresses by threads of its own, which is no work for those of the runtime.
fn write(
    options: &Export,
    format: ExportFormat,
    reader: &SnapshotReader,
    members: &[&Member],
    disks: &[Arc<SnapshotDisk>],
    file: &NewFile,
    monitor: &Monitor,
) -> Result<Written, Failure> {
    let runtime = Handle::current();
    let disks: Vec<_> =
        disks.iter().map(|disk| BlockingSnapshotDisk::new(Arc::clone(disk), runtime.clone())).collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
    let watcher = |bytes| {
        add(&monitor.counters.done_bytes, bytes);
        monitor.check().is_ok()
    };
    // A name that differs for each content, and is the same for the same.
    let session = reader.manifest().session.intent.to_string();
    let content = u32::from_str_radix(session.get(..8).unwrap_or_default(), 16).unwrap_or(1);
    let work =
        || match format {
            ExportFormat::Ova => {
                let parts = members.iter().zip(&disks).zip(0..).map(|((member, disk), number)| {
                    ApplianceDisk { label: member.name.as_str(), disk, content: content.wrapping_add(number) }
                });
                let (machine, file_name) = (reader.vm().to_string(), file_name(reader));
                let appliance = Appliance {
                    file_name: &file_name,
                    machine: &machine,
                    cpus: options.cpus,
                    memory_mebibytes: options.guest_memory / MEBIBYTE,
                    firmware: options.firmware.into(),
                    time: u64::try_from(reader.manifest().started.unix_seconds()).unwrap_or(0),
                    disks: parts.collect(),
                };
                write_ova(file.file(), &appliance, workers, &watcher).map(|written| written.file_bytes)
            }
            _ => {
                let disk = disks.first().ok_or(ExportError::Bug("nothing is exported"))?;
                let name = format!("{}.vmdk", file_name(reader));
                let mut out = std::io::BufWriter::with_capacity(1 << 20, file.file());
                let written = write_vmdk(disk, &name, content, workers, &watcher, &mut out)?;
                out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
                Ok(written.file_bytes)
            }
        };
    let file_bytes = tokio::task::block_in_place(|| std::thread::scope(|scope| scope.spawn(work).join()));
    let file_bytes = file_bytes.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let file_bytes = file_bytes.map_err(|error| failed(error, file))?;
    Ok(Written { file_bytes, surplus_bytes: surplus(disks.iter().map(Disk::size_bytes)) })
}

/// Bytes behind disks that are no whole sectors.
fn surplus(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.map(|size| size.next_multiple_of(512).saturating_sub(size)).sum()
}

fn failed(error: ExportError, file: &NewFile) -> Failure {
    match error {
        ExportError::Read(error) => Error::from(error).into(),
        ExportError::Write(source) => file.write_failed(source).into(),
        ExportError::Stopped => Failure::new(Exit::Interrupted, "interrupted; nothing was exported"),
        ExportError::Bug(_) => Failure::new(Exit::Bug, error.to_string()),
        error => Failure::failed(error.to_string()),
    }
}

/// The machine's name as files are called: letters, digits, - and _ alone, which every archive and hypervisor takes.
fn file_name(reader: &SnapshotReader) -> String {
    let plain = |sign: char| if sign.is_ascii_alphanumeric() || "-_".contains(sign) { sign } else { '_' };
    reader.vm().as_str().chars().map(plain).take(FILE_NAME_BYTES_MAX).collect()
}

fn names(members: &[&Member]) -> String {
    members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
}
