//! `cargo xtask probe`: what `sancerre doctor` says of real S3 servers that do not keep what S3 promises. The verdicts
//! are in docs/STORES.md.

use anyhow::{Result, bail};
use sancerre_services::Bucket;
use sancerre_services::liars::{self, Liar};

use crate::{setup, shell};

const BUCKETS: [(&str, Bucket); 2] = [("plain", Bucket::Plain), ("locked", Bucket::LockedByDefault(1))];

/// Starts the server, makes buckets, and shows the program's verdict on each.
pub(crate) fn run(server: &str) -> Result<()> {
    let liar = match server {
        "rclone" => liars::rclone()?,
        "radosgw" => {
            setup::install(setup::CEPH_TOOLS)?;
            liars::radosgw(&shell::target_folder())?
        }
        _ => bail!("no server {server}; there are rclone and radosgw"),
    };
    shell::run(shell::cargo(&["build", "--locked", "--package", "sancerre"]))?;
    for (bucket, kind) in BUCKETS {
        println!("\n== {server}, bucket {bucket}");
        match liar.bucket(bucket, kind) {
            Ok(()) => doctor(&liar, bucket),
            Err(error) => println!("cannot be made: {error:#}"),
        }
    }
    Ok(())
}

/// The verdict is the output; its exit code says so too, and is no failure here.
fn doctor(liar: &Liar, bucket: &str) {
    let program = shell::target_folder().join("debug/sancerre");
    let place = format!("s3://{bucket}/repository");
    let mut command = shell::command(&program.to_string_lossy(), &["doctor", "-r", &place]);
    command.envs(liar.variables());
    if let Err(error) = shell::run(command) {
        println!("{error}");
    }
}
