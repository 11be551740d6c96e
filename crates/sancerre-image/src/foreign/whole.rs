//! Whether a container is as long as its own tables say. QEMU reads zeros behind the end of a file: an image that was cut
//! short would be saved with zeros for what is missing, and nobody would know. Formats that QEMU checks itself (VHD, VHDX, QED,
//! compressed VMDK) are left to it.
//!
//! Sources: `block/vdi.c`, `block/parallels.c` and `block/vmdk.c` of QEMU; the VMDK specification 1.1 of VMware.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::ImageFormat;

const SECTOR_BYTES: u64 = 512;
/// Longest table that is read; a VMDK of 2 TiB has 128 MiB of grain tables.
const TABLE_BYTES_MAX: u64 = 512 << 20;
const PIECE_BYTES: u64 = 1 << 20;
const DESCRIPTOR_BYTES_MAX: u64 = 64 << 10;
/// Flag of a VMDK whose grains are compressed: they are shorter than they say.
const COMPRESSED: u32 = 1 << 16;

/// How many bytes the image must have at least, by its own tables, and has: the first file that is too short.
///
/// # Errors
/// The kernel's. What is malformed is left to QEMU, which refuses it.
pub(super) fn shorter_than_it_says(
    image: &Path,
    format: ImageFormat,
    parts: Option<&Path>,
) -> io::Result<Option<(String, u64, u64)>> {
    let file = File::open(image)?;
    let name = image.display().to_string();
    let found = match format {
        ImageFormat::Vdi => short(name, &file, vdi(&file)?)?,
        ImageFormat::Parallels => short(name, &file, parallels(&file)?)?,
        ImageFormat::Vmdk => match sparse(&file)? {
            Some(needed) => short(name, &file, Some(needed))?,
            None => extents(&file, parts)?,
        },
        _ => None,
    };
    Ok(found)
}

fn short(name: String, file: &File, needed: Option<u64>) -> io::Result<Option<(String, u64, u64)>> {
    let length = file.metadata()?.len();
    Ok(needed.filter(|needed| *needed > length).map(|needed| (name, needed, length)))
}

