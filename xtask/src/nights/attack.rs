//! What attackers do to documents, over a mounted file system.

use crate::dice::Dice;
use anyhow::Result;
use std::fs;
use std::path::PathBuf;

/// How a document is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// All of it, where it stands.
    Whole,
    /// Its first 4 KiB.
    Head,
    /// 4 KiB of every 16.
    Dots,
    /// So many bytes of so many.
    Stripes(usize, usize),
    /// A MiB of every ten.
    Megabytes,
    /// A new file is written, and the old one deleted.
    Replace {
        /// And its blocks are discarded.
        trim: bool,
    },
}

pub(super) const MODES: [(Mode, &str); 8] = [
    (Mode::Whole, "whole file"),
    (Mode::Head, "first 4 KiB"),
    (Mode::Dots, "25 % dots"),
    (Mode::Stripes(64, 192), "64 of 192"),
    (Mode::Stripes(16, 32), "16 of 32"),
    (Mode::Megabytes, "1 MiB of every 10"),
    (Mode::Replace { trim: false }, "new file, delete"),
    (Mode::Replace { trim: true }, "new file, delete, TRIM"),
];

/// Some of the documents: so many in a thousand, at least one.
pub(super) fn chosen(mut documents: Vec<PathBuf>, per_mille: usize, dice: &mut Dice) -> Vec<PathBuf> {
    let wanted = (documents.len() * per_mille).div_ceil(1000);
    let mut chosen = Vec::with_capacity(wanted);
    while chosen.len() < wanted {
        chosen.push(documents.swap_remove(dice.below(documents.len())));
    }
    chosen
}

/// Encrypts documents.
pub(super) fn attack(documents: &[PathBuf], mode: Mode, dice: &mut Dice) -> Result<()> {
    for path in documents {
        let mut bytes = fs::read(path)?;
        let noise = dice.bytes(bytes.len());
        for (at, (byte, noise)) in bytes.iter_mut().zip(noise).enumerate() {
            if is_hit(mode, at) {
                *byte ^= noise;
            }
        }
        match mode {
            Mode::Replace { .. } => {
                fs::write(path.with_extension("locked"), &bytes)?;
                fs::remove_file(path)?;
            }
            // Opened and written over, as attackers do: the file keeps its blocks.
            _ => {
                use std::os::unix::fs::FileExt;
                fs::OpenOptions::new().write(true).open(path)?.write_all_at(&bytes, 0)?;
            }
        }
    }
    Ok(())
}

fn is_hit(mode: Mode, at: usize) -> bool {
    match mode {
        Mode::Whole | Mode::Replace { .. } => true,
        Mode::Head => at < 4096,
        Mode::Dots => at % 16_384 < 4096,
        Mode::Stripes(dark, of) => at % of < dark,
        Mode::Megabytes => at % (10 << 20) < 1 << 20,
    }
}
