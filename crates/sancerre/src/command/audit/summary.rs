//! The audit's summary for machines.

use std::time::Duration;

use sancerre_engine::audit::{AuditReport, Fate, MachineAudit, ZoneAudit};
use serde_json::{Value, json};

use crate::command::check;
use crate::units::seconds;

pub(super) fn summary(report: &AuditReport, took: Duration) -> [(&'static str, Value); 9] {
    let stale = report.stale().map(|(zone, machine, stale)| {
        json!({
            "zone": zone.to_string(),
            "vm": machine.vm.to_string(),
            "newest": stale.newest.map(|time| time.to_string()),
        })
    });
    let undrilled = report.undrilled().map(|(zone, machine, undrilled)| {
        json!({
            "zone": zone.to_string(),
            "vm": machine.vm.to_string(),
            "passed": undrilled.passed.map(|time| time.to_string()),
        })
    });
    [
        ("repository", json!(report.trust.repository.to_string())),
        ("trust", json!(report.trust.admin.fingerprint())),
        ("audited", json!(report.time.to_string())),
        ("findings", json!(report.all_findings().map(check::finding).collect::<Vec<_>>())),
        ("stale", json!(stale.collect::<Vec<_>>())),
        ("undrilled", json!(undrilled.collect::<Vec<_>>())),
        ("zones", json!(report.zones.iter().map(zone).collect::<Vec<_>>())),
        ("remembered", json!(report.state.is_some())),
        ("duration_seconds", json!(seconds(took))),
    ]
}

fn zone(zone: &ZoneAudit) -> Value {
    let sampled = zone.check.sampled.map(|sampled| {
        json!({
            "loss_percent": sampled.sample.loss_percent,
            "confidence_percent": sampled.sample.confidence_percent,
            "seed": sancerre_format::id::to_hex(&sampled.sample.seed),
            "population": sampled.population,
            "drawn": sampled.drawn,
        })
    });
    json!({
        "zone": zone.zone.to_string(),
        "highest": zone.mark.highest,
        "log_mark": zone.mark.records.to_string(),
        "seen_before": zone.seen_before.map(|time| time.to_string()),
        "snapshots": zone.check.snapshots,
        "packs": zone.check.packs,
        "pack_bytes": zone.check.pack_bytes,
        "read_packs": zone.check.read_packs,
        "read_bytes": zone.check.read_bytes,
        "sampled": sampled,
        "machines": zone.machines.iter().map(machine).collect::<Vec<_>>(),
    })
}

fn machine(machine: &MachineAudit) -> Value {
    let runs = machine.runs.iter().map(|run| {
        json!({
            "session": run.session.number,
            "id": run.session.intent.to_string(),
            "started": run.started.to_string(),
            "finished": run.finished.map(|time| time.to_string()),
            "writer": run.writer.to_string(),
            "fate": fate(run.fate),
            "size_bytes": run.size_bytes,
            "stored_bytes": run.stored_bytes,
            "suspected_by": run.suspected_by,
        })
    });
    let drill = machine.drill.map(|drill| {
        json!({
            "time": drill.time.to_string(),
            "is_passed": drill.is_passed,
            "passed": drill.passed.map(|time| time.to_string()),
        })
    });
    json!({
        "vm": machine.vm.to_string(),
        "stale": machine.stale.is_some(),
        "drill": drill,
        "runs": runs.collect::<Vec<_>>(),
    })
}

/// In one word.
pub(super) fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Saved => "saved",
        Fate::Fuzzy => "fuzzy",
        Fate::Partial => "partial",
        Fate::Forgotten => "forgotten",
        Fate::Aborted => "aborted",
        Fate::Open => "open",
        Fate::Void => "void",
    }
}
