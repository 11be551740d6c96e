//! `recover`: a machine starts from its snapshot at once, on its final storage, and its disks become whole while it runs.
//!
//! ```text
//! recovery.json ──> overlays ──> export (here) ──> QEMU, on its own or of libvirt ──> block-stream ──> nothing needs the export
//! ```
//!
//! Each step finds what an earlier run left, and goes on from there. What the guest writes lies in its overlay from the first
//! moment, where no crash of this program, of the store or of the network reaches it.

mod bring_up;
mod devices;
mod libvirt;
mod machine;
mod moves;
mod order;
pub(super) mod plan;
mod state;
mod steps;

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::Args;
use futures::future::join_all;
use sancerre_boot::HydrationProgress;
use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::snapshot_disk::ChunkCache;
use sancerre_engine::select::Selector;
use sancerre_format::certificate::Role;
use serde_json::{Map, Value, json};

use super::Context;
use super::boot::{self, Recording, Traced};
use super::nbd::{self, Shares};
use crate::access::Access;
use crate::exit::{Done, Exit, Failure};
use crate::guests::GuestOptions;
use crate::interrupt::until_signal;
use crate::live;
use crate::progress::{Progress, Work};
use crate::repository;
use crate::socket::Socket;
use crate::units::{count, duration, seconds};
use bring_up::{Brought, Job};
use devices::Storage;
use libvirt::Identity;
use machine::Machine;
use order::Order;
use plan::Line;
use state::Hypervisor;

/// Start machines from their snapshots at once, and make their disks whole while they run.
///
/// A guest starts within seconds: what it reads comes from the repository, what it writes goes to the storage that is its
/// own from then on. Meanwhile the rest is copied, until its disks need nothing else, and this command ends; the guest runs
/// on. After any crash, of this program, the store or the host, run the same command again: it goes on, and nothing that the
/// guest wrote is lost. Needs the passphrase: a writer's key file opens no content.
#[derive(Debug, Args)]
#[command(after_help = "\
In DIR a folder is made that is called like the machine, with its disks (NAME.qcow2).

A block device (a logical volume, a partition) takes a disk as it is, raw, while the guest runs:
--storage DIR --storage DEVICE, or DISK=DEVICE for each if the machine has several disks. Until the device has all of the disk, what the guest writes lies in DIR; then the
guest stands still for a moment, goes on from the device, and DIR holds nothing of that disk.

--to qemu starts a guest of its own: console.log, monitor.sock (QMP) and screen.sock (VNC) are in
that folder. It has no network, unless QEMU is told of one behind --.

--to libvirt defines the machine as it was and starts it; it stays defined. It has no network
without --network, and nothing that was passed through from its old host. with-network.xml in that
folder is what gives it its network back. It replaces no machine: --as NAME gives it another name,
id and network addresses.

Several machines at once: --plan names a file with a line for each, the most important first, whose
disks are filled first. A line is what would stand here for that machine, and may say:
  --after VM      start when that machine of an earlier line is up; may be given several times
  --up SIGN       what says that this one is up: serial:WORDS (serial:login: if nothing is said),
                  agent, port:ADDRESS:PORT, or time:2m
  --up-limit 10m  after so long those that wait for it are started all the same
  --storage [DISK=]DEVICE, --overwrite
                  as here, for its disks alone; DIR stands here, and is one for all

Examples:
  sancerre recover web01:latest --to libvirt --storage /srv/guests
  sancerre recover web01:latest --to libvirt --storage /srv/guests --as web01-test
  sancerre recover web01:latest --to qemu --storage /srv/guests
  sancerre recover web01:latest --to qemu --storage /srv/guests --guest-memory 8G -- -nic bridge,br=br0
  sancerre recover web01:latest --to qemu --storage /srv/guests --storage /dev/vg0/web01
  sancerre recover web01:latest --to qemu --storage /srv/guests --print
  sancerre recover --plan hospital.plan --to qemu --storage /srv/guests, with lines such as
    db01:latest --guest-memory 16G
    web01:latest --after db01 --storage /dev/vg0/web01 -- -nic bridge,br=br0")]
pub(crate) struct Recover {
    /// The snapshot: see `sancerre --help`
    #[arg(
        value_name = "SNAPSHOT",
        value_parser = Selector::parse,
        required_unless_present = "plan",
        conflicts_with = "plan"
    )]
    snapshot: Option<Selector>,
    /// What runs the guest
    #[arg(long, value_name = "WHAT")]
    to: Hypervisor,
    /// Which libvirt of this host [default: qemu:///system]
    #[arg(long, value_name = "URI")]
    connect: Option<String>,
    /// A directory for the guest's disks, which stay there. Given again: a block device that a disk moves to, see below
    #[arg(long, value_name = "DIR|[DISK=]DEVICE", required = true)]
    storage: Vec<PathBuf>,
    /// Devices that are not empty may be overwritten
    #[arg(long)]
    overwrite: bool,
    /// Several machines, a line for each: see below
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Store which chunks of its disks each machine asks for until it is up, and in what order: whatever starts it next fetches
    /// them first. Its disks are filled only when it is up. Needs a key that stores, such as a writer's
    #[arg(long, conflicts_with = "print")]
    trace: bool,
    /// Say which steps would be taken, as commands for a shell, and do nothing
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    guest: GuestOptions,
}

