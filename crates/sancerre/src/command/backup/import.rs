//! `import`: the machine in an OVA becomes one snapshot.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use sancerre_confine::Limits;
use sancerre_engine::Error;
use sancerre_engine::backup::{BackupSource, Input, Maps};
use sancerre_format::names::{MachineId, Name, Tag, Time, Title};
use sancerre_format::outcome::MemberKind;
use sancerre_image::confined::ConfinedReader;
use sancerre_image::foreign::ImageReader;
use sancerre_image::nbd::NbdOptions;
use sancerre_image::package::{Package, has_its_sum};
use sancerre_image::{Disk, RawDisk};

use super::{Backup, Subject, parse_machine, refuse_past, store, summary, tell};
use crate::arguments::{DedupScope, parse_name, parse_tag, parse_title, parse_until};
use crate::changed::Changed;
use crate::command::{Context, ended};
use crate::exit::{Done, Exit, Failure};
use crate::formats;
use crate::live::LiveOptions;
use crate::plain;

/// What the description is called in the snapshot.
const DESCRIPTION: &str = "machine.ovf";

/// Save the machine in an OVA as one snapshot, without unpacking it.
///
/// All of its disks are saved as the guest sees them, and its description goes with them. Sums of its manifest (SHA-256) are
/// compared first. What reads the archive and its disks is confined.
#[derive(Debug, Args)]
#[command(after_help = "\
Disks are named disk0, disk1, … in the order of the description, which is saved as machine.ovf.

Examples:
  sancerre import web01.ova --vm web01
  sancerre import /srv/in/appliance.ova --vm proxy --tag imported")]
pub(crate) struct Import {
    /// The OVA
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The machine's name; everybody who reads the bucket sees it, unless --public-name is given
    #[arg(long, value_name = "NAME", value_parser = parse_title)]
    vm: Title,
    /// A pseudonym that stands for the machine's name in all that can be read without a key; always give the same one
    #[arg(long, value_name = "NAME", value_parser = parse_title)]
    public_name: Option<Title>,
    /// The hypervisor's id of the machine, which everybody sees
    #[arg(long, value_name = "UUID", value_parser = parse_machine)]
    machine: Option<MachineId>,
    /// A word to group snapshots by, which everybody sees
    #[arg(long, value_name = "WORD", value_parser = parse_name)]
    class: Option<Name>,
    /// Until then no `forget` counts for this snapshot; a day, or a time in UTC
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    retain_until: Option<Time>,
    /// A label for the snapshot; may be given several times
    #[arg(long = "tag", value_name = "TAG", value_parser = parse_tag)]
    tags: Vec<Tag>,
    /// Read and compare everything, but store nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Read it without confining what reads it, where this kernel cannot: an archive that was made to do harm may then read
    /// every file of this user, and keys
    #[arg(long)]
    no_sandbox: bool,
    /// Whose stored data counts as known: that of all hosts of the zone, or only this writer's own
    #[arg(long, value_enum, default_value_t)]
    dedup: DedupScope,
    /// As of `backup` [env: SANCERRE_CACHE_DIR] [default, for buckets: ~/.cache/sancerre]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache_dir: Option<PathBuf>,
    /// Fetch all from the store, and keep nothing
    #[arg(long)]
    no_cache: bool,
}

impl Import {
    /// As a backup, which it is but for its sources.
    fn backup(&self) -> Backup {
        Backup {
            vm: Some(self.vm.clone()),
            public_name: self.public_name.clone(),
            machine: self.machine,
            class: self.class.clone(),
            retain_until: self.retain_until,
            disks: Vec::new(),
            tags: self.tags.clone(),
            dry_run: self.dry_run,
            allow_changing: false,
            // An imported machine need not be the one that was saved before.
            allow_small: true,
            allow_unreadable: false,
            only_unreadable: false,
            changed: Changed::default(),
            formats: Vec::new(),
            image_parts: None,
            no_sandbox: self.no_sandbox,
            read_holes: false,
            expect_min: Vec::new(),
            dedup: self.dedup,
            cache_dir: self.cache_dir.clone(),
            no_cache: self.no_cache,
            no_statistics: false,
            catalogue: false,
            fail_on_suspect: false,
            metrics_file: None,
            stdin: None,
            stdin_command: None,
            attach: Vec::new(),
            live: LiveOptions::default(),
        }
    }

