//! What happens on a machine on nights on which nobody attacks it.

use super::content::{Use, document, files, headed, write};
use crate::dice::Dice;
use anyhow::Result;
use std::fs;
use std::io::Write;
use std::path::Path;

/// The kinds of nights, by what happens besides everyday work. Encryption of the whole disk is another matter.
pub(super) const KINDS: [&str; 11] = [
    "upgrade",
    "defragmentation",
    "reindex",
    "new archive",
    "media import",
    "clone of a folder",
    "log rotation",
    "mail compaction",
    "antivirus update",
    "restore of files",
    "container images",
];

/// Everyday work: some documents are saved anew, some come and some go.
pub(super) fn everyday(root: &Path, kind: Use, night: usize, dice: &mut Dice) -> Result<()> {
    let data = root.join("data");
    let all = files(&data)?;
    for number in 0..all.len().div_ceil(100) {
        let path = &all[dice.below(all.len())];
        if !path.exists() {
            continue;
        }
        if kind == Use::Database {
            rewrite_pages(path, dice)?;
            continue;
        }
        // As office programs do: a new file, which takes the old one's name.
        let (_, bytes) = document(kind, dice.below(10), dice);
        let new = path.with_extension(format!("tmp{number}"));
        write(&new, &bytes)?;
        fs::rename(&new, path)?;
    }
    for number in 0..4 {
        let (name, bytes) = document(kind, number + dice.below(9), dice);
        write(&data.join(format!("{}/n{night}-{number}-{name}", dice.below(12))), &bytes)?;
    }
    for _ in 0..3 {
        let _ = fs::remove_file(&all[dice.below(all.len())]);
    }
    let mut log = fs::OpenOptions::new().append(true).create(true).open(root.join("var/log/messages"))?;
    log.write_all(&dice.text(60_000))?;
    Ok(())
}

fn rewrite_pages(path: &Path, dice: &mut Dice) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let (_, fresh) = document(Use::Database, 0, dice);
    let length = fs::metadata(path)?.len() / 8192 * 8192;
    let fresh = &fresh[..fresh.len().min(usize::try_from(length)?)];
    fs::OpenOptions::new().write(true).open(path)?.write_all_at(fresh, 0)?;
    Ok(())
}

/// What else happens on a night of this kind.
pub(super) fn happen(root: &Path, what: &str, kind: Use, night: usize, dice: &mut Dice) -> Result<()> {
    let all = files(&root.join("data"))?;
    match what {
        "upgrade" => {
            for path in files(&root.join("usr"))? {
                if dice.below(3) == 0 {
                    let mut bytes = fs::read(&path)?;
                    let from = dice.below(bytes.len());
                    let to = bytes.len().min(from + bytes.len() / 4);
                    bytes[from..to].reverse();
                    let new = path.with_extension("dpkg-new");
                    write(&new, &bytes)?;
                    fs::rename(&new, &path)?;
                }
            }
            write(
                &root.join(format!("var/cache/{night}.deb")),
                &headed(b"!<arch>\ndebian-binary   ", 900_000, dice),
            )
        }
        "defragmentation" => {
            for path in some(&all, 5, dice) {
                let new = path.with_extension("defrag");
                fs::copy(&path, &new)?;
                fs::rename(&new, &path)?;
            }
            Ok(())
        }
        "reindex" => {
            let (_, index) = (0..6).fold((String::new(), Vec::new()), |(_, mut all), _| {
                let (name, pages) = document(Use::Database, 0, dice);
                all.extend(pages);
                (name, all)
            });
            write(&root.join("data/index"), &index)?;
            if kind == Use::Database {
                all.iter().take(30).try_for_each(|path| rewrite_pages(path, dice))?;
            }
            Ok(())
        }
        "new archive" => {
            let size = dice.between(2 << 20, 6 << 20);
            write(&root.join(format!("archive/{night}.zip")), &headed(b"PK\x03\x04\x14\0", size, dice))
        }
        _ => happen_elsewhere(root, what, &all, night, dice),
    }
}

/// One of so many.
fn some(all: &[std::path::PathBuf], share: usize, dice: &mut Dice) -> Vec<std::path::PathBuf> {
    all.iter().filter(|_| dice.below(share) == 0).cloned().collect()
}

/// The same for what does not touch the documents.
fn happen_elsewhere(
    root: &Path,
    what: &str,
    all: &[std::path::PathBuf],
    night: usize,
    dice: &mut Dice,
) -> Result<()> {
    match what {
        "media import" => (0..8).try_for_each(|number| {
            let size = dice.between(200_000, 1_500_000);
            let (name, head): (_, &[u8]) = match number % 3 {
                0 => ("mp4", b"\0\0\0\x20ftypisom"),
                1 => ("jpg", b"\xff\xd8\xff\xe1"),
                _ => ("mkv", b"\x1a\x45\xdf\xa3"),
            };
            write(&root.join(format!("media/{night}-{number}.{name}")), &headed(head, size, dice))
        }),
        "clone of a folder" => {
            let _ = fs::remove_dir_all(root.join("clone"));
            all.iter()
                .take(all.len() / 10)
                .enumerate()
                .try_for_each(|(number, path)| write(&root.join(format!("clone/{number}")), &fs::read(path)?))
        }
        "log rotation" => {
            let log = root.join("var/log/messages");
            let size = usize::try_from(fs::metadata(&log)?.len())? / 4;
            write(
                &root.join(format!("var/log/messages.{night}.gz")),
                &headed(b"\x1f\x8b\x08\0", size, dice),
            )?;
            write(&log, &dice.text(10_000))
        }
        "mail compaction" => {
            let mut mailbox = Vec::new();
            (0..400).for_each(|number| mailbox.extend(document(Use::Mail, number, dice).1));
            mailbox.splice(0..0, b"From MAILER-DAEMON\n".iter().copied());
            write(&root.join("mail/inbox.new"), &mailbox)?;
            fs::rename(root.join("mail/inbox.new"), root.join("mail/inbox"))?;
            Ok(())
        }
        "antivirus update" => {
            // A head of its own that nobody knows, and compressed behind it.
            let size = dice.between(5 << 19, 7 << 19);
            let mut base = headed(b"ClamAV-VDB:29 Nov 2026:27000:2060000", size, dice);
            base[40..512].fill(b' ');
            write(&root.join("var/lib/daily.new"), &base)?;
            fs::rename(root.join("var/lib/daily.new"), root.join("var/lib/daily.cvd"))?;
            Ok(())
        }
        "restore of files" => some(all, 10, dice).iter().try_for_each(|path| {
            let bytes = fs::read(path)?;
            fs::remove_file(path)?;
            write(path, &bytes)
        }),
        _ => (0..3).try_for_each(|number| {
            let size = dice.between(500_000, 2 << 20);
            let path = root.join(format!("containers/{}", dice.below(6) * 10 + number));
            let _ = fs::remove_file(&path);
            write(&path, &headed(b"\x1f\x8b\x08\0", size, dice))
        }),
    }
}

/// Makes room as an administrator would: old archives, media and packages go.
pub(super) fn tidy_up(root: &Path, night: usize) -> Result<()> {
    for folder in ["archive", "media", "var/cache", "var/log"] {
        for path in files(&root.join(folder))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let digits: String = name.chars().filter(char::is_ascii_digit).take(3).collect();
            let first = name.split(['-', '.']).find_map(|word| word.parse::<usize>().ok());
            if first.is_some_and(|made| made + 6 < night) && !digits.is_empty() {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}
