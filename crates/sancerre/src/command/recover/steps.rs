//! The steps of a recovery as commands for a shell, for whoever wants to take them himself.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use sancerre_boot::{DiskPlace, MIRROR_BYTES, StartError};
use serde_json::{Value, json};

use super::bring_up::{Disk, Job};
use super::libvirt::Libvirt;
use super::machine::Machine;
use crate::command::{Context, ended};
use crate::exit::{Done, Exit, Failure};
use crate::guests::shell;
use crate::socket;

/// Prints them.
pub(super) fn print(machines: &[Machine], context: &Context) -> Result<Done, Failure> {
    let (mut text, mut reports) = (String::new(), Vec::with_capacity(machines.len()));
    for machine in machines {
        let steps = steps(machine)?;
        if let [_, _, ..] = machines {
            text.push_str(&heading(machine, machines));
        }
        text.extend(steps.iter().map(|(what, line)| format!("# {what}\n{line}\n")));
        let lines: Vec<Value> = steps.into_iter().map(|(_, line)| json!(line)).collect();
        reports.push(json!({ "vm": machine.job.vm, "steps": lines }));
    }
    context.output.result(&text)?;
    Ok(ended(Exit::Done, [("machines", json!(reports))]))
}

/// Which machine, and when.
fn heading(machine: &Machine, machines: &[Machine]) -> String {
    let after = machine.place.after.iter().filter_map(|number| machines.get(*number));
    let after: Vec<&str> = after.map(|other| other.job.vm.as_str()).collect();
    match after.is_empty() {
        true => format!("\n## {}\n", machine.job.vm),
        false => format!("\n## {}, when these are up: {}\n", machine.job.vm, after.join(", ")),
    }
}

/// A program's name and its arguments.
fn command(program: &Path, arguments: Vec<OsString>) -> Vec<OsString> {
    std::iter::once(program.as_os_str().to_owned()).chain(arguments).collect()
}

fn steps(Machine { reader, job, .. }: &Machine) -> Result<Vec<(&'static str, String)>, Failure> {
    let words = |words: Vec<OsString>| shell(words.iter().map(|word| word.as_os_str()));
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
    if let Some(libvirt) = &job.libvirt {
        steps.extend(of_libvirt(job, libvirt)?);
        return Ok(steps);
    }
    let overlay = |disk: &Disk| DiskPlace::Overlay { path: disk.path.clone(), needs_export: true };
    let places = job.disks.iter().map(overlay).collect();
    let mut arguments = job.plan(job.guest.accelerator(), places).arguments()?;
    arguments.push("-daemonize".into());
    steps.push(("the guest", words(command(&job.guest.qemu, arguments))));
    for (number, disk) in job.disks.iter().enumerate() {
        let monitor = words(vec![format!("UNIX-CONNECT:{}", job.monitor().display()).into()]);
        for (what, asked) in copied(number, disk)? {
            let asked: Vec<String> = std::iter::once(json!({ "execute": "qmp_capabilities" }))
                .chain(asked)
                .map(|ask| format!("echo {}", shell([OsStr::new(&ask.to_string())])))
                .collect();
            steps.push((what, format!("({}; sleep 1) | socat - {monitor}", asked.join("; "))));
        }
    }
    Ok(steps)
}

/// How a disk becomes whole: what QEMU's monitor is asked, step by step.
fn copied(number: usize, disk: &Disk) -> Result<Vec<(&'static str, Vec<Value>)>, Failure> {
    let id = format!("hydrate-{number}");
    let Some(device) = &disk.device else {
        let ask = json!({ "execute": "block-stream", "arguments": {
            "job-id": id, "device": format!("disk-{number}") } });
        let what = "copy the rest of this disk while the guest runs; when query-block-jobs shows nothing any more, it is whole";
        return Ok(vec![(what, vec![ask])]);
    };
    let device = json!({ "execute": "blockdev-add", "arguments": disk.on(device).node(number).map_err(StartError::from)? });
    let mirror = json!({ "execute": "blockdev-mirror", "arguments": {
        "job-id": id, "device": format!("disk-{number}"), "target": format!("device-{number}"), "sync": "full" } });
    let complete = json!({ "execute": "job-complete", "arguments": { "id": id } });
    Ok(vec![
        (
            "copy this disk to its device while the guest runs; all that is on the device is lost",
            vec![device, mirror],
        ),
        (
            "once query-jobs says that it is ready: the guest goes on from the device, and never from the overlay again",
            vec![json!({ "execute": "stop" }), complete],
        ),
        ("when query-jobs shows nothing any more", vec![json!({ "execute": "cont" })]),
    ])
}

/// The steps of a machine that libvirt runs, once its overlays are there.
fn of_libvirt(job: &Job, libvirt: &Libvirt) -> Result<Vec<(&'static str, String)>, Failure> {
    let words = |words: &[&str]| shell(words.iter().map(OsStr::new));
    let (name, (xml, _)) = (libvirt.recovered.name()?, libvirt.recovered.written()?);
    let file = job.folder.join("domain.xml").display().to_string();
    let text = shell([OsStr::new(&xml)]);
    let mut steps = vec![
        ("what libvirt is told of the machine", format!("printf %s {text} >{}", words(&[&file]))),
        ("the machine, without its network", words(&["virsh", "define", &file])),
        ("the machine runs", words(&["virsh", "start", &name])),
    ];
    for disk in &job.disks {
        match &disk.device {
            None => steps.push((
                "copy the rest of this disk while the guest runs; it is whole when this ends",
                words(&["virsh", "blockpull", &name, &disk.export, "--wait", "--verbose"]),
            )),
            Some(device) => steps.extend(switched(&name, job, disk, device)?),
        }
    }
    Ok(steps)
}

/// How a disk of such a machine comes to its device.
fn switched(
    name: &str,
    job: &Job,
    disk: &Disk,
    device: &Path,
) -> Result<[(&'static str, String); 6], Failure> {
    let words = |words: &[&str]| shell(words.iter().map(OsStr::new));
    let file = job.folder.join("device.xml").display().to_string();
    let xml = sancerre_capture::device_xml(&disk.on(device))?;
    let (text, bytes) = (shell([OsStr::new(&xml)]), MIRROR_BYTES.to_string());
    let mut copy = vec!["virsh", "blockcopy", name, &disk.export, "--xml", &file, "--buf-size", &bytes];
    copy.extend(["--reuse-external", "--transient-job", "--wait", "--verbose"]);
    let (path, overlay) = (device.display().to_string(), disk.path.display().to_string());
    let defined = words(&["virsh", "dumpxml", "--inactive", name]);
    Ok([
        ("what libvirt is told of the device", format!("printf %s {text} >{}", words(&[&file]))),
        (
            "copy this disk to its device while the guest runs; all that is on the device is lost",
            words(&copy),
        ),
        ("the guest stands still", words(&["virsh", "suspend", name])),
        (
            "the guest's disk is the device, and never the overlay again",
            words(&["virsh", "blockjob", name, &disk.export, "--pivot"]),
        ),
        (
            "it goes on, if it will start from the device too",
            format!("{defined} | grep -qF {} && {}", words(&[&path]), words(&["virsh", "resume", name])),
        ),
        ("nothing needs the overlay any more", words(&["rm", &overlay])),
    ])
}
