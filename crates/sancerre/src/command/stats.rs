//! `stats`: what the repository holds, and for whom.

use std::time::Instant;

use sancerre_engine::stats::{self, SizeClass, Stats};
use serde_json::{Value, json};

use super::{Context, ended};
use crate::access::Access;
use crate::exit::{Done, Exit, Failure};
use crate::output::{Align, table};
use crate::progress::Work;
use crate::repository;
use crate::units::{count, seconds, size};

const COLUMNS: [(&str, Align); 6] = [
    ("vm", Align::Left),
    ("snapshots", Align::Right),
    ("size", Align::Right),
    ("data", Align::Right),
    ("needs", Align::Right),
    ("alone", Align::Right),
];

/// The longest bar of the histogram.
const BAR_COLUMNS: u64 = 40;

pub(crate) async fn run(context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let repository = repository::open(context, Access::Metadata).await?;
    let (monitor, watched) = context.watched(Work::Stats)?;
    let stats = stats::stats(&repository, &monitor).await?;
    drop(watched);
    for unread in &stats.unread {
        context.output.warning(&format!("{unread}; not counted, see `sancerre check`"));
    }
    context.output.result(&text(&stats))?;
    let exit = if stats.unread.is_empty() { Exit::Done } else { Exit::NotAsAsked };
    let mut summary = summary(&stats);
    summary.push(("duration_seconds", json!(seconds(started.elapsed()))));
    Ok(ended(exit, summary))
}

fn text(stats: &Stats) -> String {
    let mut text = table(&COLUMNS, &rows(stats));
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    let used = stats.packed_bytes.saturating_add(stats.maps_bytes);
    let lines = [
        ("data of all snapshots", size(stats.data_bytes())),
        (
            "stored once",
            format!("{}, deduplicated {}x", size(stats.unique_bytes), ratio(stats.dedup_ratio())),
        ),
        ("compressed", format!("{}, {}x", size(stats.packed_bytes), ratio(stats.compression_ratio()))),
        ("maps", size(stats.maps_bytes)),
        ("packs in the store", size(stats.stored_bytes)),
        ("needed of them", size(used)),
        (
            "garbage",
            format!("{}, {}%", size(stats.garbage_bytes), percent(stats.garbage_bytes, stats.stored_bytes)),
        ),
    ];
    let dead = ("writes that died", size(stats.leftover_bytes));
    let lines = lines.into_iter().chain((stats.leftover_bytes > 0).then_some(dead));
    text.push('\n');
    for (what, value) in lines {
        text.push_str(&format!("{what:<22} {value}\n"));
    }
    text.push_str(&histogram(stats));
    text
}

fn rows(stats: &Stats) -> Vec<Vec<String>> {
    let row = |machine: &stats::MachineStats| {
        vec![
            machine.vm.to_string(),
            machine.snapshots.to_string(),
            size(machine.size_bytes),
            size(machine.data_bytes),
            size(machine.needed_bytes),
            size(machine.exclusive_bytes),
        ]
    };
    stats.machines.iter().map(row).collect()
}

/// Chunks by size: a line for each class, its bar as long as its share of the bytes.
fn histogram(stats: &Stats) -> String {
    let chunks = stats.chunks.iter().fold(0, |sum: u64, class| sum.saturating_add(class.chunks));
    let mut text = format!("\n{} of data, by size\n", count(chunks, "chunk"));
    for (number, class) in stats.chunks.iter().enumerate() {
        let label = match SizeClass::up_to_bytes(number) {
            Some(most) => format!("up to {}", size(most)),
            None => "larger".to_owned(),
        };
        let bar = share(class.bytes, stats.unique_bytes, BAR_COLUMNS);
        let bar = "#".repeat(usize::try_from(bar).unwrap_or_default());
        text.push_str(&format!("{label:<14} {:>9} {:>10}  {bar}\n", class.chunks, size(class.bytes)));
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn percent(part: u64, whole: u64) -> u64 {
    share(part, whole, 100)
}

/// `part` of `whole`, in `of` parts, to the nearest.
fn share(part: u64, whole: u64, of: u64) -> u64 {
    let (part, whole, of) = (u128::from(part), u128::from(whole.max(1)), u128::from(of));
    u64::try_from((part * of * 2 + whole) / (whole * 2)).unwrap_or(u64::MAX)
}

fn summary(stats: &Stats) -> Vec<(&'static str, Value)> {
    let machine = |machine: &stats::MachineStats| {
        json!({
            "vm": machine.vm.to_string(),
            "snapshots": machine.snapshots,
            "size_bytes": machine.size_bytes,
            "data_bytes": machine.data_bytes,
            "needed_bytes": machine.needed_bytes,
            "exclusive_bytes": machine.exclusive_bytes,
        })
    };
    let class = |(number, class): (usize, &SizeClass)| json!({ "up_to_bytes": SizeClass::up_to_bytes(number), "chunks": class.chunks, "bytes": class.bytes });
    vec![
        ("machines", stats.machines.iter().map(machine).collect()),
        ("data_bytes", json!(stats.data_bytes())),
        ("unique_bytes", json!(stats.unique_bytes)),
        ("packed_bytes", json!(stats.packed_bytes)),
        ("maps_bytes", json!(stats.maps_bytes)),
        ("stored_bytes", json!(stats.stored_bytes)),
        ("garbage_bytes", json!(stats.garbage_bytes)),
        ("leftover_bytes", json!(stats.leftover_bytes)),
        ("dedup_ratio", json!(stats.dedup_ratio())),
        ("compression_ratio", json!(stats.compression_ratio())),
        ("chunk_sizes", stats.chunks.iter().enumerate().map(class).collect()),
        ("unread", json!(stats.unread)),
    ]
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_are_rounded() {
        assert_eq!((share(1, 3, 100), share(2, 3, 100), share(0, 0, 100)), (33, 67, 0));
        assert_eq!(share(u64::MAX, u64::MAX, 40), 40);
    }
}
