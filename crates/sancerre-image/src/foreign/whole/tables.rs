//! Formats of one file: how far their tables reach, and whether they stand on another disk.

use super::{Needed, Numbers, Result, SECTOR_BYTES, TABLE_BYTES_MAX, TOO_LARGE};
use crate::Disk;

/// Without the signature of its format: QEMU says so, in words of its own.
const NOT_ONE: Result<Needed> = Ok(Ok(0));

/// Of a VDI, at 64.
const VDI_SIGNATURE: u64 = 0xbeda_107f;
/// From here on a block of a VDI has no place: it was discarded, or never written.
const VDI_NO_PLACE: u64 = 0xffff_fffe;
/// Of a VHD, at the start of its footer, and its length.
const VHD_COOKIE: &[u8; 8] = b"conectix";
const VHD_FOOTER_BYTES: u64 = 512;
/// Where a footer has the type; another one than these two is differencing.
const VHD_TYPE: u64 = 60;
const VHD_FIXED: u64 = 2;
const VHD_DYNAMIC: u64 = 3;
/// Where a VHDX has its first table of regions, the id of the region of metadata, that of the parameters in it, and how many
/// rows a table has.
const VHDX_REGIONS: u64 = 192 << 10;
const VHDX_METADATA: u128 = 0x6e88_0f05_5f57_feb8_4b9a_4790_8b7c_a206;
const VHDX_PARAMETERS: u128 = 0x6be7_44aa_f033_b6b3_4d43_fa36_caa1_6737;
const VHDX_ROWS_MAX: u64 = 2047;
const VHDX_HAS_PARENT: u64 = 2;

/// Where the data start, and so many blocks; and behind the block with the highest place.
pub(super) fn vdi(file: &dyn Disk) -> Result<Needed> {
    let file = Numbers(file);
    let (map, start, block) = (number!(file.u32(0x154)), number!(file.u32(0x158)), number!(file.u32(0x178)));
    if number!(file.u32(0x40)) != VDI_SIGNATURE {
        return NOT_ONE;
    }
    let (extra, blocks, allocated) =
        (number!(file.u32(0x17c)), number!(file.u32(0x180)), number!(file.u32(0x184)));
    if blocks.saturating_mul(4) > TABLE_BYTES_MAX {
        return Ok(TOO_LARGE);
    }
    let (mut places, mut end) = (0_u64, 0_u64);
    let see = |word| {
        let place = u64::from(u32::from_le_bytes(word));
        if place < VDI_NO_PLACE {
            places = places.saturating_add(1);
            end = end.max(place.saturating_add(1));
        }
    };
    number!(file.each(map, blocks, see));
    if places > end {
        return Ok(unmeasured!("two of its blocks lie at one place"));
    }
    let block = block.saturating_add(extra);
    Ok(Ok(start.saturating_add(block.saturating_mul(end.max(allocated)))))
}

/// Behind the cluster with the highest place.
pub(super) fn parallels(file: &dyn Disk) -> Result<Needed> {
    let file = Numbers(file);
    let magic: [u8; 16] = number!(file.bytes(0));
    let (cluster, entries) = (number!(file.u32(28)), number!(file.u32(32)));
    if entries.saturating_mul(4) > TABLE_BYTES_MAX {
        return Ok(TOO_LARGE);
    }
    // The newer form counts clusters, the older one sectors.
    let unit = if &magic == b"WithouFreSpacExt" { cluster } else { 1 };
    let most = number!(file.largest(64, entries));
    let end = most.saturating_mul(unit).saturating_add(cluster).saturating_mul(SECTOR_BYTES);
    Ok(Ok(if most > 0 { end } else { 0 }))
}

/// Behind the cluster with the highest place, of all tables. An entry of 0 is no cluster, and 1 one of zeros.
pub(super) fn qed(file: &dyn Disk) -> Result<Needed> {
    let file = Numbers(file);
    if &number!(file.bytes::<4>(0)) != b"QED\0" {
        return NOT_ONE;
    }
    let (cluster, clusters) = (number!(file.u32(4)), number!(file.u32(8)));
    let table_bytes = cluster.saturating_mul(clusters);
    let entries = table_bytes / 8;
    if table_bytes > TABLE_BYTES_MAX {
        return Ok(TOO_LARGE);
    }
    let top = number!(file.u64(40));
    let mut tables = Vec::new();
    number!(
        file.each(top, entries, |word| tables.extend(Some(u64::from_le_bytes(word)).filter(|at| *at > 1)))
    );
    if table_bytes.saturating_mul(u64::try_from(tables.len()).unwrap_or(u64::MAX)) > TABLE_BYTES_MAX {
        return Ok(TOO_LARGE);
    }
    let mut end = top.saturating_add(table_bytes);
    for table in tables {
        let see = |word| {
            let place = u64::from_le_bytes(word);
            if place > 1 {
                end = end.max(place.saturating_add(cluster));
            }
        };
        number!(file.each(table, entries, see));
    }
    Ok(Ok(end))
}

