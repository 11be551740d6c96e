//! `[NAME=]PATH` as the shell hands it over: the name is text, the path any bytes that a file system takes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use sancerre_format::names::Title;

use crate::plain;
use crate::sources::{Attachment, DiskSource};

/// Reads a disk.
pub(crate) fn disk() -> ValueParser {
    parser(DiskSource::from_str, |name, path| Ok(DiskSource { name, path }))
}

/// Reads an attached file.
pub(crate) fn attachment() -> ValueParser {
    parser(Attachment::from_str, |name, path| {
        let shown = plain::path(&path);
        let name = name.ok_or_else(|| {
            format!("the name of {shown} is not text in UTF-8; write NAME= before the path, to say what to call it")
        })?;
        Ok(Attachment { name, path })
    })
}

/// Reads a location, which is text.
pub(crate) fn location() -> ValueParser {
    OsStringValueParser::new()
        .try_map(|given| {
            let refuse = |given: OsString| {
                let shown = plain::path(&PathBuf::from(given));
                format!("{shown} is not text in UTF-8; make a symbolic link to that folder, and give the link's path")
            };
            given.into_string().map_err(refuse)
        })
        .into()
}

fn parser<T: Clone + Send + Sync + 'static>(
    text: fn(&str) -> Result<T, String>,
    bytes: fn(Option<Title>, PathBuf) -> Result<T, String>,
) -> ValueParser {
    OsStringValueParser::new()
        .try_map(move |given| match given.to_str() {
            Some(given) => text(given),
            None => {
                let (name, path) = split(&given);
                bytes(name, path)
            }
        })
        .into()
}

/// As for text: what stands before the first `=` is a name only if it can be one, and holds no slash.
fn split(given: &OsStr) -> (Option<Title>, PathBuf) {
    let given = given.as_bytes();
    let mut parts = given.splitn(2, |byte| *byte == b'=');
    let named = parts.next().zip(parts.next()).and_then(|(name, path)| {
        let name = std::str::from_utf8(name).ok().filter(|name| !name.contains('/'))?;
        Some((Title::typed(name).ok()?, path))
    });
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    match named {
        Some((name, bytes)) => (Some(name), path(bytes)),
        None => (None, path(given)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_be_any_bytes_and_a_name_is_text() {
        let cases: [(&[u8], Option<&str>, &[u8]); 4] = [
            (b"disk0=b\xe4ckup.raw", Some("disk0"), b"b\xe4ckup.raw"),
            (b"b\xe4ckup.raw", None, b"b\xe4ckup.raw"),
            (b"b\xe4=x", None, b"b\xe4=x"),
            (b"/srv/a=b/\xe4", None, b"/srv/a=b/\xe4"),
        ];
        for (given, name, path) in cases {
            let (found, at) = split(OsStr::from_bytes(given));
            assert_eq!(found.as_ref().map(Title::as_str), name);
            assert_eq!(at.as_os_str().as_bytes(), path);
        }
    }
}
