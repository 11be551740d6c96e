//! `cat`: a file of a guest to standard output.

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use sancerre_guest::{GuestFile, NodeKind};
use serde_json::json;

use super::{Context, Opened, Sandbox, open, waiting};
use crate::command::restore;
use crate::exit::{Done, Failure};
use crate::guest_place::{GuestPlace, Spot, Spotted, failure};

/// What is read at once.
const PIECE_BYTES: u64 = 4 << 20;

/// Write a file of a guest to standard output.
///
/// Needs the passphrase: a writer's key file opens no content. With --json the summary is on standard error, behind the
/// file on standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre cat web01:latest:/etc/fstab
  sancerre cat 'dc01:latest:C:\\Users\\ada\\notes.txt'
  sancerre cat 'dc01:latest:disk0:p2/a.docx' --stream Zone.Identifier")]
pub(crate) struct Cat {
    /// The file
    #[arg(value_name = "SNAPSHOT:[DISK:]PATH", value_parser = GuestPlace::parse)]
    place: GuestPlace,
    /// A further stream of the file, of those that NTFS has
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    #[command(flatten)]
    sandbox: Sandbox,
}

pub(crate) async fn run(options: Cat, context: &Context) -> Result<Done, Failure> {
    // First of all, so that whatever is said goes to standard error and never between the data.
    let Some(mut stdout) = context.output.take_stdout() else {
        return Err(Failure::failed("standard output is in use already; this is a bug, please report it"));
    };
    let reader = restore::open(&options.place.snapshot, context).await?;
    let opened = open(&reader, &options.sandbox, context).await?;
    let (place, stream, from) = (options.place, options.stream, opened.clone());
    let size_bytes = waiting(move || write(&place, stream.as_deref(), &from, &mut stdout)).await?;
    Ok(opened.ended(&reader, Some(("size_bytes", json!(size_bytes)))))
}

pub(super) fn write(
    place: &GuestPlace,
    stream: Option<&str>,
    opened: &Opened,
    to: &mut dyn Write,
) -> Result<u64, Failure> {
    let Spot::FolderEntry(Spotted { volume, node, .. }) = place.find(&opened.guest, &opened.disks, true)?
    else {
        return Err(Failure::usage("a disk is no file; `sancerre dump` writes a whole disk"));
    };
    let size_bytes = match (stream, node.kind) {
        (None, NodeKind::File) => node.size_bytes,
        (Some(stream), _) => super::get::stream_bytes(&opened.guest, volume, node.id, stream, &place.rest)?,
        (None, NodeKind::Directory) => {
            return Err(Failure::usage(format!(
                "{} is a folder; `sancerre get` gives all of it",
                place.rest
            )));
        }
        (None, _) => return Err(Failure::usage(format!("{} is no file with bytes", place.rest))),
    };
    let stream = stream.unwrap_or_default().as_bytes();
    let mut file = GuestFile::new(Arc::clone(&opened.guest), volume, node.id, stream, size_bytes);
    let mut at = 0;
    while at < size_bytes {
        let length = size_bytes.saturating_sub(at).min(PIECE_BYTES);
        let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_at(at, &mut piece).map_err(|error| failure(&place.rest, error))?;
        to.write_all(&piece).map_err(unwritten)?;
        at = at.saturating_add(length);
    }
    to.flush().map_err(unwritten)?;
    Ok(size_bytes)
}

fn unwritten(error: std::io::Error) -> Failure {
    Failure::failed(format!("cannot write to standard output: {error}"))
}