/// Behind the block with the highest place of a VHD that grows; one that does not has its footer behind all data. A footer, at the
/// end or as a copy at the start, may say that the image holds only what differs from another disk: QEMU reads zeros for all else.
pub(super) fn vhd(file: &dyn Disk) -> Result<Needed> {
    let last = file.size_bytes().saturating_sub(VHD_FOOTER_BYTES);
    let file = Numbers(file);
    for at in [0, last] {
        let cookie: [u8; 8] = number!(file.bytes(at));
        let kind = number!(file.big_u32(at.saturating_add(VHD_TYPE)));
        if &cookie == VHD_COOKIE && ![VHD_FIXED, VHD_DYNAMIC].contains(&kind) {
            return Ok(Err(
                "it is a differencing VHD, which holds only what differs from another disk, and zeros would be read for all else. Merge \
                 both into a new disk (Hyper-V Manager: Edit Disk, Merge, To a new virtual disk), and back that up",
            ));
        }
    }
    let start: [u8; 8] = number!(file.bytes(0));
    if &start != VHD_COOKIE || number!(file.big_u32(VHD_TYPE)) != VHD_DYNAMIC {
        return Ok(Ok(0));
    }
    let header = number!(file.bytes::<8>(16).map(|read| read.map(u64::from_be_bytes)));
    let table = number!(file.bytes::<8>(header.saturating_add(16)).map(|read| read.map(u64::from_be_bytes)));
    let entries = number!(file.big_u32(header.saturating_add(28)));
    let block = number!(file.big_u32(header.saturating_add(32)));
    if entries.saturating_mul(4) > TABLE_BYTES_MAX {
        return Ok(TOO_LARGE);
    }
    // Before each block lies a bit for each of its sectors.
    let bitmap = block.div_ceil(SECTOR_BYTES * 8).next_multiple_of(SECTOR_BYTES);
    let mut end = 0_u64;
    let see = |word| match u32::from_be_bytes(word) {
        u32::MAX => {}
        sector => {
            end = end.max(
                u64::from(sector).saturating_mul(SECTOR_BYTES).saturating_add(bitmap).saturating_add(block),
            );
        }
    };
    number!(file.each(table, entries, see));
    Ok(Ok(end))
}

/// QEMU compares each place with the file's length, but rounds that up to whole sectors. It refuses a disk that stands on another
/// one (`.avhdx`), without a word why.
pub(super) fn vhdx(file: &dyn Disk) -> Result<Needed> {
    let length_bytes = file.size_bytes().next_multiple_of(SECTOR_BYTES);
    let file = Numbers(file);
    if &number!(file.bytes::<8>(0)) != b"vhdxfile" {
        return NOT_ONE;
    }
    let regions = number!(file.u32(VHDX_REGIONS + 8));
    if regions > VHDX_ROWS_MAX {
        return NOT_ONE;
    }
    let Some(region) = number!(file.row(VHDX_REGIONS + 16, regions, VHDX_METADATA)) else {
        return Ok(Ok(length_bytes));
    };
    let metadata = u64::from_le_bytes(region);
    let items =
        number!(file.bytes::<2>(metadata.saturating_add(10)).map(|read| read.map(u16::from_le_bytes)));
    let Some([place @ .., _, _, _, _]) =
        number!(file.row(metadata.saturating_add(32), u64::from(items), VHDX_PARAMETERS))
    else {
        return Ok(Ok(length_bytes));
    };
    let parameters = metadata.saturating_add(u64::from(u32::from_le_bytes(place)));
    let bits = number!(file.u32(parameters.saturating_add(4)));
    Ok(match bits & VHDX_HAS_PARENT {
        0 => Ok(length_bytes),
        _ => Err(
            "it is a differencing VHDX (.avhdx), which holds only what differs from another disk, and neither QEMU nor sancerre can \
             read it. Delete its checkpoint in Hyper-V, which merges it, or merge both into a new disk (Hyper-V Manager: Edit Disk, \
             Merge, To a new virtual disk), and back that up",
        ),
    })
}
