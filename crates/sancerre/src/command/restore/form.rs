//! In what form a disk is restored: its bytes one after the other, or an image of QEMU's.

use std::path::Path;

use sancerre_format::outcome::{Member, MemberKind};
use sancerre_image::nbd::NbdUri;
use sancerre_image::{DiskTarget, KeepingTarget, Qcow2Compression, Qcow2Target, RawTarget};

use crate::arguments::Restore;
use crate::exit::Failure;
use crate::formats::{Format, of_suffix};
use crate::plain;

/// The form of a restored disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Raw,
    Qcow2(Qcow2Compression),
}

/// The form that was asked for, or that the suffix of a single target's name says: a file that is called qcow2 and is none
/// would be started as one.
///
/// Errors: forms that are not written here; options that do not go together.
pub(super) fn of(options: &Restore) -> Result<Form, Failure> {
    let is_device = options.target.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir());
    let is_export = options.target.to_str().is_some_and(NbdUri::is_one);
    let by_name = if is_device || is_export { None } else { of_suffix(&options.target) };
    let is_archive = options.target.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("ova"));
    let form = match (options.format, by_name) {
        (None, None) if is_archive && !is_device && !is_export => {
            return Err(Failure::usage(format!(
                "{} is called an OVA, and a disk is restored as raw or qcow2: `sancerre export` makes an OVA",
                plain::path(&options.target)
            )));
        }
        (None, Some(Format::Qcow2 | Format::Foreign(_))) if options.in_place => {
            return Err(Failure::usage(format!(
                "{} is an image by its name, and only a raw disk can be restored in place",
                plain::path(&options.target)
            )));
        }
        (Some(Format::Raw), _) | (None, None | Some(Format::Raw)) => Form::Raw,
        (Some(Format::Qcow2), _) | (None, Some(Format::Qcow2)) => Form::Qcow2(match options.compress {
            true => Qcow2Compression::Zlib,
            false => Qcow2Compression::None,
        }),
        (given, _) => {
            let path = plain::path(&options.target);
            let what = match given {
                None => format!("{path} is called neither; give --format raw if it is to be a raw disk"),
                Some(_) => "no other format is written".to_owned(),
            };
            return Err(Failure::usage(format!(
                "a disk is restored as raw or qcow2, and {what}. qemu-img convert makes other formats of both"
            )));
        }
    };
    match form {
        Form::Raw if options.compress => Err(Failure::usage(
            "--compress is for images: give --format qcow2 too, or leave it out".to_owned(),
        )),
        Form::Qcow2(_) if options.resume => Err(Failure::usage(
            "a restore to a qcow2 image cannot be resumed, it begins anew: leave --resume out, or restore with --format raw"
                .to_owned(),
        )),
        form => Ok(form),
    }
}

/// The export of an NBD server, if the target is one: the disk's bytes go there as they are.
///
/// Errors: options that are for files.
pub(super) fn export(options: &Restore) -> Result<Option<NbdUri>, Failure> {
    let Some(text) = options.target.to_str().filter(|text| NbdUri::is_one(text)) else { return Ok(None) };
    let is_image = options.compress || options.format.is_some_and(|format| format != Format::Raw);
    if is_image || options.resume || options.in_place || options.wipe_rest {
        return Err(Failure::usage(format!(
            "an NBD server takes the disk itself, where it is: of --format, --compress, --resume, --in-place and \
             --wipe-rest none goes with {text}; --overwrite compares, and writes only what differs"
        )));
    }
    NbdUri::parse(text).map(Some).map_err(|error| Failure::usage(error.to_string()))
}

impl Form {
    /// What the files of disks end in.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Raw => ".raw",
            Self::Qcow2(_) => ".qcow2",
        }
    }

    /// Opens the place where this member goes. What is no disk stays as it is.
    pub(super) fn open(
        self,
        options: &Restore,
        member: &Member,
        path: &Path,
    ) -> Result<Box<dyn DiskTarget>, Failure> {
        let size_bytes = member.size_bytes;
        Ok(match self {
            _ if options.in_place => match &options.keep_damaged {
                Some(kept) => Box::new(KeepingTarget::create(path, size_bytes, kept)?),
                None => Box::new(RawTarget::in_place(path, size_bytes)?),
            },
            Self::Qcow2(compression) if member.kind == MemberKind::Disk => {
                Box::new(Qcow2Target::create(path, size_bytes, options.overwrite, compression)?)
            }
            _ if options.resume => Box::new(RawTarget::resume(path, size_bytes, options.overwrite)?),
            _ => Box::new(RawTarget::create(path, size_bytes, options.overwrite)?),
        })
    }
}
