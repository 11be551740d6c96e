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
mod options;
mod program;
mod replay;
mod watch;
pub(crate) mod whole;

use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sancerre_confine::{Confinement, Helper, Limits};

pub use convert::{Conversion, ImageWriter};
pub use error::ImageError;
pub use whole::{Parts, look};

use crate::confined::ConfinedReader;
use crate::nbd::{NbdDisk, NbdError, NbdOptions, NbdUri};
use crate::{ChangedError, Disk, ReadError, container, kind, open_raw};
use options::Options;
use program::{Private, Program};
use watch::Watch;

/// How the system says that a file is missing; one that may not be seen is missing too.
const GONE: [&str; 2] = ["No such file or directory", "Permission denied"];

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
    /// As people write it.
    fn usual_name(self) -> &'static str {
        match self {
            Self::Vmdk => "VMDK",
            Self::Vhd => "VHD",
            Self::Vhdx => "VHDX",
            Self::Vdi => "VDI",
            Self::Parallels => "Parallels",
            Self::Qed => "QED",
        }
    }

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
    is_replayed: bool,
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
        let opened = ConfinedReader::new(self.helper.clone(), self.sandbox)
            .look(&real, format, allowed.as_deref())
            .and_then(|()| self.read(image, format, &real, allowed))
            .or_else(|error| match replay::is_wanted(format, &error) {
                true => self.replay(image, format, &real),
                false => Err(error),
            });
        opened.map_err(|error| cause(error, image, &real, format))
    }

    /// Opens a VMDK that lies in a stretch of a file, such as an OVA. Whether it is whole is for the caller to look at.
    ///
    /// # Errors
    /// As [`ImageReader::open`].
    pub fn open_inside(&self, file: &Path, place: Range<u64>) -> Result<ImageDisk, ImageError> {
        let fail = |source| ImageError::Io { path: file.to_owned(), source };
        let real = fs::canonicalize(file).map_err(fail)?;
        let format = ImageFormat::Vmdk;
        let confinement = self.confinement(Options::stretch(format, &real, &place), [real.clone()], None);
        let folder = Private::new().map_err(fail)?;
        self.start(file, format, (confinement, folder), &real)
    }

    /// Starts the program with an image that it may read, and nothing that it may write.
    fn read(
        &self,
        image: &Path,
        format: ImageFormat,
        real: &Path,
        allowed: Option<PathBuf>,
    ) -> Result<ImageDisk, ImageError> {
        let confinement =
            self.confinement(Options::file(format, real), [real.to_owned()].into_iter().chain(allowed), None);
        let folder = Private::new().map_err(|source| ImageError::Io { path: image.to_owned(), source })?;
        self.start(image, format, (confinement, folder), real)
    }

    /// Starts the program, and opens its export.
    fn start(
        &self,
        image: &Path,
        format: ImageFormat,
        (confinement, folder): (Confinement, Private),
        real: &Path,
    ) -> Result<ImageDisk, ImageError> {
        let fail = |source| ImageError::Io { path: image.to_owned(), source };
        let before = open_raw(real).map_err(|error| whole::failed(image, error))?;
        let started = Program::start(&self.helper, &confinement, folder);
        let program = started.map_err(|source| ImageError::Start {
            path: image.to_owned(),
            program: self.qemu_nbd.clone(),
            source,
        })?;
        let uri = NbdUri::unix(program.socket().to_owned(), "");
        let disk = NbdDisk::open(&uri, &self.options)
            .map_err(|source| refusal(image, format, &program.last_words(), &source))?;
        let watch = Watch::of(program.id(), real, &confinement.writable).map_err(fail)?;
        // The watch begins with what the program has opened, which a replay makes seconds ago.
        before.check_unchanged().map_err(|source| ImageError::InUse { source })?;
        let is_replayed = !confinement.writable.is_empty();
        Ok(ImageDisk { path: image.to_owned(), watch, is_replayed, disk, _program: program })
    }

    /// For `qemu-nbd` with files that it may read, and perhaps one that it may write.
    fn confinement(
        &self,
        options: Options,
        readable: impl IntoIterator<Item = PathBuf>,
        writable: Option<PathBuf>,
    ) -> Confinement {
        let shared = self.options.connections.max(1).to_string();
        let mut arguments = ["--shared", &shared].map(OsString::from).to_vec();
        arguments.extend(writable.is_none().then(|| "--read-only".into()));
        arguments.extend(options.arguments());
        Confinement {
            program: self.qemu_nbd.clone(),
            arguments,
            readable: readable.into_iter().collect(),
            writable: writable.into_iter().collect(),
            limits: Limits { file_bytes: replay::WRITTEN_BYTES_MAX, ..self.limits },
            listens: true,
            sandbox: self.sandbox,
        }
    }
}

/// Why the program did not open the image, by what it said.
fn refusal(image: &Path, format: ImageFormat, said: &str, source: &NbdError) -> ImageError {
    let (path, format) = (image.to_owned(), format.qemu_name());
    // What it says first of itself and the image is said anyway.
    let last = said.rsplit_once("Failed to blk_new_open ").and_then(|(_, said)| said.split_once("': "));
    let said = last.map_or(said, |(_, said)| said);
    // The same again, of a file below.
    let below = said.strip_prefix("Could not open 'json:").and_then(|said| said.rsplit_once("': "));
    let said = below.map_or(said, |(_, said)| said).to_owned();
    match said.is_empty() {
        true => ImageError::Refused { path, format, said: source.fault.to_string() },
        false if GONE.iter().any(|gone| said.contains(gone)) => ImageError::PartGone { path, format, said },
        false => ImageError::Refused { path, format, said },
    }
}

/// What lies behind a failure, where that tells more: a program that writes, or that the file is something else.
fn cause(error: ImageError, image: &Path, real: &Path, format: ImageFormat) -> ImageError {
    let is_bytes = matches!(
        error,
        ImageError::Refused { .. }
            | ImageError::CutShort { .. }
            | ImageError::Unmeasured { .. }
            | ImageError::Io { .. }
    );
    let Some(disk) = open_raw(real).ok().filter(|_| is_bytes) else { return error };
    if let Err(source @ ChangedError::InUse { .. }) = disk.check_unchanged() {
        return ImageError::InUse { source };
    }
    let Ok(found) = container(&disk) else { return error };
    let found = match found {
        Some(found) if found.name.starts_with(format.usual_name()) => return error,
        Some(found) => format!("by its signature it is {}", found.name),
        None if disk.size_bytes() == 0 => "it is empty".to_owned(),
        None => "it does not have the signature of that format".to_owned(),
    };
    ImageError::OtherFormat { path: image.to_owned(), format: format.usual_name(), found }
}

impl ImageDisk {
    /// Whether its writer did not close it, and what it had begun was done in private: the disk is as after a power cut.
    pub fn is_replayed(&self) -> bool {
        self.is_replayed
    }

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

    fn next_data(&self, offset: u64) -> Result<Option<u64>, ReadError> {
        self.disk.next_data(offset).map_err(|error| self.of_image(error))
    }

    /// Asks for every file that the program has open for the disk what a raw one is asked.
    fn check_unchanged(&self) -> Result<(), ChangedError> {
        self.watch.check()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
