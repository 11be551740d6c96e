//! Where a guest has its volumes: by its own table of mounts, or by letters.

use sancerre_guest::{Guest, VolumeContent, VolumeInfo};

use crate::exit::Failure;
use crate::guest_place::{self, readable, root};

/// A longer table is none.
const TABLE_BYTES_MAX: u64 = 1 << 20;
/// What gets no letter, by what Windows itself calls it.
const UNLETTERED: [&str; 4] =
    ["efi system partition", "system reserved", "recovery", "microsoft reserved partition"];

/// The volumes of a Linux guest by where they are mounted.
#[derive(Debug)]
pub(crate) struct Mounts {
    /// The volume that has the table.
    pub(crate) root: u16,
    others: Vec<(Vec<u8>, u16)>,
}

impl Mounts {
    /// By the table of the first volume that has one; none when none has.
    pub(crate) fn of_linux(guest: &Guest) -> Result<Option<Self>, Failure> {
        for volume in readable(guest, None) {
            if let Some(table) = table(guest, volume)? {
                return Ok(Some(Self { root: volume, others: parse(guest, &table, volume) }));
            }
        }
        Ok(None)
    }

    /// What is mounted at a path.
    pub(crate) fn at(&self, path: &[u8]) -> Option<u16> {
        self.others.iter().find(|(at, _)| at == path).map(|(_, volume)| *volume)
    }

    /// The volume with a letter: C is the one with Windows on it, the others follow in the order of partitions.
    pub(crate) fn letter(guest: &Guest, letter: char) -> Result<u16, Failure> {
        let all = lettered(guest);
        let number = usize::try_from(u32::from(letter).saturating_sub(u32::from('C'))).unwrap_or(usize::MAX);
        let found = all.get(number).copied().filter(|_| letter >= 'C');
        found.ok_or_else(|| {
            Failure::usage(format!(
                "there is no drive {letter}: by the order of partitions, the file systems that Windows would give a letter are {}; \
                 write DISK:VOLUME/PATH",
                all.len()
            ))
        })
    }
}

/// The volumes that have letters, from C on.
fn lettered(guest: &Guest) -> Vec<u16> {
    let lettered: Vec<u16> =
        readable(guest, None).into_iter().filter(|volume| has_letter(guest, *volume)).collect();
    let has_windows = |volume: &&u16| {
        let found = root(guest, **volume).map(|root| guest.find(**volume, root, b"Windows").is_ok());
        found.unwrap_or(false)
    };
    let system = lettered.iter().find(has_windows).or(lettered.first()).copied();
    let others = lettered.iter().copied().filter(|volume| Some(*volume) != system);
    system.into_iter().chain(others).collect()
}

/// Where the guest knows its volumes.
pub(crate) struct Places {
    linux: Option<Mounts>,
    letters: Vec<u16>,
}

impl Places {
    /// By the guest's table of mounts, and by letters. A table that cannot be read is none.
    pub(crate) fn of(guest: &Guest) -> Self {
        Self { linux: Mounts::of_linux(guest).ok().flatten(), letters: lettered(guest) }
    }

    /// `/srv`, or `C:`; empty where it is not known.
    pub(crate) fn of_volume(&self, volume: u16) -> Vec<u8> {
        if let Some(mounts) = &self.linux {
            let place = mounts.others.iter().find(|(_, mounted)| *mounted == volume);
            match place {
                Some((place, _)) => return place.clone(),
                None if mounts.root == volume => return b"/".to_vec(),
                None => {}
            }
        }
        let letter = self.letters.iter().position(|lettered| *lettered == volume);
        let letter =
            letter.and_then(|at| u8::try_from(at).ok()?.checked_add(b'C')).filter(u8::is_ascii_uppercase);
        letter.map_or_else(Vec::new, |letter| vec![letter, b':'])
    }
}

fn has_letter(guest: &Guest, volume: u16) -> bool {
    let Some(info) = guest.volumes().get(usize::from(volume)) else { return false };
    let VolumeContent::Files(files) = &info.content else { return false };
    let is_odd = |label: &[u8]| {
        let label = String::from_utf8_lossy(label).to_lowercase();
        UNLETTERED.iter().any(|odd| label == *odd)
    };
    let is_windows = files.kind == "NTFS" || files.kind == "exFAT" || files.kind.starts_with("FAT");
    is_windows && !is_odd(&info.label) && !is_odd(&files.label)
}

