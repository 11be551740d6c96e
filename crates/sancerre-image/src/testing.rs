//! Real devices, mounts and users for tests, and the loud way to skip where the machine has none.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::TargetError;

/// Set in the copy of a test that runs under other conditions.
const INNER: &str = "SANCERRE_INNER_TEST";
const NOBODY: u32 = 65534;
/// With a pause of 10 ms each.
const TRIES: usize = 300;

/// Says that a test did not run; fails instead where everything must run.
#[allow(clippy::print_stderr)]
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot run here, and CI is set: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// Runs a program to its end; `Err` says why it failed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A loop device over a file, detached when dropped.
pub(crate) struct LoopDevice(PathBuf);

impl LoopDevice {
    /// `None`, said loudly, where loop devices cannot be made.
    ///
    /// One at a time on the whole machine: of two that pick the same free device the loser claims it for a moment,
    /// and the winner's device then looks busy.
    pub(crate) fn attach(backing: &Path) -> Option<Self> {
        let turn = File::open("/dev/loop-control").and_then(|control| control.lock().map(|()| control));
        let attached = match turn {
            Ok(_turn) => run("losetup", &["--find", "--show", backing.to_str().unwrap()]),
            Err(error) => Err(format!("/dev/loop-control: {error}")),
        };
        match attached {
            Ok(device) => Some(Self(PathBuf::from(device))),
            Err(reason) => {
                skip(&format!("no loop device: {reason}"));
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = run("losetup", &["--detach", self.0.to_str().unwrap()]);
    }
}

/// An ext4 file system on a device, unmounted when dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn ext4(device: &Path, directory: &Path) -> Option<Self> {
        let (device, name) = (device.to_str().unwrap(), directory.to_str().unwrap());
        let made = run("mkfs.ext4", &["-q", "-F", device]).and_then(|_| run("mount", &[device, name]));
        match made {
            Ok(_) => Some(Self(directory.to_owned())),
            Err(reason) => {
                skip(&format!("no ext4 mount: {reason}"));
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // As in `when_free`, a starting process may hold a file in it for a moment.
        let is_unmounted = || run("umount", &[self.0.to_str().unwrap()]).is_ok();
        (0..TRIES).any(|_| is_unmounted() || pause());
    }
}

/// Repeats an attempt on what this process had open before. A process that another test starts holds copies of our
/// descriptors, and with them claims and locks, until it has executed its program.
pub(crate) fn when_free<T>(attempt: impl Fn() -> Result<T, TargetError>) -> Result<T, TargetError> {
    let mut result = attempt();
    for _ in 0..TRIES {
        if !matches!(result, Err(TargetError::InUse { .. } | TargetError::AnotherRestore { .. })) {
            break;
        }
        pause();
        result = attempt();
    }
    result
}

fn pause() -> bool {
    std::thread::sleep(std::time::Duration::from_millis(10));
    false
}

/// Whether this process is the copy started by [`repeat_as_nobody`] or [`repeat_with_fault`].
pub(crate) fn is_inner() -> bool {
    std::env::var_os(INNER).is_some()
}

/// Runs the named test of this binary again as a user without rights: root may open everything.
pub(crate) fn repeat_as_nobody(test: &str) {
    match again(test).current_dir("/").uid(NOBODY).gid(NOBODY).output() {
        Ok(output) => assert_passed(test, &output),
        Err(error) => skip(&format!("cannot run {test} as another user: {error}")),
    }
}

/// Runs the named test of this binary again in a process of its own, so that what it takes can be measured.
pub(crate) fn repeat_alone(test: &str) {
    assert_passed(test, &again(test).output().unwrap());
}

/// The named test of this binary as the copy of itself.
pub(crate) fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(INNER, "1");
    command
}

/// Has a process stand still for a while, in the middle of what it waits for.
pub(crate) fn stand_still(child: &std::process::Child, time: std::time::Duration) {
    let signal = |name: &str| run("kill", &[name, &child.id().to_string()]).unwrap();
    std::thread::sleep(time / 8);
    signal("-STOP");
    std::thread::sleep(time);
    signal("-CONT");
    std::thread::sleep(time / 8);
}

/// How long the processor worked for this thread: unlike a clock, it does not count what other programs took.
pub(crate) fn worked() -> std::time::Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    std::time::Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// The most memory that this process ever had, in bytes.
pub(crate) fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Runs the named test again with a system call that fails, as `strace --inject` describes it.
pub(crate) fn repeat_with_fault(test: &str, injection: &str) {
    if let Err(reason) = run("strace", &["-o", "/dev/null", "true"]) {
        return skip(&format!("no strace: {reason}"));
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", injection]).arg(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(INNER, "1");
    assert_passed(test, &command.output().unwrap());
}

fn assert_passed(test: &str, output: &Output) {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test} failed:\n{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "{test} did not run:\n{stdout}\n{stderr}");
}
