//! The trials themselves.

mod s3;

use bytes::Bytes;
use futures::FutureExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt, PutMode, PutPayload};
use sancerre_format::names::Time;

use super::{Check, PREFIX, ProbeFinding, ProbeVerdict};
use crate::causes;
use crate::clock::{Clock, Random, random};
use crate::error::{Result, StoreError};
use crate::folder::Refused;
use crate::{Creation, Removal, Store, explain};

/// Requests in a race, and races.
const RUNNERS: usize = 8;
const RACES: u32 = 3;
/// The bytes of a probe object.
const SIZE_BYTES: usize = 4096;
/// More than this, and providers begin to refuse requests.
const SKEW_SECONDS_MAX: i64 = 300;

/// A wrong checksum, which no object of ours has: SHA-256 of nothing.
const WRONG_SHA256: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

struct Trial<'a> {
    store: &'a Store,
    clock: &'a dyn Clock,
    random: &'a dyn Random,
    folder: String,
    findings: Vec<ProbeFinding>,
    locked_until: Option<Time>,
}

/// What it means that the store's clock is so many seconds ahead of this host's.
pub(super) fn clocks(skew: i64) -> (ProbeVerdict, String) {
    let verdict = if skew.abs() > SKEW_SECONDS_MAX { ProbeVerdict::Absent } else { ProbeVerdict::Holds };
    let seen = match skew {
        -2..=2 => "the same time as here".into(),
        _ if skew > 0 => format!("the store is {skew} s ahead of this host"),
        _ => format!("the store is {} s behind this host", -skew),
    };
    (verdict, seen)
}

/// What is to be told of races that went wrong: one that nobody won must not hide one that two won.
fn worst(wrong: impl Iterator<Item = (ProbeVerdict, String)>) -> Option<(ProbeVerdict, String)> {
    wrong.min_by_key(|(verdict, _)| *verdict != ProbeVerdict::Lies)
}

/// What was found, and until when a new object is locked.
pub(super) async fn run(
    store: &Store,
    clock: &dyn Clock,
    source: &dyn Random,
) -> Result<(Vec<ProbeFinding>, Option<Time>)> {
    let name: String = random::<8>(source).iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = format!("{PREFIX}/{name}");
    let plain = store.current_only();
    let mut trial =
        Trial { store: &plain, clock, random: source, folder, findings: Vec::new(), locked_until: None };
    let first = trial.bytes();
    if !trial.write(&first).await? {
        return Ok((trial.findings, None));
    }
    trial.create_only(&first).await?;
    trial.races().await?;
    trial.range(&first).await?;
    trial.list().await?;
    trial.checksum().await?;
    trial.protection(&first).await?;
    trial.flush();
    clean_up(store, &trial.folder).await;
    Ok((trial.findings, trial.locked_until))
}

