//! The commands: each takes its options and the context, and returns its summary.

mod approve;
pub(crate) mod audit;
pub(crate) mod backup;
mod boot;
mod check;
mod diff;
pub(crate) mod doctor;
pub(crate) mod drill;
mod dump;
pub(crate) mod export;
pub(crate) mod files;
mod forget;
mod gc;
mod generate;
mod hold;
mod index;
mod init;
pub(crate) mod job;
mod key;
mod lock;
mod map;
pub(crate) mod nbd;
pub(crate) mod recover;
mod repair;
pub(crate) mod restore;
pub(crate) mod rto;
mod setup;
mod snapshots;
mod stats;
mod suspicion;

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use sancerre_engine::host::Host;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::store::{Cancel, Store};
use sancerre_format::outcome::Member;
use serde_json::{Map, Value, json};

use crate::arguments::{Command, Global, IndexCommand};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt::{self, Watch};
use crate::io::{Environment, Io, Prompt};
use crate::limits;
use crate::output::Output;
use crate::progress::{Board, Progress, Work};
use crate::unreadable;
use crate::written::{self, Intent};

pub(crate) use approve::Approve;
pub(crate) use backup::Backup;
pub(crate) use backup::import::Import;
pub(crate) use diff::Diff;
pub(crate) use export::Export;
pub(crate) use forget::Forget;
pub(crate) use gc::Gc;
pub(crate) use hold::{Held, Named};
pub(crate) use init::Init;
use job::Job;
pub(crate) use job::MetricsFile;
pub(crate) use key::Key;
pub(crate) use lock::Lock;
pub(crate) use map::Map as ChangeMaps;
pub(crate) use repair::Repair;
pub(crate) use setup::Setup;
pub(crate) use suspicion::{Clean, Clear, Explain, Suspect};

/// The machine it runs on.
#[cfg(not(debug_assertions))]
fn host(_: &Environment) -> Host {
    Host::real(crate::TOOL)
}

/// The machine it runs on. Tests ask a build for development for passphrases that are no work to try.
#[cfg(debug_assertions)]
fn host(environment: &Environment) -> Host {
    let host = Host::real(crate::TOOL);
    match environment.path("SANCERRE_TEST_CHEAP_PASSPHRASES") {
        Some(_) => host.with_cheap_passphrases(),
        None => host,
    }
}

/// What every command is handed.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) environment: Environment,
    pub(crate) output: Arc<Output>,
    pub(crate) host: Host,
    pub(crate) prompt: Box<Prompt>,
    pub(crate) stdin_is_terminal: bool,
    pub(crate) stdout_is_terminal: bool,
    stdout_is_lost: bool,
    /// Ends the waiting for the store when a signal comes.
    pub(crate) cancel: Cancel,
    stdin: Mutex<Option<Box<dyn Read + Send>>>,
    store: OnceLock<Store>,
    /// What the command is about to do; none before it was understood.
    intent: OnceLock<Intent>,
}

impl Context {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new(global: Global, io: Io, output: Arc<Output>) -> Self {
        Self {
            global,
            host: host(&io.environment),
            environment: io.environment,
            output,
            prompt: io.prompt,
            stdin_is_terminal: io.stdin_is_terminal,
            stdout_is_terminal: io.stdout_is_terminal,
            stdout_is_lost: io.stdout_is_lost,
            cancel: Cancel::default(),
            stdin: Mutex::new(Some(io.stdin)),
            store: OnceLock::new(),
            intent: OnceLock::new(),
        }
    }

    /// What another command is handed that is a part of this one: it asks nobody, and has a store of its own.
    fn step(&self, global: Global, environment: Environment) -> Self {
        Self {
            global,
            environment,
            output: self.output.clone(),
            host: self.host.clone(),
            prompt: Box::new(|_| Err(std::io::ErrorKind::NotFound.into())),
            stdin_is_terminal: false,
            stdout_is_terminal: self.stdout_is_terminal,
            stdout_is_lost: self.stdout_is_lost,
            cancel: self.cancel.clone(),
            stdin: Mutex::new(None),
            store: OnceLock::new(),
            intent: OnceLock::new(),
        }
    }

