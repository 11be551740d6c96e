//! Disks of a machine that runs become their own, one after the other.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sancerre_boot::{DiskPlace, Hydrated, Hydration, HydrationProgress, Mover, NotNoted, Step, Switches};

use super::copy::BlockCopy;
use super::{BlockJob, MachineState, Recovering};
use crate::error::CaptureError;
use crate::standing::{self, ALL_TOLD};

/// Between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// QEMU tries to reach an export that went away every 16 s at least; until it does, every read fails. So long nothing is made of
/// that.
const REJOIN: Duration = Duration::from_secs(60);
/// How often in a row a guest that stands still is told to go on, before what it reads must be damaged.
const RESUMED_MAX: u32 = 6;

/// Why the disks did not become whole.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// It was shut down.
    #[error("the machine was shut down")]
    Off,
    /// Its QEMU died.
    #[error("the machine's QEMU died")]
    Died,
    /// It reads what cannot be read.
    #[error("the machine stands still: what it reads cannot be read")]
    Stands,
    /// How far a disk is that moves could not be written down.
    #[error(transparent)]
    Noted(#[from] NotNoted),
    /// libvirt did not do what it was to do.
    #[error(transparent)]
    Libvirt(#[from] CaptureError),
}

/// Who is told how it goes.
pub struct Watch<'a> {
    /// Is told again and again how far it is, and says whether it is this machine's turn: until then nothing is begun.
    pub look: &'a mut dyn FnMut(HydrationProgress) -> bool,
    /// Is told what is waited for.
    pub say: &'a mut dyn FnMut(String),
}

/// What was said to be waited for last.
pub(super) type Told = Option<String>;

/// Disks that are being filled.
pub(super) struct Filling<'a> {
    pub(super) watch: Watch<'a>,
    pub(super) since: Instant,
    total_bytes: u64,
    /// Of those that are whole.
    before_bytes: u64,
}

impl Filling<'_> {
    /// Tells how much of the disk of now is there; whether it is this machine's turn.
    pub(super) fn look(&mut self, done_bytes: u64) -> bool {
        let done_bytes = self.before_bytes.saturating_add(done_bytes);
        (self.watch.look)(HydrationProgress { total_bytes: self.total_bytes, done_bytes })
    }

    /// Whether nothing is to be made of reads that fail.
    pub(super) fn is_early(&self) -> bool {
        self.since.elapsed() < REJOIN
    }
}

impl Recovering {
    /// Lets the disks become their own, each in its way, one after the other; they have so many bytes. `switches` writes down how
    /// far those are that move to devices.
    ///
    /// # Errors
    /// The machine does not run any more; what libvirt says.
    pub fn fill(
        &mut self,
        folder: &Path,
        ways: &[(Hydrated, u64)],
        watch: Watch<'_>,
        switches: &mut dyn Switches,
    ) -> Result<Hydration, FillError> {
        let filled = self.fill_each(folder, ways, watch, switches);
        // A machine that has just died refuses whatever it is asked.
        match (filled, self.state()) {
            (Err(FillError::Libvirt(_)), Ok(MachineState::Died)) => Err(FillError::Died),
            (Err(FillError::Libvirt(_)), Ok(MachineState::Off)) => Err(FillError::Off),
            (filled, _) => filled,
        }
    }

    fn fill_each(
        &mut self,
        folder: &Path,
        ways: &[(Hydrated, u64)],
        watch: Watch<'_>,
        switches: &mut dyn Switches,
    ) -> Result<Hydration, FillError> {
        let total_bytes = ways.iter().map(|(_, size)| *size).fold(0, u64::saturating_add);
        let mut filling = Filling { watch, since: Instant::now(), total_bytes, before_bytes: 0 };
        let (mut hydration, disks) = (Hydration::default(), self.recovered.restored.disks.clone());
        // The machine may stand still until a switch that was begun is over.
        let is_switching = |(way, _): &(Hydrated, u64)| matches!(way, Hydrated::Device(moving) if moving.switching.is_some());
        let (begun, others): (Vec<_>, Vec<_>) =
            disks.iter().zip(ways).enumerate().partition(|(_, (_, way))| is_switching(way));
        for (number, ((target, path, _), (way, size))) in begun.into_iter().chain(others) {
            let left = match way {
                Hydrated::Overlay => self.pull((target, path), *size, &mut filling)?,
                Hydrated::Device(moving) => {
                    let mover = Mover::new(number, moving.clone());
                    self.copy((target, folder), mover, &mut filling, switches)?
                }
                Hydrated::Whole(_) => None,
            };
            hydration.unfinished.extend(left.map(|words| (number, words)));
            filling.before_bytes = filling.before_bytes.saturating_add(*size);
        }
        filling.look(0);
        if hydration.unfinished.is_empty() {
            self.survive(filling.since)?;
        }
        Ok(hydration)
    }

