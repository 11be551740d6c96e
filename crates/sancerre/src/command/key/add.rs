//! `key add`: a new key file, or a new restore recipient.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use sancerre_engine::keys::certify::{self, NewKey};
use sancerre_engine::keys::newest_generation;
use sancerre_format::certificate::Role;
use sancerre_format::names::{Name, Time};
use serde_json::json;

use super::restore::{self, AddRestore};
use crate::access::Access;
use crate::arguments::{parse_name, parse_until};
use crate::command::{Context, done};
use crate::exit::{Done, Failure};
use crate::interrupt::until_signal;
use crate::key_file::KeyFile;
use crate::plain;
use crate::repository;

/// What to do when a key is certified but its file cannot be written.
const INSTEAD: &str = "the name is used up and the key is lost; make another one under another name";

#[derive(Debug, Subcommand)]
pub(crate) enum Add {
    /// Make the key file of a writer: backs up, lists and checks, opens no content
    Writer(NewFile),
    /// Let somebody restore, with a key of their own
    Restore(AddRestore),
    /// Make the key file of a keeper: forgets, holds and collects garbage, opens no content; never for a hypervisor
    Keeper(NewFile),
}

/// Needs the administrator's passphrase. The file is made with mode 0600 and never replaces one that exists. A zone
/// that does not exist is made; hosts of one zone deduplicate against each other.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre key add writer hv2 --out hv2.key
  sancerre key add writer branch1 --zone branch --expires 2027-12-31 --out branch1.key
  sancerre key add keeper vault --out vault.key")]
pub(crate) struct NewFile {
    /// Name of the key; it is used once, for ever
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: Name,
    /// Where to write the key file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The last day it is good for (UTC), or a time such as 2027-12-31T12:00:00Z
    #[arg(long, value_name = "DATE", value_parser = parse_until)]
    expires: Option<Time>,
}

impl Add {
    /// What it writes besides the repository, in words, and where.
    pub(super) fn written(&self) -> Vec<(&'static str, PathBuf)> {
        match self {
            Self::Writer(options) | Self::Keeper(options) => vec![("the key file", options.out.clone())],
            Self::Restore(_) => Vec::new(),
        }
    }
}

pub(super) async fn run(command: Add, context: &Context) -> Result<Done, Failure> {
    match command {
        Add::Writer(options) => certify(options, Role::Writer, context).await,
        Add::Restore(options) => restore::add(options, context).await,
        Add::Keeper(options) => certify(options, Role::Keeper, context).await,
    }
}

async fn certify(options: NewFile, role: Role, context: &Context) -> Result<Done, Failure> {
    let file = KeyFile::reserve(options.out)?;
    let new = NewKey { name: options.name, role, expires: options.expires };
    let made = until_signal(make(&new, context)).await;
    let (text, zone_is_new, zone) = match made {
        Ok(made) => made,
        Err(failure) => {
            file.give_up();
            return Err(failure);
        }
    };
    let path = file.write(text.as_bytes(), INSTEAD)?.display().to_string();
    context.output.result(&format!("key file  {}\n", plain::line(&path)))?;
    if zone_is_new {
        context.output.message(&format!("zone {zone} is new: nothing in it is shared with other zones"));
    }
    let until = new.expires.map_or_else(String::new, |expires| format!(" until {expires}"));
    context.output.message(&format!("{role} {} may work in zone {zone}{until}", new.name));
    Ok(done([
        ("name", json!(new.name.to_string())),
        ("role", json!(role.to_string())),
        ("zone", json!(zone)),
        ("zone_is_new", json!(zone_is_new)),
        ("expires", json!(new.expires.map(|expires| expires.to_string()))),
        ("key_file", json!(path)),
    ]))
}

async fn make(
    new: &NewKey,
    context: &Context,
) -> Result<(zeroize::Zeroizing<String>, bool, String), Failure> {
    let mut repository = repository::open(context, Access::Admin).await?;
    let zone = repository.keys.zone.clone();
    let is_new = newest_generation(&repository.store, &repository.keys.trust, &zone).await?.is_none();
    if is_new {
        certify::make_generation(&mut repository).await?;
    } else {
        Arc::make_mut(&mut repository.keys).enter_zone(&repository.store).await?;
    }
    let text = certify::certify(&repository, new).await?;
    Ok((text, is_new, zone.to_string()))
}
