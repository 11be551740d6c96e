//! Names in folders: what a piece of names says.
//!
//! ```text
//! folder: shared ‖ rest of path ‖ flags ‖ number ‖ count, then so many files
//! file:   shared ‖ rest of name ‖ flags ‖ number ‖ size ‖ mode ‖ owner ‖ time ‖ places
//! ```

use super::{NAME_BYTES_MAX, PATH_BYTES_MAX, SECTOR_BYTES, SPOTS_MAX, WHAT};
use crate::bytes::{Reader, put_moved, put_number, put_text, to_u64};
use crate::error::{Result, corrupt, ensure};

/// A folder, or a part of a large one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CataloguedFolder {
    /// Its path in the volume, without a slash before it; empty for the root.
    pub path: Vec<u8>,
    /// Its number in the file system.
    pub id: u64,
    /// Whether some of its names could not be read.
    pub is_partial: bool,
}

/// Something with a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CataloguedFile {
    /// Its name.
    pub name: Vec<u8>,
    /// Its number in the file system.
    pub id: u64,
    /// What it is: 0 a file, 1 a folder, 2 a link, 3 a device, socket or pipe, 4 unknown.
    pub kind: u8,
    /// How long it is.
    pub size_bytes: u64,
    /// Its permission bits.
    pub mode: Option<u32>,
    /// Its user and group.
    pub owner: Option<(u32, u32)>,
    /// When its content changed: seconds since 1970, nanoseconds.
    pub modified: Option<(i64, u32)>,
    /// Where its bytes are; none where that is not told.
    pub spots: Option<Vec<FileSpot>>,
}

/// Where the next bytes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSpot {
    /// How many.
    pub length_bytes: u64,
    /// Where.
    pub place: SpotPlace,
}

/// A place of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpotPlace {
    /// Nowhere: zeros.
    Hole,
    /// On a disk.
    Disk {
        /// Which, in the order of the head.
        disk: u16,
        /// Where on it, a multiple of [`SECTOR_BYTES`].
        offset: u64,
    },
    /// In a structure of the file system.
    Held,
}

/// The highest kind.
const KIND_MAX: u8 = 4;
const HAS_MODE: u8 = 1 << 3;
const HAS_OWNER: u8 = 1 << 4;
const HAS_TIME: u8 = 1 << 5;
/// Mode and owner are those of the file before.
const AS_BEFORE: u8 = 1 << 6;
const HAS_SPOTS: u8 = 1 << 7;
const NANOSECONDS: u64 = 1_000_000_000;

/// What the next file counts from.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    name: Vec<u8>,
    id: u64,
    mode: Option<u32>,
    owner: Option<(u32, u32)>,
    seconds: u64,
    /// In sectors, behind the last place.
    place: u64,
    disk: u16,
    is_first: bool,
}

impl Before {
    pub(super) fn of_folder(id: u64) -> Self {
        Self { id, is_first: true, ..Self::default() }
    }
}

/// Reads a piece of names from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamesReader<'a> {
    content: &'a [u8],
}

impl<'a> NamesReader<'a> {
    /// Of the content of a piece.
    pub fn new(content: &'a [u8]) -> Self {
        Self { content }
    }

    /// The content of the piece.
    pub fn content(&self) -> &'a [u8] {
        self.content
    }

    /// Gives each file with its folder to `each`, ascending; of a folder without files none.
    ///
    /// # Errors
    /// Bytes that break a rule; what was read before was given.
    pub fn each(&self, each: &mut dyn FnMut(&CataloguedFolder, &CataloguedFile)) -> Result<()> {
        self.folders(&mut |_| true, each)
    }

    /// The same of the folders that `is_wanted` names.
    ///
    /// # Errors
    /// As [`NamesReader::each`].
    pub fn folders(
        &self,
        is_wanted: &mut dyn FnMut(&CataloguedFolder) -> bool,
        each: &mut dyn FnMut(&CataloguedFolder, &CataloguedFile),
    ) -> Result<()> {
        let mut reader = Reader::new(WHAT, self.content);
        let (mut folder, mut file) = (CataloguedFolder::default(), CataloguedFile::default());
        let mut is_first = true;
        while reader.remaining() > 0 {
            let before = std::mem::take(&mut folder.path);
            folder.path = joined(&mut reader, &before, PATH_BYTES_MAX)?;
            ensure(is_first || path_order(&before, &folder.path).is_lt(), WHAT, || {
                "folders are out of order".into()
            })?;
            is_first = false;
            let flags = reader.u8()?;
            ensure(flags < 2, WHAT, || format!("a folder has the flags {flags}"))?;
            folder.is_partial = flags != 0;
            folder.id = reader.number()?;
            let count = reader.number()?;
            let mut before = Before::of_folder(folder.id);
            let wanted = is_wanted(&folder);
            for _ in 0..count {
                read_file(&mut reader, &mut before, &mut file)?;
                if wanted {
                    each(&folder, &file);
                }
            }
        }
        Ok(())
    }
}

