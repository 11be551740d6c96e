//! The verdict on a night, in words and in JSON.

use sancerre_engine::suspicion::stored::{SeenNight, seen};
use sancerre_engine::suspicion::{self, Sign, Suspicion};
use sancerre_format::outcome::Member;
use serde_json::{Value, json};

use crate::command::Context;

/// Says what is not normal of a disk that was saved.
pub(crate) fn tell(context: &Context, member: &Member) {
    let Some(night) = seen(member) else { return };
    let Some(why) = suspicion::why(&night.judgement, &night.counts) else { return };
    let advice = suspicion::advice(night.judgement.verdict).unwrap_or_default();
    let text = format!("{} is {}: {why}; {advice}", member.name, night.judgement.verdict);
    match night.judgement.verdict {
        Suspicion::Suspect => context.output.warning(&text),
        _ => context.output.message(&text),
    }
}

/// The verdict on a member, for JSON; null without statistics.
pub(crate) fn of_member(member: &Member) -> Value {
    json!(seen(member).as_ref().map(json))
}

/// A night, for JSON.
pub(crate) fn json(night: &SeenNight) -> Value {
    let counts = &night.counts;
    json!({
        "verdict": night.judgement.verdict.word(),
        "first": night.is_first,
        "signs": night.judgement.signs.iter().map(|sign| Sign::word(*sign)).collect::<Vec<_>>(),
        "why": suspicion::why(&night.judgement, counts),
        "data_blocks": counts.data,
        "changed_blocks": counts.changed,
        "random_blocks": counts.random,
        "new_bytes": counts.new_bytes,
        "compressed_bytes": counts.coded_bytes,
        "files": counts.files,
        "files_before": counts.files_before,
        "lost_files": counts.lost,
        "covered_files": counts.covered,
        "vanished_files": counts.vanished,
        "headless_files": counts.headless,
        "pages_before": counts.pages_before,
        "lost_pages": counts.pages_lost,
    })
}
