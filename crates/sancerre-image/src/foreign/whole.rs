//! Whether a container is as long as its own tables say, and stands on no other. QEMU reads zeros behind the end of a file: an
//! image that was cut short would be saved with zeros for what is missing, and nobody would know. What QEMU checks itself (the
//! tables of VHDX, compressed VMDK) is left to it; a kind of VMDK whose length cannot be told here is refused.
//!
//! Only numbers are read, in bounded pieces, and nothing is done with them but to compare them with the file's length.
//! Sources: `block/{vdi,parallels,vmdk,qed,vpc,vhdx}.c` and `docs/interop/qed_spec.rst` of QEMU; the VMDK specification 1.1 of
//! VMware; the VHD specification 1.0 and MS-VHDX of Microsoft.

use std::path::Path;
use std::sync::Arc;

use super::{ImageError, ImageFormat};
use crate::beneath::Directory;
use crate::positional::length;
use crate::{Disk, OpenError, RawDisk};

/// Takes a number, or says how long the file must be to have it.
macro_rules! number {
    ($read:expr) => {
        match $read? {
            Ok(number) => number,
            Err(needed_bytes) => return Ok(Ok(needed_bytes)),
        }
    };
}

/// Why it cannot be told of an image that QEMU may read all the same.
macro_rules! unmeasured {
    ($why:literal) => {
        Err(concat!($why, ". Convert it with qemu-img, and compare before it is trusted"))
    };
}

mod tables;
mod vmdk;

const SECTOR_BYTES: u64 = 512;
/// Longest table: a VMDK of 2 TiB has 128 MiB of them, and 4 million entries of Parallels are 4 TiB.
const TABLE_BYTES_MAX: u64 = 256 << 20;
const PIECE_BYTES: u64 = 1 << 20;

type Result<T> = std::result::Result<T, ImageError>;
/// A number, or how long the file must be to have it.
type Read<T> = std::result::Result<T, u64>;
/// Bytes that must be there at least, or why that cannot be told, and what to do.
type Needed = std::result::Result<u64, &'static str>;

const TOO_LARGE: Needed = unmeasured!("its tables are larger than those of any image that can be");

/// Whoever opens the files that an image names.
pub trait Parts {
    /// What the image at `image` calls `name`; none when it is not there, for then QEMU cannot open it either.
    ///
    /// # Errors
    /// [`ImageError::Parts`] when it may not be read, [`ImageError::Io`] when it cannot be.
    fn named(&mut self, image: &Path, name: &str) -> Result<Option<Arc<dyn Disk>>>;
}

/// Looks at the image and at all files that it names. What is malformed in other ways, and parts that are not there, are
/// left to QEMU, which refuses them.
///
/// It reads bytes that anybody may have made: this program has it done by a confined child
/// ([`ConfinedReader`](crate::confined::ConfinedReader)).
///
/// # Errors
/// [`ImageError::CutShort`], [`ImageError::Unmeasured`]; those of `parts` and of reading.
pub fn look(file: &dyn Disk, format: ImageFormat, parts: &mut dyn Parts) -> Result<()> {
    let needed = match format {
        ImageFormat::Vdi => tables::vdi(file)?,
        ImageFormat::Parallels => tables::parallels(file)?,
        ImageFormat::Qed => tables::qed(file)?,
        ImageFormat::Vhd => tables::vhd(file)?,
        ImageFormat::Vhdx => tables::vhdx(file)?,
        ImageFormat::Vmdk => return vmdk::look(file, parts, 0),
    };
    against(file, needed)
}

/// The files in the directory that was named for them, if one was.
pub(crate) struct Named(Option<Directory>);

impl Named {
    pub(crate) fn new(image: &Path, directory: Option<&Path>) -> Result<Self> {
        let directory = directory.map(Directory::open).transpose();
        Ok(Self(directory.map_err(|error| failed(image, error))?))
    }

    /// As [`Parts::named`].
    pub(crate) fn open(&self, image: &Path, name: &str) -> Result<Option<RawDisk>> {
        let asks = || ImageError::Parts { path: image.to_owned(), name: name.to_owned() };
        match self.0.as_ref().ok_or_else(asks)?.open_beneath(image, Path::new(name)) {
            Ok(Some(file)) => Ok(Some(file)),
            Ok(None) => Err(asks()),
            Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(image, error)),
        }
    }
}

