//! Private local files: key files and identity files. Made for their owner alone, and not read when others could.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};
use crate::pipe::Patient;

/// Mode of a key file: for its owner alone.
const MODE: u32 = 0o600;
/// What group and others may do with a file.
const OTHERS: u32 = 0o077;
/// UTF-8's byte-order mark.
const MARK: &[u8] = "\u{feff}".as_bytes();
/// Far above any key file.
const SIZE_MAX: u64 = 1 << 20;

/// A key file's place, taken before the key is made, so that no key is made that cannot be kept.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    file: File,
}

fn exists(path: &Path) -> Failure {
    Failure::failed(format!(
        "{} exists; a key file is never replaced. Move it away or name another one, nothing was made",
        path.display()
    ))
}

impl KeyFile {
    /// Says so before a passphrase is asked for.
    pub(crate) fn refuse_existing(path: &Path) -> Result<(), Failure> {
        match path.symlink_metadata() {
            Ok(_) => Err(exists(path)),
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn reserve(path: PathBuf) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let what =
                "a key file is not written to standard output, where others may see it; name a new file";
            return Err(Failure::usage(format!("{what}, or write ./- for one of this name")));
        }
        let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(&path);
        // Whatever the umask takes: the owner must be able to read it.
        let dressed = opened.and_then(|file| {
            let has_mode = file.metadata()?.mode() & 0o777 == MODE;
            if !has_mode {
                file.set_permissions(Permissions::from_mode(MODE))?;
            }
            Ok(file)
        });
        match dressed {
            Ok(file) => Ok(Self { path, file }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(&path)),
            Err(error) => Err(Failure::failed(format!(
                "cannot make the key file {}: {error}; nothing was made, check the path and its permissions",
                path.display()
            ))),
        }
    }

    /// Writes the key; `instead` is what to do when that fails, now that the key is made.
    pub(crate) fn write(mut self, text: &[u8], instead: &str) -> Result<PathBuf, Failure> {
        let written = self.file.write_all(text).and_then(|()| self.file.sync_all());
        written.map(|()| self.path.clone()).map_err(|error| {
            let path = self.path.display();
            Failure::new(Exit::NotAsAsked, format!("{path} cannot be written: {error}; {instead}"))
        })
    }

    /// Removes the empty file again; if that fails the next attempt says that it exists.
    pub(crate) fn give_up(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads a private file; `what` names its kind and `option` where its path came from.
///
/// Errors: it cannot be read; group or others have access to it; it is far too large.
pub(crate) fn read(path: &Path, what: &str, option: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(format!("cannot read the {what} {}: {error}; check {option}", path.display()))
    };
    let unfit =
        |problem: String| Failure::new(Exit::WrongKey, format!("the {what} {} {problem}", path.display()));
    let file = Patient::open(path).map_err(failed)?;
    let metadata = file.file.metadata().map_err(failed)?;
    // A pipe, such as a shell's <(command), has no mode that means anything.
    if metadata.is_file() && metadata.mode() & OTHERS != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(unfit(format!(
            "can be used by other users (mode {mode:04o}); if none did, run `chmod 600 {}`, else have it replaced",
            path.display()
        )));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(SIZE_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > SIZE_MAX {
        return Err(unfit(format!("is larger than 1 MiB, so it is none; check {option}")));
    }
    Ok(as_written(bytes))
}

/// A text without what editors of other systems add: a byte-order mark, and a carriage return before each line end. What
/// is no text stays as it is.
fn as_written(bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    let is_odd = bytes.starts_with(MARK) || bytes.contains(&b'\r');
    if !is_odd || std::str::from_utf8(&bytes).is_err() {
        return bytes;
    }
    let text = bytes.strip_prefix(MARK).unwrap_or(&bytes);
    // No growth: reallocating would leave copies behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(text.len()));
    let next = text.iter().skip(1).map(Some).chain([None]);
    let kept = text.iter().zip(next).filter(|(byte, next)| **byte != b'\r' || *next != Some(&b'\n'));
    plain.extend(kept.map(|(byte, _)| *byte));
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_private_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("writer.key");
        KeyFile::reserve(path.clone()).unwrap().write(b"secret", "").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(KeyFile::reserve(path.clone()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
        std::fs::remove_file(&path).unwrap();
        KeyFile::reserve(path.clone()).unwrap().give_up();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_others_can_use_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("writer.key");
        std::fs::write(&path, "secret").unwrap();
        for (mode, is_read) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o660, false)]
        {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let read = read(&path, "key file", "--key-file");
            assert_eq!(read.is_ok(), is_read, "{mode:o}");
            if let Err(failure) = read {
                assert_eq!(failure.exit, Exit::WrongKey);
                assert!(failure.message.contains("chmod 600"), "{}", failure.message);
            }
        }
    }

    #[test]
    fn what_an_editor_adds_is_no_part_of_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("writer.key");
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            read(&path, "key file", "--key-file").unwrap().to_vec()
        };
        assert_eq!(of("\u{feff}one\r\ntwo\r\n".as_bytes()), b"one\ntwo\n");
        assert_eq!(of(b"one\rtwo\n"), b"one\rtwo\n");
        assert_eq!(of(b"\xff\r\n"), b"\xff\r\n", "no text");
    }

    #[test]
    fn what_is_no_key_file_is_not_read_to_its_end() {
        let failure = read(Path::new("/dev/zero"), "key file", "--key-file").unwrap_err();
        assert!(failure.message.contains("larger than 1 MiB"), "{}", failure.message);
    }
}
