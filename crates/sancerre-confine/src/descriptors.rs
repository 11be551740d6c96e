//! Closes what was inherited, and puts a socket where a program expects it from a service manager.

use std::io;
use std::os::fd::AsRawFd;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

/// The first descriptor after the standard ones, which is also where passed sockets begin.
const FIRST: i32 = 3;

/// Closes every descriptor but the standard ones. Only for a process that is about to become another program: whoever
/// owns one of them here is not asked.
pub(crate) fn close_inherited() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        open.extend(
            name.to_str().and_then(|name| name.parse::<i32>().ok()).filter(|number| *number >= FIRST),
        );
    }
    for number in open {
        // The directory that was listed is closed already.
        match nix::unistd::close(number) {
            Ok(()) | Err(nix::errno::Errno::EBADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Moves standard input to the first passed descriptor; nothing is read from standard input any more.
pub(crate) fn pass_listener() -> io::Result<()> {
    let listener = fcntl_dupfd_cloexec(rustix::stdio::stdin(), FIRST)?;
    if listener.as_raw_fd() != FIRST {
        return Err(io::Error::other("the place of the socket is taken"));
    }
    fcntl_setfd(&listener, FdFlags::empty())?;
    rustix::stdio::dup2_stdin(&std::fs::File::open("/dev/null")?)?;
    // It stays open for the program.
    std::mem::forget(listener);
    Ok(())
}
