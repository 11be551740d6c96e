//! `restore`: one disk to a file, device or pipe, a whole snapshot into a directory, or several machines at once.

pub(super) mod device;
mod form;
mod many;
mod stream;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sancerre_engine::monitor::Monitor;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::restore::{self, RestoreFailure, RestoreOptions, RestoreReport, SnapshotReader};
use sancerre_engine::{Error, select::Selector};
use sancerre_format::id::SessionId;
use sancerre_format::outcome::{Member, MemberKind};
use sancerre_image::nbd::{NbdOptions, NbdUri};
use sancerre_image::{Continue, DiskTarget, Left, NbdTarget, RawTarget};
use serde_json::{Value, json};

use super::{Context, done};
use crate::access::Access;
use crate::arguments::Restore;
use crate::exit::{Done, Exit, Failure};
use crate::file_names;
use crate::live;
use crate::plain;
use crate::progress::Work;
use crate::repository;
use crate::units::{count, duration, seconds, size};
use crate::unreadable;
use form::Form;

/// What became of bytes of a disk that was failing.
pub(super) const UNREADABLE: &str = "could not be read when this was backed up, and are restored as zeros";

/// A member and where it goes.
struct Job<'a> {
    member: &'a Member,
    path: PathBuf,
}

/// A member that was restored.
struct Restored<'a> {
    job: Job<'a>,
    report: RestoreReport,
}

/// Where members of one snapshot go, and how.
struct Task<'a> {
    options: &'a Restore,
    /// As it was named.
    snapshot: &'a Selector,
    form: Form,
    export: Option<NbdUri>,
    target: &'a Path,
}

/// What became of them.
struct Outcome<'a> {
    restored: Vec<Restored<'a>>,
    /// Some need a newer version of the program.
    has_skipped: bool,
    /// All that was on the machine is there.
    is_whole: bool,
    /// What damage cost.
    lost: Option<Failure>,
}

pub(crate) async fn run(options: Restore, context: &Context) -> Result<Done, Failure> {
    match options.define.to {
        Some(_) => live::define(options, context).await,
        None => disks(options, context).await,
    }
}

/// Disks, and whatever else is in the snapshot.
pub(crate) async fn disks(options: Restore, context: &Context) -> Result<Done, Failure> {
    let [snapshot] = options.snapshots.as_slice() else { return many::run(&options, context).await };
    if let Some(stream) = stream::of(&options.target) {
        return stream::run(&options, snapshot, stream, context).await;
    }
    let started = Instant::now();
    let form = form::of(&options)?;
    // Before the repository is opened: what can take no disk should cost nothing.
    let export = form::export(&options)?;
    if options.in_place {
        refuse_in_place(&options)?;
    } else if export.is_none() && !is_directory(&options.target) {
        RawTarget::refuse(&options.target, options.overwrite, options.resume)?;
    }
    let reader = open(snapshot, context).await?;
    let task = Task { options: &options, snapshot, form, export, target: &options.target };
    let (monitor, watched) = context.watched(Work::Restore)?;
    let outcome = task.run(&reader, &monitor, context).await?;
    drop(watched);
    if let Some(failure) = outcome.lost {
        if !outcome.restored.is_empty() {
            finish(context, &reader, &outcome.restored, started.elapsed());
        }
        return Err(failure);
    }
    let done = finish(context, &reader, &outcome.restored, started.elapsed());
    Ok(match outcome.exit() {
        Exit::Done => done,
        exit => Done { exit, ..done },
    })
}

impl Outcome<'_> {
    /// Of what could be read.
    fn exit(&self) -> Exit {
        match (self.has_skipped, self.is_whole) {
            (true, _) => Exit::Unsupported,
            (false, false) => Exit::NotAsAsked,
            (false, true) => Exit::Done,
        }
    }
}

