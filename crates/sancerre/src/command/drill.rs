//! `drill`: proof that machines would come up. Each is started from the repository, with no network and all that it writes
//! thrown away, until something says that it is up; what came of it is signed into the log.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use sancerre_boot::{DiskPlace, GuestDisk, GuestPlan, UpBy, UpWhen, Watched};
use sancerre_engine::drill::{self, Drilled};
use sancerre_engine::repository::Repository;
use sancerre_engine::restore::SnapshotReader;
use sancerre_engine::select::{Selector, newest_of_each};
use sancerre_format::certificate::Role;
use sancerre_format::outcome::MemberKind;
use serde_json::{Value, json};

use super::boot::{self, Recording, Traced};
use super::nbd::{self, Shares};
use super::{Context, ended, restore};
use crate::access::Access;
use crate::exit::{Done, Exit, Failure};
use crate::file_names;
use crate::guests::GuestOptions;
use crate::interrupt::until_signal;
use crate::plain;
use crate::repository;
use crate::socket::Socket;
use crate::units::{count, duration, parse_seconds, seconds};

/// What most consoles say when somebody may log in.
const LOGIN: &str = "login:";
/// How long a screen must stand still.
const STILL: Duration = Duration::from_secs(30);

/// Prove that machines come up: start each from its snapshot, without a network, and see.
///
/// Nothing is restored and nothing is kept of what the guest writes. A machine passes when the first of these says that it
/// is up: its serial console, its agent, or, if asked, its screen. What came of it is signed into the log, where anybody can
/// read it and `audit` shows it. Needs the passphrase, or an identity and a key file that signs.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 3 a machine did not come up.

Examples:
  sancerre drill                                   the newest snapshot of every machine
  sancerre drill web01:latest db01:latest~3 --out /var/lib/sancerre/drills
  sancerre drill db01:latest --agent-runs 'systemctl is-active postgresql'
  sancerre drill web01:latest --trace              what it reads until it is up comes first next time
  sancerre drill old:latest --screen --bus sata    a machine without a serial console or an agent")]
pub(crate) struct Drill {
    /// Which; without any, the newest of every machine: see `sancerre --help`
    #[arg(value_name = "SNAPSHOT", value_parser = Selector::parse)]
    snapshots: Vec<Selector>,
    /// Words on the serial console that say that the machine is up; may be given several times. Without any: "login:", but
    /// not beside --agent-runs
    #[arg(long, value_name = "TEXT")]
    serial: Vec<String>,
    /// A program in the guest and its arguments, run by its agent, that returns 0 when all is well; it is run again until it
    /// does
    #[arg(long, value_name = "COMMAND")]
    agent_runs: Option<String>,
    /// A screen that does not change for 30 seconds says it too, once the guest has read 8 MiB of its disks
    #[arg(long)]
    screen: bool,
    /// When a machine is given up
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "10m")]
    limit: u64,
    /// Keep what was seen in a folder of each machine in here: report.json, console.log, screen.png
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Sign nothing into the log
    #[arg(long)]
    no_note: bool,
    /// Store which chunks of its disks a machine asks for until it is up, and in what order: whatever starts it next fetches
    /// them first. Needs a key that stores, such as a writer's
    #[arg(long, conflicts_with = "no_note")]
    trace: bool,
    #[command(flatten)]
    guest: GuestOptions,
}

impl Drill {
    /// What is looked for on the console. Somebody may log in long before a program says that all is well.
    fn words(&self) -> Vec<String> {
        match self.serial.is_empty() && self.agent_runs.is_none() {
            true => vec![LOGIN.to_owned()],
            false => self.serial.clone(),
        }
    }

    /// What it writes, in words, and where.
    pub(crate) fn written(&self) -> Vec<(&'static str, PathBuf)> {
        self.out.iter().map(|path| ("the folder of the reports", path.clone())).collect()
    }
}

/// A machine that was tried.
struct Tried {
    vm: String,
    snapshot: String,
    watched: Watched,
    accelerator: &'static str,
    note: Option<u64>,
    trace: Option<Traced>,
}

