//! `cargo xtask ci`: every check, the quick ones first; the first that fails stops the run with its exit code.

use crate::{deny, shell, tidy};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

type Action = fn() -> Result<Counts>;

const STEPS: &[(&str, Action)] = &[
    ("fmt", || plain(&["fmt", "--all", "--check"])),
    ("tidy", || tidy::run(tidy::Mode::Check).map(|()| Counts::default())),
    ("deny", || deny::run().map(|()| Counts::default())),
    ("clippy", || plain(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])),
    ("doc", documentation),
    ("doctests", doctests),
    ("tests", tests),
];

/// Tests by outcome. A failed test ends the run before it is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    skipped: usize,
}

struct Done {
    name: &'static str,
    took: Duration,
}

/// Runs all steps, then prints a line for each and the number of tests.
pub(crate) fn run() -> Result<()> {
    let mut done = Vec::new();
    let mut total = Counts::default();
    for (name, action) in STEPS {
        println!("== {name}");
        let started = Instant::now();
        let outcome = action();
        done.push(Done { name, took: started.elapsed() });
        let counts =
            outcome.inspect_err(|_| summary(&done, true)).with_context(|| format!("ci: step {name}"))?;
        total.passed += counts.passed;
        total.skipped += counts.skipped;
    }
    summary(&done, false);
    ensure!(total.passed > 0, "ci: no test ran");
    println!("{} passed, 0 failed, {} skipped", total.passed, total.skipped);
    Ok(())
}

fn summary(done: &[Done], last_failed: bool) {
    println!("== summary");
    for (index, step) in done.iter().enumerate() {
        let failed = last_failed && index + 1 == done.len();
        let verdict = if failed { "FAILED" } else { "ok" };
        println!("{:10} {:>7.1} s  {verdict}", step.name, step.took.as_secs_f64());
    }
    let all: Duration = done.iter().map(|step| step.took).sum();
    println!("{:10} {:>7.1} s", "in all", all.as_secs_f64());
}

fn plain(arguments: &[&str]) -> Result<Counts> {
    shell::run(shell::cargo(arguments)).map(|()| Counts::default())
}

fn documentation() -> Result<Counts> {
    let mut command =
        shell::cargo(&["doc", "--workspace", "--no-deps", "--document-private-items", "--locked", "--quiet"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    shell::run(command).map(|()| Counts::default())
}

fn doctests() -> Result<Counts> {
    let text = shell::tee(shell::cargo(&["test", "--workspace", "--doc", "--locked", "--quiet"]))?;
    Ok(count(&text))
}

/// Comes last, so that a run closes on the lines of a test runner.
fn tests() -> Result<Counts> {
    // Half of what the tests take is waiting: for servers, for guests, for locks to end.
    let threads = (std::thread::available_parallelism()?.get() * 2).to_string();
    let arguments: &[&str] = if shell::is_installed("cargo-nextest") {
        &["nextest", "run", "--workspace", "--locked", "--no-tests", "pass", "--test-threads", &threads]
    } else {
        &["test", "--workspace", "--lib", "--bins", "--tests", "--locked", "--no-fail-fast"]
    };
    let mut command = shell::cargo(arguments);
    command.env("CARGO_TERM_COLOR", "never").env("NO_COLOR", "1");
    Ok(count(&shell::tee(command)?))
}

/// Sums the closing lines of nextest and of Rust's own test runner.
fn count(text: &str) -> Counts {
    let mut total = Counts::default();
    for line in text.lines().map(str::trim) {
        let is_closing = line.starts_with("Summary [") || line.starts_with("test result:");
        if is_closing {
            total.passed += number_before(line, "passed");
            total.skipped += number_before(line, "skipped") + number_before(line, "ignored");
        }
    }
    total
}

/// The number in front of the word `label`, 0 if there is none.
fn number_before(line: &str, label: &str) -> usize {
    let words: Vec<&str> = line.split_whitespace().collect();
    let pair = words.windows(2).find(|pair| pair[1].trim_matches(|c: char| !c.is_alphabetic()) == label);
    pair.and_then(|pair| pair[0].trim_start_matches('(').parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Counts, count};

    #[test]
    fn counts_the_closing_lines_of_both_runners() {
        let nextest = "     Summary [   0.011s] 7 tests run: 6 passed (1 slow), 1 failed, 3 skipped\n";
        assert_eq!(count(nextest), Counts { passed: 6, skipped: 3 });
        let cargo = "test result: ok. 4 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out\n\
                     test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(count(cargo), Counts { passed: 9, skipped: 2 });
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(count("restored 12 passed 3\n"), Counts::default());
    }
}
