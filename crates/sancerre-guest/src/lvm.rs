//! LVM: volumes that are put together from stretches of several disks, linear or striped.

mod text;

use std::collections::BTreeMap;

use crate::bytes::{le32, le64, slice, to_u64, to_usize};
use crate::fault::{Fault, Result};
use crate::source::Blocks;
use crate::volume::{Segment, Volume};
use text::{Section, Value};

const LABEL: &[u8] = b"LABELONE";
const AREA: &[u8] = b" LVM2 x[5A%r0N*>";
const SECTOR: u64 = 512;
/// Of the text that describes a group.
const TEXT_BYTES_MAX: u64 = 16 << 20;
const SEGMENTS_MAX: usize = 100_000;

/// A part of a group, found on a volume.
pub(crate) struct Member {
    /// Its identifier.
    id: String,
    volume: Volume,
    /// The text that describes its group; none on members that do not carry it.
    text: Option<Vec<u8>>,
}

/// A volume of a group.
pub(crate) struct Logical {
    /// Group and volume.
    pub(crate) name: String,
    /// Or why it cannot be put together.
    pub(crate) volume: Result<Volume>,
}

/// What a volume is of a group; none when it is none.
pub(crate) fn member(volume: &Volume) -> Result<Option<Member>> {
    for sector in 0..4_u64 {
        let at = sector.saturating_mul(SECTOR);
        let Ok(label) = volume.bytes(at, to_usize(SECTOR)) else { return Ok(None) };
        if slice(&label, 0, 8)? != LABEL || slice(&label, 24, 8)? != b"LVM2 001" {
            continue;
        }
        let header = to_usize(u64::from(le32(&label, 20)?));
        let id = String::from_utf8_lossy(slice(&label, header, 32)?).into_owned();
        let text =
            areas(&label, header.saturating_add(40))?.iter().find_map(|area| describe(volume, *area).ok());
        return Ok(Some(Member { id, volume: volume.clone(), text }));
    }
    Ok(None)
}

/// Where descriptions are: the second of two lists of places, each of which ends with zeros.
fn areas(label: &[u8], mut at: usize) -> Result<Vec<(u64, u64)>> {
    let mut lists = Vec::new();
    for _ in 0..2 {
        let mut list = Vec::new();
        loop {
            let place = (le64(label, at)?, le64(label, at.saturating_add(8))?);
            at = at.saturating_add(16);
            if place.0 == 0 {
                break;
            }
            list.push(place);
        }
        lists.push(list);
    }
    Ok(lists.pop().unwrap_or_default())
}

/// The text in an area, which goes round in it.
fn describe(volume: &Volume, (start, size): (u64, u64)) -> Result<Vec<u8>> {
    let header = volume.bytes(start, to_usize(SECTOR))?;
    if slice(&header, 4, 16)? != AREA {
        return Err(Fault::Corrupt("an area of LVM that is none"));
    }
    let (offset, length) = (le64(&header, 40)?, le64(&header, 48)?);
    if length == 0 || length > TEXT_BYTES_MAX || offset < SECTOR || offset > size {
        return Err(Fault::Corrupt("an area of LVM without a description"));
    }
    let until_end = size.saturating_sub(offset).min(length);
    let mut text = volume.bytes(start.saturating_add(offset), to_usize(until_end))?;
    let rest = length.saturating_sub(until_end);
    text.extend(volume.bytes(start.saturating_add(SECTOR), to_usize(rest))?);
    Ok(text)
}

