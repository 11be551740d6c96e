//! `map`: change maps of storage that keeps count by itself, for `backup --changed`. No repository is needed, and no key.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use sancerre_image::change_map::{ChangeMap, CloneError, MapError};
use serde_json::{Value, json};

use super::{Context, done};
use crate::exit::{Done, Failure};
use crate::files;
use crate::plain;
use crate::units::{count, parse_size, size};

/// Say what changed on a disk, by what its storage knows: a map for `backup --changed`.
///
/// The map goes to standard output, in one line. It must be of two pictures that nobody writes to: the one that was backed up
/// last, and the one that is to be backed up now.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre map reflink web01.monday.raw web01.tuesday.raw > web01.map
  thin_delta --metadata-snap --snap1 7 --snap2 9 /dev/mapper/pool_tmeta | sancerre map thin --disk-bytes 40G > web01.map
  zfs send -i tank/web01@monday tank/web01@tuesday | sancerre map zfs --disk-bytes 40G > web01.map
  sancerre backup --vm web01 web01.tuesday.raw --changed web01.map --changed-since 3f9a12cc")]
pub(crate) struct Map {
    #[command(subcommand)]
    command: MapCommand,
}

#[derive(Debug, Subcommand)]
enum MapCommand {
    /// Compare where two clones of a file are on XFS, Btrfs or bcachefs (cp --reflink); reads neither
    Reflink {
        /// The clone that was backed up; it must have been there ever since
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The clone that is to be backed up
        #[arg(value_name = "NEW")]
        new: PathBuf,
        #[command(flatten)]
        base: Base,
    },
    /// Read what `thin_delta` prints of two snapshots of an LVM thin volume
    Thin(Told),
    /// Read what `zfs send -i` sends of a volume; its data are passed over
    Zfs(Told),
}

/// The snapshot that the map begins at.
#[derive(Debug, Args)]
struct Base {
    /// The id of the snapshot of the older picture, which the map then names; without it `backup --changed-since` must
    #[arg(long, value_name = "ID", value_parser = parse_base)]
    base: Option<String>,
}

/// What another program says.
#[derive(Debug, Args)]
struct Told {
    /// Where that is, or - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// The size of the disk
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    disk_bytes: u64,
    #[command(flatten)]
    base: Base,
}

fn parse_base(text: &str) -> Result<String, String> {
    let is_id = text.len() >= 4 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    match is_id {
        true => Ok(text.to_owned()),
        false => Err("give the hexadecimal digits of a snapshot's id, at least 4".to_owned()),
    }
}

pub(crate) fn run(options: Map, context: &Context) -> Result<Done, Failure> {
    let (map, base) = match options.command {
        MapCommand::Reflink { old, new, base } => (ChangeMap::of_clones(&old, &new).map_err(clones)?, base),
        MapCommand::Thin(told) => (read(&told, context, ChangeMap::of_thin_delta)?, told.base),
        MapCommand::Zfs(told) => (read(&told, context, ChangeMap::of_zfs_send)?, told.base),
    };
    let map = match base.base {
        Some(base) => map.since(base),
        None => map,
    };
    let mut text = Vec::new();
    map.write(&mut text).map_err(|error| Failure::failed(error.to_string()))?;
    text.push(b'\n');
    let text = String::from_utf8(text).map_err(|error| Failure::failed(error.to_string()))?;
    context.output.result(&text)?;
    context.output.message(&format!(
        "{} changed of {}, in {}",
        size(map.changed_bytes()),
        size(map.disk_bytes()),
        count(map.ranges().len() as u64, "range")
    ));
    let shown: Value = serde_json::from_str(&text).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(done([("map", shown), ("changed_bytes", json!(map.changed_bytes()))]))
}

fn read(
    told: &Told,
    context: &Context,
    parse: impl Fn(Box<dyn Read>, u64) -> Result<ChangeMap, MapError>,
) -> Result<ChangeMap, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("{}: {error}; no map was made", plain::path(&told.input)))
    };
    let input: Box<dyn Read> = if files::is_stdout(&told.input) {
        Box::new(context.take_stdin().ok_or_else(|| Failure::usage("standard input was read already"))?)
    } else {
        Box::new(open(&told.input).map_err(|error| failed(&error))?)
    };
    parse(input, told.disk_bytes).map_err(|error| failed(&error))
}

fn open(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

fn clones(error: CloneError) -> Failure {
    Failure::failed(format!("{error}. No map was made; without one the whole disk is backed up"))
}
