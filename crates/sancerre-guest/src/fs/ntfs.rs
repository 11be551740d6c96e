//! NTFS. Its log is not replayed, as no reader of it but Windows does; what it says of folders and files is in records
//! that are written whole.

mod attribute;
mod data;
mod folder;
mod lznt1;
mod record;
mod reparse;

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::{EachName, FileSystem, Identity, Piece};
use crate::bytes::{byte, from_utf16, le16, le32, le64, slice, to_u64, to_usize, units};
use crate::fault::{Fault, Result};
use crate::node::{Extra, FileNode, Moment, NodeKind};
use crate::volume::Volume;
use attribute::{Attribute, Body};
use record::{Record, parse};

const MFT: u64 = 0;
const VOLUME: u64 = 3;
const ROOT: u64 = 5;
/// Of a record's number, without how often it was used.
const NUMBER: u64 = 0xffff_ffff_ffff;
const KEPT_RECORDS: usize = 512;
/// A volume with this flag was not unmounted.
const VOLUME_DIRTY: u16 = 1;

const STANDARD_INFORMATION: u32 = 0x10;
const ATTRIBUTE_LIST: u32 = 0x20;
const VOLUME_NAME: u32 = 0x60;
const VOLUME_INFORMATION: u32 = 0x70;
const DATA: u32 = 0x80;
const REPARSE_POINT: u32 = 0xc0;

/// Seconds from 1601, from which Windows counts, to 1970.
const EPOCH_SECONDS: i64 = 11_644_473_600;

struct Ntfs {
    volume: Volume,
    cluster_bytes: u64,
    record_bytes: u64,
    serial: u64,
    /// Where the table of records is: its bytes, and its places.
    table: Rc<Vec<Attribute>>,
    kept: HashMap<u64, Rc<Record>>,
    identity: Option<Identity>,
}

/// None when it is none.
pub(super) fn open(volume: &Volume) -> Result<Option<Box<dyn FileSystem>>> {
    let Ok(boot) = volume.bytes(0, 512) else { return Ok(None) };
    if slice(&boot, 3, 8)? != b"NTFS    " {
        return Ok(None);
    }
    let sector_bytes = u64::from(le16(&boot, 0xb)?);
    let per_cluster = match byte(&boot, 0xd)? {
        count @ 0..=0x80 => u64::from(count),
        shift => 1 << (0_u8.wrapping_sub(shift) & 31),
    };
    let cluster_bytes = sector_bytes.saturating_mul(per_cluster);
    let record_bytes = match byte(&boot, 0x40)?.cast_signed() {
        shift @ i8::MIN..=-1 => 1 << (shift.unsigned_abs() & 31),
        clusters => cluster_bytes.saturating_mul(u64::from(clusters.unsigned_abs())),
    };
    let is_fine = cluster_bytes.is_power_of_two()
        && (512..=2 << 20).contains(&cluster_bytes)
        && record_bytes.is_power_of_two()
        && (512..=64 << 10).contains(&record_bytes);
    if !is_fine {
        return Err(Fault::Corrupt("an NTFS whose numbers do not fit each other"));
    }
    let mut ntfs = Ntfs {
        volume: volume.clone(),
        cluster_bytes,
        record_bytes,
        serial: le64(&boot, 0x48)?,
        table: Rc::new(Vec::new()),
        kept: HashMap::new(),
        identity: None,
    };
    ntfs.find_table(le64(&boot, 0x30)?)?;
    ntfs.identity = Some(ntfs.identify()?);
    Ok(Some(Box::new(ntfs)))
}

impl Ntfs {
    /// The table of records is a file in itself, whose first record may say that the rest of its places is in others.
    fn find_table(&mut self, cluster: u64) -> Result<()> {
        let offset =
            cluster.checked_mul(self.cluster_bytes).ok_or(Fault::Corrupt("a table behind the end"))?;
        let bytes = self.volume.bytes(offset, to_usize(self.record_bytes))?;
        let record = parse(MFT, bytes)?;
        let own = record.attributes.iter().filter(|one| one.is(DATA, &[])).cloned();
        self.table = Rc::new(own.collect());
        if record.attributes.iter().any(|one| one.kind == ATTRIBUTE_LIST) {
            let whole = self.record(MFT)?;
            self.table = Rc::new(whole.attributes.iter().filter(|one| one.is(DATA, &[])).cloned().collect());
            self.kept.clear();
        }
        Ok(())
    }

