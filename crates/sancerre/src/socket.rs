//! A unix socket that only this user can connect to: refused where something else is, removed at the end.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use tokio::net::UnixListener;

use crate::exit::Failure;
use crate::plain;

/// A socket that is listened on while this lives.
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    /// Device and number of its file: what has its name at the end may be somebody else's.
    identity: (u64, u64),
}

impl Socket {
    /// Listens at `path`. Must be called inside a tokio runtime. The socket of a server that was killed is replaced.
    pub(crate) fn bind(path: &Path) -> Result<Self, Failure> {
        refuse(path)?;
        if path.symlink_metadata().is_ok() {
            fs::remove_file(path).map_err(|error| failed("remove the old socket", path, &error))?;
        }
        // From its first moment nobody else may connect: the mode cannot be given to bind(2).
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = listener.map_err(|error| failed("listen on", path, &error))?;
        let found = path.symlink_metadata().map_err(|error| failed("look at", path, &error))?;
        Ok(Self { listener, path: path.to_owned(), identity: (found.dev(), found.ino()) })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.identity;
        if self.path.symlink_metadata().is_ok_and(is_ours) {
            // The next server takes the place of one that is left.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Fails where no socket can be made: before the repository is opened.
pub(crate) fn refuse(path: &Path) -> Result<(), Failure> {
    let found = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|error| failed("look at", path, &error))?,
    };
    if !found.file_type().is_socket() {
        return Err(Failure::failed(format!(
            "{} exists and is no socket; nothing was changed. Name a path that is free",
            plain::path(path)
        )));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("take the place of", path, &error)),
        Ok(_) => Err(Failure::failed(format!(
            "{} is in use: a server listens there already. Stop that one, or name another path",
            plain::path(path)
        ))),
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot {what} {}: {error}; name a path that this user may write to, of at most 107 bytes",
        plain::path(path)
    ))
}

/// The address of an export behind a socket.
pub(crate) fn uri(export: &str, path: &Path) -> String {
    // Clients may have another working directory.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    format!("nbd+unix:///{}?socket={}", encoded(export.as_bytes()), encoded(path.as_os_str().as_bytes()))
}

/// The address of an export behind TLS.
pub(crate) fn tls_uri(export: &str, address: &str) -> String {
    format!("nbds://{address}/{}", encoded(export.as_bytes()))
}

fn encoded(bytes: &[u8]) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let one =
        |byte: &u8| if is_plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") };
    bytes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_clients_read() {
        let text = uri("disk 0/ö", Path::new("/run/a b?.sock"));
        assert_eq!(text, "nbd+unix:///disk%200/%C3%B6?socket=/run/a%20b%3F.sock");
        assert!(sancerre_image::nbd::NbdUri::parse(&text).is_ok());
    }

    #[tokio::test]
    async fn only_what_is_free_or_dead_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "a file").unwrap();
        assert!(Socket::bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"a file");
        fs::remove_file(&path).unwrap();

        let first = Socket::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(Socket::bind(&path).is_err(), "somebody listens there");
        drop(first);
        assert!(!path.exists());

        // The socket of a server that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let second = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody else's by now").unwrap();
        drop(second);
        assert!(path.exists());
    }
}
