//! Opening what is to be backed up. Nothing here waits for a source, and all that can be refused is refused before the
//! repository is opened: a typing error should cost nothing.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use sancerre_engine::Error;
use sancerre_engine::backup::{Allow, BackupSource, Input};
use sancerre_format::names::Title;
use sancerre_format::outcome::MemberKind;
use sancerre_image::{Container, Disk, container, container_at_start, open_file, open_raw};

use crate::command::Context;
use crate::exit::Failure;
use crate::formats::{Format, Formats};
use crate::output::Output;
use crate::printed::Printed;
use crate::sources::Planned;
use crate::units::parse_size;

/// How sources are opened.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) allow: Allow,
    pub(crate) formats: Formats<'a>,
    pub(crate) read_holes: bool,
    pub(crate) expect_min: &'a [ExpectMin],
    /// What prints the stream, in place of standard input.
    pub(crate) command: Option<&'a str>,
}

/// A lower bound, as typed: `[NAME=]SIZE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpectMin {
    /// None for every disk and the stream.
    name: Option<Title>,
    bytes: u64,
}

impl FromStr for ExpectMin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, size)) = text.rsplit_once('=') else {
            return Ok(Self { name: None, bytes: parse_size(text)? });
        };
        let name = Title::typed(name).map_err(|_| format!("{name:?} is not the name of a disk or stream"))?;
        Ok(Self { name: Some(name), bytes: parse_size(size)? })
    }
}

impl Opening<'_> {
    /// All sources, ready to be read.
    pub(crate) fn all(&self, planned: Vec<Planned>, context: &Context) -> Result<Vec<BackupSource>, Failure> {
        let named = self.expect_min.iter().filter_map(|least| least.name.as_ref());
        for name in named {
            if !planned.iter().any(|source| source.name == *name) {
                return Err(Failure::usage(format!("--expect-min names {name}, which is not backed up")));
            }
        }
        for name in self.formats.given.iter().filter_map(|given| given.name.as_ref()) {
            if !planned.iter().any(|source| source.name == *name && source.kind == MemberKind::Disk) {
                return Err(Failure::usage(format!(
                    "--format names {name}, which is no disk that is backed up"
                )));
            }
        }
        planned.into_iter().map(|source| self.one(source, context)).collect()
    }

    fn one(&self, source: Planned, context: &Context) -> Result<BackupSource, Failure> {
        let input = match (&source.path, &source.kind) {
            (Some(path), MemberKind::Disk) => Input::Disk(self.disk(&source.name, path, context)?),
            (Some(path), _) => {
                let file = open_file(path).map_err(Failure::from)?;
                if let Some(found) = container(&open_raw(path)?).map_err(Error::from)? {
                    tell_of_image(&context.output, &path.display().to_string(), found);
                }
                Input::Stream(Box::new(Attached { file, path: path.clone() }))
            }
            (None, _) => Input::Stream(self.stream(context)?),
        };
        let least_bytes = self.least_bytes(&source);
        Ok(BackupSource { name: source.name, kind: source.kind, input, least_bytes })
    }

    fn disk(&self, name: &Title, path: &Path, context: &Context) -> Result<Arc<dyn Disk>, Failure> {
        let disk = match self.formats.open(name, path, context)? {
            Some(disk) => disk,
            None => self.raw(name, path)?,
        };
        // Once it is read the engine asks again; that may take hours.
        match disk.check_unchanged() {
            Err(source) if !self.allow.changing => Err(Error::Changed { source }.into()),
            Err(source) => {
                context.output.warning(&source.to_string());
                Ok(disk)
            }
            Ok(()) => Ok(disk),
        }
    }

    fn raw(&self, name: &Title, path: &Path) -> Result<Arc<dyn Disk>, Failure> {
        let is_package = path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("ova"));
        if is_package && self.formats.given(name).is_none() {
            return Err(Failure::failed(format!(
                "{} is an OVA by its name, and no raw disk: `sancerre import` saves the machine in it. To save the archive's \
                 own bytes as they are, give --format raw",
                path.display()
            )));
        }
        let disk = open_raw(path)?;
        let disk = if self.read_holes { disk.reading_holes() } else { disk };
        if self.formats.given(name) != Some(Format::Raw)
            && let Some(found) = container(&disk).map_err(Error::from)?
        {
            return Err(refuse_container(path, found.name, found.is_overlay));
        }
        Ok(Arc::new(disk))
    }

    fn stream(&self, context: &Context) -> Result<Box<dyn Read + Send>, Failure> {
        if let Some(command) = self.command {
            return Ok(Box::new(Printed::by(command)));
        }
        if context.stdin_is_terminal {
            return Err(Failure::usage("--stdin reads what is piped in, but standard input is a terminal"));
        }
        let stdin = context
            .take_stdin()
            .ok_or_else(|| Failure::usage("standard input can be backed up only once"))?;
        Ok(Box::new(Looked { stream: stdin, head: Vec::new(), output: Some(Arc::clone(&context.output)) }))
    }

    /// A disk or stream of no bytes is none, unless that is allowed. An attached file may well be empty.
    fn least_bytes(&self, source: &Planned) -> u64 {
        let is_file = !matches!(source.kind, MemberKind::Disk | MemberKind::Stream);
        let is_meant = |least: &&ExpectMin| match &least.name {
            Some(name) => *name == source.name,
            None => !is_file,
        };
        let asked = self.expect_min.iter().filter(is_meant).map(|least| least.bytes).max().unwrap_or(0);
        asked.max(u64::from(!is_file && !self.allow.small))
    }
}

