//! `mount`: the disks of a snapshot as folders and files, until a signal comes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use fuser::{Config, MountOption, Session};
use sancerre_engine::restore::SnapshotReader;
use sancerre_engine::select::Selector;
use serde_json::json;

use super::{Context, Opened, Sandbox, open};
use crate::command::restore;
use crate::exit::{Done, Exit, Failure};
use crate::guest_mount::{GuestTree, RAW, folder_name};
use crate::interrupt::until_signal;
use crate::plain;

/// How many requests of the kernel are answered at once.
const THREADS: usize = 8;
/// How long the kernel may take to give the directory back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mount the disks of a snapshot in a directory, read-only, until it is interrupted.
///
/// No foreign file system is mounted: a confined child reads them, and FUSE shows what it says. Only this user sees it. The
/// program fusermount3 (package fuse3) is needed where this user is not root. Needs the passphrase.
#[derive(Debug, Args)]
#[command(after_help = "\
Below the directory are DISK/disk.raw, the whole disk, and DISK/VOLUME/ with the files of each
file system. Links are shown as they are: an absolute one leads into this machine.

Examples:
  sancerre mount web01:latest /mnt/web01
  rsync -a /mnt/web01/disk0/p1/srv/share/ /srv/share/
  umount /mnt/web01          # or interrupt the program")]
pub(crate) struct Mount {
    /// The snapshot
    #[arg(value_name = "SNAPSHOT", value_parser = Selector::parse)]
    snapshot: Selector,
    /// An empty directory
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    sandbox: Sandbox,
}

/// Before the repository is opened: what cannot be mounted on should cost nothing.
fn refuse_unfit(directory: &Path) -> Result<(), Failure> {
    let shown = plain::path(directory);
    if !directory.is_dir() {
        return Err(Failure::usage(format!("{shown} is no directory; make it first")));
    }
    if std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::usage(format!(
            "{shown} is not empty, and what is in it would be hidden; give an empty directory"
        )));
    }
    Ok(())
}

pub(crate) async fn run(options: Mount, context: &Context) -> Result<Done, Failure> {
    let directory = plain::path(&options.directory);
    refuse_unfit(&options.directory)?;
    let reader = restore::open(&options.snapshot, context).await?;
    let opened = open(&reader, &options.sandbox, context).await?;
    let session = mounted(&options.directory, &opened, context)?;
    tell(&reader, &opened, &directory, context);
    serve(session, &directory, context).await?;
    Ok(opened.ended(&reader, None))
}

fn mounted(directory: &Path, opened: &Opened, context: &Context) -> Result<Session<GuestTree>, Failure> {
    let output = Arc::clone(&context.output);
    let tree =
        GuestTree::new(Arc::clone(&opened.guest), opened.disks.clone(), move |text| output.warning(&text));
    Session::new(tree, directory, &config()).map_err(|error| {
        Failure::failed(format!(
            "cannot mount on {}: {error}; /dev/fuse and, but for root, the program fusermount3 (package fuse3) must be \
             there",
            plain::path(directory)
        ))
    })
}

fn tell(reader: &SnapshotReader, opened: &Opened, directory: &str, context: &Context) {
    let names: Vec<String> = opened.disks.iter().map(|disk| folder_name(disk)).collect();
    match context.output.is_json() {
        true => context.output.status([("mounted".to_owned(), json!(names))].into_iter().collect()),
        false => context.output.message(&format!(
            "{} of {} is mounted on {directory} ({}, each with {RAW} and its volumes), until interrupted or unmounted",
            reader.manifest().session.short(),
            reader.vm(),
            names.join(", ")
        )),
    }
}

/// Answers the kernel until somebody unmounts it or a signal comes, and unmounts it then.
async fn serve(mut session: Session<GuestTree>, directory: &str, context: &Context) -> Result<(), Failure> {
    let mut unmounter = session.unmount_callable();
    let mut serving = tokio::task::spawn_blocking(move || session.run());
    let ended_itself = until_signal(async {
        match (&mut serving).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(Failure::failed(format!("the kernel ended the mount on {directory}: {error}")))
            }
            Err(error) => {
                Err(Failure::new(Exit::Bug, format!("serving a mount failed: {error}; please report this")))
            }
        }
    })
    .await;
    match ended_itself {
        Err(failure) if failure.exit != Exit::Interrupted => return Err(failure),
        Ok(()) => return Ok(()),
        // The signal is the normal end.
        Err(_) => {}
    }
    unmounter.unmount().map_err(|error| {
        Failure::failed(format!("cannot unmount {directory}: {error}; `umount -l {directory}` does it"))
    })?;
    if tokio::time::timeout(PATIENCE, serving).await.is_err() {
        context
            .output
            .warning(&format!("{directory} is still in use; the kernel gives it back when it is not"));
    }
    Ok(())
}

fn config() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
        MountOption::FSName("sancerre".to_owned()),
        MountOption::Subtype("sancerre".to_owned()),
    ];
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}
