//! A machine that runs without libvirt, by QEMU's own monitor.

use std::time::Instant;

use sancerre_capture::{Qemu, QemuDisk};
use sancerre_engine::backup::BackupReport;
use sancerre_engine::monitor::Monitor;
use sancerre_format::names::MachineId;

use super::with::{Seen, Skipped, With, refuse_unknown};
use crate::command::backup::{self, Subject};
use crate::command::{Backup, Context};
use crate::exit::{Done, Failure};

/// Who kept count, in the manifest.
const SOURCE: &str = "qemu";

/// `--qmp SOCKET --vm NAME`
pub(super) async fn run(options: &Backup, context: &Context) -> Result<Done, Failure> {
    let (Some(name), Some(socket)) = (&options.vm, &options.live.qmp) else {
        return Err(Failure::usage("--source qemu needs the machine's name and its monitor: --vm and --qmp"));
    };
    let (repository, monitor, _watched) = backup::open(options, context).await?;
    let with = With { options, context, repository, memory_bytes: context.global.memory };
    let started = Instant::now();
    let (socket, live) = (socket.clone(), &options.live);
    let (run_folder, scratch) = (live.run_folder(context), live.scratch_folder());
    let repository = with.repository.keys.trust.repository.to_string();
    let agent = live.agent.clone();
    let claimed =
        with.repository.host.compute(move || Qemu::claim(&socket, agent, &run_folder, scratch, &repository));
    let qemu = claimed.await??;
    refuse_unknown(options, name.as_str(), &seen(qemu.disks()))?;
    let machine = qemu.uuid().and_then(|uuid| MachineId::parse(&uuid.to_ascii_lowercase()).ok());
    let subject = Subject { vm: name.clone(), machine };
    let skipped = with.skipped(name.as_str(), &seen(qemu.disks()), &monitor);
    let result = save(&with, &subject, qemu, &skipped, &monitor).await;
    let (exit, summary) = with.ended(&subject, &skipped, started, result)?;
    Ok(Done { exit, summary })
}

fn seen(disks: &[QemuDisk]) -> Vec<Seen<'_>> {
    disks.iter().map(Seen::from).collect()
}

async fn save(
    with: &With<'_>,
    subject: &Subject,
    qemu: Qemu,
    skipped: &[Skipped],
    monitor: &Monitor,
) -> Result<BackupReport, Failure> {
    let began = with.context.host.clock.now();
    let is_taken = |disk: &&QemuDisk| !skipped.iter().any(|skipped| skipped.target == disk.target);
    let targets: Vec<String> = qemu.disks().iter().filter(is_taken).map(|disk| disk.target.clone()).collect();
    if targets.is_empty() {
        return Err(Failure::failed(format!("{} has no disk that can be backed up", subject.vm)));
    }
    let report = with.pictured(subject, qemu, SOURCE, (targets, None), monitor).await?;
    backup::compare_clocks(with.context, &with.repository, &report, began).await;
    Ok(report)
}
