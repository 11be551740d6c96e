//! `get`: files and trees of a guest, into a directory, a file or a stream.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use sancerre_guest::{Extra, Guest, NodeKind};
use serde_json::{Value, json};

use super::{Context, Opened, Sandbox, open, stopping};
use crate::beneath::Folder;
use crate::command::{ended, restore};
use crate::exit::{Done, Exit, Failure};
use crate::extract::Extraction;
use crate::guest_names::shown;
use crate::guest_place::{GuestPlace, Spot, Spotted, failure};
use crate::guest_tar::Tar;
use crate::guest_tree::{Account, Tree};
use crate::guest_zip::Zip;
use crate::plain;
use crate::units::{count, size};

/// What a tree is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TreeFormat {
    /// A stream, as tar reads it
    Tar,
    /// A stream, as unzip and file managers read it: without attributes, and each name of a file a file of its own
    Zip,
}

/// Bring files and folders of a guest back.
///
/// Modes, owners, times, attributes, holes, links and further names are kept where the target can; what could not be kept
/// is said, and the exit code is 3. Nothing is written outside of the target. Needs the passphrase.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre get web01:latest:/srv/share/plan.xlsx --target .
  sancerre get web01:latest~2:/srv/share --target /srv/restored/
  sancerre get 'dc01:latest:C:\\Users\\ada' --target ada/ --overwrite
  sancerre get 'dc01:latest:C:\\Users\\ada' --format zip --target ada.zip
  sancerre get web01:latest:disk0:p1/home --format tar --target - | ssh web01 tar -x -C /")]
pub(crate) struct Get {
    /// The file or folder
    #[arg(value_name = "SNAPSHOT:[DISK:]PATH", value_parser = GuestPlace::parse)]
    place: GuestPlace,
    /// A directory (one that exists, or a path that ends in a slash), a file, or - for standard output
    #[arg(long, value_name = "PATH")]
    pub(crate) target: PathBuf,
    /// Replace files that are at the target
    #[arg(long)]
    overwrite: bool,
    /// As one stream, into a file or to standard output
    #[arg(long, value_name = "FORMAT")]
    format: Option<TreeFormat>,
    #[command(flatten)]
    sandbox: Sandbox,
}

/// Where it goes.
enum Aim {
    Folder {
        path: PathBuf,
        overwrite: bool,
        token: String,
    },
    /// One file by its own name, in a folder.
    File {
        folder: PathBuf,
        name: Vec<u8>,
        overwrite: bool,
        token: String,
    },
    Stream {
        to: Box<dyn Write + Send>,
        format: Option<TreeFormat>,
    },
    TreeFile {
        path: PathBuf,
        format: TreeFormat,
        overwrite: bool,
    },
}

pub(crate) async fn run(options: Get, context: &Context) -> Result<Done, Failure> {
    let aim = aim(&options, context)?;
    let reader = restore::open(&options.place.snapshot, context).await?;
    let opened = open(&reader, &options.sandbox, context).await?;
    let (place, from) = (options.place, opened.clone());
    let account = stopping(move |stop| write(&place, &from, aim, stop)).await?;
    for (what, number, names) in account.lost() {
        context.output.warning(&format!("{}: {what}, such as {}", count(number, "name"), names.join(", ")));
    }
    for (name, why) in &account.failed {
        context.output.warning(&format!("{name} could not be had: {why}"));
    }
    context.output.message(&format!(
        "{}, {} and {}: {}",
        count(account.files, "file"),
        count(account.folders, "folder"),
        count(account.links, "link"),
        size(account.bytes)
    ));
    let exit = match (account.failed.is_empty(), account.is_damaged, account.is_whole() && opened.is_whole) {
        (false, true, _) => Exit::Damaged,
        (false, false, _) => Exit::Failed,
        (true, _, false) => Exit::NotAsAsked,
        (true, _, true) => Exit::Done,
    };
    let (_, fetched_bytes) = opened.cache.fetched();
    let fields = [
        ("snapshot", json!(reader.manifest().session.intent.to_string())),
        ("vm", json!(reader.vm().to_string())),
        ("files", json!(account.files)),
        ("folders", json!(account.folders)),
        ("links", json!(account.links)),
        ("size_bytes", json!(account.bytes)),
        ("not_kept", not_kept(&account)),
        (
            "failed",
            json!(
                account
                    .failed
                    .iter()
                    .map(|(name, why)| json!({"name": name, "why": why}))
                    .collect::<Vec<_>>()
            ),
        ),
        ("fetched_bytes", json!(fetched_bytes)),
    ];
    Ok(ended(exit, fields))
}

fn not_kept(account: &Account) -> Value {
    let lost =
        account.lost().map(|(what, number, names)| json!({"what": what, "names": number, "some": names}));
    json!(lost.collect::<Vec<_>>())
}

