//! Which keys a command works with.
//!
//! A key file signs, and says which repository, trust anchor and zone are meant. What opens content is given apart:
//! identities (`--identity`), else the passphrase. Whatever a command does not need is not opened, so that a nightly
//! backup with a key file asks for nothing and spends no second on a passphrase.

use std::path::{Path, PathBuf};

use sancerre_engine::Error;
use sancerre_engine::keys::{self, Anchored, IdentityFile, Keys, SecretString, Unlock};
use sancerre_engine::repository::Repository;
use sancerre_engine::store::Store;
use sancerre_format::certificate::Role;
use sancerre_format::names::Zone;

use crate::arguments::{Global, parse_fingerprint};
use crate::command::Context;
use crate::exit::{Exit, Failure};
use crate::io::Environment;
use crate::key_file;
use crate::passphrase::{self, OF_REPOSITORY};
use crate::plain;
use crate::repository;

/// Variable that stands in for `--key-file`.
const KEY_FILE: &str = "SANCERRE_KEY_FILE";
/// Variable that stands in for `--trust`.
pub(crate) const TRUST: &str = "SANCERRE_TRUST";
/// Where a key file is when nobody names one: below the folder of this user's configuration, else below /etc.
const USUAL_KEY_FILE: &str = "sancerre/writer.key";
/// The same of the whole machine.
pub(crate) const MACHINE_KEY_FILE: &str = "/etc/sancerre/writer.key";
/// The zone when nobody names one.
const ZONE: &str = "default";

/// What a command must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read what is public, and of the key's own zone the metadata.
    Public,
    /// Read maps and index, and sign backups: the key file, else what opens content.
    Metadata,
    /// Read content.
    Content,
    /// Read content if nobody needs to be asked for it.
    ContentIfGiven,
    /// Sign what a keeper may: a keeper's key file, else the admin's key.
    Keeper,
    /// Sign what only the admin may; the zone is not opened, and need not exist.
    Admin,
}

/// Takes the trust anchor from the variable where the option is not given.
///
/// Errors: the variable holds something else.
pub(crate) fn trust_from(environment: &Environment, global: &mut Global) -> Result<(), Failure> {
    if let (None, Some(text)) = (&global.trust, environment.setting(TRUST)?) {
        let parsed = parse_fingerprint(text).map_err(|error| {
            Failure::usage(format!("the variable {TRUST} holds {text:?}: {error}; set it again, or unset it"))
        })?;
        global.trust = Some(parsed);
    }
    Ok(())
}

/// The path of the key file that was named, by the option or the variable.
pub(crate) fn key_file(context: &Context) -> Option<PathBuf> {
    context.global.key_file.clone().or_else(|| context.environment.path(KEY_FILE))
}

/// The key file that is used where none is named: the first that is there and can be read.
fn usual_key_file(environment: &Environment) -> Option<PathBuf> {
    let home = || environment.path("HOME").map(|home| home.join(".config"));
    let own = environment.path("XDG_CONFIG_HOME").or_else(home).map(|folder| folder.join(USUAL_KEY_FILE));
    let all = own.into_iter().chain([PathBuf::from(MACHINE_KEY_FILE)]);
    all.filter(|path| path.is_file()).find(|path| std::fs::File::open(path).is_ok())
}

/// The key file that was named, else the one in its usual place if it belongs to this repository.
async fn find_key_file(context: &Context, store: &Store, access: Access) -> Result<Option<Keys>, Failure> {
    if key_file(context).is_some() {
        return read_key_file(context, access);
    }
    let Some(path) = usual_key_file(&context.environment) else { return Ok(None) };
    let keys = open_key_file(context, &path)?;
    match Anchored::read(store, None).await {
        Ok(anchored) if anchored.trust.repository != keys.trust.repository => {
            context.output.detail(&format!(
                "the key file {} belongs to another repository, so it is not used",
                plain::path(&path)
            ));
            Ok(None)
        }
        // What else is wrong is told where it matters.
        _ => Ok(Some(keys)),
    }
}