impl Trial<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&random::<SIZE_BYTES>(self.random))
    }

    /// Notes a finding; of one check the first stands.
    fn found(&mut self, check: Check, verdict: ProbeVerdict, seen: impl Into<String>) {
        if self.findings.iter().all(|finding| finding.check != check) {
            self.findings.push(ProbeFinding { check, verdict, seen: seen.into() });
        }
    }

    /// One request as the store answers it, after any outage.
    async fn put(&self, key: &str, bytes: &Bytes, mode: PutMode) -> object_store::Result<()> {
        let attempt = || {
            let payload = PutPayload::from_bytes(bytes.clone());
            let mode = mode.clone();
            async move { self.store.inner.put_opts(&Path::from(key), payload, mode.into()).await.map(drop) }
                .boxed()
        };
        self.store.shared.patience.during(key, attempt).await
    }

    async fn write(&mut self, first: &Bytes) -> Result<bool> {
        let key = self.key("object");
        match self.put(&key, first, PutMode::Create).await {
            Ok(()) => self.found(Check::Write, ProbeVerdict::Holds, "an object was written"),
            // A retry met its own object, or the store is mad: reading back tells.
            Err(object_store::Error::AlreadyExists { .. }) => {
                self.found(Check::Write, ProbeVerdict::Holds, "an object was written");
            }
            Err(
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. },
            ) => {
                self.found(
                    Check::Write,
                    ProbeVerdict::Absent,
                    "the store refused a write for want of a right",
                );
                return Ok(false);
            }
            Err(source) if cannot_create(&source) => {
                self.found(Check::CreateOnly, ProbeVerdict::Absent, explain(&source));
                return Ok(false);
            }
            Err(source) => return Err(StoreError::Failed { operation: "write", key, source }),
        }
        match self.store.get(&key).await? {
            Some(found) if found == *first => {
                self.found(Check::ReadBack, ProbeVerdict::Holds, "the same bytes came back");
            }
            Some(_) => self.found(Check::ReadBack, ProbeVerdict::Lies, "other bytes came back"),
            None => {
                self.found(
                    Check::ReadBack,
                    ProbeVerdict::Lies,
                    "an object that was acknowledged is not there",
                );
            }
        }
        Ok(true)
    }

    async fn create_only(&mut self, first: &Bytes) -> Result<()> {
        let key = self.key("object");
        let second = self.bytes();
        let answer = self.put(&key, &second, PutMode::Create).await;
        let found = self.store.get(&key).await?;
        match answer {
            Ok(()) => {
                self.found(
                    Check::CreateOnly,
                    ProbeVerdict::Lies,
                    "a second object was accepted over the first",
                );
            }
            Err(object_store::Error::AlreadyExists { .. }) if found.as_ref() == Some(first) => {
                self.found(
                    Check::CreateOnly,
                    ProbeVerdict::Holds,
                    "a second object was refused, and the first is there",
                );
            }
            Err(object_store::Error::AlreadyExists { .. }) if found == Some(second) => {
                self.found(
                    Check::CreateOnly,
                    ProbeVerdict::Lies,
                    "a second object was refused, and overwrote the first all the same",
                );
            }
            Err(object_store::Error::AlreadyExists { .. }) => {
                self.found(
                    Check::CreateOnly,
                    ProbeVerdict::Unknown,
                    "a second object was refused, and the first cannot be read",
                );
            }
            Err(error) => self.found(
                Check::CreateOnly,
                ProbeVerdict::Absent,
                format!("a create-only request is answered: {error}"),
            ),
        }
        Ok(())
    }

    /// Runs the races at once: SeaweedFS makes every loser of a race wait for a second, one after another.
    async fn races(&mut self) -> Result<()> {
        let races = futures::future::try_join_all((0..RACES).map(|race| self.race(race))).await?;
        let (verdict, seen) = worst(races.into_iter().flatten()).unwrap_or_else(|| {
            (ProbeVerdict::Holds, format!("of {RUNNERS} requests at once one was accepted, {RACES} times"))
        });
        self.found(Check::Race, verdict, seen);
        Ok(())
    }

    /// Lets several requests run for one key; what is wrong with how that ended.
    async fn race(&self, race: u32) -> Result<Option<(ProbeVerdict, String)>> {
        let key = self.key(&format!("race{race}"));
        let runners: Vec<Bytes> = (0..RUNNERS).map(|_| self.bytes()).collect();
        let place = Path::from(key.as_str());
        let puts: Vec<_> = runners
            .iter()
            .map(|bytes| self.store.inner.put_opts(&place, bytes.clone().into(), PutMode::Create.into()))
            .collect();
        let answers = futures::future::join_all(puts).await;
        let accepted = runners.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
        let winners: Vec<&Bytes> = accepted.map(|(bytes, _)| bytes).collect();
        let found = self.store.get(&key).await?;
        Ok(match winners.as_slice() {
            [] => Some((ProbeVerdict::Unknown, format!("of {RUNNERS} requests at once none was accepted"))),
            [winner] if found.as_ref() == Some(*winner) => None,
            [_] => Some((
                ProbeVerdict::Lies,
                "one request was accepted, but another's bytes are there".to_owned(),
            )),
            many => Some((
                ProbeVerdict::Lies,
                format!("of {RUNNERS} requests at once {} were accepted", many.len()),
            )),
        })
    }

    async fn range(&mut self, first: &Bytes) -> Result<()> {
        let (key, range) = (self.key("range"), 1000..3000_u64);
        self.store.put_new(&key, first.clone()).await?;
        match self.store.need_range(&key, range).await {
            Ok(bytes) if first.get(1000..3000) == Some(&bytes) => {
                self.found(Check::Range, ProbeVerdict::Holds, "the part that was asked for came back");
            }
            Ok(_) => {
                self.found(Check::Range, ProbeVerdict::Lies, "another part came back than was asked for");
            }
            Err(StoreError::Failed { source, .. }) => self.found(
                Check::Range,
                ProbeVerdict::Absent,
                format!("a part of an object cannot be read: {}", explain(&source)),
            ),
            Err(error) => self.found(Check::Range, ProbeVerdict::Absent, error.to_string()),
        }
        Ok(())
    }

    async fn list(&mut self) -> Result<()> {
        let listed = self.store.list(&format!("{}/", self.folder)).await?;
        let of = |name: &str| {
            listed.iter().find(|listed| listed.key == self.key(name)).map(|listed| listed.size_bytes)
        };
        let sizes = [of("object"), of("range"), of("race0")];
        let right = u64::try_from(SIZE_BYTES).ok();
        if sizes.iter().any(Option::is_none) {
            self.found(Check::List, ProbeVerdict::Absent, "an object that was just written is not listed");
        } else if sizes.iter().any(|size| *size != right) {
            self.found(Check::List, ProbeVerdict::Lies, "a listing shows a wrong size");
        } else {
            self.found(Check::List, ProbeVerdict::Holds, "what was just written is listed");
        }
        Ok(())
    }

    async fn checksum(&mut self) -> Result<()> {
        let Some(s3) = self.store.s3() else {
            self.found(Check::Checksum, ProbeVerdict::Unknown, "only S3 is asked");
            return Ok(());
        };
        let headers = [("x-amz-checksum-sha256", WRONG_SHA256)];
        let (key, method) = (self.key("checksum"), object_store::signer::Method::PUT);
        let answer = s3.request(method, Some(&key), &[], &headers, self.bytes()).await?;
        match answer.is_success() {
            true => {
                self.found(
                    Check::Checksum,
                    ProbeVerdict::Absent,
                    "an object with a wrong checksum was accepted",
                );
            }
            false => self.found(
                Check::Checksum,
                ProbeVerdict::Holds,
                format!("an object with a wrong checksum was refused ({})", answer.reason()),
            ),
        }
        Ok(())
    }

    /// Clock, versions, locks, and what these credentials may destroy.
    async fn protection(&mut self, first: &Bytes) -> Result<()> {
        let key = self.key("range");
        let head = match self.store.inner.head(&Path::from(key.as_str())).await {
            Ok(head) => head,
            // Nothing to try anything on.
            Err(object_store::Error::NotFound { .. }) => {
                self.found(
                    Check::ReadBack,
                    ProbeVerdict::Lies,
                    "an object that was acknowledged is not there",
                );
                return Ok(());
            }
            Err(source) => return Err(StoreError::Failed { operation: "read", key, source }),
        };
        self.clock(&head);
        match self.store.s3() {
            Some(s3) => self.on_s3(s3, &key, &head, first).await,
            None => self.elsewhere(&key, first).await,
        }
    }

    fn clock(&mut self, head: &ObjectMeta) {
        let skew = head.last_modified.timestamp().saturating_sub(self.clock.now().unix_seconds());
        let (verdict, seen) = clocks(skew);
        self.found(Check::Clock, verdict, seen);
    }

    /// What came of the flushes so far, in a folder of this machine.
    fn flush(&mut self) {
        match self.store.weakness() {
            None => {}
            Some(None) => self.found(Check::Flush, ProbeVerdict::Holds, "names were brought to the disk"),
            Some(Some(said)) => {
                self.found(Check::Flush, ProbeVerdict::Absent, format!("a folder cannot be flushed: {said}"));
            }
        }
    }

    /// Tries to put other bytes in an object's place; whether that went through.
    async fn overwrite(&mut self, key: &str) -> Result<bool> {
        match self.put(key, &self.bytes(), PutMode::Overwrite).await {
            Ok(()) => {
                self.found(Check::Overwrite, ProbeVerdict::Absent, "an object was overwritten");
                Ok(true)
            }
            Err(
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. },
            ) => {
                self.found(Check::Overwrite, ProbeVerdict::Holds, "overwriting was refused");
                Ok(false)
            }
            Err(source) => Err(StoreError::Failed { operation: "overwrite", key: key.to_owned(), source }),
        }
    }

    /// Stores whose versions and locks are not asked about.
    async fn elsewhere(&mut self, key: &str, first: &Bytes) -> Result<()> {
        self.found(Check::Versions, ProbeVerdict::Unknown, "only S3 is asked");
        self.found(Check::Retention, ProbeVerdict::Unknown, "only S3 is asked");
        if !self.overwrite(key).await? && self.store.get(key).await?.as_ref() != Some(first) {
            self.found(Check::ReadBack, ProbeVerdict::Lies, "an object is another after a refused write");
        }
        let deleted = self.store.inner.delete(&Path::from(key)).await;
        match (deleted, self.store.get(key).await?) {
            (_, None) => self.found(Check::Delete, ProbeVerdict::Absent, "an object was deleted"),
            (Err(error), Some(_)) => {
                self.found(Check::Delete, ProbeVerdict::Holds, format!("a delete was refused: {error}"));
            }
            (Ok(()), Some(_)) => self.found(
                Check::Delete,
                ProbeVerdict::Lies,
                "a delete was accepted, and the object is still there",
            ),
        }
        Ok(())
    }
}

/// Whether a folder says that nothing can be created in it without the risk of replacing something.
fn cannot_create(error: &object_store::Error) -> bool {
    matches!(causes::find(error), Some(Refused::NoCreate { .. }))
}

/// Removes what can be removed, with all versions; what cannot is locked, or these credentials may not, which is as it
/// should be.
async fn clean_up(store: &Store, folder: &str) {
    let listed = store.list(&format!("{folder}/")).await.unwrap_or_default();
    for listed in listed {
        drop(store.delete(&listed.key).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lie_is_told_wherever_it_stands_among_the_races() {
        let nobody = || (ProbeVerdict::Unknown, "nobody won".to_owned());
        let two = || (ProbeVerdict::Lies, "two won".to_owned());
        for wrong in [vec![nobody(), two(), nobody()], vec![two(), nobody()], vec![nobody(), two()]] {
            assert_eq!(worst(wrong.into_iter()), Some(two()));
        }
        assert_eq!(worst([nobody()].into_iter()), Some(nobody()));
        assert_eq!(worst(std::iter::empty()), None);
    }
}
