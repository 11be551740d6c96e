//! Which files a command writes: none of them may lie inside the repository.
//!
//! A key beside what it opens, a report or a cache among objects, a disk that is restored over packs: each is a mistake,
//! and a collector or a listing would meet it later.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sancerre_engine::store::Store;

use crate::arguments::Command;
use crate::command::Context;
use crate::command::job::Job;
use crate::exit::Failure;

/// What a command does to the world, as far as it is known before the repository is opened.
#[derive(Debug, Default)]
pub(crate) struct Intent {
    /// What it writes besides the repository, in words, and where.
    files: Vec<(&'static str, PathBuf)>,
    /// It leads to more room, or to less that must be kept: on a full disk it may use what is kept for that.
    spends_reserve: bool,
}

impl Intent {
    /// Of a command that was understood.
    pub(crate) fn of(command: &Command, context: &Context) -> Self {
        let files = match command {
            Command::Init(options) => options.written(context),
            Command::Backup(options) => options.written(context),
            Command::Import(options) => options.written(context),
            Command::Restore(options) => {
                let kept = options.keep_damaged.clone().map(|path| ("what is replaced", path));
                std::iter::once(("the target", options.target.clone())).chain(kept).collect()
            }
            Command::Export(options) => vec![("the target", options.target.clone())],
            Command::Get(options) => vec![("the target", options.target.clone())],
            Command::Mount(options) => vec![("the mount", options.directory.clone())],
            Command::Nbd(options) => options.written(),
            Command::Recover(options) => options.written(),
            Command::Drill(options) => options.written(),
            Command::Rto(options) => options.written(),
            Command::Audit(options) => options.written(),
            Command::Key(options) => options.written(),
            other => Job::of(other).iter().map(Job::written).collect(),
        };
        let spends_reserve = matches!(
            command,
            Command::Forget(_)
                | Command::Approve(_)
                | Command::Undelete(_)
                | Command::Hold(_)
                | Command::Release(_)
                | Command::Gc(_)
                | Command::Key(_)
        );
        Self { files, spends_reserve }
    }

    /// Looks at a store before it is used.
    ///
    /// Errors: a file would be written into it.
    pub(crate) fn meet(&self, store: &Store) -> Result<(), Failure> {
        if self.spends_reserve {
            store.spend_reserve();
        }
        let Some(folder) = store.folder_path() else { return Ok(()) };
        match self.files.iter().find(|(_, path)| lies_in(path, folder)) {
            None => Ok(()),
            Some((what, path)) => Err(Failure::usage(format!(
                "{what} {} would lie inside the repository {}, where only the program's own objects belong: name another \
                 place. Nothing was done",
                path.display(),
                folder.display()
            ))),
        }
    }
}

/// Whether a path leads into a folder, through links and second mounts too.
pub(crate) fn lies_in(path: &Path, folder: &Path) -> bool {
    // Standard output.
    if path == Path::new("-") || path.to_str().is_some_and(sancerre_image::nbd::NbdUri::is_one) {
        return false;
    }
    let (Ok(path), Ok(folder)) = (std::path::absolute(path), folder.metadata()) else { return false };
    // What is not there yet lies where the last folder that is there does.
    let Some(real) = path.ancestors().find_map(|above| above.canonicalize().ok()) else { return false };
    let is_it = |above: &Path| {
        above.metadata().is_ok_and(|above| (above.dev(), above.ino()) == (folder.dev(), folder.ino()))
    };
    real.ancestors().any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_where_it_leads() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("repository");
        std::fs::create_dir_all(folder.join("zones")).unwrap();
        std::os::unix::fs::symlink(&folder, place.path().join("link")).unwrap();
        std::os::unix::fs::symlink(folder.join("zones"), place.path().join("inner")).unwrap();
        for inside in
            ["repository/x", "repository", "repository/no/such/x", "link/x", "inner/x", "a/../repository/x"]
        {
            std::fs::create_dir_all(place.path().join("a")).unwrap();
            assert!(lies_in(&place.path().join(inside), &folder), "{inside}");
        }
        for outside in ["x", "repository2/x", "repository.key", "no/such"] {
            assert!(!lies_in(&place.path().join(outside), &folder), "{outside}");
        }
        assert!(!lies_in(Path::new("-"), &folder));
    }
}
