//! The guest of a recovery: found or started, and its disks made whole. Blocks; the export is served meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sancerre_boot::{
    Accelerator, BlockDevice, DiskPlace, GuestDisk, GuestPlan, HydrateError, HydrationProgress, Qmp,
    QmpError, StartError,
};
use sancerre_capture::EXPORTS;
use serde_json::{Map, json};

use super::libvirt::{self, Libvirt};
use super::moves::{self, Ledger};
use super::order::{AgentAnswers, Look, Order, Run};
use super::state::{Hypervisor, Recovery, Stage};
use crate::command::boot::{Recording, Traced};
use crate::exit::{Exit, Failure};
use crate::guests::GuestOptions;
use crate::output::Output;
use crate::plain;

/// What a failure in the middle of a switch means.
pub(super) const STANDS: &str =
    "The guest may stand still, and nothing of it is lost: run the same command again, which lets it go on";

/// A disk of the machine.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) export: String,
    pub(super) size_bytes: u64,
    /// Its overlay.
    pub(super) path: PathBuf,
    /// The block device that it goes to; none if it stays where its overlay is.
    pub(super) device: Option<PathBuf>,
}

impl Disk {
    pub(super) fn on(&self, device: &Path) -> BlockDevice {
        BlockDevice { path: device.to_owned(), size_bytes: sancerre_boot::disk_bytes(self.size_bytes) }
    }

    /// Where it is once it is whole.
    pub(super) fn end(&self) -> &Path {
        self.device.as_deref().unwrap_or(&self.path)
    }
}

/// What is to be brought up.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Its number among those of this command.
    pub(super) number: usize,
    pub(super) vm: String,
    pub(super) disks: Vec<Disk>,
    /// Whether its agent will be asked.
    pub(super) has_agent: bool,
    pub(super) folder: PathBuf,
    pub(super) guest: GuestOptions,
    /// What runs it; none for a QEMU of its own.
    pub(super) libvirt: Option<Libvirt>,
    /// What it asks for until it is up, where that is wanted.
    pub(super) recording: Option<Arc<Recording>>,
    /// Whether what its boot trace names was fetched: its disks are not filled before.
    pub(super) has_trace: Arc<AtomicBool>,
}

/// A guest whose disks are whole.
pub(super) struct Brought {
    pub(super) vm: String,
    pub(super) disks: Vec<PathBuf>,
    /// Whether an earlier run had started it.
    pub(super) was_running: bool,
    /// How long it took until it ran.
    pub(super) running_after: Option<Duration>,
    /// What libvirt has of it; none for a QEMU of its own.
    pub(super) defined: Option<libvirt::Defined>,
    /// What it asked for until it was up, once that is stored.
    pub(super) trace: Option<Traced>,
}

impl Job {
    /// What runs it.
    pub(super) fn by(&self) -> Hypervisor {
        if self.libvirt.is_some() { Hypervisor::Libvirt } else { Hypervisor::Qemu }
    }

    pub(super) fn exports(&self) -> PathBuf {
        self.folder.join(EXPORTS)
    }

    pub(super) fn monitor(&self) -> PathBuf {
        self.folder.join("monitor.sock")
    }

    pub(super) fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// Where its disks are once they are whole, in words.
    pub(super) fn ends(&self) -> String {
        let devices = self.disks.iter().filter_map(|disk| disk.device.as_deref());
        let mut places: Vec<String> = devices.map(|device| format!("on {}", plain::path(device))).collect();
        if places.len() < self.disks.len() {
            places.insert(0, format!("in {}", plain::path(&self.folder)));
        }
        places.join(" and ")
    }

    /// Whether its disks may be filled: those of the trace and of more urgent machines come first.
    pub(super) fn may_fill(&self, order: &Order) -> bool {
        self.has_trace.load(Ordering::Relaxed) && order.is_turn(self.number)
    }

    fn agent(&self) -> Option<PathBuf> {
        self.has_agent.then(|| self.folder.join("agent.sock"))
    }

    /// The guest, with each disk where it is.
    pub(super) fn plan(&self, accelerator: Accelerator, places: Vec<DiskPlace>) -> GuestPlan {
        let disk = |(disk, place): (&Disk, DiskPlace)| GuestDisk { export: disk.export.clone(), place };
        GuestPlan {
            name: self.vm.clone(),
            disks: self.disks.iter().zip(places).map(disk).collect(),
            bus: self.guest.bus.into(),
            accelerator,
            memory_mib: self.guest.memory_mib(),
            processors: self.guest.guest_cpus,
            exports: self.exports(),
            monitor: self.monitor(),
            console: self.console(),
            screen: Some(self.folder.join("screen.sock")),
            agent: self.agent(),
            more: self.guest.more.clone(),
        }
    }

