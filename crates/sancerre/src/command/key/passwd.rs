//! `key passwd`: another passphrase for the administrator.

use std::path::PathBuf;

use clap::Args;
use sancerre_engine::keys::recipients;

use super::restore::report;
use crate::access;
use crate::command::Context;
use crate::exit::{Done, Failure};
use crate::interrupt::until_signal;
use crate::passphrase;

/// Change the administrator's passphrase, which opens content and the admin's key.
///
/// The old one is taken from the usual places. New backups are sealed to a new identity that the old passphrase does
/// not open; its objects are removed if the store allows that. Where it does not (locks, versions), or somebody has a
/// copy, the old passphrase still opens older snapshots and the admin's key: after a leak, make a new repository.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre key passwd
  sancerre key passwd --new-password-file new-passphrase")]
pub(crate) struct Passwd {
    /// A file whose first line is the new passphrase [default: asked for on the terminal]
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
}

pub(super) async fn run(options: Passwd, context: &Context) -> Result<Done, Failure> {
    let (repository, old) = access::repository_as_admin(context).await?;
    let new = passphrase::find_new(options.new_password_file.as_deref(), &context.prompt, &context.host)?;
    if let Some(weakness) = passphrase::weakness(&new) {
        context.output.warning(&weakness);
    }
    let work = async { Ok(recipients::replace_passphrase(&repository, &old, &new).await?) };
    let (label, removed) = until_signal(work).await?;
    context
        .output
        .message("the passphrase is changed; key files and other restore recipients stay as they are");
    Ok(report(context, &removed, label.as_str()))
}
