//! `cargo xtask bench store`: backup and restore to one S3 server, near and far, beside restic.
//!
//! Both programs go through the same line, which counts their requests: once as fast as loopback is, once with 30 ms to
//! the first byte of each answer and 85 MB/s for each connection. Each saves all disks of a night as one snapshot, in one
//! process, and restores that.

use super::cost::Cost;
use super::link::{Counts, Line, Link};
use super::tools::{Places, Tools};
use super::{Night, allocated_bytes, build, nights, report};
use crate::{fleet, setup, shell};
use anyhow::{Context, Result};
use sancerre_services::seaweedfs::{self, Bucket};
use std::fs;
use std::path::Path;
use std::time::Duration;

const LINES: [(&str, Line); 2] = [
    ("loopback", Line { latency: Duration::ZERO, stream_bytes_per_second: 1e12 }),
    ("30 ms, 85 MB/s a stream", Line { latency: Duration::from_millis(30), stream_bytes_per_second: 85e6 }),
];

/// Measures with the first two nights of the fleet in `folder`, and writes `target/bench/store-DATE.md`.
pub(crate) fn run(folder: &str) -> Result<()> {
    setup::install(setup::BENCH_TOOLS)?;
    setup::run()?;
    let fleet = std::path::absolute(folder).with_context(|| format!("cannot resolve {folder}"))?;
    if !fleet.join("night-0").is_dir() {
        fleet::full(folder, "2")?;
    }
    build()?;
    let nights = nights(&fleet)?;
    let out = shell::target_folder().join("bench");
    let mut text = report::heading(&fleet)?;
    for (name, line) in LINES {
        text.push_str(&table(name, &measure(&out.join("work"), name, line, &nights)?));
    }
    let file = out.join(format!("store-{}.md", report::today()?));
    fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{text}\nwritten to {}", file.display());
    Ok(())
}

/// What one program needed for one kind of work.
#[derive(Clone, Copy, Default)]
struct Measured {
    cost: Cost,
    counts: Counts,
}

/// One kind of work, done by both programs.
struct Row {
    name: &'static str,
    /// Allocated bytes of the disks that were read or written.
    bytes: u64,
    sancerre: Measured,
    restic: Measured,
}

fn measure(work: &Path, name: &str, line: Line, nights: &[Night]) -> Result<Vec<Row>> {
    let server = seaweedfs().context("the S3 server is not installed; `cargo xtask setup` does")?;
    let link = Link::open(server.port(), line)?;
    let endpoint = format!("http://127.0.0.1:{}", link.port());
    let bucket = server.bucket(Bucket::Plain)?;
    let places = Places {
        sancerre: format!("s3://{bucket}/sancerre"),
        restic: format!("s3:{endpoint}/{bucket}/restic"),
        variables: seaweedfs::variables(&endpoint, seaweedfs::ADMIN),
    };
    let tools = Tools::at(work, places)?;
    tools.init()?;
    let counted = |run: &dyn Fn() -> Result<Cost>| {
        link.take_counts();
        Ok::<_, anyhow::Error>(Measured { cost: run()?, counts: link.take_counts() })
    };
    let (first, second) = (&nights[0], &nights[1]);
    let mut rows = Vec::new();
    for (work, night) in [("first backup", first), ("the night after", second)] {
        println!("bench: {name}: {work}");
        rows.push(Row {
            name: work,
            bytes: allocated_bytes(std::slice::from_ref(night))?,
            sancerre: counted(&|| tools.sancerre_backup_together(night))?,
            restic: counted(&|| tools.restic_backup(night, &["--quiet"]))?,
        });
    }
    println!("bench: {name}: restore");
    rows.push(Row {
        name: "restore of all disks",
        bytes: allocated_bytes(std::slice::from_ref(second))?,
        sancerre: counted(&|| tools.sancerre_restore_together(second))?,
        restic: counted(&|| tools.restic_restore(second))?,
    });
    tools.remove()?;
    Ok(rows)
}

fn seaweedfs() -> Option<&'static seaweedfs::Seaweedfs> {
    sancerre_services::seaweedfs()
}

fn table(name: &str, rows: &[Row]) -> String {
    let mut text = format!(
        "\n{name}\n\n\
         | | MiB | sancerre s | restic s | times restic | requests, sancerre | restic | share | per GiB | restic | \
         MiB moved | restic | peak MiB | restic |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    rows.iter().for_each(|row| text.push_str(&line(row)));
    text
}

fn line(row: &Row) -> String {
    let (ours, theirs) = (row.sancerre, row.restic);
    let gib = row.bytes as f64 / f64::from(1 << 30);
    let requests = |of: Measured| of.counts.requests() as f64;
    let (moved, peak) = (
        |of: Measured| of.counts.bytes as f64 / f64::from(1 << 20),
        |of: Measured| of.cost.peak_kib as f64 / 1024.0,
    );
    format!(
        "| {} | {:.0} | {:.1} | {:.1} | {:.1} | {} | {} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |\n",
        row.name,
        gib * 1024.0,
        ours.cost.seconds,
        theirs.cost.seconds,
        theirs.cost.seconds / ours.cost.seconds,
        requests(ours),
        requests(theirs),
        requests(ours) / requests(theirs),
        requests(ours) / gib,
        requests(theirs) / gib,
        moved(ours),
        moved(theirs),
        peak(ours),
        peak(theirs),
    )
}

#[cfg(test)]
mod tests {
    use super::{Measured, Row, table};
    use crate::bench::cost::Cost;
    use crate::bench::link::Counts;

    #[test]
    fn ratios_are_of_time_and_of_requests() {
        let measured = |seconds, reads| Measured {
            cost: Cost { seconds, cpu_seconds: seconds, peak_kib: 2048 },
            counts: Counts { reads, writes: 1, others: 1, bytes: 5 << 20 },
        };
        let row =
            Row { name: "restore", bytes: 2 << 30, sancerre: measured(2.0, 8), restic: measured(6.0, 38) };
        let text = table("far", &[row]);
        let wanted = "| restore | 2048 | 2.0 | 6.0 | 3.0 | 10 | 40 | 0.25 | 5 | 20 | 5 | 5 | 2 | 2 |";
        assert!(text.contains(wanted), "{text}");
    }
}
