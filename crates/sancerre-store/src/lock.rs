//! Locks (S3 Object Lock): how long the store keeps an object from everybody, whatever their credentials.
//!
//! A lock is of one version, and what counts is that of the earliest, which is the object.

use bytes::Bytes;
use sancerre_advice::Verb::Probe;
use sancerre_format::names::Time;

use crate::Store;
use crate::error::{Result, StoreError};
use crate::s3::{ObjectRetention, Rule};
use crate::versions::VersionToRead;

/// The name space of S3's documents.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Whether a lock can be bypassed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By nobody.
    Compliance,
    /// By whoever has the right to.
    Governance,
}

impl Mode {
    /// As the store calls it.
    fn of(word: &str) -> Self {
        if word == "COMPLIANCE" { Self::Compliance } else { Self::Governance }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Compliance => "COMPLIANCE",
            Self::Governance => "GOVERNANCE",
        }
    }
}

/// A lock on an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Until when.
    pub until: Time,
    /// Whether it can be bypassed.
    pub mode: Mode,
}

/// How the store locks every new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultLock {
    /// For how long.
    pub seconds: i64,
    /// Whether it can be bypassed.
    pub mode: Mode,
}

/// Locking objects. Nobody has it by having a [`Store`]: whoever imports this says that it is his to have a store keep what
/// nobody may then remove. That is the extension of locks alone; tidy knows it.
pub trait Locking {
    /// Locks an object. The store refuses to shorten a lock, or to make one that can be bypassed of one that cannot.
    ///
    /// Errors: [`StoreError::Missing`]; [`StoreError::Refused`] with the store's reason.
    fn lock(&self, key: &str, lock: Lock) -> impl Future<Output = Result<()>> + Send;
}

impl Locking for Store {
    async fn lock(&self, key: &str, Lock { until, mode }: Lock) -> Result<()> {
        let s3 = self.history().await?.ok_or_else(|| self.locks_nothing())?;
        let version = self.version(key).await?;
        let body = format!(
            "<Retention xmlns=\"{NAMESPACE}\"><Mode>{}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>",
            mode.word()
        );
        let answer = s3.set_retention(key, version.as_deref(), Bytes::from(body)).await?;
        match answer.status {
            200..300 => Ok(()),
            404 => Err(StoreError::Missing { key: key.to_owned() }),
            _ => Err(StoreError::Refused(format!(
                "object {key} was not locked until {until}: the store answers {}; a keeper's credentials need \
                 s3:PutObjectRetention, docs/STORES.md",
                answer.reason()
            ))),
        }
    }
}

impl Store {
    fn locks_nothing(&self) -> StoreError {
        StoreError::Refused(format!("{} keeps no versions and locks nothing", self.location()))
    }

    /// Fails where no object can be locked, whoever asks: in a folder, and in a bucket without versions.
    ///
    /// Errors: [`StoreError::Refused`], as [`Locking::lock`] has it; the store's.
    pub async fn can_lock(&self) -> Result<()> {
        self.history().await?.map(drop).ok_or_else(|| self.locks_nothing())
    }

    /// How the store locks every new object; none where it has no such rule, or does not tell.
    pub async fn default_lock(&self) -> Result<Option<DefaultLock>> {
        let Some(s3) = self.history().await? else { return Ok(None) };
        let rule: Option<Rule> = s3.default_retention().await?.ok().flatten();
        Ok(rule.map(|rule| DefaultLock { seconds: rule.seconds(), mode: Mode::of(&rule.mode) }))
    }

    /// The lock on an object; none where the store locks nothing.
    ///
    /// Errors: [`StoreError::Missing`] when there is no such object; [`StoreError::Refused`] when the store does not tell.
    pub async fn lock_of(&self, key: &str) -> Result<Option<Lock>> {
        let Some(s3) = self.history().await? else { return Ok(None) };
        let version = self.version(key).await?;
        let lock = s3.retention(key, version.as_deref()).await?.map_err(|reason| {
            StoreError::Refused(format!(
                "the store does not say until when object {key} is locked ({reason}); allow these credentials to ask: \
                 s3:GetObjectRetention, docs/STORES.md"
            ))
        })?;
        lock.map(|lock| understood(key, &lock)).transpose()
    }

    /// Until when nobody can remove an object; none where that cannot be said.
    pub async fn final_lock(&self, key: &str) -> Option<Time> {
        let lock = self.lock_of(key).await.ok().flatten();
        lock.filter(|lock| lock.mode == Mode::Compliance).map(|lock| lock.until)
    }

    /// The version that is the object; none where it is the only one.
    async fn version(&self, key: &str) -> Result<Option<String>> {
        match self.place(key).await? {
            VersionToRead::Version(id) => Ok(Some(id)),
            VersionToRead::Current => Ok(None),
            VersionToRead::Nothing => Err(StoreError::Missing { key: key.to_owned() }),
        }
    }
}

fn understood(key: &str, lock: &ObjectRetention) -> Result<Lock> {
    let until = lock.until.ok_or_else(|| {
        StoreError::Refused(format!(
            "the store says in an unknown way until when object {key} is locked: {:?}; {Probe} tries it out",
            lock.term
        ))
    })?;
    Ok(Lock { until, mode: Mode::of(&lock.mode) })
}
