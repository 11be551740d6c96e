//! Ending the trust in a key.

use sancerre_format::certificate::Role;
use sancerre_format::id::SessionId;
use sancerre_format::log::Distrust;
use sancerre_format::names::{self, Name};

use crate::error::Result;
use crate::repository::Repository;
use crate::repository::log::{Log, LogEntry};
use crate::repository::session::{abort_other, append_revoke, one_line};
use crate::store::Creation;

/// What a revocation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Revoked {
    /// The number of its log entry.
    pub number: u64,
    /// The first log number at which nothing of a writer counts; of a keeper it is `number`, whatever was asked.
    pub from: u64,
    /// Sessions of the key that were under way and that were ended.
    pub ended: Vec<SessionId>,
}

/// Ends the trust in a key from a log number on, without one from the revocation's own number on, and ends what the key
/// has under way: a collection of it could else commit after it was revoked.
///
/// It works whatever lies in the log, entries of later versions and numbers far above all others included.
///
/// Errors: [`Error::WrongKey`](crate::Error::WrongKey) without the admin's key; the store's.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_admin().await?, &scene.monitor);
/// use sancerre_engine::{Log, Name, revoke};
///
/// let mut log = Log::load(&repository).await?;
/// revoke(&repository, &mut log, &Name::new("host1")?, None, "the host was stolen").await?;
/// assert!(log.revocation(&Name::new("host1")?).is_some());
/// # Ok(()) }
/// ```
pub async fn revoke(
    repository: &Repository,
    log: &mut Log,
    key: &Name,
    from: Option<u64>,
    reason: &str,
) -> Result<Revoked> {
    let distrust = |number: u64| Distrust {
        writer: key.clone(),
        from: from.unwrap_or(number).min(number),
        reason: one_line(reason),
    };
    let (number, bytes) = append_revoke(repository, log, key, distrust).await?;
    // Readers that start at a checkpoint must not start at one of this key's. The first copy is as good as this one.
    repository.store.put_new(&names::revoked(key), bytes).await?;
    // By name up to its own number: nothing can be added there any more.
    log.refresh(repository).await?;
    log.complete(repository, number).await?;
    log.settle(repository, number).await?;
    let is_of_key = |session: &SessionId| {
        let entry = log.entry(session.number).and_then(LogEntry::announced);
        entry.is_some_and(|entry| entry.fields.by.name == *key)
    };
    let open = log.undecided(number).map(|entry| entry.session);
    let open: Vec<SessionId> = open.filter(is_of_key).collect();
    for session in &open {
        abort_other(repository, *session, "the key of its writer was revoked").await?;
    }
    let of_key = log.entries().filter_map(LogEntry::announced).find(|entry| entry.fields.by.name == *key);
    let is_keeper = of_key.is_some_and(|entry| entry.signer.role() == Role::Keeper);
    let from = if is_keeper { number } else { distrust(number).from };
    Ok(Revoked { number, from, ended: open })
}
