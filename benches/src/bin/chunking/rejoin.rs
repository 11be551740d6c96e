//! How far behind a changed block the old cuts return, on random data, where only the PRF and the sizes cut.

use std::ops::Range;

use crate::rules::{self, Rule};

const DATA_BYTES: usize = 16 << 20;
const TRIALS: usize = 200;

/// Prints the mean and the worst distance of each block-aligned rule.
pub(crate) fn print_table(wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    println!("\n| rule | rejoins after, mean KiB | worst of {TRIALS} |\n|---|---|---|");
    for (name, rule) in rules::all()? {
        let level_or_size = name.contains("level") || name.contains("/512");
        if !matches!(rule, Rule::Blocks(_)) || !level_or_size || !wanted(&name) {
            continue;
        }
        let distances: Vec<usize> = (0..TRIALS).map(|trial| distance(&rule, trial)).collect();
        let mean = distances.iter().sum::<usize>() / TRIALS;
        println!("| {name} | {} | {} |", mean >> 10, distances.iter().max().unwrap_or(&0) >> 10);
    }
    Ok(())
}

fn distance(rule: &Rule, trial: usize) -> usize {
    let mut data = vec![0; DATA_BYTES];
    blake3::Hasher::new().update(&trial.to_le_bytes()).finalize_xof().fill(&mut data);
    let old = ends(rule, &data);
    // Where an old cut was, so that the change moves it: the interesting case.
    let dirty = old[old.len() / 4] - 4096;
    blake3::Hasher::new().update(b"changed").finalize_xof().fill(&mut data[dirty..dirty + 4096]);
    let new = ends(rule, &data);
    let rejoined = new.iter().find(|end| **end > dirty + 4096 && old.binary_search(end).is_ok());
    rejoined.map_or(DATA_BYTES, |end| end - dirty - 4096)
}

fn ends(rule: &Rule, data: &[u8]) -> Vec<usize> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    rule.cut(data, &mut ranges);
    ranges.into_iter().map(|range| range.end).collect()
}
