//! What can be wrong with a qcow2 image, each with what to do about it.

use std::path::PathBuf;

use sancerre_advice::Setting::RawFormat;

/// Why an image is not read. The bytes are foreign: nothing in them is believed, repaired or passed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Qcow2Fault {
    /// It is something else.
    #[error(
        "it does not begin as a qcow2 image does; say which format it has; a raw disk of such a name needs {RawFormat}"
    )]
    NotQcow2,
    /// There is nothing in it.
    #[error(
        "it is empty (0 bytes); whatever made or copied it did not finish, look for the image that was meant"
    )]
    Empty,
    /// The file ends inside its header.
    #[error("it ends inside its header; it is cut short, copy it again")]
    ShortHeader,
    /// A version that never was, or will be.
    #[error("it is of version {version}, and 2 and 3 are known; convert it with `qemu-img convert -O qcow2`")]
    Version {
        /// As it says.
        version: u32,
    },
    /// Features without which it cannot be read rightly.
    #[error(
        "it needs features that are not known here ({names}); use a newer version of this program, \
         or convert it with `qemu-img convert -O qcow2`"
    )]
    UnknownFeatures {
        /// Bit numbers, with the names that the image gives them.
        names: String,
    },
    /// Some program has it open for writing, or died so.
    #[error(
        "it is marked dirty: it is in use or was not closed; back up a snapshot of it, \
         or if nothing uses it run `qemu-img check -r all`"
    )]
    Dirty,
    /// QEMU found it damaged.
    #[error(
        "it is marked corrupt; look at it with `qemu-img check`, and repair a copy with `qemu-img check -r all`"
    )]
    Corrupt,
    /// Its clusters are encrypted.
    #[error(
        "it is encrypted ({method}); decrypt it with `qemu-img convert`, or save its encrypted bytes with {RawFormat}"
    )]
    Encrypted {
        /// By what.
        method: &'static str,
    },
    /// A field of the header has a value that makes no sense.
    #[error("its header is wrong: {field} is {value}; look at it with `qemu-img check`")]
    Header {
        /// Which.
        field: &'static str,
        /// As it stands there.
        value: u64,
    },
    /// More header extensions than any program writes.
    #[error(
        "its header has more than {limit} extensions, where the format knows six; it is damaged or made to do harm, convert it \
         with `qemu-img convert -O qcow2` if its origin is trusted"
    )]
    Extensions {
        /// The limit.
        limit: usize,
    },
    /// More than a table may take.
    #[error(
        "its {table} takes {length_bytes} bytes, and at most {limit_bytes} are read; convert it with larger clusters"
    )]
    Huge {
        /// Which table.
        table: &'static str,
        /// Its claim.
        length_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A table does not lie inside the file.
    #[error(
        "its {table} at offset {offset} ({length_bytes} bytes) lies past its end ({file_bytes} bytes); \
         it is cut short or damaged, copy it again"
    )]
    Outside {
        /// Which table.
        table: &'static str,
        /// Where it should be.
        offset: u64,
        /// Bytes that are needed.
        length_bytes: u64,
        /// Size of the file.
        file_bytes: u64,
    },
    /// A table or cluster is not where one can be.
    #[error(
        "its {table} is at offset {offset}, which is no multiple of {unit_bytes}; it is damaged, run `qemu-img check`"
    )]
    Unaligned {
        /// Which table.
        table: &'static str,
        /// Where.
        offset: u64,
        /// The size of a cluster.
        unit_bytes: u64,
    },
    /// Two things claim the same bytes.
    #[error("its {table} at offset {offset} lies over its {other}; it is damaged, run `qemu-img check`")]
    Overlap {
        /// Which table.
        table: &'static str,
        /// Where.
        offset: u64,
        /// What is there already.
        other: &'static str,
    },
    /// More clusters are named than the file can have.
    #[error(
        "its tables name clusters of {claimed_bytes} bytes and more, and the file has {file_bytes}: it is cut short, or some lie over \
         others; copy it again, or look at it with `qemu-img check`"
    )]
    Claims {
        /// By the tables that were read so far.
        claimed_bytes: u64,
        /// How long it is.
        file_bytes: u64,
    },
    /// An entry has bits that nothing sets.
    #[error("its {table} has an entry that is no entry ({entry:#x}); it is damaged, run `qemu-img check`")]
    Entry {
        /// Which table.
        table: &'static str,
        /// As it stands there.
        entry: u64,
    },
    /// Guest bytes that the file does not have.
    #[error(
        "the guest's bytes at offset {guest} should be at {host}, past the end of {} ({file_bytes} bytes); \
         it is cut short or damaged, copy it again", file.display()
    )]
    DataOutside {
        /// Offset on the disk.
        guest: u64,
        /// Offset in the file.
        host: u64,
        /// The file with the clusters.
        file: PathBuf,
        /// Its size.
        file_bytes: u64,
    },
    /// A compressed cluster that is none.
    #[error(
        "the guest's bytes at offset {guest} do not decompress ({reason}); it is damaged, run `qemu-img check`"
    )]
    Compressed {
        /// Offset on the disk.
        guest: u64,
        /// What the decoder said.
        reason: String,
    },
    /// It refers to another file, and nobody said that it may.
    #[error("it needs another file, the {role} {name:?}; allow {role}s, if it may be read")]
    NotAllowed {
        /// Backing file or data file.
        role: &'static str,
        /// As the image spells it.
        name: String,
    },
    /// It refers to a file outside the directory that was named.
    #[error("its {role} {name:?} is not inside {}; name the directory it is in, if it may be read", directory.display())]
    NotInside {
        /// Backing file or data file.
        role: &'static str,
        /// As the image spells it.
        name: String,
        /// As it was named.
        directory: PathBuf,
    },
    /// It refers to a file that is not there.
    #[error(
        "its {role} {name:?} is not at {}; bring it back there, or tell the image where it is now (`qemu-img rebase -u` for a \
         backing file, `qemu-img amend` for a data file)",
        path.display()
    )]
    NotThere {
        /// Backing file or data file.
        role: &'static str,
        /// As the image spells it.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Two files may be meant.
    #[error(
        "its data file {name:?} may be the one beside the image, or the one of that name in the current folder, where QEMU looks; \
         start from the image's folder, or move the wrong one away"
    )]
    TwoDataFiles {
        /// As the image spells it.
        name: String,
    },
    /// The other file is not named by a path.
    #[error(
        "its {role} {name:?} is not the path of a file; serve the disk with `qemu-nbd`, read-only and on a unix socket, and back up \
         that export"
    )]
    NotAPath {
        /// Backing file or data file.
        role: &'static str,
        /// As the image spells it.
        name: String,
    },
    /// A format would have to be guessed from what the guest wrote.
    #[error(
        "it does not say which format its backing file {name:?} has; say it with `qemu-img rebase -u -F FORMAT -b FILE`"
    )]
    NoBackingFormat {
        /// As the image spells it.
        name: String,
    },
    /// A backing file in a format that is not read here.
    #[error(
        "its backing file {name:?} is said to be {format:?}, and raw and qcow2 are read; serve the disk with `qemu-nbd`, read-only \
         and on a unix socket, and back up that export"
    )]
    BackingFormat {
        /// As the image spells it.
        name: String,
        /// As the image spells it.
        format: String,
    },
    /// A file is its own backing file.
    #[error("its backing files go round in a circle; it has lost its base, look at it with `qemu-img info`")]
    Loop,
    /// More backing files than are followed.
    #[error(
        "it stands on more than {limit} backing files; merge some with `qemu-img commit` or `qemu-img rebase`"
    )]
    Deep {
        /// The limit.
        limit: usize,
    },
    /// As the confined child said that reads it, made harmless.
    #[error("{said}")]
    Told {
        /// What is wrong with it, and what to do.
        said: String,
    },
    /// A bitmap that cannot be used as a list of changes.
    #[error("its bitmap {name:?} {reason}; read the whole disk instead")]
    Bitmap {
        /// The bitmap.
        name: String,
        /// Why.
        reason: &'static str,
    },
}
