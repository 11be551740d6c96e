//! In what form a disk is given, and opening it as the disk that its guest sees. The form comes from `--format`, else from
//! the name's suffix, and never from the bytes: a guest writes every byte of a raw disk.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use sancerre_confine::Helper;
use sancerre_engine::Error;
use sancerre_format::names::Title;
use sancerre_image::confined::ConfinedReader;
use sancerre_image::foreign::{ImageError, ImageFormat, ImageReader};
use sancerre_image::nbd::{NbdOptions, NbdUri};
use sancerre_image::{Disk, OpenError, Qcow2Fault, References, container};

use crate::bitmaps::Bitmaps;
use crate::command::Context;
use crate::exit::Failure;
use crate::plain;

/// The program that reads what we do not read ourselves.
pub(crate) const QEMU_NBD: &str = "qemu-nbd";
/// How an image gets the files that it stands on.
const PARTS: &str = "; --image-parts DIRECTORY says where such files are";

/// In what form a disk's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One after the other.
    Raw,
    /// As QEMU's own images have them: by our own code, in a confined child.
    Qcow2,
    /// Of another hypervisor: through a confined `qemu-nbd`.
    Foreign(ImageFormat),
}

/// Names as typed and as suffixes.
const NAMES: [(&str, Format); 8] = [
    ("raw", Format::Raw),
    ("qcow2", Format::Qcow2),
    ("vmdk", Format::Foreign(ImageFormat::Vmdk)),
    ("vhd", Format::Foreign(ImageFormat::Vhd)),
    ("vhdx", Format::Foreign(ImageFormat::Vhdx)),
    ("vdi", Format::Foreign(ImageFormat::Vdi)),
    ("parallels", Format::Foreign(ImageFormat::Parallels)),
    ("qed", Format::Foreign(ImageFormat::Qed)),
];

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(name, _)| *name == text).map(|(_, format)| *format);
        let names = || NAMES.map(|(name, _)| name).join(", ");
        found.ok_or_else(|| format!("{text:?} is no format of disks; there are {}", names()))
    }
}

/// The form of one disk, or of all: `[NAME=]FORMAT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedFormat {
    /// None for every disk that no other names.
    pub(crate) name: Option<Title>,
    format: Format,
}

impl NamedFormat {
    /// The form of the disk of this name.
    pub(crate) fn of(name: &Title, format: Format) -> Self {
        Self { name: Some(name.clone()), format }
    }
}

impl FromStr for NamedFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, format)) = text.rsplit_once('=') else {
            return Ok(Self { name: None, format: text.parse()? });
        };
        let name = Title::typed(name).map_err(|_| format!("{name:?} is not the name of a disk"))?;
        Ok(Self { name: Some(name), format: format.parse()? })
    }
}

/// What was said of the form of disks.
#[derive(Debug)]
pub(crate) struct Formats<'a> {
    pub(crate) given: &'a [NamedFormat],
    /// Where files may lie that an image stands on; none may without.
    pub(crate) parts: Option<&'a Path>,
    pub(crate) sandbox: bool,
    /// Dirty bitmaps to read with them.
    pub(crate) bitmaps: &'a Bitmaps,
}