    /// Moves a disk to its device. Some of it may be left; then why.
    fn copy(
        &mut self,
        (target, folder): (&str, &Path),
        mut mover: Mover,
        filling: &mut Filling<'_>,
        switches: &mut dyn Switches,
    ) -> Result<Option<String>, FillError> {
        let device = mover.device().clone();
        let mut copy = BlockCopy::new(self, (target, &device), folder, filling);
        loop {
            let is_turn = copy.filling.look(mover.done_bytes());
            let step = match is_turn || mover.is_switching() {
                true => mover.step(&mut copy, switches)?,
                false => copy.wait()?,
            };
            match step {
                Step::Runs => sleep(LOOK),
                Step::Done => return Ok(None),
                Step::Failed(words) => return Ok(Some(words)),
            }
        }
    }

    /// QEMU, up to 10.0, may die in the moment in which a job ends, when the disk is whole already. A guest whose last read
    /// failed just before stands still.
    fn survive(&mut self, since: Instant) -> Result<(), FillError> {
        loop {
            let disks = self.recovered.restored.disks.iter();
            let jobs: Result<Vec<_>, _> =
                disks.map(|(target, _, _)| BlockJob::find(&self.virsh, &self.uuid, target)).collect();
            // A machine that has just died has no jobs to ask for.
            match (self.state()?, jobs) {
                (MachineState::Died, _) => return Err(FillError::Died),
                // It was shut down, and needs nothing more.
                (MachineState::Off, _) => return Ok(()),
                (MachineState::Stands, _) => {
                    self.keep_running(since)?;
                    sleep(LOOK);
                }
                (_, Ok(jobs)) if jobs.iter().flatten().any(BlockJob::is_pull) => sleep(LOOK),
                (_, jobs) => return Ok(jobs.map(drop)?),
            }
        }
    }

    /// A machine that stands still because its export was away is told to go on.
    pub(super) fn keep_running(&mut self, since: Instant) -> Result<(), FillError> {
        match self.state()? {
            MachineState::Off => Err(FillError::Off),
            MachineState::Died => Err(FillError::Died),
            MachineState::Runs => {
                (self.resumed, self.stands_since) = (0, None);
                Ok(())
            }
            MachineState::Stands if self.resumed >= RESUMED_MAX => Err(FillError::Stands),
            MachineState::Stands => Ok(self.resume(since)?),
        }
    }

    /// Not before all is told that made it stand still.
    fn resume(&mut self, since: Instant) -> Result<(), CaptureError> {
        if self.stands_since.get_or_insert_with(Instant::now).elapsed() < ALL_TOLD {
            return Ok(());
        }
        // libvirt may be wrong that it still stands. Where QEMU may not be asked, or is slow, it is resumed once more.
        let agreed = match self.resumed {
            0 => Ok(()),
            _ => standing::agree(&self.virsh, &self.uuid),
        };
        if !matches!(agreed, Err(CaptureError::Refused { .. } | CaptureError::Slow { .. })) {
            agreed?;
        }
        let is_early = since.elapsed() < REJOIN;
        self.resumed = if is_early { 1 } else { self.resumed.saturating_add(1) };
        self.stands_since = None;
        match standing::resume(&self.virsh, &self.uuid) {
            // Somebody else did.
            Err(CaptureError::Refused { .. }) if self.state()? == MachineState::Runs => Ok(()),
            resumed => resumed,
        }
    }

    /// Its disks are whole, at these places: nothing that libvirt remembers of it speaks of exports any more. Returns whether some
    /// image still stands on one.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn finish(&mut self, folder: &Path, places: &[DiskPlace]) -> Result<bool, CaptureError> {
        if places.iter().any(|place| matches!(place, DiskPlace::Overlay { needs_export: true, .. })) {
            return Ok(true);
        }
        self.redefine(folder, places).map(|()| false)
    }
}