/// The order of folders: each before what is in it, and what is in it before its neighbours.
pub(super) fn path_order(one: &[u8], other: &[u8]) -> std::cmp::Ordering {
    match (one.is_empty(), other.is_empty()) {
        (false, false) => one.split(|byte| *byte == b'/').cmp(other.split(|byte| *byte == b'/')),
        (one, other) => other.cmp(&one),
    }
}

/// A name that begins as the one before.
fn joined(reader: &mut Reader<'_>, before: &[u8], most: usize) -> Result<Vec<u8>> {
    let shared = usize::try_from(reader.number()?).ok();
    let shared = shared.and_then(|shared| before.get(..shared));
    let shared = shared.ok_or_else(|| corrupt(WHAT, "a name begins as one that is shorter"))?;
    let rest = reader.text()?;
    let length = shared.len().saturating_add(rest.len());
    ensure(length <= most, WHAT, || format!("a name of {length} bytes"))?;
    let is_most = rest.is_empty() || before.get(shared.len()) != rest.first();
    ensure(is_most, WHAT, || "a name shares more with the one before than it says".to_owned())?;
    Ok([shared, rest].concat())
}

pub(super) fn put_joined(bytes: &mut Vec<u8>, before: &[u8], name: &[u8]) {
    let shared = before.iter().zip(name).take_while(|(one, other)| one == other).count();
    put_number(bytes, to_u64(shared));
    put_text(bytes, name.get(shared..).unwrap_or_default());
}

fn read_file(reader: &mut Reader<'_>, before: &mut Before, file: &mut CataloguedFile) -> Result<()> {
    let name = joined(reader, &before.name, NAME_BYTES_MAX)?;
    let is_name = !name.is_empty() && !name.contains(&b'/') && (before.is_first || before.name < name);
    ensure(is_name, WHAT, || "a name is none, or out of order".to_owned())?;
    let flags = reader.u8()?;
    file.kind = flags & 7;
    ensure(file.kind <= KIND_MAX, WHAT, || format!("a file is of kind {}", file.kind))?;
    file.id = reader.moved(before.id)?;
    file.size_bytes = reader.number()?;
    read_rights(reader, before, flags, file)?;
    file.modified = None;
    if flags & HAS_TIME != 0 {
        before.seconds = reader.moved(before.seconds)?;
        let nanoseconds = reader.number()?;
        ensure(nanoseconds < NANOSECONDS, WHAT, || format!("{nanoseconds} nanoseconds"))?;
        file.modified = Some((before.seconds.cast_signed(), u32::try_from(nanoseconds).unwrap_or(0)));
    }
    file.spots = match flags & HAS_SPOTS {
        0 => None,
        _ => Some(read_spots(reader, before, file.size_bytes)?),
    };
    file.name.clone_from(&name);
    (before.name, before.id, before.mode, before.owner) = (name, file.id, file.mode, file.owner);
    before.is_first = false;
    Ok(())
}

fn read_rights(reader: &mut Reader<'_>, before: &Before, flags: u8, file: &mut CataloguedFile) -> Result<()> {
    if flags & AS_BEFORE != 0 {
        let is_alone = flags & (HAS_MODE | HAS_OWNER) == 0 && !before.is_first;
        ensure(is_alone, WHAT, || "rights are said twice, or are those of no file".to_owned())?;
        (file.mode, file.owner) = (before.mode, before.owner);
        return Ok(());
    }
    file.mode = (flags & HAS_MODE != 0).then(|| small(reader)).transpose()?;
    file.owner = (flags & HAS_OWNER != 0).then(|| Ok((small(reader)?, small(reader)?))).transpose()?;
    Ok(())
}

fn small(reader: &mut Reader<'_>) -> Result<u32> {
    u32::try_from(reader.number()?).map_err(|_| corrupt(WHAT, "a mode or owner is too large"))
}

fn read_spots(reader: &mut Reader<'_>, before: &mut Before, size_bytes: u64) -> Result<Vec<FileSpot>> {
    let count = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
    ensure(count <= SPOTS_MAX, WHAT, || format!("a file lies at {count} places"))?;
    ensure((count == 0) == (size_bytes == 0), WHAT, || format!("{size_bytes} bytes lie at {count} places"))?;
    let (mut spots, mut left) = (Vec::new(), size_bytes);
    for number in 1..=count {
        let head = reader.number()?;
        let length_bytes = match (head >> 2, number == count) {
            (0, true) => left,
            (length, false) if length > 0 && length < left => length,
            (length, _) => return Err(corrupt(WHAT, format!("{length} of {left} bytes lie at a place"))),
        };
        if head & 3 == 3 {
            before.disk =
                u16::try_from(reader.number()?).map_err(|_| corrupt(WHAT, "a disk that is none"))?;
        }
        let place = match head & 3 {
            0 => SpotPlace::Hole,
            2 => SpotPlace::Held,
            _ => read_place(reader, before, length_bytes)?,
        };
        spots.push(FileSpot { length_bytes, place });
        left = left.saturating_sub(length_bytes);
    }
    Ok(spots)
}

