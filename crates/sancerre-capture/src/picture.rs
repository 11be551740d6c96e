//! A still picture of a machine's disks: what is asked of it, what it is, and who can take one.

use std::path::PathBuf;

use crate::error::CaptureError;
use crate::guard::{FreezeOptions, Frozen};

/// Where changes to devices are kept when nobody says.
pub(crate) const DEVICES: &str = "/var/tmp";

/// What is asked of a picture.
#[derive(Debug, Clone, Default)]
pub struct Pull {
    /// The hash of the session that saves it, in hexadecimal; none leaves no checkpoint behind.
    pub session: Option<String>,
    /// The ids of the machine's snapshots, the newest last.
    pub snapshots: Vec<String>,
    /// This program, which starts itself to end the picture should this process be killed; none goes without.
    pub program: Option<PathBuf>,
    /// The targets of the disks that are wanted.
    pub targets: Vec<String>,
    /// How it is frozen; none leaves it running.
    pub freeze: Option<FreezeOptions>,
    /// Whether there is no picture without that.
    pub must_freeze: bool,
}

/// A machine of which a picture can be taken.
pub trait Pictured: Send {
    /// Takes the picture.
    ///
    /// # Errors
    /// Why there is none; what was begun ends with [`Pictured::end`].
    fn begin(&mut self, pull: &Pull) -> Result<Picture, CaptureError>;

    /// Why the picture was given up before it was read, if it was.
    fn given_up(&self) -> Option<String>;

    /// Why what was read may be of several moments, in words; asked once all is read, and before the end. libvirt takes the disks
    /// away itself when that happens.
    fn broken(&self) -> Option<String> {
        None
    }

    /// Ends the picture. Returns what could not be removed, in words; the next backup tries again.
    fn end(&mut self, is_saved: bool) -> Vec<String>;
}

/// A picture, which stays until [`Pictured::end`].
#[derive(Debug)]
pub struct Picture {
    /// Its disks.
    pub disks: Vec<PictureDisk>,
    /// The snapshot that the changes are since.
    pub base: Option<String>,
    /// How the guest stood still.
    pub frozen: Option<Frozen>,
    /// What should be known.
    pub notes: Vec<String>,
}

/// A disk of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureDisk {
    /// Its target, by which the server knows it too.
    pub target: String,
    /// The server.
    pub socket: PathBuf,
    /// The server's name for the list of what changed.
    pub bitmap: Option<String>,
}
