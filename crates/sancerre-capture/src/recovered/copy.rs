//! Block copy: libvirt copies a disk to a block device while the guest runs, and then makes that its disk.

use std::path::Path;
use std::time::{Duration, Instant};

use sancerre_boot::{BlockDevice, Copying, MIRROR_BYTES, MovingGuest, Step};

use super::description::{disk_of, is_same_device, on_device, put_on};
use super::fill::{FillError, Filling, Told};
use super::{BlockJob, MachineState, Recovering};
use crate::define::{define_text, with_file};
use crate::error::CaptureError;
use crate::standing;
use crate::xml::Element;

/// A copy that is being ended has little left to write, to a device that may be slow.
const END: Duration = Duration::from_secs(10 * 60);

/// A disk that moves, as libvirt has it.
pub(super) struct BlockCopy<'a, 'b> {
    machine: &'a mut Recovering,
    pub(super) filling: &'a mut Filling<'b>,
    target: &'a str,
    device: &'a BlockDevice,
    folder: &'a Path,
    /// Whether a copy was begun here, whose end is not known.
    is_begun: bool,
    /// Whether the guest was stopped here, for its switch, and not let go on yet.
    is_stopped: bool,
    /// Since when it is being ended.
    ends_since: Option<Instant>,
    told: Told,
}

/// A device to which a disk is copied, as libvirt is told of it.
///
/// # Errors
/// The device cannot be looked at.
pub fn device_xml(device: &BlockDevice) -> Result<String, CaptureError> {
    let disk = Element::new("disk").with("type", "block").with("device", "disk");
    let disk = disk.holding(Element::new("driver").with("name", "qemu").with("type", "raw"));
    Ok(disk.holding(on_device(device)?).written())
}

impl<'a, 'b> BlockCopy<'a, 'b> {
    pub(super) fn new(
        machine: &'a mut Recovering,
        (target, device): (&'a str, &'a BlockDevice),
        folder: &'a Path,
        filling: &'a mut Filling<'b>,
    ) -> Self {
        Self {
            machine,
            filling,
            target,
            device,
            folder,
            is_begun: false,
            is_stopped: false,
            ends_since: None,
            told: None,
        }
    }

    /// While others are filled the guest is kept running.
    pub(super) fn wait(&mut self) -> Result<Step, FillError> {
        self.machine.keep_running(self.filling.since).map(|()| Step::Runs)
    }

    /// What a copy to our device says of itself; none if there is none.
    fn ready(&self) -> Result<Option<String>, CaptureError> {
        let mut live = self.machine.live()?;
        let mirror = disk_of(&mut live, self.target).and_then(|disk| disk.child("mirror"));
        let is_ours = |mirror: &&Element| {
            let to = mirror.child("source").and_then(|source| source.attribute("dev"));
            to.is_some_and(|to| {
                Path::new(to) == self.device.path || is_same_device(Path::new(to), &self.device.path)
            })
        };
        let mirror = mirror.filter(is_ours);
        Ok(mirror.map(|mirror| mirror.attribute("ready").unwrap_or_default().to_owned()))
    }

    /// A libvirt that was killed while it ended a copy never says that it is over.
    fn still_ends(&mut self) -> Result<(), CaptureError> {
        let since = self.ends_since.get_or_insert_with(Instant::now);
        if since.elapsed() < END {
            return Ok(());
        }
        let name = &self.machine.name;
        Err(CaptureError::Unfit(format!(
            "libvirt has been ending the copy of {} of {name} for {} minutes: its daemon may have been killed as it did. If nothing is \
             written to {} any more, end the machine (`virsh destroy {name}`), which stands still, and run the same command again",
            self.target,
            END.as_secs() / 60,
            self.device.path.display(),
        )))
    }

    /// The same disk on its device, in the description by which the machine will be started.
    fn define(&self) -> Result<(), CaptureError> {
        let mut element = self.machine.defined()?;
        if let Some(disk) = disk_of(&mut element, self.target) {
            put_on(disk, &sancerre_boot::DiskPlace::Device(self.device.clone()))?;
        }
        define_text(&self.machine.virsh, self.folder, &element.written())
    }

    fn call(&self, arguments: &[&str]) -> Result<(), CaptureError> {
        let domain = ["--domain", &self.machine.uuid];
        let (command, more) = arguments.split_at(arguments.len().min(1));
        self.machine.virsh.call(&[command, &domain, more].concat()).map(drop)
    }
}

impl MovingGuest for BlockCopy<'_, '_> {
    type Error = FillError;

