//! `key`: who may write, keep and restore.

mod add;

use clap::{Args, Subcommand};

use super::Context;
use crate::exit::{Done, Failure};

/// Manage the keys of writers, keepers and restore recipients.
#[derive(Debug, Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key for a writer or a keeper
    Add {
        #[command(subcommand)]
        command: add::Add,
    },
}

pub(crate) async fn run(options: Key, context: &Context) -> Result<Done, Failure> {
    match options.command {
        KeyCommand::Add { command } => add::run(command, context).await,
    }
}
