//! Stores that keep versions, read so that nothing can be put over an object or taken from in front of it.
//!
//! On such a bucket whoever may write can also overwrite, and hide an object behind a delete marker; nothing is gone, but
//! a plain read does not see it, and a create-only request over a marker succeeds. So here **an object is its earliest
//! version**, whatever came later, and delete markers are nothing. Writers count a key as taken unless their own version
//! is the earliest. With both the bucket is again what the protocol needs: a store on which the first write of a key
//! stands for ever (docs/decisions/0009-first-version.md).
//!
//! What a listing says of keys is remembered for this process, since the earliest version of a key cannot change while it
//! exists. A pack is named by its bytes, so that nobody can be there before it: of packs only those are remembered that a
//! plain read may miss.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use futures::future::{self, BoxFuture, FutureExt, Shared};
use sancerre_format::names;
use tokio::sync::OnceCell;

use crate::error::{Result, StoreError};
use crate::messages::without_markup;
use crate::naming::pack_folder;
use crate::s3::{Page, S3, Version};
use crate::{Listed, Store};

/// Codes with which a store refuses the key rather than the request.
const WRONG_KEY: [&str; 4] = ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"];

/// What is known of the versions of a store's objects.
#[derive(Default)]
pub(crate) struct Versions {
    /// Asked when the first object is read, the configuration, and nobody reads anything beside it.
    kept: OnceCell<Versioning>,
    /// The earliest versions, by key.
    first: Mutex<HashMap<String, String>>,
    /// Keys over which somebody put a marker or another version.
    covered: Mutex<BTreeSet<String>>,
    /// Folders of packs that were listed, or are being.
    listed: Mutex<HashMap<String, Listing>>,
}

/// A listing that whoever waits for it also drives: the one who asked first may be a future that nobody polls just now.
/// It ends with whether it came to its end.
type Listing = Shared<BoxFuture<'static, bool>>;

/// Whether a bucket keeps versions.
enum Versioning {
    Yes,
    No,
    /// The store does not tell these credentials; its words.
    Untold(String),
}

/// What to read for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VersionToRead {
    /// What is there.
    Current,
    /// This version.
    Version(String),
    /// Nothing was ever written there.
    Nothing,
}

impl VersionToRead {
    /// What to ask for: no version for the current one. None where there is nothing to ask for.
    pub(crate) fn version(&self) -> Option<Option<String>> {
        match self {
            Self::Current => Some(None),
            Self::Version(id) => Some(Some(id.clone())),
            Self::Nothing => None,
        }
    }
}

/// An object: its earliest version, and whether nothing was put over it.
pub(crate) struct Object {
    pub(crate) first: Version,
    is_alone: bool,
}

impl Store {
    /// The requests for versions, if this store keeps any. Asks once.
    pub(crate) async fn history(&self) -> Result<Option<&S3>> {
        let Some(s3) = self.s3().filter(|_| !self.sees_current_only) else { return Ok(None) };
        let kept = self.shared.versions.kept.get_or_try_init(|| self.ask(s3)).await?;
        Ok(matches!(kept, Versioning::Yes).then_some(s3))
    }

    async fn ask(&self, s3: &S3) -> Result<Versioning> {
        let answer = s3.get(None, &[("versioning", "")]).await?;
        let text = String::from_utf8_lossy(&answer.body);
        match answer.element("Status").as_deref() {
            // A bucket whose versioning was suspended still has those from before.
            Some("Enabled" | "Suspended") if answer.is_success() => return Ok(Versioning::Yes),
            None | Some("") if text.contains("VersioningConfiguration") => return Ok(Versioning::No),
            // Not a bucket, or a store that knows no versions.
            _ if !answer.is_success() && answer.status != 403 => return Ok(Versioning::No),
            _ => {}
        }
        let reason = answer.reason();
        if WRONG_KEY.iter().any(|code| reason.ends_with(code)) {
            // What is asked next fails, and says so.
            return Ok(Versioning::Untold(reason));
        }
        self.shared.patience.tell(format!(
            "the store does not say whether the bucket keeps versions ({}), so delete markers could hide objects; \
             allow these credentials to ask (s3:GetBucketVersioning, docs/STORES.md)",
            reason
        ));
        Ok(Versioning::Untold(reason))
    }

