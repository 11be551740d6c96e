//! What the small fleet's users write: documents that repeat from a seed, and the machine's own files.

use crate::dice::Dice;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

const WORDS: [&str; 24] = [
    "patient",
    "ward",
    "bed",
    "record",
    "scan",
    "blood",
    "theatre",
    "duty",
    "visit",
    "discharge",
    "dose",
    "morning",
    "evening",
    "followup",
    "surgery",
    "cardiology",
    "paediatrics",
    "laboratory",
    "result",
    "invoice",
    "allergy",
    "history",
    "pressure",
    "pulse",
];

impl Dice {
    fn clinical_text(&mut self, length_bytes: usize) -> Vec<u8> {
        let mut text = String::with_capacity(length_bytes + 16);
        while text.len() < length_bytes {
            text.push_str(WORDS[self.below(WORDS.len())]);
            if self.below(3) == 0 {
                text.push_str(&self.below(1000).to_string());
            }
            text.push(if self.below(12) == 0 { '\n' } else { ' ' });
        }
        text.truncate(length_bytes);
        text.into_bytes()
    }
}

/// A file of a guest: its path there, and its bytes.
pub(super) struct Document {
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
}

/// A document of 1 to 400 KB, three of five text, the others as dense as scans and packed spreadsheets are.
pub(super) fn document(random: &mut Dice, folder: &str) -> Document {
    let length_bytes = 1000 + random.below(20_000) * (1 + random.below(20));
    let is_text = random.below(5) < 3;
    let bytes = if is_text { random.clinical_text(length_bytes) } else { random.bytes(length_bytes) };
    let ending = if is_text { "txt" } else { "pdf" };
    let (ward, subject) = (WORDS[random.below(WORDS.len())], WORDS[random.below(WORDS.len())]);
    Document { path: format!("{folder}/{ward}/{subject}-{:08x}.{ending}", random.below(1 << 32)), bytes }
}

/// Lines as a web server logs them.
pub(super) fn log(random: &mut Dice, lines: usize) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..lines {
        let (host, page, size) = (random.below(255), random.below(5000), random.below(90_000));
        let word = WORDS[random.below(WORDS.len())];
        text.push_str(&format!("192.0.2.{host} - - \"GET /{word}/{page} HTTP/1.1\" 200 {size}\n"));
    }
    text.into_bytes()
}

/// Regular files of the machine's own system below `folder`, in order of their names, up to `budget_bytes` in all.
pub(super) fn system_files(folder: &Path, budget_bytes: u64) -> Result<Vec<PathBuf>> {
    let mut chosen = Vec::new();
    let mut left = budget_bytes;
    let mut open = vec![folder.to_path_buf()];
    while let Some(path) = open.pop() {
        let kind = fs::symlink_metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if kind.is_dir() {
            open.extend(sorted(&path)?.into_iter().rev());
        } else if kind.is_file() && kind.len() <= left {
            left -= kind.len();
            chosen.push(path);
        }
    }
    Ok(chosen)
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = list.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
