//! `snapshots`: what is in the repository.

use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::{Snapshot, open_body};
use sancerre_engine::suspicion::{Suspicion, stored};
use sancerre_format::names::{Tag, Title};
use sancerre_format::outcome::{Body, Consistency, MemberKind};
use serde_json::{Value, json};

use super::{Context, done};
use crate::access::Access;
use crate::arguments::Snapshots;
use crate::exit::{Done, Failure};
use crate::output::{Align, table};
use crate::repository;
use crate::units::{count, size};

const COLUMNS: [(&str, Align); 9] = [
    ("id", Align::Left),
    ("time (UTC)", Align::Left),
    ("vm", Align::Left),
    ("disks", Align::Right),
    ("files", Align::Right),
    ("size", Align::Right),
    ("new", Align::Right),
    ("stored", Align::Right),
    ("tags", Align::Left),
];

/// A snapshot with what only the zone's members can read of it.
struct Listed<'a> {
    snapshot: Snapshot<'a>,
    /// None for a key of another zone, or of another generation of its keys.
    body: Option<Body>,
    /// Whether the log says that it is suspect, and nobody cleared it.
    noted: bool,
}

impl Listed<'_> {
    /// What the machine is called; its public name to whoever has no key for the other.
    fn vm(&self) -> &Title {
        let sealed = self.body.as_ref().and_then(|body| body.vm.as_ref());
        sealed.unwrap_or(&self.snapshot.manifest.fields.vm)
    }

    /// How many disks it has, and how many files were attached or streamed; none for a key that does not open that: what
    /// is public is their sum.
    fn counts(&self) -> Option<(usize, usize)> {
        let members = &self.body.as_ref().filter(|body| !body.members.is_empty())?.members;
        let disks = members.iter().filter(|member| member.kind == MemberKind::Disk).count();
        Some((disks, members.len().saturating_sub(disks)))
    }

    fn is_of(&self, vm: &Title) -> bool {
        self.vm() == vm || self.snapshot.manifest.fields.vm == *vm
    }
}

/// What stands where a key of another zone sees nothing.
const SEALED: &str = "-";

pub(crate) async fn run(options: Snapshots, context: &Context) -> Result<Done, Failure> {
    let repository = repository::open(context, Access::Public).await?;
    if !options.tags.is_empty() {
        // Tags are sealed: without the zone's secrets no snapshot would seem to have them.
        repository.keys.zone_secrets()?;
    }
    let log = repository::load_recent_log(context, &repository).await?;
    let retention = log.retention();
    let listed: Vec<Listed<'_>> = log
        .snapshots()
        .into_iter()
        .map(|snapshot| Listed {
            snapshot,
            body: body(context, &repository, &snapshot),
            noted: retention.suspected_by(&snapshot.session()).is_some(),
        })
        .filter(|listed| options.vm.as_ref().is_none_or(|vm| listed.is_of(vm)))
        .collect();
    if let (Some(vm), true) = (&options.vm, listed.is_empty()) {
        return Err(Failure::usage(format!("there are no snapshots of {vm}; see `sancerre snapshots`")));
    }
    let listed: Vec<Listed<'_>> =
        listed.into_iter().filter(|listed| has_all(listed.body.as_ref(), &options.tags)).collect();
    let rows: Vec<_> = listed.iter().map(row).collect();
    if rows.is_empty() {
        context.output.message("no snapshots");
    } else {
        context.output.result(&table(&COLUMNS, &rows))?;
        context.output.message(&count(rows.len() as u64, "snapshot"));
    }
    let snapshots: Vec<Value> = listed.iter().map(describe).collect();
    Ok(done([
        ("repository", json!(repository.keys.trust.repository.to_string())),
        ("snapshots", json!(snapshots)),
    ]))
}

/// A body that does not open costs its tags, not the list.
fn body(context: &Context, repository: &Repository, snapshot: &Snapshot<'_>) -> Option<Body> {
    repository.keys.zone_keys(snapshot.generation()?).ok()?;
    Some(open_body(repository, snapshot).unwrap_or_else(|error| {
        context.output.warning(&format!("snapshot {}: {error}", short(snapshot)));
        Body::default()
    }))
}

