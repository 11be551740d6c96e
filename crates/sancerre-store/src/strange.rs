//! Keys that are not ours and that `object_store` has no name for: empty parts, `..`, control characters, a slash at an end.
//!
//! Whoever may write can put objects under such keys, and one of them would make a whole listing fail. All keys of the
//! format are plain, so these are taken out of listings and remembered, to be named by `check`. What lies in a folder that
//! cannot be listed is another matter: who would delete must know of it ([`Store::must_list_all`](crate::Store::must_list_all)).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use object_store::path::Path;

/// How many are remembered: a flood of them must not take the memory.
const REMEMBERED: usize = 1000;

/// What the pages of listings wrap around a key: the element of an entry, and that of the key in it.
const ENTRIES: [(&str, &str); 6] = [
    ("Contents", "Key"),
    ("Version", "Key"),
    ("DeleteMarker", "Key"),
    ("CommonPrefixes", "Prefix"),
    ("Blob", "Name"),
    ("BlobPrefix", "Name"),
];

/// What was left out of listings so far.
#[derive(Debug, Default)]
pub(crate) struct Strange {
    /// Why, by key.
    pub(crate) keys: Mutex<BTreeMap<String, String>>,
    /// Folders that could not be listed, and why.
    pub(crate) closed: Mutex<BTreeMap<String, String>>,
}

impl Strange {
    pub(crate) fn leave_out(&self, key: &str, why: String) {
        note(&self.keys, key, why);
    }

    pub(crate) fn cannot_list(&self, folder: &str, why: String) {
        note(&self.closed, folder, why);
    }
}

fn note(notes: &Mutex<BTreeMap<String, String>>, key: &str, why: String) {
    let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
    if notes.len() < REMEMBERED {
        notes.insert(key.to_owned(), why);
    }
}

/// Why no program of ours can have written under this key, if so.
pub(crate) fn why_strange(key: &str) -> Option<String> {
    match Path::parse(key) {
        Err(error) => Some(error.to_string()),
        Ok(path) if path.as_ref() != key => Some("it begins or ends with a slash".into()),
        // Readers of XML leave it out, and then the key is another one.
        Ok(_) if key.trim() != key => Some("it begins or ends with a space".into()),
        Ok(_) => None,
    }
}

/// A page of a listing without the entries whose keys are strange; `left_out` is told of each.
pub(crate) fn sieve<'a>(page: &'a str, mut left_out: impl FnMut(&str, String)) -> Cow<'a, str> {
    let mut page = Cow::Borrowed(page);
    for (entry, name) in ENTRIES {
        if let Some(rest) = without(&page, entry, name, &mut left_out) {
            page = Cow::Owned(rest);
        }
    }
    page
}

/// The page without the strange ones among its entries of this kind; none if there are none.
fn without(page: &str, entry: &str, name: &str, left_out: &mut impl FnMut(&str, String)) -> Option<String> {
    let (start, end) = (format!("<{entry}>"), format!("</{entry}>"));
    let (mut kept, mut from, mut at) = (String::new(), 0, 0);
    while let Some((begins, ends)) = span(page, at, &start, &end) {
        at = ends;
        let key = page.get(begins..ends).and_then(|entry| key_of(entry, name))?;
        // A folder ends with a slash.
        let plain = if entry.contains("Prefix") { key.strip_suffix('/').unwrap_or(&key) } else { &key };
        if let Some(why) = why_strange(plain) {
            left_out(&key, why);
            kept.push_str(page.get(from..begins)?);
            from = ends;
        }
    }
    if from == 0 {
        return None;
    }
    kept.push_str(page.get(from..)?);
    Some(kept)
}

/// Where the next piece from `start` to `end`, both included, begins and ends.
fn span(text: &str, at: usize, start: &str, end: &str) -> Option<(usize, usize)> {
    let begins = at.checked_add(text.get(at..)?.find(start)?)?;
    let ends = begins.checked_add(text.get(begins..)?.find(end)?)?.checked_add(end.len())?;
    Some((begins, ends))
}

/// The text of the first element of this name, which may have attributes.
fn key_of<'a>(entry: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let (_, rest) = entry.split_once(&format!("<{name}"))?;
    let (text, _) = rest.split_once('>')?.1.split_once("</")?;
    // What cannot be read is strange: no key of ours needs an entity.
    Some(quick_xml::escape::unescape(text).unwrap_or_else(|_| Cow::Owned(format!("{text}\u{0}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sieved(page: &str) -> (String, Vec<String>) {
        let mut out = Vec::new();
        let kept = sieve(page, |key, _| out.push(key.to_owned())).into_owned();
        (kept, out)
    }

    #[test]
    fn only_what_has_no_name_is_left_out() {
        let entry = |key: &str| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
        let good = ["r/a", "r/a~*%2E?\\", "r/\u{fc} \u{202e}x", "r/&amp;&lt;"].map(entry).concat();
        let odd = [
            "r//a",
            "/r/a",
            "r/a/",
            "r/../a",
            "r/./a",
            "r/a\n",
            "r/&#1;",
            "r/&#xD;x",
            "r/a ",
            "&nbsp;",
            "r/a\u{7f}",
        ];
        let page =
            |inner: &str| format!("<ListBucketResult><Prefix>r//</Prefix>{inner}<X/></ListBucketResult>");
        assert_eq!(sieved(&page(&good)), (page(&good), vec![]));
        let mixed = odd.iter().map(|key| entry(key) + &entry("r/b")).collect::<String>();
        let (kept, out) = sieved(&page(&mixed));
        assert_eq!((kept, out.len()), (page(&entry("r/b").repeat(odd.len())), odd.len()));
    }

    #[test]
    fn every_provider_is_understood() {
        let page = "<CommonPrefixes><Prefix>r/a/</Prefix></CommonPrefixes>\
            <CommonPrefixes><Prefix>r//</Prefix></CommonPrefixes>\
            <Blobs><Blob><Name>a//b</Name></Blob><BlobPrefix><Name>a//</Name></BlobPrefix></Blobs>\
            <Version><Key>a/</Key></Version><DeleteMarker><Key> a</Key></DeleteMarker>";
        let (kept, out) = sieved(page);
        assert_eq!(kept, "<CommonPrefixes><Prefix>r/a/</Prefix></CommonPrefixes><Blobs></Blobs>");
        assert_eq!(out, ["a/", " a", "r//", "a//b", "a//"]);
        for cut in ["<Contents><Key>a//", "<Contents></Contents>", "<Contents><Key>a", "</Contents>"] {
            assert_eq!(sieved(cut), (cut.to_owned(), vec![]));
        }
    }
}
