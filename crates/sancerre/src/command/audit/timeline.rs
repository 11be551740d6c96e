//! A machine's backups along time, as a drawing inside the page.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::RangeInclusive;

use sancerre_engine::audit::{Fate, MachineAudit, Run};
use sancerre_format::id::SessionId;

use super::html::escape;
use super::summary::fate;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 24.0;
/// Room for the marks at both ends.
const MARGIN: f64 = 7.0;
const RADIUS: f64 = 4.5;

/// The seconds from the first backup to now.
pub(super) type Span = RangeInclusive<i64>;

/// Draws the backups of a machine; `harmed` are the snapshots that lost something.
pub(super) fn draw(machine: &MachineAudit, span: &Span, harmed: &BTreeSet<SessionId>) -> String {
    let middle = HEIGHT / 2.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Backups of {}\">\
         <line class=\"axis\" x1=\"0\" y1=\"{middle}\" x2=\"{WIDTH}\" y2=\"{middle}\"/>",
        escape(machine.vm.as_str())
    );
    for run in &machine.runs {
        let is_harmed = harmed.contains(&run.session);
        let _ = write!(
            svg,
            "<g transform=\"translate({:.1} {middle})\"><title>{}</title>{}</g>",
            place(run.started.unix_seconds(), span),
            escape(&told(run, is_harmed)),
            mark(run.fate, is_harmed)
        );
    }
    svg + "</svg>"
}

fn told(run: &Run, is_harmed: bool) -> String {
    let id = run.session.short();
    let harmed = if is_harmed { ", lost or damaged" } else { "" };
    let suspect =
        run.suspected_by.map_or_else(String::new, |entry| format!(", suspect by log entry {entry}"));
    format!(
        "{} {}, session {}, {id}, by {}{suspect}{harmed}",
        run.started,
        fate(run.fate),
        run.session.number,
        run.writer
    )
}

/// A mark whose shape tells what its colour does, for print and for eyes that see no red.
pub(super) fn mark(fate: Fate, is_harmed: bool) -> String {
    let cross = |class: &str| format!("<path class=\"{class}\" d=\"M-4-4 4 4M-4 4 4-4\"/>");
    match fate {
        _ if is_harmed => "<path class=\"harmed\" d=\"M0-6 6 5H-6Z\"/>".to_owned(),
        Fate::Saved => circle("saved", RADIUS),
        Fate::Fuzzy => circle("fuzzy", RADIUS - 1.0),
        Fate::Partial => "<path class=\"partial\" d=\"M-5 0A5 5 0 0 1 5 0Z\"/>".to_owned(),
        Fate::Forgotten => circle("forgotten", RADIUS - 1.5),
        Fate::Open => circle("open", RADIUS - 1.0),
        Fate::Aborted => cross("aborted"),
        Fate::Void => "<path class=\"void\" d=\"M0-6 6 0 0 6-6 0Z\"/>".to_owned(),
    }
}

fn circle(class: &str, radius: f64) -> String {
    format!("<circle class=\"{class}\" r=\"{radius}\"/>")
}

/// Where a moment lies; what is dated outside the span lies at its edge.
fn place(seconds: i64, span: &Span) -> f64 {
    let (first, last) = (*span.start(), *span.end());
    let length = last.saturating_sub(first).max(1) as f64;
    let from = seconds.clamp(first, last.max(first)).saturating_sub(first) as f64;
    MARGIN + from / length * (WIDTH - 2.0 * MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_lie_inside_the_drawing() {
        let span = 1000..=2000;
        assert_eq!(place(1000, &span), MARGIN);
        assert_eq!(place(1500, &span), WIDTH / 2.0);
        assert_eq!(place(2000, &span), WIDTH - MARGIN);
        assert_eq!(place(i64::MAX, &span), WIDTH - MARGIN, "dated in the future");
        assert_eq!(place(i64::MIN, &span), MARGIN);
        assert_eq!(place(5, &(5..=5)), MARGIN);
    }
}
