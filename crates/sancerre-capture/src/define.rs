//! A machine that was restored, defined again: its description, with its disks where they are now.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::id;

use sancerre_advice::Setting::MachineName;

use crate::error::CaptureError;
use crate::machine::Machine;
use crate::virsh::Virsh;
use crate::xml::Element;

/// A machine to be defined.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Its description, as it was saved.
    pub xml: String,
    /// Another name: then it is another machine, with another id and other addresses, and may run beside the first.
    pub name: Option<String>,
    /// Its disks: target, file, format.
    pub disks: Vec<(String, PathBuf, &'static str)>,
    /// Its firmware's settings.
    pub nvram: Option<PathBuf>,
}

/// What was defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defined {
    /// Its name.
    pub name: String,
    /// Targets of disks that it had and has no more, for they are not in the snapshot.
    pub without: Vec<String>,
}

impl Restored {
    /// Fails if there is a machine of this name or id already.
    ///
    /// # Errors
    /// [`CaptureError::Unfit`] then.
    pub fn refuse_existing(virsh: &Virsh, name: &str) -> Result<(), CaptureError> {
        match Machine::read(virsh, name) {
            Ok(there) => Err(CaptureError::Unfit(format!(
                "there is a machine {} ({}) already, which is left as it is; give the restored one another name with {MachineName}, or \
                 undefine that one first",
                there.name, there.uuid
            ))),
            Err(CaptureError::NoMachine { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Defines it, and starts it if asked to. Nothing that is there is replaced.
    ///
    /// # Errors
    /// There is such a machine; what libvirt says.
    pub fn define(&self, virsh: &Virsh, folder: &Path, start: bool) -> Result<Defined, CaptureError> {
        let problem = |problem| CaptureError::Xml { what: "the restored machine".into(), problem };
        let mut element = Element::parse(&self.xml).map_err(problem)?;
        let without = self.change(&mut element);
        let name = element.child("name").map(|name| name.text.clone()).unwrap_or_default();
        Self::refuse_existing(virsh, &name)?;
        if let Some(uuid) = element.text_of("uuid") {
            Self::refuse_existing(virsh, uuid)?;
        }
        define_text(virsh, folder, &element.written())?;
        if start {
            virsh.call(&["start", "--domain", &name])?;
        }
        Ok(Defined { name, without })
    }

    /// Returns the disks that are left out.
    pub(crate) fn change(&self, element: &mut Element) -> Vec<String> {
        element.attributes.retain(|(name, _)| name != "id");
        // libvirt gives labels anew.
        element
            .children
            .retain(|child| child.name != "seclabel" || child.attribute("type") != Some("dynamic"));
        if let Some(name) = &self.name {
            element.children.retain(|child| child.name != "uuid");
            set_text(element, "name", name);
        }
        for os in element.children.iter_mut().filter(|child| child.name == "os") {
            if let Some(nvram) = &self.nvram {
                let kept = |child: &Element| child.name == "nvram";
                let template =
                    os.child("nvram").and_then(|nvram| nvram.attribute("template")).map(str::to_owned);
                os.children.retain(|child| !kept(child));
                let new = Element::new("nvram").saying(&nvram.to_string_lossy());
                os.children.push(match template {
                    Some(template) => new.with("template", &template),
                    None => new,
                });
            }
        }
        let mut without = Vec::new();
        for devices in element.children.iter_mut().filter(|child| child.name == "devices") {
            if self.name.is_some() {
                let interfaces = devices.children.iter_mut().filter(|child| child.name == "interface");
                interfaces.for_each(|interface| interface.children.retain(|child| child.name != "mac"));
            }
            devices.children.retain_mut(|device| device.name != "disk" || self.place(device, &mut without));
        }
        without
    }

    /// Puts a disk where it is now; false if it is not restored, and where it was somebody else may write to it.
    fn place(&self, disk: &mut Element, without: &mut Vec<String>) -> bool {
        let target =
            disk.child("target").and_then(|target| target.attribute("dev")).unwrap_or_default().to_owned();
        let device = disk.attribute("device").unwrap_or("disk").to_owned();
        let Some((_, path, format)) = self.disks.iter().find(|(name, _, _)| *name == target) else {
            if matches!(device.as_str(), "cdrom" | "floppy") {
                // The medium may not be here.
                disk.children.retain(|child| child.name != "source" && child.name != "backingStore");
                return true;
            }
            without.push(target);
            return false;
        };
        put(disk, "file", Element::new("source").with("file", &path.to_string_lossy()), format);
        true
    }
}

/// Puts a disk, of one of libvirt's types, onto a source of this format.
pub(crate) fn put(disk: &mut Element, kind: &str, source: Element, format: &str) {
    disk.attributes.retain(|(name, _)| name != "type");
    disk.attributes.push(("type".into(), kind.into()));
    let old = ["source", "backingStore", "mirror", "alias", "transient"];
    disk.children.retain(|child| !old.contains(&child.name.as_str()));
    disk.children.push(source);
    match disk.children.iter_mut().find(|child| child.name == "driver") {
        Some(driver) => {
            driver.attributes.retain(|(name, _)| name != "type");
            driver.attributes.push(("type".into(), format.into()));
            // Of qcow2 alone.
            driver.children.retain(|child| child.name != "metadata_cache" || format == "qcow2");
        }
        None => disk.children.push(Element::new("driver").with("name", "qemu").with("type", format)),
    }
}

/// Tells libvirt of a machine.
pub(crate) fn define_text(virsh: &Virsh, folder: &Path, text: &str) -> Result<(), CaptureError> {
    with_file(folder, text, |path| virsh.call(&["define", "--file", path]))
}

/// Asks libvirt for something that it is told by a file in a folder, which is removed again: there may be passwords in it.
pub(crate) fn with_file(
    folder: &Path,
    text: &str,
    ask: impl FnOnce(&str) -> Result<String, CaptureError>,
) -> Result<(), CaptureError> {
    let path = folder.join(format!(".sancerre-{}.xml", id()));
    let failed = |source| CaptureError::File {
        operation: "write",
        path: path.clone(),
        source,
        advice: "make room there".into(),
    };
    // Of a process that was killed and had this number.
    let _ = std::fs::remove_file(&path);
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)?;
    let asked = ask(&path.display().to_string());
    let _ = std::fs::remove_file(&path);
    asked.map(drop)
}

fn set_text(element: &mut Element, name: &str, text: &str) {
    element.children.retain(|child| child.name != name);
    element.children.insert(0, Element::new(name).saying(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain id='2' type='qemu'><name>a</name><uuid>u</uuid><os><nvram template='/t'>/n</nvram></os>\
        <seclabel type='dynamic' model='dac'/><devices><interface><mac address='1'/></interface>\
        <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/x'/><target dev='vda'/></disk>\
        <disk type='file' device='disk'><source file='/y'/><target dev='vdb'/></disk>\
        <disk type='file' device='cdrom'><source file='/z.iso'/><target dev='sda'/></disk></devices></domain>";

    fn changed(name: Option<&str>) -> (String, Vec<String>) {
        let restored = Restored {
            xml: XML.into(),
            name: name.map(str::to_owned),
            disks: vec![("vda".into(), "/new/vda.qcow2".into(), "qcow2")],
            nvram: Some("/new/nvram".into()),
        };
        let mut element = Element::parse(&restored.xml).unwrap();
        let without = restored.change(&mut element);
        (element.written(), without)
    }

    #[test]
    fn disks_are_where_they_were_restored_to_and_no_other_is_touched() {
        let (xml, without) = changed(None);
        assert_eq!(without, ["vdb"]);
        for there in [
            "/new/vda.qcow2",
            "type=\"qcow2\"",
            "<uuid>u<",
            "<nvram template=\"/t\">/new/nvram<",
            "<mac",
            "cdrom",
        ] {
            assert!(xml.contains(there), "{there}: {xml}");
        }
        for gone in ["/dev/x", "/y", "/z.iso", "seclabel", "id=\"2\""] {
            assert!(!xml.contains(gone), "{gone}: {xml}");
        }
    }

    #[test]
    fn under_another_name_it_is_another_machine() {
        let (xml, _) = changed(Some("b & c"));
        assert!(
            xml.contains("<name>b &amp; c</name>") && !xml.contains("<uuid>") && !xml.contains("<mac"),
            "{xml}"
        );
    }
}
