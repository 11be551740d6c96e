//! Which epoch and recipient a session seals its key to.

use sancerre_format::config::IdentityRecord;
use sancerre_format::log::Kind;
use sancerre_format::names::{self, Name};
use sancerre_format::record::{Record, Trust};

use super::ZoneSecrets;
use super::objects::{self, LeftOut};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::repository::Repository;
use sancerre_store::{Listed, Store};

/// The newest identity's record that verifies: what sessions seal their keys to from now on.
///
/// Errors: the store's; [`Error::Object`] when nothing serves and a newer version wrote one, or one cannot be read.
pub(super) async fn newest_identity(store: &Store, trust: &Trust) -> Result<Option<Record<IdentityRecord>>> {
    let found = newest_above(store, trust, 0).await?;
    match (found.newest, objects::worst(found.left_out, false)) {
        (None, Some(error)) => Err(error),
        (newest, _) => Ok(newest),
    }
}

/// The newest identity that verifies, and what was passed over.
struct Newest {
    newest: Option<Record<IdentityRecord>>,
    left_out: Vec<LeftOut>,
}

async fn newest_above(store: &Store, trust: &Trust, known: u16) -> Result<Newest> {
    newest_of(store, trust, known, store.list(names::IDENTITIES).await?).await
}

/// The same of those that were listed.
async fn newest_of(store: &Store, trust: &Trust, known: u16, mut listed: Vec<Listed>) -> Result<Newest> {
    listed.retain(|listed| names::identity_epoch(&listed.key).is_some_and(|epoch| epoch > known));
    let found = objects::read_listed::<IdentityRecord>(store, trust, listed).await?;
    // By key is by epoch.
    let newest = found.records.into_iter().next_back().map(|(record, _)| record);
    Ok(Newest { newest, left_out: found.left_out })
}

/// The highest epoch that a valid `backup` entry of the log was sealed to, and whose entry that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenEpoch {
    /// The epoch.
    epoch: u16,
    /// The entry's number.
    entry: u64,
    /// Who signed it.
    signer: Name,
}

/// What the log knows of epochs: an attacker with stolen write credentials may hide an identity's record, but not the
/// entries that were sealed to it.
pub(super) fn seen_epoch(log: &Log) -> Option<SeenEpoch> {
    let entries = log.entries().filter_map(|entry| entry.entry.as_deref().ok());
    let seen = entries.filter_map(|entry| match &entry.fields.kind {
        Kind::Backup(intent) => Some(SeenEpoch {
            epoch: intent.epoch,
            entry: entry.fields.number,
            signer: entry.fields.by.name.clone(),
        }),
        _ => None,
    });
    // Of several the first: who claims more than the others do is named.
    seen.reduce(|most, next| if next.epoch > most.epoch { next } else { most })
}

/// The epoch and recipient that a session seals its key to: the newest, which a key file may not know yet, and never one
/// below what the log knows.
///
/// Errors: [`Error::Refused`] when the log knows of a newer one; what is wrong with that one; the store's.
pub(super) async fn current(
    store: &Store,
    trust: &Trust,
    known: &ZoneSecrets,
    seen: Option<SeenEpoch>,
) -> Result<(u16, String)> {
    choose(newest_above(store, trust, known.epoch).await?, known, seen)
}

/// [`current`] for a session that is about to be announced, of the key objects that were listed.
///
/// Errors: as there.
pub(super) async fn of_session(
    repository: &Repository,
    log: &Log,
    known: &ZoneSecrets,
    listed: Vec<Listed>,
) -> Result<(u16, String)> {
    let (store, trust) = (&repository.store, &repository.keys.trust);
    let newest = newest_of(store, trust, known.epoch, listed).await?;
    choose(newest, known, seen_epoch(log))
}

fn choose(
    Newest { newest, left_out }: Newest,
    known: &ZoneSecrets,
    seen: Option<SeenEpoch>,
) -> Result<(u16, String)> {
    if let Some(unsupported) = left_out.into_iter().find(LeftOut::is_unsupported) {
        // The admin rotated to something that this program cannot seal to: the old epoch may be one that was given up.
        return Err(unsupported.why);
    }
    let (epoch, recipient) = match newest {
        Some(newest) => (newest.fields.epoch, newest.fields.recipient),
        None => (known.epoch, known.recipient.clone()),
    };
    match seen.filter(|seen| seen.epoch > epoch) {
        None => Ok((epoch, recipient)),
        Some(SeenEpoch { epoch: wanted, entry, signer }) => Err(Error::Refused(format!(
            "identity epoch {wanted} is known from log entry {entry} of {signer}, but no object {} verifies: somebody \
             hides or removed it, and what is sealed to epoch {epoch} may be opened by a recipient that was removed. \
             Nothing was saved. Bring the object back; if the administrator never made such an epoch, revoke {signer}",
            names::identity(wanted)
        ))),
    }
}
