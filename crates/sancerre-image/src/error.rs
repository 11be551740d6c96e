//! What can go wrong with a disk: each message names the path, the place, and the next step.

use std::io;
use std::path::PathBuf;

use sancerre_advice::Setting::{AllowUnreadable, Overwrite};

use crate::Qcow2Fault;
use crate::nbd::{Fault, NbdError};

/// Why a disk could not be opened for reading.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path could not be looked up, opened or measured.
    #[error("cannot open {}: {source}; check the path and that this user may read it", path.display())]
    Io {
        /// The disk as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path is something that has no disk in it.
    #[error("cannot back up {}: it is a {kind}; {advice}", path.display())]
    NotADisk {
        /// The disk as it was named.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
        /// What to do about it.
        advice: String,
    },
    /// The path is no file.
    #[error("cannot read {}: it is a {kind}; {advice}", path.display())]
    NotAFile {
        /// The file as it was named.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
        /// What to do about it.
        advice: String,
    },
    /// An image that is not read, or one that it stands on.
    #[error("cannot read {} as a qcow2 image: {fault}", path.display())]
    Qcow2 {
        /// The image.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        fault: Box<Qcow2Fault>,
    },
    /// The confined child that reads its tables could not be started, or did not come to an end.
    #[error("cannot read {}: {problem}", path.display())]
    Reader {
        /// The image.
        path: PathBuf,
        /// What became of the child, and what to do.
        problem: String,
    },
    /// A block device with nothing behind it.
    #[error("{} is a block device of size zero; attach its medium or name the device that is in use", path.display())]
    EmptyDevice {
        /// The disk as it was named.
        path: PathBuf,
    },
}

/// Why a range of a disk could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The caller asked for bytes the disk never had.
    #[error(
        "read of {length_bytes} bytes at offset {offset} goes past the end of {} ({size_bytes} bytes); \
         this is a bug, please report it", path.display()
    )]
    OutOfRange {
        /// The disk.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length_bytes: u64,
        /// Size of the disk when it was opened.
        size_bytes: u64,
    },
    /// A block of the disk cannot be read, even alone.
    #[error(
        "cannot read {} at offset {offset} ({length_bytes} bytes): {source}; \
         look for a failing device in the kernel log. {AllowUnreadable} saves all that can be read, and says what is missing",
        path.display()
    )]
    Unreadable {
        /// The disk.
        path: PathBuf,
        /// First byte of the first block that failed.
        offset: u64,
        /// Bytes of that block.
        length_bytes: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The disk is now smaller than when it was opened.
    #[error(
        "{} shrank from {opened_bytes} to {now_bytes} bytes while it was read; \
         back it up again when nothing resizes it, or from a snapshot", path.display()
    )]
    Shrank {
        /// The disk.
        path: PathBuf,
        /// Size when it was opened.
        opened_bytes: u64,
        /// Size now; where reading found the end, if the size cannot be asked.
        now_bytes: u64,
    },
    /// Something in an image makes no sense.
    #[error("cannot read {} as a qcow2 image: {fault}", path.display())]
    Qcow2 {
        /// The image.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        fault: Box<Qcow2Fault>,
    },
    /// The confined child that reads an image's tables is gone, hangs, or says what makes no sense.
    #[error("cannot read {}: {problem}", path.display())]
    Reader {
        /// The image.
        path: PathBuf,
        /// What became of the child, and what to do.
        problem: String,
    },
    /// The file system could not say where the holes are.
    #[error(
        "cannot ask for the holes of {} at offset {offset}: {source}; \
         look for a failing device or file system in the kernel log", path.display()
    )]
    HoleSearch {
        /// The disk.
        path: PathBuf,
        /// Where the search was.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The server of an export did not give what was asked for.
    #[error("cannot read {length_bytes} bytes at offset {offset}: {source}")]
    Server {
        /// First byte of the range, or of the first block in it that failed.
        offset: u64,
        /// Its length.
        length_bytes: u64,
        /// The export, what its server said, and what to do.
        source: NbdError,
    },
    /// A disk of a snapshot did not give what was asked for.
    #[error("cannot read {length_bytes} bytes at offset {offset} of {}: {problem}", path.display())]
    Snapshot {
        /// What messages call it.
        path: PathBuf,
        /// First byte of the range.
        offset: u64,
        /// Its length.
        length_bytes: u64,
        /// What happened, on which object, and what to do.
        problem: String,
    },
    /// The program that reads an image did not give what was asked for.
    #[error(
        "cannot read {length_bytes} bytes at offset {offset} of {} through qemu-nbd: {fault}. See whether the file itself can be \
         read, and in the kernel log whether qemu-nbd was killed", path.display()
    )]
    Program {
        /// The image.
        path: PathBuf,
        /// First byte of the range, or of the first block in it that failed.
        offset: u64,
        /// Its length.
        length_bytes: u64,
        /// What happened.
        fault: Box<Fault>,
    },
}

