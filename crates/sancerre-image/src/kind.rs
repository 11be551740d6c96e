//! What a path is, in words for messages.

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;

/// The name of a file type, to follow "it is a".
pub(crate) fn name(file_type: FileType) -> &'static str {
    match file_type {
        t if t.is_file() => "regular file",
        t if t.is_dir() => "directory",
        t if t.is_symlink() => "symbolic link",
        t if t.is_fifo() => "pipe",
        t if t.is_socket() => "socket",
        t if t.is_char_device() => "character device",
        t if t.is_block_device() => "block device",
        _ => "file of unknown type",
    }
}

/// Whether a disk can be in it.
pub(crate) fn is_disk(file_type: FileType) -> bool {
    file_type.is_file() || file_type.is_block_device()
}
