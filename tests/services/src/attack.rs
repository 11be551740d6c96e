//! What somebody with stolen credentials does to a bucket that keeps versions.

use crate::seaweedfs::{Credentials, Seaweedfs};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;

/// A version of an object, or a delete marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The object's key.
    pub key: String,
    /// What the server calls the version.
    pub id: String,
    /// Whether it only hides what is below it.
    pub is_marker: bool,
}

impl Seaweedfs {
    /// Everything that is in a bucket, hidden or not.
    pub fn versions(&self, bucket: &str) -> Result<Vec<Version>> {
        let answer =
            self.request(crate::seaweedfs::ADMIN, ("GET", &format!("/{bucket}"), "versions="), &[], b"")?;
        let listing = answer.text();
        ensure!(listing.contains("<IsTruncated>false<"), "more than one page: {listing}");
        let of = |tag: &str, is_marker: bool| {
            let entries = elements(&listing, tag).into_iter();
            let version = |entry| {
                let text = |name| elements(entry, name).first().map(|text| (*text).to_owned());
                Some(Version { key: text("Key")?, id: text("VersionId")?, is_marker })
            };
            entries.filter_map(version).collect::<Vec<_>>()
        };
        Ok([of("Version", false), of("DeleteMarker", true)].concat())
    }

    /// Puts a delete marker over an object.
    pub fn hide(&self, who: Credentials, bucket: &str, key: &str) -> Result<()> {
        self.demand(who, ("DELETE", &format!("/{bucket}/{key}")), b"")
    }

    /// Puts other bytes over an object.
    pub fn overwrite(&self, who: Credentials, bucket: &str, key: &str, bytes: &[u8]) -> Result<()> {
        self.demand(who, ("PUT", &format!("/{bucket}/{key}")), bytes)
    }

    /// Over every object of the repository in turn a delete marker, junk, or both in either order; says over how many.
    pub fn deface(&self, who: Credentials, bucket: &str) -> Result<usize> {
        let keys: BTreeSet<String> = self.versions(bucket)?.into_iter().map(|version| version.key).collect();
        let keys: Vec<String> = keys.into_iter().filter(|key| !key.starts_with("probe/")).collect();
        for (turn, key) in keys.iter().enumerate() {
            if turn % 4 != 1 {
                self.hide(who, bucket, key)?;
            }
            if turn % 4 != 0 {
                self.overwrite(who, bucket, key, b"junk")?;
            }
            if turn % 4 == 3 {
                self.hide(who, bucket, key)?;
            }
        }
        Ok(keys.len())
    }

    fn demand(&self, who: Credentials, (method, path): (&str, &str), body: &[u8]) -> Result<()> {
        let answer = self.request(who, (method, path, ""), &[], body)?;
        ensure!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
        Ok(())
    }
}

/// The texts of all XML elements of this name.
fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| rest.split_once(&close)).map(|(text, _)| text).collect()
}