/// The zone that was asked for.
pub(crate) fn zone(context: &Context) -> Result<Zone, Failure> {
    match &context.global.zone {
        Some(zone) => Ok(zone.clone()),
        None => Zone::new(ZONE).map_err(|error| Failure::usage(error.to_string())),
    }
}

/// The least keys that are enough, of the repository at `store`.
pub(crate) async fn keys(context: &Context, store: &Store, access: Access) -> Result<Keys, Failure> {
    open(context, store, access).await.map(|(keys, _)| keys)
}

/// The repository with the admin's key, and the passphrase that opened it.
pub(crate) async fn repository_as_admin(context: &Context) -> Result<(Repository, SecretString), Failure> {
    let store = repository::store(context, false)?;
    let (keys, unlock) = open(context, &store, Access::Admin).await?;
    let passphrase = unlock
        .passphrase()
        .cloned()
        .ok_or_else(|| Failure::from(Error::bug("the admin's key was opened without a passphrase")))?;
    Ok((Repository::open(store, context.host.clone(), keys).await?, passphrase))
}

async fn open(context: &Context, store: &Store, access: Access) -> Result<(Keys, Unlock), Failure> {
    let file = find_key_file(context, store, access).await?;
    let (keys, unlock) = match file {
        Some(keys) if is_enough(context, &keys, access) => {
            // What is compared here is not only the key of the file.
            let compared = context.global.trust.is_some() || context.global.zone.is_some();
            let keys = if compared { keys.anchored(store).await? } else { keys };
            (in_zone(context, store, keys, access).await?, Unlock::default())
        }
        None if access == Access::Public && context.global.trust.is_some() && !opens_content(context) => {
            (by_trust(context, store).await?, Unlock::default())
        }
        file => unlocked(context, store, access, file).await?,
    };
    check_anchor(context, &keys)?;
    warn_left_out(context, &keys);
    Ok((keys, unlock))
}

/// Names what was left out: somebody may be at work, or a newer version.
fn warn_left_out(context: &Context, keys: &Keys) {
    const NAMED: usize = 3;
    for why in keys.left_out().values().take(NAMED) {
        context.output.warning(&format!("left out: {why}"));
    }
    let more = keys.left_out().len().saturating_sub(NAMED);
    if more > 0 {
        context
            .output
            .warning(&format!("{more} more objects below keys/ were left out; `sancerre check` names all"));
    }
}

/// With nothing but the trust anchor, which is compared later.
async fn by_trust(context: &Context, store: &Store) -> Result<Keys, Failure> {
    Ok(first_sight(store, zone(context)?).await?)
}

/// What is public of a zone, asking nobody for a secret: the trust anchor of the key file or of `--trust`, else as it is
/// found.
pub(crate) async fn public_keys(context: &Context, store: &Store, zone: Zone) -> Result<Keys, Failure> {
    let keys = match find_key_file(context, store, Access::Public).await? {
        Some(keys) => Keys::public(keys.anchored(store).await?.trust, zone),
        None => first_sight(store, zone).await?,
    };
    check_anchor(context, &keys)?;
    Ok(keys)
}

async fn first_sight(store: &Store, zone: Zone) -> Result<Keys, Error> {
    Ok(Keys::public(Anchored::read(store, None).await?.trust, zone))
}

/// Whether the key file alone serves the command.
fn is_enough(context: &Context, keys: &Keys, access: Access) -> bool {
    match access {
        Access::Public | Access::Metadata => true,
        Access::ContentIfGiven => !opens_content(context),
        Access::Keeper => keys.has_role(Role::Keeper),
        Access::Content | Access::Admin => false,
    }
}

/// Whether content can be opened without asking anybody.
fn opens_content(context: &Context) -> bool {
    !context.global.identity.is_empty() || passphrase::is_given(&context.environment)
}

