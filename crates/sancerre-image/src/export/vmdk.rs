//! Stream-optimised VMDK: compressed grains, each behind a marker that says where on the disk it belongs, and the tables
//! behind them. Written once, from the start to the end.

use std::io::Write;

use super::grains::{GRAIN_BYTES, Grain, grains};
use super::{ExportError, Watcher};
use crate::Disk;

const SECTOR_BYTES: u64 = 512;
const SECTOR: usize = 512;
const MAGIC: &[u8; 4] = b"KDMV";
const VERSION: u32 = 3;
/// The test for mangled line ends is valid; grains are compressed; there are markers.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;
const DEFLATE: u16 = 1;
const DESCRIPTOR_SECTORS: u64 = 20;
/// Grains begin here, as in all files of VMware's.
const OVERHEAD_SECTORS: u64 = 128;
const TABLE_ENTRIES: u64 = 512;
const TABLE_LENGTH: usize = 512;
const TABLE_COVERS_BYTES: u64 = TABLE_ENTRIES * GRAIN_BYTES;
/// "Look for the directory in the footer."
const AT_END: u64 = u64::MAX;
/// Kinds of markers.
const END: u32 = 0;
const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;
const TOO_LARGE: ExportError =
    ExportError::BeyondFormat { what: "a VMDK holds at most 2 TiB, and this disk needs more" };

/// What a written VMDK is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmdkWritten {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Size of the disk that it shows: whole sectors.
    pub capacity_bytes: u64,
    /// Of it, what is in the file.
    pub populated_bytes: u64,
}

/// Writes `disk` as a stream-optimised VMDK that calls itself `name`; `content` is a number that tells this content from
/// others. Grains are compressed by so many threads.
///
/// # Errors
/// Those of the disk and of `out`; a disk whose VMDK would be larger than the format allows.
pub fn write_vmdk(
    disk: &dyn Disk,
    name: &str,
    content: u32,
    workers: usize,
    watcher: &Watcher<'_>,
    out: &mut dyn Write,
) -> Result<VmdkWritten, ExportError> {
    let capacity_bytes = capacity(disk);
    let sectors = capacity_bytes / SECTOR_BYTES;
    let mut file = Sectors { out, written: 0 };
    file.write(&header(sectors, AT_END))?;
    file.write_padded(&descriptor(name, content, sectors), DESCRIPTOR_SECTORS)?;
    file.write_padded(&[], OVERHEAD_SECTORS.saturating_sub(file.written))?;
    let (mut directory, mut populated) = (Vec::new(), 0_u64);
    let mut at = 0;
    while at < capacity_bytes {
        let end = at.saturating_add(TABLE_COVERS_BYTES).min(disk.size_bytes());
        let found = grains(disk, at..end.max(at), workers, watcher)?;
        populated = populated.saturating_add(u64::try_from(found.len()).unwrap_or(u64::MAX));
        directory.push(file.table(&found)?);
        at = at.saturating_add(TABLE_COVERS_BYTES);
    }
    let directory_at = file.directory(&directory)?;
    file.marker(1, FOOTER)?;
    file.write(&header(sectors, directory_at))?;
    file.marker(0, END)?;
    let populated_bytes = populated.saturating_mul(GRAIN_BYTES).min(capacity_bytes);
    let file_bytes = file.written.saturating_mul(SECTOR_BYTES);
    Ok(VmdkWritten { file_bytes, capacity_bytes, populated_bytes })
}

/// The size of the disk that a VMDK of it shows: the format knows whole sectors only.
pub(super) fn capacity(disk: &dyn Disk) -> u64 {
    disk.size_bytes().next_multiple_of(SECTOR_BYTES)
}

/// A file that grows by whole sectors.
struct Sectors<'a> {
    out: &'a mut dyn Write,
    written: u64,
}

