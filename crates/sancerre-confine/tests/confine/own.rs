//! What this program itself can reach once it is secluded, tried by its own code.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
use sancerre_confine::{Limits, Seclusion};

use super::{find, own_helper};

/// All that the child does: each line is a name and what became of it. The folder comes through standard input, which is
/// all that it has.
pub(crate) fn try_everything() -> i32 {
    let mut folder = String::new();
    if io::stdin().read_to_string(&mut folder).is_err() {
        return 1;
    }
    let folder = Path::new(&folder);
    try_files(folder);
    try_the_rest(folder);
    let threads = std::thread::spawn(|| 7).join();
    say("a thread", threads.map_err(|_| io::Error::other("none")));
    say("memory", vec![0_u8; 0].try_reserve_exact(1 << 20).map_err(io::Error::other));
    say("much memory", vec![0_u8; 0].try_reserve_exact(3 << 30).map_err(io::Error::other));
    0
}

fn try_files(folder: &Path) {
    for name in ["key", "image", "link"] {
        say(name, File::open(folder.join(name)));
    }
    for path in ["/etc/passwd", "/proc/self/environ", "/proc/self/exe", "/dev/null", "/dev/zero", "/usr/lib"]
    {
        say(path, File::open(path));
    }
    say("a list", fs::read_dir(folder));
    say("whether it is there", fs::metadata(folder.join("key")));
    say("a new file", File::create(folder.join("new")));
    say("a write", File::options().write(true).open(folder.join("image")));
    say("a removal", fs::remove_file(folder.join("key")));
    say("a name", fs::rename(folder.join("key"), folder.join("other")));
    say("a folder", fs::create_dir(folder.join("new")));
    say("another folder", std::env::set_current_dir("/tmp"));
}

fn try_the_rest(folder: &Path) {
    say("tcp", TcpStream::connect("127.0.0.1:1"));
    say("udp", UdpSocket::bind("127.0.0.1:0"));
    say("unix", UnixStream::connect(folder.join("socket")));
    say("a pair", UnixStream::pair());
    say("listening", UnixListener::bind(folder.join("mine")));
    say("a program", Command::new("/bin/true").spawn());
    say("a signal", kill_process(getpid(), Signal::CONT));
    let all = Rlimit { current: None, maximum: None };
    say("its limits", setrlimit(Resource::As, all));
    say("what was open", nix::unistd::close(9));
}

fn say<T, E: std::fmt::Display>(name: &str, result: Result<T, E>) {
    let line = match result {
        Ok(_) => format!("said: {name}: done\n"),
        Err(error) => format!("said: {name}: {error}\n"),
    };
    let _ = io::stdout().write_all(line.as_bytes());
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["key", "image"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    std::os::unix::fs::symlink("key", folder.path().join("link")).unwrap();
    folder
}

/// What the child says, by name.
fn said(sandbox: bool, folder: &Path) -> Vec<(String, String)> {
    let command = own_helper().own_command(&Seclusion { limits: Limits::default(), sandbox });
    // The shell leaves a key open for whoever comes after it.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec 9<\"$0\"; exec \"$@\""]).arg(folder.join("key"));
    shell
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    child.stdin.take().unwrap().write_all(folder.as_os_str().as_encoded_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let lines = text.lines().filter_map(|line| line.split_once("said: ")?.1.split_once(": "));
    lines.map(|(name, result)| (name.to_owned(), result.to_owned())).collect()
}

#[test]
fn this_program_itself_can_open_no_file_no_socket_and_no_key_once_it_is_secluded() {
    let folder = folder();
    let _listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    let all = said(true, folder.path());
    assert!(all.len() > 24, "{all:?}");
    for (name, result) in &all {
        let may = ["a thread", "memory"].contains(&name.as_str());
        assert_eq!(result == "done", may, "{name}: {result}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    // Without the sandbox the same code can: the refusals above are the sandbox's.
    let all = said(false, folder.path());
    let result = |wanted: &str| all.iter().find(|(name, _)| name == wanted).unwrap().1.as_str();
    for name in ["key", "/etc/passwd", "a new file", "udp", "unix", "a thread"] {
        assert_eq!(result(name), "done", "{name}");
    }
    // These are no part of the sandbox.
    for name in ["what was open", "much memory"] {
        assert_ne!(result(name), "done", "{name}");
    }
}

#[test]
fn this_program_does_nothing_where_it_cannot_be_secluded() {
    let (Some(_), folder) = (find("strace"), folder()) else { return };
    let run = |call: &str, sandbox: bool| {
        let command = own_helper().own_command(&Seclusion { limits: Limits::default(), sandbox });
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={call}:error=ENOSYS")]);
        strace.arg(command.get_program()).args(command.get_args());
        strace.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = strace.spawn().unwrap();
        // It may have ended without reading.
        let _ = child.stdin.take().unwrap().write_all(folder.path().as_os_str().as_encoded_bytes());
        child.wait_with_output().unwrap()
    };
    for (call, name) in [("landlock_create_ruleset", "Landlock"), ("seccomp", "seccomp")] {
        let output = run(call, true);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(71) && text.contains(name), "{output:?}");
        assert!(text.contains("`no_sandbox`") && text.contains("the reader of images"), "{text}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("said: "), "{output:?}");
        assert_eq!(run(call, false).status.code(), Some(0));
    }
}

/// From the moment on when it is secluded it opens nothing, and not before that it reads what it is sent.
#[test]
fn the_first_foreign_byte_comes_after_the_sandbox() {
    let (Some(_), folder) = (find("strace"), folder()) else { return };
    let trace: PathBuf = folder.path().join("trace");
    let command = own_helper().own_command(&Seclusion { limits: Limits::default(), sandbox: true });
    let mut strace = Command::new("strace");
    strace
        .args(["-D", "-f", "-qq", "-o"])
        .arg(&trace)
        .args(["-e", "trace=seccomp,landlock_restrict_self,read"]);
    strace.arg(command.get_program()).args(command.get_args());
    let mut child = strace.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(folder.path().as_os_str().as_encoded_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    // The tracer writes its last lines when the program has ended.
    let text = fs::read_to_string(&trace).unwrap();
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in {text}"));
    assert!(at("landlock_restrict_self(") < at("seccomp(") && at("seccomp(") < at("read(0,"), "{text}");
}
