//! `key`: who may write, keep and restore.

mod add;
mod admin;
mod distrust;
mod list;
mod paper;
mod passwd;
mod restore;
mod rotate;

pub(super) use paper::SHEET;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Context;
use super::approve::{self, Approvals};
use crate::exit::{Done, Failure};

/// Manage the keys of writers, keepers and restore recipients.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre key list
  sancerre key add writer hv2 --out hv2.key
  sancerre key add restore --recipient age1… --label vault
  sancerre key revoke writer hv2 && sancerre key taint writer hv2
  sancerre key rotate --zone default")]
pub(crate) struct Key {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// List keys, restore recipients and zones; needs no secret besides any key file, or --trust
    List,
    /// Make a key for a writer or a keeper, or let somebody restore
    Add {
        #[command(subcommand)]
        command: add::Add,
    },
    /// Keep a restore recipient from what is saved from now on
    Remove {
        #[command(subcommand)]
        command: restore::Remove,
    },
    /// Print a recovery sheet for the safe: restores everything with nothing else
    Paper(paper::Paper),
    /// Change the administrator's passphrase
    Passwd(passwd::Passwd),
    /// Make new keys for a zone: those of a stolen key file read nothing of what comes after
    Rotate,
    /// Make a new signing key for the administrator; the old one signs nothing any more
    RotateAdmin(admin::RotateAdmin),
    /// Ask for the approval of other keepers before a forget counts
    Approvals(Approvals),
    /// Trust nothing that a key signs from now on
    Revoke {
        #[command(subcommand)]
        command: distrust::Revoke,
    },
    /// Build on nothing that a writer stored: the next backups store it again
    Taint {
        #[command(subcommand)]
        command: distrust::Taint,
    },
}

impl Key {
    /// Whether it leaves something behind in the repository.
    pub(super) fn changes(&self) -> bool {
        !matches!(self.command, KeyCommand::List)
    }

    /// What it writes besides the repository, in words, and where.
    pub(crate) fn written(&self) -> Vec<(&'static str, PathBuf)> {
        match &self.command {
            KeyCommand::Add { command } => command.written(),
            KeyCommand::Paper(options) => options.written(),
            _ => Vec::new(),
        }
    }
}

pub(crate) async fn run(options: Key, context: &Context) -> Result<Done, Failure> {
    match options.command {
        KeyCommand::List => list::run(context).await,
        KeyCommand::Add { command } => add::run(command, context).await,
        KeyCommand::Remove { command: restore::Remove::Restore { label } } => {
            restore::remove(label, context).await
        }
        KeyCommand::Paper(options) => paper::run(options, context).await,
        KeyCommand::Passwd(options) => passwd::run(options, context).await,
        KeyCommand::Rotate => rotate::run(context).await,
        KeyCommand::Approvals(options) => approve::set(options, context).await,
        KeyCommand::RotateAdmin(options) => admin::run(options, context).await,
        KeyCommand::Revoke { command } => distrust::revoke_key(command, context).await,
        KeyCommand::Taint { command } => distrust::taint(command, context).await,
    }
}
