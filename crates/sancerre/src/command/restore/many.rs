//! Several machines at once: one passphrase, one look at the log, each machine into a directory of its own. What one of
//! them lost is no reason to leave the others.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use sancerre_engine::Error;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::restore::SnapshotReader;
use sancerre_engine::select::{Selector, newest_of_each};
use sancerre_format::outcome::MemberKind;
use serde_json::{Map, Value, json};

use super::form::{self, Form};
use super::{Task, is_directory, read, refuse_folded, summary, tell};
use crate::access::Access;
use crate::arguments::Restore;
use crate::command::{Context, ended};
use crate::exit::{Done, Exit, Failure};
use crate::file_names;
use crate::plain;
use crate::progress::Work;
use crate::repository;
use crate::units::{count, duration, seconds};

/// A machine as it was named, and its snapshot.
struct Machine {
    named: Selector,
    reader: SnapshotReader,
    /// Where it goes.
    folder: PathBuf,
}

/// What became of one.
struct Ended {
    exit: Exit,
    fields: Map<String, Value>,
}

pub(super) async fn run(options: &Restore, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    if options.in_place {
        return Err(Failure::usage(
            "--in-place writes over one file or device: name one disk of one snapshot",
        ));
    }
    if !is_directory(&options.target) {
        return Err(Failure::usage(format!(
            "{} is no directory, and several snapshots go into one, each into a directory of its own: end it with a slash if it is \
             to be made",
            plain::path(&options.target)
        )));
    }
    let form = form::of(options)?;
    let (machines, mut all) = open(options, context).await?;
    refuse_shared(options, &machines, context)?;
    let (monitor, watched) = context.watched(Work::Restore)?;
    for machine in &machines {
        all.push(machine.restore(options, form, &monitor, context).await?);
    }
    drop(watched);
    told(all, started, context)
}

/// Opens them all; what cannot be opened has ended.
async fn open(options: &Restore, context: &Context) -> Result<(Vec<Machine>, Vec<Ended>), Failure> {
    let repository = repository::open(context, Access::Content).await?;
    let log = repository::load_recent_log(context, &repository).await?;
    let named = match options.snapshots.as_slice() {
        [] => newest_of_each(&log)?,
        named => named.to_vec(),
    };
    // A name that means nothing is a mistake of whoever typed it: nothing is begun.
    let sessions = named.iter().map(|named| named.resolve(&repository, &log));
    let sessions = sessions.collect::<Result<Vec<_>, _>>()?;
    let (mut machines, mut ended) = (Vec::new(), Vec::new());
    for (named, session) in named.into_iter().zip(sessions) {
        match read(&repository, &log, session, context).await {
            Ok(reader) => {
                let folder = options.target.join(file_names::of(reader.vm(), &MemberKind::Disk, ""));
                machines.push(Machine { named, reader, folder });
            }
            Err(failure) => {
                let id = session.short();
                ended.push(failed(&format!("snapshot {id}"), failure, context)?);
            }
        }
    }
    Ok((machines, ended))
}

/// Two snapshots of a machine would have one directory.
fn refuse_shared(options: &Restore, machines: &[Machine], context: &Context) -> Result<(), Failure> {
    std::fs::create_dir_all(&options.target).map_err(|error| {
        let path = plain::path(&options.target);
        Failure::failed(format!("cannot make the directory {path}: {error}; check the path"))
    })?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = machines.iter().find(|machine| !seen.insert(&machine.folder)) {
        return Err(Failure::usage(format!(
            "two of these are snapshots of {}, which would have one directory; nothing was written. Restore them one by one, each \
             into a directory of its own",
            twice.reader.vm()
        )));
    }
    let name = |machine: &Machine| Some(machine.folder.file_name()?.to_string_lossy().into_owned());
    refuse_folded(&options.target, &machines.iter().filter_map(name).collect::<Vec<_>>(), context)
}

impl Machine {
    /// Errors: it was interrupted, or the program is wrong: then the others are left too.
    async fn restore(
        &self,
        options: &Restore,
        form: Form,
        monitor: &Monitor,
        context: &Context,
    ) -> Result<Ended, Failure> {
        let name = self.reader.vm().to_string();
        let made = std::fs::create_dir_all(&self.folder).map_err(|error| {
            let path = plain::path(&self.folder);
            Failure::failed(format!("cannot make the directory {path}: {error}; check the path"))
        });
        let task = Task { options, snapshot: &self.named, form, export: None, target: &self.folder };
        let outcome = match made {
            Ok(()) => task.run(&self.reader, monitor, context).await,
            Err(failure) => Err(failure),
        };
        let mut outcome = match outcome {
            Ok(outcome) => outcome,
            Err(failure) => return failed(&name, failure, context),
        };
        tell(context, &outcome.restored);
        let mut ended = match outcome.lost.take() {
            Some(failure) => failed(&name, failure, context)?,
            None => Ended { exit: outcome.exit(), fields: Map::new() },
        };
        let fields = summary(&self.reader, &outcome.restored).map(|(field, value)| (field.to_owned(), value));
        ended.fields.extend(fields);
        Ok(ended)
    }
}

/// Says at once what went wrong with one.
///
/// Errors: the failure itself, when it is the end of all.
fn failed(name: &str, failure: Failure, context: &Context) -> Result<Ended, Failure> {
    if matches!(failure.exit, Exit::Interrupted | Exit::Bug) {
        return Err(failure);
    }
    context.output.warning(&format!("{name} was not restored: {}", failure.message));
    let fields = [("vm", json!(name)), ("message", json!(failure.message))];
    let fields = fields.map(|(field, value)| (field.to_owned(), value));
    Ok(Ended { exit: failure.exit, fields: fields.into_iter().collect() })
}

fn told(all: Vec<Ended>, started: Instant, context: &Context) -> Result<Done, Failure> {
    let took = started.elapsed();
    let worst = all.iter().map(|ended| ended.exit).max_by_key(|exit| severity(*exit));
    let exit = worst.ok_or_else(|| Error::bug("a restore of no machine came to its end"))?;
    let of = all.len();
    let whole = all.iter().filter(|ended| severity(ended.exit) <= severity(Exit::Unsupported)).count();
    context.output.message(&format!(
        "{whole} of {} restored, in {}",
        count(u64::try_from(of).unwrap_or(u64::MAX), "machine"),
        duration(took)
    ));
    let machine = |mut ended: Ended| {
        ended.fields.insert("exit_code".to_owned(), json!(ended.exit.code()));
        Value::Object(ended.fields)
    };
    let machines: Vec<Value> = all.into_iter().map(machine).collect();
    Ok(ended(exit, [("machines", json!(machines)), ("duration_seconds", json!(seconds(took)))]))
}

/// Of several ends the worst is the end of all.
fn severity(exit: Exit) -> i32 {
    match exit {
        Exit::Done => 0,
        Exit::NotAsAsked => 1,
        Exit::Unsupported => 2,
        failed => failed.code().saturating_add(2),
    }
}