impl Recover {
    /// What it writes, in words, and where.
    pub(crate) fn written(&self) -> Vec<(&'static str, PathBuf)> {
        self.storage.iter().map(|storage| ("the storage", storage.clone())).collect()
    }

    /// The machines, in the order in which they matter.
    fn lines(&self) -> Result<Vec<(Line, Storage)>, Failure> {
        let of_one = || {
            Failure::usage(
                "with --plan each machine has its own options and devices: write them into its line of the plan",
            )
        };
        let is_of_one = !plan::is_untouched(&self.guest) || self.identity.is_said() || self.overwrite;
        if self.plan.is_some() && is_of_one {
            return Err(of_one());
        }
        let storage = Storage::parse(&self.storage, self.overwrite)?;
        let lines = match (&self.plan, &self.snapshot) {
            (Some(_), _) if storage.has_devices() => return Err(of_one()),
            (Some(plan), _) => plan::read(plan)?,
            (None, Some(snapshot)) => vec![Line::only(snapshot, &self.identity, &self.guest, self.trace)],
            (None, None) => return Err(Failure::usage("name a snapshot, or a --plan")),
        };
        if lines.iter().any(|line| line.snapshot.member.is_some()) {
            return Err(Failure::usage("a machine is recovered with all its disks: name the snapshot alone"));
        }
        lines.iter().try_for_each(|line| self.refuse_foreign(line))?;
        let with_storage = |line: Line| {
            let storage = if self.plan.is_some() { storage.of_line(&line)? } else { storage.clone() };
            Ok((line, storage))
        };
        lines.into_iter().map(with_storage).collect()
    }

    /// Options that mean nothing to what runs the guest.
    fn refuse_foreign(&self, line: &Line) -> Result<(), Failure> {
        match self.to {
            Hypervisor::Qemu if line.identity.is_said() || self.connect.is_some() => {
                Err(Failure::usage("--as, --network and --connect belong to --to libvirt"))
            }
            Hypervisor::Libvirt if !plan::is_described(&line.guest) => Err(Failure::usage(
                "with --to libvirt the machine is as it was, and of the guest's options only --accel is known; change it with \
                 `virsh edit` afterwards",
            )),
            _ => Ok(()),
        }
    }
}

pub(crate) async fn run(options: Recover, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let lines = options.lines()?;
    let virsh = match options.to {
        Hypervisor::Libvirt => Some(live::virsh(context, options.connect.as_deref())?),
        Hypervisor::Qemu => None,
    };
    let repository = repository::open(context, Access::Content).await?;
    if options.trace {
        // Before a guest is started.
        repository.signer(Role::STORING)?;
    }
    let machines = machine::open_all(&lines, options.trace, virsh.as_ref(), &repository, context).await?;
    if options.print {
        return steps::print(&machines, context);
    }
    let (shares, monitor) = (Shares::of(context.global.memory), context.monitor());
    // All of them, before the first is started: none waits for what the next one must write.
    let prepared: Vec<_> = machines.iter().map(|machine| machine.prepare(context)).collect();
    let order = Arc::new(Order::new(machines.iter().map(|machine| machine.place.clone()).collect()));
    let progress = Progress::start(Work::Hydrate, &monitor, &context.output);
    let copied = Copied::new(&machines, &monitor);
    let (order, copied, shares, repository, is_plan) =
        (&order, &copied, &shares, &repository, machines.len() > 1);
    let all = machines.iter().zip(prepared).map(|(machine, prepared)| async move {
        let brought = match prepared {
            Ok(prepared) => {
                bring_up(machine, &prepared.socket, order, copied, shares, repository, context).await
            }
            Err(failure) => Err(failure),
        };
        // Whatever it was: who waits for this one must learn of it.
        order.ends(machine.job.number, brought.is_ok());
        brought.inspect_err(|failure| {
            if is_plan {
                context.output.warning(&format!("{}: {}", machine.job.vm, failure.message));
            }
        })
    });
    let ended = until_signal(async { Ok(join_all(all).await) }).await.map_err(interrupted)?;
    drop(progress);
    finish(&machines, ended, &shares.cache, started, context)
}