    fn copying(&mut self) -> Result<Copying, FillError> {
        let state = self.machine.state()?;
        match state {
            MachineState::Off => return Err(FillError::Off),
            MachineState::Died => return Err(FillError::Died),
            MachineState::Runs | MachineState::Stands => {}
        }
        let ready = self.ready()?;
        match ready.as_deref() {
            // It is switched once it runs, so that libvirt can stop it.
            Some("yes") if state == MachineState::Stands && !self.is_stopped => {
                self.machine.keep_running(self.filling.since)?;
                return Ok(Copying::Runs(self.device.size_bytes));
            }
            Some("yes") => return Ok(Copying::Ready),
            // It is being ended ("pivot", "abort"): libvirt answers nothing about it until it is, and the guest stands still.
            Some(word) if !word.is_empty() => {
                self.still_ends()?;
                return Ok(Copying::Runs(self.device.size_bytes));
            }
            _ => {}
        }
        self.ends_since = None;
        let job = BlockJob::find(&self.machine.virsh, &self.machine.uuid, self.target)?;
        let done = job.as_ref().map_or(0, |job| job.part_of(self.device.size_bytes));
        let is_free = match ready {
            Some(_) => false,
            None => self.machine.is_free(self.target, job, &mut self.told, self.filling),
        };
        if is_free {
            // libvirt does not say why one failed.
            let failed = self.is_begun && !self.filling.is_early();
            self.is_begun = false;
            if failed && !self.is_stopped {
                self.machine.keep_running(self.filling.since)?;
            }
            return Ok(Copying::Ended(
                failed.then(|| "libvirt's block copy ended before its end".to_owned()),
            ));
        }
        self.machine.keep_running(self.filling.since)?;
        Ok(Copying::Runs(if ready.is_some() { done } else { 0 }))
    }

    fn is_on_device(&mut self) -> Result<bool, FillError> {
        let (target, path) = (self.target, self.device.path.as_path());
        let is_defined = self.machine.is_defined_on(target, path)?;
        match (self.machine.runs_on(target, path)?, is_defined) {
            (false, false) => return Ok(false),
            (true, true) => return Ok(true),
            (true, false) => self.define()?,
            (false, true) => {}
        }
        if self.machine.runs_on(target, path)? && self.machine.is_defined_on(target, path)? {
            return Ok(true);
        }
        Err(FillError::Libvirt(CaptureError::Unfit(format!(
            "{} runs with {target} at one place, and is defined with it at another: it is not clear which of them counts. See `virsh \
             dumpxml`, with and without --inactive",
            self.machine.name
        ))))
    }

    fn begin(&mut self) -> Result<(), FillError> {
        let (text, bytes) = (device_xml(self.device)?, MIRROR_BYTES.to_string());
        let begun = with_file(self.folder, &text, |xml| {
            let to = ["--path", self.target, "--xml", xml, "--buf-size", &bytes];
            // What was there is nobody's; and a machine that is started anew starts from its overlay.
            let how = ["--reuse-external", "--transient-job"];
            let domain = ["blockcopy", "--domain", &self.machine.uuid];
            self.machine.virsh.call(&[&domain[..], &to, &how].concat())
        });
        match begun {
            // The one that just ended is still being taken away.
            Err(CaptureError::Refused { said, .. }) if said.contains("already in active block job") => {}
            begun => {
                begun?;
                self.is_begun = true;
            }
        }
        Ok(())
    }

    fn runs(&mut self) -> Result<bool, FillError> {
        let stands = self.machine.state()? == MachineState::Stands;
        Ok(stands || !self.machine.is_paused()?)
    }

    fn stop(&mut self) -> Result<(), FillError> {
        self.call(&["suspend"])?;
        // libvirt stops no guest that it has paused for an error, and this one may run all the same.
        if self.machine.state()? == MachineState::Stands {
            standing::agree(&self.machine.virsh, &self.machine.uuid)?;
            standing::resume(&self.machine.virsh, &self.machine.uuid)?;
            self.call(&["suspend"])?;
        }
        self.is_stopped = true;
        Ok(())
    }

    fn complete(&mut self) -> Result<(), FillError> {
        match self.call(&["blockjob", "--path", self.target, "--pivot"]) {
            // A device may take long to flush what it was given. libvirt goes on with it.
            Err(CaptureError::Slow { .. }) => Ok(()),
            pivoted => Ok(pivoted?),
        }
    }

    fn go_on(&mut self) -> Result<(), FillError> {
        self.is_stopped = false;
        // Its owner may have let it go on.
        match self.machine.is_paused()? {
            true => Ok(self.call(&["resume"])?),
            false => Ok(()),
        }
    }

    /// libvirt did.
    fn let_go(&mut self) -> Result<(), FillError> {
        Ok(())
    }
}
