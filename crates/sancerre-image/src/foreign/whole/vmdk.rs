//! VMDK: sparse files, descriptors, and what these name.

use super::{Needed, Numbers, Parts, Result, SECTOR_BYTES, TABLE_BYTES_MAX, TOO_LARGE, against, failed};
use crate::Disk;
use crate::foreign::ImageError;

const DESCRIPTOR_BYTES_MAX: u64 = 64 << 10;
/// Flag of a VMDK whose grains are compressed: they are shorter than they say, and cut ones do not decode.
const COMPRESSED: u64 = 1 << 16;
/// Entries of a grain table; all writers make them so.
const GRAIN_TABLE_ENTRIES: u64 = 512;
/// Deltas that stand on each other.
const DEPTH_MAX: usize = 32;

/// Behind the grain with the highest place of a sparse extent.
fn sparse(file: &dyn Disk) -> Result<Needed> {
    let file = Numbers(file);
    let (flags, capacity) = (number!(file.u32(8)), number!(file.u64(12)));
    let (grain, entries) = (number!(file.u64(20)), number!(file.u32(44)));
    let directory = number!(file.u64(56));
    if flags & COMPRESSED != 0 {
        return Ok(Ok(0));
    }
    if grain == 0 || entries != GRAIN_TABLE_ENTRIES {
        return Ok(unmeasured!("its grain tables have a form that no known writer makes"));
    }
    let tables = capacity.div_ceil(grain.saturating_mul(entries));
    if tables.saturating_mul(entries).saturating_mul(4) > TABLE_BYTES_MAX {
        return Ok(TOO_LARGE);
    }
    let mut most = 0;
    for table in 0..tables {
        let at = directory.saturating_mul(SECTOR_BYTES).saturating_add(table.saturating_mul(4));
        let place = number!(file.u32(at));
        if place > 0 {
            most = most.max(number!(file.largest(place.saturating_mul(SECTOR_BYTES), entries)));
        }
    }
    // The number 1 says that a grain is zeros.
    let end = most.saturating_add(grain).saturating_mul(SECTOR_BYTES);
    Ok(Ok(if most > 1 { end } else { 0 }))
}

/// A sparse file with its descriptor in it, or a descriptor alone; and what either names.
pub(super) fn look(file: &dyn Disk, parts: &mut dyn Parts, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        return against(file, unmeasured!("too many deltas stand on each other"));
    }
    let (start, is_inside) = match Numbers(file).bytes::<4>(0)? {
        Ok(magic) if &magic == b"COWD" => {
            return against(file, unmeasured!("it is of a kind (COWD) that only ESX makes"));
        }
        Ok(magic) if &magic == b"KDMV" => {
            against(file, sparse(file)?)?;
            // A header that is cut was found just above.
            let number = |at| Ok::<_, ImageError>(Numbers(file).u64(at)?.unwrap_or(0));
            match number(28)?.saturating_mul(SECTOR_BYTES) {
                0 => return Ok(()),
                // QEMU takes one without a capacity for a descriptor, and opens what that names.
                start => (start, number(12)? > 0),
            }
        }
        _ => (0, false),
    };
    for line in descriptor(file, start)?.lines() {
        // The extent in a descriptor that is inside of one is that itself.
        if let Some(extent) = extent(line).filter(|_| !is_inside)
            && let Some(part) = parts.named(file.path(), extent.name)?
        {
            against(&*part, extent.needed(&*part)?)?;
        }
        if let Some(name) = parent(line)
            && let Some(base) = parts.named(file.path(), name)?
        {
            look(&*base, parts, depth.saturating_add(1))?;
        }
    }
    Ok(())
}

fn descriptor(file: &dyn Disk, start: u64) -> Result<String> {
    let length = file.size_bytes().saturating_sub(start).min(DESCRIPTOR_BYTES_MAX);
    let mut buffer = vec![0; usize::try_from(length).unwrap_or_default()];
    if length > 0 {
        file.read_at(start, &mut buffer).map_err(|error| failed(file.path(), error))?;
    }
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    Ok(String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).into_owned())
}

/// A line such as `RW 24576 FLAT "disk-flat.vmdk" 0`.
struct Extent<'a> {
    sectors: u64,
    kind: &'a str,
    name: &'a str,
    first_sector: u64,
}

fn extent(line: &str) -> Option<Extent<'_>> {
    let (head, rest) = line.split_once('"')?;
    let (name, tail) = rest.split_once('"')?;
    let mut words = head.split_whitespace();
    let access = words.next().filter(|word| ["RW", "RDONLY", "NOACCESS"].contains(word))?;
    let (sectors, kind) = (words.next()?.parse().ok()?, words.next()?);
    let first_sector = tail.split_whitespace().next().map_or(Some(0), |word| word.parse().ok())?;
    (!access.is_empty()).then_some(Extent { sectors, kind, name, first_sector })
}

fn parent(line: &str) -> Option<&str> {
    let hint = line.trim().strip_prefix("parentFileNameHint")?.trim_start().strip_prefix('=')?;
    Some(hint.trim().trim_matches('"')).filter(|name| !name.is_empty())
}

impl Extent<'_> {
    fn needed(&self, file: &dyn Disk) -> Result<Needed> {
        match self.kind {
            "FLAT" | "VMFS" => {
                Ok(Ok(self.first_sector.saturating_add(self.sectors).saturating_mul(SECTOR_BYTES)))
            }
            "SPARSE" => sparse(file),
            _ => Ok(unmeasured!("it is of a kind whose length cannot be told")),
        }
    }
}
