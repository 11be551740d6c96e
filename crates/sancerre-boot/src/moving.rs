//! A disk that moves from its overlay to a block device while its guest runs: copied, and switched over at the end. Whoever runs
//! the guest, QEMU's monitor or libvirt, is told the same in the same order.
//!
//! Until the switch the overlay alone is right, since what the guest flushes is there; afterwards the device alone. Whoever
//! comes after a crash must know which of the two. Therefore the guest stands still from before the switch until it is written
//! down: in between both hold the same, durably, and either may be taken.

use std::thread::sleep;
use std::time::Duration;

use crate::guest::BlockDevice;

/// Between two looks while the guest stands still.
const LOOK: Duration = Duration::from_millis(5);
/// So many looks; then others take their turn.
const LOOKS: u32 = 400;
/// How often a disk is gone over when some of it could not be read: an outage passes, damage does not.
pub const PASSES: u32 = 3;

/// How far a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Something is under way for it.
    Runs,
    /// Nothing is left to do.
    Done,
    /// Some of it cannot be had, and why.
    Failed(String),
}

/// A disk that is to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// Where to. Nobody else writes there.
    pub device: BlockDevice,
    /// Whether the guest ran when an earlier run began the switch; none if none did.
    pub switching: Option<bool>,
}

/// Who writes down how far a switch is. Each call returns once that is durable. An error stops all; its words say why.
pub trait Switches {
    /// The guest is about to be stopped; whether it runs now. The overlay counts.
    fn begins(&mut self, number: usize, runs: bool) -> Result<(), String>;
    /// The device has all of the disk, durably, and the guest stands still: from now on the device counts, and no overlay.
    fn is_there(&mut self, number: usize) -> Result<(), String>;
    /// A switch came to nothing, and the guest is as it was before: its overlay counts.
    fn goes_back(&mut self, number: usize) -> Result<(), String>;
    /// The guest goes on from the device, and nobody has the overlay open.
    fn ends(&mut self, number: usize) -> Result<(), String>;
}

/// How far a disk that moves is could not be written down, and why. The guest may stand still meanwhile.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotNoted(pub String);

/// What copies a disk to its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copying {
    /// Nothing: it was not begun, or is over. With its words if it failed.
    Ended(Option<String>),
    /// It is under way; so many bytes are there.
    Runs(u64),
    /// All is there, and what the guest writes goes to both.
    Ready,
}

/// Whoever runs a guest, of one of its disks.
pub trait MovingGuest {
    /// Why it does not do what it is told.
    type Error: From<NotNoted> + std::fmt::Display;
    /// What copies the disk.
    fn copying(&mut self) -> Result<Copying, Self::Error>;
    /// Whether the guest's disk is the device by now, and will be when it is started anew.
    fn is_on_device(&mut self) -> Result<bool, Self::Error>;
    /// Copies all of it, from the first byte on: what an earlier copy brought is not known. A failed one has left nothing.
    fn begin(&mut self) -> Result<(), Self::Error>;
    /// Whether the guest runs, as far as its owner is concerned.
    fn runs(&mut self) -> Result<bool, Self::Error>;
    /// Stops the guest; what it flushed is flushed.
    fn stop(&mut self) -> Result<(), Self::Error>;
    /// Ends the copy of a guest that stands still: what it wrote last is brought, the device is flushed, and is its disk.
    fn complete(&mut self) -> Result<(), Self::Error>;
    /// Lets a guest that stands still go on.
    fn go_on(&mut self) -> Result<(), Self::Error>;
    /// Closes the overlay and its export.
    fn let_go(&mut self) -> Result<(), Self::Error>;
}

/// One disk on its way.
#[derive(Debug)]
pub struct Mover {
    number: usize,
    moving: Moving,
    done_bytes: u64,
    passes: u32,
}

impl Mover {
    /// Disk `number` of a guest.
    pub fn new(number: usize, moving: Moving) -> Self {
        Self { number, moving, done_bytes: 0, passes: 0 }
    }

    /// Where it goes.
    pub fn device(&self) -> &BlockDevice {
        &self.moving.device
    }

    /// Whether a guest may stand still until something is done: it is nobody's turn then.
    pub fn is_switching(&self) -> bool {
        self.moving.switching.is_some()
    }

    /// How much of it is there.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes
    }

    /// Looks where it is, and does what is next.
    pub fn step<G: MovingGuest>(
        &mut self,
        guest: &mut G,
        switches: &mut dyn Switches,
    ) -> Result<Step, G::Error> {
        match guest.copying()? {
            Copying::Ended(error) => self.ended(guest, error, switches),
            Copying::Runs(done_bytes) => {
                self.done_bytes = done_bytes.min(self.device().size_bytes);
                Ok(Step::Runs)
            }
            Copying::Ready => {
                self.done_bytes = self.device().size_bytes;
                self.switch(guest, switches)
            }
        }
    }

    /// Nothing copies: it has arrived, or is to be begun.
    fn ended<G: MovingGuest>(
        &mut self,
        guest: &mut G,
        error: Option<String>,
        switches: &mut dyn Switches,
    ) -> Result<Step, G::Error> {
        match guest.is_on_device()? {
            true => self.arrive(guest, switches),
            false => self.begin(guest, error, switches),
        }
    }

    fn begin<G: MovingGuest>(
        &mut self,
        guest: &mut G,
        error: Option<String>,
        switches: &mut dyn Switches,
    ) -> Result<Step, G::Error> {
        // A switch that failed: the guest goes on from its overlay.
        if let Some(ran) = self.moving.switching.take() {
            if ran {
                guest.go_on()?;
            }
            switches.goes_back(self.number).map_err(NotNoted)?;
        }
        match error {
            Some(words) if self.passes >= PASSES => return Ok(Step::Failed(words)),
            Some(_) => {}
            None => self.passes = 0,
        }
        self.passes = self.passes.saturating_add(1);
        self.done_bytes = 0;
        guest.begin().map(|()| Step::Runs)
    }

    /// The copy has caught up: the guest is stopped, and its disk is the device.
    fn switch<G: MovingGuest>(
        &mut self,
        guest: &mut G,
        switches: &mut dyn Switches,
    ) -> Result<Step, G::Error> {
        let runs = match self.moving.switching {
            Some(runs) => runs,
            None => guest.runs()?,
        };
        switches.begins(self.number, runs).map_err(NotNoted)?;
        self.moving.switching = Some(runs);
        guest.stop()?;
        if let Err(error) = guest.complete() {
            // Where nothing became of it the guest need not wait for somebody who finds out why.
            match guest.copying() {
                Ok(Copying::Ended(_)) => return self.ended(guest, Some(error.to_string()), switches),
                Ok(Copying::Ready) if runs => guest.go_on()?,
                _ => {}
            }
            return Err(error);
        }
        for _ in 0..LOOKS {
            if let Copying::Ended(error) = guest.copying()? {
                return self.ended(guest, error, switches);
            }
            sleep(LOOK);
        }
        Ok(Step::Runs)
    }

    /// Its disk is the device: that is written down before the guest goes on.
    fn arrive<G: MovingGuest>(
        &mut self,
        guest: &mut G,
        switches: &mut dyn Switches,
    ) -> Result<Step, G::Error> {
        switches.is_there(self.number).map_err(NotNoted)?;
        if self.moving.switching == Some(true) {
            guest.go_on()?;
        }
        guest.let_go()?;
        switches.ends(self.number).map_err(NotNoted)?;
        self.done_bytes = self.device().size_bytes;
        Ok(Step::Done)
    }
}

#[cfg(test)]
mod tests;
