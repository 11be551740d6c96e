//! `cargo xtask nights`: attacks and honest nights over real file systems, and what the backups of these nights say.
//!
//! For every file system and every kind of machine: a disk, some honest nights, then each attack on a copy of it. The honest
//! nights go on for as long as was asked for. All verdicts are in `OUT/nights.tsv`, the table of them in `OUT/nights.md`.

mod attack;
mod content;
mod disk;
mod honest;
mod table;

use crate::dice::Dice;
use crate::{setup, shell};
use anyhow::{Context, Result, ensure};
use attack::{MODES, Mode};
use content::{USES, Use};
use disk::{Backups, Image, Night, SYSTEMS, System};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use table::Table;

/// Honest nights before the first attack.
const NIGHTS_BEFORE: usize = 8;
/// Documents that are hit, in a thousand.
const SHARES: [(usize, &str); 3] = [(1000, "all"), (50, "5 %"), (10, "1 %")];

/// What is to be done.
pub(crate) struct Options {
    /// Where everything is put.
    pub(crate) out: PathBuf,
    /// Honest nights of each machine.
    pub(crate) nights: usize,
    /// Other numbers, other nights.
    pub(crate) seed: u64,
    /// The program; built without one.
    pub(crate) program: Option<PathBuf>,
    /// Only machines whose name has this in it.
    pub(crate) only: Option<String>,
}

/// Reads the words of the command line.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let usage = "usage: cargo xtask nights OUT [--nights N] [--seed S] [--binary FILE] [--only WORD]";
    let (out, rest) = words.split_first().context(usage)?;
    let mut options =
        Options { out: std::path::absolute(out)?, nights: 30, seed: 1, program: None, only: None };
    for pair in rest.chunks(2) {
        match pair {
            ["--nights", number] => options.nights = number.parse().context(usage)?,
            ["--seed", number] => options.seed = number.parse().context(usage)?,
            ["--binary", file] => options.program = Some(std::path::absolute(file)?),
            ["--only", word] => options.only = Some((*word).to_owned()),
            _ => anyhow::bail!(usage),
        }
    }
    nights(&options)
}

fn nights(options: &Options) -> Result<()> {
    setup::install(setup::NIGHTS_TOOLS)?;
    ensure!(setup::is_root()?, "nights: loop devices and mounts need root");
    ensure!(
        options.nights >= NIGHTS_BEFORE,
        "nights: a machine needs {NIGHTS_BEFORE} nights before an attack"
    );
    std::fs::create_dir_all(&options.out)?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => {
            shell::run(shell::cargo(&["build", "--release", "-p", "sancerre", "--locked"]))?;
            shell::target_folder().join("release/sancerre")
        }
    };
    let mut report = Report::new(&options.out)?;
    for (system, system_name) in SYSTEMS {
        for (kind, kind_name) in USES {
            let name = format!("{system_name}-{kind_name}");
            if options.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
                machine(&mut report, options, &program, system, (kind, &name))?;
            }
        }
    }
    report.table.write(&options.out.join("nights.md"))
}

/// Where verdicts go.
struct Report {
    lines: File,
    table: Table,
}

impl Report {
    fn new(out: &Path) -> Result<Self> {
        Ok(Self { lines: File::create(out.join("nights.tsv"))?, table: Table::default() })
    }

    fn add(&mut self, machine: &str, what: (&str, &str), night: &Night) -> Result<()> {
        let (kind, share) = what;
        let Night { verdict, signs, lost, numbers } = night;
        println!("{machine:14} {kind:24} {share:5} {verdict:8} {signs} (lost {lost})");
        writeln!(self.lines, "{machine}\t{kind}\t{share}\t{verdict}\t{signs}\t{numbers}")?;
        self.table.add(machine, what, verdict);
        Ok(())
    }
}

