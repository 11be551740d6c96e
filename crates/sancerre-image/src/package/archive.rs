//! The members of a tar archive: names and places, from its headers alone.

use std::collections::BTreeMap;
use std::ops::Range;

use super::PackageFault;
use crate::Disk;
use crate::export::{BLOCK_BYTES, Entry, EntryKind, entry, whole_blocks};

/// Of tar archives and of VMDKs.
pub(super) const SECTOR_BYTES: u64 = BLOCK_BYTES;
/// A machine has few files.
const MEMBERS_MAX: usize = 1024;
/// Headers that say something of the next one; none says so much.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// Headers of all kinds, so that an archive of nothing but extensions has an end.
const HEADERS_MAX: usize = 4 * MEMBERS_MAX;

/// Files of an archive by their names.
#[derive(Debug, Default)]
pub(super) struct Members(BTreeMap<Vec<u8>, Range<u64>>);

/// What extensions said of the member that comes.
#[derive(Default)]
struct Next {
    name: Option<Vec<u8>>,
    size_bytes: Option<u64>,
}

impl Members {
    pub(super) fn list(file: &dyn Disk) -> Result<Self, PackageFault> {
        let (mut members, mut next, mut at) = (Self::default(), Next::default(), 0_u64);
        for _ in 0..HEADERS_MAX {
            let Some(data_at) = at.checked_add(BLOCK_BYTES).filter(|end| *end <= file.size_bytes()) else {
                return Err(PackageFault::new("the archive is cut short: it has no end"));
            };
            let mut block = [0; 512];
            file.read_at(at, &mut block)?;
            let found =
                entry(&block).map_err(|what| PackageFault::new(format!("at byte {at} it has {what}")))?;
            let Some(found) = found else { return Ok(members) };
            let size_bytes =
                next.size_bytes.filter(|_| found.kind == EntryKind::File).unwrap_or(found.size_bytes);
            let end = data_at.checked_add(size_bytes).filter(|end| *end <= file.size_bytes());
            let behind = whole_blocks(size_bytes).and_then(|bytes| data_at.checked_add(bytes));
            let (Some(end), Some(behind)) = (end, behind) else {
                return Err(PackageFault::new(format!(
                    "the archive is cut short: a member at byte {at} has {size_bytes} bytes, which go beyond its end"
                )));
            };
            members.take(file, found, data_at..end, &mut next)?;
            at = behind;
        }
        Err(PackageFault::new("it has more members than any machine"))
    }

    fn take(
        &mut self,
        file: &dyn Disk,
        found: Entry,
        data: Range<u64>,
        next: &mut Next,
    ) -> Result<(), PackageFault> {
        let shown = || String::from_utf8_lossy(&found.name).into_owned();
        match found.kind {
            EntryKind::LongName => {
                let mut name = extension(file, &data)?;
                while name.last() == Some(&0) {
                    name.pop();
                }
                next.name = Some(name);
            }
            EntryKind::Fields => fields(&extension(file, &data)?, next)?,
            // Nothing in them is about names or sizes in an archive that anybody writes.
            EntryKind::GlobalFields => drop(extension(file, &data)?),
            EntryKind::Directory => *next = Next::default(),
            EntryKind::Other(_) => {
                return Err(PackageFault::new(format!("{:?} in it is no file", shown())));
            }
            EntryKind::File => {
                let name = std::mem::take(next).name.unwrap_or(found.name);
                let plain = name.strip_prefix(b"./").unwrap_or(&name).to_vec();
                let shown = String::from_utf8_lossy(&plain).into_owned();
                if plain.is_empty() || plain.contains(&b'/') || plain.contains(&0) || plain == b".." {
                    return Err(PackageFault::new(format!("the name {shown:?} in it is a path")));
                }
                if self.0.insert(plain, data).is_some() {
                    return Err(PackageFault::new(format!("it has two files {shown:?}")));
                }
                if self.0.len() > MEMBERS_MAX {
                    return Err(PackageFault::new("it has more members than any machine"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<Range<u64>> {
        self.0.get(name).cloned()
    }

    /// Those whose names end so, in whichever case.
    pub(super) fn ending(&self, suffix: &[u8]) -> Vec<(&[u8], Range<u64>)> {
        let is_it = |name: &[u8]| name.to_ascii_lowercase().ends_with(suffix);
        let named = self.0.iter().filter(|(name, _)| is_it(name));
        named.map(|(name, range)| (name.as_slice(), range.clone())).collect()
    }
}

fn extension(file: &dyn Disk, data: &Range<u64>) -> Result<Vec<u8>, PackageFault> {
    let length_bytes = data.end.saturating_sub(data.start);
    if length_bytes > EXTENSION_BYTES_MAX {
        return Err(PackageFault::new(format!("a header in it goes on for {length_bytes} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(length_bytes).unwrap_or(0)];
    file.read_at(data.start, &mut bytes)?;
    Ok(bytes)
}

/// POSIX: lines of a length, a space, `key=value` and a line end.
fn fields(mut rest: &[u8], next: &mut Next) -> Result<(), PackageFault> {
    let bad = || PackageFault::new("a header of the archive has fields that are none");
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let digits = rest.get(..space).and_then(|digits| std::str::from_utf8(digits).ok());
        let length: usize = digits.and_then(|digits| digits.parse().ok()).ok_or_else(bad)?;
        let (line, behind) = rest.split_at_checked(length).ok_or_else(bad)?;
        let field = line.get(space.saturating_add(1)..).and_then(|line| line.strip_suffix(b"\n"));
        let field = field.ok_or_else(bad)?;
        if let Some(name) = field.strip_prefix(b"path=") {
            next.name = Some(name.to_vec());
        }
        if let Some(size) = field.strip_prefix(b"size=") {
            let size = std::str::from_utf8(size).ok().and_then(|size| size.parse().ok());
            next.size_bytes = Some(size.ok_or_else(bad)?);
        }
        rest = behind;
    }
    Ok(())
}