impl Formats<'_> {
    /// What was said of this disk, if anything was.
    pub(crate) fn given(&self, name: &Title) -> Option<Format> {
        let of_name = self.given.iter().find(|given| given.name.as_ref() == Some(name));
        of_name.or_else(|| self.given.iter().find(|given| given.name.is_none())).map(|given| given.format)
    }

    /// The disk, if it is no raw one by what was said or by its suffix.
    ///
    /// Errors: one that is not what it is called; a server or a program that does not give it.
    pub(crate) fn open(
        &self,
        name: &Title,
        path: &Path,
        context: &Context,
    ) -> Result<Option<Arc<dyn Disk>>, Failure> {
        let given = self.given(name);
        if let Some(uri) = path.to_str().filter(|text| NbdUri::is_one(text)) {
            return self.export(name, given, uri, context).map(Some);
        }
        match given.or_else(|| of_suffix(path)) {
            None | Some(Format::Raw) => Ok(None),
            Some(Format::Qcow2) => {
                let parts = self.parts;
                let references =
                    parts.map(|directory| References { directory, backing: true, data_file: true });
                let reader = ConfinedReader::new(helper()?, self.sandbox);
                let disk = reader.open_qcow2(path, references.as_ref()).map_err(with_option)?;
                self.bitmaps.read_image(name, &disk, context)?;
                Ok(Some(Arc::new(disk)))
            }
            Some(Format::Foreign(format)) => self.foreign(path, format, context).map(Some),
        }
    }

    /// The export of a server, whose bytes are those of the disk.
    fn export(
        &self,
        name: &Title,
        given: Option<Format>,
        uri: &str,
        context: &Context,
    ) -> Result<Arc<dyn Disk>, Failure> {
        if given.is_some_and(|format| format != Format::Raw) {
            return Err(Failure::usage(format!(
                "an NBD server gives the disk itself, in no other format than raw: leave --format out for {uri}"
            )));
        }
        let uri = NbdUri::parse(uri).map_err(|error| Failure::usage(error.to_string()))?;
        let disk = self.bitmaps.open_export(name, &uri, context)?;
        if given.is_none()
            && let Some(found) = container(&disk).map_err(Error::from)?
        {
            return Err(refuse_served(&uri, found.name));
        }
        Ok(Arc::new(disk))
    }

    fn foreign(&self, path: &Path, format: ImageFormat, context: &Context) -> Result<Arc<dyn Disk>, Failure> {
        let helper = helper()?;
        let reader = ImageReader {
            qemu_nbd: program(context, QEMU_NBD, path, "read")?,
            helper,
            limits: sancerre_confine::Limits::default(),
            sandbox: self.sandbox,
            options: NbdOptions::default(),
        };
        let disk = reader.open(path, format, self.parts).map_err(|error| match error {
            ImageError::PartGone { .. } | ImageError::Parts { .. } => {
                Failure::failed(format!("{error}{PARTS}"))
            }
            error => Failure::failed(error.to_string()),
        })?;
        if disk.is_replayed() {
            context.output.warning(&format!(
                "{} was not closed by its writer: what its log holds was done in private, and the disk is saved as after a power cut",
                plain::path(path)
            ));
        }
        Ok(Arc::new(disk))
    }
}

fn refuse_served(uri: &NbdUri, name: &str) -> Failure {
    Failure::failed(format!(
        "{uri} gives the bytes of a file ({name}), and not the disk in it. Have the server open the file by its format, as in \
         qemu-nbd --format qcow2, or name the file itself. To save its bytes as they are, give --format raw"
    ))
}

pub(crate) fn helper() -> Result<Helper, Failure> {
    Helper::of_this_program()
        .map_err(|error| Failure::failed(format!("cannot find this program to start it again: {error}")))
}

/// Names the option that would let an image have what it asks for.
fn with_option(error: OpenError) -> Failure {
    let is_asking =
        matches!(&error, OpenError::Qcow2 { fault, .. } if matches!(**fault, Qcow2Fault::NotAllowed { .. }));
    let mut failure = Failure::from(error);
    if is_asking {
        failure.message.push_str(PARTS);
    }
    failure
}

/// The form that a name's suffix says.
pub(crate) fn of_suffix(path: &Path) -> Option<Format> {
    let suffix = path.extension()?.to_str()?.to_ascii_lowercase();
    suffix.parse().ok()
}

/// A program of QEMU's, by which a file is `done` something to.
pub(crate) fn program(context: &Context, name: &str, file: &Path, done: &str) -> Result<PathBuf, Failure> {
    context.environment.program(name).ok_or_else(|| {
        Failure::failed(format!(
            "{} is {done} through {name}, which is not installed; it is in the package qemu-utils (Debian, Ubuntu) or \
             qemu-img (Fedora, SUSE)",
            plain::path(file)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_that_of_the_disk_by_name_or_of_all() {
        let named = |text: &str| text.parse::<NamedFormat>().unwrap();
        let given = [named("qcow2"), named("data=raw")];
        let formats = Formats { given: &given, parts: None, sandbox: true, bitmaps: &Bitmaps::default() };
        assert_eq!(formats.given(&Title::new("data").unwrap()), Some(Format::Raw));
        assert_eq!(formats.given(&Title::new("disk0").unwrap()), Some(Format::Qcow2));
        for text in ["", "qcow", "a=", "=raw", "QCOW2"] {
            text.parse::<NamedFormat>().unwrap_err();
        }
    }

    #[test]
    fn a_suffix_says_the_form_in_any_case() {
        let of = |name: &str| of_suffix(Path::new(name));
        assert_eq!(of("/x/web.QCOW2"), Some(Format::Qcow2));
        assert_eq!(of("a.vhdx"), Some(Format::Foreign(ImageFormat::Vhdx)));
        assert_eq!((of("a.img"), of("qcow2"), of("/dev/vg0/web.snap")), (None, None, None));
    }
}
