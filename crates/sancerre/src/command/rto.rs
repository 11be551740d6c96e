//! `rto`: how long it would take until machines are back: what there is to fetch, exactly; how fast that is, measured now.

mod probe;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use sancerre_engine::drill::{self, DrillRecord};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::restore::{self as engine, RestoreNeed, RestoreOptions, SnapshotReader};
use sancerre_engine::select::{Selector, newest_of_each};
use sancerre_format::outcome::MemberKind;
use serde_json::{Value, json};

use super::{Context, ended, recover, restore};
use crate::access::Access;
use crate::exit::{Done, Exit, Failure};
use crate::interrupt::until_signal;
use crate::output::{Align, table};
use crate::repository;
use crate::units::{duration, parse_seconds, seconds, size};
use probe::Speed;

/// Say how long it would take until machines are back.
///
/// What a restore would fetch is known exactly, from the maps. How fast that goes is measured: some of the largest disk is
/// fetched and thrown away, and some bytes are written to --storage and removed. So a store that became slow, or a disk that did, is seen on the
/// day and not on the worst one. Needs the passphrase: a writer's key file opens no content.
#[derive(Debug, Args)]
#[command(after_help = "\
Two times for each machine: ANSWERS, how long it took to come up from the repository in its last
drill that passed (`sancerre drill`), after those that it waits for in a plan; and COMPLETE, until
its disks are whole, one machine after the other in the order in which they are named.

Exit codes: 3 a time is over the target.

Examples:
  sancerre rto --storage /srv/guests
  sancerre rto db01:latest web01:latest --storage /srv/guests --target 4h
  sancerre rto --plan hospital.plan --storage /srv/guests --target 4h")]
pub(crate) struct Rto {
    /// Which, in the order in which they are restored; without any, the newest of every machine
    #[arg(value_name = "SNAPSHOT", value_parser = Selector::parse, conflicts_with = "plan")]
    snapshots: Vec<Selector>,
    /// The machines of a plan, as `recover` takes it
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Fail when all of them together take longer, such as 4h
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    target: Option<u64>,
    /// The directory they would be restored into; a file is written there, and removed. Devices that a plan names are not written
    /// to: name a directory on the same disks
    #[arg(long, value_name = "DIR")]
    storage: Option<PathBuf>,
    /// How long to measure the store, and the storage, at most
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "30s")]
    probe: u64,
}

impl Rto {
    /// What it writes, in words, and where.
    pub(crate) fn written(&self) -> Vec<(&'static str, PathBuf)> {
        self.storage.iter().map(|path| ("the storage", path.clone())).collect()
    }
}

/// What is known of one machine.
struct Machine {
    vm: String,
    snapshot: String,
    need: RestoreNeed,
    /// Until its manifest and its maps were read.
    prepare: Duration,
    /// With all that it waits for.
    answers: Option<Duration>,
    complete: Duration,
    /// Until it is whole, with all that are before it.
    whole_after: Duration,
}

pub(crate) async fn run(options: Rto, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let repository = repository::open(context, Access::Content).await?;
    // Whoever restores waits for this too, and for no more of the log.
    Log::load_recent(&repository, &context.monitor()).await?;
    let opened = started.elapsed();
    // The whole log: a checkpoint does not carry how long a drill took.
    let log = repository::load_log(context, &repository).await?;
    let (needs, speed) = until_signal(measured(&repository, &log, &options, context)).await?;
    let machines = reckoned(needs, &speed, opened);
    let all = sum(&machines);
    let complete = machines.last().map(|machine| machine.whole_after).unwrap_or_default();
    say(&machines, &speed, context)?;
    let is_over = options.target.is_some_and(|target| complete > Duration::from_secs(target));
    if let (true, Some(target)) = (is_over, options.target) {
        context.output.message(&format!(
            "over the target: {} of {}; {}",
            duration(complete),
            duration(Duration::from_secs(target)),
            speed.limit(&all)
        ));
    }
    let summary = [
        ("machines", json!(machines.iter().map(report).collect::<Vec<_>>())),
        ("open_seconds", json!(seconds(opened))),
        ("complete_seconds", json!(seconds(complete))),
        ("target_seconds", json!(options.target)),
        ("fetch_bytes_per_second", json!(speed.fetched as u64)),
        ("write_bytes_per_second", json!(speed.written.map(|rate| rate as u64))),
        ("limit", json!(speed.limit(&all))),
        ("is_over", json!(is_over)),
        ("duration_seconds", json!(seconds(started.elapsed()))),
    ];
    Ok(ended(if is_over { Exit::NotAsAsked } else { Exit::Done }, summary))
}

