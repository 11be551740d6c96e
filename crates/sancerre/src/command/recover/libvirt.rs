//! A machine that libvirt runs: defined as it was, on overlays, and made whole by libvirt's own block pull. Blocks.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use sancerre_boot::{Accelerator, DiskPlace, Hydrated, HydrationProgress, Moving, Switches};
use sancerre_capture::{EXPORTS, FillError, MachineState, Recovered, Recovering, Restored, Virsh, Watch};
use sancerre_engine::restore::{self, RestoreOptions, SnapshotReader};
use sancerre_format::names::Title;
use serde_json::{Map, json};

use super::bring_up::{self, Brought, Disk, Job, STANDS};
use super::moves::{self, Ledger};
use super::order::{AgentAnswers, Order, Run, Sign};
use super::plan::Line;
use super::state::{Hypervisor, Recovery, Stage};
use crate::arguments::parse_title;
use crate::command::Context;
use crate::exit::{Exit, Failure};
use crate::live::{DESCRIPTION, NVRAM};
use crate::output::Output;
use crate::plain;

/// The firmware's settings, in the machine's folder.
const SETTINGS: &str = "nvram.fd";
/// What gives a machine its network back.
const WITH_NETWORK: &str = "with-network.xml";
/// QEMU passes through to its disks, and sees nothing else.
const FOLDER_MODE: u32 = 0o711;

/// Who a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "A machine of libvirt")]
pub(in crate::command) struct Identity {
    /// Under another name, with a new id and new network addresses: it may then run beside the first
    #[arg(long = "as", value_name = "NAME", value_parser = parse_title)]
    pub(super) name: Option<Title>,
    /// With its network, as it was
    #[arg(long)]
    network: bool,
}

impl Identity {
    /// Whether anything was said.
    pub(super) fn is_said(&self) -> bool {
        self.name.is_some() || self.network
    }
}

/// What libvirt is told of a machine.
#[derive(Debug, Clone)]
pub(super) struct Libvirt {
    virsh: Virsh,
    pub(super) recovered: Recovered,
}

/// What libvirt has of a machine.
#[derive(Debug)]
pub(super) struct Defined {
    pub(super) name: String,
    /// Whether it has not all that it had.
    pub(super) lacks: bool,
}

impl Libvirt {
    /// Reads from the snapshot what the machine was; also its firmware's settings, if it had some.
    pub(super) async fn open(
        virsh: &Virsh,
        reader: &SnapshotReader,
        line: &Line,
        (disks, recovery, folder): (&[Disk], Option<&Recovery>, &Path),
        context: &Context,
    ) -> Result<(Self, Option<Vec<u8>>), Failure> {
        let xml = file(reader, DESCRIPTION, context).await?.ok_or_else(|| {
            Failure::usage(format!(
                "the snapshot of {} has no description of a machine, as `backup --source libvirt` saves it; recover it with \
                 --to qemu",
                reader.vm()
            ))
        })?;
        let settings = file(reader, NVRAM, context).await?;
        let restored = Restored {
            xml: String::from_utf8_lossy(&xml).into_owned(),
            name: line.identity.name.as_ref().map(ToString::to_string),
            disks: disks.iter().map(|disk| (disk.export.clone(), disk.path.clone(), "qcow2")).collect(),
            nvram: settings.as_ref().map(|_| folder.join(SETTINGS)),
        };
        let recovered = Recovered {
            restored,
            switched: switched(disks, recovery),
            exports: folder.join(EXPORTS),
            has_network: line.identity.network,
            is_in_software: line.guest.accelerator() == Accelerator::Tcg,
            console: matches!(line.up, Sign::Serial(_)).then(|| folder.join("console.log")),
        };
        let libvirt = Self { virsh: virsh.clone(), recovered };
        // What is known to be refused should cost nothing.
        libvirt.recovered.find(virsh)?;
        Ok((libvirt, settings))
    }

    /// Lets QEMU come to the disks and the exports of a machine, whoever it runs as.
    pub(super) fn let_in(&self, folder: &Path, exports: &Path) -> Result<(), Failure> {
        let failed = |path: &Path, error: &std::io::Error| {
            Failure::failed(format!(
                "cannot let QEMU in to {}: {error}; check its permissions",
                plain::path(path)
            ))
        };
        fs::set_permissions(folder, fs::Permissions::from_mode(FOLDER_MODE))
            .map_err(|error| failed(folder, &error))?;
        match Recovered::owner(&self.virsh)? {
            Some((user, group)) if rustix::process::geteuid().is_root() => {
                chown(exports, Some(user), Some(group)).map_err(|error| failed(exports, &error))
            }
            _ => Ok(()),
        }
    }

    /// Whether the machine is there and runs.
    pub(super) fn runs(&self) -> Result<bool, Failure> {
        match self.recovered.find(&self.virsh)? {
            Some(machine) => runs(&machine),
            None => Ok(false),
        }
    }