    /// Fails where objects could be hidden from us unnoticed.
    ///
    /// Errors: [`StoreError::Refused`] when the store does not tell these credentials whether it keeps versions, or which.
    pub async fn must_tell_versions(&self) -> Result<()> {
        if self.history().await?.is_some() {
            return match self.list(names::CONFIG).await {
                Err(StoreError::Failed {
                    source: object_store::Error::PermissionDenied { source, .. },
                    ..
                }) => Err(StoreError::Refused(format!(
                    "delete markers could hide what is needed, so nothing was deleted: {}",
                    without_markup(&source.to_string())
                ))),
                listed => listed.map(drop),
            };
        }
        match self.shared.versions.kept.get() {
            Some(Versioning::Untold(reason)) => Err(StoreError::Refused(format!(
                "the store does not say whether the bucket keeps versions ({reason}), so delete markers could hide what \
                 is needed; nothing was deleted. Allow these credentials to ask: s3:GetBucketVersioning, docs/STORES.md"
            ))),
            _ => Ok(()),
        }
    }

    /// What to read for a key.
    pub(crate) async fn place(&self, key: &str) -> Result<VersionToRead> {
        let Some(s3) = self.history().await? else { return Ok(VersionToRead::Current) };
        if let Some(folder) = pack_folder(key) {
            self.list_packs_once(s3, folder).await?;
        }
        if let Some(id) = self.remembered(key) {
            return Ok(VersionToRead::Version(id));
        }
        if pack_folder(key).is_some() {
            return Ok(VersionToRead::Current);
        }
        self.look_up(s3, key).await
    }

    /// After a plain read of a pack found nothing: a marker may have been put there since its folder was listed.
    pub(crate) async fn second_place(&self, key: &str, place: &VersionToRead) -> Result<VersionToRead> {
        match self.history().await? {
            Some(s3) if *place == VersionToRead::Current => self.look_up(s3, key).await,
            _ => Ok(VersionToRead::Nothing),
        }
    }

    /// Asks for the earliest version of a key.
    async fn look_up(&self, s3: &S3, key: &str) -> Result<VersionToRead> {
        let first = self.shared.patience.during(key, || first(s3, key).boxed()).await;
        let first =
            first.map_err(|source| StoreError::Failed { operation: "list", key: key.to_owned(), source })?;
        let Some(object) = first else { return Ok(VersionToRead::Nothing) };
        let id = object.first.id.clone();
        self.remember(object);
        Ok(VersionToRead::Version(id))
    }