    fn start(&self, accelerator: Accelerator, places: &[DiskPlace]) -> Result<(), StartError> {
        sancerre_boot::start(self.guest.qemu.as_os_str(), &self.plan(accelerator, places.to_vec()))
    }
}

/// Finds or starts the guest when its turn comes, and waits until its disks are whole.
pub(super) fn run(
    job: &Job,
    order: &Order,
    output: &Arc<Output>,
    mut tell: impl FnMut(HydrationProgress),
) -> Result<Brought, Failure> {
    if let Some(libvirt) = &job.libvirt {
        return libvirt::run(job, libvirt, order, output, &mut tell);
    }
    let was_running = is_running(job)?;
    let mut accelerator = job.guest.accelerator();
    let (mut running_after, mut console_from) = (None, 0);
    if !was_running {
        order.wait(job.number)?;
        console_from = Run::length(&job.console());
        let started = Instant::now();
        accelerator = start(job, accelerator, output)?;
        running_after = Some(started.elapsed());
        announce(job, output);
    }
    let agent =
        job.agent().map(|path| -> AgentAnswers { Arc::new(move || sancerre_boot::agent_answers(&path)) });
    order.runs(job.number, Run { console: job.console(), console_from, agent });
    let mut look = |at: HydrationProgress| {
        tell(at);
        tell_up(job, order, output);
        job.may_fill(order)
    };
    let unfinished = hydrate(job, accelerator, output, &mut look)?;
    linger(job, order, output, || is_running(job))?;
    if !unfinished.is_empty() {
        return Err(self::unfinished(job, &unfinished));
    }
    refuse_parts(job)?;
    let disks = job.disks.iter().map(|disk| disk.end().to_owned()).collect();
    Ok(Brought { vm: job.vm.clone(), disks, was_running, running_after, defined: None, trace: None })
}

/// Makes the disks whole; returns those of which some could not be read.
fn hydrate(
    job: &Job,
    mut accelerator: Accelerator,
    output: &Arc<Output>,
    look: &mut dyn FnMut(HydrationProgress) -> bool,
) -> Result<Vec<(usize, String)>, Failure> {
    loop {
        let ways = moves::ways(job)?;
        let hydrated = sancerre_boot::hydrate(&job.monitor(), &ways, look, &mut Ledger::new(job, output));
        match (hydrated, job.guest.other(accelerator)) {
            (Err(HydrateError::Processor), Some(other)) => {
                output.warning(&format!(
                    "the guest stopped with an error of {}: this host's virtualisation does not work. It is started again \
                     with {}, as after a power cut",
                    accelerator.word(),
                    other.word()
                ));
                quit(job)?;
                accelerator = start(job, other, output)?;
            }
            (Ok(hydration), _) => return Ok(hydration.unfinished),
            (Err(error), _) => return Err(failed(job, &error)),
        }
    }
}