    /// Finds the machine, or defines it.
    fn take(&self, job: &Job) -> Result<Recovering, Failure> {
        if bring_up::is_running(job)? {
            return Err(Failure::failed(format!(
                "a QEMU of its own runs on the disks in {}, by `recover --to qemu`; go on with that, or shut it down first",
                plain::path(&job.folder)
            )));
        }
        match self.recovered.find(&self.virsh)? {
            Some(there) => Ok(there),
            None => {
                moves::refuse_lost(job).and_then(|()| Ok(self.recovered.define(&self.virsh, &job.folder)?))
            }
        }
    }

    /// Says what the machine has no more; whether it is anything.
    fn tell_lacking(&self, output: &Arc<Output>) -> Result<bool, Failure> {
        let (name, (_, lacking)) = (self.recovered.name()?, self.recovered.written()?);
        for target in &lacking.disks {
            output.warning(&format!("{name} has no {target}: it is not in the snapshot"));
        }
        for device in &lacking.devices {
            output.warning(&format!("{name} is without a device of the host that it was on ({device})"));
        }
        Ok(!lacking.disks.is_empty() || !lacking.devices.is_empty())
    }
}

/// Devices that the machine may be found on, under the names that they had.
fn switched(disks: &[Disk], recovery: Option<&Recovery>) -> Vec<(String, PathBuf)> {
    let moves = recovery.into_iter().flat_map(|recovery| &recovery.moves);
    let moves = moves.filter(|(_, moving)| moving.by == Hypervisor::Libvirt && moving.stage != Stage::Copies);
    let names = moves.flat_map(|(target, moving)| {
        let now = disks.iter().find(|disk| disk.export == *target).and_then(|disk| disk.device.clone());
        now.into_iter().chain([PathBuf::from(&moving.device)]).map(|device| (target.clone(), device))
    });
    names.collect()
}

fn runs(machine: &Recovering) -> Result<bool, Failure> {
    Ok(matches!(machine.state()?, MachineState::Runs | MachineState::Stands))
}

/// A file of a snapshot; none if it has none of this name.
async fn file(reader: &SnapshotReader, name: &str, context: &Context) -> Result<Option<Vec<u8>>, Failure> {
    let Some(member) = reader.body().members.iter().find(|member| member.name.as_str() == name) else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let options = RestoreOptions::new(context.global.memory);
    restore::dump(reader, member, &mut bytes, &options, &context.monitor()).await?;
    Ok(Some(bytes))
}

/// Writes the firmware's settings as they were.
pub(super) fn write_nvram(folder: &Path, settings: &[u8]) -> Result<(), Failure> {
    write(&folder.join(SETTINGS), settings)
}

/// A file that has its name only once it is durable, and is nobody else's.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".sancerre-partial");
    let partial = PathBuf::from(partial);
    let options = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&partial);
    let written = options.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    });
    written.map_err(|error| {
        Failure::failed(format!(
            "cannot write {}: {error}; check its permissions and its space",
            plain::path(path)
        ))
    })
}

/// Finds, defines and starts the machine when its turn comes, and waits until its disks are whole.
pub(super) fn run(
    job: &Job,
    libvirt: &Libvirt,
    order: &Order,
    output: &Arc<Output>,
    tell: &mut dyn FnMut(HydrationProgress),
) -> Result<Brought, Failure> {
    let mut machine = libvirt.take(job)?;
    let lacks = libvirt.tell_lacking(output)?;
    let was_running = runs(&machine)?;
    let (mut running_after, mut console_from) = (None, 0);
    if was_running {
        refuse_stale(job, &machine)?;
    } else {
        order.wait(job.number)?;
        console_from = Run::length(&job.console());
        let started = Instant::now();
        start(job, &mut machine, output)?;
        running_after = Some(started.elapsed());
        announce(&machine, output);
    }
    let agent: Option<AgentAnswers> = job.has_agent.then(|| machine.agent());
    order.runs(job.number, Run { console: job.console(), console_from, agent });
    fill(job, &mut machine, order, output, tell)?;
    bring_up::linger(job, order, output, || runs(&machine))?;
    let places = moves::places(job)?;
    if machine.finish(&job.folder, &places)? {
        bring_up::refuse_parts(job)?;
    }
    describe_network(job, libvirt, &machine, &places, output)?;
    Ok(Brought {
        vm: job.vm.clone(),
        disks: job.disks.iter().map(|disk| disk.end().to_owned()).collect(),
        was_running,
        running_after,
        defined: Some(Defined { name: machine.name().to_owned(), lacks }),
        trace: None,
    })
}

