//! What the members of a snapshot are called as files in a directory. Whoever signed the snapshot chose their names.
//!
//! No name leads out of the directory, and no two members have one file: what ends as disks do is a disk, and nothing
//! ends as a file does that is not whole yet. Only a directory that folds case can bring two together.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use sancerre_format::id::Hash;
use sancerre_format::names::Title;
use sancerre_format::outcome::MemberKind;

/// What a file ends in that is not whole yet.
const PARTIAL: &str = ".sancerre-partial";
/// A file name that would be longer is cut; with all that is put behind it, it stays within 255.
const BYTES_MAX: usize = 200;
const CUT_BYTES: usize = 160;
/// Digits of the hash behind a name that was cut.
const CUT_DIGITS: usize = 16;

/// The file of a member: its name, with what a file name cannot hold everywhere as `%` and two hex digits. `disk` is what
/// the files of disks end in, with its dot; no other file does.
pub(crate) fn of(name: &Title, kind: &MemberKind, disk: &str) -> String {
    let is_disk = *kind == MemberKind::Disk;
    let text = name.as_str();
    let dot = text.rfind('.').filter(|_| !is_disk).filter(|dot| {
        let end = text.get(*dot..).unwrap_or_default();
        end == "." || [disk, PARTIAL].iter().any(|taken| end.eq_ignore_ascii_case(taken))
    });
    let piece = |(at, character): (usize, char)| {
        let is_first = at == 0 && matches!(character, '.' | '-');
        match r#"/\:*?"<>|%"#.contains(character) || is_first || Some(at) == dot {
            true => format!("%{:02X}", u32::from(character)),
            false => character.to_string(),
        }
    };
    let mut file: String = text.char_indices().map(piece).collect();
    if file.len() > BYTES_MAX {
        let mut length = 0_usize;
        let fits = |piece: &String| {
            length = length.saturating_add(piece.len());
            length <= CUT_BYTES
        };
        file = text.char_indices().map(piece).take_while(fits).collect();
        let digits: String = Hash::of(text.as_bytes()).to_string().chars().take(CUT_DIGITS).collect();
        file.push_str(&format!("~{digits}"));
    }
    if is_disk { file + disk } else { file }
}

/// Two of `files` that `directory` takes for one, although they differ.
///
/// Errors: those of making a file there to find out.
pub(crate) fn folded<'a>(
    directory: &Path,
    files: &[&'a str],
    token: &str,
) -> io::Result<Option<(&'a str, &'a str)>> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for file in files {
        // Upper case first: some letters are two there.
        match seen.insert(file.to_uppercase().to_lowercase(), file) {
            Some(other) if is_one(directory, other, file, token)? => return Ok(Some((other, file))),
            _ => {}
        }
    }
    Ok(None)
}

/// Whether a file of one name is found under the other; made and removed beside both, with `token` behind the names.
fn is_one(directory: &Path, one: &str, other: &str, token: &str) -> io::Result<bool> {
    let made = directory.join(format!("{one}.{token}"));
    OpenOptions::new().write(true).create_new(true).open(&made)?;
    let found = fs::symlink_metadata(directory.join(format!("{other}.{token}")));
    fs::remove_file(&made)?;
    match found {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str, kind: MemberKind) -> String {
        of(&Title::new(name).unwrap(), &kind, ".raw")
    }

    #[test]
    fn names_stay_as_people_have_them() {
        assert_eq!(file("disk0", MemberKind::Disk), "disk0.raw");
        assert_eq!(file("Büro Server (C)", MemberKind::Disk), "Büro Server (C).raw");
        assert_eq!(file("web01.xml", MemberKind::File), "web01.xml");
        assert_eq!(file("dump.sql", MemberKind::Stream), "dump.sql");
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let cases = [
            ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            ("/etc/passwd", "%2Fetc%2Fpasswd"),
            ("C:\\x", "C%3A%5Cx"),
            (".ssh", "%2Essh"),
            ("-rf", "%2Drf"),
            ("50%", "50%25"),
            ("a*?\"<>|b", "a%2A%3F%22%3C%3E%7Cb"),
            ("a.", "a%2E"),
        ];
        for (name, expected) in cases {
            assert_eq!(file(name, MemberKind::File), expected);
            let path = Path::new("/srv/restored").join(expected);
            assert_eq!(path.parent(), Some(Path::new("/srv/restored")));
        }
    }

    #[test]
    fn attachments_are_no_disks_and_no_partial_files() {
        let cases = [
            ("disk0.raw", "disk0%2Eraw"),
            ("disk0.RAW", "disk0%2ERAW"),
            ("disk0.raw.sancerre-partial", "disk0.raw%2Esancerre-partial"),
            ("x.Sancerre-Partial", "x%2ESancerre-Partial"),
            ("raw", "raw"),
            ("disk0%2Eraw", "disk0%252Eraw"),
        ];
        for (name, expected) in cases {
            assert_eq!(file(name, MemberKind::File), expected);
            assert_eq!(file(name, MemberKind::Stream), expected);
        }
        assert_eq!(file("disk0.raw", MemberKind::Disk), "disk0.raw.raw");
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let (one, other) = ("ä".repeat(120) + "1", "ä".repeat(120) + "2");
        let (one, other) = (file(&one, MemberKind::Disk), file(&other, MemberKind::Disk));
        assert!(one != other && one.starts_with(&"ä".repeat(80)) && one.ends_with(".raw"), "{one}");
        let longest = file(&":".repeat(255), MemberKind::Disk);
        assert!(longest.len() + PARTIAL.len() <= 255, "{longest}");
    }

    #[test]
    fn a_directory_that_tells_case_apart_takes_both() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(folded(folder.path(), &["A.raw", "b", "a.raw"], "probe").unwrap(), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
        // The same name is the same file everywhere.
        assert_eq!(folded(folder.path(), &["A.raw", "A.raw"], "probe").unwrap(), Some(("A.raw", "A.raw")));
        folded(&folder.path().join("none"), &["A", "a"], "probe").unwrap_err();
    }

    proptest! {
        #[test]
        fn two_members_never_have_one_file(
            one in "[a-c.%/:~ ä]{1,8}(\\.raw|\\.sancerre-partial)?",
            other in "[a-c.%/:~ ä]{1,8}(\\.raw|\\.sancerre-partial)?",
            disks: (bool, bool),
        ) {
            let (Ok(one), Ok(other)) = (Title::typed(&one), Title::typed(&other)) else { return Ok(()) };
            let kind = |is_disk| if is_disk { MemberKind::Disk } else { MemberKind::File };
            let files = (of(&one, &kind(disks.0), ".raw"), of(&other, &kind(disks.1), ".raw"));
            prop_assert_eq!(files.0 == files.1, one == other && disks.0 == disks.1);
            for file in [&files.0, &files.1] {
                prop_assert!(!file.contains('/') && !file.starts_with('.') && file.len() <= 255);
                prop_assert!(!file.ends_with(".sancerre-partial"));
            }
            let partial = |file: &str| format!("{file}.sancerre-partial");
            prop_assert!(partial(&files.0) != files.1 && partial(&files.1) != files.0);
        }
    }
}