fn machine(
    report: &mut Report,
    options: &Options,
    program: &Path,
    system: System,
    (kind, name): (Use, &str),
) -> Result<()> {
    let folder = options.out.join(name);
    let _ = std::fs::remove_dir_all(&folder);
    let backups = Backups::new(program, folder.clone())?;
    let image = Image::format(folder.join("disk.raw"), system)?;
    let mut dice = Dice::new(options.seed, name);
    let mounted = image.mount()?;
    content::fill(&mounted.root, kind, &mut dice)?;
    mounted.end()?;
    backups.back_up(&image, false)?;
    for night in 1..=options.nights {
        let what = honest::KINDS[dice.below(honest::KINDS.len())];
        let is_plain = night % 3 == 0;
        let mounted = image.mount()?;
        honest::everyday(&mounted.root, kind, night, &mut dice)?;
        if !is_plain {
            honest::happen(&mounted.root, what, kind, night, &mut dice)?;
        }
        honest::tidy_up(&mounted.root, night)?;
        mounted.end()?;
        let seen = backups.back_up(&image, false)?;
        report.add(name, (if is_plain { "everyday work" } else { what }, "honest"), &seen)?;
        if night == NIGHTS_BEFORE {
            attacks(report, &backups, &image, name, &mut dice)?;
        }
    }
    drop(backups);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Each attack on a copy of the disk as it is now.
fn attacks(report: &mut Report, backups: &Backups, image: &Image, name: &str, dice: &mut Dice) -> Result<()> {
    for (mode, mode_name) in MODES {
        for (per_mille, share) in SHARES {
            let copy = image.copy(image.path.with_file_name("attacked.raw"))?;
            if hit(&copy, mode, per_mille, dice)? {
                report.add(name, (mode_name, share), &backups.back_up(&copy, true)?)?;
            }
        }
    }
    slow(report, backups, image, name, dice)?;
    encrypted(report, backups, image, name, dice)
}

/// False where the file system cannot discard.
fn hit(image: &Image, mode: Mode, per_mille: usize, dice: &mut Dice) -> Result<bool> {
    let mounted = image.mount()?;
    let documents = attack::chosen(content::files(&mounted.root.join("data"))?, per_mille, dice);
    let is_trimmed = match mode {
        // What was free before is discarded first, so that only this night's deletions vanish.
        Mode::Replace { trim: true } => mounted.trim()?,
        _ => true,
    };
    attack::attack(&documents, mode, dice)?;
    let is_trimmed = is_trimmed && (!matches!(mode, Mode::Replace { trim: true }) || mounted.trim()?);
    mounted.end()?;
    Ok(is_trimmed)
}

/// One document in a hundred each night, for three nights: the worst verdict counts.
fn slow(report: &mut Report, backups: &Backups, image: &Image, name: &str, dice: &mut Dice) -> Result<()> {
    let folder = backups.beside("slow");
    let _ = std::fs::remove_dir_all(&folder);
    let mine = backups.copy(folder.clone())?;
    let copy = image.copy(image.path.with_file_name("attacked.raw"))?;
    let mut worst: Option<Night> = None;
    for _ in 0..3 {
        hit(&copy, Mode::Whole, 10, dice)?;
        let night = mine.back_up(&copy, false)?;
        let rank =
            |night: &Night| ["normal", "unusual", "suspect"].iter().position(|word| *word == night.verdict);
        if worst.as_ref().is_none_or(|worst| rank(worst) < rank(&night)) {
            worst = Some(night);
        }
    }
    std::fs::remove_dir_all(folder)?;
    worst.map_or(Ok(()), |worst| report.add(name, ("whole file, three nights", "1 %"), &worst))
}

/// Encryption of the whole disk is switched on.
fn encrypted(
    report: &mut Report,
    backups: &Backups,
    image: &Image,
    name: &str,
    dice: &mut Dice,
) -> Result<()> {
    let copy = image.copy(image.path.with_file_name("attacked.raw"))?;
    let file = File::options().write(true).open(&copy.path)?;
    let length = file.metadata()?.len();
    let mut writer = std::io::BufWriter::new(file);
    writer.write_all(b"LUKS\xba\xbe\0\x02")?;
    writer.write_all(&vec![0; 4088])?;
    let mut at = 4096;
    while at < length {
        writer.write_all(&dice.bytes(1 << 20)[..usize::try_from((length - at).min(1 << 20))?])?;
        at += 1 << 20;
    }
    writer.into_inner()?.sync_all()?;
    report.add(name, ("encryption switched on", "disk"), &backups.back_up(&copy, true)?)
}
