//! Backup: from the disks of one VM to one committed snapshot.
//!
//! ```text
//! disk ─regions─> scan (workers) ─chunks─> known? ─new─> frame ─> pack ─> upload (several in flight)
//!                     └────────────── places ──────────────> tree (in order) ─> manifest: the commit point
//! ```

mod base;
mod budget;
mod capture;
mod doubt;
mod ending;
mod gate;
mod growing;
mod hinted;
mod last_look;
mod maps;
mod member;
mod noticed;
mod options;
mod packer;
mod region;
mod regions;
mod reread;
mod run;
mod salvage;
mod sample;
mod scratch;
mod sizes;
mod stored;
mod tables;
mod task;
mod tree;
mod upload;
mod watch;

use sancerre_format::bytes::{to_u32, to_usize};
use sancerre_format::outcome::{Body, public_bytes};
use sancerre_format::seal::{RootKey, UnitKind, UnitName, seal_raw};

use self::base::Base;
use self::packer::PackKeys;
use self::run::{Run, Shared, budget};
use self::upload::Uploader;
use crate::error::{Error, Result};
use crate::index;
use crate::lock;
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::repository::log::{Log, Moves};
use crate::repository::session::Session;
use crate::suspicion;
pub use capture::{Capture, Captured};
pub use maps::{Hint, Maps};
pub use options::{
    Allow, BackupOptions, BackupReport, BackupSource, Dedup, FileCatalogues, Input, MEMORY_BYTES,
};

/// Backs up one VM as one snapshot.
///
/// Errors: whatever kept it from being saved. Nothing is half-saved: a snapshot exists once its manifest does, and
/// what was uploaded before a failure is reused by the next backup.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scene.in"));
/// # #[tokio::main] async fn main() -> Shown {
/// # let scene = Scene::new().await?;
/// # let (repository, monitor) = (scene.by_host().await?, &scene.monitor);
/// use sancerre_engine::{BackupOptions, BackupSource, Title, backup};
///
/// let disk = BackupSource::of_stream(Title::new("disk0")?, Box::new(&b"what is on the disk"[..]));
/// let report = backup(&repository, BackupOptions::new(Title::new("web01")?, vec![disk]), monitor).await?;
/// assert_eq!(report.size_bytes, 19);
/// assert!(report.snapshot.is_some());
/// # Ok(()) }
/// ```
pub async fn backup(
    repository: &Repository,
    options: BackupOptions,
    monitor: &Monitor,
) -> Result<BackupReport> {
    options.check_names()?;
    begin(repository, options, None, monitor).await
}

/// The same for a machine whose picture is taken once the session has its number; `options` name no sources.
///
/// Errors: as [`backup()`], and why there is no picture.
pub async fn backup_captured(
    repository: &Repository,
    options: BackupOptions,
    capture: Box<dyn Capture>,
    monitor: &Monitor,
) -> Result<BackupReport> {
    begin(repository, options, Some(capture), monitor).await
}

async fn begin(
    repository: &Repository,
    mut options: BackupOptions,
    capture: Option<Box<dyn Capture>>,
    monitor: &Monitor,
) -> Result<BackupReport> {
    let mut log = Log::load_recent(repository, monitor).await?;
    log.refuse_unread(&repository.keys.zone)?;
    ending::warn_of_end(repository, &log, &options.vm, monitor);
    maps::resolve(repository, &log, &mut options, monitor)?;
    if options.dry_run {
        let next = log.end();
        log.complete(repository, next).await?;
        let frozen = capture::take(repository, &log, &mut options, capture, None, monitor).await?;
        options.add_catalogue(repository.layout.region_bytes, monitor)?;
        let mut run = Run::prepare(repository, &log, next, None, &options, monitor).await?;
        (run.maps, run.frozen) = (options.maps, frozen);
        run.members(options.sources, options.allow, None).await?;
        return Ok(run.report(None));
    }
    if let Err(error) = repository.store.keep_reserve(repository.host.random.clone()).await {
        monitor.warn(
            Topic::Aside,
            format!("no room can be kept with which a full disk could be emptied: {error}"),
        );
    }
    let session = Session::announce(repository, &mut log, options.public_name(), options.machine).await?;
    session.lost_keys.iter().for_each(|lost| monitor.warn(Topic::Damage, lost.to_string()));
    // W2: below our number nothing can be added any more, so what was not read yet is read by name.
    log.complete(repository, session.id.number).await?;
    log.refuse_unread(&repository.keys.zone)?;
    log.refuse_opaque(&repository.keys.zone, session.id.number)?;
    let frozen = match capture::take(repository, &log, &mut options, capture, Some(session.id), monitor).await
    {
        Ok(frozen) => frozen,
        Err(error) => {
            abort(repository, &session, &error, monitor).await;
            return Err(error);
        }
    };
    save(repository, &mut log, session, options, frozen, monitor).await
}