    /// One record as it lies in the table, without what others hold of it.
    fn bare(&self, number: u64) -> Result<Record> {
        let offset =
            number.checked_mul(self.record_bytes).ok_or(Fault::Corrupt("a record that there is not"))?;
        let mut bytes = vec![0; to_usize(self.record_bytes)];
        data::read(self, &self.table, offset, &mut bytes)?;
        parse(number, bytes)
    }

    /// A file's record with all its attributes, by its number.
    fn record(&mut self, number: u64) -> Result<Rc<Record>> {
        if let Some(record) = self.kept.get(&number) {
            return Ok(Rc::clone(record));
        }
        let mut record = self.bare(number)?;
        if record.base != 0 {
            return Err(Fault::Corrupt("a record that is part of another"));
        }
        if let Some(list) = record.attributes.iter().find(|one| one.kind == ATTRIBUTE_LIST).cloned() {
            self.gather(&mut record, &list)?;
        }
        let record = Rc::new(record);
        if self.kept.len() >= KEPT_RECORDS {
            self.kept.clear();
        }
        self.kept.insert(number, Rc::clone(&record));
        Ok(record)
    }

    /// Adds the attributes that are in other records.
    fn gather(&mut self, record: &mut Record, list: &Attribute) -> Result<()> {
        let bytes = self.whole(std::slice::from_ref(list))?;
        let mut others = Vec::new();
        let mut at = 0_usize;
        while at.saturating_add(0x1a) <= bytes.len() {
            let length = usize::from(le16(&bytes, at.saturating_add(4))?);
            if length < 0x1a {
                break;
            }
            let other = le64(&bytes, at.saturating_add(0x10))? & NUMBER;
            if other != record.number && !others.contains(&other) {
                others.push(other);
            }
            at = at.saturating_add(length);
        }
        for other in others {
            let part = self.bare(other)?;
            if part.base & NUMBER == record.number {
                record.attributes.extend(part.attributes);
            }
        }
        // In the order of their places, as the parts of one stream follow each other.
        record.attributes.sort_by_key(|one| one.first_cluster());
        Ok(())
    }

    /// A file by its number and how often that was used: an entry that outlived its file must not lead to another.
    fn file(&mut self, id: u64) -> Result<Rc<Record>> {
        let record = self.record(id & NUMBER)?;
        if !record.is_used || (id != ROOT && u64::from(record.uses) != id >> 48) {
            return Err(Fault::Corrupt("an entry of a file that is gone"));
        }
        Ok(record)
    }

    /// The bytes of a structure, which is no longer than a few mebibytes.
    fn whole(&self, parts: &[Attribute]) -> Result<Vec<u8>> {
        const MOST: u64 = 64 << 20;
        let size = attribute::size_bytes(parts);
        if size > MOST {
            return Err(Fault::Corrupt("a structure that is longer than it can be"));
        }
        let mut bytes = vec![0; to_usize(size)];
        data::read(self, parts, 0, &mut bytes)?;
        Ok(bytes)
    }

    fn identify(&mut self) -> Result<Identity> {
        let record = self.record(VOLUME)?;
        let resident = |kind: u32| {
            record.attributes.iter().find(|one| one.kind == kind).and_then(|one| match &one.body {
                Body::Here(bytes) => Some(bytes.as_slice()),
                Body::Elsewhere { .. } => None,
            })
        };
        let label = resident(VOLUME_NAME).map(|bytes| from_utf16(units(bytes))).unwrap_or_default();
        let is_dirty = resident(VOLUME_INFORMATION)
            .and_then(|bytes| le16(bytes, 10).ok())
            .is_some_and(|flags| flags & VOLUME_DIRTY != 0);
        let note =
            "it was in use: what its guest had not written yet is not in it, and its log is not replayed";
        let notes = is_dirty.then(|| note.to_owned()).into_iter().collect();
        Ok(Identity { kind: "NTFS", label, uuid: format!("{:016X}", self.serial), notes })
    }

    fn stream_parts(&self, record: &Record, stream: &[u8]) -> Result<Vec<Attribute>> {
        let parts: Vec<Attribute> =
            record.attributes.iter().filter(|one| one.is(DATA, stream)).cloned().collect();
        if parts.is_empty() { Err(Fault::Missing) } else { Ok(parts) }
    }