impl Task<'_> {
    /// Restores one after the other; what one lost is no reason to leave the others.
    async fn run<'a>(
        &self,
        reader: &'a SnapshotReader,
        monitor: &Monitor,
        context: &Context,
    ) -> Result<Outcome<'a>, Failure> {
        let options = self.options;
        let jobs = plan(reader, self, context)?;
        for job in jobs.iter().filter(|_| !options.in_place && self.export.is_none()) {
            RawTarget::refuse(&job.path, options.overwrite, options.resume)?;
        }
        let settings = RestoreOptions { memory_bytes: context.global.memory, wipe_rest: options.wipe_rest };
        let mut outcome = Outcome { restored: Vec::new(), has_skipped: false, is_whole: true, lost: None };
        for job in jobs {
            // Of a whole snapshot the other members are restored; the engine refuses one that was named.
            if let (None, MemberKind::Other(kind)) = (&self.snapshot.member, &job.member.kind) {
                let name = &job.member.name;
                context
                    .output
                    .warning(&format!("{name} is a {kind} and needs a newer version of sancerre: left out"));
                outcome.has_skipped = true;
                continue;
            }
            context.output.detail(&format!("restoring {} to {}", job.member.name, plain::path(&job.path)));
            let target = self.open(&job)?;
            outcome.is_whole &= unreadable::tell(context, job.member, UNREADABLE)?;
            let done = restore::restore(reader, job.member, target, &settings, monitor).await;
            match done.map_err(|failure| told(*failure)) {
                Ok(report) => {
                    device::tell(&job.path, &report.behind, device::WIPE, context);
                    tell_kept(options, context);
                    outcome.restored.push(Restored { job, report });
                }
                Err(failure) if matches!(failure.exit, Exit::Damaged | Exit::Missing) => {
                    context.output.detail(&failure.message);
                    outcome.lost = Some(joined(outcome.lost, failure));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(outcome)
    }

    fn open(&self, job: &Job<'_>) -> Result<Box<dyn DiskTarget>, Failure> {
        let size_bytes = job.member.size_bytes;
        match &self.export {
            Some(uri) => Ok(Box::new(NbdTarget::open(
                uri,
                &NbdOptions::default(),
                size_bytes,
                self.options.overwrite,
            )?)),
            None => self.form.open(self.options, job.member, &job.path),
        }
    }
}

/// One file or device is written over where it lies, and what is kept of it goes into a new file.
fn refuse_in_place(options: &Restore) -> Result<(), Failure> {
    if is_directory(&options.target) {
        return Err(Failure::usage(
            "--in-place writes over one file or device: name it as the target, and one disk of the snapshot",
        ));
    }
    match &options.keep_damaged {
        Some(path) if path.metadata().is_ok_and(|found| found.len() > 0) => Err(Failure::failed(format!(
            "{} exists and is not empty: what is replaced is kept in a new file; name another one, or leave \
             --keep-damaged out if that file is of this restore, which was interrupted: it is whole. Nothing was done",
            plain::path(path)
        ))),
        _ => Ok(()),
    }
}

/// The snapshot that was named, ready to be read.
pub(super) async fn open(snapshot: &Selector, context: &Context) -> Result<SnapshotReader, Failure> {
    open_in(&repository::open(context, Access::Content).await?, snapshot, context).await
}

/// The same in a repository that is open.
pub(super) async fn open_in(
    repository: &Repository,
    snapshot: &Selector,
    context: &Context,
) -> Result<SnapshotReader, Failure> {
    let mut log = repository::load_recent_log(context, repository).await?;
    let session = match snapshot.resolve(repository, &log) {
        // What is not among the snapshots may have been one: the whole log says when it was forgotten, and by whom.
        Err(_) if log.start() > 1 => {
            log = repository::load_log(context, repository).await?;
            snapshot.resolve(repository, &log)?
        }
        session => session?,
    };
    read(repository, &log, session, context).await
}

/// The snapshot of a session, and a word where it is of more than one moment.
async fn read(
    repository: &Repository,
    log: &Log,
    session: SessionId,
    context: &Context,
) -> Result<SnapshotReader, Failure> {
    let reader = restore::open(repository, log, session).await?;
    for member in reader.body().members.iter().filter(|member| member.fuzzy) {
        context.output.warning(&format!(
            "{} changed while it was backed up: parts of it are from different moments",
            member.name
        ));
    }
    Ok(reader)
}

/// The one member that is meant: the named one, the only one, or the only disk beside attached files.
pub(super) fn one<'a>(reader: &'a SnapshotReader, snapshot: &Selector) -> Result<&'a Member, Failure> {
    let members = &reader.body().members;
    let disks: Vec<&Member> = members.iter().filter(|member| member.kind == MemberKind::Disk).collect();
    let found = match (&snapshot.member, members.as_slice(), disks.as_slice()) {
        (Some(name), ..) => reader.member(name.as_str()),
        (None, [only], _) => Some(only),
        (None, _, [only]) => Some(*only),
        (None, ..) => None,
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        let others = (members.len() - disks.len()) as u64;
        let others =
            if others > 0 { format!(" and {}", count(others, "other member")) } else { String::new() };
        let what = match &snapshot.member {
            Some(name) => format!("the snapshot has no {name}"),
            None => format!("the snapshot has {}{others}", count(disks.len() as u64, "disk")),
        };
        Failure::usage(format!("{what}; write :NAME behind it, with one of {}", names.join(", ")))
    })
}