/// Before anything is opened: what can take nothing should cost nothing.
fn aim(options: &Get, context: &Context) -> Result<Aim, Failure> {
    let target = &options.target;
    let format = options.format;
    let token = format!("sancerre-{:016x}", u64::from_le_bytes(context.host.random()));
    let overwrite = options.overwrite;
    if target.as_os_str() == "-" {
        let to = context.output.take_stdout();
        let to =
            to.ok_or_else(|| Failure::failed("standard output is in use already; please report this"))?;
        if context.stdout_is_terminal && format.is_some() {
            return Err(Failure::usage(
                "standard output is a terminal; pipe the stream into a file or a program",
            ));
        }
        return Ok(Aim::Stream { to, format });
    }
    let is_folder = target.is_dir() || target.as_os_str().as_encoded_bytes().ends_with(b"/");
    match (format, is_folder) {
        (Some(_), true) => {
            Err(Failure::usage("a stream goes into a file; name one, or - for standard output"))
        }
        (Some(_), false) if target.symlink_metadata().is_ok() && !overwrite => {
            Err(Failure::usage(format!("{} is there already; --overwrite replaces it", plain::path(target))))
        }
        (Some(format), false) => Ok(Aim::TreeFile { path: target.clone(), format, overwrite }),
        (None, true) => Ok(Aim::Folder { path: target.clone(), overwrite, token }),
        (None, false) => {
            let name = target.file_name().map(|name| name.as_encoded_bytes().to_vec());
            let name = name.ok_or_else(|| Failure::usage("the target is no name of a file"))?;
            if target.symlink_metadata().is_ok() && !overwrite {
                return Err(Failure::usage(format!(
                    "{} is there already; --overwrite replaces it",
                    plain::path(target)
                )));
            }
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
            Ok(Aim::File { folder: folder.unwrap_or(Path::new(".")).to_owned(), name, overwrite, token })
        }
    }
}

fn write(place: &GuestPlace, opened: &Opened, aim: Aim, stop: &AtomicBool) -> Result<Account, Failure> {
    let Spot::FolderEntry(spotted) = place.find(&opened.guest, &opened.disks, false)? else {
        return Err(Failure::usage("name a file or a folder; `sancerre restore` brings whole disks back"));
    };
    let Spotted { volume, node, name } = spotted;
    let tree = Tree { guest: Arc::clone(&opened.guest), stop, volume, name, node };
    match aim {
        Aim::TreeFile { path, format, overwrite } => {
            let mut file = OpenOptions::new();
            file.write(true).create(true).create_new(!overwrite).truncate(overwrite);
            let file = file.open(&path).map_err(|error| {
                Failure::failed(format!("cannot write {}: {error}; check the path", plain::path(&path)))
            })?;
            stream(&tree, format, BufWriter::new(file))
        }
        Aim::Stream { to, format: Some(format) } => stream(&tree, format, to),
        Aim::Stream { mut to, format: None } => {
            super::cat::write(place, None, opened, &mut *to).map(Account::of_file)
        }
        // A folder that is named is what its content is put in.
        Aim::Folder { path, overwrite, token } => extract(&tree, &path, overwrite, token),
        Aim::File { name, .. } if tree.node.kind == NodeKind::Directory => Err(Failure::usage(format!(
            "{} is a folder: write a slash behind the target {}",
            place.rest,
            shown(&name)
        ))),
        Aim::File { folder, name, overwrite, token } => {
            extract(&Tree { name: Some(name), ..tree }, &folder, overwrite, token)
        }
    }
}

/// Writes one file, link or folder as a stream.
fn stream(tree: &Tree<'_>, format: TreeFormat, to: impl Write) -> Result<Account, Failure> {
    match format {
        TreeFormat::Tar => Tar::write(tree, to),
        TreeFormat::Zip => Zip::write(tree, to),
    }
}

/// Writes one file, link or folder below a folder of this machine.
fn extract(tree: &Tree<'_>, path: &Path, overwrite: bool, token: String) -> Result<Account, Failure> {
    let folder = Folder::of_user(path).map_err(|error| {
        Failure::failed(format!("cannot write below {}: {error}; check the path", plain::path(path)))
    })?;
    let extraction = Extraction::new(folder, overwrite, token)
        .map_err(|error| Failure::failed(format!("cannot look at the target: {error}; check the path")))?;
    extraction.write(tree)
}

/// How long a further stream of a file is.
pub(super) fn stream_bytes(
    guest: &Guest,
    volume: u16,
    id: u64,
    stream: &str,
    path: &str,
) -> Result<u64, Failure> {
    let extras = guest.extras(volume, id).map_err(|error| failure(path, error))?;
    let mut names = Vec::new();
    for extra in extras {
        if let Extra::Stream { name, size_bytes } = extra {
            if name == stream.as_bytes() {
                return Ok(size_bytes);
            }
            names.push(shown(&name));
        }
    }
    Err(Failure::usage(match names.is_empty() {
        true => format!("{path} has no further streams"),
        false => format!("{path} has no stream {stream}; it has {}", names.join(", ")),
    }))
}
