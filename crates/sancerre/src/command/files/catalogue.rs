//! `catalogue`: the list of files of snapshots that were saved without one.

use std::io::Read;
use std::sync::Arc;

use clap::Args;
use sancerre_engine::file_catalogue;
use sancerre_engine::repository::snapshot_disk::{BlockingSnapshotDisk, ChunkCache, SnapshotDisk};
use sancerre_engine::restore;
use sancerre_engine::select::Selector;
use sancerre_format::names::Title;
use sancerre_format::outcome::MemberKind;
use sancerre_image::Disk;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{Context, waiting};
use crate::access::Access;
use crate::catalogue::{Catalogue, CatalogueStream};
use crate::command::ended;
use crate::exit::{Done, Exit, Failure};
use crate::repository;
use crate::units::size;

/// Make the catalogue of files of a snapshot that was saved without one.
///
/// Reads the folders of its disks, and stores what it found, sealed like content, in a note of the log; the snapshot itself is
/// as it was. The nights of `backup --catalogue` share what did not change, these do not. Needs the passphrase.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre catalogue web01:latest
  sancerre catalogue web01:latest~30 web01:latest~60")]
pub(crate) struct MakeCatalogue {
    /// The snapshots
    #[arg(value_name = "SNAPSHOT", value_parser = Selector::parse, required = true)]
    snapshots: Vec<Selector>,
    /// Read file systems without confining what reads them, where this kernel cannot: a guest that was made to do harm may
    /// then read every file of this user, and keys
    #[arg(long)]
    no_sandbox: bool,
}

pub(crate) async fn run(options: MakeCatalogue, context: &Context) -> Result<Done, Failure> {
    let repository = repository::open(context, Access::Content).await?;
    let monitor = context.monitor();
    let mut made: Vec<Value> = Vec::new();
    for selector in &options.snapshots {
        let log = repository::load_log(context, &repository).await?;
        let session = selector.resolve(&repository, &log)?;
        let id = session.intent.to_string();
        let reader = restore::open(&repository, &log, session).await?;
        let cache = ChunkCache::new(context.global.memory);
        if Catalogue::of(&reader, &cache, &monitor).await?.is_some() {
            context.output.message(&format!("{id} has a catalogue already"));
            continue;
        }
        let members = reader.body().members.iter().filter(|member| member.kind == MemberKind::Disk);
        let mut disks: Vec<(Title, Arc<dyn Disk>)> = Vec::new();
        for member in members {
            let disk = SnapshotDisk::open(&reader, member, &cache, &monitor)?;
            disks.push((member.name.clone(), Arc::new(BlockingSnapshotDisk::new(disk, Handle::current()))));
        }
        if disks.is_empty() {
            return Err(Failure::usage(format!("snapshot {id} has no disk")));
        }
        let (region_bytes, sandbox) = (repository.layout.region_bytes, !options.no_sandbox);
        let told = monitor.clone();
        let bytes = waiting(move || {
            let mut bytes = Vec::new();
            let read = CatalogueStream::new(disks, region_bytes, sandbox, told).read_to_end(&mut bytes);
            read.map_err(|error| Failure::failed(format!("the catalogue cannot be made: {error}")))?;
            Ok(bytes)
        })
        .await?;
        let number = file_catalogue::keep(&repository, session, &bytes).await?;
        context.output.message(&format!(
            "catalogue of {id}: {}, in the log as entry {number}",
            size(bytes.len() as u64)
        ));
        made.push(json!({"snapshot": id, "size_bytes": bytes.len(), "entry": number}));
    }
    Ok(ended(Exit::Done, [("catalogues", json!(made))]))
}
