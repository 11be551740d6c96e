//! `key revoke`, `key taint`: what a key signed or stored is not trusted any more.

use clap::{Args, Subcommand};
use sancerre_engine::keys::{Keys, overview};
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::{Repository, session};
use sancerre_engine::revoke::{self, Revoked};
use sancerre_format::certificate::Role;
use sancerre_format::log::{Distrust, Entry, Kind};
use sancerre_format::names::Name;
use sancerre_format::record::Record;
use serde_json::json;

use crate::access::Access;
use crate::arguments::parse_name;
use crate::command::{Context, done};
use crate::exit::{Done, Failure};
use crate::interrupt::until_signal;
use crate::repository;
use crate::units::count;

#[derive(Debug, Subcommand)]
pub(crate) enum Revoke {
    /// Trust nothing that a writer signs from now on: its snapshots of before stay valid
    Writer(Numbered),
    /// Trust nothing that a keeper signs from now on
    Keeper(Named),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Taint {
    /// Build on nothing that a writer stored: the next backups store it again, its snapshots stay
    Writer(Numbered),
}

/// Needs the administrator's passphrase. What is written is one more record of the log; it cannot be taken back.
#[derive(Debug, Args)]
#[command(after_help = "\
Log numbers are what `sancerre snapshots --json` calls \"session\".

Examples:
  sancerre key revoke writer hv2                 # from now on
  sancerre key revoke writer hv2 --from 812      # since it was broken into: snapshots from 812 on are void
  sancerre key taint writer hv2                  # all that it ever stored
  sancerre key taint writer hv2 --from 812")]
pub(crate) struct Numbered {
    /// Its name in `sancerre key list`
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: Name,
    /// The first log number that is not trusted [default: revoke: the next; taint: 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// Why, for whoever reads the log
    #[arg(long, value_name = "TEXT", default_value = "by the administrator")]
    reason: String,
}

/// Needs the administrator's passphrase. What is written is one more record of the log; it cannot be taken back.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name in `sancerre key list`
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: Name,
    /// Why, for whoever reads the log
    #[arg(long, value_name = "TEXT", default_value = "by the administrator")]
    reason: String,
}

pub(super) async fn revoke_key(command: Revoke, context: &Context) -> Result<Done, Failure> {
    let (role, options) = match command {
        Revoke::Writer(options) => (Role::Writer, options),
        // What a keeper collected in the past cannot be brought back by not believing it.
        Revoke::Keeper(Named { name, reason }) => (Role::Keeper, Numbered { name, from: None, reason }),
    };
    let (repository, mut log) = open(&options.name, role, context).await?;
    let Numbered { name, from, reason } = &options;
    let done = until_signal(async { Ok(revoke::revoke(&repository, &mut log, name, *from, reason).await?) });
    let Revoked { number, from, ended, .. } = done.await?;
    let lost = lost(&log, name, from);
    context.output.message(&format!(
        "nothing that {role} {name} signed or signs at log numbers from {from} on is trusted (log entry {number}); {lost} of \
         its snapshots are void, and this ended {}",
        count(ended.len() as u64, "open session"),
    ));
    context.output.message(&format!(
        "its key still reads what it could read: sizes and layout of zone {}. `sancerre key taint writer {}` has its \
         earlier data stored again",
        repository.keys.zone, options.name
    ));
    Ok(finish(&options, from, number, lost))
}

/// How many snapshots are void by a revocation.
fn lost(log: &Log, name: &Name, from: u64) -> usize {
    let revoked = log.entries().filter_map(|entry| entry.revoked.as_deref());
    let is_lost = |entry: &&Record<Entry>| entry.fields.by.name == *name && entry.fields.number >= from;
    revoked.filter(is_lost).filter(|entry| matches!(entry.fields.kind, Kind::Backup(_))).count()
}

pub(super) async fn taint(command: Taint, context: &Context) -> Result<Done, Failure> {
    let Taint::Writer(options) = command;
    let (repository, log) = open(&options.name, Role::Writer, context).await?;
    let from = options.from.unwrap_or(1);
    let touched = snapshots(&log, &options.name, from);
    let number = append(&repository, &log, Kind::Taint(distrust(&options, from))).await?;
    context.output.message(&format!(
        "the next backups store again what writer {} stored at log numbers from {from} on (log entry {number}); its own \
         {touched} snapshots stay, and restore",
        options.name
    ));
    Ok(finish(&options, from, number, touched))
}

/// The repository in the key's zone, with the admin's key.
async fn open(name: &Name, role: Role, context: &Context) -> Result<(Repository, Log), Failure> {
    let mut repository = repository::open(context, Access::Admin).await?;
    let (certificate, lost) = overview::certificate(&repository, name).await?;
    if let Some(lost) = lost {
        context.output.warning(&lost.to_string());
    }
    if certificate.role() != role {
        return Err(Failure::usage(format!("{name} is a {}, not a {role}", certificate.role_name)));
    }
    repository.keys = Keys::clone(&repository.keys).elsewhere(certificate.zone).into();
    let log = repository::load_log(context, &repository).await?;
    Ok((repository, log))
}

fn distrust(options: &Numbered, from: u64) -> Distrust {
    Distrust { writer: options.name.clone(), from, reason: session::one_line(&options.reason) }
}

/// How many snapshots a key signed from a number on.
fn snapshots(log: &Log, name: &Name, from: u64) -> usize {
    let signed = log.snapshots().into_iter().map(|snapshot| &snapshot.manifest.fields);
    signed.filter(|manifest| manifest.by.name == *name && manifest.session.number >= from).count()
}

async fn append(repository: &Repository, log: &Log, kind: Kind) -> Result<u64, Failure> {
    until_signal(async { Ok(session::append(repository, log, kind, &[]).await?.number) }).await
}

fn finish(options: &Numbered, from: u64, number: u64, snapshots: usize) -> Done {
    done([
        ("name", json!(options.name.to_string())),
        ("from", json!(from)),
        ("number", json!(number)),
        ("snapshots", json!(snapshots)),
    ])
}
