//! What of a disk could not be read when it was backed up, in words and in JSON.

use sancerre_engine::Error;
use sancerre_format::outcome::Member;
use serde_json::{Value, json};

use crate::command::Context;
use crate::exit::Failure;
use crate::units::size;

/// Ranges named one by one; a disk that dies may have thousands. JSON has all.
const TOLD: usize = 20;

/// Warns of what is missing from a member, followed by `what` that means; true when nothing is.
pub(crate) fn tell(context: &Context, member: &Member, what: &str) -> Result<bool, Failure> {
    let unreadable = member.unreadable().map_err(Error::from)?;
    if unreadable.is_empty() {
        return Ok(true);
    }
    let ranges = unreadable.ranges();
    let told: Vec<String> =
        ranges.iter().take(TOLD).map(|range| format!("{}..{}", range.start, range.end)).collect();
    let more = match ranges.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(" and {more} more ranges (--json has all)"),
    };
    context.output.warning(&format!(
        "{}: bytes {}{more} {what}: {} in all",
        member.name,
        told.join(", "),
        size(unreadable.bytes())
    ));
    Ok(false)
}

/// The ranges, for JSON.
pub(crate) fn json(member: &Member) -> Value {
    // invariant: whoever read or made the member has parsed them
    let unreadable = member.unreadable().unwrap_or_default();
    let range = |range: &std::ops::Range<u64>| json!({ "offset": range.start, "length": range.end.saturating_sub(range.start) });
    json!(unreadable.ranges().iter().map(range).collect::<Vec<_>>())
}
