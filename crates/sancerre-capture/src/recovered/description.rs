//! The description of a machine whose disks stand on exports, without what leads out of this host or belongs to another.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sancerre_boot::{BlockDevice, DiskPlace};

use super::{Recovered, Recovering};
use crate::define::{define_text, put};
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
    /// Defines the machine again, each disk at its place, on its export if it needs that.
    pub(super) fn redefine(&mut self, folder: &Path, places: &[DiskPlace]) -> Result<(), CaptureError> {
        let told = self.told(places, false)?;
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
        self.stops = places.iter().any(needs_export) && !waits(&self.defined()?);
        if self.stops {
            let told = self.told(places, true)?;
            define_text(&self.virsh, folder, &told.written())?;
        }
        Ok(())
    }

    /// Its description of now, with its disks at their places. With `stops` the guest is stopped where it reads what is not there,
    /// in place of being told of an error.
    fn told(&self, places: &[DiskPlace], stops: bool) -> Result<Element, CaptureError> {
        let problem = |problem| CaptureError::Xml { what: self.name.clone(), problem };
        let before = Element::parse(&self.recovered.restored.xml).map_err(problem)?;
        let mut element = self.defined()?;
        for ((target, _, _), place) in self.recovered.restored.disks.iter().zip(places) {
            let Some(disk) = disk_of(&mut element, target) else { continue };
            put_on(disk, place)?;
            let needs = needs_export(place);
            if needs {
                set_backing(disk, Some(export(&self.recovered.exports, target)));
            }
            for driver in disk.children.iter_mut().filter(|child| child.name == "driver") {
                driver.attributes.retain(|(name, _)| !ON_ERROR.contains(&name.as_str()));
                driver.attributes.extend(match needs && stops {
                    true => ON_ERROR.map(|name| (name.to_owned(), "stop".to_owned())).to_vec(),
                    false => policies(&before, target),
                });
            }
        }
        Ok(element)
    }
}

fn needs_export(place: &DiskPlace) -> bool {
    matches!(place, DiskPlace::Overlay { needs_export: true, .. })
}

/// Puts a disk at its place, without its export. What is there already keeps what somebody said of it since.
pub(super) fn put_on(disk: &mut Element, place: &DiskPlace) -> Result<(), CaptureError> {
    let source = disk.child("source");
    let at = |name: &str| source.and_then(|source| source.attribute(name)).map(Path::new);
    match place {
        DiskPlace::Overlay { path, .. } if at("file") != Some(path.as_path()) => {
            let source = Element::new("source").with("file", &path.to_string_lossy());
            put(disk, "file", source, "qcow2");
        }
        DiskPlace::Device(device) if !at("dev").is_some_and(|at| is_same_device(at, &device.path)) => {
            put(disk, "block", on_device(device)?, "raw");
        }
        DiskPlace::Overlay { .. } | DiskPlace::Device(_) => {}
        DiskPlace::Nowhere => {
            return Err(CaptureError::Unfit(
                "a recovered disk that is kept nowhere; please report it".into(),
            ));
        }
    }
    set_backing(disk, None);
    Ok(())
}

/// A device as libvirt is told of it. It may be larger than the disk, which the guest must not see.
pub(super) fn on_device(device: &BlockDevice) -> Result<Element, CaptureError> {
    let path = &device.path;
    let bytes = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
    let bytes = bytes.map_err(|source| CaptureError::File {
        operation: "look at",
        path: path.clone(),
        source,
        advice: "is its volume active?".into(),
    })?;
    let source = Element::new("source").with("dev", &path.to_string_lossy());
    if bytes == device.size_bytes {
        return Ok(source);
    }
    let slice = Element::new("slice").with("type", "storage").with("offset", "0");
    let slice = slice.with("size", &device.size_bytes.to_string());
    Ok(source.holding(Element::new("slices").holding(slice)))
}

/// Whether two names are of one block device.
pub(super) fn is_same_device(one: &Path, other: &Path) -> bool {
    let number = |path: &Path| {
        let found = path.metadata().ok().filter(|found| found.file_type().is_block_device())?;
        Some(found.rdev())
    };
    number(one).is_some_and(|one| number(other) == Some(one))
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

/// One of them.
pub(super) fn disk_of<'a>(element: &'a mut Element, target: &str) -> Option<&'a mut Element> {
    disks_of(element).find(|(_, of)| of == target).map(|(disk, _)| disk)
}

/// Says what a disk's image stands on. Always: where nothing is said, libvirt looks into the image.
fn set_backing(disk: &mut Element, backing: Option<Element>) {
    disk.children.retain(|child| child.name != "backingStore");
    disk.children.push(backing.unwrap_or_else(|| Element::new("backingStore")));
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
    use crate::machine::Machine;

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
            switched: Vec::new(),
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
        let places = [DiskPlace::Overlay { path: "/new/vda.qcow2".into(), needs_export: false }];
        assert_eq!(recovered(true).with_network("u", &places).unwrap(), None);
        let described = recovered(false).with_network("u", &places).unwrap().unwrap();
        assert!(described.contains("52:54:00:00:00:01") && !described.contains("nbd"), "{described}");
        assert!(described.contains("11111111-2222-3333-4444-555555555555"), "{described}");
    }

    #[test]
    fn what_a_disk_stands_on_is_always_said() {
        let mut element = Element::parse(XML).unwrap();
        let disk = disk_of(&mut element, "vda").unwrap();
        put_on(disk, &DiskPlace::Overlay { path: "/new/vda.qcow2".into(), needs_export: false }).unwrap();
        let text = disk.written();
        assert!(text.contains("<backingStore></backingStore>") && text.contains("type=\"file\""), "{text}");
        assert!(put_on(disk, &DiskPlace::Nowhere).is_err());
    }

    #[test]
    fn a_disk_on_a_device_is_raw_and_no_larger_than_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device");
        std::fs::write(&path, [0; 1024]).unwrap();
        let on = |size_bytes| DiskPlace::Device(BlockDevice { path: path.clone(), size_bytes });
        let mut element = Element::parse(XML).unwrap();
        let disk = disk_of(&mut element, "vda").unwrap();
        put_on(disk, &on(512)).unwrap();
        let text = disk.written();
        let slice = "<slices><slice type=\"storage\" offset=\"0\" size=\"512\"></slice></slices>";
        for there in ["<disk device=\"disk\" type=\"block\">", "cache=\"none\" type=\"raw\"", slice] {
            assert!(text.contains(there), "{there}: {text}");
        }
        put_on(disk, &on(1024)).unwrap();
        assert!(!disk.written().contains("slices"), "{}", disk.written());
        std::fs::remove_file(&path).unwrap();
        assert!(put_on(disk, &on(1024)).is_err());
    }

    #[test]
    fn a_device_is_ours_only_once_it_was_about_to_be_switched_to() {
        let text = "<domain><name>a</name><uuid>11111111-2222-3333-4444-555555555555</uuid><devices>\
            <disk type='block'><source dev='/dev/vg/a'/><target dev='vda'/></disk></devices></domain>";
        let there = Machine::of(text.into()).unwrap();
        let with = |switched: &[(&str, &str)]| {
            let switched = switched.iter().map(|(of, path)| ((*of).to_owned(), path.into())).collect();
            Recovered { switched, ..recovered(false) }.is_on_our_disks(&there)
        };
        assert_eq!(
            [with(&[]), with(&[("vdb", "/dev/vg/a")]), with(&[("vda", "/dev/vg/a")])],
            [false, false, true]
        );
    }
}
