//! A machine of libvirt's that runs before its disks are whole: each is an overlay on its final storage, and stands on an
//! export until libvirt has copied the rest into it ("block pull"), or all of it to a block device ("block copy").
//!
//! ```text
//! find or define ─> start ─> (block pull or copy of one disk after the other) ─> whole: its description speaks of no export
//! ```
//! Nothing is remembered here: libvirt says whether the machine is there and runs, an image says whether it still stands on
//! something. Whoever comes after a crash asks, and goes on. How far a disk is that moves to a device, the caller writes down.

mod copy;
mod description;
mod fill;
mod pull;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sancerre_advice::Setting::MachineName;
use sancerre_boot::DiskPlace;

pub use self::copy::device_xml;
pub use self::description::Lacking;
use self::description::{disk_of, is_same_device, put_on, without_interfaces};
pub use self::fill::{FillError, Watch};
pub(crate) use self::pull::BlockJob;
use crate::agent::Agent;
use crate::define::{Restored, define_text};
use crate::error::CaptureError;
use crate::machine::{Machine, MachineDisk};
use crate::virsh::Virsh;
use crate::xml::Element;

/// A machine that is to be recovered.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// What it was, and where its disks are now: overlays, all of them qcow2.
    pub restored: Restored,
    /// Devices that an earlier run was about to switch disks to, or did, by target and by all names that they may be defined by.
    pub switched: Vec<(String, PathBuf)>,
    /// The socket where its disks are served, each under its target.
    pub exports: PathBuf,
    /// Whether it keeps its network.
    pub has_network: bool,
    /// Whether its processor is made in software.
    pub is_in_software: bool,
    /// Where its first serial console is written to besides; none for nowhere.
    pub console: Option<PathBuf>,
}

/// A recovered machine, as libvirt has it.
#[derive(Debug)]
pub struct Recovering {
    virsh: Virsh,
    recovered: Recovered,
    name: String,
    uuid: String,
    /// Whether the guest is stopped while its export is away, and must be told to go on.
    stops: bool,
    /// How often it was told so in a row without an end in sight.
    resumed: u32,
    /// When it was first seen standing still since it was resumed last.
    stands_since: Option<Instant>,
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineState {
    /// It runs, or somebody paused it.
    Runs,
    /// It stands still, for something could not be read or written.
    Stands,
    /// It was shut down, or never started.
    Off,
    /// Its QEMU died.
    Died,
}

impl Recovered {
    /// Whom QEMU's processes belong to where libvirt runs as root: who must be able to connect to the exports. None where that is
    /// this user.
    ///
    /// # Errors
    /// What virsh said.
    pub fn owner(virsh: &Virsh) -> Result<Option<(u32, u32)>, CaptureError> {
        let (capabilities, _) = virsh.xml("what libvirt can do", &["capabilities"])?;
        let models = capabilities.child("host").into_iter().flat_map(|host| host.all("secmodel"));
        let dac = models.into_iter().find(|model| model.text_of("model") == Some("dac"));
        let label = dac.and_then(|dac| dac.text_of("baselabel")).and_then(|label| label.split_once(':'));
        let number = |text: &str| text.trim_start_matches('+').parse().ok();
        Ok(label.and_then(|(user, group)| Some((number(user)?, number(group)?))))
    }

    /// The machine's name.
    ///
    /// # Errors
    /// Its description cannot be understood.
    pub fn name(&self) -> Result<String, CaptureError> {
        Ok(self.description()?.0.child("name").map(|name| name.text.clone()).unwrap_or_default())
    }

    /// Its description as libvirt will be told it, and what it has no more.
    ///
    /// # Errors
    /// Its description cannot be understood.
    pub fn written(&self) -> Result<(String, Lacking), CaptureError> {
        let (element, lacking) = self.description()?;
        Ok((element.written(), lacking))
    }

    fn description(&self) -> Result<(Element, Lacking), CaptureError> {
        let problem = |problem| CaptureError::Xml { what: "the recovered machine".into(), problem };
        let mut element = Element::parse(&self.restored.xml).map_err(problem)?;
        let disks = self.restored.change(&mut element);
        let lacking = self.sanitise(&mut element, disks);
        Ok((element, lacking))
    }

    /// Finds the machine that an earlier run defined. Changes nothing.
    ///
    /// # Errors
    /// There is another one of its name or id; what virsh said.
    pub fn find(&self, virsh: &Virsh) -> Result<Option<Recovering>, CaptureError> {
        let name = self.name()?;
        match Machine::read(virsh, &name) {
            Ok(there) if self.is_on_our_disks(&there) => {
                Ok(Some(self.recovering(virsh, there.name, there.uuid)?))
            }
            Err(CaptureError::NoMachine { .. }) => {
                let (element, _) = self.description()?;
                let uuid = element.text_of("uuid").unwrap_or_default();
                if uuid.is_empty() { Ok(None) } else { Restored::refuse_existing(virsh, uuid).map(|()| None) }
            }
            Ok(there) => Err(CaptureError::Unfit(format!(
                "there is a machine {} ({}) already, with other disks, and it is left as it is; recover under another name with \
                 {MachineName}, or undefine that one first",
                there.name, there.uuid
            ))),
            Err(error) => Err(error),
        }
    }

    /// A device is ours only where an earlier run was about to switch to it: before, another machine may have it.
    fn is_on_our_disks(&self, there: &Machine) -> bool {
        let has = |(target, path): (&String, &PathBuf)| {
            let is_one = |disk: &MachineDisk| {
                disk.path == *path || (disk.target == *target && self.was_switched(target, &disk.path))
            };
            there.disks.iter().any(is_one)
        };
        let disks = &self.restored.disks;
        !disks.is_empty() && disks.iter().all(|(target, path, _)| has((target, path)))
    }