/// Serves the disks of a machine until its guest needs them no more.
async fn bring_up(
    machine: &Machine,
    socket: &Socket,
    order: &Arc<Order>,
    copied: &Arc<Copied>,
    shares: &Shares,
    repository: &Repository,
    context: &Context,
) -> Result<Brought, Failure> {
    let members = nbd::disks(&machine.reader)?;
    let disks = nbd::open_disks(&machine.reader, &members, &shares.cache, &copied.monitor, None)?;
    machine.job.recording.iter().for_each(|recording| recording.begin(&disks));
    let server = nbd::server(nbd::exports(&members, &disks), shares, context);
    let fetching = boot::fetch_first(&machine.reader, disks, context);
    let job = Job { has_trace: Arc::clone(&fetching.is_over), ..machine.job.clone() };
    let (order, copied) = (Arc::clone(order), Arc::clone(copied));
    let (number, output, started) = (job.number, Arc::clone(&context.output), Instant::now());
    let work = move || bring_up::run(&job, &order, &output, |at| copied.tell(number, at));
    let mut brought = tokio::select! {
        ended = server.serve(&socket.listener) => Err(match ended {
            Ok(never) => match never {},
            Err(error) => Failure::failed(format!("cannot take clients any more: {error}; start it again")),
        }),
        brought = tokio::task::spawn_blocking(work) =>
            brought.map_err(|error| Failure::failed(error.to_string())).and_then(|brought| brought),
    }?;
    context.output.message(&format!(
        "{} needs the repository no more, after {}: its disks are {}",
        brought.vm,
        duration(started.elapsed()),
        machine.job.ends()
    ));
    if let Some(trace) = machine.job.recording.as_deref().and_then(Recording::trace) {
        brought.trace = boot::keep(repository, &machine.reader, trace, context).await;
        brought.trace.iter().for_each(|traced| context.output.message(&format!("{}: {traced}", brought.vm)));
    }
    Ok(brought)
}

/// How far the disks of all machines are.
struct Copied {
    done: Mutex<Vec<u64>>,
    monitor: Monitor,
}

impl Copied {
    fn new(machines: &[Machine], monitor: &Monitor) -> Arc<Self> {
        let disks = machines.iter().flat_map(|machine| &machine.job.disks);
        let total = disks.map(|disk| disk.size_bytes).fold(0, u64::saturating_add);
        monitor.counters.total_bytes.store(total, Relaxed);
        Arc::new(Self { done: Mutex::new(vec![0; machines.len()]), monitor: monitor.clone() })
    }

    fn tell(&self, number: usize, at: HydrationProgress) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = done.get_mut(number) {
            *done = at.done_bytes;
        }
        let sum = done.iter().copied().fold(0, u64::saturating_add);
        self.monitor.counters.done_bytes.store(sum, Relaxed);
    }
}

fn interrupted(failure: Failure) -> Failure {
    match failure.exit {
        Exit::Interrupted => Failure::new(
            Exit::Interrupted,
            "interrupted. What runs goes on running, and waits where it reads what is not there yet: run the same command \
             again, which goes on",
        ),
        _ => failure,
    }
}

fn finish(
    machines: &[Machine],
    ended: Vec<Result<Brought, Failure>>,
    cache: &ChunkCache,
    started: Instant,
    context: &Context,
) -> Result<Done, Failure> {
    let is_one = machines.len() == 1;
    let mut exit = Exit::Done;
    let (mut reports, mut failures) = (Vec::with_capacity(machines.len()), 0_u64);
    for (machine, brought) in machines.iter().zip(ended) {
        match brought {
            Err(failure) if is_one => return Err(failure),
            Err(failure) => {
                exit = if exit == Exit::Done { failure.exit } else { exit };
                failures = failures.saturating_add(1);
                reports.push(machine.report([("failed", json!(failure.message))]));
            }
            Ok(brought) => {
                let lacks = brought.defined.as_ref().is_some_and(|defined| defined.lacks);
                exit = if exit == Exit::Done && lacks { Exit::NotAsAsked } else { exit };
                reports.push(machine.report(whole(&brought)));
            }
        }
    }
    let took = started.elapsed();
    if !is_one {
        context.output.message(&format!(
            "{} of {} whole after {}",
            (machines.len() as u64).saturating_sub(failures),
            count(machines.len() as u64, "machine"),
            duration(took)
        ));
    }
    let (fetched_frames, fetched_bytes) = cache.fetched();
    let mut summary = match (is_one, reports.pop()) {
        (true, Some(only)) => only,
        (_, last) => {
            reports.extend(last);
            [("machines".to_owned(), json!(reports))].into_iter().collect::<Map<_, _>>()
        }
    };
    summary.extend(fields([
        ("fetched_frames", json!(fetched_frames)),
        ("fetched_bytes", json!(fetched_bytes)),
        ("duration_seconds", json!(seconds(took))),
    ]));
    Ok(Done { exit, summary })
}

fn whole(brought: &Brought) -> [(&'static str, Value); 5] {
    let paths: Vec<Value> = brought.disks.iter().map(|path| json!(path.display().to_string())).collect();
    [
        ("disks", json!(paths)),
        ("was_running", json!(brought.was_running)),
        ("running_after_seconds", json!(brought.running_after.map(seconds))),
        ("trace", json!(brought.trace.as_ref().map(Traced::json))),
        ("defined", json!(brought.defined.as_ref().map(|defined| &defined.name))),
    ]
}

fn fields(fields: impl IntoIterator<Item = (&'static str, Value)>) -> impl Iterator<Item = (String, Value)> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value))
}
