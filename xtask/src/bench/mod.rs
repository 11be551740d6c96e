//! `cargo xtask bench`: this program, restic, and the least work there is, side by side in one run on a fleet.
//!
//! Absolute times belong to one machine and one hour, ratios within a run travel further. All disks are read once
//! before anything is timed, so that every tool finds them in the page cache; whatever writes is timed with a `sync`.
//! Every number is the median of three runs, each into repositories of its own.

mod cost;
pub(crate) mod files;
pub(crate) mod formats;
mod link;
pub(crate) mod live;
mod measured;
mod report;
pub(crate) mod store;
mod tools;

use crate::{fleet, setup, shell};
use anyhow::{Context, Result, ensure};
use report::{Report, Row};
use std::fs;
use std::path::{Path, PathBuf};
use tools::{Opener, Tools};

/// Measures on the fleet in `folder`, which is built when it is not there, and writes `target/bench/DATE.md`.
pub(crate) fn run(folder: &str) -> Result<()> {
    setup::install(setup::BENCH_TOOLS)?;
    let fleet = std::path::absolute(folder).with_context(|| format!("cannot resolve {folder}"))?;
    if !fleet.join("night-0").is_dir() {
        fleet::full(folder, "4")?;
    }
    build()?;
    let out = shell::target_folder().join("bench");
    let nights = nights(&fleet)?;
    let run = |number: usize| {
        println!("bench: run {number} of 3");
        let tools = Tools::prepare(&out.join("work"))?;
        let report = measure(&tools, &nights)?;
        tools.remove()?;
        anyhow::Ok(report)
    };
    let report = Report::median([run(1)?, run(2)?, run(3)?]);
    let text = report.markdown(&fleet)?;
    let file = out.join(format!("{}.md", report::today()?));
    fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{text}\nwritten to {}", file.display());
    Ok(())
}

/// Builds what is measured.
fn build() -> Result<()> {
    shell::run(shell::cargo(&["build", "--release", "--locked", "-p", "sancerre", "-p", "sancerre-benches"]))
}

/// The disks of one night, in order of their names.
struct Night {
    folder: PathBuf,
    disks: Vec<PathBuf>,
}

fn nights(fleet: &Path) -> Result<Vec<Night>> {
    let folders =
        (0..).map(|night| fleet.join(format!("night-{night}"))).take_while(|folder| folder.is_dir());
    let nights = folders.map(open_night).collect::<Result<Vec<_>>>()?;
    ensure!(nights.len() > 1, "bench: {} has no two nights", fleet.display());
    Ok(nights)
}

fn open_night(folder: PathBuf) -> Result<Night> {
    let list = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut disks = list.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    disks.retain(|path| path.extension().is_some_and(|ending| ending == "raw"));
    disks.sort();
    Ok(Night { folder, disks })
}

fn measure(tools: &Tools, nights: &[Night]) -> Result<Report> {
    let (first, later) = nights.split_at(1);
    let last = &nights[nights.len() - 1..];
    tools.write_new_blocks(nights)?; // reads every disk: from here on all of them are cached
    tools.init()?;
    let mut rows = vec![
        backup_row(tools, "first backup", first, &["--quiet"])?,
        backup_row(tools, "nights after", later, &["--quiet"])?,
        backup_row(tools, "re-scan, nothing changed", last, &["--quiet", "--force"])?,
        restore_row(tools, last)?,
    ];
    rows.push(identity_row(tools, last, &rows[3])?);
    rows[0].limit = Some(tools.zstd_new_blocks(0..1)?);
    rows[1].limit = Some(tools.hash(later)? + tools.zstd_new_blocks(1..nights.len())?);
    rows[2].limit = Some(tools.hash(last)?);
    Ok(Report { rows, repository_bytes: tools.repository_bytes()? })
}

fn backup_row(tools: &Tools, name: &'static str, nights: &[Night], restic_options: &[&str]) -> Result<Row> {
    println!("bench: {name}");
    let mut row = Row::new(name, allocated_bytes(nights)?);
    for night in nights {
        row.sancerre = row.sancerre + tools.sancerre_backup(night)?;
        row.restic = row.restic + tools.restic_backup(night, restic_options)?;
    }
    Ok(row)
}

fn restore_row(tools: &Tools, nights: &[Night]) -> Result<Row> {
    println!("bench: restore");
    let mut row = Row::new("restore of all disks", allocated_bytes(nights)?);
    for night in nights {
        row.sancerre = row.sancerre + tools.sancerre_restore(night, Opener::Passphrase)?;
        row.restic = row.restic + tools.restic_restore(night)?;
    }
    Ok(row)
}

/// The same without the work that makes a passphrase hard to guess, beside the same time of restic's.
fn identity_row(tools: &Tools, nights: &[Night], with_passphrase: &Row) -> Result<Row> {
    println!("bench: restore with an identity file");
    let mut row = Row::new("the same with an identity file", allocated_bytes(nights)?);
    for night in nights {
        row.sancerre = row.sancerre + tools.sancerre_restore(night, Opener::Identity)?;
    }
    row.restic = with_passphrase.restic;
    Ok(row)
}

fn allocated_bytes(nights: &[Night]) -> Result<u64> {
    nights.iter().flat_map(|night| &night.disks).map(|disk| shell::allocated_bytes(disk)).sum()
}
