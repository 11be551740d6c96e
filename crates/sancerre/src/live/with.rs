//! What all sources of machines have in common: pictures that are saved, disks that are left out, and what came of it.

use std::time::Instant;

use sancerre_capture::{Machine, MachineDisk, Pictured, Pull, QemuDisk};
use sancerre_engine::backup::{self as engine, BackupReport, Maps};
use sancerre_engine::monitor::{Monitor, Topic};
use sancerre_engine::repository::Repository;
use serde_json::{Map, Value, json};

use super::Freezing;
use super::picture::{Shared, Taking};
use crate::bitmaps::Bitmaps;
use crate::command::backup::{self, Subject};
use crate::command::{Backup, Context};
use crate::exit::{Exit, Failure};
use crate::sources;

/// What all machines of a command are backed up with.
pub(super) struct With<'a> {
    pub(super) options: &'a Backup,
    pub(super) context: &'a Context,
    pub(super) repository: Repository,
    pub(super) memory_bytes: u64,
}

/// A disk that the hypervisor has.
pub(super) struct Seen<'a> {
    pub(super) target: &'a str,
    /// Why it cannot be backed up; none if it can.
    pub(super) skipped: Option<&'a str>,
    pub(super) is_medium: bool,
}

impl<'a> From<&'a MachineDisk> for Seen<'a> {
    fn from(disk: &'a MachineDisk) -> Self {
        Self { target: &disk.target, skipped: disk.skipped.as_deref(), is_medium: disk.is_medium }
    }
}

impl<'a> From<&'a QemuDisk> for Seen<'a> {
    fn from(disk: &'a QemuDisk) -> Self {
        Self { target: &disk.target, skipped: disk.skipped.as_deref(), is_medium: disk.is_medium }
    }
}

/// A disk that is not backed up.
pub(super) struct Skipped {
    pub(super) target: String,
    why: String,
    /// Nobody expects it, or it was said.
    is_meant: bool,
}

/// A disk that is meant to be left out and is not there was perhaps meant to be another.
pub(super) fn refuse_unknown(options: &Backup, name: &str, disks: &[Seen<'_>]) -> Result<(), Failure> {
    let is_there = |target: &&String| disks.iter().any(|disk| disk.target == **target);
    match options.live.exclude_disks.iter().find(|target| !is_there(target)) {
        None => Ok(()),
        Some(unknown) => {
            let targets: Vec<&str> = disks.iter().map(|disk| disk.target).collect();
            let targets = targets.join(", ");
            Err(Failure::usage(format!("--exclude-disk names {unknown}, and {name} has {targets}")))
        }
    }
}

impl With<'_> {
    /// What is not backed up, said disk by disk.
    pub(super) fn skipped(&self, name: &str, disks: &[Seen<'_>], monitor: &Monitor) -> Vec<Skipped> {
        let mut all = Vec::new();
        for Seen { target, skipped, is_medium } in disks {
            let is_excluded = self.options.live.exclude_disks.iter().any(|excluded| excluded == target);
            let why = match (skipped, is_excluded) {
                (_, true) => "it was excluded",
                (Some(why), false) => why,
                (None, false) => continue,
            };
            let is_meant = is_excluded || *is_medium;
            let text = format!("{target} of {name} is not backed up: {why}");
            match is_meant {
                true => self.context.output.message(&text),
                false => {
                    monitor.warn(
                        Topic::Source,
                        format!("{text}; --exclude-disk {target} says that this is meant"),
                    );
                }
            }
            all.push(Skipped { target: (*target).to_owned(), why: why.to_owned(), is_meant });
        }
        all
    }

    /// Saves a machine that runs: its hypervisor keeps a moment of it still.
    pub(super) async fn pictured(
        &self,
        subject: &Subject,
        moment: impl Pictured + 'static,
        source: &'static str,
        (targets, machine): (Vec<String>, Option<Machine>),
        monitor: &Monitor,
    ) -> Result<BackupReport, Failure> {
        let live = &self.options.live;
        let pull = Pull {
            program: Some(super::this_program()?),
            targets,
            freeze: live.freezing()?,
            must_freeze: live.freeze == Freezing::Must,
            ..Pull::default()
        };
        let shared = Shared::new(moment);
        let capture = Box::new(Taking {
            live: shared.clone(),
            pull,
            source,
            machine,
            verify_millionths: self.options.changed.verify_millionths(),
            monitor: monitor.clone(),
            attached: self.attached()?,
        });
        let options = self.options.engine(subject, Vec::new(), Maps::default(), self.memory_bytes);
        let result = engine::backup_captured(&self.repository, options, capture, monitor).await;
        let is_saved = result.as_ref().is_ok_and(|report| report.snapshot.is_some());
        // The hypervisor takes its time, and other machines are backed up meanwhile.
        let ended = self.repository.host.compute(move || {
            let mut live = shared.lock();
            (live.given_up(), live.broken(), live.end(is_saved))
        });
        let (given_up, broken, left) = ended.await?;
        for left in left {
            monitor.warn(
                Topic::Aside,
                format!("something of this backup is still there, the next one removes it: {left}"),
            );
        }
        let failed = |why| Err(Failure::failed(format!("{}: {why}", subject.vm)));
        match (result, given_up, broken) {
            (Err(_), Some(why), _) => failed(format!("the backup was given up: {why}")),
            // What was given up was read by then: who gives up takes the disks away first.
            (Ok(report), None, Some(why)) if report.snapshot.is_some() => failed(format!(
                "a snapshot was saved, and its disks may be of several moments: {why}; forget it"
            )),
            (result, ..) => Ok(result?),
        }
    }

    /// Files that go with it.
    pub(super) fn attached(&self) -> Result<Vec<engine::BackupSource>, Failure> {
        let planned = sources::plan(&[], None, &self.options.attach)?;
        let bitmaps = Bitmaps::default();
        self.options.opening(&bitmaps, &[]).all(planned, self.context)
    }

    /// Says what came of a machine.
    pub(super) fn ended(
        &self,
        subject: &Subject,
        skipped: &[Skipped],
        started: Instant,
        result: Result<BackupReport, Failure>,
    ) -> Result<(Exit, Map<String, Value>), Failure> {
        let (options, context) = (self.options, self.context);
        let result = result.map_err(|failure| backup::interrupted(options, failure));
        let took = started.elapsed();
        let is_measured = backup::measure(options, subject, context, took, result.as_ref().ok());
        let report = result?;
        let is_whole = backup::tell(subject, context, &report, took)?;
        let is_all = skipped.iter().all(|skipped| skipped.is_meant);
        let exit = options.exit(&report, is_whole && is_measured && is_all);
        let fields = backup::summary(options, subject, &report, took);
        let mut summary: Map<_, _> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let told = |skipped: &Skipped| json!({"disk": skipped.target, "why": skipped.why, "meant": skipped.is_meant});
        summary.insert("skipped".into(), skipped.iter().map(told).collect());
        Ok((exit, summary))
    }
}
