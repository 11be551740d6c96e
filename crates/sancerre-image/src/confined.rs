//! Images whose bytes anybody may have made, parsed by a child that can reach nothing.
//!
//! The child is this program again ([`Helper::own_command`]), which has secluded itself before it gets the first byte of
//! the image: it has one socket and the open files of the image, and can open no other. So a bug in a parser costs
//! wrong bytes of that one disk, and no key, no other file and no other machine.
//!
//! ```text
//! caller: keys, directories, files   ── the open image ──>   child: header, tables, compressed clusters
//!                                    <── "it needs base" ──
//!         may it? ── the open base ──>
//!         offset, length ──────────>
//!         pread <── "so much from there in file 1, so much zeros", or the decompressed bytes
//! ```
//! The caller opens every file, by the rules of [`References`]; it reads what lies in them as it is, without a copy; and it
//! believes no number: a place outside of its file, bytes too many or too few, a word out of turn, or silence is the end
//! of that image, and an error that names it.
//!
//! `wire` is the bytes of the protocol, `channel` the socket, `serve` the child; `open`, `look`, `disk` and `pool` are the
//! caller's side.

mod channel;
mod disk;
mod look;
mod open;
mod package;
mod pool;
mod serve;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sancerre_confine::{Helper, Limits, Seclusion};

use crate::process::{Process, harmless};

pub use crate::beneath::References;
pub use channel::{Lane, Trouble, pair};
pub use disk::ConfinedDisk;
pub use serve::inside;

/// For tables and caches of the largest chain, and the threads of many readers.
const LIMITS: Limits =
    Limits { address_space_bytes: 1 << 30, cpu_seconds: 3 * 24 * 3600, open_files: 512, file_bytes: 0 };
/// A dying disk may take minutes for a table.
const PATIENCE: Duration = Duration::from_secs(180);
/// What the helper ends with when it could not seclude itself; it then said why, and what to do.
const NOT_CONFINED: i32 = 71;
/// What a text of the child's may be long.
const TEXT_BYTES_MAX: usize = 4096;

/// How images are read by a confined child.
#[derive(Debug, Clone)]
pub struct ConfinedReader {
    /// How this program starts itself as the child.
    pub helper: Helper,
    /// False only when the user said `--no-sandbox`.
    pub sandbox: bool,
    /// How much of the machine it may use.
    pub limits: Limits,
    /// How long one answer may take.
    pub patience: Duration,
}

impl ConfinedReader {
    /// With the limits and the patience that fit every image.
    pub fn new(helper: Helper, sandbox: bool) -> Self {
        Self { helper, sandbox, limits: LIMITS, patience: PATIENCE }
    }

    fn start(&self) -> io::Result<Talk> {
        let (ours, theirs) = pair()?;
        let mut command = self.helper.own_command(&Seclusion { limits: self.limits, sandbox: self.sandbox });
        command.stdin(theirs);
        let process = Process::start(command)?;
        Talk::new(ours, Some(process), self.patience)
    }
}

/// The conversation with a child. It ends with this value.
#[derive(Debug)]
struct Talk {
    control: Lane,
    /// None in tests, where a thread plays the child.
    process: Option<Process>,
    patience: Duration,
}

impl Talk {
    fn new(socket: OwnedFd, process: Option<Process>, patience: Duration) -> io::Result<Self> {
        Ok(Self { control: Lane::new(socket, Some(patience))?, process, patience })
    }

    /// Ends the child and says what became of it.
    fn end(&self, trouble: &Trouble) -> String {
        let status = self.process.as_ref().and_then(Process::end);
        let words = self.process.as_ref().map(Process::last_words).unwrap_or_default();
        if *trouble == Trouble::Ended && status.and_then(|status| status.code()) == Some(NOT_CONFINED) {
            return words;
        }
        let mut how = match trouble {
            Trouble::Ended => match status {
                Some(status) => format!("ended ({status})"),
                None => "ended".to_owned(),
            },
            Trouble::Silent => {
                format!("gave no answer for {} seconds, and was ended", self.patience.as_secs())
            }
            Trouble::Lie(what) => format!("broke its protocol ({what}), and was ended"),
            Trouble::System(error) => format!("cannot be reached ({error}), and was ended"),
        };
        if !words.is_empty() {
            how.push_str(&format!(", and said: {words}"));
        }
        format!(
            "the confined child that reads its tables {how}. Look at the image with `qemu-img check`, and try again; if \
             nothing is wrong with it, please report this"
        )
    }
}

/// Text of the child's that goes into a message.
fn told(text: &[u8]) -> String {
    harmless(&String::from_utf8_lossy(text.get(..TEXT_BYTES_MAX).unwrap_or(text)))
}
