//! Printed means run: the commands of README.md and of docs/*.md, as they stand there, in order, in a folder of its own for each
//! page, with the built program; and what a page shows as their output is what they print. What stands for something else in a
//! page, and what cannot run here, is said at one place: `printed/words.rs`. What is there before a page begins: `printed/before`.
//!
//! `SANCERRE_BLESS=1` writes what was printed into the pages, where it differs.

use crate::printed::blocks::{self, Kind};
use crate::printed::{page_text, pages, run, words};

/// A test for each page that has commands, and the list of them.
macro_rules! pages {
    ($($name:ident: $page:literal,)*) => {
        const RUN: &[&str] = &[$($page),*];
        $(#[test]
        fn $name() {
            run($page);
        })*
    };
}

pages! {
    the_readme_runs_as_printed: "README.md",
    the_audit_by_hand_runs_as_printed: "docs/AUDIT.md",
    what_an_auditor_types_runs_as_printed: "docs/AUDITOR.md",
    copying_a_repository_runs_as_printed: "docs/COPY.md",
    a_restore_drill_runs_as_printed: "docs/DRILL.md",
    what_brings_files_back_runs_as_printed: "docs/FILES.md",
    what_changes_formats_runs_as_printed: "docs/FORMATS.md",
    hosts_that_come_and_go_run_as_printed: "docs/HOSTS.md",
    an_installation_runs_as_printed: "docs/INSTALL.md",
    monitoring_runs_as_printed: "docs/MONITORING.md",
    nights_to_a_bucket_run_as_printed: "docs/NIGHTLY-BUCKET.md",
    nights_to_a_folder_run_as_printed: "docs/NIGHTLY-FOLDER.md",
    retention_runs_as_printed: "docs/RETENTION.md",
    the_units_of_the_schedule_are_good: "docs/SCHEDULE.md",
    what_is_measured_for_sizing_runs_as_printed: "docs/SIZING.md",
    trouble_looks_as_printed: "docs/TROUBLESHOOTING.md",
    the_worst_day_runs_as_printed: "docs/WORST-DAY.md",
}

/// Nothing is passed over without a word: a block is run, or says what it needs, or is no command.
#[test]
fn every_block_of_every_page_says_what_it_is() {
    let mut problems = Vec::new();
    let (mut run, mut not_run) = (0, Vec::new());
    for page in pages() {
        let text = page_text(&page);
        for block in blocks::of(&text) {
            match block.kind() {
                Err(problem) => problems.push(format!("{page}:{}: {problem}", block.line)),
                Ok(Kind::Text) => {}
                Ok(Kind::NotHere(word)) => {
                    not_run.push(format!("{page}:{} ({word}: {})", block.line, words::need(word)));
                }
                Ok(_) if RUN.contains(&page.as_str()) => run += 1,
                Ok(_) => {
                    problems.push(format!("{page}:{}: no test runs this page: add it to RUN", block.line));
                }
            }
        }
        problems.extend(blocks::indented_commands(&text).iter().map(|line| {
            format!("{page}:{line}: a command that is indented runs nowhere: put it between ``` lines")
        }));
    }
    eprintln!("{run} blocks run, {} do not:\n  {}", not_run.len(), not_run.join("\n  "));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A link to a page that is not there helps nobody at night.
#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let folder = crate::printed::root().join(&page).parent().unwrap().to_owned();
        for (line, target) in blocks::links(&page_text(&page)) {
            if !folder.join(&target).exists() {
                broken.push(format!("{page}:{line}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
