//! What running a program cost, as GNU time saw it.

use crate::shell;
use anyhow::{Context, Result};
use std::ops::Add;
use std::path::Path;
use std::process::Command;

/// Of one program, or of several one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// By the clock on the wall.
    pub(super) seconds: f64,
    /// On all cores, user and system together.
    pub(super) cpu_seconds: f64,
    /// Largest resident set.
    pub(super) peak_kib: u64,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            peak_kib: self.peak_kib.max(other.peak_kib),
        }
    }
}

impl Cost {
    /// Each quantity's own median.
    pub(super) fn median(costs: [Self; 3]) -> Self {
        let middle = |quantity: fn(&Self) -> f64| {
            let mut values = costs.each_ref().map(quantity);
            values.sort_by(f64::total_cmp);
            values[1]
        };
        let mut peaks = costs.map(|cost| cost.peak_kib);
        peaks.sort_unstable();
        Self {
            seconds: middle(|cost| cost.seconds),
            cpu_seconds: middle(|cost| cost.cpu_seconds),
            peak_kib: peaks[1],
        }
    }
}

/// Runs `command` under GNU time, which writes into the folder `work`. Environment and folder are kept.
pub(super) fn timed(command: &Command, work: &Path) -> Result<Cost> {
    let file = work.join("time");
    let mut timed = shell::command("/usr/bin/time", &["-f", "%e %U %S %M", "-o"]);
    timed.arg(&file).arg(command.get_program()).args(command.get_args());
    timed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    timed.current_dir(command.get_current_dir().unwrap_or(work));
    timed.stdout(std::process::Stdio::null());
    shell::run(timed)?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&text).with_context(|| format!("GNU time wrote `{}`", text.trim()))
}

fn parse(text: &str) -> Option<Cost> {
    let mut words = text.lines().last()?.split_whitespace();
    let mut number = || words.next()?.parse::<f64>().ok();
    let (seconds, user, system) = (number()?, number()?, number()?);
    let peak_kib = words.next()?.parse().ok()?;
    Some(Cost { seconds, cpu_seconds: user + system, peak_kib })
}

#[cfg(test)]
mod tests {
    use super::{Cost, parse};

    #[test]
    fn reads_the_line_of_gnu_time_and_adds_costs() {
        let cost = parse("1.50 2.00 0.25 1024\n").unwrap();
        assert_eq!(cost, Cost { seconds: 1.5, cpu_seconds: 2.25, peak_kib: 1024 });
        let sum = cost + Cost { seconds: 1.0, cpu_seconds: 1.0, peak_kib: 512 };
        assert_eq!(sum, Cost { seconds: 2.5, cpu_seconds: 3.25, peak_kib: 1024 });
        assert_eq!(parse("Command exited\n"), None);
    }

    #[test]
    fn the_median_of_each_quantity_is_taken_alone() {
        let cost = |seconds, cpu_seconds, peak_kib| Cost { seconds, cpu_seconds, peak_kib };
        let costs = [cost(3.0, 1.0, 20), cost(1.0, 2.0, 30), cost(2.0, 9.0, 10)];
        assert_eq!(Cost::median(costs), cost(2.0, 2.0, 20));
    }
}