/// What each machine needs, and how fast that can be had.
async fn measured(
    repository: &Repository,
    log: &Log,
    options: &Rto,
    context: &Context,
) -> Result<(Vec<Machine>, Speed), Failure> {
    let wanted = wanted(log, options)?;
    let drills = drill::records(log);
    let settings = RestoreOptions::new(context.global.memory);
    let mut machines = Vec::<Machine>::with_capacity(wanted.len());
    let mut largest: Option<(u64, SnapshotReader, String)> = None;
    for (selector, after) in &wanted {
        let begun = Instant::now();
        let reader = restore::open_in(repository, selector, context).await?;
        let mut need = RestoreNeed::default();
        let mut disk: Option<(u64, String)> = None;
        for member in reader.body().members.iter().filter(|member| member.kind == MemberKind::Disk) {
            let of = engine::need(&reader, member, &settings, &context.monitor()).await?;
            need.data_bytes = need.data_bytes.saturating_add(of.data_bytes);
            need.fetch_bytes = need.fetch_bytes.saturating_add(of.fetch_bytes);
            need.requests = need.requests.saturating_add(of.requests);
            disk = disk.max(Some((of.fetch_bytes, member.name.to_string())));
        }
        let mut waits = machines.iter().filter(|machine| after.contains(&machine.vm));
        let waits = waits.try_fold(Duration::ZERO, |most, machine| Some(most.max(machine.answers?)));
        let drilled = answers(log, &drills, &reader);
        machines.push(Machine {
            vm: reader.vm().to_string(),
            snapshot: reader.manifest().session.intent.to_string(),
            need,
            prepare: begun.elapsed(),
            answers: drilled.zip(waits).map(|(drilled, waits)| drilled.saturating_add(waits)),
            complete: Duration::ZERO,
            whole_after: Duration::ZERO,
        });
        if let Some((bytes, name)) = disk
            && largest.as_ref().is_none_or(|(most, ..)| bytes > *most)
        {
            largest = Some((bytes, reader, name));
        }
    }
    let Some((_, reader, name)) = largest else {
        return Err(Failure::usage("none of these snapshots has a disk; name others"));
    };
    let patience = Duration::from_secs(options.probe);
    let speed = probe::speed(&reader, &name, options.storage.as_deref(), patience, context).await?;
    Ok((machines, speed))
}

/// Which snapshots, in their order, and the machines that each waits for.
fn wanted(log: &Log, options: &Rto) -> Result<Vec<(Selector, Vec<String>)>, Failure> {
    if let Some(plan) = &options.plan {
        let lines = recover::plan::read(plan)?;
        return Ok(lines.into_iter().map(|line| (line.snapshot, line.after)).collect());
    }
    let selectors = match options.snapshots.as_slice() {
        [] => newest_of_each(log)?,
        named => named.to_vec(),
    };
    Ok(selectors.into_iter().map(|selector| (selector, Vec::new())).collect())
}

/// How long the machine took in its last drill that passed, of whichever snapshot.
fn answers(log: &Log, drills: &[DrillRecord], reader: &SnapshotReader) -> Option<Duration> {
    let vm = &reader.manifest().vm;
    let of: Vec<_> = log
        .committed()
        .filter(|snapshot| snapshot.manifest.fields.vm == *vm)
        .map(|snapshot| snapshot.session())
        .collect();
    let is_of = |record: &&DrillRecord| record.drilled.is_passed && of.contains(&record.drilled.snapshot);
    drills.iter().rfind(is_of).map(|record| Duration::from_secs(record.drilled.seconds))
}

/// One after the other; the first waits for the repository to be opened too.
fn reckoned(mut machines: Vec<Machine>, speed: &Speed, opened: Duration) -> Vec<Machine> {
    let mut sum = opened;
    for machine in &mut machines {
        machine.complete = machine.prepare.saturating_add(speed.time(&machine.need));
        sum = sum.saturating_add(machine.complete);
        machine.whole_after = sum;
    }
    machines
}

/// What all of them need.
fn sum(machines: &[Machine]) -> RestoreNeed {
    machines.iter().fold(RestoreNeed::default(), |sum, Machine { need, .. }| RestoreNeed {
        data_bytes: sum.data_bytes.saturating_add(need.data_bytes),
        fetch_bytes: sum.fetch_bytes.saturating_add(need.fetch_bytes),
        requests: sum.requests.saturating_add(need.requests),
    })
}

fn say(machines: &[Machine], speed: &Speed, context: &Context) -> Result<(), Failure> {
    let row = |machine: &Machine| {
        vec![
            machine.vm.clone(),
            size(machine.need.data_bytes),
            size(machine.need.fetch_bytes),
            machine.need.requests.to_string(),
            machine.answers.map_or_else(|| "not drilled".into(), duration),
            duration(machine.complete),
            duration(machine.whole_after),
        ]
    };
    let columns = [
        ("VM", Align::Left),
        ("DATA", Align::Right),
        ("FETCHED", Align::Right),
        ("REQUESTS", Align::Right),
        ("ANSWERS", Align::Right),
        ("COMPLETE", Align::Right),
        ("WHOLE AFTER", Align::Right),
    ];
    context.output.result(&table(&columns, &machines.iter().map(row).collect::<Vec<_>>()))?;
    context.output.message(&format!(
        "measured: {}/s fetched{}; {}",
        size(speed.fetched as u64),
        speed.written.map_or_else(String::new, |rate| format!(", {}/s written", size(rate as u64))),
        speed.limit(&sum(machines))
    ));
    Ok(())
}

fn report(machine: &Machine) -> Value {
    json!({
        "vm": machine.vm,
        "snapshot": machine.snapshot,
        "data_bytes": machine.need.data_bytes,
        "fetch_bytes": machine.need.fetch_bytes,
        "requests": machine.need.requests,
        "answers_seconds": machine.answers.map(seconds),
        "complete_seconds": seconds(machine.complete),
        "whole_after_seconds": seconds(machine.whole_after),
    })
}
