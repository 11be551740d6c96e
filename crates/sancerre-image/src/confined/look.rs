//! Whether a foreign image is whole, told by a child.

use std::io;
use std::path::{Path, PathBuf};

use super::channel::Trouble;
use super::wire::{Answer, Ask, Passed, Role};
use super::{ConfinedReader, Talk, told};
use crate::foreign::whole::{Named, failed};
use crate::foreign::{ImageError, ImageFormat};
use crate::{Disk, RawDisk, open_raw};

/// As many as the descriptors of a chain of deltas can name before anybody would wait for the end.
const FILES_MAX: usize = 20_000;
/// All formats, by their number on the wire.
const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Vdi,
    ImageFormat::Parallels,
    ImageFormat::Vmdk,
    ImageFormat::Vhd,
    ImageFormat::Vhdx,
    ImageFormat::Qed,
];

pub(super) fn format(number: u8) -> Option<ImageFormat> {
    FORMATS.get(usize::from(number)).copied()
}

fn number(format: ImageFormat) -> u8 {
    match format {
        ImageFormat::Vdi => 0,
        ImageFormat::Parallels => 1,
        ImageFormat::Vmdk => 2,
        ImageFormat::Vhd => 3,
        ImageFormat::Vhdx => 4,
        ImageFormat::Qed => 5,
    }
}

/// How a conversation ends early.
pub(super) enum Stop {
    Trouble(Trouble),
    Refused(ImageError),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// A file that the child was given.
struct File {
    path: PathBuf,
    length_bytes: u64,
}

impl ConfinedReader {
    /// As [`look`](crate::foreign::look), with a confined child that reads the tables. Other files must lie in `parts`.
    ///
    /// # Errors
    /// As [`look`](crate::foreign::look); [`ImageError::Reader`] when there is no child, or it does not answer as it
    /// must.
    pub fn look(&self, image: &Path, format: ImageFormat, parts: Option<&Path>) -> Result<(), ImageError> {
        let file = open_raw(image).map_err(|error| failed(image, error))?;
        let parts = Named::new(image, parts)?;
        let not_started = |error: io::Error| ImageError::Reader {
            path: image.to_owned(),
            problem: format!("the confined child that reads its tables cannot be started: {error}"),
        };
        look(self.start().map_err(not_started)?, &file, number(format), &parts)
    }
}

pub(super) fn look(mut talk: Talk, file: &RawDisk, format: u8, parts: &Named) -> Result<(), ImageError> {
    match converse(&mut talk, file, format, parts) {
        Ok(()) => Ok(()),
        Err(Stop::Refused(error)) => Err(error),
        Err(Stop::Trouble(trouble)) => {
            Err(ImageError::Reader { path: file.path().to_owned(), problem: talk.end(&trouble) })
        }
    }
}

fn converse(talk: &mut Talk, file: &RawDisk, format: u8, parts: &Named) -> Result<(), Stop> {
    let ask = Ask::Whole { format, file: Passed::of(file) };
    talk.control.send(&ask.encode(), Some(file.descriptor()))?;
    let mut files = vec![File { path: file.path().to_owned(), length_bytes: file.size_bytes() }];
    loop {
        let packet = talk.control.receive()?;
        match Answer::decode(packet).ok_or(Trouble::Lie("a word that is none"))? {
            Answer::Whole => return Ok(()),
            Answer::Named { file, role: Role::Part, name } => {
                let image = &files.get(file).ok_or(Trouble::Lie("a file that it does not have"))?.path;
                let name = std::str::from_utf8(name).map_err(|_| Trouble::Lie("a name that is no text"))?;
                if files.len() >= FILES_MAX {
                    return Err(Trouble::Lie("more files than an image can have").into());
                }
                match parts.open(image, name).map_err(Stop::Refused)? {
                    None => talk.control.send(&Ask::Gone.encode(), None)?,
                    Some(part) => {
                        let ask = Ask::Granted(Passed::of(&part));
                        talk.control.send(&ask.encode(), Some(part.descriptor()))?;
                        let (path, length_bytes) = (part.path().to_owned(), part.size_bytes());
                        files.push(File { path, length_bytes });
                    }
                }
            }
            other => return Err(verdict(&other, &files)),
        }
    }
}

fn verdict(answer: &Answer<'_>, files: &[File]) -> Stop {
    let shown = |file: &File| file.path.display().to_string();
    let error = match answer {
        Answer::CutShort { file, needed_bytes } => files
            .get(*file)
            .filter(|file| *needed_bytes > file.length_bytes)
            .map(|file| ImageError::CutShort {
                file: shown(file),
                needed_bytes: *needed_bytes,
                length_bytes: file.length_bytes,
            }),
        Answer::Unmeasured { file, why } => {
            files.get(*file).map(|file| ImageError::Unmeasured { file: shown(file), why: told(why) })
        }
        Answer::Unreadable { file, errno, .. } => files.get(*file).map(|file| ImageError::Io {
            path: file.path.clone(),
            source: io::Error::from_raw_os_error(*errno),
        }),
        Answer::Fault { file, text } => files
            .get(*file)
            .map(|file| ImageError::Io { path: file.path.clone(), source: io::Error::other(told(text)) }),
        _ => None,
    };
    error.map_or(Stop::Trouble(Trouble::Lie("an answer that does not fit")), Stop::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_its_number() {
        assert!(FORMATS.iter().all(|known| format(number(*known)) == Some(*known)));
    }
}
