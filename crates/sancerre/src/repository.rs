//! Opening the repository with the least key that is enough.

use std::path::{Path, PathBuf};

use sancerre_engine::keys::{self, Keys};
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Log, Outcome};
use sancerre_engine::store::Store;
use sancerre_engine::{Error, location};
use sancerre_format::names::Zone;
use zeroize::Zeroizing;

use crate::command::Context;
use crate::exit::Failure;
use crate::{limits, passphrase};

/// Variable that stands in for `--repo`.
const REPOSITORY: &str = "SANCERRE_REPOSITORY";
/// Variable that stands in for `--key-file`.
const KEY_FILE: &str = "SANCERRE_KEY_FILE";
/// The zone when nobody names one.
const ZONE: &str = "default";
/// Variables that belong to the providers of cloud stores.
const CLOUD: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// What a command must be able to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Maps and index, and to sign backups: the key file, else the passphrase.
    Metadata,
    /// Content: the passphrase.
    Content,
    /// Content if nobody needs to be asked for it.
    ContentIfGiven,
}

/// Opens the repository.
pub(crate) async fn open(context: &Context, access: Access) -> Result<Repository, Failure> {
    let store = store(context, false)?;
    let keys = keys(context, &store, access).await?;
    Ok(Repository::open(store, context.host.clone(), keys).await?)
}

/// The store at the location that was given.
///
/// Errors: no location; one that cannot be used.
pub(crate) fn store(context: &Context, create: bool) -> Result<Store, Failure> {
    let given = context.global.repo.as_deref().or_else(|| context.environment.get(REPOSITORY));
    let location = given.filter(|location| !location.is_empty()).ok_or_else(|| {
        Failure::usage(format!("which repository? Give its location with --repo, or set {REPOSITORY}"))
    })?;
    let cloud: Vec<(String, String)> = context
        .environment
        .iter()
        .filter(|(name, _)| CLOUD.iter().any(|prefix| name.starts_with(prefix)))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let names: Vec<String> = cloud.iter().map(|(name, _)| name.clone()).collect();
    let options = limits::store_options(context, &context.hurry);
    let store = location::open(location, cloud, create, &options)?;
    let (used, ignored): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| store.settings().contains(name));
    context.output.detail(&format!(
        "repository {location}; provider's variables: {}{}",
        if used.is_empty() { "none".into() } else { used.join(", ") },
        if ignored.is_empty() { String::new() } else { format!("; ignored: {}", ignored.join(", ")) }
    ));
    context.uses(&store);
    Ok(store)
}

/// The key file's path, from the option or the variable.
pub(crate) fn key_file(context: &Context) -> Option<PathBuf> {
    let variable = || context.environment.get(KEY_FILE).filter(|path| !path.is_empty()).map(PathBuf::from);
    context.global.key_file.clone().or_else(variable)
}

/// The zone that was asked for.
pub(crate) fn zone(context: &Context) -> Result<Zone, Failure> {
    match &context.global.zone {
        Some(zone) => Ok(zone.clone()),
        None => Zone::new(ZONE).map_err(|error| Failure::usage(error.to_string())),
    }
}

async fn keys(context: &Context, store: &Store, access: Access) -> Result<Keys, Failure> {
    let path = key_file(context).filter(|path| access != Access::Content || is_there(context, path));
    let from_file = path.map(|path| read_key_file(context, path)).transpose()?;
    let wants_content = match access {
        Access::Metadata => false,
        Access::Content => true,
        Access::ContentIfGiven => passphrase::is_given(&context.environment),
    };
    match from_file {
        Some(keys) if !wants_content => Ok(keys),
        from_file => {
            // Before anybody types: is it there, and is it the one that the key file belongs to?
            let anchor = from_file.as_ref().map(|keys| &keys.trust);
            let trust = anchor.copied();
            keys::read_config(store, anchor).await?;
            let opened = from_passphrase(context, store, from_file.map(|keys| keys.zone)).await?;
            match trust {
                Some(trust) if trust != opened.trust => Err(Failure::from(Error::WrongKey {
                    what: format!(
                        "the passphrase opens keys of another repository than the key file at {}",
                        store.location()
                    ),
                    advice: "somebody may have replaced objects there: compare the trust anchor with the one you wrote down",
                })),
                _ => Ok(opened),
            }
        }
    }
}

/// On the worst day the host with the key file is gone; its variable may not be.
fn is_there(context: &Context, path: &Path) -> bool {
    let is_there = path.exists();
    if !is_there {
        context.output.warning(&format!(
            "there is no key file {}, so the repository's trust anchor is not compared with it",
            path.display()
        ));
    }
    is_there
}

fn read_key_file(context: &Context, path: PathBuf) -> Result<Keys, Failure> {
    let bytes = std::fs::read(&path).map(Zeroizing::new).map_err(|error| {
        Failure::failed(format!(
            "cannot read the key file {}: {error}; check --key-file or {KEY_FILE}",
            path.display()
        ))
    })?;
    let keys = Keys::from_key_file(&bytes)?;
    if let Some(zone) = context.global.zone.as_ref().filter(|zone| **zone != keys.zone) {
        return Err(Failure::usage(format!(
            "the key file {} is for zone {}, not {zone}; leave --zone out or use that zone's key file",
            path.display(),
            keys.zone
        )));
    }
    context.output.detail(&format!("key file {}, zone {}", path.display(), keys.zone));
    Ok(keys)
}

async fn from_passphrase(context: &Context, store: &Store, of_key: Option<Zone>) -> Result<Keys, Failure> {
    let zone = match of_key {
        Some(zone) => zone,
        None => zone(context)?,
    };
    let found = passphrase::find(&context.environment, &context.prompt)?;
    context.output.detail(&format!("opening zone {zone} with the passphrase"));
    Ok(Keys::from_passphrase(store, &zone, &found.secret).await?)
}

/// The log, with warnings about what in it cannot be trusted.
pub(crate) async fn load_log(context: &Context, repository: &Repository) -> Result<Log, Failure> {
    let log = Log::load(repository).await?;
    let void =
        log.entries().filter(|entry| entry.entry.is_err() || matches!(entry.outcome, Outcome::Invalid(_)));
    let (void, gap) = (void.count(), log.missing().next());
    if void > 0 || gap.is_some() {
        let missing = gap.map_or_else(String::new, |number| format!(", number {number} is missing"));
        context.output.warning(&format!(
            "{void} records of the log do not verify{missing}, so snapshots may be missing from it; run `sancerre check`"
        ));
    }
    Ok(log)
}
