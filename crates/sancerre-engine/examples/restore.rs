//! Brings back what the example `backup` saved: `cargo run --example restore -- FOLDER PASSPHRASE SNAPSHOT TARGET`.
#![allow(clippy::print_stdout)]

use std::path::Path;

use sancerre_engine::{
    Error, Host, Keys, Monitor, RawTarget, Repository, RestoreOptions, SecretString, StoreOptions, Zone,
    location, open_snapshot, restore,
};

/// Memory for what is on its way.
const MEMORY_BYTES: u64 = 300 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, passphrase, snapshot, target] = words.as_slice() else {
        return Err("give the repository's folder, its passphrase, a snapshot and a new file".into());
    };
    println!("{} bytes of data", run(folder, passphrase, snapshot, target).await?);
    Ok(())
}

/// Returns the bytes of data in the disk.
pub(crate) async fn run(
    folder: &str,
    passphrase: &str,
    snapshot: &str,
    target: &str,
) -> Result<u64, Box<dyn std::error::Error>> {
    let store = location::open(folder, [], false, &StoreOptions::default())?;
    let (zone, passphrase) = (Zone::new("default")?, SecretString::from(passphrase.to_owned()));
    let keys = Keys::from_passphrase(&store, &zone, &passphrase).await?;
    let repository = Repository::open(store, Host::real("sancerre-example 1.0"), keys).await?;
    let monitor = Monitor::silent();
    let snapshot = open_snapshot(&repository, snapshot, &monitor).await?;
    let disk = snapshot.member("disk0").ok_or("the snapshot has no disk0")?;
    // The file gets its name when it is whole.
    let target = RawTarget::create(Path::new(target), disk.size_bytes, false)?;
    let options = RestoreOptions::new(MEMORY_BYTES);
    let report = restore(&snapshot, disk, Box::new(target), &options, &monitor).await.map_err(Error::from)?;
    Ok(report.data_bytes)
}
