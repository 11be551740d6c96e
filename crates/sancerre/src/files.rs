//! Files that the program brings up to date: reports, metrics, the memory of an audit.
//!
//! What is a plain file, also behind links, is replaced whole or not at all, and keeps its owner and mode. What is none,
//! a pipe, a terminal, `/dev/null`, is written into and never replaced: as root that would take a device away from the
//! whole machine.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, fcntl_setfl};
use sancerre_engine::host::Host;

use crate::output::Output;

/// Names of standard output.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
/// Where the names of open descriptors lie.
const DESCRIPTORS: [&str; 3] = ["/dev/fd/", "/proc/self/fd/", "/dev/std"];
/// Links that are followed: as many as the kernel follows.
const LINKS_MAX: usize = 40;
/// Names beside a file that are tried.
const NAMES_MAX: usize = 16;
/// How much of a file says what it is.
const BEGINNING: u64 = 1024;
/// For everybody to read.
const READABLE: u32 = 0o644;
/// What group and others may do with a file.
const OTHERS: u32 = 0o077;

/// Who should be able to read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Whoever may by the umask, or by the mode that it has.
    Usual,
    /// Another user, whatever the umask: a file that only its owner can read is opened to all.
    All,
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Standard output.
    Stdout,
    /// Something to write into.
    Through(PathBuf),
    /// A plain file behind all links, or none yet.
    File(PathBuf),
}

/// Whether a path stands for standard output.
pub(crate) fn is_stdout(path: &Path) -> bool {
    STDOUT.iter().any(|name| path == Path::new(name))
}

/// What a path leads to.
///
/// Errors: that it is nothing that can be written to; those of looking.
pub(crate) fn destination(path: &Path) -> io::Result<Destination> {
    if is_stdout(path) {
        return Ok(Destination::Stdout);
    }
    match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) => match found.file_type() {
            kind if kind.is_dir() => return Err(io::Error::other("it is a directory")),
            kind if kind.is_block_device() => return Err(io::Error::other("it is a block device")),
            kind if !kind.is_file() => return Ok(Destination::Through(path.to_owned())),
            _ if DESCRIPTORS
                .iter()
                .any(|folder| path.as_os_str().as_encoded_bytes().starts_with(folder.as_bytes())) =>
            {
                return Ok(Destination::Through(path.to_owned()));
            }
            _ => {}
        },
    }
    behind_links(path).map(Destination::File)
}

/// Where the last of a row of links points to, be anything there or not.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        if !path.is_symlink() {
            return Ok(path);
        }
        let to = std::fs::read_link(&path)?;
        path = path.parent().map_or_else(|| to.clone(), |folder| folder.join(&to));
    }
    Err(io::Error::other("it is a link to itself"))
}

/// Refuses to replace a plain file that holds anything but what `is_ours` knows by its first bytes.
///
/// Errors: it holds something else; those of looking.
pub(crate) fn refuse_other(path: &Path, is_ours: fn(&[u8]) -> bool) -> io::Result<()> {
    let Destination::File(path) = destination(path)? else { return Ok(()) };
    let mut start = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(BEGINNING).read_to_end(&mut start)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match start.is_empty() || is_ours(&start) {
        true => Ok(()),
        false => Err(io::Error::other("it holds something else, which is not replaced")),
    }
}

/// Brings what is at `path` up to date.
pub(crate) fn write(
    path: &Path,
    bytes: &[u8],
    readers: Readers,
    host: &Host,
    output: &Output,
) -> io::Result<()> {
    match destination(path)? {
        Destination::Stdout => match output.take_stdout() {
            Some(mut stdout) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            None => Err(io::Error::other("standard output is in use already")),
        },
        Destination::Through(path) => write_through(&path, bytes),
        Destination::File(path) => replace(&path, bytes, readers, host),
    }
}

/// Nobody waits for a reader of a pipe that has none.
fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = OpenOptions::new().append(true).custom_flags(flags).open(path);
    let mut file = opened.map_err(|error| match error.raw_os_error() {
        // ENXIO
        Some(6) => io::Error::other("it is a pipe that nobody reads from"),
        _ => error,
    })?;
    fcntl_setfl(&file, OFlags::APPEND)?;
    file.write_all(bytes)
}

