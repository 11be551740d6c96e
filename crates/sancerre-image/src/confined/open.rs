//! Opening a qcow2 image: the child names the files that it needs, and gets those that are allowed.

use std::io;
use std::path::Path;

use super::channel::Trouble;
use super::disk::ConfinedDisk;
use super::pool::Pool;
use super::wire::{Answer, Ask, Passed, Role};
use super::{ConfinedReader, References, Talk, told};
use crate::qcow2::{self, Files, Policy};
use crate::{Disk, OpenError, Qcow2Fault, RawDisk, open_raw};

/// As many as a chain can have, each with a data file.
const FILES_MAX: usize = 130;
/// A larger disk makes no sense in any format.
pub(super) const DISK_BYTES_MAX: u64 = 1 << 63;

impl ConfinedReader {
    /// As [`open_qcow2`](crate::open_qcow2), with a confined child that reads the headers and tables.
    ///
    /// # Errors
    /// As [`open_qcow2`](crate::open_qcow2), where what is wrong with an image is [`Qcow2Fault::Told`];
    /// [`OpenError::Reader`] when there is no child, or it does not answer as it must.
    pub fn open_qcow2(
        &self,
        path: &Path,
        references: Option<&References<'_>>,
    ) -> Result<ConfinedDisk, OpenError> {
        let top = open_raw(path)?;
        let mut policy = Policy::new(references)?;
        policy.refuse_seen(&top)?;
        let talk = self.start().map_err(|error| not_started(path, &error))?;
        open(talk, top, policy)
    }
}

pub(super) fn not_started(path: &Path, error: &io::Error) -> OpenError {
    let problem = format!("the confined child that reads its tables cannot be started: {error}");
    OpenError::Reader { path: path.to_owned(), problem }
}

/// How a conversation ends early.
enum Stop {
    Trouble(Trouble),
    Refused(OpenError),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Has the image in `top` opened by the child at the other end.
pub(super) fn open(mut talk: Talk, top: RawDisk, mut policy: Policy) -> Result<ConfinedDisk, OpenError> {
    let path = top.path().to_owned();
    let mut files = vec![top];
    match converse(&mut talk, &mut files, &mut policy) {
        Ok(size_bytes) => Ok(ConfinedDisk::new(size_bytes, files, Pool::new(talk))),
        Err(Stop::Refused(error)) => Err(error),
        Err(Stop::Trouble(trouble)) => Err(OpenError::Reader { path, problem: talk.end(&trouble) }),
    }
}

fn converse(talk: &mut Talk, files: &mut Vec<RawDisk>, policy: &mut Policy) -> Result<u64, Stop> {
    let (backing, data_file) = (policy.allows(qcow2::Role::Backing), policy.allows(qcow2::Role::Data));
    let top = files.first().ok_or(Trouble::Lie("no file"))?;
    let ask = Ask::Qcow2 { backing, data_file, file: Passed::of(top) };
    talk.control.send(&ask.encode(), Some(top.descriptor()))?;
    loop {
        let packet = talk.control.receive()?;
        match Answer::decode(packet).ok_or(Trouble::Lie("a word that is none"))? {
            Answer::Opened { size_bytes } if size_bytes <= DISK_BYTES_MAX => return Ok(size_bytes),
            Answer::Named { file, role, name } => {
                let image = files.get(file).ok_or(Trouble::Lie("a file that it does not have"))?.path();
                let role = match role {
                    Role::Backing => qcow2::Role::Backing,
                    Role::Data => qcow2::Role::Data,
                    Role::Part => return Err(Trouble::Lie("a part of another format").into()),
                };
                let opened = policy.open(image, name, role).map_err(Stop::Refused)?;
                if files.len() >= FILES_MAX {
                    return Err(Trouble::Lie("more files than a chain can have").into());
                }
                let ask = Ask::Granted(Passed::of(&opened));
                talk.control.send(&ask.encode(), Some(opened.descriptor()))?;
                files.push(opened);
            }
            other => return Err(refusal(&other, files)),
        }
    }
}

/// What the child says is wrong, as an error of the file that it is about.
fn refusal(answer: &Answer<'_>, files: &[RawDisk]) -> Stop {
    let lie = || Stop::Trouble(Trouble::Lie("an answer that does not fit"));
    let path = |file: usize| files.get(file).map(|file| file.path().to_owned());
    let (path, source) = match answer {
        Answer::Fault { file, text } => {
            let fault = Box::new(Qcow2Fault::Told { said: told(text) });
            return path(*file).map_or_else(lie, |path| Stop::Refused(OpenError::Qcow2 { path, fault }));
        }
        Answer::Unreadable { file, errno, .. } => (path(*file), io::Error::from_raw_os_error(*errno)),
        Answer::Shrank { file, now_bytes } => {
            let error = format!("it was cut to {now_bytes} bytes while it was opened");
            (path(*file), io::Error::other(error))
        }
        _ => (None, io::Error::other("")),
    };
    path.map_or_else(lie, |path| Stop::Refused(OpenError::Io { path, source }))
}