/// A key file works in its own zone; elsewhere it sees what is public.
async fn in_zone(context: &Context, store: &Store, keys: Keys, access: Access) -> Result<Keys, Failure> {
    match context.global.zone.as_ref().filter(|zone| **zone != keys.zone) {
        None => Ok(keys),
        Some(zone) if access == Access::Public => {
            match keys::newest_generation(store, &keys.trust, zone).await? {
                Some(_) => Ok(Keys::public(keys.trust, zone.clone())),
                None => Err(keys::no_zone(store, &keys.trust, zone).await.into()),
            }
        }
        Some(zone) => Err(Failure::usage(format!(
            "the key file is for zone {}, not {zone}; leave --zone out or use that zone's key file",
            keys.zone
        ))),
    }
}

/// Opens the repository's own keys; a key file stays the one that signs, and the trust anchor.
async fn unlocked(
    context: &Context,
    store: &Store,
    access: Access,
    file: Option<Keys>,
) -> Result<(Keys, Unlock), Failure> {
    // Before anybody types: is it there, and is it the one that the key file belongs to?
    let anchor = file.as_ref().map(|keys| keys.trust.clone());
    let anchored = Anchored::read(store, anchor.as_ref()).await?;
    let zone = match (&context.global.zone, &file) {
        (None, Some(keys)) => keys.zone.clone(),
        _ => zone(context)?,
    };
    let unlock =
        unlock(context, access).map_err(|failure| explain(failure, context, access, file.as_ref()))?;
    let unlock = unlock.anchored(anchor.clone());
    let opened = opened(context, store, access, anchored, &zone, &unlock, file.as_ref()).await;
    let keys = match opened {
        // What only looks sees what is public: the loss is what it was called for.
        Err(lost @ Error::KeyLost(_)) if matches!(access, Access::Public | Access::ContentIfGiven) => {
            context.output.warning(&lost.to_string());
            match file.filter(|file| file.zone == zone) {
                Some(file) => file.anchored(store).await?,
                None => Keys::without_lost(store, anchor.as_ref(), zone).await?,
            }
        }
        opened => match file {
            Some(file) => opened?.signing_with(file),
            None => opened?,
        },
    };
    Ok((keys, unlock))
}

async fn opened(
    context: &Context,
    store: &Store,
    access: Access,
    anchored: Anchored,
    zone: &Zone,
    unlock: &Unlock,
    file: Option<&Keys>,
) -> Result<Keys, Error> {
    let mut keys = Keys::unlock_identities(store, anchored, zone, unlock).await?;
    if access != Access::Admin {
        match keys.enter_zone(store).await {
            // The secrets in the key file stand in.
            Err(lost) if is_of_records(&lost) && file.is_some_and(|file| file.zone == *zone) => {
                context.output.warning(&lost.to_string());
            }
            entered => entered?,
        }
    }
    if matches!(access, Access::Admin | Access::Keeper) {
        keys.unlock_admin(store, unlock).await?;
    }
    Ok(keys)
}

/// Whether records of the zone are lost or do not serve, and nothing is wrong with what opens them.
fn is_of_records(error: &Error) -> bool {
    matches!(error, Error::KeyLost(_) | Error::Store(_) | Error::Object { .. })
}

/// The identities that were given, and the passphrase where it is needed.
fn unlock(context: &Context, access: Access) -> Result<Unlock, Failure> {
    let mut unlock = Unlock::default();
    for path in &context.global.identity {
        unlock = unlock.with_identities(read_identity(context, path)?);
    }
    if context.global.identity.is_empty() || matches!(access, Access::Admin | Access::Keeper) {
        let found = passphrase::find(&context.environment, &context.prompt, OF_REPOSITORY)?;
        unlock = unlock.with_passphrase(found);
    }
    Ok(unlock)
}

