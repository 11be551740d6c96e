//! One machine of libvirt.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use sancerre_capture::{Live, Machine, MachineDisk, Virsh};
use sancerre_engine::Error;
use sancerre_engine::backup::{self as engine, BackupReport, BackupSource, Hint, Input, Maps};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::log::Snapshot;
use sancerre_engine::select::{Selector, Which};
use sancerre_format::names::{MachineId, Title};
use sancerre_format::outcome::MemberKind;
use sancerre_image::Part;
use serde_json::{Map, Value};

use super::picture::{files, title};
use super::with::{Seen, Skipped, With, refuse_unknown};
use crate::bitmaps::Bitmaps;
use crate::command::backup::{self, Subject};
use crate::command::{Backup, Context};
use crate::exit::{Done, Exit, Failure};
use crate::formats::{Format, NamedFormat};
use crate::plain;
use crate::repository;
use crate::sources::Planned;

/// Who kept count, in the manifest.
const SOURCE: &str = "libvirt";

/// `--vm NAME`
pub(super) async fn run(options: &Backup, context: &Context) -> Result<Done, Failure> {
    let name = options.vm.as_ref().ok_or_else(|| Failure::usage("which machine? Give --vm or --all"))?;
    let virsh = options.live.virsh(context)?;
    // A name that nobody has should cost nothing.
    let machine = Machine::read(&virsh, name.as_str())?;
    if machine.name != name.as_str() && machine.uuid != name.as_str() {
        return Err(Failure::usage(format!(
            "libvirt takes {name} for the number of the running machine {}; give the id of the one that is meant \
             (virsh list --all --uuid --name)",
            machine.name
        )));
    }
    refuse_unknown(options, &machine.name, &seen(&machine))?;
    let (repository, monitor, _watched) = backup::open(options, context).await?;
    let with = With { options, context, repository, memory_bytes: context.global.memory };
    let (exit, summary) = back_up(&with, &virsh, machine, monitor).await?;
    Ok(Done { exit, summary })
}

fn seen(machine: &Machine) -> Vec<Seen<'_>> {
    machine.disks.iter().map(Seen::from).collect()
}

/// Backs up one machine, and says what came of it.
pub(super) async fn back_up(
    with: &With<'_>,
    virsh: &Virsh,
    machine: Machine,
    monitor: Monitor,
) -> Result<(Exit, Map<String, Value>), Failure> {
    let named = Title::typed(&machine.name).map_err(|error| {
        Failure::failed(format!("the machine {:?} cannot be named in a repository: {error}", machine.name))
    })?;
    let subject = Subject { vm: named, machine: MachineId::parse(&machine.uuid.to_ascii_lowercase()).ok() };
    let started = Instant::now();
    let skipped = with.skipped(&machine.name, &seen(&machine), &monitor);
    let result = save(with, virsh, &subject, machine, &skipped, monitor).await;
    with.ended(&subject, &skipped, started, result)
}

async fn save(
    with: &With<'_>,
    virsh: &Virsh,
    subject: &Subject,
    machine: Machine,
    skipped: &[Skipped],
    monitor: Monitor,
) -> Result<BackupReport, Failure> {
    let is_taken = |disk: &&MachineDisk| !skipped.iter().any(|skipped| skipped.target == disk.target);
    let taken: Vec<MachineDisk> = machine.taken().filter(is_taken).cloned().collect();
    if taken.is_empty() {
        return Err(Failure::failed(format!("{} has no disk that can be backed up", machine.name)));
    }
    let began = with.context.host.clock.now();
    let live = &with.options.live;
    let (run_folder, scratch, is_active) =
        (live.run_folder(with.context), live.scratch_folder(), machine.is_active);
    let repository = with.repository.keys.trust.repository.to_string();
    let (virsh, claimed) = (virsh.clone(), machine.clone());
    // What a killed backup asked of libvirt is waited for, and other machines are backed up meanwhile.
    let claimed =
        with.repository.host.compute(move || Live::claim(virsh, claimed, &run_folder, scratch, &repository));
    let claimed = claimed.await??;
    let report = match is_active {
        true => {
            let targets = taken.iter().map(|disk| disk.target.clone()).collect();
            with.pictured(subject, claimed, SOURCE, (targets, Some(machine)), &monitor).await?
        }
        false => stopped(with, subject, claimed, &taken, &monitor).await?,
    };
    backup::compare_clocks(with.context, &with.repository, &report, began).await;
    Ok(report)
}

