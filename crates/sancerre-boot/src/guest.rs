//! A guest as QEMU's command line: its disks, where its monitor and console are, and nothing that leads out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// How long a read of a disk waits for an export that went away, before the guest is told of an error. A day: until then
/// somebody starts it again, and the guest goes on where it was.
const RECONNECT_SECONDS: u32 = 86_400;
/// How long QEMU tries to reach an export before it starts.
const OPEN_SECONDS: u32 = 60;
/// Bytes that the path of a socket may have.
const SOCKET_BYTES_MAX: usize = 107;

/// How the guest's processor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the kernel's virtualisation.
    Kvm,
    /// In software.
    Tcg,
}

impl Accelerator {
    /// QEMU's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What disks look like to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskBus {
    /// Paravirtual; every Linux of the last fifteen years, Windows with its driver.
    Virtio,
    /// AHCI: whatever starts on a PC.
    Sata,
}

/// One disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDisk {
    /// The name of its export.
    pub export: String,
    /// Where what the guest writes goes.
    pub place: DiskPlace,
}

/// Where what a guest writes to a disk goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskPlace {
    /// Nowhere: it is thrown away when the guest ends.
    Nowhere,
    /// Into an overlay.
    Overlay {
        /// The overlay, a qcow2 image.
        path: PathBuf,
        /// Whether it still needs the export.
        needs_export: bool,
    },
    /// To a block device that has all of the disk.
    Device(BlockDevice),
}

/// A block device that has a disk, or will have it: its bytes as they are, from the first byte on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// The device.
    pub path: PathBuf,
    /// How much of it is the disk: whole sectors, as [`crate::disk_bytes`] has them.
    pub size_bytes: u64,
}

impl BlockDevice {
    /// What QEMU is told of it as disk `number` of a guest. It may be larger than the disk, which the guest must not see.
    ///
    /// Errors: a path that it cannot be told.
    pub fn node(&self, number: usize) -> Result<Value, PlanError> {
        Ok(json!({
            "driver": "raw", "node-name": device(number), "size": self.size_bytes, "discard": "unmap",
            "file": { "driver": "host_device", "filename": text(&self.path)?, "discard": "unmap" },
        }))
    }
}

/// A guest that is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPlan {
    /// What it is called.
    pub name: String,
    /// Its disks; it starts from the first.
    pub disks: Vec<GuestDisk>,
    /// How they look to the guest.
    pub bus: DiskBus,
    /// Its processor.
    pub accelerator: Accelerator,
    /// Its memory, in MiB.
    pub memory_mib: u64,
    /// Its processors.
    pub processors: u32,
    /// The socket of the exports.
    pub exports: PathBuf,
    /// Where its monitor will listen.
    pub monitor: PathBuf,
    /// The file that its serial console is written to.
    pub console: PathBuf,
    /// Where its screen is served by VNC; none for nowhere.
    pub screen: Option<PathBuf>,
    /// Where its agent is talked to; none for nowhere.
    pub agent: Option<PathBuf>,
    /// What else QEMU is told, as it is.
    pub more: Vec<OsString>,
}

/// A guest that QEMU cannot be told of.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// JSON has no other paths.
    #[error("the path {} is not text in UTF-8, which QEMU needs; name another one", .0.display())]
    NotText(PathBuf),
    /// The kernel's limit.
    #[error("the path {} is too long for a socket, which may have {SOCKET_BYTES_MAX} bytes; name a shorter one", .0.display())]
    TooLong(PathBuf),
}

/// The name of a disk's node in QEMU.
pub(crate) fn node(number: usize) -> String {
    format!("disk-{number}")
}

/// The name of the node of the block device that it moves to.
pub(crate) fn device(number: usize) -> String {
    format!("device-{number}")
}

/// The name of the node of its export.
pub(crate) fn export(number: usize) -> String {
    format!("export-{number}")
}