    /// Takes note of the store, so that what was asked of it is told at the end.
    ///
    /// Errors: the command would write a file of another kind into it.
    pub(crate) fn uses(&self, store: &Store) -> Result<(), Failure> {
        // A command has one store: a second handle of it would count the same.
        let _ = self.store.set(store.clone());
        self.intent.get().map_or(Ok(()), |intent| intent.meet(store))
    }

    /// Whether a file may be written there: not inside the repository.
    pub(crate) fn may_write(&self, path: &Path) -> bool {
        let folder = self.store.get().and_then(Store::folder_path);
        folder.is_none_or(|folder| !written::lies_in(path, folder))
    }

    /// Before data is written to standard output that somebody must get.
    ///
    /// Errors: it is closed.
    pub(crate) fn needs_stdout(&self) -> Result<(), Failure> {
        match self.stdout_is_lost {
            false => Ok(()),
            true => Err(Failure::failed(
                "standard output is closed, or is /dev/null as if it were, so what is to be written there would be lost. \
                 Nothing was done; redirect it to a file or a program (to throw it away, > /dev/null)",
            )),
        }
    }

    /// Standard input; none the second time.
    pub(crate) fn take_stdin(&self) -> Option<Box<dyn Read + Send>> {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Asks the person at the terminal; no where nobody can be asked.
    pub(crate) fn agrees(&self, question: &str) -> Result<bool, Failure> {
        if !self.stdin_is_terminal || self.output.is_json() {
            return Ok(false);
        }
        let Some(mut stdin) = self.take_stdin() else { return Ok(false) };
        self.output.ask(&format!("{question} [y/N] "));
        let (mut answer, mut byte) = (Vec::new(), [0]);
        loop {
            let read = stdin.read(&mut byte).map_err(|error| {
                Failure::failed(format!("cannot read the answer: {error}; nothing was done"))
            })?;
            match byte {
                _ if read == 0 => break,
                [b'\n'] => break,
                [letter] => answer.push(letter),
            }
        }
        Ok(matches!(answer.to_ascii_lowercase().trim_ascii(), b"y" | b"yes"))
    }

    /// A monitor that warns on the output, without progress or signals.
    pub(crate) fn monitor(&self) -> Monitor {
        let output = self.output.clone();
        Monitor::new(move |event| output.warning(&event.message))
    }

    /// A monitor for a long command, and what shows its progress and passes it signals while it lives.
    pub(crate) fn watched(&self, work: Work) -> Result<(Monitor, Watched), Failure> {
        let monitor = self.monitor();
        let signals = interrupt::watch(&monitor, &self.cancel, &self.output)?;
        let progress = Progress::start(work, &monitor, &self.output);
        Ok((monitor, Watched { _progress: progress, _signals: signals }))
    }

    /// The same for several machines, each of which counts for itself.
    pub(crate) fn watched_machines(&self, board: &Arc<Board>) -> Result<(Monitor, Watched), Failure> {
        let monitor = self.monitor();
        let signals = interrupt::watch(&monitor, &self.cancel, &self.output)?;
        let progress = Progress::of_machines(board, &self.output);
        Ok((monitor, Watched { _progress: progress, _signals: signals }))
    }
}

/// Progress and signals of a long command; both end when it is dropped.
pub(crate) struct Watched {
    _progress: Progress,
    _signals: Watch,
}

/// Runs a command, and tells what it asked of the store.
pub(crate) async fn run(command: Command, context: &Context) -> Result<Done, Failure> {
    let _ = context.intent.set(Intent::of(&command, context));
    let (job, started) = (Job::of(&command), Instant::now());
    let result = dispatch(command, context).await;
    let result = match job {
        Some(job) => job.note(context, started.elapsed(), result),
        None => result,
    };
    let Some(store) = context.store.get() else { return result };
    let totals = store.traffic().totals();
    context.output.detail(&limits::line(&totals));
    result.map(|mut done| {
        done.summary.insert("store".into(), limits::summary(&totals));
        done
    })
}

/// Whether a command leaves something behind in the repository or at a target, besides what it says.
pub(crate) fn changes(command: &Command) -> bool {
    match command {
        Command::Snapshots(_)
        | Command::Diff(_)
        | Command::Clean(_)
        | Command::Explain(_)
        | Command::Dump(_)
        | Command::Ls(_)
        | Command::Cat(_)
        | Command::Find(_)
        | Command::History(_)
        | Command::Mount(_)
        | Command::Nbd(_)
        | Command::Rto(_)
        | Command::Check(_)
        | Command::Doctor(_)
        | Command::Audit(_)
        | Command::Stats
        | Command::Map(_)
        | Command::Completions { .. }
        | Command::Man { .. } => false,
        Command::Key(options) => options.changes(),
        Command::Backup(options) => !options.dry_run,
        Command::Gc(options) => !options.dry_run,
        Command::Forget(options) => !options.dry_run,
        Command::Setup(options) => !options.dry_run,
        _ => true,
    }
}

async fn dispatch(command: Command, context: &Context) -> Result<Done, Failure> {
    match command {
        Command::Init(options) => init::run(options, context).await,
        Command::Setup(options) => setup::run(options, context).await,
        Command::Backup(options) => backup::run(*options, context).await,
        Command::Import(options) => backup::import::run(*options, context).await,
        Command::Snapshots(options) => snapshots::run(options, context).await,
        Command::Diff(options) => diff::run(options, context).await,
        Command::Clean(options) => suspicion::clean(options, context).await,
        Command::Explain(options) => suspicion::explain::run(options, context).await,
        Command::Clear(options) => suspicion::clear(options, context).await,
        Command::Suspect(options) => suspicion::suspect(options, context).await,
        Command::Restore(options) => restore::run(options, context).await,
        Command::Dump(options) => dump::run(options, context).await,
        Command::Export(options) => export::run(options, context).await,
        Command::Ls(options) => files::ls::run(options, context).await,
        Command::Cat(options) => files::cat::run(options, context).await,
        Command::Get(options) => files::get::run(options, context).await,
        Command::Find(options) => files::find::run(options, context).await,
        Command::Catalogue(options) => files::catalogue::run(options, context).await,
        Command::History(options) => files::history::run(options, context).await,
        Command::Mount(options) => files::mount::run(options, context).await,
        Command::Nbd(options) => nbd::run(options, context).await,
        Command::Rto(options) => rto::run(options, context).await,
        Command::Drill(options) => drill::run(options, context).await,
        Command::Recover(options) => recover::run(options, context).await,
        Command::Check(options) => check::run(options, context).await,
        Command::Doctor(options) => doctor::run(options, context).await,
        Command::Audit(options) => audit::run(options, context).await,
        Command::Key(options) => key::run(options, context).await,
        Command::Index(options) => match options.command {
            IndexCommand::Rebuild => index::rebuild(context).await,
            IndexCommand::Merge => index::merge(context).await,
        },
        Command::Forget(options) => forget::run(options, context).await,
        Command::Approve(options) => approve::run(options, context).await,
        Command::Undelete(options) => hold::undelete(options, context).await,
        Command::Hold(options) => hold::hold(options, context).await,
        Command::Release(options) => hold::release(options, context).await,
        Command::Stats => stats::run(context).await,
        Command::Gc(options) => gc::run(options, context).await,
        Command::Repair(options) => repair::run(options, context).await,
        Command::Lock(options) => lock::run(options, context).await,
        Command::Map(options) => map::run(options, context),
        Command::Completions { shell } => generate::completions(shell, context),
        Command::Man { directory } => generate::man(&directory),
    }
}

/// A command that did what it was asked.
fn done(summary: impl IntoIterator<Item = (&'static str, Value)>) -> Done {
    ended(Exit::Done, summary)
}

/// A command that came to its end.
fn ended(exit: Exit, summary: impl IntoIterator<Item = (&'static str, Value)>) -> Done {
    let fields = summary.into_iter().map(|(name, value)| (name.to_owned(), value));
    Done { exit, summary: fields.collect::<Map<_, _>>() }
}

/// A disk, stream or file of a snapshot, for JSON.
fn member(member: &Member) -> Value {
    json!({
        "name": member.name.to_string(),
        "kind": member.kind.to_string(),
        "size_bytes": member.size_bytes,
        "data_bytes": member.data_bytes,
        "new_bytes": member.new_bytes,
        "fuzzy": member.fuzzy,
        "unreadable": unreadable::json(member),
        "suspicion": crate::suspicion::of_member(member),
    })
}
