//! Every machine of the host: each its own snapshot, and one that fails stops no other.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use futures::StreamExt;
use futures::stream;
use sancerre_capture::Machine;
use serde_json::{Map, Value, json};

use super::one;
use super::with::With;
use crate::command::backup;
use crate::command::{Backup, Context};
use crate::exit::{Done, Exit, Failure};
use crate::progress::Board;
use crate::units::{duration, size};

/// What one machine came to.
struct Outcome {
    name: String,
    exit: Exit,
    summary: Map<String, Value>,
}

/// `--all`
pub(super) async fn run(options: &Backup, context: &Context) -> Result<Done, Failure> {
    let virsh = options.live.virsh(context)?;
    let mut wanted = Vec::new();
    for uuid in virsh.machines()? {
        match Machine::read(&virsh, &uuid) {
            Ok(machine) if options.live.is_wanted(&machine.name) => {
                wanted.push((machine.name.clone(), Ok(machine)));
            }
            Ok(_) => {}
            // Perhaps it is none that was wanted; nobody can tell.
            Err(error) => wanted.push((uuid, Err(Failure::from(error)))),
        }
    }
    if wanted.is_empty() {
        return Err(Failure::usage("no machine of this host is of such a name; nothing was backed up"));
    }
    wanted.sort_by(|one, other| one.0.cmp(&other.0));
    let board = Board::new(wanted.iter().map(|(name, _)| name.as_str()));
    let (repository, monitor, _watched) = backup::open_all(options, context, &board).await?;
    let parallel = u64::from(options.live.parallel);
    let memory_bytes = context.global.memory.checked_div(parallel).unwrap_or(context.global.memory);
    let with = With { options, context, repository, memory_bytes };
    let work = wanted.into_iter().enumerate().map(|(number, (name, machine))| {
        let (output, shown) = (context.output.clone(), name.clone());
        let own = monitor.counting_apart(move |event| output.warning(&format!("{shown}: {event}")));
        let (with, virsh, monitor, board) = (&with, &virsh, &monitor, &board);
        async move {
            let started = Instant::now();
            board.begins(number, &own);
            context.output.message(&format!("{name}: begins"));
            let counters = own.counters.clone();
            let result = match (machine, monitor.check()) {
                // Whoever asked to stop means all that has not begun.
                (_, Err(error)) => Err(Failure::from(error)),
                (Err(failure), Ok(())) => Err(failure),
                (Ok(machine), Ok(())) => one::back_up(with, virsh, machine, own).await,
            };
            let outcome = ended(context, name, result);
            board.ends(number, is_saved(&outcome));
            if is_saved(&outcome) {
                let new = size(counters.new_bytes.load(Relaxed));
                let took = duration(started.elapsed());
                context.output.message(&format!("{}: saved after {took}, {new} of new data", outcome.name));
            }
            outcome
        }
    });
    let outcomes: Vec<Outcome> =
        stream::iter(work).buffer_unordered(parallel.try_into().unwrap_or(1)).collect().await;
    let mut done = told(context, outcomes)?;
    if monitor.check().is_err() {
        done.exit = Exit::Interrupted;
    }
    Ok(done)
}

fn ended(context: &Context, name: String, result: Result<(Exit, Map<String, Value>), Failure>) -> Outcome {
    match result {
        Ok((exit, summary)) => Outcome { name, exit, summary },
        Err(failure) => {
            context.output.warning(&format!("{name} was not saved: {}", failure.message));
            let fields = [("vm".to_owned(), json!(name)), ("message".to_owned(), json!(failure.message))];
            Outcome { name, exit: failure.exit, summary: fields.into_iter().collect() }
        }
    }
}

/// One line a machine, and the worst code of all.
fn told(context: &Context, mut outcomes: Vec<Outcome>) -> Result<Done, Failure> {
    outcomes.sort_by(|one, other| one.name.cmp(&other.name));
    let worst = outcomes
        .iter()
        .map(|outcome| outcome.exit)
        .max_by_key(|exit| severity(*exit))
        .unwrap_or(Exit::Failed);
    let saved = outcomes.iter().filter(|outcome| is_saved(outcome)).count();
    let mut lines = String::new();
    for outcome in &outcomes {
        let word = match outcome.exit {
            Exit::Done => "saved",
            Exit::NotAsAsked => "saved, with warnings",
            Exit::Suspect => "saved, and SUSPECT",
            _ => "NOT SAVED",
        };
        lines.push_str(&format!("{}: {word} (exit code {})\n", outcome.name, outcome.exit.code()));
    }
    let all = outcomes.len();
    context.output.result(&format!("{lines}{saved} of {all} machines saved\n"))?;
    let machines: Vec<Value> = outcomes
        .into_iter()
        .map(|mut outcome| {
            outcome.summary.insert("exit_code".into(), json!(outcome.exit.code()));
            Value::Object(outcome.summary)
        })
        .collect();
    let fields = [
        ("machines".to_owned(), json!(machines)),
        ("saved".to_owned(), json!(saved)),
        ("failed".to_owned(), json!(all.saturating_sub(saved))),
    ];
    Ok(Done { exit: worst, summary: fields.into_iter().collect() })
}

fn is_saved(outcome: &Outcome) -> bool {
    severity(outcome.exit) <= 2
}

/// Which code is worse: saved, saved with something to look at, saved and suspect, not saved, the program's own error.
fn severity(exit: Exit) -> i32 {
    match exit {
        Exit::Done => 0,
        Exit::NotAsAsked => 1,
        Exit::Suspect => 2,
        Exit::Bug => 4,
        _ => 3,
    }
}
