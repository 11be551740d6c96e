//! Reads a sector of a disk that the example `backup` saved: `cargo run --example read_disk -- FOLDER PASSPHRASE SNAPSHOT SECTOR`.
#![allow(clippy::print_stdout)]

use sancerre_engine::{
    Host, Keys, Monitor, Repository, SecretString, StoreOptions, Zone, location, open_disk, open_snapshot,
};

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Memory for what was fetched and may be read again.
const CACHE_BYTES: u64 = 64 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, passphrase, snapshot, sector] = words.as_slice() else {
        return Err(
            "give the repository's folder, its passphrase, a snapshot and the number of a sector".into()
        );
    };
    println!("{:02x?}", run(folder, passphrase, snapshot, sector.parse()?).await?);
    Ok(())
}

/// Returns the sector.
pub(crate) async fn run(
    folder: &str,
    passphrase: &str,
    snapshot: &str,
    sector: u64,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let store = location::open(folder, [], false, &StoreOptions::default())?;
    let (zone, passphrase) = (Zone::new("default")?, SecretString::from(passphrase.to_owned()));
    let keys = Keys::from_passphrase(&store, &zone, &passphrase).await?;
    let repository = Repository::open(store, Host::real("sancerre-example 1.0"), keys).await?;
    let monitor = Monitor::silent();
    let snapshot = open_snapshot(&repository, snapshot, &monitor).await?;
    let disk = open_disk(&snapshot, "disk0", CACHE_BYTES, &monitor)?;
    let offset = sector.checked_mul(SECTOR).ok_or("there is no such sector")?;
    let mut bytes = vec![0; 512];
    disk.read(offset, &mut bytes).await?;
    Ok(bytes)
}
