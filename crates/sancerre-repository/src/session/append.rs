//! Entries of the log: a number is taken only above a log without gaps.

use std::borrow::Cow;

use bytes::Bytes;
use sancerre_format::certificate::Role;
use sancerre_format::id::{Hash, SessionId};
use sancerre_format::log::{Distrust, Entry, KEEPERS, Kind};
use sancerre_format::names::{self, Name};
use sancerre_format::outcome::Abort;

use super::refuse_revoked;
use crate::error::{Error, Result};
use crate::keys::SignerKey;
use crate::log::{Log, filler};
use crate::repository::Repository;
use sancerre_store::{Creation, Put};

/// The log without a gap below `end`: what a listing left out is read by name, and what is lost is filled.
///
/// Errors: [`Error::Gap`].
async fn dense<'a>(repository: &Repository, log: &'a Log, end: u64) -> Result<Cow<'a, Log>> {
    let mut log = Cow::Borrowed(log);
    if log.first_gap(end).is_some() {
        log.to_mut().complete(repository, end).await?;
    }
    log.fill_lost(repository, end).await?;
    Ok(log)
}

/// An entry on its way into the log.
pub(super) struct New<'a> {
    pub(super) signer: &'a SignerKey,
    /// By the number that it gets.
    pub(super) kind: &'a (dyn Fn(u64) -> Kind + Sync),
    pub(super) public: &'a [u8],
    pub(super) sealed: &'a [u8],
}

impl New<'_> {
    /// Creates it at the next free number; returns its session and its bytes.
    ///
    /// The log must be dense first: beyond a gap an entry would be read by nobody who meets the gap. An entry that needs
    /// a newer version may have announced anything, so only who ends a key's power may pass it.
    pub(super) async fn take_number(self, repository: &Repository, log: &Log) -> Result<(SessionId, Bytes)> {
        // Also above the last number that there is: below that somebody left a gap, which is named.
        let (end, signer_is_admin) = (log.end(), self.signer.role == Role::Admin);
        let log = dense(repository, log, end).await?;
        log.refuse_opaque(&repository.keys.zone, end)?;
        // The administrator's word is what ends that.
        let is_word = signer_is_admin && matches!((self.kind)(end), Kind::Note(_));
        if let Some(session) = log.unclear().filter(|_| !is_word) {
            let key = names::log(&repository.keys.zone, session.number);
            return Err(Error::Unresolved { key, session });
        }
        self.create(repository, &log, end).await
    }

    /// The same, from this number on.
    async fn create(self, repository: &Repository, log: &Log, mut number: u64) -> Result<(SessionId, Bytes)> {
        let Self { signer, kind, public, sealed } = self;
        let mut previous = number.checked_sub(1).and_then(|before| log.previous_at(before));
        loop {
            refuse_revoked(log, signer, number)?;
            let entry = Entry {
                repository: repository.keys.trust.repository,
                zone: repository.keys.zone.clone(),
                number,
                by: signer.by.clone(),
                time: repository.host.clock.now(),
                previous,
                checkpoint: log.newest_checkpoint().filter(|upto| *upto <= number),
                kind: kind(number),
            };
            let bytes = repository.sign(signer, &entry, public, sealed)?;
            match repository.store.put_new(&names::log(&repository.keys.zone, number), bytes.clone()).await? {
                Put::Created => return Ok((SessionId { number, intent: Hash::of(&bytes) }, bytes)),
                // Somebody else has this number: the next one is as good, and follows on theirs.
                Put::Occupied(found) => previous = Some(Hash::of(&found)),
            }
            number = next(number)?;
        }
    }
}

fn next(number: u64) -> Result<u64> {
    let full = || Error::Lost { what: "a free number in the log".into() };
    number.checked_add(1).ok_or_else(full)
}

/// Appends an entry of any kind but `backup` and `revoke`, such as a quarantine, at the next free number.
///
/// Errors: [`Error::WrongKey`] when no key at hand may sign it; [`Error::Gap`]; an entry that needs a newer version; the
/// store's.
pub async fn append(repository: &Repository, log: &Log, kind: Kind, public: &[u8]) -> Result<SessionId> {
    append_by(repository, log, kind.roles(), kind.clone(), public).await
}

/// The same, signed by a key of one of these roles.
pub async fn append_by(
    repository: &Repository,
    log: &Log,
    roles: &[Role],
    kind: Kind,
    public: &[u8],
) -> Result<SessionId> {
    let signer = repository.signer(roles)?;
    let new = New { signer, kind: &|_| kind.clone(), public, sealed: &[] };
    Ok(new.take_number(repository, log).await?.0)
}

/// Appends a revocation. It is possible whatever lies in the log: where a key signed a number far above all others, the
/// revocation of that key takes the first free one. Returns its number and its bytes.
///
/// Errors: as [`append`], but [`Error::Gap`] only while another key's entry is above the gap.
pub async fn append_revoke(
    repository: &Repository,
    log: &Log,
    writer: &Name,
    revoke: impl Fn(u64) -> Distrust + Sync,
) -> Result<(u64, Bytes)> {
    let signer = repository.signer(&[Role::Admin])?;
    let end = next(log.highest_but(writer))?;
    let log = dense(repository, log, end).await?;
    let number = behind_lost(repository, &log, end).await?;
    let new = New { signer, kind: &|number| Kind::Revoke(revoke(number)), public: &[], sealed: &[] };
    let (session, bytes) = new.create(repository, &log, number).await?;
    Ok((session.number, bytes))
}

/// The first number from this one on at which nothing was lost: what stood there may be of the very key that is revoked. What
/// is free and claimed is filled.
async fn behind_lost(repository: &Repository, log: &Log, mut number: u64) -> Result<u64> {
    loop {
        let lost = log.entry(number).and_then(|entry| entry.lost);
        let claim = log.claimed_free(number);
        if lost.is_none() && claim.is_none() {
            return Ok(number);
        }
        if let Some(session) = claim {
            // Whatever is there by now keeps the number as well, but an entry, which is behind all that was lost.
            let key = names::log(&repository.keys.zone, number);
            if let Put::Occupied(found) = repository.store.put_new(&key, filler(&session)).await?
                && sancerre_format::record::is_signed(&repository.keys.trust, &found)
            {
                return Ok(number);
            }
        }
        number = next(number)?;
    }
}

/// Ends somebody else's session with nothing, unless it ended by itself meanwhile: a keeper's right.
///
/// Errors: [`Error::WrongKey`] without a keeper's or the admin's key; the store's.
pub async fn abort_other(repository: &Repository, session: SessionId, reason: &str) -> Result<()> {
    let signer = repository.signer(KEEPERS)?;
    let abort = Abort {
        repository: repository.keys.trust.repository,
        zone: repository.keys.zone.clone(),
        session,
        by: signer.by.clone(),
        time: repository.host.clock.now(),
        reason: one_line(reason),
    };
    let bytes = repository.sign(signer, &abort, &[], &[])?;
    repository.store.put_new(&names::outcome(&repository.keys.zone, &session), bytes).await?;
    Ok(())
}

/// Free text as a field: printable ASCII in one line.
pub fn one_line(text: &str) -> String {
    let plain: String =
        text.chars().map(|letter| if matches!(letter, ' '..='~') { letter } else { ' ' }).collect();
    let plain: String = plain.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(1000).collect();
    if plain.is_empty() { "unknown".into() } else { plain }
}
