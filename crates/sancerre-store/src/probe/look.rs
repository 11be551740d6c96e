//! What can be found out about a store without writing anything: for who may only read, such as an auditor.
//!
//! It asks about objects of the repository that are there. What only a trial shows is left out, and named by
//! [`not_tried`](super::Report::not_tried).

use futures::FutureExt;
use sancerre_format::names;

use super::{Check, ProbeFinding, ProbeVerdict, Report, checks};
use crate::clock::Clock;
use crate::error::{Result, StoreError};
use crate::s3::S3;
use crate::{Store, explain, versions};

/// The part of an object that is asked for.
const PART: std::ops::Range<usize> = 1..9;

/// Looks at the repository's own objects, and writes nothing. None where there is no repository to look at.
///
/// Errors: the store does not answer.
pub async fn look(store: &Store, clock: &dyn Clock) -> Result<Option<Report>> {
    let time = clock.now();
    let mut look = Look { store, findings: Vec::new(), lock_seconds: None };
    let config = match store.get(names::CONFIG).await {
        Ok(None) => return Ok(None),
        Ok(Some(config)) => config,
        Err(StoreError::Failed { source, .. }) if is_refused(&source) => {
            let seen = format!("{} cannot be read: {}", names::CONFIG, explain(&source));
            look.found(Check::Read, ProbeVerdict::Absent, seen);
            return Ok(Some(look.report(time)));
        }
        Err(error) => return Err(error),
    };
    look.list().await?;
    look.range(config.get(PART)).await?;
    if let Some(s3) = store.s3() {
        look.clock(s3, clock).await?;
        look.versions(s3).await?;
        look.retention(s3, time.unix_seconds()).await?;
    }
    Ok(Some(look.report(time)))
}

struct Look<'a> {
    store: &'a Store,
    findings: Vec<ProbeFinding>,
    lock_seconds: Option<i64>,
}

impl Look<'_> {
    fn found(&mut self, check: Check, verdict: ProbeVerdict, seen: impl Into<String>) {
        self.findings.push(ProbeFinding { check, verdict, seen: seen.into() });
    }

    fn report(mut self, time: names::Time) -> Report {
        self.findings.sort_by_key(|finding| finding.check);
        Report { time, findings: self.findings, lock_seconds: self.lock_seconds }
    }

    async fn range(&mut self, expected: Option<&[u8]>) -> Result<()> {
        match self.store.need_range(names::CONFIG, PART.start as u64..PART.end as u64).await {
            Ok(part) if Some(part.as_ref()) == expected => {
                self.found(Check::Range, ProbeVerdict::Holds, "the part that was asked for came back");
            }
            Ok(_) => {
                self.found(Check::Range, ProbeVerdict::Lies, "another part came back than was asked for");
            }
            Err(StoreError::Failed { source, .. }) => {
                let seen = format!("a part of an object cannot be read: {}", explain(&source));
                self.found(Check::Range, ProbeVerdict::Absent, seen);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the folder of keys, in which something is from the start, can be listed.
    async fn list(&mut self) -> Result<()> {
        let (verdict, seen) = match self.store.list(names::KEYS).await {
            Ok(listed) if listed.is_empty() => {
                (ProbeVerdict::Absent, format!("nothing is listed below {}", names::KEYS))
            }
            Ok(_) => (ProbeVerdict::Holds, "the repository's own objects were read and listed".to_owned()),
            Err(StoreError::Failed { source, .. }) if is_refused(&source) => {
                (ProbeVerdict::Absent, format!("{} cannot be listed: {}", names::KEYS, explain(&source)))
            }
            Err(error) => return Err(error),
        };
        self.found(Check::Read, verdict, seen);
        Ok(())
    }

    /// What the server's clock says in an answer. Of a folder nothing tells it but a file that is written.
    async fn clock(&mut self, s3: &S3, clock: &dyn Clock) -> Result<()> {
        if let Some(time) = s3.time().await? {
            let (verdict, seen) =
                checks::clocks(time.unix_seconds().saturating_sub(clock.now().unix_seconds()));
            self.found(Check::Clock, verdict, seen);
        }
        Ok(())
    }

    /// What the bucket says of versions: whether it keeps one that is written over is not tried.
    async fn versions(&mut self, s3: &S3) -> Result<()> {
        match s3.versioning().await? {
            Err(reason) => {
                let seen = format!("the store does not tell ({reason})");
                self.found(Check::Versions, ProbeVerdict::Unknown, seen);
            }
            Ok(status) if status.as_deref() == Some("Enabled") => {
                self.found(Check::Versions, ProbeVerdict::Unknown, "the bucket says so; it was not tried");
                self.order(s3).await;
            }
            Ok(status) => {
                let seen = format!("versioning is {}", status.as_deref().unwrap_or("off"));
                self.found(Check::Versions, ProbeVerdict::Absent, seen);
            }
        }
        Ok(())
    }

    /// Whether versions can be listed; whether in their order, only a trial shows.
    async fn order(&mut self, s3: &S3) {
        let key = names::CONFIG;
        let first = self.store.shared.patience.during(key, || versions::first(s3, key).boxed()).await;
        let (verdict, seen) = match first {
            Ok(Some(_)) => return,
            Ok(None) => (ProbeVerdict::Lies, "no version of an object that is there is listed".to_owned()),
            Err(error) => (ProbeVerdict::Absent, format!("versions cannot be listed: {}", explain(&error))),
        };
        self.found(Check::VersionOrder, verdict, seen);
    }

    /// Whether what is there is locked, and what the bucket says of new objects.
    async fn retention(&mut self, s3: &S3, now: i64) -> Result<()> {
        let rule = s3.default_retention().await?;
        if let Ok(Some(rule)) = &rule {
            self.lock_seconds = Some(rule.seconds());
        }
        let (verdict, seen) = match (rule, self.store.final_lock(names::CONFIG).await) {
            (Ok(Some(rule)), Some(until)) if until.unix_seconds() > now => (
                ProbeVerdict::Holds,
                format!(
                    "{} for {} days, says the bucket; {} until {until}",
                    rule.mode,
                    rule.days,
                    names::CONFIG
                ),
            ),
            (Ok(Some(rule)), _) => (
                ProbeVerdict::Unknown,
                format!("{} for {} days, says the bucket; it was not tried", rule.mode, rule.days),
            ),
            (Ok(None), _) => (ProbeVerdict::Absent, "the bucket has no default retention".to_owned()),
            (Err(reason), _) => (ProbeVerdict::Unknown, format!("the store does not tell ({reason})")),
        };
        self.found(Check::Retention, verdict, seen);
        Ok(())
    }
}

fn is_refused(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
    )
}
