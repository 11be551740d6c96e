//! `cargo xtask bench store`: backup and restore to one S3 server, near and far, beside restic, and rustic where it is
//! installed (`cargo install rustic-rs`).
//!
//! All programs go through the same line, which counts their requests: once as fast as loopback is, once with 30 ms to
//! the first byte of each answer and 85 MB/s for each connection. Each saves all disks of a night as one snapshot, in one
//! process, and restores that.

use super::cost::Cost;
use super::link::{Counts, FAR, Line, Link};
use super::tools::{Places, Program, Tools};
use super::{Night, allocated_bytes, build, nights, report};
use crate::{fleet, setup, shell};
use anyhow::{Context, Result};
use sancerre_services::seaweedfs::{self, Bucket};
use std::fs;
use std::path::Path;
use std::time::Duration;

const LINES: [(&str, Line); 2] = [
    ("loopback", Line { latency: Duration::ZERO, stream_bytes_per_second: 1e12 }),
    ("30 ms, 85 MB/s a stream", FAR),
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

/// One kind of work, done by all programs, ours first.
struct Row {
    name: &'static str,
    /// Allocated bytes of the disks that were read or written.
    bytes: u64,
    measured: Vec<(Program, Measured)>,
}

fn measure(work: &Path, name: &str, line: Line, nights: &[Night]) -> Result<Vec<Row>> {
    let server =
        sancerre_services::seaweedfs().context("the S3 server is not installed; `cargo xtask setup` does")?;
    let link = Link::open(server.port(), line)?;
    let endpoint = format!("http://127.0.0.1:{}", link.port());
    let bucket = server.bucket(Bucket::Plain)?;
    let places = Places {
        sancerre: format!("s3://{bucket}/sancerre"),
        restic: format!("s3:{endpoint}/{bucket}/restic"),
        variables: seaweedfs::variables(&endpoint, seaweedfs::ADMIN),
    };
    let (programs, tools) = (Program::installed(), Tools::at(work, places)?);
    tools.init()?;
    if programs.contains(&Program::Rustic) {
        tools.init_rustic(&endpoint, &bucket)?;
    }
    let row = |name, night: &Night, run: &dyn Fn(Program) -> Result<Cost>| {
        let measured = programs.iter().map(|program| {
            link.take_counts();
            let cost = run(*program)?;
            Ok((*program, Measured { cost, counts: link.take_counts() }))
        });
        let bytes = allocated_bytes(std::slice::from_ref(night))?;
        Ok::<_, anyhow::Error>(Row { name, bytes, measured: measured.collect::<Result<_>>()? })
    };
    let (first, second) = (&nights[0], &nights[1]);
    let mut rows = Vec::new();
    for (work, night) in [("first backup", first), ("the night after", second)] {
        println!("bench: {name}: {work}");
        rows.push(row(work, night, &|program| match program {
            Program::Sancerre => tools.sancerre_backup_together(night),
            Program::Restic => tools.restic_backup(night, &["--quiet"]),
            Program::Rustic => tools.rustic_backup(night),
        })?);
    }
    println!("bench: {name}: restore");
    rows.push(row("restore", second, &|program| match program {
        Program::Sancerre => tools.sancerre_restore_together(second),
        Program::Restic => tools.restic_restore(second),
        Program::Rustic => tools.rustic_restore(second),
    })?);
    tools.remove()?;
    Ok(rows)
}

fn table(name: &str, rows: &[Row]) -> String {
    let mut text = format!(
        "\n{name}\n\n\
         | | MiB | program | s | our speed, times theirs | requests | our share of theirs | per GiB | MiB moved | peak MiB |\n\
         |---|--:|---|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for row in rows {
        let ours = row.measured.first().map(|(_, ours)| *ours).unwrap_or_default();
        row.measured.iter().for_each(|(program, theirs)| text.push_str(&line(row, *program, ours, *theirs)));
    }
    text
}

fn line(row: &Row, program: Program, ours: Measured, theirs: Measured) -> String {
    let gib = row.bytes as f64 / f64::from(1 << 30);
    let requests = |of: Measured| of.counts.requests() as f64;
    format!(
        "| {} | {:.0} | {} | {:.1} | {:.1} | {} | {:.2} | {:.0} | {:.0} | {:.0} |\n",
        row.name,
        gib * 1024.0,
        program.name(),
        theirs.cost.seconds,
        theirs.cost.seconds / ours.cost.seconds,
        requests(theirs),
        requests(ours) / requests(theirs),
        requests(theirs) / gib,
        theirs.counts.bytes as f64 / f64::from(1 << 20),
        theirs.cost.peak_kib as f64 / 1024.0,
    )
}

#[cfg(test)]
mod tests {
    use super::{Measured, Row, table};
    use crate::bench::cost::Cost;
    use crate::bench::link::Counts;
    use crate::bench::tools::Program;

    #[test]
    fn ratios_are_of_time_and_of_requests() {
        let measured = |seconds, reads| Measured {
            cost: Cost { seconds, cpu_seconds: seconds, peak_kib: 2048 },
            counts: Counts { reads, writes: 1, others: 1, bytes: 5 << 20 },
        };
        let measured = vec![(Program::Sancerre, measured(2.0, 8)), (Program::Restic, measured(6.0, 38))];
        let text = table("far", &[Row { name: "restore", bytes: 2 << 30, measured }]);
        for wanted in [
            "| restore | 2048 | sancerre | 2.0 | 1.0 | 10 | 1.00 | 5 | 5 | 2 |",
            "| restore | 2048 | restic | 6.0 | 3.0 | 40 | 0.25 | 20 | 5 | 2 |",
        ] {
            assert!(text.contains(wanted), "{text}");
        }
    }
}