/// The table of mounts in a volume.
fn table(guest: &Guest, volume: u16) -> Result<Option<Vec<u8>>, Failure> {
    let root = root(guest, volume)?;
    let found = guest.find(volume, root, b"etc").and_then(|etc| guest.find(volume, etc.id, b"fstab"));
    let Ok(node) = found else { return Ok(None) };
    if node.size_bytes > TABLE_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(node.size_bytes).unwrap_or(0)];
    let mut at = 0_usize;
    if node.size_bytes == 0 {
        return Ok(Some(bytes));
    }
    for run in guest.runs(volume, node.id, b"", 0..node.size_bytes).unwrap_or_default() {
        let length = usize::try_from(run.length_bytes).unwrap_or(0);
        let Some(piece) = bytes.get_mut(at..at.saturating_add(length)) else { return Ok(None) };
        let read = match run.place {
            sancerre_guest::RunPlace::Hole => Ok(()),
            sancerre_guest::RunPlace::Held => {
                guest.held(volume, node.id, b"", u64::try_from(at).unwrap_or(u64::MAX), piece)
            }
            sancerre_guest::RunPlace::Disk { disk, offset } => match guest.disks().get(usize::from(disk)) {
                Some(disk) => disk.read_at(offset, piece).map_err(Into::into),
                None => Ok(()),
            },
        };
        read.map_err(|error| guest_place::failure("etc/fstab", error))?;
        at = at.saturating_add(length);
    }
    Ok(Some(bytes))
}

fn parse(guest: &Guest, table: &[u8], root: u16) -> Vec<(Vec<u8>, u16)> {
    let mut mounts = Vec::new();
    for line in table.split(|byte| *byte == b'\n') {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let (Some(what), Some(at)) = (words.next(), words.next()) else { continue };
        if what.starts_with(b"#") || !at.starts_with(b"/") || at == b"/" {
            continue;
        }
        let at = at.strip_suffix(b"/").unwrap_or(at);
        if let Some(volume) = volume(guest, &String::from_utf8_lossy(what)).filter(|volume| *volume != root) {
            mounts.push((octal(at), volume));
        }
    }
    mounts
}

/// The volume that a table means.
fn volume(guest: &Guest, what: &str) -> Option<u16> {
    let what = what.trim_matches('"');
    let find = |is_it: &dyn Fn(&VolumeInfo) -> bool| {
        guest.volumes().iter().position(is_it).and_then(|at| u16::try_from(at).ok())
    };
    let files = |volume: &VolumeInfo| match &volume.content {
        VolumeContent::Files(files) => Some((files.uuid.clone(), files.label.clone())),
        _ => None,
    };
    if let Some(uuid) = what.strip_prefix("UUID=") {
        let uuid = uuid.trim_matches('"');
        return find(&|volume| files(volume).is_some_and(|(known, _)| known.eq_ignore_ascii_case(uuid)));
    }
    if let Some(label) = what.strip_prefix("LABEL=") {
        let label = label.trim_matches('"');
        return find(&|volume| files(volume).is_some_and(|(_, known)| known == label.as_bytes()));
    }
    if let Some(name) = what.strip_prefix("/dev/mapper/") {
        let name = name.replace("--", "\u{0}").replace('\u{0}', "-");
        return find(&|volume| volume.disk.is_none() && volume.name == name);
    }
    let device = what.strip_prefix("/dev/")?;
    if let Some((group, name)) = device.split_once('/') {
        let name = format!("{group}-{name}");
        return find(&|volume| volume.disk.is_none() && volume.name == name);
    }
    // sda1, vdb2: the letter is the number of the disk.
    let rest = ["sd", "vd", "hd", "xvd"].iter().find_map(|kind| device.strip_prefix(kind))?;
    let mut letters = rest.chars();
    let disk = u16::try_from(u32::from(letters.next()?).checked_sub(u32::from('a'))?).ok()?;
    let name =
        if letters.as_str().is_empty() { "whole".to_owned() } else { format!("p{}", letters.as_str()) };
    find(&|volume| volume.disk == Some(disk) && volume.name == name)
}

/// Spaces in a table are written as `\040`.
fn octal(word: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), word);
    while let Some((first, behind)) = rest.split_first() {
        let digits =
            behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::octal;

    #[test]
    fn spaces_in_a_table_are_numbers() {
        assert_eq!(octal(b"/a\\040b\\x"), b"/a b\\x");
    }
}