pub(crate) async fn run(options: Drill, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let repository = repository::open(context, Access::Content).await?;
    if !options.no_note {
        // Before a guest is started for an hour.
        repository.signer(if options.trace { Role::STORING } else { Role::ALL })?;
    }
    let selectors = match options.snapshots.as_slice() {
        [] => newest_of_each(&repository::load_recent_log(context, &repository).await?)?,
        named => named.to_vec(),
    };
    let scratch = Scratch::new(context)?;
    let mut tried = Vec::with_capacity(selectors.len());
    for selector in &selectors {
        let one = until_signal(try_one(&repository, selector, &options, &scratch, context)).await?;
        context.output.message(&sentence(&one));
        tried.push(one);
    }
    let failed = tried.iter().filter(|one| one.watched.up.is_err()).count();
    let exit = if failed == 0 { Exit::Done } else { Exit::NotAsAsked };
    context.output.message(&format!(
        "{} tried in {}, {failed} did not come up",
        count(tried.len() as u64, "machine"),
        duration(started.elapsed())
    ));
    let summary = [
        ("machines", json!(tried.iter().map(report).collect::<Vec<_>>())),
        ("failed", json!(failed)),
        ("duration_seconds", json!(seconds(started.elapsed()))),
    ];
    Ok(ended(exit, summary))
}

async fn try_one(
    repository: &Repository,
    selector: &Selector,
    options: &Drill,
    scratch: &Scratch,
    context: &Context,
) -> Result<Tried, Failure> {
    let reader = restore::open_in(repository, selector, context).await?;
    let vm = reader.vm().to_string();
    context.output.message(&format!("starting {vm}, of {}", reader.manifest().started));
    let folder = folder(&reader, options, scratch)?;
    let mut plan = plan(&reader, options, &folder, scratch)?;
    let (mut watched, mut recording) = watched(&reader, &plan, options, &folder, scratch, context).await?;
    if let (true, Some(other)) = (watched.is_processor, options.guest.other(plan.accelerator)) {
        context.output.warning(&format!(
            "{} does not work on this host; trying {}",
            plan.accelerator.word(),
            other.word()
        ));
        plan.accelerator = other;
        (watched, recording) = self::watched(&reader, &plan, options, &folder, scratch, context).await?;
    }
    let mut tried = Tried {
        vm,
        snapshot: reader.manifest().session.intent.to_string(),
        watched,
        accelerator: plan.accelerator.word(),
        note: None,
        trace: None,
    };
    if !options.no_note && !tried.watched.is_processor {
        let drilled = Drilled {
            snapshot: reader.manifest().session,
            is_passed: tried.watched.up.is_ok(),
            seconds: tried.watched.took.as_secs(),
            why: why(&tried.watched),
        };
        tried.note = Some(drill::record(repository, &drilled).await?);
    }
    if let Some(trace) = recording.trace() {
        tried.trace = boot::keep(repository, &reader, trace, context).await;
    }
    if options.out.is_some() {
        let text = format!("{:#}\n", report(&tried));
        let path = folder.join("report.json");
        std::fs::write(&path, text).map_err(|error| unwritten(&path, &error))?;
    }
    Ok(tried)
}

