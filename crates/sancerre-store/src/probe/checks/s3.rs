//! What only S3 is asked: versions, their order, and locks.

use bytes::Bytes;
use futures::FutureExt;
use object_store::ObjectMeta;
use object_store::path::Path;

use super::{Check, ProbeVerdict, Trial};
use crate::error::Result;
use crate::s3::{ObjectRetention, Rule, S3};
use crate::versions;

impl Trial<'_> {
    pub(super) async fn on_s3(&mut self, s3: &S3, key: &str, head: &ObjectMeta, first: &Bytes) -> Result<()> {
        let says = s3.versioning().await?;
        let says_versions = says.as_ref().is_ok_and(|status| status.as_deref() == Some("Enabled"));
        let version = head.version.as_deref().filter(|version| *version != "null");
        let lock = match version {
            Some(_) => s3.retention(key, version).await?,
            None => Ok(None),
        };
        let default = s3.default_retention().await?;
        let overwritten = self.overwrite(key).await?;
        let kept = match version {
            Some(version) if overwritten => self.version_is(key, version, first).await,
            _ => !overwritten,
        };
        match (says, says_versions) {
            (Err(reason), _) => {
                self.found(
                    Check::Versions,
                    ProbeVerdict::Unknown,
                    format!("the store does not tell ({reason})"),
                );
            }
            (Ok(_), true) if !kept => {
                self.found(
                    Check::Versions,
                    ProbeVerdict::Lies,
                    "it says so, but an overwritten object is gone",
                );
            }
            (Ok(_), true) => self.found(
                Check::Versions,
                ProbeVerdict::Holds,
                "an overwritten object is still there as a version",
            ),
            (Ok(status), false) => self.found(
                Check::Versions,
                ProbeVerdict::Absent,
                format!("versioning is {}", status.as_deref().unwrap_or("off")),
            ),
        }
        if says_versions && kept {
            self.order(s3, key, version).await;
        }
        self.delete_version(s3, key, version, first, &lock.clone().ok().flatten()).await?;
        self.retention(default, lock);
        Ok(())
    }

    /// Readers take the earliest version for the object, so the listing must say which one that is.
    async fn order(&mut self, s3: &S3, key: &str, version: Option<&str>) {
        let first = self.store.shared.patience.during(key, || versions::first(s3, key).boxed()).await;
        let (verdict, seen) = match first {
            Ok(Some(object)) if Some(object.first.id.as_str()) == version => (
                ProbeVerdict::Holds,
                "the version that was written first is listed as the earliest".to_owned(),
            ),
            Ok(_) => (
                ProbeVerdict::Lies,
                "the version that was written first is not listed as the earliest".to_owned(),
            ),
            Err(error) => (ProbeVerdict::Absent, format!("versions cannot be listed: {error}")),
        };
        self.found(Check::VersionOrder, verdict, seen);
    }

    async fn version_is(&self, key: &str, version: &str, first: &Bytes) -> bool {
        let options = object_store::GetOptions {
            version: Some(version.to_owned()),
            ..object_store::GetOptions::default()
        };
        match self.store.inner.get_opts(&Path::from(key), options).await {
            Ok(found) => found.bytes().await.is_ok_and(|bytes| bytes == *first),
            Err(_) => false,
        }
    }

    async fn delete_version(
        &mut self,
        s3: &S3,
        key: &str,
        version: Option<&str>,
        first: &Bytes,
        lock: &Option<ObjectRetention>,
    ) -> Result<()> {
        let answer = s3.delete(key, version).await?;
        let is_there = match version {
            Some(version) => self.version_is(key, version, first).await,
            None => self.store.get(key).await?.is_some(),
        };
        match (answer.is_success(), is_there) {
            (_, false) if lock.is_some() => {
                self.found(Check::Retention, ProbeVerdict::Lies, "a locked object was deleted");
            }
            (true, true) if version.is_some() => self.found(
                Check::Delete,
                ProbeVerdict::Lies,
                "a delete was accepted, and the object is still there",
            ),
            _ => {}
        }
        match (answer.is_success(), is_there) {
            (_, false) => self.found(Check::Delete, ProbeVerdict::Absent, "an object was deleted for good"),
            (false, true) => self.found(
                Check::Delete,
                ProbeVerdict::Holds,
                format!("a delete was refused ({})", answer.reason()),
            ),
            (true, true) => self.found(
                Check::Delete,
                ProbeVerdict::Unknown,
                "a delete was accepted, and the object is still there",
            ),
        }
        Ok(())
    }

    fn retention(
        &mut self,
        default: std::result::Result<Option<Rule>, String>,
        lock: std::result::Result<Option<ObjectRetention>, String>,
    ) {
        match (default, lock) {
            (_, Ok(Some(lock))) => {
                self.locked_until = lock.until;
                self.found(
                    Check::Retention,
                    ProbeVerdict::Holds,
                    format!("{} until {}", lock.mode, lock.term),
                );
            }
            (Ok(Some(rule)), Ok(None)) => {
                self.found(
                    Check::Retention,
                    ProbeVerdict::Lies,
                    format!(
                        "the bucket says {} for {} days, but a new object has no lock",
                        rule.mode, rule.days
                    ),
                );
            }
            (Ok(None), Ok(None)) => {
                self.found(Check::Retention, ProbeVerdict::Absent, "the bucket has no default retention");
            }
            (Err(reason), Ok(None)) => self.found(
                Check::Retention,
                ProbeVerdict::Absent,
                format!("a new object has no lock (the bucket's rule: {reason})"),
            ),
            (_, Err(reason)) => {
                self.found(
                    Check::Retention,
                    ProbeVerdict::Unknown,
                    format!("the store does not tell ({reason})"),
                );
            }
        }
    }
}
