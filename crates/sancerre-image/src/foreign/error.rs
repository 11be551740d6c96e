//! Why a container could not be opened.

use std::io;
use std::path::PathBuf;

use sancerre_advice::Setting::RawFormat;

use crate::{ChangedError, TargetError};

/// Why a container could not be opened: each message names it, and the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A path could not be looked up, or the program not be watched.
    #[error("cannot open {}: {source}; check the path and that this user may read it", path.display())]
    Io {
        /// The image as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path is something else.
    #[error("cannot read {} as an image: it is a {kind}; name an image file", path.display())]
    NotAnImage {
        /// The image as it was named.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// Another program has it open for writing.
    #[error("{source}")]
    InUse {
        /// Which file, and who.
        source: ChangedError,
    },
    /// A file is shorter than the image's own tables say.
    #[error(
        "{file} is cut short: by its own tables it has at least {needed_bytes} bytes, and it has {length_bytes}. What is missing \
         would be zeros, so nothing was saved; bring the whole image back"
    )]
    CutShort {
        /// The image, or the part of it.
        file: String,
        /// What its tables name.
        needed_bytes: u64,
        /// What is there.
        length_bytes: u64,
    },
    /// How long a file must be cannot be told from its tables, so nobody would notice that it was cut short.
    #[error("cannot tell whether {file} is whole: {why}")]
    Unmeasured {
        /// The image, or the part of it.
        file: String,
        /// Why not, and what to do.
        why: String,
    },
    /// It names another file, and nobody said that it may be read.
    #[error(
        "cannot read {}: it needs another file, {name:?}, and that is not in a directory that was named for its parts", path.display()
    )]
    Parts {
        /// The image, or the part that names it.
        path: PathBuf,
        /// As it is spelled there.
        name: String,
    },
    /// The confined child that looks at its tables did not come to an end.
    #[error("cannot read {}: {problem}", path.display())]
    Reader {
        /// The image as it was named.
        path: PathBuf,
        /// What became of the child, and what to do.
        problem: String,
    },
    /// The helper could not be started.
    #[error(
        "cannot start {} to read {}: {source}; check that it is installed whole and that this user may run it", program.display(),
        path.display()
    )]
    Start {
        /// The image as it was named.
        path: PathBuf,
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program did not open the image.
    #[error("qemu-nbd cannot open {} as {format}: {said}; check the file's format, and that it is whole", path.display())]
    Refused {
        /// The image as it was named.
        path: PathBuf,
        /// The format as QEMU calls it.
        format: &'static str,
        /// The program's last words, made harmless; how it looked from here, where there are none.
        said: String,
    },
    /// A VHDX whose writer did not close it, and nowhere to do what is begun in its log.
    #[error(
        "{} was not closed by its writer, and what its log holds cannot be put into a private file: {source}. Set TMPDIR to a folder \
         with room", path.display()
    )]
    Replay {
        /// The image as it was named.
        path: PathBuf,
        /// Why not.
        source: Box<TargetError>,
    },
    /// A part of the image is not there, or outside of the directory that was named for them.
    #[error("qemu-nbd cannot open {} as {format}, for it lacks a file that it needs: {said}", path.display())]
    PartGone {
        /// The image as it was named.
        path: PathBuf,
        /// The format as QEMU calls it.
        format: &'static str,
        /// The program's last words, made harmless.
        said: String,
    },
    /// It does not have the signature of the format.
    #[error(
        "cannot read {} as {format}: {found}; say which format it has, and bring it back whole if it was cut short. A disk \
         that lies there as it is needs {RawFormat}", path.display()
    )]
    OtherFormat {
        /// The image as it was named.
        path: PathBuf,
        /// The format as it is usually written.
        format: &'static str,
        /// What it is instead.
        found: String,
    },
    /// An archive holds no machine that can be imported.
    #[error("cannot import {}: {fault}; nothing was saved", path.display())]
    Package {
        /// The archive as it was named.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The program did not write the image.
    #[error("qemu-img does not write {} as {format}: {said}", path.display())]
    Unwritten {
        /// Where it was to be.
        path: PathBuf,
        /// The format as QEMU calls it.
        format: &'static str,
        /// How it ended and its last words, made harmless.
        said: String,
    },
}