impl Parts for Named {
    fn named(&mut self, image: &Path, name: &str) -> Result<Option<Arc<dyn Disk>>> {
        let opened = self.open(image, name)?;
        Ok(opened.map(|file| -> Arc<dyn Disk> { Arc::new(file) }))
    }
}

pub(crate) fn failed(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ImageError {
    ImageError::Io { path: path.to_owned(), source: std::io::Error::other(error) }
}

fn against(file: &dyn Disk, needed: Needed) -> Result<()> {
    let (name, length_bytes) = (file.path().display().to_string(), file.size_bytes());
    match needed {
        Err(why) => Err(ImageError::Unmeasured { file: name, why: why.to_owned() }),
        Ok(needed_bytes) if needed_bytes > length_bytes => {
            Err(ImageError::CutShort { file: name, needed_bytes, length_bytes })
        }
        Ok(_) => Ok(()),
    }
}

/// Little-endian numbers at offsets.
struct Numbers<'a>(&'a dyn Disk);

impl Numbers<'_> {
    fn bytes<const N: usize>(&self, offset: u64) -> Result<Read<[u8; N]>> {
        let mut buffer = [0; N];
        Ok(self.fill(offset, &mut buffer)?.map(|()| buffer))
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<Read<()>> {
        let end = offset.saturating_add(length(buffer));
        if end > self.0.size_bytes() {
            return Ok(Err(end));
        }
        self.0.read_at(offset, buffer).map_err(|error| failed(self.0.path(), error))?;
        Ok(Ok(()))
    }

    fn u32(&self, offset: u64) -> Result<Read<u64>> {
        Ok(self.bytes::<4>(offset)?.map(|word| u64::from(u32::from_le_bytes(word))))
    }

    fn big_u32(&self, offset: u64) -> Result<Read<u64>> {
        Ok(self.bytes::<4>(offset)?.map(|word| u64::from(u32::from_be_bytes(word))))
    }

    fn u64(&self, offset: u64) -> Result<Read<u64>> {
        Ok(self.bytes::<8>(offset)?.map(u64::from_le_bytes))
    }

    /// Hands each number of a table of `entries` to `see`, which are `N` bytes long.
    fn each<const N: usize>(
        &self,
        offset: u64,
        entries: u64,
        mut see: impl FnMut([u8; N]),
    ) -> Result<Read<()>> {
        let table_bytes = entries.saturating_mul(length(&[0; N]));
        let mut at = 0;
        while at < table_bytes {
            let piece = PIECE_BYTES.min(table_bytes.saturating_sub(at));
            let mut buffer = vec![0; usize::try_from(piece).unwrap_or_default()];
            if self.fill(offset.saturating_add(at), &mut buffer)?.is_err() {
                return Ok(Err(offset.saturating_add(table_bytes)));
            }
            buffer.chunks_exact(N).filter_map(|word| word.first_chunk::<N>()).for_each(|word| see(*word));
            at = at.saturating_add(piece);
        }
        Ok(Ok(()))
    }

    /// What a VHDX's table of rows has behind this id, the first eight bytes; none if no row has it.
    fn row(&self, offset: u64, rows: u64, id: u128) -> Result<Read<Option<[u8; 8]>>> {
        let (mut found, id) = (None, id.to_le_bytes());
        let read = self.each(offset, rows, |row: [u8; 32]| match row.split_first_chunk::<16>() {
            Some((its, rest)) if *its == id => found = rest.first_chunk().copied(),
            _ => {}
        })?;
        Ok(read.map(|()| found))
    }

    /// The largest number in a table of `entries`.
    fn largest(&self, offset: u64, entries: u64) -> Result<Read<u64>> {
        let mut most = 0;
        let read = self.each(offset, entries, |word| most = most.max(u64::from(u32::from_le_bytes(word))))?;
        Ok(read.map(|()| most))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::open_raw;

    fn looked(format: ImageFormat, bytes: &[u8]) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, bytes).unwrap();
        look_at(&path, format, folder.path())
    }

    fn look_at(path: &Path, format: ImageFormat, parts: &Path) -> Result<()> {
        look(&open_raw(path).unwrap(), format, &mut Named::new(path, Some(parts))?)
    }

    fn put(bytes: &mut [u8], at: usize, number: &[u8]) {
        bytes[at..at + number.len()].copy_from_slice(number);
    }

    /// Capacity, grain, entries of a table, and where the directory is.
    fn header(capacity: u64, grain: u64, entries: u32, directory: u64) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        put(&mut bytes, 0, b"KDMV");
        put(&mut bytes, 12, &capacity.to_le_bytes());
        put(&mut bytes, 20, &grain.to_le_bytes());
        put(&mut bytes, 44, &entries.to_le_bytes());
        put(&mut bytes, 56, &directory.to_le_bytes());
        bytes
    }

    #[test]
    fn senseless_tables_are_refused_at_once() {
        let begun = Instant::now();
        for bytes in [
            header(u64::MAX, 1, 512, 1),
            header(1 << 27, 1, 1, 1),
            header(1, 0, 512, 1),
            header(u64::MAX, u64::MAX, 512, u64::MAX),
        ] {
            looked(ImageFormat::Vmdk, &bytes).unwrap_err();
        }
        let mut parallels = vec![0; 64];
        put(&mut parallels, 28, &[0xff; 8]);
        looked(ImageFormat::Parallels, &parallels).unwrap_err();
        let mut vdi = vec![0xff; 1024];
        put(&mut vdi, 0x40, &0xbeda_107f_u32.to_le_bytes());
        looked(ImageFormat::Vdi, &vdi).unwrap_err();
        let mut qed = vec![0xff; 1024];
        put(&mut qed, 0, b"QED\0");
        looked(ImageFormat::Qed, &qed).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_cut_header_is_too_short() {
        assert!(matches!(
            looked(ImageFormat::Vdi, &[0; 8]),
            Err(ImageError::CutShort { needed_bytes: 0x158, .. })
        ));
        assert!(matches!(looked(ImageFormat::Vmdk, b"KDMV\x01\0\0\0"), Err(ImageError::CutShort { .. })));
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        let unknown = |text: &[u8]| {
            assert!(
                matches!(looked(ImageFormat::Vmdk, text), Err(ImageError::Unmeasured { .. })),
                "{text:?}"
            );
        };
        unknown(b"COWD\x01\0\0\0");
        unknown(b"# Disk DescriptorFile\nRW 8 SESPARSE \"image\" 0\n");
        // It stands on itself.
        unknown(b"# Disk DescriptorFile\nparentFileNameHint=\"image\"\n");
        looked(ImageFormat::Vmdk, b"# Disk DescriptorFile\nRW 8 FLAT \"gone\" 0\n").unwrap();
        for outside in ["../image", "/etc/passwd", "nbd://h/x"] {
            let text = format!("# Disk DescriptorFile\nRW 8 FLAT \"{outside}\" 0\n");
            let found = looked(ImageFormat::Vmdk, text.as_bytes());
            let is_there = !matches!(found, Err(ImageError::Parts { .. }));
            // The last one looks like a file in a folder that is not there.
            assert_eq!(is_there, outside.starts_with("nbd"), "{outside}: {found:?}");
        }
    }

    /// QEMU takes a sparse file without a capacity for a descriptor, and opens what that names.
    #[test]
    fn what_a_descriptor_in_an_empty_sparse_file_names_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let image = |capacity: u64, name: &str| {
            let mut bytes = header(capacity, 128, 512, 0);
            put(&mut bytes, 28, &1_u64.to_le_bytes());
            put(&mut bytes, 512, format!("RW 8 FLAT \"{name}\" 0\n").as_bytes());
            std::fs::write(path("image"), bytes).unwrap();
            look_at(&path("image"), ImageFormat::Vmdk, folder.path())
        };
        for (length, is_whole) in [(4096, true), (4095, false)] {
            std::fs::write(path("flat"), vec![0; length]).unwrap();
            assert_eq!(image(0, "flat").is_ok(), is_whole);
        }
        assert!(matches!(image(0, "/etc/passwd"), Err(ImageError::Parts { .. })));
    }

    #[test]
    fn a_vhd_that_stands_on_another_is_refused() {
        for (kind, at, is_whole) in
            [(2, 1536, true), (3, 0, true), (4, 0, false), (4, 1536, false), (0, 0, false)]
        {
            let mut bytes = vec![0; 2048];
            put(&mut bytes, at, b"conectix");
            put(&mut bytes, at + 60, &u32::to_be_bytes(kind));
            let found = looked(ImageFormat::Vhd, &bytes);
            assert_eq!(found.is_ok(), is_whole, "{kind} at {at}: {found:?}");
        }
    }

    #[test]
    fn a_part_of_a_sector_is_a_cut_vhdx() {
        let mut bytes = vec![0; 0x3_0400];
        put(&mut bytes, 0, b"vhdxfile");
        looked(ImageFormat::Vhdx, &bytes).unwrap();
        let cut = looked(ImageFormat::Vhdx, &bytes[..0x3_03ff]);
        assert!(matches!(cut, Err(ImageError::CutShort { needed_bytes: 0x3_0400, .. })), "{cut:?}");
    }

    #[test]
    fn a_cut_base_of_a_delta_is_found() {
        let text = b"parentFileNameHint=\"base\"\n";
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("delta"), text).unwrap();
        std::fs::write(path("base"), b"RW 8 FLAT \"base-flat\" 0\n").unwrap();
        for (length, is_whole) in [(4096, true), (4095, false)] {
            std::fs::write(path("base-flat"), vec![0; length]).unwrap();
            let found = look_at(&path("delta"), ImageFormat::Vmdk, folder.path());
            assert_eq!(found.is_ok(), is_whole, "{found:?}");
        }
    }

    /// A VMDK of one full directory with these places of grains, each of 8 sectors, as long as its last table.
    fn sparse_image(places: &[Vec<u32>]) -> Vec<u8> {
        let tables = places.len() as u64;
        let mut bytes = header(tables * 512 * 8, 8, 512, 2);
        // The directory takes the third sector, and each table four behind it.
        bytes.resize(512 * (3 + 4 * places.len()), 0);
        for (number, places) in places.iter().enumerate() {
            let sector = 3 + 4 * number;
            put(&mut bytes, 1024 + 4 * number, &(sector as u32).to_le_bytes());
            for (entry, place) in places.iter().enumerate() {
                put(&mut bytes, 512 * sector + 4 * entry, &place.to_le_bytes());
            }
        }
        bytes
    }

    proptest::proptest! {
        #[test]
        fn a_vmdk_is_whole_when_its_last_grain_is_there_and_not_a_byte_before(
            places in proptest::collection::vec(proptest::collection::vec(0_u32..400, 1..512), 1..4),
        ) {
            let mut bytes = sparse_image(&places);
            let most = places.iter().flatten().copied().max().unwrap_or(0);
            // 0 is no grain, and 1 is one of zeros.
            let end = if most > 1 { (most as usize + 8) * 512 } else { 0 };
            let tables_end = bytes.len();
            bytes.resize(end.max(tables_end), 0);
            looked(ImageFormat::Vmdk, &bytes).unwrap();
            if end > tables_end {
                let found = looked(ImageFormat::Vmdk, &bytes[..end - 1]);
                let is_told = matches!(found, Err(ImageError::CutShort { needed_bytes, .. }) if needed_bytes == end as u64);
                assert!(is_told, "{found:?}");
            }
            let found = looked(ImageFormat::Vmdk, &bytes[..tables_end - 1]);
            assert!(matches!(found, Err(ImageError::CutShort { .. })), "{found:?}");
        }

        #[test]
        fn a_vdi_is_whole_when_its_last_block_is_there_and_not_a_byte_before(
            start in 512_u32..100_000, block in 1_u32..100_000, allocated in 0_u32..10,
        ) {
            let end = (start + block * allocated) as usize;
            let mut bytes = vec![0; end.max(512)];
            for (at, number) in [(0x158, start), (0x178, block), (0x184, allocated), (0x40, 0xbeda_107f)] {
                put(&mut bytes, at, &number.to_le_bytes());
            }
            looked(ImageFormat::Vdi, &bytes).unwrap();
            assert!(matches!(looked(ImageFormat::Vdi, &bytes[..end - 1]), Err(ImageError::CutShort { .. })));
        }

        /// Whatever its counter of blocks says.
        #[test]
        fn a_vdi_reaches_as_far_as_its_map_says(
            mut places in proptest::collection::btree_set(0_u32..40, 1..20), block in 1_u32..1000,
        ) {
            let most = *places.iter().max().unwrap();
            places.insert(u32::MAX);
            let end = (4096 + block * (most + 1)) as usize;
            let mut bytes = vec![0; end];
            let fields = [(0x40, 0xbeda_107f), (0x154, 512), (0x158, 4096), (0x178, block), (0x180, places.len() as u32)];
            for (at, number) in fields {
                put(&mut bytes, at, &number.to_le_bytes());
            }
            for (entry, place) in places.iter().enumerate() {
                put(&mut bytes, 512 + 4 * entry, &place.to_le_bytes());
            }
            looked(ImageFormat::Vdi, &bytes).unwrap();
            let found = looked(ImageFormat::Vdi, &bytes[..end - 1]);
            assert!(matches!(found, Err(ImageError::CutShort { .. })), "{found:?}");
            // All at one place.
            (0..places.len()).for_each(|entry| put(&mut bytes, 512 + 4 * entry, &[0; 4]));
            let is_twice = matches!(looked(ImageFormat::Vdi, &bytes), Err(ImageError::Unmeasured { .. }));
            assert_eq!(is_twice, places.len() > 1);
        }

        #[test]
        fn a_qed_image_reaches_as_far_as_its_tables_say(
            tables in proptest::collection::vec(proptest::collection::vec(0_u64..60, 1..8), 1..4),
        ) {
            // A cluster of 4096 bytes, and one of them for a table; the header, the first table, and the others.
            let first = 2 + tables.len() as u64;
            let end = tables.iter().flatten().map(|place| if *place > 0 { first + place + 1 } else { 0 }).max().unwrap();
            let end = end.max(first) * 4096;
            let mut bytes = vec![0; end as usize];
            put(&mut bytes, 0, b"QED\0");
            put(&mut bytes, 4, &4096_u32.to_le_bytes());
            put(&mut bytes, 8, &1_u32.to_le_bytes());
            put(&mut bytes, 40, &4096_u64.to_le_bytes());
            for (number, places) in tables.iter().enumerate() {
                let table = (2 + number) * 4096;
                put(&mut bytes, 4096 + 8 * number, &(table as u64).to_le_bytes());
                for (entry, place) in places.iter().enumerate() {
                    let place = if *place > 0 { (first + place) * 4096 } else { 1 };
                    put(&mut bytes, table + 8 * entry, &place.to_le_bytes());
                }
            }
            looked(ImageFormat::Qed, &bytes).unwrap();
            let found = looked(ImageFormat::Qed, &bytes[..bytes.len() - 1]);
            assert!(matches!(found, Err(ImageError::CutShort { .. })), "{found:?}");
        }

        #[test]
        fn a_parallels_image_is_whole_when_its_last_cluster_is_there_and_not_a_byte_before(
            places in proptest::collection::vec(0_u32..300, 1..200), cluster in 1_u32..64, is_new in proptest::bool::ANY,
        ) {
            let most = places.iter().copied().max().unwrap_or(0);
            let unit = if is_new { cluster } else { 1 };
            let end = if most > 0 { (most * unit + cluster) as usize * 512 } else { 0 };
            let tables_end = 64 + 4 * places.len();
            let mut bytes = vec![0; end.max(tables_end)];
            put(&mut bytes, 0, if is_new { b"WithouFreSpacExt" } else { b"WithoutFreeSpace" });
            put(&mut bytes, 28, &cluster.to_le_bytes());
            put(&mut bytes, 32, &(places.len() as u32).to_le_bytes());
            for (entry, place) in places.iter().enumerate() {
                put(&mut bytes, 64 + 4 * entry, &place.to_le_bytes());
            }
            looked(ImageFormat::Parallels, &bytes).unwrap();
            let found = looked(ImageFormat::Parallels, &bytes[..bytes.len() - 1]);
            assert!(matches!(found, Err(ImageError::CutShort { .. })), "{found:?}");
        }

        #[test]
        fn no_bytes_make_it_panic(
            format in proptest::sample::select(vec![
                ImageFormat::Vmdk, ImageFormat::Vdi, ImageFormat::Parallels, ImageFormat::Qed, ImageFormat::Vhd, ImageFormat::Vhdx,
            ]),
            mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048),
            is_sparse in proptest::bool::ANY,
        ) {
            if is_sparse && bytes.len() > 68 {
                put(&mut bytes, 0, b"KDMV");
                put(&mut bytes, 44, &512u32.to_le_bytes());
                put(&mut bytes, 64, &0xbeda_107f_u32.to_le_bytes());
            }
            let _ = looked(format, &bytes);
        }
    }
}
