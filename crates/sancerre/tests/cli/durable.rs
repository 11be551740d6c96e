//! What a backup into a folder asks of the operating system, in which order: a power cut after the manifest got its name
//! must find everything that it needs, under its name, on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SANCERRE: &str = env!("CARGO_BIN_EXE_sancerre");
const TRACED: &str = "trace=fsync,fdatasync,link,linkat,mkdir,mkdirat";

/// What happened to a folder's entries and a file's bytes, from the calls that came back.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    /// A file or folder is on the disk; of a folder, the names in it.
    Flushed(PathBuf),
    /// A file got a second name.
    Named(PathBuf, PathBuf),
    /// A folder was made.
    Made(PathBuf),
}

/// Reads the calls that succeeded. One that flushes counts from when it came back, one that names from when it began.
fn calls(trace: &str) -> Vec<Call> {
    let mut flushing = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim();
        match (call.strip_suffix("<unfinished ...>"), call.split_once(" resumed>")) {
            (Some(begun), _) if call.starts_with('f') => drop(flushing.insert(thread, begun.to_owned())),
            (Some(begun), _) => calls.extend(parse(&format!("{begun}) = 0"))),
            (None, Some((_, rest))) => {
                calls.extend(flushing.remove(thread).and_then(|begun| parse(&(begun + rest))));
            }
            (None, None) => calls.extend(parse(call)),
        }
    }
    assert!(flushing.is_empty(), "{flushing:?}");
    calls
}

fn parse(call: &str) -> Option<Call> {
    let (call, result) = call.rsplit_once('=')?;
    if !result.trim().starts_with('0') {
        return None;
    }
    let (name, arguments) = call.split_once('(')?;
    let quoted = paths(arguments);
    match (name, quoted.as_slice()) {
        ("fsync" | "fdatasync", _) => {
            let path = arguments.split_once('<')?.1.split_once('>')?.0;
            Some(Call::Flushed(PathBuf::from(path)))
        }
        ("link" | "linkat", [from, to]) => Some(Call::Named(from.clone(), to.clone())),
        ("mkdir" | "mkdirat", [folder]) => Some(Call::Made(folder.clone())),
        _ => panic!("not understood: {call}"),
    }
}

/// The paths among arguments, each below the folder that is named before it.
fn paths(arguments: &str) -> Vec<PathBuf> {
    let pieces: Vec<&str> = arguments.split('"').collect();
    let pairs = pieces.chunks_exact(2);
    let path = |pair: &[&str]| {
        let folder = pair[0].rsplit_once('<').and_then(|(_, rest)| rest.split_once('>'));
        Path::new(folder.map_or("", |(folder, _)| folder)).join(pair[1])
    };
    pairs.map(path).collect()
}

/// What a power cut would leave.
#[derive(Default)]
struct Disk {
    flushed_files: BTreeSet<PathBuf>,
    /// Names that their folder does not have on the disk yet, with the folder.
    pending: BTreeSet<PathBuf>,
    named: Vec<PathBuf>,
}

impl Disk {
    fn take(&mut self, call: Call) {
        match call {
            Call::Flushed(path) => {
                self.pending.retain(|name| name.parent() != Some(&path));
                self.flushed_files.insert(path);
            }
            Call::Named(from, to) => {
                assert!(self.flushed_files.contains(&from), "{} got its name before its bytes", to.display());
                if to.parent().is_some_and(|folder| folder.ends_with("outcome")) {
                    assert!(self.pending.is_empty(), "the manifest came before {:?}", self.pending);
                }
                self.pending.insert(to.clone());
                self.named.push(to);
            }
            Call::Made(folder) => drop(self.pending.insert(folder)),
        }
    }
}

fn traced(folder: &Path, arguments: &[&str]) -> String {
    let trace = folder.join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-qq", "-s", "4096", "-e", TRACED, "-o"]).arg(&trace).arg(SANCERRE);
    let output = prepare(&mut command, folder, arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(trace).unwrap()
}

fn prepare<'a>(command: &'a mut Command, folder: &Path, arguments: &[&str]) -> &'a mut Command {
    command
        .args(arguments)
        .env_clear()
        .envs(crate::support::CHEAP)
        .env("PATH", "/usr/bin:/bin")
        .current_dir(folder);
    // As the trace names folders of open files.
    let repository = folder.canonicalize().unwrap().join("repository");
    command.env("SANCERRE_REPOSITORY", repository).env("SANCERRE_KEY_FILE", "writer.key");
    command.env("SANCERRE_PASSWORD", "correct horse").stdin(Stdio::null())
}

#[test]
fn the_manifest_comes_after_all_that_it_needs_is_on_the_disk() {
    if !Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return sancerre_services::skip("strace is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let init = ["init", "--key-file", "writer.key", "--writer", "hv1"];
    assert!(
        prepare(&mut Command::new(SANCERRE), folder, &init).stderr(Stdio::null()).status().unwrap().success()
    );
    let noise: Vec<u8> = (0..20u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(folder.join("disk.raw"), noise).unwrap();
    let trace = traced(folder, &["backup", "--vm", "web01", "disk0=disk.raw"]);
    let mut disk = Disk::default();
    calls(&trace).into_iter().for_each(|call| disk.take(call));
    assert!(disk.pending.is_empty(), "reported before it was on the disk: {:?}", disk.pending);
    let of = |part: &str| disk.named.iter().filter(|name| name.to_string_lossy().contains(part)).count();
    // Data, maps, and the counts for the next night.
    assert_eq!([of("/log/"), of("/packs/"), of("/lists/"), of("/index/"), of("/outcome/")], [1, 3, 1, 1, 1]);
}

#[test]
fn a_trace_is_read_as_it_happened() {
    let trace = "1 fsync(9</r/a#1> <unfinished ...>\n\
                 2 mkdir(\"/r/log\", 0777) = 0\n\
                 1 <... fsync resumed>) = 0\n\
                 2 mkdir(\"/r/packs\", 0777 <unfinished ...>\n\
                 2 <... mkdir resumed>) = 0\n\
                 1 linkat(AT_FDCWD</>, \"/r/a#1\", AT_FDCWD</>, \"/r/a\", 0) = -1 EEXIST (File exists)\n\
                 1 linkat(5</r>, \"a#1\", 5</r>, \"b\", 0) = 0\n";
    let path = |text: &str| PathBuf::from(text);
    let wanted = [
        Call::Made(path("/r/log")),
        Call::Flushed(path("/r/a#1")),
        Call::Made(path("/r/packs")),
        Call::Named(path("/r/a#1"), path("/r/b")),
    ];
    assert_eq!(calls(trace), wanted);
}

#[test]
#[should_panic(expected = "the manifest came before")]
fn a_folder_that_was_not_flushed_is_found() {
    let mut disk = Disk::default();
    disk.take(Call::Made(PathBuf::from("/r/packs")));
    disk.take(Call::Flushed(PathBuf::from("/r/outcome/1#1")));
    disk.take(Call::Named(PathBuf::from("/r/outcome/1#1"), PathBuf::from("/r/outcome/1")));
}
