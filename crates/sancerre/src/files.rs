//! Local files that are brought up to date.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Replaces a file, whole or not at all: what reads it meanwhile sees the old or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    // Another ending, so that nobody who collects such files takes it for one.
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut file = std::fs::File::create(&beside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| {
        // The error is what counts; a leftover is only untidy.
        let _ = std::fs::remove_file(&beside);
    })
}