impl GuestPlan {
    /// QEMU's arguments.
    ///
    /// Errors: paths that it cannot be told.
    pub fn arguments(&self) -> Result<Vec<OsString>, PlanError> {
        for socket in [Some(&self.exports), Some(&self.monitor), self.screen.as_ref(), self.agent.as_ref()] {
            socket.map_or(Ok(()), |path| fits(path))?;
        }
        let mut all = Vec::new();
        let mut add = |words: &[String]| all.extend(words.iter().map(OsString::from));
        let machine = format!("q35,accel={}", self.accelerator.word());
        add(&["-name".into(), quoted(&self.name), "-machine".into(), machine]);
        add(&["-cpu".into(), "max".into(), "-m".into(), self.memory_mib.to_string()]);
        add(&["-smp".into(), self.processors.to_string()]);
        // Nothing that nobody asked for: no network, no drives, no windows.
        add(&["-nodefaults".into(), "-nic".into(), "none".into(), "-vga".into(), "std".into()]);
        add(&["-display".into(), self.display()?]);
        let monitor = format!("unix:{},server=on,wait=off", quoted(text(&self.monitor)?));
        add(&["-qmp".into(), monitor]);
        let console = format!("file,id=console,path={},append=on", quoted(text(&self.console)?));
        add(&["-chardev".into(), console, "-serial".into(), "chardev:console".into()]);
        if let Some(agent) = &self.agent {
            let socket = format!("socket,id=agent,path={},server=on,wait=off", quoted(text(agent)?));
            add(&["-chardev".into(), socket, "-device".into(), "virtio-serial".into()]);
            add(&["-device".into(), "virtserialport,chardev=agent,name=org.qemu.guest_agent.0".into()]);
        }
        for (number, disk) in self.disks.iter().enumerate() {
            add(&self.disk(number, disk)?);
        }
        all.extend(self.more.iter().cloned());
        Ok(all)
    }

    fn display(&self) -> Result<String, PlanError> {
        Ok(match &self.screen {
            Some(path) => format!("vnc=unix:{}", quoted(text(path)?)),
            None => "none".into(),
        })
    }

    fn disk(&self, number: usize, disk: &GuestDisk) -> Result<Vec<String>, PlanError> {
        let (node, mut words) = match &disk.place {
            DiskPlace::Nowhere => (node(number), self.thrown_away(number, disk)?),
            DiskPlace::Overlay { path, needs_export } => {
                let export = needs_export.then_some(disk.export.as_str());
                (node(number), self.overlaid(number, export, text(path)?)?)
            }
            DiskPlace::Device(place) => {
                (device(number), vec!["-blockdev".into(), place.node(number)?.to_string()])
            }
        };
        let boot = number.saturating_add(1);
        // What fails to be read is told to the guest; where the storage is full the guest waits for room.
        let common = format!("drive={node},bootindex={boot},rerror=report,werror=enospc");
        let device = match self.bus {
            DiskBus::Virtio => format!("virtio-blk-pci,{common}"),
            DiskBus::Sata => format!("ide-hd,bus=ide.{number},{common}"),
        };
        words.extend(["-device".into(), device]);
        Ok(words)
    }

    /// On its final storage, with the export behind it as a node of its own: only so may it be told how long to wait.
    fn overlaid(&self, number: usize, needed: Option<&str>, overlay: &str) -> Result<Vec<String>, PlanError> {
        let mut words = Vec::new();
        let mut backing = Value::Null;
        if let Some(name) = needed {
            let mut node = self.export(name)?;
            merge(&mut node, json!({ "node-name": export(number), "read-only": true }));
            words.extend(["-blockdev".into(), node.to_string()]);
            backing = Value::from(export(number));
        }
        let top = json!({
            "driver": "qcow2", "node-name": node(number), "backing": backing, "discard": "unmap",
            "file": { "driver": "file", "filename": overlay, "discard": "unmap" },
        });
        words.extend(["-blockdev".into(), top.to_string()]);
        Ok(words)
    }

    fn thrown_away(&self, number: usize, disk: &GuestDisk) -> Result<Vec<String>, PlanError> {
        let export = self.export(&disk.export)?;
        let drive = json!({ "driver": "raw", "file": export });
        let drive =
            format!("if=none,id={},snapshot=on,file={}", node(number), quoted(&format!("json:{drive}")));
        Ok(vec!["-drive".into(), drive])
    }

    fn export(&self, name: &str) -> Result<Value, PlanError> {
        Ok(json!({
            "driver": "nbd", "export": name, "reconnect-delay": RECONNECT_SECONDS, "open-timeout": OPEN_SECONDS,
            "server": { "type": "unix", "path": text(&self.exports)? },
        }))
    }
}

fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}

fn text(path: &Path) -> Result<&str, PlanError> {
    path.to_str().ok_or_else(|| PlanError::NotText(path.to_owned()))
}

fn fits(path: &Path) -> Result<(), PlanError> {
    let is_short = path.as_os_str().len() <= SOCKET_BYTES_MAX;
    if is_short { Ok(()) } else { Err(PlanError::TooLong(path.to_owned())) }
}

/// A value among QEMU's options, in which a comma is written twice.
fn quoted(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> GuestPlan {
        let disk = |export: &str, needs_export| GuestDisk {
            export: export.into(),
            place: DiskPlace::Overlay { path: format!("/srv/web,01/{export}.qcow2").into(), needs_export },
        };
        GuestPlan {
            name: "web,01".into(),
            disks: vec![disk("disk0", true), disk("data", false)],
            bus: DiskBus::Virtio,
            accelerator: Accelerator::Tcg,
            memory_mib: 512,
            processors: 1,
            exports: "/srv/web,01/export.sock".into(),
            monitor: "/srv/web,01/monitor.sock".into(),
            console: "/srv/web,01/console.log".into(),
            screen: None,
            agent: None,
            more: vec!["-nic".into(), "user".into()],
        }
    }

    fn words(plan: &GuestPlan) -> Vec<String> {
        plan.arguments().unwrap().into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn only_a_disk_that_needs_its_export_has_one() {
        let words = words(&plan());
        let nodes: Vec<Value> = words.iter().filter_map(|word| serde_json::from_str(word).ok()).collect();
        let overlays: Vec<_> = nodes.iter().filter(|node| node["driver"] == "qcow2").collect();
        assert_eq!(overlays[0]["backing"], "export-0");
        assert_eq!(overlays[1]["backing"], Value::Null, "whatever stands in the image");
        let export = nodes.iter().find(|node| node["driver"] == "nbd").unwrap();
        assert_eq!((&export["export"], &export["read-only"]), (&json!("disk0"), &json!(true)));
        assert_eq!(export["server"]["path"], "/srv/web,01/export.sock");
        assert_eq!(nodes.iter().filter(|node| node["driver"] == "nbd").count(), 1);
    }

    #[test]
    fn a_disk_on_a_device_is_as_large_as_the_disk_and_knows_no_export() {
        let place = BlockDevice { path: "/dev/vg0/web01".into(), size_bytes: 4096 };
        let disks = vec![GuestDisk { export: "disk0".into(), place: DiskPlace::Device(place) }];
        let words = words(&GuestPlan { disks, ..plan() });
        let nodes: Vec<Value> = words.iter().filter_map(|word| serde_json::from_str(word).ok()).collect();
        let nodes: Vec<&Value> = nodes.iter().filter(|node| node.is_object()).collect();
        assert_eq!(nodes.len(), 1);
        assert_eq!((&nodes[0]["driver"], &nodes[0]["size"]), (&json!("raw"), &json!(4096)));
        assert_eq!(nodes[0]["file"]["filename"], "/dev/vg0/web01");
        assert!(words.iter().any(|word| word.contains("drive=device-0,")), "{words:?}");
    }

    #[test]
    fn what_the_administrator_adds_comes_last_and_nothing_leads_out_before() {
        let words = words(&plan());
        assert_eq!(words[words.len() - 2..], ["-nic", "user"]);
        let nic = words.iter().position(|word| word == "-nic").unwrap();
        assert_eq!(words[nic + 1], "none");
        assert!(words.contains(&"-nodefaults".to_owned()));
        assert!(words.contains(&"unix:/srv/web,,01/monitor.sock,server=on,wait=off".to_owned()));
    }

    #[test]
    fn paths_that_cannot_be_told_are_refused() {
        let long = GuestPlan { monitor: format!("/{}", "x".repeat(107)).into(), ..plan() };
        assert!(matches!(long.arguments(), Err(PlanError::TooLong(_))));
        let odd: OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![b'/', 0xff]);
        let odd = GuestPlan { console: odd.into(), ..plan() };
        assert!(matches!(odd.arguments(), Err(PlanError::NotText(_))));
    }
}
