//! A machine as libvirt describes it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::CaptureError;
use crate::virsh::Virsh;
use crate::xml::Element;

/// What the channel to an agent is called.
const AGENT: &str = "org.qemu.guest_agent.0";

/// What the socket is called at which a recovery serves disks.
pub const EXPORTS: &str = "export.sock";

/// A machine of the host.
#[derive(Debug, Clone)]
pub struct Machine {
    /// As people call it.
    pub name: String,
    /// As libvirt knows it, whatever it is called.
    pub uuid: String,
    /// Whether a process runs it: paused ones too.
    pub is_active: bool,
    /// Its description, with what is secret in it.
    pub xml: String,
    /// All that it has as a disk, taken or not.
    pub disks: Vec<MachineDisk>,
    /// The file in which its firmware keeps settings.
    pub nvram: Option<PathBuf>,
    /// Whether it has a TPM that a process of this host plays; its state is none of its files.
    pub has_tpm: bool,
    /// Whether it has a way to talk to an agent in the guest.
    pub(crate) has_agent: bool,
    /// Whom its process belongs to, where libvirt says that.
    pub(crate) owner: Option<(u32, u32)>,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDisk {
    /// Its name in the machine, such as `vda`.
    pub target: String,
    /// In what form its file is, as libvirt says.
    pub format: String,
    /// Its file or device.
    pub path: PathBuf,
    /// Whether that is a device.
    pub is_device: bool,
    /// The part of it that the machine has; none if it has all.
    pub slice: Option<Range<u64>>,
    /// Whether QEMU can keep a list of changes in it.
    pub(crate) keeps_bitmaps: bool,
    /// Why it is not backed up; none if it is.
    pub skipped: Option<String>,
    /// Whether it holds nothing of the machine's own: an empty drive, a medium.
    pub is_medium: bool,
    /// Whether its image stands on an export: it is being recovered, and is not whole.
    pub(crate) is_on_export: bool,
}

impl Machine {
    /// The machine of this name or id, as it is now.
    ///
    /// # Errors
    /// There is none; libvirt does not answer, or cannot be understood.
    pub fn read(virsh: &Virsh, name: &str) -> Result<Self, CaptureError> {
        // A name may begin with a dash: what follows the option is taken as it is.
        let arguments = ["dumpxml", "--security-info", "--domain", name];
        let text = virsh.call(&arguments).map_err(|error| match error {
            CaptureError::Refused { said, .. } if said.starts_with("failed to get domain") => {
                CaptureError::NoMachine { name: name.to_owned(), uri: virsh.uri().to_owned() }
            }
            error => error,
        })?;
        let mut machine =
            Self::of(text).map_err(|problem| CaptureError::Xml { what: name.to_owned(), problem })?;
        if machine.is_active {
            // What is saved is without what holds for this run alone.
            machine.xml = virsh.call(&[&arguments[..], &["--migratable"]].concat())?;
        }
        Ok(machine)
    }

    /// The machine that a description is of.
    ///
    /// # Errors
    /// Why it cannot be understood, in words.
    pub fn of(xml: String) -> Result<Self, String> {
        Self::parse(&Element::parse(&xml)?, xml).ok_or_else(|| "it has no name or uuid".into())
    }

    fn parse(element: &Element, xml: String) -> Option<Self> {
        let devices = element.child("devices");
        let disks = devices.into_iter().flat_map(|devices| devices.all("disk"));
        Some(Self {
            // A name is what stands there, blanks and all.
            name: element.child("name")?.text.clone(),
            uuid: element.text_of("uuid").filter(|uuid| is_uuid(uuid))?.to_owned(),
            is_active: element.attribute("id").is_some(),
            disks: disks.filter_map(MachineDisk::parse).collect(),
            nvram: nvram(element),
            has_tpm: devices.is_some_and(has_tpm),
            has_agent: devices.is_some_and(has_agent),
            owner: owner(element),
            xml,
        })
    }