fn has_all(body: Option<&Body>, tags: &[Tag]) -> bool {
    tags.iter().all(|tag| body.is_some_and(|body| body.tags.contains(tag)))
}

fn short(snapshot: &Snapshot<'_>) -> String {
    snapshot.session().short()
}

fn row(listed: &Listed<'_>) -> Vec<String> {
    let manifest = &listed.snapshot.manifest.fields;
    let flaw = match manifest.consistency {
        Consistency::Fuzzy => Some("(fuzzy)".to_owned()),
        Consistency::Partial => Some("(partial)".to_owned()),
        _ => None,
    };
    // Not all of it was read, and on whose word.
    let mut scan = manifest.scan.split(' ');
    let by_map = (scan.next() == Some("map")).then(|| format!("(map {})", scan.next().unwrap_or_default()));
    let verdict = suspicion_of(listed).filter(|verdict| *verdict != Suspicion::Normal);
    let verdict = verdict.map(|verdict| format!("({verdict})"));
    let marks = flaw.into_iter().chain(by_map).chain(verdict);
    let tags: Vec<String> = match &listed.body {
        Some(body) => body.tags.iter().map(ToString::to_string).chain(marks).collect(),
        None => std::iter::once(SEALED.to_owned()).chain(marks).collect(),
    };
    let (disks, files) = match listed.counts() {
        Some((disks, files)) => (disks.to_string(), files.to_string()),
        None => (format!("{} in all", manifest.disks), SEALED.to_owned()),
    };
    // 2026-11-23T21:10:28Z, for people.
    let time = manifest.finished.to_string().replace('T', " ").replace('Z', "");
    vec![
        short(&listed.snapshot),
        time,
        listed.vm().to_string(),
        disks,
        files,
        size(manifest.size_bytes),
        size(manifest.new_bytes),
        size(manifest.stored_bytes),
        tags.join(" "),
    ]
}

/// What its writer thought of the night; a note that it is suspect goes before, one that it was cleared too.
fn suspicion_of(listed: &Listed<'_>) -> Option<Suspicion> {
    let told = listed.body.as_ref().and_then(stored::worst);
    match listed.noted {
        true => Some(Suspicion::Suspect),
        false => told.map(|told| told.min(Suspicion::Unusual)),
    }
}

fn describe(listed: &Listed<'_>) -> Value {
    let manifest = &listed.snapshot.manifest.fields;
    let body = listed.body.as_ref();
    let members = body.map(|body| body.members.iter().map(super::member).collect::<Vec<_>>());
    let counts = listed.counts();
    let tags = body.map(|body| body.tags.iter().map(ToString::to_string).collect::<Vec<_>>());
    json!({
        "id": listed.snapshot.id().to_string(),
        "session": manifest.session.number,
        "vm": listed.vm().to_string(),
        "public_name": manifest.vm.to_string(),
        "machine": manifest.machine.map(|id| id.to_string()),
        "class": manifest.class.as_ref().map(ToString::to_string),
        "retain_until": manifest.retain_until.map(|until| until.to_string()),
        "started": manifest.started.to_string(),
        "finished": manifest.finished.to_string(),
        "writer": manifest.by.name.to_string(),
        "parents": manifest.parents.iter().map(|parent| parent.intent.to_string()).collect::<Vec<_>>(),
        "members": members,
        "disks": counts.map(|(disks, _)| disks),
        "files": counts.map(|(_, files)| files),
        "size_bytes": manifest.size_bytes,
        "data_bytes": manifest.data_bytes,
        "new_bytes": manifest.new_bytes,
        "stored_bytes": manifest.stored_bytes,
        "fuzzy": manifest.consistency == Consistency::Fuzzy,
        "scan": manifest.scan,
        "consistency": manifest.consistency.to_string(),
        "verdict": suspicion_of(listed).map(Suspicion::word),
        "tags": tags,
    })
}
