//! The confusion table.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Nights by verdict: normal, unusual, suspect.
type Counts = [u32; 3];

/// Verdicts by what happened, and on which file system and machine.
#[derive(Default)]
pub(super) struct Table {
    rows: BTreeMap<(bool, String, String), Counts>,
    machines: BTreeMap<(bool, String), Counts>,
}

impl Table {
    pub(super) fn add(&mut self, machine: &str, (kind, share): (&str, &str), verdict: &str) {
        let is_attack = share != "honest";
        let column = ["normal", "unusual", "suspect"].iter().position(|word| *word == verdict).unwrap_or(0);
        self.rows.entry((is_attack, kind.to_owned(), share.to_owned())).or_default()[column] += 1;
        self.machines.entry((is_attack, machine.to_owned())).or_default()[column] += 1;
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::from(
            "| what happened | documents | normal | unusual | suspect |\n|---|---|---|---|---|\n",
        );
        for ((_, kind, share), counts) in &self.rows {
            let [normal, unusual, suspect] = counts;
            writeln!(text, "| {kind} | {share} | {normal} | {unusual} | {suspect} |")?;
        }
        text.push_str("\n| machine | nights | normal | unusual | suspect |\n|---|---|---|---|---|\n");
        for ((is_attack, machine), [normal, unusual, suspect]) in &self.machines {
            let nights = if *is_attack { "attacked" } else { "honest" };
            writeln!(text, "| {machine} | {nights} | {normal} | {unusual} | {suspect} |")?;
        }
        print!("{text}");
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
