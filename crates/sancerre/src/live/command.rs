//! A machine of any hypervisor, by two commands of the operator around the backup.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sancerre_capture::{Around, Commands};
use sancerre_engine::Error;
use sancerre_engine::backup::{self as engine, BackupReport, Capture, Captured};
use sancerre_engine::monitor::{Monitor, Topic};
use sancerre_engine::select::{Selector, Which};
use sancerre_format::id::SessionId;
use sancerre_format::names::{MachineId, Title};
use sancerre_format::outcome::MemberKind;
use serde_json::Value;

use super::Freezing;
use super::with::With;
use crate::changed::Changed;
use crate::command::backup::{self, Subject};
use crate::command::{Backup, Context};
use crate::exit::{Done, Exit, Failure};
use crate::formats::NamedFormat;
use crate::repository;
use crate::sources::{DiskSource, Planned};

/// How a machine was frozen of which only a command knows more.
const FROZEN: &str = "by-command";

/// So many a command is told of: a variable has 128 KiB.
const SNAPSHOTS_MAX: usize = 100;

/// What the first command printed.
#[derive(Debug, Default)]
struct Printed {
    planned: Vec<Planned>,
    formats: Vec<NamedFormat>,
    changed: Vec<DiskSource>,
    since: Option<String>,
    machine: Option<MachineId>,
    is_frozen: bool,
}

/// `--begin COMMAND --end COMMAND --vm NAME`
pub(super) async fn run(options: &Backup, context: &Context) -> Result<Done, Failure> {
    let live = &options.live;
    let (Some(name), Some(begin), Some(end)) = (&options.vm, &live.begin, &live.end) else {
        return Err(Failure::usage("--source command needs --vm, --begin and --end"));
    };
    if live.freeze != Freezing::Try || !live.exclude_disks.is_empty() || live.scratch.is_some() {
        return Err(Failure::usage(
            "with --source command it is the command that freezes and chooses disks: leave --freeze, --exclude-disk and \
             --scratch out",
        ));
    }
    let (repository, monitor, _watched) = backup::open(options, context).await?;
    let with = With { options, context, repository, memory_bytes: context.global.memory };
    let started = Instant::now();
    let commands = Commands {
        program: super::this_program()?,
        begin: begin.clone(),
        end: end.clone(),
        limit: Duration::from_secs(live.begin_limit),
        machine: name.to_string(),
        snapshots: snapshots(&with, name).await?,
        run_folder: live.run_folder(context),
    };
    let begun = with.repository.host.compute(move || Around::begin(&commands)).await?;
    let (around, value) = begun?;
    let mut subject = Subject { vm: name.clone(), machine: None };
    let result = save(&with, &mut subject, &value, &monitor).await;
    let saved = result.as_ref().ok().and_then(|report| report.snapshot.as_ref());
    let saved = saved.map(|session| session.intent.to_string());
    let ended = with.repository.host.compute(move || around.end(saved.as_deref())).await?;
    let (mut exit, summary) = with.ended(&subject, &[], started, result)?;
    if let Some(why) = ended {
        monitor.warn(Topic::Aside, format!("the picture may still be there: {why}"));
        exit = if exit == Exit::Done { Exit::NotAsAsked } else { exit };
    }
    Ok(Done { exit, summary })
}

/// What the machine's newest snapshots are called: those of its name.
async fn snapshots(with: &With<'_>, name: &Title) -> Result<Vec<String>, Failure> {
    let log = repository::load_recent_log(with.context, &with.repository).await?;
    let public = with.options.public_name.as_ref().unwrap_or(name);
    let of_name = log.snapshots().into_iter().filter(|one| one.manifest.fields.vm == *public);
    let all: Vec<String> = of_name.map(|one| one.id().to_string()).collect();
    Ok(all.get(all.len().saturating_sub(SNAPSHOTS_MAX)..).unwrap_or_default().to_vec())
}

async fn save(
    with: &With<'_>,
    subject: &mut Subject,
    value: &Value,
    monitor: &Monitor,
) -> Result<BackupReport, Failure> {
    let printed = Printed::of(value).map_err(|why| {
        Failure::failed(format!(
            "what the --begin command printed cannot be used: {why}; docs/QUIESCE.md says what it prints"
        ))
    })?;
    subject.machine = printed.machine;
    let share = with.options.changed.verify_unchanged();
    let since = printed.since.map(|id| Selector { snapshot: Which::Id(id), member: None });
    let changed = Changed::of(printed.changed, since, share);
    let bitmaps = changed.bitmaps();
    let mut sources = with.options.opening(&bitmaps, &printed.formats).all(printed.planned, with.context)?;
    let maps = changed.maps(&sources, &bitmaps, with.context)?;
    sources.extend(with.attached()?);
    let began = with.context.host.clock.now();
    let options = with.options.engine(subject, Vec::new(), engine::Maps::default(), with.memory_bytes);
    let frozen = printed.is_frozen.then(|| FROZEN.to_owned());
    let ready = Box::new(Ready(Captured { sources, maps, frozen }));
    let report = engine::backup_captured(&with.repository, options, ready, monitor).await?;
    backup::compare_clocks(with.context, &with.repository, &report, began).await;
    Ok(report)
}

