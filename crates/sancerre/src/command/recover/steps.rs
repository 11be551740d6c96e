//! The steps of a recovery as commands for a shell, for whoever wants to take them himself.

use sancerre_engine::restore::SnapshotReader;
use serde_json::json;

use super::bring_up::Job;
use super::{command, ended};
use crate::command::Context;
use crate::exit::{Done, Exit, Failure};
use crate::guests::shell;
use crate::socket;

/// Prints them.
pub(super) fn print(reader: &SnapshotReader, job: &Job, context: &Context) -> Result<Done, Failure> {
    let steps = steps(reader, job)?;
    let text: String = steps.iter().map(|(what, line)| format!("# {what}\n{line}\n")).collect();
    context.output.result(&text)?;
    let lines: Vec<&String> = steps.iter().map(|(_, line)| line).collect();
    Ok(ended(Exit::Done, [("vm", json!(job.vm)), ("steps", json!(lines))]))
}

fn steps(reader: &SnapshotReader, job: &Job) -> Result<Vec<(&'static str, String)>, Failure> {
    let words = |words: Vec<std::ffi::OsString>| shell(words.iter().map(|word| word.as_os_str()));
    let exports = job.exports();
    let mut steps = vec![(
        "the folder of the machine",
        words(vec!["mkdir".into(), "-p".into(), job.folder.clone().into()]),
    )];
    let snapshot = reader.manifest().session.intent.to_string();
    let serve = words(vec![
        "sancerre".into(),
        "nbd".into(),
        snapshot.into(),
        "--socket".into(),
        exports.clone().into(),
    ]);
    steps.push(("its disks, served from the repository; leave this running", format!("{serve} &")));
    for disk in &job.disks {
        let uri = socket::uri(&disk.export, &exports);
        let arguments = sancerre_boot::overlay_arguments(&disk.path, &uri, disk.size_bytes);
        steps.push((
            "what the guest writes goes here, once; never make it anew",
            words(command("qemu-img".as_ref(), arguments)),
        ));
    }
    let needs = vec![true; job.disks.len()];
    let mut arguments = job.plan(job.guest.accelerator(), &needs).arguments()?;
    arguments.push("-daemonize".into());
    steps.push(("the guest", words(command(&job.guest.qemu, arguments))));
    for number in 0..job.disks.len() {
        let ask = json!({ "execute": "block-stream", "arguments": {
            "job-id": format!("hydrate-{number}"), "device": format!("disk-{number}") } });
        let monitor = words(vec![format!("UNIX-CONNECT:{}", job.monitor().display()).into()]);
        steps.push((
            "copy the rest of this disk while the guest runs; when query-block-jobs shows nothing any more, it is whole",
            format!(
                "(echo '{{\"execute\": \"qmp_capabilities\"}}'; echo '{ask}'; sleep 1) | socat - {monitor}"
            ),
        ));
    }
    Ok(steps)
}
