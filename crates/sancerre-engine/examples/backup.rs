//! Saves a raw disk: `cargo run --example backup -- FOLDER PASSPHRASE DISK`. Makes the repository if none is there.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::sync::Arc;

use sancerre_engine::{
    BackupOptions, BackupSource, Cancel, Error, Host, Keys, Monitor, Name, NewRepository, Repository,
    SecretString, StoreOptions, Title, Zone, backup, init, location, open_raw,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, passphrase, disk] = words.as_slice() else {
        return Err("give the repository's folder, its passphrase and a raw disk".into());
    };
    println!("{}", run(folder, passphrase, disk).await?);
    Ok(())
}

/// Returns the snapshot's id.
pub(crate) async fn run(
    folder: &str,
    passphrase: &str,
    disk: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    // A program would call `cancel.now()` when it is asked to stop.
    let cancel = Cancel::default();
    let options = StoreOptions { cancel: cancel.clone(), ..StoreOptions::default() };
    let store = location::open(folder, [], true, &options)?;
    let host = Host::real("sancerre-example 1.0");
    let (zone, passphrase) = (Zone::new("default")?, SecretString::from(passphrase.to_owned()));
    let new = NewRepository::new(passphrase.clone(), zone.clone(), Name::new("example")?);
    match init(&store, &host, &new).await {
        Ok(_) | Err(Error::RepositoryExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let keys = Keys::from_passphrase(&store, &zone, &passphrase).await?;
    let repository = Repository::open(store, host, keys).await?;
    let monitor = Monitor::new(|event| eprintln!("{:?}: {event}", event.topic)).stopped_by(&cancel);
    let source = BackupSource::of_disk(Title::new("disk0")?, Arc::new(open_raw(Path::new(disk))?));
    let options = BackupOptions::new(Title::new("example")?, vec![source]);
    let report = backup(&repository, options, &monitor).await?;
    let snapshot = report.snapshot.ok_or("nothing was saved")?;
    Ok(snapshot.intent.to_string())
}
