//! `restore --to libvirt`: the disks of a snapshot, and then the machine that they were of.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use sancerre_capture::Restored;
use sancerre_engine::select::Which;
use sancerre_format::names::Title;
use sancerre_image::nbd::NbdUri;
use serde_json::{Value, json};

use super::picture::{DESCRIPTION, NVRAM};
use crate::arguments::{Restore, parse_title};
use crate::command::{Context, restore};
use crate::exit::{Done, Exit, Failure};
use crate::files;

/// Where a machine is defined again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Defining {
    /// libvirt of this host
    Libvirt,
}

/// A machine that is defined again.
#[derive(Debug, Args)]
#[command(next_help_heading = "A machine of a hypervisor")]
pub(crate) struct DefineOptions {
    /// Define the machine again, with the restored disks, in the directory that --target names; refuses to replace one
    #[arg(long, value_enum, conflicts_with_all = ["overwrite", "in_place", "all"])]
    pub(crate) to: Option<Defining>,
    /// Which libvirt of this host [default: qemu:///system]
    #[arg(long, value_name = "URI", requires = "to")]
    connect: Option<String>,
    /// Under another name, with a new id and new network addresses: it may then run beside the first
    #[arg(long = "as", value_name = "NAME", requires = "to", value_parser = parse_title)]
    name: Option<Title>,
    /// Start it
    #[arg(long, requires = "to")]
    start: bool,
}

/// Restores the disks, then defines the machine.
pub(crate) async fn run(options: Restore, context: &Context) -> Result<Done, Failure> {
    let define = &options.define;
    let virsh = super::virsh(context, define.connect.as_deref())?;
    let [snapshot] = options.snapshots.as_slice() else {
        return Err(Failure::usage("--to libvirt takes one snapshot at a time"));
    };
    if snapshot.member.is_some() {
        return Err(Failure::usage("--to libvirt takes a whole snapshot; leave the disk's name out"));
    }
    let is_directory = |path: &Path| {
        path.is_dir()
            || !(path.exists() || path.to_str().is_some_and(NbdUri::is_one) || files::is_stdout(path))
    };
    if !is_directory(&options.target) {
        return Err(Failure::usage("--to libvirt puts the disks into a directory: name one with --target"));
    }
    // What is known to be refused should cost nothing.
    let named = match &snapshot.snapshot {
        Which::Latest { vm, .. } => define.name.as_ref().or(vm.as_ref()),
        Which::Id(_) => define.name.as_ref(),
    };
    if let Some(name) = named {
        Restored::refuse_existing(&virsh, name.as_str())?;
    }
    std::fs::create_dir_all(&options.target).map_err(|error| {
        Failure::failed(format!(
            "cannot make the directory {}: {error}; check the path",
            options.target.display()
        ))
    })?;
    let folder = std::path::absolute(&options.target).map_err(|error| Failure::failed(error.to_string()))?;
    let (name, start) = (define.name.as_ref().map(ToString::to_string), define.start);
    let mut done = restore::disks(options, context).await?;
    // Not all of it: then it is for a person to say whether that is a machine.
    if !matches!(done.exit, Exit::Done | Exit::NotAsAsked) {
        return Ok(done);
    }
    let restored = restored(&done, name)?;
    let defined = restored.define(&virsh, &folder, start)?;
    for target in &defined.without {
        context
            .output
            .warning(&format!("{} has no {target} any more: it is not in the snapshot", defined.name));
        done.exit = Exit::NotAsAsked;
    }
    context.output.message(&format!(
        "{} is defined{}",
        defined.name,
        if start { " and started" } else { "" }
    ));
    done.summary.insert("defined".into(), json!(defined.name));
    Ok(done)
}

fn restored(done: &Done, name: Option<String>) -> Result<Restored, Failure> {
    let members = done.summary.get("members").and_then(Value::as_array);
    let members = members.into_iter().flatten().filter_map(|member| {
        let (name, path) = (member.get("name")?.as_str()?, member.get("path")?.as_str()?);
        Some((name.to_owned(), PathBuf::from(path)))
    });
    let (mut disks, mut nvram, mut xml) = (Vec::new(), None, None);
    for (name, path) in members {
        let path = std::path::absolute(&path).map_err(|error| Failure::failed(error.to_string()))?;
        match (name.as_str(), format(&path)) {
            (DESCRIPTION, _) => {
                xml = Some(std::fs::read_to_string(&path).map_err(|error| {
                    Failure::failed(format!(
                        "cannot read {}: {error}; the disks are restored",
                        path.display()
                    ))
                })?);
            }
            (NVRAM, _) => nvram = Some(path),
            (_, Some(format)) => disks.push((name, path, format)),
            _ => {}
        }
    }
    let xml = xml.ok_or_else(|| {
        Failure::failed(
            "the snapshot has no description of a machine, as `backup --source libvirt` saves it; its disks are restored, \
             define a machine for them by hand",
        )
    })?;
    Ok(Restored { xml, name, disks, nvram })
}

/// What a restored disk is, by the suffix that it was given.
fn format(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "raw" => Some("raw"),
        "qcow2" => Some("qcow2"),
        _ => None,
    }
}
