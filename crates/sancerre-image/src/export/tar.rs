//! Headers of tar archives as GNU writes them: VMware takes no others where a member has 8 GiB or more.

/// Archives are made of blocks.
pub(crate) const BLOCK_BYTES: u64 = 512;
const BLOCK: usize = 512;
/// Longest name of a header, with the zero behind it.
const NAME: usize = 100;
/// The largest size that fits as octal digits.
const OCTAL_MAX: u64 = 0o777_7777_7777;
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// What a header says of the member behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) size_bytes: u64,
    pub(crate) kind: EntryKind,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    /// GNU: the name of the next member, which is too long for a header.
    LongName,
    /// POSIX: fields of the next member.
    Fields,
    /// POSIX: fields of all that follows.
    GlobalFields,
    /// A link, a device, a member in pieces, or something that nobody knows.
    Other(u8),
}

/// The header of a file. None for a name that is empty or too long.
pub(super) fn header(name: &str, size_bytes: u64, modified: u64) -> Option<[u8; BLOCK]> {
    if name.is_empty() || name.len() >= NAME {
        return None;
    }
    let size = match size_bytes <= OCTAL_MAX {
        true => format!("{size_bytes:011o}\0").into_bytes(),
        // In base 256, which the highest bit says.
        false => [&[0x80, 0, 0, 0][..], &size_bytes.to_be_bytes()].concat(),
    };
    let modified = format!("{:011o}\0", modified.min(OCTAL_MAX));
    let mut header = [0; BLOCK];
    let fields: [(usize, &[u8]); 9] = [
        (0, name.as_bytes()),
        (100, b"0000644\0"),
        (108, b"0000000\0"),
        (116, b"0000000\0"),
        (124, &size),
        (136, modified.as_bytes()),
        (148, b"        "),
        (156, b"0"),
        (257, b"ustar  \0"),
    ];
    for (at, field) in fields {
        header.get_mut(at..)?.get_mut(..field.len())?.copy_from_slice(field);
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header.get_mut(CHECKSUM)?.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(header)
}

/// What a header says; none where all is zeros, which is the end of an archive.
///
/// Errors: what is no header.
pub(crate) fn entry(block: &[u8; BLOCK]) -> Result<Option<Entry>, &'static str> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let field = |at: usize, length: usize| block.get(at..at.saturating_add(length)).unwrap_or_default();
    let stated = number(field(148, 8)).ok_or("a header without a checksum")?;
    let counted = block.iter().enumerate().map(|(at, byte)| match CHECKSUM.contains(&at) {
        true => u64::from(b' '),
        false => u64::from(*byte),
    });
    if counted.sum::<u64>() != stated {
        return Err("a header whose checksum is wrong");
    }
    let size_bytes = number(field(124, 12)).ok_or("a header without a size")?;
    let kind = match field(156, 1) {
        [b'0' | 0 | b'7'] => EntryKind::File,
        [b'5'] => EntryKind::Directory,
        [b'L'] => EntryKind::LongName,
        [b'x'] => EntryKind::Fields,
        [b'g'] => EntryKind::GlobalFields,
        other => EntryKind::Other(other.first().copied().unwrap_or_default()),
    };
    let mut name = text(field(0, NAME)).to_vec();
    // Only POSIX has the first part of a long name there.
    let prefix = text(field(345, 155));
    if field(257, 6) == b"ustar\0" && !prefix.is_empty() {
        name = [prefix, b"/", &name].concat();
    }
    Ok(Some(Entry { name, size_bytes, kind }))
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or base 256 where the highest bit is set.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (0x80, rest) => {
            let (high, low) = rest.split_last_chunk::<8>()?;
            high.iter().all(|byte| *byte == 0).then_some(u64::from_be_bytes(*low))
        }
        (0x81.., _) => None,
        _ => {
            let digits = std::str::from_utf8(text(field)).ok()?.trim_matches(' ');
            let is_octal = digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
            if is_octal { u64::from_str_radix(digits, 8).ok() } else { None }
        }
    }
}

/// The bytes that a member takes: whole blocks.
pub(crate) fn whole_blocks(size_bytes: u64) -> Option<u64> {
    size_bytes.checked_next_multiple_of(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_it_was_told_whatever_the_size() {
        for size_bytes in [0, 1, OCTAL_MAX, OCTAL_MAX + 1, 1 << 50, u64::MAX] {
            let found =
                entry(&header("web01-disk1.vmdk", size_bytes, 1_800_000_000).unwrap()).unwrap().unwrap();
            let name = b"web01-disk1.vmdk".to_vec();
            assert_eq!(found, Entry { name, size_bytes, kind: EntryKind::File });
        }
        assert_eq!(header("", 1, 1), None);
        assert_eq!(header(&"x".repeat(100), 1, 1), None);
        assert_eq!(entry(&[0; BLOCK]), Ok(None));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let good = header("a", 7, 7).unwrap();
        for at in 0..BLOCK {
            let mut bad = good;
            bad[at] ^= 1;
            assert!(entry(&bad).is_err() || CHECKSUM.contains(&at), "{at}");
        }
        assert!(entry(&[b'x'; BLOCK]).is_err());
    }
}