/// A picture that is there already.
struct Ready(Captured);

impl Capture for Ready {
    fn take(self: Box<Self>, _: Option<SessionId>, _: Vec<SessionId>) -> Result<Captured, Error> {
        Ok(self.0)
    }
}

impl Printed {
    /// From what was printed. A word that is not known here was meant to do something.
    fn of(value: &Value) -> Result<Self, String> {
        let mut printed = Self::default();
        for (word, value) in value.as_object().ok_or("it is no object")? {
            match word.as_str() {
                "disks" => printed.disks(value)?,
                "files" => printed.files(value)?,
                "since" => printed.since = Some(text(value, word)?.to_owned()),
                "machine" => {
                    let id = text(value, word)?.to_ascii_lowercase();
                    printed.machine =
                        Some(MachineId::parse(&id).map_err(|error| format!("machine: {error}"))?);
                }
                "frozen" => printed.is_frozen = value.as_bool().ok_or("frozen is neither true nor false")?,
                _ => return Err(format!("it has {word:?}, which means nothing here")),
            }
        }
        match printed.planned.iter().any(|planned| planned.kind == MemberKind::Disk) {
            true => Ok(printed),
            false => Err("it names no disk".into()),
        }
    }

    fn disks(&mut self, value: &Value) -> Result<(), String> {
        for disk in value.as_array().ok_or("disks is no list")? {
            let fields = disk.as_object().ok_or("a disk is no object")?;
            let known = ["name", "path", "format", "changed"];
            if let Some(word) = fields.keys().find(|word| !known.contains(&word.as_str())) {
                return Err(format!("a disk has {word:?}, which means nothing here"));
            }
            let (name, path) = named(disk)?;
            if let Some(format) = disk.get("format") {
                let format = text(format, "format")?.parse()?;
                self.formats.push(NamedFormat::of(&name, format));
            }
            if let Some(map) = disk.get("changed") {
                let path = text(map, "changed")?.into();
                self.changed.push(DiskSource { name: Some(name.clone()), path });
            }
            self.planned.push(Planned { name, kind: MemberKind::Disk, path: Some(path) });
        }
        Ok(())
    }

    fn files(&mut self, value: &Value) -> Result<(), String> {
        for file in value.as_array().ok_or("files is no list")? {
            let (name, path) = named(file)?;
            self.planned.push(Planned { name, kind: MemberKind::File, path: Some(path) });
        }
        Ok(())
    }
}

fn named(value: &Value) -> Result<(Title, PathBuf), String> {
    let of = |word| value.get(word).ok_or_else(|| format!("one of them has no {word}"));
    let name = text(of("name")?, "name")?;
    let title = Title::typed(name).map_err(|error| format!("{name:?} is no name: {error}"))?;
    Ok((title, text(of("path")?, "path")?.into()))
}

fn text<'a>(value: &'a Value, word: &str) -> Result<&'a str, String> {
    value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| format!("{word} is no text"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_command_prints_names_disks_files_and_what_changed() {
        let disk = json!({"name": "vda", "path": "/dev/a", "format": "raw", "changed": "bitmap:x"});
        let all = json!({"disks": [disk, {"name": "b", "path": "nbd://h"}], "files": [{"name": "c", "path": "/c"}],
            "since": "3f9a12cc", "frozen": true, "machine": "8C5A4B1E-1111-2222-3333-444455556666"});
        let printed = Printed::of(&all).unwrap();
        let names: Vec<_> = printed.planned.iter().map(|planned| planned.name.as_str()).collect();
        assert_eq!((names, printed.formats.len(), printed.changed.len()), (vec!["vda", "b", "c"], 1, 1));
        assert!(printed.is_frozen && printed.machine.is_some() && printed.since.is_some());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let disk = json!({"name": "a", "path": "/a"});
        for wrong in [
            json!([]),
            json!({}),
            json!({"disks": []}),
            json!({"disks": [{"name": "a"}]}),
            json!({"disks": [{"name": "a", "path": ""}]}),
            json!({"disks": [{"name": "a", "path": "/a", "fromat": "raw"}]}),
            json!({"disks": [{"name": "a", "path": "/a", "format": "floppy"}]}),
            json!({"disks": [disk], "frozen": "yes"}),
            json!({"disks": [disk], "machine": "me"}),
            json!({"disks": [disk], "disk": []}),
        ] {
            assert!(Printed::of(&wrong).is_err(), "{wrong}");
        }
    }
}
