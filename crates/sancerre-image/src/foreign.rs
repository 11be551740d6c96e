//! A disk in a container that we do not read ourselves: `qemu-nbd` reads it, confined, and we read its export.
//!
//! The caller names the format, which is passed on: a guest writes every byte of a raw disk, so that nobody may guess.
//! The container is hostile: it may name other files as its parts. The program can open the container alone, or
//! what is in the directory that the caller allows besides.
//!
//! A socket in a private directory is made first and passed to the program, which thus needs no right to make one. The
//! program ends with us, however we end.

mod convert;
mod error;
mod program;
mod watch;
pub(crate) mod whole;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sancerre_confine::{Confinement, Helper, Limits};

pub use convert::{Conversion, ImageWriter};
pub use error::ImageError;
pub use whole::{Parts, look};

use crate::confined::ConfinedReader;
use crate::nbd::{NbdDisk, NbdOptions, NbdUri};
use crate::{ChangedError, Disk, ReadError, kind};
use program::Program;
use watch::Watch;

/// A container of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageFormat {
    /// VMware: sparse, stream-optimised, flat and split.
    Vmdk,
    /// Virtual PC and Azure: VHD.
    Vhd,
    /// Hyper-V: VHDX.
    Vhdx,
    /// VirtualBox.
    Vdi,
    /// Parallels.
    Parallels,
    /// The format between qcow and qcow2.
    Qed,
}

impl ImageFormat {
    /// What QEMU calls it.
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::Vmdk => "vmdk",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Parallels => "parallels",
            Self::Qed => "qed",
        }
    }
}

/// How foreign containers are read.
#[derive(Debug, Clone)]
pub struct ImageReader {
    /// `qemu-nbd`, as an absolute path.
    pub qemu_nbd: PathBuf,
    /// How this program starts itself as the confine helper.
    pub helper: Helper,
    /// How much of the machine the reader may use.
    pub limits: Limits,
    /// False only when the user said `--no-sandbox`.
    pub sandbox: bool,
    /// How its export is read.
    pub options: NbdOptions,
}

/// A disk in a foreign container, open for reading.
#[derive(Debug)]
pub struct ImageDisk {
    path: PathBuf,
    watch: Watch,
    // The connections are closed before the program is ended.
    disk: NbdDisk,
    _program: Program,
}

impl ImageReader {
    /// Opens `image`, a regular file in the format that the caller names. Its other parts, such as the extents of a
    /// split VMDK or the base of a delta, are read only if they lie in `allowed`.
    ///
    /// # Errors
    /// [`ImageError`], with what the program said of the image.
    pub fn open(
        &self,
        image: &Path,
        format: ImageFormat,
        allowed: Option<&Path>,
    ) -> Result<ImageDisk, ImageError> {
        let fail = |source| ImageError::Io { path: image.to_owned(), source };
        let file_type = fs::metadata(image).map_err(fail)?.file_type();
        if !file_type.is_file() {
            return Err(ImageError::NotAnImage { path: image.to_owned(), kind: kind::name(file_type) });
        }
        // An absolute path without links: neither a name nor a link in it is a protocol of QEMU's.
        let real = fs::canonicalize(image).map_err(fail)?;
        let allowed = allowed.map(fs::canonicalize).transpose().map_err(fail)?;
        ConfinedReader::new(self.helper.clone(), self.sandbox).look(&real, format, allowed.as_deref())?;
        let arguments = ["--format", format.qemu_name(), "--"].map(OsString::from).to_vec();
        self.start(image, format, self.confinement(&real, arguments, allowed), &real)
    }

    /// Opens a VMDK that lies in a stretch of a file, such as an OVA. Whether it is whole is for the caller to look at.
    ///
    /// # Errors
    /// As [`ImageReader::open`].
    pub fn open_inside(&self, file: &Path, place: Range<u64>) -> Result<ImageDisk, ImageError> {
        let fail = |source| ImageError::Io { path: file.to_owned(), source };
        let real = fs::canonicalize(file).map_err(fail)?;
        let size_bytes = place.end.saturating_sub(place.start);
        let format = ImageFormat::Vmdk;
        let mut image = OsString::from(format!(
            "driver={},file.driver=raw,file.offset={},file.size={size_bytes},file.file.driver=file,file.file.filename=",
            format.qemu_name(),
            place.start
        ));
        // A comma ends a value, and two are one.
        for (number, part) in real.as_os_str().as_bytes().split(|byte| *byte == b',').enumerate() {
            image.push(if number > 0 { ",," } else { "" });
            image.push(OsStr::from_bytes(part));
        }
        let mut confinement = self.confinement(&real, vec!["--image-opts".into(), "--".into()], None);
        confinement.arguments.pop();
        confinement.arguments.push(image);
        self.start(file, format, confinement, &real)
    }

    /// Starts the program, and opens its export.
    fn start(
        &self,
        image: &Path,
        format: ImageFormat,
        confinement: Confinement,
        real: &Path,
    ) -> Result<ImageDisk, ImageError> {
        let fail = |source| ImageError::Io { path: image.to_owned(), source };
        let program = Program::start(&self.helper, &confinement).map_err(|source| ImageError::Start {
            path: image.to_owned(),
            program: self.qemu_nbd.clone(),
            source,
        })?;
        let uri = NbdUri::unix(program.socket().to_owned(), "");
        let disk = match NbdDisk::open(&uri, &self.options) {
            Ok(disk) => disk,
            Err(source) => {
                let (path, format) = (image.to_owned(), format.qemu_name());
                return Err(ImageError::Refused {
                    path,
                    format,
                    said: program.last_words(),
                    source: Box::new(source),
                });
            }
        };
        let watch = Watch::of(program.id(), real).map_err(fail)?;
        Ok(ImageDisk { path: image.to_owned(), watch, disk, _program: program })
    }

    /// For `qemu-nbd` with these arguments, and the image as the last one.
    fn confinement(&self, image: &Path, more: Vec<OsString>, allowed: Option<PathBuf>) -> Confinement {
        let shared = self.options.connections.max(1).to_string();
        let mut arguments = ["--read-only", "--shared", &shared].map(OsString::from).to_vec();
        arguments.extend(more);
        arguments.push(image.as_os_str().to_owned());
        Confinement {
            program: self.qemu_nbd.clone(),
            arguments,
            readable: std::iter::once(image.to_owned()).chain(allowed).collect(),
            writable: Vec::new(),
            limits: self.limits,
            listens: true,
            sandbox: self.sandbox,
        }
    }
}

impl ImageDisk {
    /// Nobody knows the export by which it is read: it is the image that cannot be read.
    fn of_image(&self, error: ReadError) -> ReadError {
        match error {
            ReadError::Server { offset, length_bytes, source } => {
                let path = self.path.clone();
                ReadError::Program { path, offset, length_bytes, fault: Box::new(source.fault) }
            }
            error => error,
        }
    }
}

impl Disk for ImageDisk {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.disk.read_at(offset, buffer).map_err(|error| self.of_image(error))
    }

    fn data_ranges(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ReadError> {
        self.disk.data_ranges(range).map_err(|error| self.of_image(error))
    }

    /// Compares size and time of the last write of every file that the program has open for the disk.
    fn check_unchanged(&self) -> Result<(), ChangedError> {
        self.watch.check()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