/// Starts a machine that does not run, each disk where what counts of it is.
fn start(job: &Job, machine: &mut Recovering, output: &Arc<Output>) -> Result<(), Failure> {
    let mut ledger = Ledger::new(job, output);
    for (number, way) in moves::ways(job)?.iter().enumerate() {
        let Hydrated::Device(Moving { device, switching: Some(_) }) = way else { continue };
        let Some(disk) = job.disks.get(number) else { continue };
        // Until it is on its device the guest stood still, and both held the same. Once it is, somebody may have let it go on.
        let noted = match machine.is_defined_on(&disk.export, &device.path)? {
            true => ledger.is_there(number),
            false if moves::is_there(job, disk)? => Ok(()),
            false => ledger.goes_back(number),
        };
        noted.map_err(Failure::failed)?;
    }
    machine.start(&job.folder, &moves::places(job)?)?;
    Ok(())
}

/// A machine that somebody started from an overlay that does not count any more: what it writes there is not on its device.
fn refuse_stale(job: &Job, machine: &Recovering) -> Result<(), Failure> {
    for disk in &job.disks {
        let (Some(device), true) = (&disk.device, moves::is_there(job, disk)?) else { continue };
        if !machine.runs_on(&disk.export, device)? {
            return Err(Failure::failed(format!(
                "{} runs from {}, though all of {} is on {} since an earlier run: what it wrote since it was started is not there. Copy \
                 away what is needed of that, end the machine (`virsh destroy {}`), and run the same command again, which removes the \
                 first",
                machine.name(),
                plain::path(&disk.path),
                disk.export,
                plain::path(device),
                machine.name()
            )));
        }
    }
    Ok(())
}

/// Makes the disks whole. A machine whose QEMU dies is started once more.
fn fill(
    job: &Job,
    machine: &mut Recovering,
    order: &Order,
    output: &Arc<Output>,
    tell: &mut dyn FnMut(HydrationProgress),
) -> Result<(), Failure> {
    let mut look = |at: HydrationProgress| {
        tell(at);
        bring_up::tell_up(job, order, output);
        job.may_fill(order)
    };
    let mut say = |text: String| output.warning(&text);
    let mut filled = |machine: &mut Recovering| -> Result<_, Failure> {
        let sizes = job.disks.iter().map(|disk| disk.size_bytes);
        let ways: Vec<(Hydrated, u64)> = moves::ways(job)?.into_iter().zip(sizes).collect();
        let watch = Watch { look: &mut look, say: &mut say };
        Ok(machine.fill(&job.folder, &ways, watch, &mut Ledger::new(job, output)))
    };
    let mut first = filled(machine)?;
    if matches!(first, Err(FillError::Died)) {
        output.warning(&format!(
            "the QEMU of {} died. It is started again, as after a power cut: what it flushed is there",
            job.vm
        ));
        start(job, machine, output)?;
        first = filled(machine)?;
    }
    match first {
        Ok(hydration) if hydration.unfinished.is_empty() => Ok(()),
        Ok(hydration) => Err(bring_up::unfinished(job, &hydration.unfinished)),
        Err(error) => Err(failed(job, &error)),
    }
}

/// Writes down what gives the machine its network back, and says how.
fn describe_network(
    job: &Job,
    libvirt: &Libvirt,
    machine: &Recovering,
    places: &[DiskPlace],
    output: &Arc<Output>,
) -> Result<(), Failure> {
    let Some(text) = libvirt.recovered.with_network(machine.uuid(), places)? else { return Ok(()) };
    if machine.has_network()? {
        return Ok(());
    }
    let path = job.folder.join(WITH_NETWORK);
    write(&path, text.as_bytes())?;
    output.message(&format!(
        "{} has no network. To give it back what it had: shut it down, `virsh define {}`, and start it",
        machine.name(),
        plain::path(&path)
    ));
    Ok(())
}

fn announce(machine: &Recovering, output: &Arc<Output>) {
    if output.is_json() {
        let fields = [("vm".to_owned(), json!(machine.name())), ("state".to_owned(), json!("running"))];
        return output.status(fields.into_iter().collect::<Map<_, _>>());
    }
    output.message(&format!("{} runs, and is a machine of libvirt's", machine.name()));
    output.message("Until its disks are whole it needs this command: if it ends, run the same command again");
}

fn failed(job: &Job, error: &FillError) -> Failure {
    let folder = plain::path(&job.folder);
    match error {
        FillError::Off | FillError::Died => Failure::failed(format!(
            "{}: {error} before its disks in {folder} were whole. Run the same command again: it starts the machine and goes \
             on; what it wrote is there",
            job.vm
        )),
        FillError::Stands => Failure::new(
            Exit::Damaged,
            format!(
                "{}: {error}, as said above if something is damaged, or there is no room in {folder}. Make room, or run `sancerre \
                 repair`; then run the same command again, which lets it go on",
                job.vm
            ),
        ),
        FillError::Noted(error) => Failure::failed(format!("{error}. {STANDS}")),
        FillError::Libvirt(error) => {
            Failure::failed(format!("{error}; run the same command again, which goes on"))
        }
    }
}