impl Sectors<'_> {
    /// Writes bytes and zeros up to a whole sector.
    fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        let sectors = u64::try_from(bytes.len().div_ceil(SECTOR)).unwrap_or(u64::MAX);
        self.write_padded(bytes, sectors)
    }

    /// Writes bytes and zeros up to so many sectors.
    fn write_padded(&mut self, bytes: &[u8], sectors: u64) -> Result<(), ExportError> {
        let room = usize::try_from(sectors.saturating_mul(SECTOR_BYTES)).unwrap_or(usize::MAX);
        let rest =
            room.checked_sub(bytes.len()).ok_or(ExportError::Bug("a VMDK has no room for its text"))?;
        self.out.write_all(bytes)?;
        self.out.write_all(&vec![0; rest])?;
        self.written = self.written.saturating_add(sectors);
        Ok(())
    }

    fn marker(&mut self, sectors: u64, kind: u32) -> Result<(), ExportError> {
        let marker = [&sectors.to_le_bytes()[..], &[0; 4], &kind.to_le_bytes()].concat();
        self.write(&marker)
    }

    /// Where the next sector goes, as tables say it.
    fn place(&self) -> Result<u32, ExportError> {
        u32::try_from(self.written).map_err(|_| TOO_LARGE)
    }

    /// Writes grains of one table, and it; where it is, or zero when there is none.
    fn table(&mut self, grains: &[Grain]) -> Result<u32, ExportError> {
        if grains.is_empty() {
            return Ok(0);
        }
        let mut table = [0_u32; TABLE_LENGTH];
        for grain in grains {
            let entry = usize::try_from(grain.number % TABLE_ENTRIES).ok().and_then(|at| table.get_mut(at));
            *entry.ok_or(ExportError::Bug("a grain has no place in its table"))? = self.place()?;
            let lba = grain.number.saturating_mul(GRAIN_BYTES / SECTOR_BYTES);
            let size = u32::try_from(grain.bytes.len()).map_err(|_| ExportError::Bug("a huge grain"))?;
            self.write(&[&lba.to_le_bytes()[..], &size.to_le_bytes(), &grain.bytes].concat())?;
        }
        let bytes = table.map(u32::to_le_bytes).concat();
        self.marker(u64::try_from(bytes.len().div_ceil(SECTOR)).unwrap_or(u64::MAX), TABLE)?;
        let place = self.place()?;
        self.write(&bytes)?;
        Ok(place)
    }

    /// Writes the directory of tables, and says where it is.
    fn directory(&mut self, places: &[u32]) -> Result<u64, ExportError> {
        let bytes: Vec<u8> = places.iter().flat_map(|place| place.to_le_bytes()).collect();
        self.marker(u64::try_from(bytes.len().div_ceil(SECTOR)).unwrap_or(u64::MAX), DIRECTORY)?;
        let place = self.place()?;
        self.write(&bytes)?;
        Ok(u64::from(place))
    }
}

fn header(sectors: u64, directory: u64) -> Vec<u8> {
    let entries = u32::try_from(TABLE_ENTRIES).unwrap_or_default();
    [
        &MAGIC[..],
        &VERSION.to_le_bytes(),
        &FLAGS.to_le_bytes(),
        &sectors.to_le_bytes(),
        &(GRAIN_BYTES / SECTOR_BYTES).to_le_bytes(),
        // The descriptor is the second sector and those behind it.
        &1_u64.to_le_bytes(),
        &DESCRIPTOR_SECTORS.to_le_bytes(),
        &entries.to_le_bytes(),
        // No second directory.
        &0_u64.to_le_bytes(),
        &directory.to_le_bytes(),
        &OVERHEAD_SECTORS.to_le_bytes(),
        // Closed cleanly; signs that a transfer as text would change.
        b"\0\n \r\n",
        &DEFLATE.to_le_bytes(),
    ]
    .concat()
}

/// The text that names the disk. Geometry is what a BIOS would say of a disk that large.
fn descriptor(name: &str, content: u32, sectors: u64) -> Vec<u8> {
    // The two highest numbers mean "none".
    let content = content.clamp(1, u32::MAX - 2);
    let cylinders = (sectors / (255 * 63)).clamp(1, 65_535);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={content:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRDONLY {sectors} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\nddb.virtualHWVersion = \"13\"\n"
    )
    .into_bytes()
}
