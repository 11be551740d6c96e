//! The description of a machine whose disks stand on exports, without what leads out of this host or belongs to another.

use std::path::{Path, PathBuf};

use sancerre_boot::has_backing;

use super::{Recovered, Recovering};
use crate::define::define_text;
use crate::error::CaptureError;
use crate::xml::Element;

/// How long a read waits for an export that is away, in seconds: a day. Until then somebody starts it again.
const RECONNECT: &str = "86400";
/// What is passed through from a host, or shared with it: another host has none of it.
const OF_A_HOST: [&str; 4] = ["hostdev", "filesystem", "redirdev", "shmem"];
/// What is said of a disk that cannot be written or read. A write may have to read what is around it.
const ON_ERROR: [&str; 2] = ["error_policy", "rerror_policy"];

/// What a recovered machine has no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Targets of disks that are not in the snapshot.
    pub disks: Vec<String>,
    /// Kinds of devices of the host that it was on.
    pub devices: Vec<String>,
    /// Whether it has no network and had one.
    pub network: bool,
}

impl Recovered {
    /// Puts each disk on its export, and leaves out what is not here.
    pub(super) fn sanitise(&self, element: &mut Element, disks: Vec<String>) -> Lacking {
        let mut lacking = Lacking { disks, ..Lacking::default() };
        if self.is_in_software {
            in_software(element);
        }
        lacking.network = !self.has_network && without_interfaces(element);
        for devices in element.children.iter_mut().filter(|child| child.name == "devices") {
            devices.children.retain(|device| {
                let is_of_host = OF_A_HOST.contains(&device.name.as_str());
                if is_of_host {
                    lacking.devices.push(device.name.clone());
                }
                !is_of_host
            });
            // Another host may have it elsewhere: libvirt takes its own.
            let is_here = |child: &Element| child.name != "emulator" || Path::new(child.text.trim()).exists();
            devices.children.retain(is_here);
            if let Some(console) = &self.console {
                log_console(devices, console);
            }
        }
        for (disk, target) in disks_of(element) {
            if self.restored.disks.iter().any(|(ours, _, _)| *ours == target) {
                set_backing(disk, Some(export(&self.exports, &target)));
            }
        }
        lacking
    }
}

impl Recovering {
    /// Defines the machine again, each disk on its export if its image says that it needs one.
    pub(super) fn redefine(&mut self, folder: &Path) -> Result<(), CaptureError> {
        let mut needs = Vec::new();
        for (target, path, _) in &self.recovered.restored.disks {
            if stands_on_something(path)? {
                needs.push(target.clone());
            }
        }
        let told = self.told(&needs, false)?;
        define_text(&self.virsh, folder, &told.written())?;
        // Whether this libvirt can let a read wait, it says by what it remembers.
        let waits = |element: &Element| {
            let mut elements = vec![element];
            while let Some(element) = elements.pop() {
                if element.name == "reconnect" {
                    return true;
                }
                elements.extend(&element.children);
            }
            false
        };
        self.stops = !needs.is_empty() && !waits(&self.defined()?);
        if self.stops {
            let told = self.told(&needs, true)?;
            define_text(&self.virsh, folder, &told.written())?;
        }
        Ok(())
    }

    /// Its description of now, with the disks that need it on their exports. With `stops` the guest is stopped where it reads
    /// what is not there, in place of being told of an error.
    fn told(&self, needs: &[String], stops: bool) -> Result<Element, CaptureError> {
        let problem = |problem| CaptureError::Xml { what: self.name.clone(), problem };
        let before = Element::parse(&self.recovered.restored.xml).map_err(problem)?;
        let mut element = self.defined()?;
        for (disk, target) in disks_of(&mut element) {
            if !self.recovered.restored.disks.iter().any(|(ours, _, _)| *ours == target) {
                continue;
            }
            let needs = needs.contains(&target);
            set_backing(disk, needs.then(|| export(&self.recovered.exports, &target)));
            for driver in disk.children.iter_mut().filter(|child| child.name == "driver") {
                driver.attributes.retain(|(name, _)| !ON_ERROR.contains(&name.as_str()));
                driver.attributes.extend(match needs && stops {
                    true => ON_ERROR.map(|name| (name.to_owned(), "stop".to_owned())).to_vec(),
                    false => policies(&before, &target),
                });
            }
        }
        Ok(element)
    }
}

/// Whether an image stands on another.
pub(super) fn stands_on_something(path: &Path) -> Result<bool, CaptureError> {
    has_backing(path).map_err(|error| CaptureError::Unfit(error.to_string()))
}

/// What was said of a disk before.
fn policies(element: &Element, target: &str) -> Vec<(String, String)> {
    let disks = element.child("devices").into_iter().flat_map(|devices| devices.all("disk"));
    let is_one = |disk: &&Element| disk.child("target").and_then(|one| one.attribute("dev")) == Some(target);
    let driver = disks.into_iter().find(is_one).and_then(|disk| disk.child("driver"));
    let attributes = driver.into_iter().flat_map(|driver| &driver.attributes);
    attributes.filter(|(name, _)| ON_ERROR.contains(&name.as_str())).cloned().collect()
}

/// The disks of a machine, with their targets.
fn disks_of(element: &mut Element) -> impl Iterator<Item = (&mut Element, String)> {
    let devices = element.children.iter_mut().filter(|child| child.name == "devices");
    let disks = devices.flat_map(|devices| devices.children.iter_mut().filter(|one| one.name == "disk"));
    disks.filter_map(|disk| {
        let target = disk.child("target")?.attribute("dev")?.to_owned();
        Some((disk, target))
    })
}