/// Runs an announced session to its outcome.
async fn save(
    repository: &Repository,
    log: &mut Log,
    session: Session,
    mut options: BackupOptions,
    frozen: Option<String>,
    monitor: &Monitor,
) -> Result<BackupReport> {
    options.add_catalogue(repository.layout.region_bytes, monitor)?;
    let sources = std::mem::take(&mut options.sources);
    let budget = budget(repository, &options);
    let keys = PackKeys {
        repository: repository.keys.trust.repository,
        session: session.id,
        content: session.content_root(),
        metadata: repository.keys.metadata_root(&session.id)?,
        sealed_key: session.sealed_key.clone(),
    };
    let number = session.id.number;
    let mut uploader = Uploader::new(repository, monitor, session, budget.uploads);
    let done = async {
        let mut run = Run::prepare(repository, log, number, Some(keys), &options, monitor).await?;
        run.maps = std::mem::take(&mut options.maps);
        run.frozen = frozen;
        run.members(sources, options.allow, Some(&mut uploader)).await?;
        run.statistics = run.noticed.store(&run.shared, &mut run.uses)?;
        run.shared.packer.close()?;
        uploader.submit(run.shared.packer.take_finished()).await?;
        uploader.finish().await?;
        gate::before_manifest(repository, log, &uploader, &run).await?;
        last_look::before_manifest(repository, &uploader, &run).await?;
        Ok(run)
    };
    match done.await {
        Ok(run) => end(repository, log, &uploader, run, options, monitor).await,
        Err(error) => {
            give_up(repository, &mut uploader, &error, monitor).await;
            Err(error)
        }
    }
}

/// Commits the snapshot, and does what follows on one.
async fn end(
    repository: &Repository,
    log: &mut Log,
    uploader: &Uploader,
    run: Run,
    options: BackupOptions,
    monitor: &Monitor,
) -> Result<BackupReport> {
    let session = &uploader.session;
    // First, so that no collector sees the snapshot without it.
    suspicion::note(repository, log, session.id, &run.members, monitor).await;
    let (vm, machine) = (options.public_name().clone(), options.machine);
    commit(repository, log, uploader, &run, options).await?;
    let catalogue = &run.shared.usable.catalogue;
    let packs = Moves::below(log, Log::END).packs(&run.uses);
    lock::warn_after_backup(repository, &packs, catalogue, session, monitor).await;
    let mut report = run.report(Some(session.id));
    if suspicion::is_suspect(&run.members) {
        let whose = lock::clean::Whose::Of(&vm, machine);
        report.clean_locks = lock::clean::keep(repository, log, whose, session.id.number, monitor).await;
    }
    report.stored_bytes = uploader.stored_bytes;
    report.lost_keys.clone_from(&session.lost_keys);
    let runs = run.shared.index.runs() + to_usize(session.segments());
    // The index in memory goes first: merging needs room too.
    drop(run);
    let new_chunks = report.members.iter().map(|member| member.new_chunks).sum();
    index::merge_after_backup(repository, log, runs, new_chunks, monitor).await;
    Ok(report)
}

/// Publishes what is durable and ends the session. Best effort: the error that led here is what the user must see.
async fn give_up(repository: &Repository, uploader: &mut Uploader, error: &Error, monitor: &Monitor) {
    if let Err(second) = uploader.salvage().await {
        monitor.warn(
            Topic::Aside,
            format!("what was uploaded could not be published for the next backup: {second}"),
        );
    }
    abort(repository, &uploader.session, error, monitor).await;
}

async fn abort(repository: &Repository, session: &Session, error: &Error, monitor: &Monitor) {
    if let Err(second) = session.abort(repository, &error.to_string()).await {
        monitor.warn(Topic::Aside, format!("the session could not be closed, which does no harm: {second}"));
    }
}

/// W6, W7: writes the manifest.
async fn commit(
    repository: &Repository,
    log: &mut Log,
    uploader: &Uploader,
    run: &Run,
    options: BackupOptions,
) -> Result<()> {
    let report = run.report(None);
    let mut manifest = uploader.session.manifest(repository);
    manifest.disks = to_u32("number of disks", report.members.len())?;
    manifest.size_bytes = report.size_bytes;
    manifest.data_bytes = public_bytes(report.data_bytes);
    manifest.new_bytes = public_bytes(report.new_bytes);
    manifest.stored_bytes = public_bytes(uploader.stored_bytes);
    manifest.consistency = report.consistency();
    manifest.scan = run.scan();
    manifest.class.clone_from(&options.class);
    manifest.retain_until = options.retain_until;
    let session = uploader.session.id;
    let vm = (*options.public_name() != options.vm).then(|| options.vm.clone());
    let annexes = run.statistics.clone();
    let body = Body { vm, tags: options.tags, members: report.members, annexes };
    let name = UnitName { kind: UnitKind::Body, session, a: 0, b: 0 };
    let root: RootKey = repository.keys.metadata_root(&session)?;
    let body = seal_raw(&root, &name, 3, body.encode().as_bytes())?;
    uploader.session.commit(repository, log, &manifest, &run.uses.encode()?, &body).await
}
