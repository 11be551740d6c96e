//! Where a disk is restored to: a new file that gets its name when it is whole, or a block device.
//!
//! The two differ in how they start and end and in what a zero costs; writing is the same for both.

mod attributes;
mod device;
mod disk_target;
mod in_use;
mod keeping;
mod limit;
mod nbd;
mod new_file;
mod old;
mod partial;
mod present;
mod qcow2;
mod replaced;
mod rest;
mod write_back;
mod zero;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::fstatvfs;

use crate::TargetError;
use crate::positional::{is_inside, length};
use device::Device;
use old::Whole;
use partial::Partial;
use present::Present;
use write_back::WriteBack;

pub use disk_target::{Continue, DiskTarget, Left};
pub use keeping::KeepingTarget;
pub use nbd::NbdTarget;
pub use new_file::NewFile;
pub use old::OldBytes;
pub use qcow2::{Qcow2Compression, Qcow2Target};
pub use rest::Rest;

/// A file or block device that takes a disk, in any order and from many threads.
///
/// A file is written beside its name as `NAME.sancerre-partial` and renamed by [`RawTarget::finish`], so a
/// half-restored image is never taken for a whole one. Dropping the target, or dying, leaves the partial file; the
/// next restore to the same name replaces it or takes it up, and [`RawTarget::abandon`] removes it.
#[derive(Debug)]
pub struct RawTarget {
    medium: Medium,
    /// The file that the new one will replace, which may be empty.
    replaced: Option<File>,
    size_bytes: u64,
    /// For the message of a full file system.
    written_bytes: AtomicU64,
    write_back: WriteBack,
}

#[derive(Debug)]
enum Medium {
    File(Partial),
    Device(Device),
    Whole(Whole),
    Present(Present),
}

impl RawTarget {
    /// Prepares `path` to take a disk of `size_bytes`. Without `overwrite` a file that is not empty is refused,
    /// and so is a device with anything but zeros in its first or last MiB.
    ///
    /// # Errors
    /// Refusals as above; [`TargetError::InUse`] for a mounted or held device even with `overwrite`, and
    /// [`TargetError::Locked`] for what another process locks; [`TargetError::TooSmall`], [`TargetError::TooLarge`];
    /// [`TargetError::NotATarget`] for directories, pipes and symbolic links (a link to a block device is followed).
    pub fn create(path: &Path, size_bytes: u64, overwrite: bool) -> Result<Self, TargetError> {
        if is_device(path)? {
            return Ok(Self::on(Medium::Device(Device::open(path, size_bytes, overwrite)?), size_bytes));
        }
        let partial = Partial::create(path, size_bytes, overwrite)?;
        Self::replacing(partial, path, size_bytes)
    }

    /// Refuses what cannot take any disk, before anybody works for it: as [`RawTarget::create`] and, with `resume`,
    /// [`RawTarget::resume`] would, as far as that can be told without the size of the disk. Changes nothing.
    ///
    /// # Errors
    /// As [`RawTarget::create`].
    pub fn refuse(path: &Path, overwrite: bool, resume: bool) -> Result<(), TargetError> {
        if is_device(path)? {
            return Device::refuse(path, overwrite);
        }
        partial::refuse_name(path, overwrite, resume)?;
        match old::open(path)? {
            Some(file) if overwrite || !resume => refuse_in_use(&file, path),
            _ => Ok(()),
        }
    }

    /// As [`RawTarget::create`], but takes up what an interrupted restore left: its partial file, or the file that it had
    /// finished, which is then compared and not written to. Where it left nothing the restore begins anew.
    ///
    /// # Errors
    /// As [`RawTarget::create`]; also for a partial file that somebody else owns or can read.
    pub fn resume(path: &Path, size_bytes: u64, overwrite: bool) -> Result<Self, TargetError> {
        if is_device(path)? {
            return Self::create(path, size_bytes, overwrite);
        }
        if let Some(partial) = Partial::take_up(path, size_bytes, overwrite)? {
            return Self::replacing(partial, path, size_bytes);
        }
        match if overwrite { None } else { Whole::open(path, size_bytes)? } {
            Some(whole) => Ok(Self::on(Medium::Whole(whole), size_bytes)),
            None => Self::create(path, size_bytes, overwrite),
        }
    }

