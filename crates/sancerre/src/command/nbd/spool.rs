//! A spool: what was fetched is kept in a file, and not fetched again after a restart.

use std::path::Path;
use std::sync::Arc;

use sancerre_engine::repository::snapshot_disk::Spool;
use sancerre_engine::restore::SnapshotReader;
use sancerre_format::outcome::Member;
use sancerre_serve::SpoolFile;

use super::repository_id;
use crate::exit::Failure;
use crate::plain;

/// Opens the spool of the only disk, or makes it.
pub(super) fn open(
    reader: &SnapshotReader,
    members: &[&Member],
    path: &Path,
) -> Result<Arc<dyn Spool>, Failure> {
    let [member] = members else {
        return Err(Failure::usage(
            "--spool takes one disk, and each needs a file of its own: write :DISK behind the snapshot",
        ));
    };
    let belongs_to = format!(
        "sancerre-spool-v1\nrepository: {}\nsnapshot: {}\ndisk: {}\nsize_bytes: {}\n",
        repository_id(reader),
        reader.manifest().session.intent,
        member.name,
        member.size_bytes
    );
    let spool = SpoolFile::open(path, &belongs_to, member.size_bytes)
        .map_err(|error| Failure::failed(format!("cannot use the spool {}: {error}", plain::path(path))))?;
    Ok(Arc::new(spool))
}
