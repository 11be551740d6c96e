//! The description of a machine (OVF): which files are its disks.

use std::collections::BTreeMap;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, escape};

use super::PackageFault;

const DISKS_MAX: usize = 256;
/// Elements within elements; a description has seven.
const DEPTH_MAX: usize = 64;

/// What a description says of disks.
#[derive(Debug, Default)]
pub(super) struct Description {
    pub(super) disks: Vec<DescribedDisk>,
}

/// A disk and its file.
#[derive(Debug)]
pub(super) struct DescribedDisk {
    pub(super) file: Vec<u8>,
    /// The size of the file.
    pub(super) file_bytes: Option<u64>,
    /// The size of the disk.
    pub(super) capacity_bytes: u64,
}

/// A file, as it is spelled.
struct File {
    name: String,
    size: Option<String>,
    compression: String,
    is_cut: bool,
}

type Attributes = BTreeMap<String, String>;

/// What a description says, as it is spelled.
#[derive(Default)]
struct Elements {
    files: BTreeMap<String, File>,
    disks: Vec<Attributes>,
    machines: usize,
}

impl Description {
    /// No entity but XML's own five is known, no other file is read, and what is nested deeply is refused.
    pub(super) fn read(text: &str) -> Result<Self, PackageFault> {
        let Elements { files, disks, machines } = Elements::read(text)?;
        if machines > 1 {
            return Err(PackageFault::new(format!(
                "it has {machines} machines, and a snapshot is of one; unpack it with tar, and back up their disks one by \
                 one"
            )));
        }
        if disks.is_empty() {
            return Err(PackageFault::new("its description has no disk"));
        }
        let disks = disks.iter().map(|disk| described(disk, &files)).collect::<Result<_, _>>()?;
        Ok(Self { disks })
    }
}

impl Elements {
    fn read(text: &str) -> Result<Self, PackageFault> {
        let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
        let (mut elements, mut depth) = (Self::default(), 0_usize);
        loop {
            let event = reader.read_event().map_err(|error| {
                PackageFault::new(format!(
                    "its description is no XML at byte {}: {error}",
                    reader.error_position()
                ))
            })?;
            match &event {
                Event::Eof if depth > 0 => {
                    return Err(PackageFault::new("its description ends within an element"));
                }
                Event::Eof => return Ok(elements),
                Event::DocType(_) => {
                    return Err(PackageFault::new("its description has a document type, which none needs"));
                }
                Event::End(_) => depth = depth.saturating_sub(1),
                Event::Start(element) => {
                    depth = depth.saturating_add(1);
                    if depth > DEPTH_MAX {
                        return Err(PackageFault::new("its description is nested too deeply"));
                    }
                    elements.take(element)?;
                }
                Event::Empty(element) => elements.take(element)?,
                _ => {}
            }
        }
    }

    fn take(&mut self, element: &BytesStart<'_>) -> Result<(), PackageFault> {
        match element.local_name().as_ref() {
            b"File" => {
                let found = attributes(element)?;
                if self.files.insert(needed(&found, "id")?, file(&found)?).is_some() {
                    return Err(PackageFault::new("its description has two files of one id"));
                }
            }
            b"Disk" if self.disks.len() < DISKS_MAX => self.disks.push(attributes(element)?),
            b"Disk" => return Err(PackageFault::new("its description has more disks than any machine")),
            b"VirtualSystem" => self.machines = self.machines.saturating_add(1),
            _ => {}
        }
        Ok(())
    }
}

fn file(found: &Attributes) -> Result<File, PackageFault> {
    let or_none = |name: &str| found.get(name).cloned();
    Ok(File {
        name: needed(found, "href")?,
        size: or_none("size"),
        compression: or_none("compression").unwrap_or_default(),
        is_cut: found.contains_key("chunkSize"),
    })
}

fn described(disk: &Attributes, files: &BTreeMap<String, File>) -> Result<DescribedDisk, PackageFault> {
    let id = needed(disk, "diskId")?;
    let file = disk.get("fileRef").ok_or_else(|| {
        PackageFault::new(format!(
            "disk {id:?} of its description has no file; remove it there if it is empty"
        ))
    })?;
    let file = files.get(file).ok_or_else(|| {
        PackageFault::new(format!("disk {id:?} is in a file that its description does not name"))
    })?;
    if disk.contains_key("parentRef") {
        return Err(PackageFault::new(format!(
            "disk {id:?} stands on another disk; export it anew without that"
        )));
    }
    if !(file.compression.is_empty() || file.compression == "identity") || file.is_cut {
        return Err(PackageFault::new(format!(
            "{:?} is compressed or cut in pieces; unpack it with tar, and back up the disk in it",
            file.name
        )));
    }
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let bad = |what: &str| {
        PackageFault::new(format!("disk {id:?} of its description has {what} that is no number"))
    };
    let file_bytes =
        file.size.as_deref().map(|size| number(size).ok_or_else(|| bad("a size of its file"))).transpose()?;
    let unit = units(disk.get("capacityAllocationUnits").map_or("byte", |units| units.trim()));
    let capacity = number(&needed(disk, "capacity")?).and_then(|capacity| capacity.checked_mul(unit?));
    let capacity_bytes = capacity.ok_or_else(|| bad("a capacity"))?;
    Ok(DescribedDisk { file: file.name.clone().into_bytes(), file_bytes, capacity_bytes })
}

/// `byte`, or `byte * 2^30` and the like.
fn units(text: &str) -> Option<u64> {
    let Some((unit, power)) = text.split_once('*') else {
        return (text == "byte").then_some(1);
    };
    let exponent = power.trim().strip_prefix("2^").filter(|_| unit.trim() == "byte")?;
    1_u64.checked_shl(exponent.parse().ok()?)
}

/// By their names without prefixes: `ovf:` for all.
fn attributes(element: &BytesStart<'_>) -> Result<Attributes, PackageFault> {
    let mut found = Attributes::new();
    for attribute in element.attributes() {
        let bad = || PackageFault::new("its description has an attribute that is none");
        let attribute = attribute.map_err(|_| bad())?;
        let name =
            std::str::from_utf8(attribute.key.local_name().into_inner()).map_err(|_| bad())?.to_owned();
        let raw = std::str::from_utf8(&attribute.value).map_err(|_| bad())?;
        let value = escape::unescape(raw).map_err(|_| bad())?.into_owned();
        if found.insert(name, value).is_some() {
            return Err(PackageFault::new("its description has an attribute twice"));
        }
    }
    Ok(found)
}

fn needed(found: &Attributes, name: &str) -> Result<String, PackageFault> {
    let value = found.get(name).filter(|value| !value.is_empty()).cloned();
    value.ok_or_else(|| PackageFault::new(format!("its description leaves out the {name} of a file or disk")))
}