fn bytes<const N: usize>(file: &File, offset: u64) -> io::Result<Option<[u8; N]>> {
    let mut buffer = [0; N];
    match file.read_exact_at(&mut buffer, offset) {
        Ok(()) => Ok(Some(buffer)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn u32_at(file: &File, offset: u64) -> io::Result<Option<u64>> {
    Ok(bytes::<4>(file, offset)?.map(|word| u64::from(u32::from_le_bytes(word))))
}

fn u64_at(file: &File, offset: u64) -> io::Result<Option<u64>> {
    Ok(bytes::<8>(file, offset)?.map(u64::from_le_bytes))
}

/// Where the data start, and so many blocks.
fn vdi(file: &File) -> io::Result<Option<u64>> {
    let (start, size) = (u32_at(file, 0x158)?, u32_at(file, 0x178)?);
    let (extra, allocated) = (u32_at(file, 0x17c)?, u32_at(file, 0x184)?);
    let needed = || {
        let block = size?.checked_add(extra?)?;
        start?.checked_add(block.checked_mul(allocated?)?)
    };
    Ok(needed())
}

/// The largest place in a table of little-endian sector numbers, zeros left out; none for a table that is cut itself.
fn largest(file: &File, offset: u64, entries: u64) -> io::Result<Option<u64>> {
    let length = entries.saturating_mul(4);
    if length > TABLE_BYTES_MAX {
        return Ok(None);
    }
    let (mut at, mut most) = (0, 0);
    while at < length {
        let piece = PIECE_BYTES.min(length.saturating_sub(at));
        let mut buffer = vec![0; usize::try_from(piece).unwrap_or(0)];
        match file.read_exact_at(&mut buffer, offset.saturating_add(at)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(u64::MAX)),
            Err(error) => return Err(error),
        }
        let words = buffer.chunks_exact(4).filter_map(|word| word.first_chunk::<4>());
        most = words.map(|word| u64::from(u32::from_le_bytes(*word))).fold(most, u64::max);
        at = at.saturating_add(piece);
    }
    Ok(Some(most))
}

/// Behind the cluster with the highest place.
fn parallels(file: &File) -> io::Result<Option<u64>> {
    let Some(magic) = bytes::<16>(file, 0)? else { return Ok(None) };
    let (Some(cluster), Some(entries)) = (u32_at(file, 28)?, u32_at(file, 32)?) else { return Ok(None) };
    // The newer form counts clusters, the older one sectors.
    let unit = if &magic == b"WithouFreSpacExt" { cluster } else { 1 };
    Ok(largest(file, 64, entries)?
        .filter(|most| *most > 0)
        .map(|most| most.saturating_mul(unit).saturating_add(cluster).saturating_mul(SECTOR_BYTES)))
}

/// Behind the grain with the highest place of a sparse extent; none for another file, or a compressed one.
fn sparse(file: &File) -> io::Result<Option<u64>> {
    if bytes::<4>(file, 0)?.as_ref() != Some(b"KDMV") {
        return Ok(None);
    }
    let (flags, capacity) = (u32_at(file, 8)?, u64_at(file, 12)?);
    let (grain, each, directory) = (u64_at(file, 20)?, u32_at(file, 44)?, u64_at(file, 56)?);
    let (Some(flags), Some(capacity), Some(grain), Some(each), Some(directory)) =
        (flags, capacity, grain, each, directory)
    else {
        return Ok(None);
    };
    if flags & u64::from(COMPRESSED) != 0 || grain == 0 || each == 0 {
        return Ok(Some(0));
    }
    let tables = capacity.div_ceil(grain.saturating_mul(each));
    if tables.saturating_mul(each).saturating_mul(4) > TABLE_BYTES_MAX {
        return Ok(Some(0));
    }
    let mut most = 0;
    for table in 0..tables {
        let at = directory.saturating_mul(SECTOR_BYTES).saturating_add(table.saturating_mul(4));
        let Some(place) = u32_at(file, at)? else { return Ok(Some(u64::MAX)) };
        if place > 0 {
            let found = largest(file, place.saturating_mul(SECTOR_BYTES), each)?;
            most = most.max(found.unwrap_or(0));
        }
    }
    // The number 1 says that a grain is zeros.
    let needed = if most > 1 { most.saturating_add(grain).saturating_mul(SECTOR_BYTES) } else { 0 };
    Ok(Some(needed))
}

/// The files that a descriptor names, in the directory that was allowed.
fn extents(file: &File, parts: Option<&Path>) -> io::Result<Option<(String, u64, u64)>> {
    let length = file.metadata()?.len().min(DESCRIPTOR_BYTES_MAX);
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut buffer, 0)?;
    let text = String::from_utf8_lossy(&buffer);
    for line in text.lines() {
        let Some((sectors, kind, name, offset)) = extent(line) else { continue };
        // Without the directory QEMU opens none of them; a name that leads elsewhere is not ours to follow.
        let Some(path) = parts.filter(|_| !name.contains('/')).map(|folder| folder.join(name)) else {
            continue;
        };
        let Ok(part) = File::open(&path) else { continue };
        let needed = match kind {
            "FLAT" | "VMFS" => Some(offset.saturating_add(sectors).saturating_mul(SECTOR_BYTES)),
            _ => sparse(&part)?,
        };
        if let Some(found) = short(path.display().to_string(), &part, needed)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Sectors, kind, name and first sector of a line such as `RW 24576 FLAT "disk-flat.vmdk" 0`.
fn extent(line: &str) -> Option<(u64, &str, &str, u64)> {
    let (head, rest) = line.split_once('"')?;
    let (name, tail) = rest.split_once('"')?;
    let mut words = head.split_whitespace();
    let (_, sectors, kind) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    Some((sectors, kind, name, tail.trim().parse().unwrap_or(0)))
}
