//! The result as a page of Markdown.

use super::cost::Cost;
use crate::shell;
use anyhow::Result;
use std::fmt::Write;
use std::path::Path;

/// One kind of work, done by both programs.
pub(super) struct Row {
    name: &'static str,
    /// Allocated bytes of the disks that were read or written.
    bytes: u64,
    pub(super) sancerre: Cost,
    pub(super) restic: Cost,
    /// The least work that would do, where there is one.
    pub(super) limit: Option<Cost>,
}

impl Row {
    pub(super) fn new(name: &'static str, bytes: u64) -> Self {
        Self { name, bytes, sancerre: Cost::default(), restic: Cost::default(), limit: None }
    }

    fn median(runs: [&Self; 3]) -> Self {
        let limits = runs.map(|row| row.limit);
        let limit = match limits {
            [Some(first), Some(second), Some(third)] => Some(Cost::median([first, second, third])),
            _ => None,
        };
        let (sancerre, restic) = (runs.map(|row| row.sancerre), runs.map(|row| row.restic));
        let [Self { name, bytes, .. }, ..] = runs;
        Self { name, bytes: *bytes, sancerre: Cost::median(sancerre), restic: Cost::median(restic), limit }
    }
}

/// Everything that one run measured.
pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    /// Of sancerre and restic, after all nights.
    pub(super) repository_bytes: [u64; 2],
}

impl Report {
    /// Of three runs over the same disks.
    pub(super) fn median(runs: [Self; 3]) -> Self {
        let [first, ..] = &runs;
        let bytes = first.repository_bytes;
        let rows = (0..first.rows.len()).map(|row| Row::median(runs.each_ref().map(|run| &run.rows[row])));
        Self { rows: rows.collect(), repository_bytes: bytes }
    }

    /// The page: what ran where, then the tables.
    pub(super) fn markdown(&self, fleet: &Path) -> Result<String> {
        let mut page = heading(fleet)?;
        page.push_str(&self.tables());
        Ok(page)
    }

    fn tables(&self) -> String {
        let mut text = String::from(
            "| | MiB | sancerre s (MiB/s) | restic s (MiB/s) | times restic | limit s | of the limit |\n\
             |---|--:|--:|--:|--:|--:|--:|\n",
        );
        for row in &self.rows {
            text.push_str(&time_line(row));
        }
        text.push_str("\n| | sancerre | restic | ratio |\n|---|--:|--:|--:|\n");
        let [ours, theirs] = self.repository_bytes.map(mib);
        text.push_str(&format!("| repository, MiB | {ours:.0} | {theirs:.0} | {:.2} |\n", ours / theirs));
        for row in &self.rows {
            text.push_str(&resource_lines(row));
        }
        text.push_str(LEGEND);
        text
    }
}

/// What ran where.
pub(super) fn heading(fleet: &Path) -> Result<String> {
    let mut page = format!("# Benchmark of {}\n\n", today()?);
    let fleet = fleet.file_name().unwrap_or_default().to_string_lossy();
    writeln!(page, "- commit {}", first_line("git", &["describe", "--always", "--dirty"])?)?;
    writeln!(page, "- {} cores, {}", first_line("nproc", &[])?, processor())?;
    writeln!(page, "- {}; {}", first_line("restic", &["version"])?, first_line("zstd", &["--version"])?)?;
    writeln!(page, "- fleet `{fleet}`; warm page cache; whatever writes is timed with its sync\n")?;
    Ok(page)
}

const LEGEND: &str = "\n\
    Limits. First backup: `zstd -3 -T0` over the 4 KiB blocks that are new. Nights after: reading and hashing all data \
    (BLAKE3, two threads), then the same zstd. Re-scan: reading and hashing. restic re-scans with `--force`, because a \
    running guest's disk always has a new time of change. MiB are allocated bytes of the disks.\n\
    Each number is the median of three runs.\n";

fn time_line(row: &Row) -> String {
    let (ours, theirs) = (row.sancerre.seconds, row.restic.seconds);
    let speed = |seconds: f64| format!("{seconds:.1} ({:.0})", mib(row.bytes) / seconds);
    let (limit, share) = row.limit.map_or(("–".to_owned(), "–".to_owned()), |limit| {
        (format!("{:.1}", limit.seconds), format!("{:.2}", limit.seconds / ours))
    });
    let (name, bytes) = (row.name, mib(row.bytes));
    format!(
        "| {name} | {bytes:.0} | {} | {} | {:.1} | {limit} | {share} |\n",
        speed(ours),
        speed(theirs),
        theirs / ours
    )
}

fn resource_lines(row: &Row) -> String {
    let line = |what: &str, ours: f64, theirs: f64| {
        format!("| {}: {what} | {ours:.1} | {theirs:.1} | {:.2} |\n", row.name, ours / theirs)
    };
    let peak = |cost: Cost| mib(cost.peak_kib * 1024);
    line("CPU s", row.sancerre.cpu_seconds, row.restic.cpu_seconds)
        + &line("peak memory, MiB", peak(row.sancerre), peak(row.restic))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The date, as `YYYY-MM-DD`.
pub(super) fn today() -> Result<String> {
    first_line("date", &["--utc", "+%F"])
}

fn first_line(program: &str, arguments: &[&str]) -> Result<String> {
    let text = shell::output(shell::command(program, arguments))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown processor").to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Report, Row};
    use crate::bench::cost::Cost;

    #[test]
    fn ratios_say_how_much_faster_and_how_close_to_the_limit() {
        let cost = |seconds, peak_kib| Cost { seconds, cpu_seconds: seconds, peak_kib };
        let row = Row {
            sancerre: cost(2.0, 1024),
            restic: cost(8.0, 4096),
            limit: Some(cost(1.5, 0)),
            ..Row::new("first backup", 100 << 20)
        };
        let text = Report { rows: vec![row], repository_bytes: [50 << 20, 100 << 20] }.tables();
        assert!(text.contains("| first backup | 100 | 2.0 (50) | 8.0 (12) | 4.0 | 1.5 | 0.75 |"), "{text}");
        assert!(text.contains("| repository, MiB | 50 | 100 | 0.50 |"), "{text}");
        assert!(text.contains("| first backup: peak memory, MiB | 1.0 | 4.0 | 0.25 |"), "{text}");
    }
}