    /// The disks that are backed up.
    pub fn taken(&self) -> impl Iterator<Item = &MachineDisk> {
        self.disks.iter().filter(|disk| disk.skipped.is_none())
    }
}

fn has_tpm(devices: &Element) -> bool {
    let mut backends = devices.all("tpm").filter_map(|tpm| tpm.child("backend"));
    backends.any(|backend| backend.attribute("type") == Some("emulator"))
}

fn has_agent(devices: &Element) -> bool {
    let mut targets = devices.all("channel").filter_map(|channel| channel.child("target"));
    targets.any(|target| target.attribute("name") == Some(AGENT))
}

/// It becomes part of paths.
fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// Where it is a file, in either spelling.
fn nvram(element: &Element) -> Option<PathBuf> {
    let nvram = element.child("os")?.child("nvram")?;
    let file = nvram.child("source").and_then(|source| source.attribute("file"));
    let path = file.unwrap_or_else(|| nvram.text.trim());
    path.starts_with('/').then(|| path.into())
}

/// `+64055:+64055`
fn owner(element: &Element) -> Option<(u32, u32)> {
    let label = element.all("seclabel").find(|label| label.attribute("model") == Some("dac"))?;
    let (user, group) = label.text_of("label")?.split_once(':')?;
    let number = |text: &str| text.trim_start_matches('+').parse().ok();
    Some((number(user)?, number(group)?))
}

/// Whether an image stands on an export of a recovery of ours.
fn is_on_export(disk: &Element) -> bool {
    let source = disk.child("backingStore").and_then(|backing| backing.child("source"));
    let socket = source.and_then(|source| source.child("host")?.attribute("socket"));
    socket.is_some_and(|socket| Path::new(socket).file_name() == Some(EXPORTS.as_ref()))
}

/// The part of a source in which a disk lies; none if that is not said in a way that is known.
fn slice(slices: &Element) -> Option<Range<u64>> {
    let slice = slices.child("slice").filter(|slice| slice.attribute("type") == Some("storage"))?;
    let number = |name| slice.attribute(name)?.parse::<u64>().ok();
    let (offset, size) = (number("offset")?, number("size")?);
    Some(offset..offset.checked_add(size)?)
}

impl MachineDisk {
    fn parse(element: &Element) -> Option<Self> {
        let target = element.child("target")?.attribute("dev")?.to_owned();
        let (device, kind) =
            (element.attribute("device").unwrap_or("disk"), element.attribute("type").unwrap_or("file"));
        let source = element.child("source");
        let of = |name| source.and_then(|source| source.attribute(name));
        let format = element.child("driver").and_then(|driver| driver.attribute("type")).unwrap_or("raw");
        let path = of("file").or_else(|| of("dev"));
        let slice = source.and_then(|source| source.child("slices")).map(slice);
        let skipped = match (device, kind, path) {
            ("cdrom" | "floppy", _, _) => Some(format!("it is a {device}")),
            ("disk", "file" | "block", Some(_)) if slice == Some(None) => {
                Some("the slice of its source is not understood".into())
            }
            ("disk", "file" | "block", Some(_)) => None,
            ("disk", "file" | "block", None) => Some("nothing is in it".into()),
            ("disk", "network", _) => {
                let protocol = of("protocol").unwrap_or("another host");
                Some(format!("it comes over the network ({protocol})"))
            }
            ("disk", kind, _) => Some(format!("it is of the type {kind}")),
            (device, _, _) => Some(format!("it is a {device} that is passed through")),
        };
        let is_written = element.child("readonly").is_none() && element.child("transient").is_none();
        Some(Self {
            keeps_bitmaps: format == "qcow2" && is_written,
            is_medium: matches!(device, "cdrom" | "floppy"),
            is_on_export: is_on_export(element),
            path: path.unwrap_or_default().into(),
            is_device: kind == "block",
            slice: slice.flatten(),
            format: format.to_owned(),
            target,
            skipped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(inside: &str) -> Option<Machine> {
        let uuid = "11111111-2222-3333-4444-555555555555";
        let text = format!("<domain id='3'><name>web 01</name><uuid>{uuid}</uuid>{inside}</domain>");
        Machine::parse(&Element::parse(&text).unwrap(), text.clone())
    }

    #[test]
    fn each_disk_is_taken_or_skipped_for_a_reason() {
        let disk = |attributes: &str, inside: &str| format!("<disk {attributes}>{inside}</disk>");
        let disks = [
            disk("type='file' device='disk'", "<driver type='qcow2'/><source file='/a'/><target dev='vda'/>"),
            disk("type='block' device='disk'", "<source dev='/dev/b'/><target dev='vdb'/>"),
            disk("type='file' device='cdrom'", "<target dev='sda'/>"),
            disk("type='network' device='disk'", "<source protocol='rbd' name='x'/><target dev='vdc'/>"),
            disk("type='block' device='lun'", "<source dev='/dev/c'/><target dev='sdb'/>"),
            disk("type='file'", "<driver type='qcow2'/><source file='/d'/><readonly/><target dev='vdd'/>"),
        ];
        let read = machine(&format!("<devices>{}</devices>", disks.concat())).unwrap();
        let taken: Vec<_> = read.taken().map(|disk| (disk.target.as_str(), disk.keeps_bitmaps)).collect();
        assert_eq!(taken, [("vda", true), ("vdb", false), ("vdd", false)]);
        let why: Vec<_> = read.disks.iter().filter_map(|disk| disk.skipped.as_deref()).collect();
        let expected =
            ["it is a cdrom", "it comes over the network (rbd)", "it is a lun that is passed through"];
        assert_eq!(why, expected);
    }

    #[test]
    fn of_a_larger_source_the_machine_has_a_slice() {
        let sliced = |slice: &str| {
            let source = format!("<source dev='/dev/a'><slices>{slice}</slices></source>");
            let disk = format!("<disk type='block' device='disk'>{source}<target dev='vda'/></disk>");
            let disk = machine(&format!("<devices>{disk}</devices>")).unwrap().disks.remove(0);
            (disk.slice, disk.skipped.is_none())
        };
        assert_eq!(sliced("<slice type='storage' offset='512' size='1024'/>"), (Some(512..1536), true));
        for odd in [
            "",
            "<slice type='format' offset='0' size='1'/>",
            "<slice type='storage' offset='0'/>",
            "<slice type='storage' offset='18446744073709551615' size='1'/>",
        ] {
            assert_eq!(sliced(odd), (None, false), "{odd}");
        }
    }

    #[test]
    fn firmware_settings_and_the_owner_are_found() {
        let label = "<seclabel type='dynamic' model='dac'><label>+64055:+107</label></seclabel>";
        let read = machine(&format!("<os><nvram template='/t'>/n.fd</nvram></os>{label}")).unwrap();
        assert_eq!((read.nvram, read.owner), (Some("/n.fd".into()), Some((64055, 107))));
        let read = machine("<os><nvram type='file'><source file='/m.fd'/></nvram></os>").unwrap();
        assert_eq!((read.nvram, read.owner, read.is_active), (Some("/m.fd".into()), None, true));
    }

    #[test]
    fn a_disk_that_is_being_recovered_is_told_from_one_on_a_base_image() {
        let on = |socket: &str| {
            let host = format!("<host transport='unix' socket='{socket}'/>");
            let backing =
                format!("<backingStore type='network'><source protocol='nbd'>{host}</source></backingStore>");
            let disk = format!("<disk type='file'><source file='/a'/>{backing}<target dev='vda'/></disk>");
            machine(&format!("<devices>{disk}</devices>")).unwrap().disks[0].is_on_export
        };
        assert_eq!([on("/srv/web01/export.sock"), on("/run/base.sock")], [true, false]);
    }

    #[test]
    fn an_id_that_could_lead_elsewhere_is_none() {
        let text = "<domain><name>a</name><uuid>../../../../../../../../etc/passwdxx</uuid></domain>";
        assert!(Machine::parse(&Element::parse(text).unwrap(), String::new()).is_none());
    }
}