/// The volumes of all groups whose members are these.
pub(crate) fn volumes(blocks: &Blocks, members: &[Member]) -> Vec<Logical> {
    let mut found: BTreeMap<String, Result<Volume>> = BTreeMap::new();
    for text in members.iter().filter_map(|member| member.text.as_ref()) {
        let Ok(groups) = text::parse(text) else { continue };
        for (group, content) in groups.sections() {
            let Some(logical) = content.section("logical_volumes") else { continue };
            for (name, description) in logical.sections() {
                // What stands below others is no volume for itself.
                if description.words("status").iter().any(|word| word == "VISIBLE") {
                    let name = format!("{group}-{name}");
                    let volume =
                        found.entry(name).or_insert_with(|| build(blocks, members, content, description));
                    // Another member may have the newer description.
                    if volume.is_err() {
                        *volume = build(blocks, members, content, description);
                    }
                }
            }
        }
    }
    found.into_iter().map(|(name, volume)| Logical { name, volume }).collect()
}

fn build(blocks: &Blocks, members: &[Member], group: &Section, logical: &Section) -> Result<Volume> {
    const ODD: Fault = Fault::Corrupt("a description of LVM that makes no sense");
    let extent = group.number("extent_size").ok_or(ODD)?.saturating_mul(SECTOR);
    let mut segments = Vec::new();
    let mut descriptions: Vec<&Section> = logical
        .sections()
        .filter(|(name, _)| name.starts_with("segment"))
        .map(|(_, section)| section)
        .collect();
    descriptions.sort_by_key(|section| section.number("start_extent"));
    for description in descriptions {
        let kind = description.words("type").first().cloned().unwrap_or_default();
        if kind != "striped" {
            return Err(Fault::Unsupported(format!(
                "a volume of LVM of the type {kind}; linear and striped ones are read here"
            )));
        }
        let start = description.number("start_extent").ok_or(ODD)?.saturating_mul(extent);
        let length = description.number("extent_count").ok_or(ODD)?.saturating_mul(extent);
        let stripe_bytes = match description.number("stripe_size") {
            Some(sectors) if sectors > 0 => sectors.saturating_mul(SECTOR),
            _ => length,
        };
        let expected = segments.last().map_or(0, |last: &Segment| last.range.end);
        let end = start.checked_add(length).filter(|end| *end > start).ok_or(ODD)?;
        if start != expected || segments.len() >= SEGMENTS_MAX {
            return Err(ODD);
        }
        add(
            members,
            group,
            description,
            extent,
            Segment { range: start..end, stripes: Vec::new(), stripe_bytes },
            &mut segments,
        )?;
    }
    if segments.is_empty() {
        return Err(ODD);
    }
    Ok(Volume::of_segments(blocks.clone(), segments))
}

/// Adds a segment with the places of its stripes.
fn add(
    members: &[Member],
    group: &Section,
    description: &Section,
    extent: u64,
    mut segment: Segment,
    segments: &mut Vec<Segment>,
) -> Result<()> {
    const ODD: Fault = Fault::Corrupt("a description of LVM that makes no sense");
    let stripes = description.list("stripes").ok_or(ODD)?;
    let (pairs, rest) = stripes.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return Err(ODD);
    }
    let length = segment.range.end.saturating_sub(segment.range.start);
    let share = length / to_u64(pairs.len()).max(1);
    for pair in pairs {
        let [Value::Word(name), Value::Number(first)] = pair else { return Err(ODD) };
        let physical = group.section("physical_volumes").and_then(|all| all.section(name)).ok_or(ODD)?;
        let id = physical.words("id").first().map(|id| id.replace('-', "")).unwrap_or_default();
        let begin = physical.number("pe_start").ok_or(ODD)?.saturating_mul(SECTOR);
        let member = members.iter().find(|member| member.id == id);
        let member = member.ok_or_else(|| {
            Fault::Unsupported("a part of it is on a disk that is not in the snapshot".to_owned())
        })?;
        let start = begin.saturating_add(first.saturating_mul(extent));
        let (disk, offset, more) = member.volume.place(start)?;
        if more < share {
            return Err(Fault::Corrupt("a volume of LVM that is longer than its disks"));
        }
        segment.stripes.push((disk, offset));
    }
    segments.push(segment);
    Ok(())
}
