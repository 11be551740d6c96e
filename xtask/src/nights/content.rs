//! What stands on the disks: documents of four kinds of machines, the same for the same seed.

use crate::dice::Dice;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

impl Dice {
    pub(super) fn text(&mut self, length: usize) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "patient", "ward", "invoice", "meeting", "the", "of", "and", "result", "report", "pressure",
            "visit", "dose", "record", "followup", "history", "on",
        ];
        let mut text = Vec::with_capacity(length + 16);
        while text.len() < length {
            text.extend_from_slice(WORDS[self.below(WORDS.len())].as_bytes());
            text.push(if self.below(12) == 0 { b'\n' } else { b' ' });
        }
        text.truncate(length);
        text
    }
}

/// What a machine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Office,
    Database,
    Mail,
    Images,
}

pub(super) const USES: [(Use, &str); 4] =
    [(Use::Office, "office"), (Use::Database, "database"), (Use::Mail, "mail"), (Use::Images, "images")];

/// Fills a new file system.
pub(super) fn fill(root: &Path, kind: Use, dice: &mut Dice) -> Result<()> {
    programs(root, dice)?;
    let count = match kind {
        Use::Office => 700,
        Use::Database => 120,
        Use::Mail => 1200,
        Use::Images => 90,
    };
    for number in 0..count {
        let folder = root.join(format!("data/{}", number % 12));
        fs::create_dir_all(&folder)?;
        let (name, bytes) = document(kind, number, dice);
        write(&folder.join(name), &bytes)?;
    }
    write(&root.join("var/log/messages"), &dice.text(300_000))
}

/// A document as such a machine has them.
pub(super) fn document(kind: Use, number: usize, dice: &mut Dice) -> (String, Vec<u8>) {
    match kind {
        Use::Office => office(number, dice),
        Use::Database => (format!("{}", 16_384 + number), pages(dice.between(2, 60), dice)),
        Use::Mail => (format!("{number}.eml"), mail(dice)),
        Use::Images => (
            format!("{number}.jpg"),
            headed(b"\xff\xd8\xff\xe0\0\x10JFIF", dice.between(150_000, 900_000), dice),
        ),
    }
}

fn office(number: usize, dice: &mut Dice) -> (String, Vec<u8>) {
    let size = dice.between(5_000, 70_000);
    match number % 10 {
        0..4 => (format!("{number}.docx"), headed(b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0", size, dice)),
        4..6 => (format!("{number}.xlsx"), headed(b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0", size, dice)),
        6..8 => {
            let mut pdf =
                b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n".to_vec();
            while pdf.len() < size {
                pdf.extend_from_slice(b"5 0 obj\n<< /Length 3000 /Filter /FlateDecode >>\nstream\n");
                pdf.extend(dice.bytes(3000));
                pdf.extend_from_slice(b"\nendstream\nendobj\n");
            }
            (format!("{number}.pdf"), pdf)
        }
        8 => {
            let mut old = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec();
            old.resize(512, 0xff);
            old.extend(dice.text(size));
            (format!("{number}.doc"), old)
        }
        _ => (format!("{number}.txt"), dice.text(size / 2)),
    }
}

/// Pages of a database: a head, rows of text from the end on, and room between.
fn pages(count: usize, dice: &mut Dice) -> Vec<u8> {
    let mut file = Vec::with_capacity(count * 8192);
    for _ in 0..count {
        let mut page = vec![0; 8192];
        let rows = dice.between(2000, 7600);
        page[..8].copy_from_slice(&dice.bytes(8));
        page[12..14].copy_from_slice(&200u16.to_le_bytes());
        page[14..16].copy_from_slice(&u16::try_from(8192 - rows).unwrap_or(0).to_le_bytes());
        page[16..20].copy_from_slice(b"\x00\x20\x04\x20");
        let text = dice.text(rows);
        page[8192 - rows..].copy_from_slice(&text);
        file.extend(page);
    }
    file
}

fn mail(dice: &mut Dice) -> Vec<u8> {
    let mut mail = format!("Return-Path: <ward{}@example.org>\nReceived: from mx\nSubject: ", dice.below(90))
        .into_bytes();
    let length = dice.between(1_000, 9_000);
    mail.extend(dice.text(length));
    if dice.below(3) == 0 {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let length = dice.between(5_000, 40_000);
        mail.extend(dice.bytes(length).iter().map(|byte| DIGITS[usize::from(byte & 63)]));
    }
    mail
}

/// Incompressible bytes behind a head.
pub(super) fn headed(head: &[u8], length: usize, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = dice.bytes(length);
    bytes[..head.len()].copy_from_slice(head);
    bytes
}

/// Real programs of this machine: what an upgrade replaces.
fn programs(root: &Path, dice: &mut Dice) -> Result<()> {
    let folder = root.join("usr/bin");
    fs::create_dir_all(&folder)?;
    let mut found: Vec<PathBuf> =
        fs::read_dir("/usr/bin")?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    let mut room = 12 << 20;
    while room > 0 && !found.is_empty() {
        let path = found.swap_remove(dice.below(found.len()));
        let Ok(bytes) = fs::read(&path) else { continue };
        if bytes.len() > 2 << 20 || bytes.is_empty() {
            continue;
        }
        room -= i64::try_from(bytes.len()).unwrap_or(room);
        write(&folder.join(path.file_name().unwrap_or_default()), &bytes)?;
    }
    Ok(())
}

/// All files below a folder, sorted.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
