//! The verdict on a night, in words and in JSON.

use sancerre_engine::lock::clean::CleanLocks;
use sancerre_engine::suspicion::stored::{SeenNight, seen};
use sancerre_engine::suspicion::{self, Sign, Suspicion};
use sancerre_format::outcome::Member;
use serde_json::{Value, json};

use crate::command::Context;
use crate::units::count;

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

/// Says what was done about the locks of the last clean snapshots. What that costs was said before.
pub(crate) fn tell_locks(context: &Context, locks: Option<&CleanLocks>) {
    let Some(locks) = locks else { return };
    context.output.message(&format!(
        "{} of {} that the last clean snapshot needs extended until {}",
        count(locks.extended.objects, "lock"),
        count(locks.objects, "object"),
        locks.until
    ));
}

/// The same for JSON; null where nothing is suspect, and where the store locks nothing by itself.
pub(crate) fn locks(locks: Option<&CleanLocks>) -> Value {
    json!(locks.map(|locks| json!({
        "snapshots": locks.snapshots.iter().map(|one| one.intent.to_string()).collect::<Vec<_>>(),
        "objects": locks.objects,
        "until": locks.until.to_string(),
        "extended": locks.extended.objects,
        "refused": locks.extended.refused,
    })))
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