    fn node_of(&self, id: u64, record: &Record) -> Result<FileNode> {
        let info = record.attributes.iter().find(|one| one.kind == STANDARD_INFORMATION);
        let info = info.and_then(|one| match &one.body {
            Body::Here(bytes) => Some(bytes.as_slice()),
            Body::Elsewhere { .. } => None,
        });
        let modified = info.and_then(|bytes| le64(bytes, 8).ok()).map(moment);
        let data: Vec<Attribute> =
            record.attributes.iter().filter(|one| one.is(DATA, &[])).cloned().collect();
        let size_bytes = attribute::size_bytes(&data);
        let is_system = info.and_then(|bytes| le32(bytes, 0x20).ok()).is_some_and(|flags| flags & 4 != 0);
        let kind = match (record.is_folder, reparse::is_link(record)) {
            (_, true) => NodeKind::Link,
            (true, false) => NodeKind::Directory,
            (false, false) if is_system && self.is_interix_link(&data, size_bytes) => NodeKind::Link,
            (false, false) => NodeKind::File,
        };
        let size_bytes = match kind {
            NodeKind::Directory => 0,
            // What stands before the target, and its letters are two bytes each.
            NodeKind::Link => size_bytes.saturating_sub(to_u64(reparse::INTERIX.len())) / 2,
            _ => size_bytes,
        };
        let links = u32::from(record.names.max(1));
        Ok(FileNode { id, kind, size_bytes, mode: None, owner: None, modified, links })
    }

    /// How ntfs-3g and Interix write symbolic links.
    fn is_interix_link(&self, data: &[Attribute], size_bytes: u64) -> bool {
        let mut head = [0; reparse::INTERIX.len()];
        (10..=super::LINK_BYTES_MAX).contains(&size_bytes)
            && data::read(self, data, 0, &mut head).is_ok()
            && head == *reparse::INTERIX
    }
}

fn moment(stored: u64) -> Moment {
    let seconds = i64::try_from(stored / 10_000_000).unwrap_or(i64::MAX).saturating_sub(EPOCH_SECONDS);
    let nanoseconds = u32::try_from(stored % 10_000_000).unwrap_or(0).saturating_mul(100);
    Moment { seconds, nanoseconds }
}

impl FileSystem for Ntfs {
    fn identity(&self) -> Identity {
        self.identity.clone().unwrap_or(Identity {
            kind: "NTFS",
            label: Vec::new(),
            uuid: String::new(),
            notes: Vec::new(),
        })
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn node(&mut self, id: u64) -> Result<FileNode> {
        let record = self.file(id)?;
        self.node_of(id, &record)
    }

    fn list(&mut self, id: u64, each: EachName<'_>) -> Result<()> {
        let record = self.file(id)?;
        folder::list(self, &record, each)
    }

    fn pieces(&mut self, id: u64, stream: &[u8], range: Range<u64>) -> Result<Vec<Piece>> {
        let record = self.file(id)?;
        reparse::refuse_odd(&record)?;
        data::pieces(self, &self.stream_parts(&record, stream)?, range)
    }

    fn read(&mut self, id: u64, stream: &[u8], offset: u64, buffer: &mut [u8]) -> Result<()> {
        let record = self.file(id)?;
        reparse::refuse_odd(&record)?;
        data::read(self, &self.stream_parts(&record, stream)?, offset, buffer)
    }

    fn link(&mut self, id: u64) -> Result<Vec<u8>> {
        let record = self.file(id)?;
        if let Some(point) = record.attributes.iter().find(|one| one.kind == REPARSE_POINT) {
            let bytes = self.whole(std::slice::from_ref(point))?;
            return reparse::target(&bytes);
        }
        let bytes = self.whole(&self.stream_parts(&record, &[])?)?;
        let target = bytes.strip_prefix(reparse::INTERIX).ok_or(Fault::Corrupt("a link that is none"))?;
        Ok(from_utf16(units(target)))
    }

    fn extras(&mut self, id: u64) -> Result<Vec<Extra>> {
        let record = self.file(id)?;
        let mut found: Vec<Extra> = Vec::new();
        let mut last: Option<&[u8]> = None;
        let mut named: Vec<&Attribute> =
            record.attributes.iter().filter(|one| one.kind == DATA && !one.name.is_empty()).collect();
        named.sort_by(|one, other| one.name.cmp(&other.name));
        for one in &named {
            if last == Some(one.name.as_slice()) {
                continue;
            }
            let parts: Vec<Attribute> =
                named.iter().filter(|other| other.name == one.name).map(|part| (*part).clone()).collect();
            found.push(Extra::Stream { name: one.name.clone(), size_bytes: attribute::size_bytes(&parts) });
            last = Some(&one.name);
        }
        Ok(found)
    }
}