/// Says what a disk's image stands on. Always: where nothing is said, libvirt looks into the image.
fn set_backing(disk: &mut Element, backing: Option<Element>) {
    disk.children.retain(|child| child.name != "backingStore");
    disk.children.push(backing.unwrap_or_else(|| Element::new("backingStore")));
}

/// The images alone: they are whole.
pub(super) fn point_at_images(element: &mut Element, disks: &[(String, PathBuf, &'static str)]) {
    for (disk, target) in disks_of(element) {
        if disks.iter().any(|(ours, _, _)| *ours == target) {
            set_backing(disk, None);
        }
    }
}

/// An export of ours below a disk.
fn export(socket: &Path, target: &str) -> Element {
    let host = Element::new("host").with("transport", "unix").with("socket", &socket.to_string_lossy());
    let source = Element::new("source").with("protocol", "nbd").with("name", target);
    let source = source.holding(host).holding(Element::new("reconnect").with("delay", RECONNECT));
    let backing = Element::new("backingStore").with("type", "network");
    let backing = backing.holding(Element::new("format").with("type", "raw")).holding(source);
    backing.holding(Element::new("backingStore"))
}

/// Takes the network away; whether there was one.
pub(super) fn without_interfaces(element: &mut Element) -> bool {
    let mut had = false;
    for devices in element.children.iter_mut().filter(|child| child.name == "devices") {
        let before = devices.children.len();
        devices.children.retain(|device| device.name != "interface");
        had |= devices.children.len() != before;
    }
    had
}

/// A processor that needs nothing of this host's.
fn in_software(element: &mut Element) {
    for (name, value) in &mut element.attributes {
        if name == "type" {
            "qemu".clone_into(value);
        }
    }
    let of_hardware = |child: &Element| {
        child.name == "cpu" && matches!(child.attribute("mode"), Some("host-passthrough" | "host-model"))
    };
    if element.children.iter().any(of_hardware) {
        element.children.retain(|child| child.name != "cpu");
        element.children.push(Element::new("cpu").with("mode", "maximum"));
    }
}

/// The first serial console is written to a file besides.
fn log_console(devices: &mut Element, path: &Path) {
    if let Some(serial) = devices.children.iter_mut().find(|device| device.name == "serial") {
        serial.children.retain(|child| child.name != "log");
        let log = Element::new("log").with("file", &path.to_string_lossy()).with("append", "on");
        serial.children.push(log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::define::Restored;

    const XML: &str = "<domain type='kvm'><name>a</name><uuid>11111111-2222-3333-4444-555555555555</uuid>\
        <cpu mode='host-passthrough'/><devices><emulator>/nowhere/qemu</emulator>\
        <interface type='bridge'><mac address='52:54:00:00:00:01'/></interface><hostdev mode='subsystem'/>\
        <serial type='pty'/>\
        <disk type='block' device='disk'><driver name='qemu' type='raw' cache='none'/><source dev='/dev/x'/><target dev='vda'/></disk>\
        <disk type='file' device='disk'><source file='/y'/><target dev='vdb'/></disk></devices></domain>";

    fn recovered(has_network: bool) -> Recovered {
        let disks = vec![("vda".into(), "/new/vda.qcow2".into(), "qcow2")];
        Recovered {
            restored: Restored { xml: XML.into(), name: None, disks, nvram: None },
            exports: "/new/export.sock".into(),
            has_network,
            is_in_software: true,
            console: Some("/new/console.log".into()),
        }
    }

    #[test]
    fn it_stands_on_its_exports_and_nothing_leads_out() {
        let (xml, lacking) = recovered(false).written().unwrap();
        let network = Lacking { disks: vec!["vdb".into()], devices: vec!["hostdev".into()], network: true };
        assert_eq!(lacking, network);
        for there in [
            "<domain type=\"qemu\">",
            "<cpu mode=\"maximum\">",
            "file=\"/new/vda.qcow2\"",
            "<source protocol=\"nbd\" name=\"vda\"><host transport=\"unix\" socket=\"/new/export.sock\">",
            "<reconnect delay=\"86400\">",
            "cache=\"none\"",
            "<log file=\"/new/console.log\" append=\"on\">",
        ] {
            assert!(xml.contains(there), "{there}: {xml}");
        }
        for gone in ["interface", "hostdev", "emulator", "/dev/x", "vdb"] {
            assert!(!xml.contains(gone), "{gone}: {xml}");
        }
    }

    #[test]
    fn its_network_is_kept_if_asked_and_described_otherwise() {
        let (xml, lacking) = recovered(true).written().unwrap();
        assert!(xml.contains("52:54:00:00:00:01") && !lacking.network, "{xml}");
        assert_eq!(recovered(true).with_network("u").unwrap(), None);
        let described = recovered(false).with_network("u").unwrap().unwrap();
        assert!(described.contains("52:54:00:00:00:01") && !described.contains("nbd"), "{described}");
        assert!(described.contains("11111111-2222-3333-4444-555555555555"), "{described}");
    }

    #[test]
    fn what_a_disk_stands_on_is_always_said() {
        let mut element = Element::parse(XML).unwrap();
        point_at_images(&mut element, &[("vda".into(), "/new/vda.qcow2".into(), "qcow2")]);
        let disks: Vec<bool> =
            disks_of(&mut element).map(|(disk, _)| disk.child("backingStore").is_some()).collect();
        assert_eq!(disks, [true, false]);
    }
}
