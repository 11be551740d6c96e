//! Runs a program that reads foreign bytes, such as `qemu-nbd` on an image from anywhere, so that it can reach nothing
//! but what it was given.
//!
//! There is no safe way to do something in a child between `fork` and `exec`. So the caller starts *itself* again
//! with a hidden subcommand; that process, which has seen no foreign byte yet, confines itself and then becomes the
//! program:
//!
//! ```text
//! caller ── Helper::command(confinement) ──> the same program, `__confine …`
//!             close descriptors, limits, drop rights, no_new_privs, Landlock, seccomp
//!             exec ──> qemu-nbd, which opens the image
//! ```
//! What it then has: standard input, output and error as the caller set them, an environment of four variables, a
//! socket to listen on if it was given one; it reads the files it was given, its own program, and libraries, and writes
//! to those that it was given to write. What it has not: any other file, any network or new socket, another process,
//! more rights, memory or time than the limits. It is killed when its caller ends.
//!
//! What this program parses itself goes the same way, only that the process stays what it is ([`Seclusion`]): it
//! opens nothing at all, and has what is sent to it through its standard input.
//!
//! Landlock or seccomp missing is an error, unless the caller said that it may be.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod arguments;
mod calls;
mod descriptors;
mod error;
mod fields;
mod files;
mod helper;
mod rights;

use std::ffi::OsString;
use std::path::PathBuf;

pub use error::ConfineError;
pub use fields::PacketFields;
pub use helper::{Helper, SUBCOMMAND, run};

/// What a program is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// The program, as an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Files that it may read, and directories below which it may read everything.
    pub readable: Vec<PathBuf>,
    /// Files, which are there, that it may write and cut. With any of them it may also change open files.
    pub writable: Vec<PathBuf>,
    /// How much of the machine it may use.
    pub limits: Limits,
    /// Standard input is a socket: the program gets it as a service manager would pass it (`LISTEN_FDS`).
    pub listens: bool,
    /// Without, Landlock and seccomp are left out: the program then may read whatever its user may.
    pub sandbox: bool,
}

/// What this program itself is given when it reads foreign bytes: standard input, output and error, and no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seclusion {
    /// How much of the machine it may use.
    pub limits: Limits,
    /// As of [`Confinement::sandbox`].
    pub sandbox: bool,
}

/// How much of the machine a program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Address space, its code and libraries included.
    pub address_space_bytes: u64,
    /// Time on processors.
    pub cpu_seconds: u64,
    /// Open files.
    pub open_files: u64,
    /// Length of each file that it may write.
    pub file_bytes: u64,
}

impl Default for Limits {
    /// For reading an image of terabytes with a hundred requests under way. A program that hangs is ended by the
    /// caller's own clock long before.
    fn default() -> Self {
        Self {
            address_space_bytes: 2 << 30,
            cpu_seconds: 3 * 24 * 3600,
            open_files: 4096,
            file_bytes: u64::MAX,
        }
    }
}