/// Its disks may be whole before it is up, and others wait for that.
pub(super) fn linger(
    job: &Job,
    order: &Order,
    output: &Arc<Output>,
    is_running: impl Fn() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    while order.is_pending(job.number) && is_running()? {
        tell_up(job, order, output);
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

pub(super) fn tell_up(job: &Job, order: &Order, output: &Arc<Output>) {
    match order.look(job.number) {
        Look::Same => {}
        Look::Up => {
            job.recording.iter().for_each(|recording| recording.end());
            output.message(&format!("{} is up", job.vm));
        }
        Look::Overdue if job.recording.is_some() => output.warning(&format!(
            "nothing says that {} is up, and its --up-limit is over: no boot trace is stored, and nothing waits for it any longer",
            job.vm
        )),
        Look::Overdue => output.warning(&format!(
            "nothing says that {} is up, and its --up-limit is over: those that wait for it are started all the same",
            job.vm
        )),
    }
}

/// Whatever QEMU said: the images themselves must say that they stand on nothing before anybody relies on it.
pub(super) fn refuse_parts(job: &Job) -> Result<(), Failure> {
    let recovery = Recovery::read(&job.folder)?;
    let is_on_device = |disk: &Disk| {
        let stage = recovery.as_ref().and_then(|recovery| recovery.stage(&disk.export));
        matches!(stage, Some(Stage::There { .. }))
    };
    for disk in job.disks.iter().filter(|disk| !is_on_device(disk)) {
        if sancerre_boot::has_backing(&disk.path)? {
            return Err(Failure::new(
                Exit::Bug,
                format!(
                    "QEMU says that {} is whole, and its image still stands on the export; run the same command again, and \
                     report this",
                    plain::path(&disk.path)
                ),
            ));
        }
    }
    Ok(())
}

pub(super) fn is_running(job: &Job) -> Result<bool, Failure> {
    match Qmp::connect(&job.monitor()) {
        Ok(_) => Ok(true),
        Err(QmpError::Away(_)) => Ok(false),
        Err(error) => Err(Failure::failed(format!(
            "the guest in {} runs, but: {error}. Close what else is connected to its monitor.sock, and run this again",
            plain::path(&job.folder)
        ))),
    }
}

fn start(job: &Job, accelerator: Accelerator, output: &Arc<Output>) -> Result<Accelerator, Failure> {
    let places = moves::places(job)?;
    match (job.start(accelerator, &places), job.guest.other(accelerator)) {
        (Err(error), Some(other)) => {
            output.warning(&format!("{error}; trying {}", other.word()));
            job.start(other, &places)?;
            Ok(other)
        }
        (started, _) => Ok(started.map(|()| accelerator)?),
    }
}

fn announce(job: &Job, output: &Arc<Output>) {
    if output.is_json() {
        let fields = [("vm".to_owned(), json!(job.vm)), ("state".to_owned(), json!("running"))];
        return output.status(fields.into_iter().collect::<Map<_, _>>());
    }
    output.message(&format!(
        "{} runs. Its console is in {}, its screen at {} (VNC)",
        job.vm,
        plain::path(&job.console()),
        plain::path(&job.folder.join("screen.sock"))
    ));
    output.message("Until its disks are whole it needs this command: if it ends, run the same command again");
}

/// Ends a guest whose processor is dead anyhow.
fn quit(job: &Job) -> Result<(), Failure> {
    let asked = Qmp::connect(&job.monitor()).and_then(|mut qmp| qmp.execute("quit", json!({})));
    match asked {
        Err(error) if !error.is_gone() => Err(Failure::failed(error.to_string())),
        _ => {
            // Its locks of the images go with it.
            while Qmp::connect(&job.monitor()).is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        }
    }
}

pub(super) fn unfinished(job: &Job, disks: &[(usize, String)]) -> Failure {
    let named: Vec<String> = disks
        .iter()
        .filter_map(|(number, words)| job.disks.get(*number).map(|disk| format!("{} ({words})", disk.export)))
        .collect();
    let is_device =
        |(number, _): &(usize, String)| job.disks.get(*number).is_some_and(|disk| disk.device.is_some());
    let (named, folder) = (named.join(", "), plain::path(&job.folder));
    // What QEMU says in the C locale.
    if disks.iter().any(|(_, words)| words.contains("No space left")) {
        return Failure::failed(format!(
            "there is no room for all of {named} in {folder}. The guest runs on and needs the rest from here: make room, and run \
             the same command again"
        ));
    }
    if disks.iter().any(is_device) {
        return Failure::new(
            Exit::Damaged,
            format!(
                "{named} could not be copied to its device: something of it is damaged, as said above, or else the device fails \
                 (see the kernel's log). The guest runs on from {folder} and needs the rest from here: run the same command again, \
                 after `sancerre repair` if something is damaged"
            ),
        );
    }
    Failure::new(
        Exit::Damaged,
        format!(
            "parts of {named} could not be read, as said above; all else is in {folder}. The guest runs on and needs them from \
             here: run the same command again, after `sancerre repair` if something is damaged"
        ),
    )
}

fn failed(job: &Job, error: &HydrateError) -> Failure {
    Failure::failed(match error {
        HydrateError::Gone(_) => format!(
            "the guest in {} was shut down, or its QEMU ended, before its disks were whole: {error}. Run the same command \
             again: it starts the guest and goes on; what it wrote is there",
            plain::path(&job.folder)
        ),
        HydrateError::Processor => format!("{error}: run the same command again with --accel tcg"),
        HydrateError::Monitor(_) => format!("{error}; run the same command again, which goes on"),
        HydrateError::Plan(_) => error.to_string(),
        HydrateError::Noted(_) => format!("{error}. {STANDS}"),
    })
}