/// Serves the snapshot's disks while its guest is watched.
async fn watched(
    reader: &SnapshotReader,
    plan: &GuestPlan,
    options: &Drill,
    folder: &Path,
    scratch: &Scratch,
    context: &Context,
) -> Result<(Watched, Recording), Failure> {
    // What an earlier drill saw proves nothing about this one.
    for file in ["console.log", "screen.png", "report.json"] {
        let _ = std::fs::remove_file(folder.join(file));
    }
    let members = nbd::disks(reader)?;
    let (shares, monitor) = (Shares::of(context.global.memory), context.monitor());
    let disks = nbd::open_disks(reader, &members, &shares.cache, &monitor, None)?;
    let recording = Recording::default();
    if options.trace {
        recording.begin(&disks);
    }
    let server = nbd::server(nbd::exports(&members, &disks), &shares, context);
    let _fetching = boot::fetch_first(reader, disks, context);
    let socket = Socket::bind(&scratch.exports())?;
    let when = UpWhen {
        serial: options.words(),
        agent: true,
        agent_runs: options
            .agent_runs
            .iter()
            .flat_map(|line| line.split_whitespace())
            .map(str::to_owned)
            .collect(),
        screen: options.screen.then_some(STILL),
        limit: Duration::from_secs(options.limit),
    };
    let (plan, program, screen) = (plan.clone(), options.guest.qemu.clone(), folder.join("screen.png"));
    let watched =
        tokio::task::spawn_blocking(move || sancerre_boot::watch(program.as_os_str(), &plan, &when, &screen));
    let watched = tokio::select! {
        ended = server.serve(&socket.listener) => return Err(match ended {
            Ok(never) => match never {},
            Err(error) => Failure::failed(format!("cannot serve the guest: {error}; start it again")),
        }),
        watched = watched => watched.map_err(|error| Failure::failed(error.to_string()))??,
    };
    if options.trace && watched.up.is_ok() {
        recording.end();
    }
    Ok((watched, recording))
}

fn plan(
    reader: &SnapshotReader,
    options: &Drill,
    folder: &Path,
    scratch: &Scratch,
) -> Result<GuestPlan, Failure> {
    let disk = |export: String| GuestDisk { export, place: DiskPlace::Nowhere };
    Ok(GuestPlan {
        name: format!("drill of {}", reader.vm()),
        disks: nbd::disks(reader)?.iter().map(|member| disk(member.name.to_string())).collect(),
        bus: options.guest.bus.into(),
        accelerator: options.guest.accelerator(),
        memory_mib: options.guest.memory_mib(),
        processors: options.guest.guest_cpus,
        exports: scratch.exports(),
        monitor: scratch.path("monitor.sock"),
        console: folder.join("console.log"),
        screen: None,
        agent: Some(scratch.path("agent.sock")),
        more: options.guest.more.clone(),
    })
}

/// Where the machine's console and screen are kept, or thrown away.
fn folder(reader: &SnapshotReader, options: &Drill, scratch: &Scratch) -> Result<PathBuf, Failure> {
    let Some(out) = &options.out else { return Ok(scratch.folder.clone()) };
    let out = std::path::absolute(out).unwrap_or_else(|_| out.clone());
    let folder = out.join(file_names::of(reader.vm(), &MemberKind::Disk, ""));
    std::fs::create_dir_all(&folder).map_err(|error| unwritten(&folder, &error))?;
    Ok(folder)
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}; check --out", plain::path(path)))
}

fn why(watched: &Watched) -> String {
    match &watched.up {
        Ok(UpBy::Serial(words)) => format!("its console said {words:?}"),
        Ok(UpBy::Agent) => "its agent answered".into(),
        Ok(UpBy::Screen) => "its screen stands still".into(),
        Err(why) => why.clone(),
    }
}

fn sentence(tried: &Tried) -> String {
    let took = duration(tried.watched.took);
    let verdict = if tried.watched.up.is_ok() { "passed" } else { "FAILED" };
    let note = tried.note.map_or_else(String::new, |entry| format!("; log entry {entry}"));
    let trace = tried.trace.as_ref().map_or_else(String::new, |trace| format!("; {trace}"));
    format!("{}: {verdict} after {took}: {}{note}{trace}", tried.vm, why(&tried.watched))
}

fn report(tried: &Tried) -> Value {
    json!({
        "vm": tried.vm,
        "snapshot": tried.snapshot,
        "passed": tried.watched.up.is_ok(),
        "why": why(&tried.watched),
        "accelerator": tried.accelerator,
        "seconds": seconds(tried.watched.took),
        "entry": tried.note,
        "trace": tried.trace.as_ref().map(Traced::json),
    })
}

/// A folder for sockets, of this user alone, that goes with this value.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new(context: &Context) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("sancerre-drill-{:016x}", u64::from_le_bytes(context.host.random()));
        let folder = std::env::temp_dir().join(name);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| {
            Failure::failed(format!("cannot make {}: {error}; set TMPDIR", plain::path(&folder)))
        })?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn exports(&self) -> PathBuf {
        self.path("export.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is only untidy.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