fn read_place(reader: &mut Reader<'_>, before: &mut Before, length_bytes: u64) -> Result<SpotPlace> {
    let sector = reader.moved(before.place)?;
    let far = || corrupt(WHAT, "a place that lies beyond every disk");
    let offset = sector.checked_mul(SECTOR_BYTES).ok_or_else(far)?;
    offset.checked_add(length_bytes).ok_or_else(far)?;
    before.place = sector.wrapping_add(length_bytes.div_ceil(SECTOR_BYTES));
    Ok(SpotPlace::Disk { disk: before.disk, offset })
}

/// Writes what [`read_file`] reads. Places that cannot be told are left out.
pub(super) fn put_file(bytes: &mut Vec<u8>, before: &mut Before, file: &CataloguedFile) {
    put_joined(bytes, &before.name, &file.name);
    let spots = file.spots.as_ref().filter(|spots| can_tell(spots, file.size_bytes));
    let is_as_before = !before.is_first
        && (file.mode, file.owner) == (before.mode, before.owner)
        && file.mode.or(file.owner.map(|_| 0)).is_some();
    let mut flags = file.kind.min(KIND_MAX);
    flags |= if is_as_before { AS_BEFORE } else { 0 };
    flags |= if !is_as_before && file.mode.is_some() { HAS_MODE } else { 0 };
    flags |= if !is_as_before && file.owner.is_some() { HAS_OWNER } else { 0 };
    flags |= if file.modified.is_some() { HAS_TIME } else { 0 };
    flags |= if spots.is_some() { HAS_SPOTS } else { 0 };
    bytes.push(flags);
    put_moved(bytes, before.id, file.id);
    put_number(bytes, file.size_bytes);
    if !is_as_before {
        file.mode.iter().for_each(|mode| put_number(bytes, u64::from(*mode)));
        let owner = file.owner.iter().flat_map(|(user, group)| [*user, *group]);
        owner.for_each(|number| put_number(bytes, u64::from(number)));
    }
    if let Some((seconds, nanoseconds)) = file.modified {
        put_moved(bytes, before.seconds, seconds.cast_unsigned());
        put_number(bytes, u64::from(nanoseconds));
        before.seconds = seconds.cast_unsigned();
    }
    spots.iter().for_each(|spots| put_spots(bytes, before, spots));
    before.name.clone_from(&file.name);
    (before.id, before.mode, before.owner, before.is_first) = (file.id, file.mode, file.owner, false);
}

/// Whether these are all bytes of the file, and few places.
fn can_tell(spots: &[FileSpot], size_bytes: u64) -> bool {
    let sum = spots.iter().try_fold(0u64, |sum, spot| sum.checked_add(spot.length_bytes));
    let is_place = |spot: &FileSpot| match spot.place {
        SpotPlace::Disk { offset, .. } => {
            offset.is_multiple_of(SECTOR_BYTES) && offset.checked_add(spot.length_bytes).is_some()
        }
        SpotPlace::Hole | SpotPlace::Held => true,
    };
    let is_length = |spot: &FileSpot| spot.length_bytes > 0 && spot.length_bytes < 1 << 61;
    spots.len() <= SPOTS_MAX
        && sum == Some(size_bytes)
        && spots.iter().all(|spot| is_length(spot) && is_place(spot))
}

fn put_spots(bytes: &mut Vec<u8>, before: &mut Before, spots: &[FileSpot]) {
    put_number(bytes, to_u64(spots.len()));
    for (number, FileSpot { length_bytes, place }) in (1..).zip(spots) {
        let length = if number == spots.len() { 0 } else { *length_bytes };
        let kind = match place {
            SpotPlace::Hole => 0,
            SpotPlace::Disk { disk, .. } if *disk == before.disk => 1,
            SpotPlace::Held => 2,
            SpotPlace::Disk { .. } => 3,
        };
        put_number(bytes, length << 2 | kind);
        let SpotPlace::Disk { disk, offset } = place else { continue };
        if kind == 3 {
            put_number(bytes, u64::from(*disk));
        }
        let sector = offset.checked_div(SECTOR_BYTES).unwrap_or(0);
        put_moved(bytes, before.place, sector);
        before.place = sector.wrapping_add(length_bytes.div_ceil(SECTOR_BYTES));
        before.disk = *disk;
    }
}
