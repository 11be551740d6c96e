//! What a backup is made of, as typed: `[NAME=]PATH`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sancerre_format::names::Title;
use sancerre_format::outcome::MemberKind;

use crate::exit::Failure;

/// A disk: a path, and a name if one was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskSource {
    pub(crate) name: Option<Title>,
    pub(crate) path: PathBuf,
}

/// A file that goes with the machine; its name is the file's own unless one was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) name: Title,
    pub(crate) path: PathBuf,
}

/// A source with its final name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) name: Title,
    pub(crate) kind: MemberKind,
    /// None for standard input.
    pub(crate) path: Option<PathBuf>,
}

impl FromStr for DiskSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = split(text);
        let path = not_empty(path)?;
        Ok(Self { name, path })
    }
}

impl FromStr for Attachment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = split(text);
        let path = not_empty(path)?;
        let own = || path.file_name().and_then(|name| Title::typed(name.to_str()?).ok());
        let name = name.or_else(own).ok_or_else(|| {
            format!(
                "the name of {} cannot be used in a snapshot; write NAME={}",
                path.display(),
                path.display()
            )
        })?;
        Ok(Self { name, path })
    }
}

/// A path may hold `=` too: what stands before the first one is a name only if it can be one, and holds no slash.
fn split(text: &str) -> (Option<Title>, &str) {
    let named = text.split_once('=').filter(|(name, _)| !name.contains('/'));
    match named.and_then(|(name, path)| Some((Title::typed(name).ok()?, path))) {
        Some((name, path)) => (Some(name), path),
        None => (None, text),
    }
}

fn not_empty(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() { Err("the path is empty".into()) } else { Ok(Path::new(path).to_owned()) }
}

/// All sources with their names: bare paths are disk0, disk1 … in their order.
///
/// Errors: two of one name.
pub(crate) fn plan(
    disks: &[DiskSource],
    stdin: Option<&Title>,
    attachments: &[Attachment],
) -> Result<Vec<Planned>, Failure> {
    let mut bare = 0_usize..;
    let mut planned = Vec::new();
    for disk in disks {
        let name = match &disk.name {
            Some(name) => name.clone(),
            None => numbered(bare.next().unwrap_or_default())?,
        };
        planned.push(Planned { name, kind: MemberKind::Disk, path: Some(disk.path.clone()) });
    }
    planned.extend(stdin.map(|name| Planned { name: name.clone(), kind: MemberKind::Stream, path: None }));
    planned.extend(attachments.iter().map(|file| Planned {
        name: file.name.clone(),
        kind: MemberKind::File,
        path: Some(file.path.clone()),
    }));
    let mut names = BTreeSet::new();
    match planned.iter().find(|source| !names.insert(&source.name)) {
        Some(twice) => Err(Failure::usage(format!(
            "two sources are named {}; give each its own name, as in data=/dev/vg0/data",
            twice.name
        ))),
        None => Ok(planned),
    }
}

fn numbered(number: usize) -> Result<Title, Failure> {
    Title::new(&format!("disk{number}")).map_err(|error| Failure::usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Title {
        Title::new(text).unwrap()
    }

    fn disk(text: &str) -> DiskSource {
        text.parse().unwrap()
    }

    #[test]
    fn names_and_paths_are_told_apart() {
        let cases = [
            ("/dev/sda", None, "/dev/sda"),
            ("web01.raw", None, "web01.raw"),
            ("disk0=/dev/sda", Some("disk0"), "/dev/sda"),
            ("a=b=c", Some("a"), "b=c"),
            ("/dev/disk/by-id/x=y", None, "/dev/disk/by-id/x=y"),
            ("./a=b", None, "./a=b"),
            ("=b", None, "=b"),
            ("Platte 1=/dev/sdb", Some("Platte 1"), "/dev/sdb"),
            ("u\u{308}ber=/dev/sdc", Some("über"), "/dev/sdc"),
            ("SCSI 0:1=/dev/sdd", Some("SCSI 0:1"), "/dev/sdd"),
        ];
        for (text, expected, path) in cases {
            let parsed = disk(text);
            assert_eq!((parsed.name, parsed.path), (expected.map(name), path.into()), "{text}");
        }
        "".parse::<DiskSource>().unwrap_err();
        "disk0=".parse::<DiskSource>().unwrap_err();
    }

    #[test]
    fn an_attachment_takes_the_name_of_its_file() {
        let parsed: Attachment = "/etc/libvirt/qemu/web01.xml".parse().unwrap();
        assert_eq!(parsed.name, name("web01.xml"));
        let parsed: Attachment = "config=/etc/x y".parse().unwrap();
        assert_eq!((parsed.name, parsed.path), (name("config"), "/etc/x y".into()));
        let parsed: Attachment = "/etc/x y".parse().unwrap();
        assert_eq!(parsed.name, name("x y"));
        assert!("/etc/x ".parse::<Attachment>().unwrap_err().contains("NAME=/etc/x "));
        "/".parse::<Attachment>().unwrap_err();
    }

    #[test]
    fn bare_paths_are_numbered_in_their_order() {
        let disks = [disk("/a"), disk("data=/b"), disk("/c")];
        let planned = plan(&disks, Some(&name("dump")), &["/x.xml".parse().unwrap()]).unwrap();
        let names: Vec<_> = planned.iter().map(|source| (source.name.as_str(), &source.kind)).collect();
        let (disk, stream, file) = (&MemberKind::Disk, &MemberKind::Stream, &MemberKind::File);
        assert_eq!(
            names,
            [("disk0", disk), ("data", disk), ("disk1", disk), ("dump", stream), ("x.xml", file)]
        );
    }

    #[test]
    fn two_sources_of_one_name_are_refused() {
        let failure = plan(&[disk("/a"), disk("disk0=/b")], None, &[]).unwrap_err();
        assert!(failure.message.contains("disk0"), "{}", failure.message);
        plan(&[disk("dump=/a")], Some(&name("dump")), &[]).unwrap_err();
    }
}
