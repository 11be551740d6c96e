//! The verdict on a night, in words and in JSON.

use std::collections::BTreeSet;

use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::log::suspects::MACHINES_MAX;
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

/// Says that deletion stands still, and for which machines, to who is about to forget.
pub(crate) fn tell_what_stays(context: &Context, log: &Log) {
    let standing = log.standing(u64::MAX);
    let machines = standing.suspect_machines().len();
    if machines == 0 {
        return;
    }
    let vms: BTreeSet<String> = standing.suspects().iter().map(|(_, vm)| vm.to_string()).collect();
    let vms: Vec<&str> = vms.iter().map(String::as_str).collect();
    let what = match machines > MACHINES_MAX {
        true => "no snapshot of any machine is let go",
        false => "what is from before their first suspect snapshot is not let go",
    };
    context.output.warning(&format!(
        "{} suspect: {what}, whatever is asked for; see `sancerre clean`, and end that with `sancerre clear`",
        vms.join(", ")
    ));
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