/// What goes where. Nothing is written before all of it is decided.
fn plan<'a>(reader: &'a SnapshotReader, task: &Task<'_>, context: &Context) -> Result<Vec<Job<'a>>, Failure> {
    let Task { snapshot, form, target, .. } = task;
    if !is_directory(target) {
        return Ok(vec![Job { member: one(reader, snapshot)?, path: target.to_path_buf() }]);
    }
    std::fs::create_dir_all(target).map_err(|error| {
        Failure::failed(format!("cannot make the directory {}: {error}; check the path", target.display()))
    })?;
    let members: Vec<&Member> = match snapshot.member {
        Some(_) => vec![one(reader, snapshot)?],
        // The file catalogue is for programs that look for files in the snapshot.
        None => reader.body().members.iter().filter(|member| !member.is_catalogue()).collect(),
    };
    let files: Vec<String> =
        members.iter().map(|member| file_names::of(&member.name, &member.kind, form.suffix())).collect();
    refuse_folded(target, &files, context)?;
    let job = |(member, file): (&'a Member, String)| Job { member, path: target.join(file) };
    Ok(members.into_iter().zip(files).map(job).collect())
}

/// Names that differ by case only are one file on some file systems: nothing is written there.
fn refuse_folded(target: &Path, files: &[String], context: &Context) -> Result<(), Failure> {
    let token = format!("sancerre-{:016x}", u64::from_le_bytes(context.host.random()));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let folded = file_names::folded(target, &files, &token).map_err(|error| {
        Failure::failed(format!(
            "cannot find out whether {} tells upper from lower case: {error}; check its permissions and its space",
            target.display()
        ))
    })?;
    match folded {
        Some((one, other)) => Err(Failure::usage(format!(
            "{one} and {other} are one file in {}, which does not tell them apart; nothing was written. Restore these \
             one by one with SNAPSHOT:NAME, each to a file of its own, or into another file system",
            target.display()
        ))),
        None => Ok(()),
    }
}

/// A directory that exists, or a path that can only be one.
fn is_directory(target: &Path) -> bool {
    if target.to_str().is_some_and(NbdUri::is_one) {
        return false;
    }
    target.is_dir() || target.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// Two failures as one; the first says what kind it is.
fn joined(first: Option<Failure>, next: Failure) -> Failure {
    match first {
        None => next,
        Some(first) => Failure { message: format!("{}; {}", first.message, next.message), ..first },
    }
}

/// What was restored until now stays: another run goes on from there, and after damage it may be all there is.
fn told(RestoreFailure { error, left, is_whole }: RestoreFailure) -> Failure {
    let is_rescued = matches!(error, Error::Unrestorable { .. });
    let mut failure = match error {
        Error::Interrupted => Failure::new(Exit::Interrupted, "interrupted; this disk was not restored"),
        error => Failure::from(error),
    };
    let more = match left {
        Left::Nothing => String::new(),
        Left::Unremoved { path } => format!(". {} could not be removed", path.display()),
        Left::Partial { path, .. } if is_whole => format!(
            ". The restored disk is whole, in {}: the same command with --resume compares it and puts it in its place",
            path.display()
        ),
        Left::Partial { path, next } if is_rescued => rescued(&path, next),
        Left::Partial { path, next } => format!(
            ". What was restored until then is in {}{}",
            path.display(),
            next.map_or(String::new(), |next| format!(
                "; the same command with {} goes on from there",
                flag(next)
            ))
        ),
    };
    failure.message.push_str(&more);
    failure
}

/// All else was restored: another run finds the same until the repository is mended.
fn rescued(path: &Path, next: Option<Continue>) -> String {
    let path = path.display();
    let again = match next {
        Some(next) => format!("The same command with {} tries these ranges again", flag(next)),
        None => "The same command tries again".to_owned(),
    };
    format!(
        ". Everything else of it is in {path}, and nothing in those ranges can be relied on: this is the rescued disk, as far \
         as it can be had. {again}, which helps once what is named here can be read again, or after `sancerre repair`; until \
         then copy {path} elsewhere to use it"
    )
}

fn flag(next: Continue) -> &'static str {
    match next {
        Continue::Resume => "--resume",
        Continue::Overwrite => "--overwrite",
        Continue::InPlace => "--in-place",
    }
}

/// Where what was replaced can be looked at.
fn tell_kept(options: &Restore, context: &Context) {
    if let Some(path) = &options.keep_damaged {
        let bytes = path.metadata().map_or(0, |found| found.len());
        context.output.message(&format!(
            "{} ({}) shows the disk as it was, as long as {} is not written to: copy it whole with qemu-img convert first",
            plain::path(path),
            size(bytes),
            plain::path(&options.target)
        ));
    }
}

fn kept(report: &RestoreReport) -> String {
    match report.kept_bytes {
        0 => String::new(),
        bytes => format!("{} of it were there, ", size(bytes)),
    }
}

fn finish(context: &Context, reader: &SnapshotReader, restored: &[Restored<'_>], took: Duration) -> Done {
    tell(context, restored);
    context.output.message(&format!("done in {}", duration(took)));
    done(summary(reader, restored).into_iter().chain([("duration_seconds", json!(seconds(took)))]))
}

fn tell(context: &Context, restored: &[Restored<'_>]) {
    for Restored { job, report, .. } in restored {
        let (path, data, fetched) =
            (plain::path(&job.path), size(report.data_bytes), size(report.fetched_bytes));
        context.output.message(&format!(
            "{} restored to {path}: {}, {data} of data, {}{fetched} fetched",
            job.member.name,
            size(report.size_bytes),
            kept(report)
        ));
    }
}

fn summary(reader: &SnapshotReader, restored: &[Restored<'_>]) -> [(&'static str, Value); 8] {
    let sum = |field: fn(&RestoreReport) -> u64| {
        restored.iter().map(|restored| field(&restored.report)).sum::<u64>()
    };
    let member = |Restored { job, report }: &Restored<'_>| {
        json!({
            "name": job.member.name.to_string(),
            "path": job.path.display().to_string(),
            "surplus_bytes": report.behind.size_bytes,
            "unreadable": unreadable::json(job.member),
        })
    };
    [
        ("snapshot", json!(reader.manifest().session.intent.to_string())),
        ("vm", json!(reader.vm().to_string())),
        ("members", json!(restored.iter().map(member).collect::<Vec<_>>())),
        ("size_bytes", json!(sum(|report| report.size_bytes))),
        ("data_bytes", json!(sum(|report| report.data_bytes))),
        ("kept_bytes", json!(sum(|report| report.kept_bytes))),
        ("fetched_bytes", json!(sum(|report| report.fetched_bytes))),
        ("requests", json!(sum(|report| report.requests))),
    ]
}