    /// Prepares to restore over what is at `path`, where it lies: a block device, or a file of exactly that size.
    ///
    /// # Errors
    /// As [`RawTarget::create`]; [`TargetError::OtherSize`].
    pub fn in_place(path: &Path, size_bytes: u64) -> Result<Self, TargetError> {
        if is_device(path)? {
            return Self::create(path, size_bytes, true);
        }
        Ok(Self::on(Medium::Present(Present::open(path, size_bytes)?), size_bytes))
    }

    fn replacing(partial: Partial, path: &Path, size_bytes: u64) -> Result<Self, TargetError> {
        let (partial, replaced) = replaced::look(partial, path)?;
        Ok(Self { replaced, ..Self::on(Medium::File(partial), size_bytes) })
    }

    fn on(medium: Medium, size_bytes: u64) -> Self {
        let (written_bytes, write_back) = Default::default();
        Self { medium, replaced: None, size_bytes, written_bytes, write_back }
    }

    /// What was there before, best first. Bytes of it that are what is wanted need not be fetched.
    pub fn old(&self) -> impl Iterator<Item = OldBytes<'_>> {
        let own = match &self.medium {
            Medium::File(partial) => partial.is_used(),
            Medium::Device(device) => device.is_used(),
            Medium::Whole(_) | Medium::Present(_) => true,
        };
        let own = own.then(|| OldBytes::of_file(self.file(), true));
        let replaced = self.replaced.iter().map(|file| OldBytes::of_file(file, false));
        own.into_iter().chain(replaced)
    }

    /// Writes `bytes` at `offset` of the disk. Durable only after [`RawTarget::finish`].
    ///
    /// # Errors
    /// [`TargetError::NoSpace`], [`TargetError::Write`] or [`TargetError::OutOfRange`]; [`TargetError::Exists`] when the
    /// file that a resumed restore found finished is another disk.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let length_bytes = length(bytes);
        self.refuse_outside(offset, length_bytes)?;
        if matches!(self.medium, Medium::Whole(_)) {
            return Err(self.is_another());
        }
        self.file().write_all_at(bytes, offset).map_err(|e| self.write_failed(offset, length_bytes, e))?;
        self.written_bytes.fetch_add(length_bytes, Ordering::Relaxed);
        self.write_back.written(self.file(), length_bytes);
        Ok(())
    }

    /// Makes `range` read as zeros. A new file does so from the start, and then nothing is done: a range is
    /// written or zeroed, never first written and then zeroed. On a device the range is discarded with zeros or
    /// zeroed by the driver, and written where neither works; so is what a partial file has there.
    ///
    /// # Errors
    /// As [`RawTarget::write_at`].
    pub fn zero(&self, range: Range<u64>) -> Result<(), TargetError> {
        let length_bytes = range.end.saturating_sub(range.start);
        self.refuse_outside(range.start, length_bytes)?;
        let zeroed = match &self.medium {
            Medium::File(partial) => partial.zero(range.clone()),
            Medium::Device(device) => device.zero(range.clone()),
            Medium::Present(present) => present.zeroing.zero(&present.file, range.clone()),
            Medium::Whole(whole) => match whole.is_zero(range.clone()) {
                Ok(true) => Ok(()),
                Ok(false) => return Err(self.is_another()),
                Err(error) => Err(error),
            },
        };
        zeroed.map_err(|source| self.write_failed(range.start, length_bytes, source))
    }

    /// Bytes of the device behind the end of the disk, which are left as they are; zero for a file.
    pub fn surplus_bytes(&self) -> u64 {
        match &self.medium {
            Medium::File(_) | Medium::Whole(_) | Medium::Present(_) => 0,
            Medium::Device(device) => device.size_bytes().saturating_sub(self.size_bytes),
        }
    }

    /// Makes everything durable, then gives a file its name. Only after `Ok` does the restored disk exist.
    ///
    /// # Errors
    /// Any error means that the disk is not restored; a partial file stays until the next restore to this name.
    pub fn finish(mut self) -> Result<(), TargetError> {
        // The first fsync after a failed write-back reports it (fsync(2)); all must succeed before the rename.
        let flushed = self.write_back.end().and_then(|()| self.file().sync_all());
        flushed.map_err(|source| match is_full(&source) {
            true => self.no_space(),
            false => TargetError::Io { step: "flush", path: self.path().to_owned(), source },
        })?;
        let Medium::File(partial) = self.medium else { return Ok(()) };
        replaced::publish(partial, self.replaced.as_ref())
    }

    /// Gives up: removes the partial file. What was written to a device stays there.
    ///
    /// # Errors
    /// [`TargetError::Io`] when the file cannot be removed.
    pub fn abandon(self) -> Result<(), TargetError> {
        match self.medium {
            Medium::File(partial) => partial.remove(),
            Medium::Device(_) | Medium::Whole(_) | Medium::Present(_) => Ok(()),
        }
    }

    /// Where bytes go: the partial file or the device.
    pub fn path(&self) -> &Path {
        match &self.medium {
            Medium::File(partial) => partial.path(),
            Medium::Device(device) => device.path(),
            Medium::Whole(whole) => &whole.path,
            Medium::Present(present) => &present.path,
        }
    }

    fn file(&self) -> &File {
        match &self.medium {
            Medium::File(partial) => partial.file(),
            Medium::Device(device) => device.file(),
            Medium::Whole(whole) => &whole.file,
            Medium::Present(present) => &present.file,
        }
    }

    /// How another restore goes on from what is there now; none when that is nothing.
    pub fn goes_on_with(&self) -> Option<Continue> {
        let is_written = self.written_bytes.load(Ordering::Relaxed) > 0;
        match &self.medium {
            Medium::File(partial) => (is_written || partial.is_used()).then_some(Continue::Resume),
            Medium::Device(_) => is_written.then_some(Continue::Overwrite),
            Medium::Present(_) => is_written.then_some(Continue::InPlace),
            Medium::Whole(_) => None,
        }
    }

    fn is_another(&self) -> TargetError {
        TargetError::Exists { path: self.path().to_owned() }
    }

    fn refuse_outside(&self, offset: u64, length_bytes: u64) -> Result<(), TargetError> {
        if is_inside(offset, length_bytes, self.size_bytes) {
            return Ok(());
        }
        let (path, size_bytes) = (self.path().to_owned(), self.size_bytes);
        Err(TargetError::OutOfRange { path, offset, length_bytes, size_bytes })
    }

    fn write_failed(&self, offset: u64, length_bytes: u64, source: io::Error) -> TargetError {
        if is_full(&source) {
            return self.no_space();
        }
        if source.kind() == io::ErrorKind::FileTooLarge {
            return limit::too_large(self.path(), self.file(), self.size_bytes);
        }
        TargetError::Write { path: self.path().to_owned(), offset, length_bytes, source }
    }

    fn no_space(&self) -> TargetError {
        let written_bytes = self.written_bytes.load(Ordering::Relaxed);
        let available_bytes = match &self.medium {
            Medium::File(partial) => {
                fstatvfs(partial.file()).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
            }
            Medium::Device(_) | Medium::Whole(_) | Medium::Present(_) => 0,
        };
        TargetError::NoSpace {
            path: self.path().to_owned(),
            written_bytes,
            missing_bytes: self.size_bytes.saturating_sub(written_bytes),
            available_bytes,
        }
    }
}

fn refuse_in_use(file: &File, path: &Path) -> Result<(), TargetError> {
    in_use::refuse_immutable(file, path)?;
    in_use::refuse_locked(file, path)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_device(path: &Path) -> Result<bool, TargetError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.file_type().is_block_device()),
        // A dangling link is refused by the file's own checks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(TargetError::Io { step: "look at", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