/// Why a key file that is there is not enough, where it came from, and what would be.
fn explain(failure: Failure, context: &Context, access: Access, file: Option<&Keys>) -> Failure {
    let why = match access {
        Access::Admin => "may not sign this: the administrator's passphrase is needed",
        Access::Keeper => {
            "may not sign this: a keeper's key file or the administrator's passphrase is needed"
        }
        _ => "opens no content",
    };
    match file.and_then(Keys::describe_signer).filter(|_| failure.exit == Exit::WrongKey) {
        Some(who) => {
            let from = origin(context);
            let message = format!("the key of {who}{from} {why}, and {}", failure.message);
            Failure::new(failure.exit, message)
        }
        None => failure,
    }
}

/// The key file in use and who named it, in brackets.
fn origin(context: &Context) -> String {
    let named = context.global.key_file.clone().map(|path| (path, "--key-file"));
    let by_variable = || Some((context.environment.path(KEY_FILE)?, KEY_FILE));
    let usual = || Some((usual_key_file(&context.environment)?, "its usual place"));
    match named.or_else(by_variable).or_else(usual) {
        Some((path, by)) => format!(" ({}, from {by})", plain::path(&path)),
        None => String::new(),
    }
}

fn read_identity(context: &Context, path: &Path) -> Result<Vec<keys::OpenIdentity>, Failure> {
    let bytes = key_file::read(path, "identity file", "--identity")?;
    let of_file = |error: Error| {
        let failure = Failure::from(error);
        Failure::new(failure.exit, format!("{}: {}", path.display(), failure.message))
    };
    context.output.detail(&format!("identity file {}", plain::path(path)));
    match IdentityFile::parse(&bytes).map_err(of_file)? {
        IdentityFile::Open(identities) => Ok(identities),
        IdentityFile::Protected(protected) => {
            let of = format!("the identity file {}", plain::path(path));
            let found = passphrase::find(&context.environment, &context.prompt, &of)?;
            protected.open(&found).map_err(of_file)
        }
    }
}

fn read_key_file(context: &Context, access: Access) -> Result<Option<Keys>, Failure> {
    let Some(path) = key_file(context) else { return Ok(None) };
    // On the worst day the host with the key file is gone; its variable may not be.
    if matches!(access, Access::Content) && !path.exists() {
        context.output.warning(&format!(
            "there is no key file {}, so the repository's trust anchor is not compared with it",
            path.display()
        ));
        return Ok(None);
    }
    open_key_file(context, &path).map(Some)
}

fn open_key_file(context: &Context, path: &Path) -> Result<Keys, Failure> {
    let bytes = key_file::read(path, "key file", &format!("--key-file or {KEY_FILE}"))?;
    let keys = Keys::from_key_file(&bytes).map_err(|error| {
        let failure = Failure::from(error);
        Failure::new(failure.exit, format!("{}: {}", path.display(), failure.message))
    })?;
    let who = keys.describe_signer().unwrap_or_default();
    context.output.detail(&format!("key file {} of {who}, zone {}", plain::path(path), keys.zone));
    Ok(keys)
}

fn check_anchor(context: &Context, keys: &Keys) -> Result<(), Failure> {
    let found = keys.trust.admin.fingerprint();
    match &context.global.trust {
        Some(wanted) if !keys.trust.admins().any(|admin| admin.fingerprint() == *wanted) => {
            Err(Failure::new(
                Exit::WrongKey,
                format!(
                    "the trust anchor here is {found}, not {wanted} as given with --trust or {TRUST}: this is another repository, \
                 or somebody replaced its config; check the location, and the anchor you wrote down"
                ),
            ))
        }
        Some(_) => Ok(()),
        None => {
            if !keys.is_anchored() {
                context.output.warning(&format!(
                    "the trust anchor {found} is taken on first sight, as an identity cannot vouch for it; give the \
                     one you wrote down with --trust or {TRUST}"
                ));
            }
            Ok(())
        }
    }
}
