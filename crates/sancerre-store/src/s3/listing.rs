//! Listings of versions: one page, as S3 writes it.

use sancerre_format::names::Time;
use serde::Deserialize;

/// A version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// The object's key.
    pub(crate) key: String,
    /// What the store calls the version.
    pub(crate) id: String,
    /// Its size; 0 for a delete marker.
    pub(crate) size_bytes: u64,
    /// When the store saw it written, by the store's clock.
    pub(crate) modified: Time,
}

/// Where the next page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) key: String,
    pub(super) version: Option<String>,
}

/// A page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// By key ascending; of one key the newest first.
    pub(crate) versions: Vec<Version>,
    /// Delete markers, in the same order.
    pub(crate) markers: Vec<Version>,
    /// What keys begin with up to the delimiter, where one was asked for.
    pub(crate) folders: Vec<String>,
    pub(super) next: Option<Next>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    is_truncated: bool,
    next_version_id_marker: Option<String>,
    #[serde(default, rename = "Version")]
    versions: Vec<Element>,
    #[serde(default, rename = "DeleteMarker")]
    markers: Vec<Element>,
    #[serde(default)]
    common_prefixes: Vec<Folder>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Element {
    key: String,
    version_id: String,
    last_modified: String,
    #[serde(default)]
    size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Folder {
    prefix: String,
}

/// Reads a page; keys come without `root`, which all of them must begin with.
///
/// Errors: why it cannot be read. A listing that may not be whole must not be taken for one that is.
pub(super) fn parse(xml: &[u8], root: &str) -> Result<Page, String> {
    let text = std::str::from_utf8(xml).map_err(|error| error.to_string())?;
    let body: Body = quick_xml::de::from_str(text).map_err(|error| error.to_string())?;
    let next = match (body.is_truncated, next_key(text)) {
        (false, _) => None,
        (true, Some(key)) => {
            Some(Next { key, version: body.next_version_id_marker.filter(|id| !id.is_empty()) })
        }
        (true, None) => return Err("a page that is not the last does not say where the next begins".into()),
    };
    let versions = body.versions.into_iter().map(|element| version(element, root));
    let markers = body.markers.into_iter().map(|element| version(element, root));
    let folders = body.common_prefixes.iter().map(|folder| Ok(within(&folder.prefix, root)?.to_owned()));
    Ok(Page {
        versions: versions.collect::<Result<_, _>>()?,
        markers: markers.collect::<Result<_, _>>()?,
        folders: folders.collect::<Result<_, String>>()?,
        next,
    })
}

/// The marker as it is: anybody's key, with spaces at its ends, which who reads the other elements leaves out.
fn next_key(page: &str) -> Option<String> {
    let (_, rest) = page.split_once("<NextKeyMarker>")?;
    let (marker, _) = rest.split_once("</NextKeyMarker>")?;
    Some(quick_xml::escape::unescape(marker).ok()?.into_owned())
}

fn version(element: Element, root: &str) -> Result<Version, String> {
    Ok(Version {
        key: within(&element.key, root)?.to_owned(),
        id: element.version_id,
        size_bytes: element.size,
        modified: time(&element.last_modified)?,
    })
}

fn within<'a>(key: &'a str, root: &str) -> Result<&'a str, String> {
    key.strip_prefix(root).ok_or_else(|| format!("{key:?} does not begin with {root:?}, which was asked for"))
}

/// A time with or without parts of a second.
pub(super) fn time(text: &str) -> Result<Time, String> {
    let seconds = text.split(['.', 'Z']).next().unwrap_or_default();
    Time::parse(&format!("{seconds}Z")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(inner: &str) -> Result<Page, String> {
        let xml = format!(
            r#"<?xml version="1.0" encoding="UTF-8"?><ListVersionsResult xmlns="x"><Name>b</Name><Prefix>r/</Prefix>{inner}</ListVersionsResult>"#
        );
        parse(xml.as_bytes(), "r/")
    }

    fn entry(tag: &str, key: &str, id: &str, rest: &str) -> String {
        format!(
            "<{tag}><Key>{key}</Key><VersionId>{id}</VersionId><IsLatest>false</IsLatest>{rest}<LastModified>2026-11-25T15:46:22.000Z</LastModified></{tag}>"
        )
    }

    #[test]
    fn versions_and_markers_in_any_order() {
        let inner = [
            "<IsTruncated>false</IsTruncated>".to_owned(),
            entry("Version", "r/a&amp;b", "3", "<Size>4</Size><Owner><ID>x</ID></Owner>"),
            entry("DeleteMarker", "r/a&amp;b", "2", ""),
            entry("Version", "r/a&amp;b", "null", "<Size>1</Size>"),
        ];
        let found = page(&inner.concat()).unwrap();
        let ids: Vec<_> =
            found.versions.iter().map(|version| (version.id.as_str(), version.size_bytes)).collect();
        assert_eq!(ids, [("3", 4), ("null", 1)]);
        assert_eq!((found.markers.len(), found.versions[0].key.as_str()), (1, "a&b"));
        assert_eq!(found.versions[0].modified.to_string(), "2026-11-25T15:46:22Z");
        assert_eq!(found.next, None);
    }

    #[test]
    fn what_may_be_a_part_is_not_taken_for_the_whole() {
        let next = "<IsTruncated>true</IsTruncated><NextKeyMarker>r/a</NextKeyMarker><NextVersionIdMarker>7</NextVersionIdMarker>";
        let expected = Next { key: "r/a".into(), version: Some("7".into()) };
        assert_eq!(page(next).unwrap().next, Some(expected));
        let odd = next.replace("r/a", "r/&amp;a&#10; ");
        assert_eq!(page(&odd).unwrap().next.unwrap().key, "r/&a\n ");
        page("<IsTruncated>true</IsTruncated>").unwrap_err();
        page("").unwrap_err();
        page(&format!(
            "<IsTruncated>false</IsTruncated>{}",
            entry("Version", "other/a", "1", "<Size>1</Size>")
        ))
        .unwrap_err();
        parse(b"<ListVersionsResult><IsTruncated>false</IsTr", "").unwrap_err();
    }

    #[test]
    fn folders_lie_below_the_root() {
        let inner =
            "<IsTruncated>false</IsTruncated><CommonPrefixes><Prefix>r/zones/a/</Prefix></CommonPrefixes>";
        assert_eq!(page(inner).unwrap().folders, ["zones/a/"]);
    }
}