    fn remembered(&self, key: &str) -> Option<String> {
        self.shared.versions.first.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Of packs only those that a plain read may miss.
    fn remember(&self, Object { first, is_alone }: Object) {
        let versions = &self.shared.versions;
        if !is_alone {
            versions.covered.lock().unwrap_or_else(PoisonError::into_inner).insert(first.key.clone());
        }
        if !is_alone || pack_folder(&first.key).is_none() {
            versions.first.lock().unwrap_or_else(PoisonError::into_inner).insert(first.key, first.id);
        }
    }

    /// Objects below a prefix over which somebody put a delete marker or another version, as far as they were met.
    pub fn covered(&self, prefix: &str) -> Vec<String> {
        let covered = self.shared.versions.covered.lock().unwrap_or_else(PoisonError::into_inner);
        covered.iter().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// Lists every object ever written below a prefix.
    pub(crate) async fn list_first(&self, s3: &S3, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>> {
        let objects = self.shared.patience.during(prefix, || objects(s3, prefix, after).boxed()).await;
        let objects = objects.map_err(|source| StoreError::Failed {
            operation: "list",
            key: prefix.to_owned(),
            source,
        })?;
        let listed = objects.into_iter().map(|object| {
            let Version { key, id, size_bytes, modified } = &object.first;
            // The id of what was there before the bucket kept versions is the same for all: `null`.
            let tag = Some(format!("{id} {modified}"));
            let listed = Listed { key: key.clone(), size_bytes: *size_bytes, modified: *modified, tag };
            self.remember(object);
            listed
        });
        let listed = listed.collect();
        if after.is_none() {
            let done = future::ready(true).boxed().shared();
            // Driven once: only then it says that it is done.
            let _ = done.clone().now_or_never();
            self.shared.versions.lock_listed().insert(prefix.to_owned(), done);
        }
        Ok(listed)
    }

    /// Many ranges of many packs of a session are read; one listing says which of them were tampered with.
    async fn list_packs_once(&self, s3: &S3, folder: &str) -> Result<()> {
        let is_done = |listing: &Listing| listing.peek() == Some(&true);
        let listing = {
            let mut listed = self.shared.versions.lock_listed();
            let mut above = folder.match_indices('/').filter_map(|(at, _)| folder.get(..=at));
            if above.any(|prefix| listed.get(prefix).is_some_and(is_done)) {
                return Ok(());
            }
            let begin = || self.clone().list_folder(folder.to_owned()).boxed().shared();
            listed.entry(folder.to_owned()).or_insert_with(begin).clone()
        };
        // What went wrong each finds out for himself.
        if listing.await { Ok(()) } else { self.list_first(s3, folder, None).await.map(drop) }
    }

    async fn list_folder(self, folder: String) -> bool {
        match self.s3() {
            Some(s3) => self.list_first(s3, &folder, None).await.is_ok(),
            None => false,
        }
    }

    /// Deletes every version of an object, the earliest last: an interruption leaves it as it was.
    pub(crate) async fn delete_versions(&self, s3: &S3, key: &str) -> Result<()> {
        let all = self.shared.patience.during(key, || versions(s3, key).boxed()).await;
        let all =
            all.map_err(|source| StoreError::Failed { operation: "list", key: key.to_owned(), source })?;
        for version in all {
            let answer = s3.delete(key, Some(&version)).await?;
            if !answer.is_success() && answer.status != 404 {
                let lock = s3.retention(key, Some(&version)).await?.ok().flatten();
                let until = lock.map(|lock| lock.term);
                return Err(StoreError::DeleteRefused {
                    key: key.to_owned(),
                    until,
                    reason: answer.reason(),
                });
            }
        }
        self.shared.versions.first.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        Ok(())
    }
}

impl Versions {
    fn lock_listed(&self) -> std::sync::MutexGuard<'_, HashMap<String, Listing>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The earliest version of a key; none if nothing was ever written there.
pub(crate) async fn first(s3: &S3, key: &str) -> object_store::Result<Option<Object>> {
    let (mut first, mut count) = (None, 0_usize);
    s3.try_versions(key, None, None, |page| {
        // Keys ascend, so its own come before longer ones that begin the same.
        let all = page.versions.iter().chain(&page.markers);
        let (own, others) = all.partition::<Vec<_>, _>(|version| version.key == key);
        let is_last = !others.is_empty();
        count = count.saturating_add(own.len());
        first = page.versions.into_iter().rfind(|version| version.key == key).or(first.take());
        !is_last
    })
    .await?;
    Ok(first.map(|first| Object { first, is_alone: count == 1 }))
}

/// The ids of all versions and delete markers of a key, the earliest version last.
async fn versions(s3: &S3, key: &str) -> object_store::Result<Vec<String>> {
    let (mut versions, mut markers) = (Vec::new(), Vec::new());
    s3.try_versions(key, None, None, |page| {
        let is_last = page.versions.iter().chain(&page.markers).any(|version| version.key != key);
        let ids = |found: Vec<Version>| {
            found.into_iter().filter(|version| version.key == key).map(|version| version.id)
        };
        versions.extend(ids(page.versions));
        markers.extend(ids(page.markers));
        !is_last
    })
    .await?;
    markers.append(&mut versions);
    Ok(markers)
}

async fn objects(s3: &S3, prefix: &str, after: Option<&str>) -> object_store::Result<Vec<Object>> {
    let (mut objects, mut hidden) = (Vec::<Object>::new(), HashSet::new());
    s3.try_versions(prefix, None, after, |Page { versions, markers, .. }| {
        for version in versions {
            match objects.last_mut().filter(|object| object.first.key == version.key) {
                // Of one key the newest comes first.
                Some(object) => *object = Object { first: version, is_alone: false },
                None => objects.push(Object { first: version, is_alone: true }),
            }
        }
        hidden.extend(markers.into_iter().map(|marker| marker.key));
        true
    })
    .await?;
    for object in &mut objects {
        object.is_alone &= !hidden.contains(&object.first.key);
    }
    Ok(objects)
}

/// The folders directly below a prefix in which anything was ever written.
pub(crate) async fn folders(s3: &S3, prefix: &str) -> object_store::Result<Vec<String>> {
    let mut folders = Vec::new();
    s3.try_versions(prefix, Some("/"), None, |page| {
        folders.extend(page.folders);
        true
    })
    .await?;
    let names = folders.iter().filter_map(|folder| folder.trim_end_matches('/').rsplit('/').next());
    Ok(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packs_are_named_by_their_bytes() {
        assert_eq!(
            pack_folder("zones/a/packs/0000000000000001/00000000-ab"),
            Some("zones/a/packs/0000000000000001/")
        );
        for key in [
            "config",
            "zones/a/log/0000000000000001",
            "zones/a/lists/0000000000000001-ab/00000000",
            "packs/x",
        ] {
            assert_eq!(pack_folder(key), None, "{key}");
        }
    }
}