fn replace(path: &Path, bytes: &[u8], readers: Readers, host: &Host) -> io::Result<()> {
    let (mut file, beside) = beside(path, host)?;
    let old = match path.metadata() {
        Ok(old) => Some(old),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let written = file.write_all(bytes).and_then(|()| dress(&file, old.as_ref(), readers));
    let written = written.and_then(|()| file.sync_all());
    written.and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| {
        // The error is what counts; a leftover is only untidy.
        let _ = std::fs::remove_file(&beside);
    })
}

/// A new file in the same folder. Another ending, so that nobody who collects such files takes it for one; a name that
/// nobody can guess and put a link at.
fn beside(path: &Path, host: &Host) -> io::Result<(File, PathBuf)> {
    let mut failed = io::Error::from(ErrorKind::AlreadyExists);
    for _ in 0..NAMES_MAX {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{:016x}.tmp", u64::from_le_bytes(host.random())));
        let beside = PathBuf::from(beside);
        match OpenOptions::new().write(true).create_new(true).open(&beside) {
            Ok(file) => return Ok((file, beside)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => failed = error,
            Err(error) => return Err(error),
        }
    }
    Err(failed)
}

/// Gives a file the owner and the mode of the one that it replaces, and lets those read it who should.
fn dress(file: &File, old: Option<&Metadata>, readers: Readers) -> io::Result<()> {
    let own = file.metadata()?;
    if let Some(old) = old.filter(|old| (old.uid(), old.gid()) != (own.uid(), own.gid())) {
        // Only root gives files away; for others it stays theirs, as every editor leaves it.
        let _ = fchown(file, Some(Uid::from_raw(old.uid())), Some(Gid::from_raw(old.gid())));
    }
    let mode = old.unwrap_or(&own).permissions().mode() & 0o7777;
    let mode = if readers == Readers::All && mode & OTHERS == 0 { mode | READABLE } else { mode };
    match own.permissions().mode() & 0o7777 == mode {
        // Some file systems have no modes to change.
        true => Ok(()),
        false => Ok(fchmod(file, Mode::from_raw_mode(mode))?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn written(path: &Path, text: &str, readers: Readers) -> io::Result<()> {
        replace(path, text.as_bytes(), readers, &Host::real("test"))
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn a_path_leads_to_a_file_to_something_to_write_into_or_to_standard_output() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        symlink("file", at("link")).unwrap();
        symlink(at("link"), at("link2")).unwrap();
        symlink("missing", at("dangling")).unwrap();
        symlink("round", at("round")).unwrap();
        for name in ["file", "link", "link2"] {
            assert_eq!(destination(&at(name)).unwrap(), Destination::File(at("file")), "{name}");
        }
        assert_eq!(destination(&at("dangling")).unwrap(), Destination::File(at("missing")));
        assert_eq!(destination(&at("none")).unwrap(), Destination::File(at("none")));
        assert_eq!(destination(Path::new("/dev/null")).unwrap(), Destination::Through("/dev/null".into()));
        assert_eq!(destination(Path::new("-")).unwrap(), Destination::Stdout);
        destination(&at("round")).unwrap_err();
        destination(folder.path()).unwrap_err();
    }

    #[test]
    fn a_file_keeps_its_mode_and_one_for_others_can_be_read_by_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for (had, readers, has) in [
            (0o640, Readers::Usual, 0o640),
            (0o600, Readers::Usual, 0o600),
            (0o640, Readers::All, 0o640),
            (0o600, Readers::All, 0o644),
        ] {
            std::fs::write(&path, "old").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(had)).unwrap();
            written(&path, "new", readers).unwrap();
            assert_eq!((mode(&path), std::fs::read_to_string(&path).unwrap().as_str()), (has, "new"));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_file_is_written_into() {
        write_through(Path::new("/dev/null"), b"report").unwrap();
        let error = write_through(Path::new("/dev/full"), b"report").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
    }
}
