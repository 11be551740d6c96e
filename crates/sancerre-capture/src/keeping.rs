//! The process that ends the job of a backup that was killed. It waits for the end of its input. A word before that end says that all is
//! over; an end without one, that nobody is there any more. Signals that end programs do not end it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use crate::error::CaptureError;
pub use crate::keeper::SUBCOMMAND;
use crate::keeper::{BY_MONITOR, OVER, PullJob};
use crate::place;
use crate::qemu;
use crate::virsh::Virsh;

/// What the dead one asked of libvirt goes on, and is waited for; a backup that came meanwhile removes all by itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// The keeper: returns with its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let [program, uri, id, folder, more @ ..] = arguments.as_slice() else { return 2 };
    let mut told = String::new();
    // One that died says nothing.
    let _ = io::stdin().lock().read_to_string(&mut told);
    if told == OVER {
        return 0;
    }
    let (Some(uri), Some(id)) = (uri.to_str(), id.to_str()) else { return 2 };
    let Ok(_lock) = place::lock(Path::new(folder), id, PATIENCE) else { return 1 };
    let ended = match uri {
        BY_MONITOR => qemu::end_left(Path::new(program)),
        uri => end_pull(program, uri, id, more),
    };
    if ended.is_ok() { 0 } else { 1 }
}

fn end_pull(program: &OsStr, uri: &str, uuid: &str, more: &[OsString]) -> Result<(), CaptureError> {
    let [socket, scratch @ ..] = more else { return Ok(()) };
    let virsh = Virsh::new(program.into(), uri)?;
    PullJob { virsh, uuid: uuid.to_owned(), socket: socket.into() }.end()?;
    for path in scratch {
        let _ = fs::remove_file(path);
    }
    Ok(())
}