    /// Whether this may be what an earlier run switched a disk to.
    fn was_switched(&self, target: &str, path: &Path) -> bool {
        self.switched
            .iter()
            .any(|(of, device)| of == target && (device == path || is_same_device(device, path)))
    }

    /// Defines the machine.
    ///
    /// # Errors
    /// There is such a machine; what libvirt says.
    pub fn define(&self, virsh: &Virsh, folder: &Path) -> Result<Recovering, CaptureError> {
        let (element, _) = self.description()?;
        define_text(virsh, folder, &element.written())?;
        let there = Machine::read(virsh, &self.name()?)?;
        self.recovering(virsh, there.name, there.uuid)
    }

    fn recovering(&self, virsh: &Virsh, name: String, uuid: String) -> Result<Recovering, CaptureError> {
        let (virsh, recovered) = (virsh.clone(), self.clone());
        Ok(Recovering { virsh, recovered, name, uuid, stops: false, resumed: 0, stands_since: None })
    }

    /// The description with which the machine has its network again, once its disks are whole, at these places; none if it kept
    /// it, or had none.
    ///
    /// # Errors
    /// Its description cannot be understood.
    pub fn with_network(&self, uuid: &str, places: &[DiskPlace]) -> Result<Option<String>, CaptureError> {
        let whole = Self { has_network: true, ..self.clone() };
        let (mut element, _) = whole.description()?;
        if self.has_network || !without_interfaces(&mut element.clone()) {
            return Ok(None);
        }
        for ((target, _, _), place) in self.restored.disks.iter().zip(places) {
            if let Some(disk) = disk_of(&mut element, target) {
                put_on(disk, place)?;
            }
        }
        if element.text_of("uuid").is_none() {
            element.children.insert(0, Element::new("uuid").saying(uuid));
        }
        Ok(Some(element.written()))
    }
}

impl Recovering {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// What it does.
    ///
    /// # Errors
    /// What virsh said.
    pub fn state(&self) -> Result<MachineState, CaptureError> {
        Ok(match self.said_state()?.as_str() {
            // libvirt forgets the reason when a second read fails while the machine is told to go on.
            "paused (I/O error)" | "paused (unknown)" => MachineState::Stands,
            "shut off (crashed)" | "shut off (failed)" => MachineState::Died,
            state if state.starts_with("crashed") => MachineState::Died,
            state if state.starts_with("shut off") => MachineState::Off,
            _ => MachineState::Runs,
        })
    }

    /// libvirt's words for it.
    fn said_state(&self) -> Result<String, CaptureError> {
        let text = self.virsh.call(&["domstate", "--reason", "--domain", &self.uuid])?;
        Ok(text.trim().to_owned())
    }

    /// Whether it stands still, whoever told it to.
    fn is_paused(&self) -> Result<bool, CaptureError> {
        Ok(self.said_state()?.starts_with("paused"))
    }

    /// Starts it, each disk at its place and on its export if it needs that, whatever its description said: a disk that is not
    /// whole would be zeros without it.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn start(&mut self, folder: &Path, places: &[DiskPlace]) -> Result<(), CaptureError> {
        self.redefine(folder, places)?;
        (self.resumed, self.stands_since) = (0, None);
        self.virsh.call(&["start", "--domain", &self.uuid]).map(drop)
    }

    /// Says whether the agent in the guest answers, as often as it is asked.
    pub fn agent(&self) -> Arc<dyn Fn() -> bool + Send + Sync> {
        let agent = Agent::Virsh(self.virsh.clone(), self.uuid.clone());
        Arc::new(move || agent.version().is_ok())
    }

    /// Whether it has a network, as it is defined.
    ///
    /// # Errors
    /// What virsh said.
    pub fn has_network(&self) -> Result<bool, CaptureError> {
        Ok(without_interfaces(&mut self.defined()?))
    }

    /// Its description as it is defined, with what is secret in it.
    fn defined(&self) -> Result<Element, CaptureError> {
        let arguments = ["dumpxml", "--inactive", "--security-info", "--domain", &self.uuid];
        Ok(self.virsh.xml(&self.name, &arguments)?.0)
    }

    /// Its description as it runs.
    fn live(&self) -> Result<Element, CaptureError> {
        Ok(self.virsh.xml(&self.name, &["dumpxml", "--domain", &self.uuid])?.0)
    }

    /// Whether a disk is defined to be on a device.
    ///
    /// # Errors
    /// What virsh said.
    pub fn is_defined_on(&self, target: &str, device: &Path) -> Result<bool, CaptureError> {
        self.is_at(&mut self.defined()?, target, device)
    }

    /// Whether a disk of the machine that runs is on a device.
    ///
    /// # Errors
    /// What virsh said.
    pub fn runs_on(&self, target: &str, device: &Path) -> Result<bool, CaptureError> {
        self.is_at(&mut self.live()?, target, device)
    }

    fn is_at(&self, element: &mut Element, target: &str, device: &Path) -> Result<bool, CaptureError> {
        let disk = disk_of(element, target).ok_or_else(|| {
            CaptureError::Unfit(format!(
                "{} has no disk {target} any more, as it was recovered with one; define it again",
                self.name
            ))
        })?;
        let at = disk.child("source").and_then(|source| source.attribute("dev")).map(Path::new);
        Ok(at.is_some_and(|at| {
            at == device || is_same_device(at, device) || self.recovered.was_switched(target, at)
        }))
    }
}

#[cfg(test)]
mod tests;