/// Of a stream, enough to know what it is.
const HEAD_BYTES: usize = 512;

/// In what images are packed to be sent: nothing in it can be told from what was there last night.
const PACKED: [&str; 11] =
    ["gzip", "Zstandard", "xz", "bzip2", "7-Zip", "ZIP", "lzop", "LZ4", "tar", "OVA", "Proxmox VMA"];

fn refuse_container(path: &Path, name: &str, is_overlay: bool) -> Failure {
    let path = path.display();
    if PACKED.contains(&name) {
        return Failure::failed(format!(
            "{path} is packed ({name}) and no raw disk. Unpack it first, and back up the disk that was in it. To save the \
             packed bytes as they are, give --format raw"
        ));
    }
    let article = if name.starts_with('O') { "an" } else { "a" };
    let missing = match is_overlay {
        true => ", and holds only what differs from its backing file: a backup of it would not hold the disk",
        false => "",
    };
    let how = match name {
        "qcow2" | "QED" | "VMDK" | "VHD" | "VHDX" | "VDI" | "Parallels" => {
            format!("Give --format {} to back up the disk in it", name.to_ascii_lowercase())
        }
        "VMDK descriptor" => {
            "Give --format vmdk and --image-parts DIRECTORY to back up the disk in it".to_owned()
        }
        _ => format!("Convert it first (qemu-img convert -O raw {path} NEW)"),
    };
    Failure::failed(format!(
        "{path} is {article} {name} container and no raw disk{missing}. {how}; docs/QUIESCE.md says more. To save the \
         container's own bytes as they are, give --format raw"
    ))
}

/// Says of a stream or an attached file that what it is the bytes of is not all of a disk. A whole image comes back as it was.
fn tell_of_image(output: &Output, what: &str, found: Container) {
    if !found.is_overlay && found.name != "VMDK descriptor" {
        return;
    }
    output.warning(&format!(
        "{what} is saved as the bytes of a file, and by them it is an image ({}) that names others: without those it is no disk. \
         Name it as a disk, with --format and --image-parts, to save the disk",
        found.name
    ));
}

/// A stream of which the first bytes are looked at as they pass.
struct Looked {
    stream: Box<dyn Read + Send>,
    head: Vec<u8>,
    /// None once it was looked at.
    output: Option<Arc<Output>>,
}

impl Read for Looked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        if self.output.is_some() {
            self.head.extend_from_slice(buffer.get(..count).unwrap_or_default());
            let is_known = count == 0 || self.head.len() >= HEAD_BYTES;
            if let Some(output) = self.output.take_if(|_| is_known)
                && let Some(found) = container_at_start(&std::mem::take(&mut self.head))
            {
                tell_of_image(&output, "standard input", found);
            }
        }
        Ok(count)
    }
}

/// An attached file, whose errors name it.
struct Attached {
    file: File,
    path: PathBuf,
}

impl Read for Attached {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let named = |error: io::Error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, format!("{}: {error}", self.path.display())),
        };
        self.file.read(buffer).map_err(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_bound_may_name_what_it_is_for() {
        let named = |name: &str, bytes| ExpectMin { name: Some(Title::new(name).unwrap()), bytes };
        assert_eq!("1G".parse(), Ok(ExpectMin { name: None, bytes: 1 << 30 }));
        assert_eq!("dump.sql=10M".parse(), Ok(named("dump.sql", 10 << 20)));
        assert_eq!("a=b=1".parse(), Ok(named("a=b", 1)));
        for text in ["", "x", "=1", "a=", "a=x"] {
            text.parse::<ExpectMin>().unwrap_err();
        }
    }
}
