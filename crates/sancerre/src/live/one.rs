//! One machine.

use std::path::Path;
use std::time::Instant;

use sancerre_capture::{Live, Machine, MachineDisk, Pull, Virsh};
use sancerre_engine::Error;
use sancerre_engine::backup::{self as engine, BackupReport, Hint, Maps};
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::select::{Selector, Which};
use sancerre_format::names::{MachineId, Title};
use sancerre_format::outcome::MemberKind;
use serde_json::{Map, Value, json};

use super::picture::{Shared, Taking, files, title};
use super::{Freezing, Hypervisor};
use crate::bitmaps::Bitmaps;
use crate::command::backup::{self, Subject};
use crate::command::{Backup, Context};
use crate::exit::{Done, Exit, Failure};
use crate::formats::{Format, NamedFormat};
use crate::repository;
use crate::sources::{self, Planned};

/// What all machines of a command are backed up with.
pub(super) struct With<'a> {
    pub(super) options: &'a Backup,
    pub(super) context: &'a Context,
    pub(super) virsh: Virsh,
    pub(super) repository: Repository,
    pub(super) memory_bytes: u64,
}

/// `--vm NAME`
pub(super) async fn run(options: &Backup, context: &Context) -> Result<Done, Failure> {
    let Some(Hypervisor::Libvirt) = options.live.source else {
        return Err(Failure::usage("which --source?"));
    };
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
    refuse_unknown(options, &machine)?;
    let (repository, monitor, _watched) = backup::open(options, context).await?;
    let with = With { options, context, virsh, repository, memory_bytes: context.global.memory };
    let (exit, summary) = with.back_up(machine, monitor).await?;
    Ok(Done { exit, summary })
}

/// A disk that is meant to be left out and is not there was perhaps meant to be another.
fn refuse_unknown(options: &Backup, machine: &Machine) -> Result<(), Failure> {
    let is_there = |target: &&String| machine.disks.iter().any(|disk| disk.target == **target);
    match options.live.exclude_disks.iter().find(|target| !is_there(target)) {
        None => Ok(()),
        Some(unknown) => {
            let targets: Vec<&str> = machine.disks.iter().map(|disk| disk.target.as_str()).collect();
            Err(Failure::usage(format!(
                "--exclude-disk names {unknown}, and {} has {}",
                machine.name,
                targets.join(", ")
            )))
        }
    }
}

