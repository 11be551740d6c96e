//! `clean`, `explain`, `clear` and `suspect`: what the nights looked like, where, and what is done about it.

pub(crate) mod explain;

use clap::Args;
use sancerre_engine::lock::clean::{self as clean_locks, Whose};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::restore::{self, SnapshotReader};
use sancerre_engine::select::Selector;
use sancerre_engine::suspicion::{self, MachineNight, Suspicion, recompute};
use sancerre_format::names::Title;
use serde_json::{Value, json};

use super::{Context, done};
use crate::access::Access;
use crate::arguments::parse_title;
use crate::exit::{Done, Failure};
use crate::output::{Align, table};
use crate::progress::Work;
use crate::repository;
use crate::units::count;
pub(crate) use explain::Explain;

/// Say what each night looked like, and which is the newest one before the first suspect one.
///
/// Only records are read, no content: a writer's or keeper's key file is enough.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre clean
  sancerre clean files01
  sancerre clean --json | jq -r '.machines[] | [.vm, .clean] | @tsv'")]
pub(crate) struct Clean {
    /// Only this machine
    #[arg(value_name = "VM", value_parser = parse_title)]
    vm: Option<Title>,
}

/// Say that somebody looked at a suspect machine: its earlier snapshots may be let go again.
///
/// Signed by a keeper or the administrator, for ever in the log. Where approvals are needed (`key approvals`) it counts once
/// other keepers approved it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre clear files01 --reason 'restored from 3f9a12cc, machine rebuilt' --key-file keeper.key")]
pub(crate) struct Clear {
    /// The machine
    #[arg(value_name = "VM", value_parser = parse_title)]
    vm: Title,
    /// What was found, for the log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Call a snapshot suspect, or compute anew how it looks, from content.
///
/// With --recompute nothing that its writer said is believed: both it and the snapshot before it are read, which takes as
/// long as restoring what changed. Without, a note is signed that the snapshot is suspect.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre suspect files01:latest --recompute
  sancerre suspect 3f9a12cc --key-file keeper.key")]
pub(crate) struct Suspect {
    /// The snapshot, and one disk of it if only that is meant: see `sancerre --help`
    #[arg(value_name = "SNAPSHOT[:DISK]", value_parser = Selector::parse)]
    snapshot: Selector,
    /// Only compute, from the content of this snapshot and of the one before; needs the passphrase or a restore identity
    #[arg(long)]
    recompute: bool,
}

const NIGHTS: [(&str, Align); 5] = [
    ("id", Align::Left),
    ("time (UTC)", Align::Left),
    ("vm", Align::Left),
    ("verdict", Align::Left),
    ("why", Align::Left),
];

pub(crate) async fn clean(options: Clean, context: &Context) -> Result<Done, Failure> {
    let repository = repository::open(context, Access::Public).await?;
    let log = repository::load_recent_log(context, &repository).await?;
    let is_named = |nights: &Vec<MachineNight>| {
        let is_it = |vm: &Title| nights.iter().any(|night| night.vm == *vm || night.public_name == *vm);
        options.vm.as_ref().is_none_or(is_it)
    };
    let machines: Vec<Vec<MachineNight>> =
        suspicion::machines(&repository, &log).into_iter().filter(is_named).collect();
    if let (Some(vm), true) = (&options.vm, machines.is_empty()) {
        return Err(Failure::usage(format!("there are no snapshots of {vm}; see `sancerre snapshots`")));
    }
    let rows: Vec<Vec<String>> = machines.iter().flatten().map(row).collect();
    if !rows.is_empty() {
        context.output.result(&table(&NIGHTS, &rows))?;
    }
    for nights in &machines {
        let Some(newest) = nights.last() else { continue };
        context.output.message(&conclusion(nights, newest));
    }
    let retention = log.retention();
    let suspects = retention.suspect_machines().len();
    if suspects > sancerre_engine::repository::log::suspects::MACHINES_MAX {
        context.output.warning(&format!(
            "{} are suspect: no snapshot of any machine is let go until fewer are; see `sancerre clear --help`",
            count(suspects as u64, "machine")
        ));
    }
    Ok(done([("machines", json!(machines.iter().map(|nights| describe(nights)).collect::<Vec<_>>()))]))
}

fn conclusion(nights: &[MachineNight], newest: &MachineNight) -> String {
    let vm = &newest.vm;
    match (suspicion::last_clean(nights), nights.iter().any(MachineNight::is_suspect)) {
        (_, false) => format!("{vm}: no night is suspect"),
        (Some(clean), true) => format!(
            "{vm}: the newest night before the first suspect one is snapshot {} ({})",
            clean.session.short(),
            clean.finished
        ),
        (None, true) => format!("{vm}: there is no snapshot from before the first suspect night"),
    }
}

fn word(night: &MachineNight) -> String {
    let word = night.verdict().map_or("-", Suspicion::word);
    if night.cleared.is_some() { format!("{word} (cleared)") } else { word.to_owned() }
}

fn row(night: &MachineNight) -> Vec<String> {
    let time = night.finished.to_string().replace('T', " ").replace('Z', "");
    vec![night.session.short(), time, night.vm.to_string(), word(night), why(night)]
}

/// The sentence of the worst disk.
fn why(night: &MachineNight) -> String {
    let disks = night.disks.iter().flatten().filter_map(|(name, night)| Some((name, night.as_ref()?)));
    let worst = disks.max_by_key(|(_, night)| night.judgement.verdict);
    let told = worst.and_then(|(name, night)| {
        let why = suspicion::why(&night.judgement, &night.counts)?;
        Some(format!("{name}: {why}"))
    });
    match (told, &night.disks, night.by_sums) {
        (Some(told), ..) => told,
        (None, _, Suspicion::Unusual) => {
            "by its public sums far more than usual is new, and it could not be compressed".into()
        }
        (None, Some(disks), _) if disks.iter().any(|(_, night)| night.is_none()) => "no statistics".into(),
        _ => String::new(),
    }
}

fn describe(nights: &[MachineNight]) -> Value {
    let id = |night: &MachineNight| night.session.intent.to_string();
    let night = |night: &MachineNight| {
        let disks = night.disks.as_ref().map(|disks| {
            let disk = |(name, seen): &(Title, Option<_>)| {
                json!({ "name": name.to_string(), "suspicion": seen.as_ref().map(crate::suspicion::json) })
            };
            disks.iter().map(disk).collect::<Vec<_>>()
        });
        json!({
            "snapshot": id(night),
            "finished": night.finished.to_string(),
            "verdict": night.verdict().map(Suspicion::word),
            "noted": night.noted,
            "cleared": night.cleared,
            "by_sums": night.by_sums.word(),
            "disks": disks,
        })
    };
    json!({
        "vm": nights.last().map(|night| night.vm.to_string()),
        "suspect": nights.iter().any(MachineNight::is_suspect),
        "clean": suspicion::last_clean(nights).map(id),
        "nights": nights.iter().map(night).collect::<Vec<_>>(),
    })
}

pub(crate) async fn clear(options: Clear, context: &Context) -> Result<Done, Failure> {
    let repository = repository::open(context, Access::Keeper).await?;
    let log = repository::load_log(context, &repository).await?;
    let cleared = suspicion::clear(&repository, &log, &options.vm, &options.reason).await?;
    let (entry, needed) = (cleared.entry, cleared.approvals_needed);
    let what = format!("{} of {}", count(cleared.snapshots.len() as u64, "suspect snapshot"), options.vm);
    context.output.message(&match needed {
        0 => format!("{what} cleared, as log entry {entry}; what was kept because of that may be forgotten again"),
        _ => format!(
            "{what} to be cleared, as log entry {entry}; it counts once {} approved it: `sancerre approve {entry}` with another \
             keeper's key; `sancerre suspect` takes it back",
            count(needed.into(), "other keeper")
        ),
    });
    if cleared.left > 0 {
        context
            .output
            .message(&format!("{} of other machines are suspect still", count(cleared.left, "snapshot")));
    }
    Ok(done([
        ("entry", json!(cleared.entry)),
        ("snapshots", json!(cleared.snapshots.iter().map(|one| one.intent.to_string()).collect::<Vec<_>>())),
        ("left", json!(cleared.left)),
        ("approvals_needed", json!(needed)),
    ]))
}

pub(crate) async fn suspect(options: Suspect, context: &Context) -> Result<Done, Failure> {
    if options.recompute {
        return compute(options, context).await;
    }
    if let Some(disk) = &options.snapshot.member {
        return Err(Failure::usage(format!(
            "a snapshot is suspect as a whole: leave :{disk} out; nothing was done"
        )));
    }
    let repository = repository::open(context, Access::Keeper).await?;
    let log = repository::load_log(context, &repository).await?;
    let session = options.snapshot.resolve(&repository, &log)?;
    let retention = log.retention();
    // Said anew it takes back that it is to be cleared.
    if retention.suspected_by(&session).is_some() && !retention.is_clear_asked(&session) {
        return Err(Failure::usage("that snapshot is suspect already; nothing was done"));
    }
    let entry = suspicion::suspect(&repository, &log, session).await?;
    let log = repository::load_log(context, &repository).await?;
    let (monitor, watched) = context.watched(Work::Lock)?;
    let locks = clean_locks::keep(&repository, &log, Whose::AllSuspect, entry, &monitor).await;
    drop(watched);
    context.output.message(&format!(
        "the snapshot is suspect from log entry {entry} on: nothing of its machine from before it is let go until \
         `sancerre clear`"
    ));
    crate::suspicion::tell_locks(context, locks.as_ref());
    Ok(done([
        ("entry", json!(entry)),
        ("snapshot", json!(session.intent.to_string())),
        ("clean_locks", crate::suspicion::locks(locks.as_ref())),
    ]))
}

async fn compute(options: Suspect, context: &Context) -> Result<Done, Failure> {
    let repository = repository::open(context, Access::Content).await?;
    let log = repository::load_recent_log(context, &repository).await?;
    let session = options.snapshot.resolve(&repository, &log)?;
    let reader = restore::open(&repository, &log, session).await?;
    let before = before(&repository, &log, &reader).await?;
    let (monitor, watched) = context.watched(Work::Check)?;
    let wanted = options.snapshot.member.as_ref();
    let memory = context.global.memory;
    let computed = recompute::recompute(&reader, before.as_ref(), wanted, memory, &monitor).await?;
    drop(watched);
    for (name, night) in &computed {
        let why = suspicion::why(&night.judgement, &night.counts);
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        context.output.result(&format!("{name} is {}{why}\n", night.judgement.verdict))?;
    }
    let disks: Vec<Value> = computed
        .iter()
        .map(|(name, night)| json!({ "name": name.to_string(), "suspicion": crate::suspicion::json(night) }))
        .collect();
    Ok(done([("snapshot", json!(session.intent.to_string())), ("disks", json!(disks))]))
}

/// The snapshot of the same machine before this one.
async fn before(
    repository: &Repository,
    log: &Log,
    reader: &SnapshotReader,
) -> Result<Option<SnapshotReader>, Failure> {
    let fields = reader.manifest();
    let snapshots = log.snapshots();
    let earlier = snapshots.iter().rfind(|snapshot| {
        snapshot.session().number < fields.session.number
            && suspicion::stored::is_of(snapshot, &fields.vm, fields.machine)
    });
    match earlier {
        Some(earlier) => Ok(Some(restore::open(repository, log, earlier.session()).await?)),
        None => Ok(None),
    }
}
