//! `cargo xtask services`: the object stores of the tests, for a person who wants to try something on them.

use anyhow::{Context, Result};
use sancerre_services::{Variables, azurite, seaweedfs};

use crate::setup;

/// Starts the servers, prints the variables to export, and keeps the servers until the process is ended.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let server = seaweedfs().context("the S3 server is not installed")?;
    println!("\n# S3: SeaweedFS at {}. As admin (everything allowed):", server.endpoint());
    print(&server.location(), &server.variables(seaweedfs::ADMIN));
    println!(
        "# as writer: AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}",
        seaweedfs::WRITER.access_key,
        seaweedfs::WRITER.secret_key
    );
    println!(
        "# as reader: AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}",
        seaweedfs::READER.access_key,
        seaweedfs::READER.secret_key
    );
    if let Some(server) = azurite() {
        println!("\n# Azure Blob: Azurite at {}", server.endpoint());
        print(&server.location(), &server.variables());
    }
    println!("\nCtrl-C stops them; everything stored in them goes with them.");
    loop {
        std::thread::park();
    }
}

fn print(location: &str, variables: &Variables) {
    println!("export SANCERRE_REPOSITORY={location}");
    variables.iter().for_each(|(name, value)| println!("export {name}={value}"));
}