impl With<'_> {
    /// Backs up one machine, and says what came of it.
    pub(super) async fn back_up(
        &self,
        machine: Machine,
        monitor: Monitor,
    ) -> Result<(Exit, Map<String, Value>), Failure> {
        let (options, context) = (self.options, self.context);
        let named = Title::typed(&machine.name).map_err(|error| {
            Failure::failed(format!(
                "the machine {:?} cannot be named in a repository: {error}",
                machine.name
            ))
        })?;
        let subject =
            Subject { vm: named, machine: MachineId::parse(&machine.uuid.to_ascii_lowercase()).ok() };
        let started = Instant::now();
        let skipped = self.skipped(&machine, &monitor);
        let result = self.save(&subject, machine, &skipped, monitor).await;
        let took = started.elapsed();
        let is_measured = backup::measure(options, &subject, context, took, result.as_ref().ok());
        let report = result?;
        let is_whole = backup::tell(&subject, context, &report, took)?;
        let is_all = skipped.iter().all(|skipped| skipped.is_meant);
        let exit = if is_whole && is_measured && is_all { Exit::Done } else { Exit::NotAsAsked };
        let fields = backup::summary(options, &subject, &report, took);
        let mut summary: Map<_, _> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let told = |skipped: &Skipped| json!({"disk": skipped.target, "why": skipped.why, "meant": skipped.is_meant});
        summary.insert("skipped".into(), skipped.iter().map(told).collect());
        Ok((exit, summary))
    }

    /// What is not backed up, said disk by disk.
    fn skipped(&self, machine: &Machine, monitor: &Monitor) -> Vec<Skipped> {
        let mut all = Vec::new();
        for disk in &machine.disks {
            let is_excluded = self.options.live.exclude_disks.contains(&disk.target);
            let why = match (&disk.skipped, is_excluded) {
                (_, true) => "it was excluded".to_owned(),
                (Some(why), false) => why.clone(),
                (None, false) => continue,
            };
            let is_meant = is_excluded || disk.is_medium;
            let text = format!("{} of {} is not backed up: {why}", disk.target, machine.name);
            match is_meant {
                true => self.context.output.message(&text),
                false => {
                    monitor.warn(format!("{text}; --exclude-disk {} says that this is meant", disk.target));
                }
            }
            all.push(Skipped { target: disk.target.clone(), why, is_meant });
        }
        all
    }

    async fn save(
        &self,
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
        let began = self.context.host.clock.now();
        let live = &self.options.live;
        let (run_folder, is_active) = (live.run_folder(self.context), machine.is_active);
        let repository = self.repository.keys.trust.repository.to_string();
        let claimed =
            Live::claim(self.virsh.clone(), machine, &run_folder, live.scratch.clone(), &repository)?;
        let report = match is_active {
            true => self.running(subject, claimed, &taken, &monitor).await?,
            false => self.stopped(subject, claimed, &taken, &monitor).await?,
        };
        backup::compare_clocks(self.context, &self.repository, &report, began).await;
        Ok(report)
    }

    /// A running machine: libvirt keeps a moment of it still.
    async fn running(
        &self,
        subject: &Subject,
        live: Live,
        taken: &[MachineDisk],
        monitor: &Monitor,
    ) -> Result<BackupReport, Failure> {
        let pull = Pull {
            targets: taken.iter().map(|disk| disk.target.clone()).collect(),
            freeze: self.options.live.freezing()?,
            must_freeze: self.options.live.freeze == Freezing::Must,
            ..Pull::default()
        };
        let live = Shared::new(live);
        let capture = Box::new(Taking {
            live: live.clone(),
            pull,
            verify_millionths: self.options.changed.verify_millionths(),
            monitor: monitor.clone(),
            attached: self.attached()?,
        });
        let options = self.options.engine(subject, Vec::new(), Maps::default(), self.memory_bytes);
        let result = engine::backup_captured(&self.repository, options, capture, monitor).await;
        let mut live = live.lock();
        let given_up = live.given_up();
        for left in live.end(result.as_ref().is_ok_and(|report| report.snapshot.is_some())) {
            monitor.warn(format!("something of this backup is still there, the next one removes it: {left}"));
        }
        match (result, given_up) {
            (Err(_), Some(why)) => Err(Failure::failed(format!("{} was given up: {why}", subject.vm))),
            (result, _) => Ok(result?),
        }
    }

    /// A machine that does not run: its files stand still.
    async fn stopped(
        &self,
        subject: &Subject,
        live: Live,
        taken: &[MachineDisk],
        monitor: &Monitor,
    ) -> Result<BackupReport, Failure> {
        let log = repository::load_recent_log(self.context, &self.repository).await?;
        let is_of = |snapshot: &sancerre_engine::repository::log::Snapshot<'_>| {
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
        let mut sources = self.options.opening(&bitmaps, &formats).all(planned, self.context)?;
        let mut hints = Vec::new();
        for name in names {
            hints.extend(bitmaps.take(&name)?.map(|map| Hint { disk: name, map }));
        }
        sources.extend(files(live.machine(), monitor)?);
        sources.extend(self.attached()?);
        let since = kept.filter(|_| !hints.is_empty());
        let since = since.map(|(_, id)| Selector { snapshot: Which::Id(id), member: None });
        let maps = Maps::new(hints, since, self.options.changed.verify_millionths());
        let options = self.options.engine(subject, sources, maps, self.memory_bytes);
        Ok(engine::backup(&self.repository, options, monitor).await?)
    }

    fn attached(&self) -> Result<Vec<engine::BackupSource>, Failure> {
        let planned = sources::plan(&[], None, &self.options.attach)?;
        let bitmaps = Bitmaps::default();
        self.options.opening(&bitmaps, &[]).all(planned, self.context)
    }
}

/// In what form libvirt says that a disk is: what its bytes say does not count.
fn format(disk: &MachineDisk) -> Result<Format, Failure> {
    let name = if disk.format == "vpc" { "vhd" } else { &disk.format };
    name.parse().map_err(|error| {
        Error::Refused(format!("{} ({}): {error}", disk.target, Path::new(&disk.path).display())).into()
    })
}

/// A disk that is not backed up.
struct Skipped {
    target: String,
    why: String,
    /// Nobody expects it, or it was said.
    is_meant: bool,
}