    /// What it writes besides the repository, in words, and where.
    pub(crate) fn written(&self, context: &Context) -> Vec<(&'static str, PathBuf)> {
        self.backup().written(context)
    }
}

pub(crate) async fn run(import: Import, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let options = import.backup();
    refuse_past(&options, context)?;
    let reader = ConfinedReader::new(formats::helper()?, !import.no_sandbox);
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let (file, package) = reader.package(&import.file).map_err(|error| failed(&error))?;
    compare(&import, &file, &package, context)?;
    let sources = sources(&import, &file, &package, context)?;
    let subject = Subject { vm: import.vm.clone(), machine: import.machine };
    let report = store(&options, &subject, sources, Maps::default(), context).await?;
    let took = started.elapsed();
    let is_whole = tell(&subject, context, &report, took)?;
    let exit = if is_whole { Exit::Done } else { Exit::NotAsAsked };
    Ok(ended(exit, summary(&options, &subject, &report, took)))
}

/// Compares what is in the archive with its manifest.
fn compare(import: &Import, file: &RawDisk, package: &Package, context: &Context) -> Result<(), Failure> {
    for member in std::iter::once(&package.description).chain(&package.disks) {
        if !has_its_sum(file, member).map_err(Error::from)? {
            return Err(Failure::failed(format!(
                "{} in {} is not what its manifest says: its SHA-256 is another one. It was damaged or changed on its way; \
                 nothing was saved. Bring it here again",
                member.name,
                plain::path(&import.file)
            )));
        }
    }
    if package.disks.iter().any(|disk| disk.sum.is_none()) {
        let why = match package.has_manifest {
            true => "its manifest has no SHA-256 of every disk",
            false => "it has no manifest",
        };
        context.output.warning(&format!(
            "nothing tells whether {} came here as it was made: {why}",
            plain::path(&import.file)
        ));
    }
    Ok(())
}

fn sources(
    import: &Import,
    file: &RawDisk,
    package: &Package,
    context: &Context,
) -> Result<Vec<BackupSource>, Failure> {
    let reader = ImageReader {
        qemu_nbd: formats::program(context, formats::QEMU_NBD, &import.file, "read")?,
        helper: formats::helper()?,
        limits: Limits::default(),
        sandbox: !import.no_sandbox,
        options: NbdOptions::default(),
    };
    let title = |name: &str| Title::new(name).map_err(|error| Failure::usage(error.to_string()));
    let mut sources = Vec::new();
    for (number, member) in package.disks.iter().enumerate() {
        let disk = reader
            .open_inside(&import.file, member.range.clone())
            .map_err(|error| Failure::failed(format!("{}: {error}", member.name)))?;
        if disk.size_bytes() != member.capacity_bytes {
            context.output.warning(&format!(
                "{} shows a disk of {} bytes, and its description says {}: what it shows is saved",
                member.name,
                disk.size_bytes(),
                member.capacity_bytes
            ));
        }
        let (name, input) = (title(&format!("disk{number}"))?, Input::Disk(Arc::new(disk)));
        sources.push(BackupSource { name, kind: MemberKind::Disk, input, least_bytes: 1 });
    }
    // Of the file that was looked at, should the name mean another one by now. It is no longer than it may be.
    let range = &package.description.range;
    let mut text = vec![0; usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0)];
    file.read_at(range.start, &mut text).map_err(Error::from)?;
    let input = Input::Stream(Box::new(Cursor::new(text)));
    sources.push(BackupSource { name: title(DESCRIPTION)?, kind: MemberKind::File, input, least_bytes: 0 });
    Ok(sources)
}