/// How a disk differs from what was opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangedError {
    /// The size is another one.
    #[error(
        "{} changed its size from {opened_bytes} to {now_bytes} bytes while it was read; back up a snapshot of it",
        path.display()
    )]
    Size {
        /// The disk.
        path: PathBuf,
        /// Size when it was opened.
        opened_bytes: u64,
        /// Size now.
        now_bytes: u64,
    },
    /// The file was written to.
    #[error(
        "{} was written to while it was read, so what was read may mix old and new; back up a snapshot of it",
        path.display()
    )]
    Modified {
        /// The disk.
        path: PathBuf,
    },
    /// The time of its last write is what it was, the time of its last change is not.
    #[error(
        "{} was changed while it was read: its times were set, or its owner, mode, name or links are others. Whoever sets a \
         time back may have written before, so what was read may mix old and new; back up a snapshot of it",
        path.display()
    )]
    Touched {
        /// The disk.
        path: PathBuf,
    },
    /// Somebody else may be writing to it.
    #[error("{} {how}, so what is read may mix old and new; back up a snapshot of it", path.display())]
    InUse {
        /// The disk.
        path: PathBuf,
        /// By whom, and where.
        how: String,
    },
    /// It is not known whether the disk changed.
    #[error("cannot tell whether {} changed while it was read: {source}; back it up again", path.display())]
    Unknown {
        /// The disk.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a disk could not be restored to a target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// A file that is not empty has the name already.
    #[error("{} exists and is not empty; choose another name, or replace it with {Overwrite}", path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The path is neither a file, a block device nor free.
    #[error("cannot restore to {}: it is a {kind}; {advice}", path.display())]
    NotATarget {
        /// The target or the name its partial file needs.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// What to do about it.
        advice: String,
    },
    /// The device is mounted, or held by RAID, LVM, swap or another program.
    #[error(
        "{} is in use (mounted, or held by LVM, RAID, swap or another program); \
         release it, then restore again", path.display()
    )]
    InUse {
        /// The device.
        path: PathBuf,
    },
    /// Another process has a lock on the file or device.
    #[error(
        "{} is locked by another process ({by}): what uses it would lose all that it writes from now on. \
         Stop the machine and restore again, or restore to another name", path.display()
    )]
    Locked {
        /// The target.
        path: PathBuf,
        /// Who may that be.
        by: &'static str,
    },
    /// The device takes no writes.
    #[error("{} is read-only; make it writable (blockdev --setrw), or name another device", path.display())]
    ReadOnly {
        /// The device.
        path: PathBuf,
    },
    /// No file can be that large there.
    #[error("cannot make a file of {size_bytes} bytes at {}: {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Size of the disk.
        size_bytes: u64,
        /// What limits it, and what to do.
        limit: String,
    },
    /// The new file cannot be made like the one whose place it takes.
    #[error(
        "cannot give the restored file the owner, mode and attributes of {}, whose place it takes: {source}; \
         run as root, or restore to another name and move it there", path.display()
    )]
    Attributes {
        /// The file that is there.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process writes the same partial file now.
    #[error("another restore is writing {} now; wait for it or choose another name", path.display())]
    AnotherRestore {
        /// The partial file.
        path: PathBuf,
    },
    /// The device holds something.
    #[error(
        "{} is not empty (data at offset {offset}); if it may be destroyed, restore with {Overwrite}",
        path.display()
    )]
    HoldsData {
        /// The device.
        path: PathBuf,
        /// First byte that is not zero.
        offset: u64,
    },
    /// The device cannot hold the disk.
    #[error(
        "{} has {device_bytes} bytes, but the disk needs {disk_bytes}; restore to a larger device",
        path.display()
    )]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// Its size.
        device_bytes: u64,
        /// Size of the disk to restore.
        disk_bytes: u64,
    },
    /// An NBD server does not take the disk.
    #[error("{source}")]
    Server {
        /// What it said.
        #[source]
        source: Box<NbdError>,
    },
    /// The file is not of the size that the disk has, and is to be written where it lies.
    #[error(
        "{} has {found_bytes} bytes and the disk {disk_bytes}, so it cannot be restored in place; restore with {Overwrite}, \
         which makes the file anew", path.display()
    )]
    OtherSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
        /// Size of the disk to restore.
        disk_bytes: u64,
    },
    /// The format of the target cannot hold the disk.
    #[error(
        "cannot restore to {}: its format holds disks of at most {limit_bytes} bytes, and this one has {disk_bytes}; \
         restore it raw", path.display()
    )]
    BeyondFormat {
        /// The target.
        path: PathBuf,
        /// Size of the disk to restore.
        disk_bytes: u64,
        /// What the format can hold.
        limit_bytes: u64,
    },
    /// The file system, quota or thin pool is full.
    #[error(
        "no space left for {}: {written_bytes} bytes are written, up to {missing_bytes} more are needed, \
         and {available_bytes} are free; free space there or restore to another file system", path.display()
    )]
    NoSpace {
        /// The file or device that was being written.
        path: PathBuf,
        /// Bytes written before it was full.
        written_bytes: u64,
        /// Size of the disk less what is written; holes need less.
        missing_bytes: u64,
        /// What the file system says is free for this user; zero for a device.
        available_bytes: u64,
    },
    /// The caller wrote past the end of the disk.
    #[error(
        "write of {length_bytes} bytes at offset {offset} goes past the end of {} ({size_bytes} bytes); \
         this is a bug, please report it", path.display()
    )]
    OutOfRange {
        /// The target.
        path: PathBuf,
        /// First byte of the write.
        offset: u64,
        /// Its length.
        length_bytes: u64,
        /// Size of the disk that is restored.
        size_bytes: u64,
    },
    /// A range could not be written.
    #[error(
        "cannot write {length_bytes} bytes to {} at offset {offset}: {source}; \
         look for a failing device in the kernel log, then restore again", path.display()
    )]
    Write {
        /// The file or device.
        path: PathBuf,
        /// First byte of the write.
        offset: u64,
        /// Its length.
        length_bytes: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Another step failed.
    #[error("cannot {step} {}: {source}; check the path, its permissions and the kernel log", path.display())]
    Io {
        /// The step, as a verb.
        step: &'static str,
        /// The file, device or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
