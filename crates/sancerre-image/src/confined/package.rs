//! What is in an OVA, told by a child.

use std::path::Path;

use super::channel::Trouble;
use super::wire::{Answer, Ask, Passed};
use super::{ConfinedReader, Talk, told};
use crate::foreign::ImageError;
use crate::package::{Package, PackageMember};
use crate::{Disk, RawDisk, open_raw};

/// Longest description.
const DESCRIPTION_BYTES_MAX: u64 = 4 << 20;
/// Its description, and as many disks as one can name.
const MEMBERS_MAX: usize = 257;

/// How a conversation ends early.
enum Stop {
    Trouble(Trouble),
    Refused(String),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl ConfinedReader {
    /// As [`read_package`](crate::package::read_package), with a confined child that reads the archive. Every place that it
    /// tells lies inside of the file, which is given open.
    ///
    /// # Errors
    /// [`ImageError::Package`] for what is wrong with the archive; [`ImageError::Reader`] when there is no child, or it does
    /// not answer as it must.
    pub fn package(&self, path: &Path) -> Result<(RawDisk, Package), ImageError> {
        let file = open_raw(path).map_err(|error| crate::foreign::whole::failed(path, error))?;
        let reader = |problem| ImageError::Reader { path: path.to_owned(), problem };
        let mut talk = self.start().map_err(|error| {
            reader(format!("the confined child that reads it cannot be started: {error}"))
        })?;
        match converse(&mut talk, &file) {
            Ok(package) => Ok((file, package)),
            Err(Stop::Refused(fault)) => Err(ImageError::Package { path: path.to_owned(), fault }),
            Err(Stop::Trouble(trouble)) => Err(reader(talk.end(&trouble))),
        }
    }
}

fn converse(talk: &mut Talk, file: &RawDisk) -> Result<Package, Stop> {
    let ask = Ask::Package { file: Passed::of(file) };
    talk.control.send(&ask.encode(), Some(file.descriptor()))?;
    let mut members: Vec<PackageMember> = Vec::new();
    loop {
        let packet = talk.control.receive()?;
        match Answer::decode(packet).ok_or(Trouble::Lie("a word that is none"))? {
            Answer::Member(member) if members.len() < MEMBERS_MAX => {
                if member.range.start > member.range.end || member.range.end > file.size_bytes() {
                    return Err(Trouble::Lie("a place outside of the file").into());
                }
                members.push(PackageMember { name: told(member.name.as_bytes()), ..member });
            }
            Answer::Packed { has_manifest } if members.len() > 1 => {
                let mut members = members.into_iter();
                let description = members.next().ok_or(Trouble::Lie("no description"))?;
                if description.range.end.saturating_sub(description.range.start) > DESCRIPTION_BYTES_MAX {
                    return Err(Trouble::Lie("a description that is too long").into());
                }
                return Ok(Package { description, disks: members.collect(), has_manifest });
            }
            Answer::Fault { file: 0, text } => return Err(Stop::Refused(told(text))),
            _ => return Err(Trouble::Lie("an answer that does not fit").into()),
        }
    }
}