/// A machine that does not run: its files stand still.
async fn stopped(
    with: &With<'_>,
    subject: &Subject,
    live: Live,
    taken: &[MachineDisk],
    monitor: &Monitor,
) -> Result<BackupReport, Failure> {
    let log = repository::load_recent_log(with.context, &with.repository).await?;
    let is_of = |snapshot: &Snapshot<'_>| {
        let fields = &snapshot.manifest.fields;
        fields.machine.is_some() && fields.machine == subject.machine
    };
    let snapshots: Vec<String> =
        log.snapshots().iter().filter(|one| is_of(one)).map(|one| one.id().to_string()).collect();
    let kept = live.kept(&snapshots)?;
    let (mut planned, mut formats, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for disk in taken {
        let name = title(&disk.target)?;
        let format = format(disk)?;
        if let Some((bitmap, _)) = kept.as_ref().filter(|_| format == Format::Qcow2) {
            wanted.push((Some(name.clone()), bitmap.clone()));
        }
        formats.push(NamedFormat::of(&name, format));
        planned.push(Planned { name, kind: MemberKind::Disk, path: Some(disk.path.clone()) });
    }
    let names: Vec<Title> = wanted.iter().filter_map(|(name, _)| name.clone()).collect();
    let bitmaps = Bitmaps::new(wanted);
    let mut sources = with.options.opening(&bitmaps, &formats).all(planned, with.context)?;
    for source in &mut sources {
        let disk = taken.iter().find(|disk| disk.target == source.name.as_str());
        disk.map_or(Ok(()), |disk| keep_slice(source, disk))?;
    }
    let mut hints = Vec::new();
    for name in names {
        hints.extend(bitmaps.take(&name)?.map(|map| Hint { disk: name, map }));
    }
    sources.extend(files(live.machine(), monitor)?);
    sources.extend(with.attached()?);
    let since = kept.filter(|_| !hints.is_empty());
    let since = since.map(|(_, id)| Selector { snapshot: Which::Id(id), member: None });
    let maps = Maps::new(hints, since, with.options.changed.verify_millionths());
    let options = with.options.engine(subject, sources, maps, with.memory_bytes);
    Ok(engine::backup(&with.repository, options, monitor).await?)
}

/// Leaves of a source what the machine has of it: behind its disk a larger device may have what an older system left.
fn keep_slice(source: &mut BackupSource, disk: &MachineDisk) -> Result<(), Failure> {
    let (Some(range), Input::Disk(whole)) = (&disk.slice, &source.input) else { return Ok(()) };
    let part = Part::new(Arc::clone(whole), range.clone()).filter(|_| disk.format == "raw").ok_or_else(|| {
        Failure::failed(format!(
            "{}: libvirt describes it as bytes {} to {} of {}, which is not a raw disk of that length; see `virsh dumpxml`",
            disk.target,
            range.start,
            range.end,
            plain::path(&disk.path)
        ))
    })?;
    source.input = Input::Disk(Arc::new(part));
    Ok(())
}

/// In what form libvirt says that a disk is: what its bytes say does not count.
fn format(disk: &MachineDisk) -> Result<Format, Failure> {
    let name = if disk.format == "vpc" { "vhd" } else { &disk.format };
    name.parse().map_err(|error| {
        Error::Refused(format!("{} ({}): {error}", disk.target, Path::new(&disk.path).display())).into()
    })
}
