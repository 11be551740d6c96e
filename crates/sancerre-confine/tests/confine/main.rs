//! What a confined program can reach, tried by real programs under a real kernel.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod own;

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use sancerre_confine::{Confinement, Helper, Limits};

/// Not a test: this binary is its own helper, when it is called with arguments after `--`.
#[test]
fn helper() {
    let mut arguments = std::env::args_os().skip_while(|word| word != "--");
    if arguments.next().is_some() {
        std::process::exit(sancerre_confine::run(arguments, own::try_everything));
    }
}

fn own_helper() -> Helper {
    let arguments = ["helper", "--exact", "--nocapture", "--"].map(OsString::from).to_vec();
    Helper { program: std::env::current_exe().unwrap(), arguments }
}

/// Where everything must run, a skip is a failure.
fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot run here, and CI is set: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// The system's own: another may be a script, and its interpreter out of reach.
fn find(program: &str) -> Option<PathBuf> {
    let found = fs::canonicalize(Path::new("/usr/bin").join(program)).ok();
    if found.is_none() {
        skip(&format!("{program} is not installed; `cargo xtask setup` does it"));
    }
    found
}

struct Place {
    folder: tempfile::TempDir,
    python: PathBuf,
}

impl Place {
    fn new() -> Option<Self> {
        let place = Self { folder: tempfile::tempdir().unwrap(), python: find("python3")? };
        fs::create_dir(place.path("inside")).unwrap();
        for name in ["image", "key", "inside/extent"] {
            fs::write(place.path(name), format!("content of {name}")).unwrap();
        }
        std::os::unix::fs::symlink(place.path("key"), place.path("inside/link")).unwrap();
        Some(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn confinement(&self, code: &str) -> Confinement {
        Confinement {
            program: self.python.clone(),
            arguments: ["-S", "-E", "-c", code].map(OsString::from).to_vec(),
            readable: vec![self.path("image"), self.path("inside")],
            writable: Vec::new(),
            limits: Limits::default(),
            listens: false,
            sandbox: true,
        }
    }

    /// What a confined Python says, after "said: ".
    fn says(&self, code: &str) -> String {
        let confinement = self.confinement(&format!("import os,sys\n{code}"));
        said(&own_helper().command(&confinement).stdin(Stdio::null()).output().unwrap())
    }

    fn tries(&self, code: &str) -> String {
        self.says(&tried(code))
    }
}

/// Python that says "done", or why not.
fn tried(code: &str) -> String {
    format!("try:\n {code}\n print('said: done')\nexcept OSError as e:\n print('said:', e.strerror)")
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let line = out.lines().find_map(|line| line.strip_prefix("said: "));
    line.unwrap_or_else(|| panic!("{}\n{out}\n{err}", output.status)).to_owned()
}

fn open(path: &Path) -> String {
    format!("open({:?}).read()", path.to_str().unwrap())
}

#[test]
fn it_writes_what_it_was_given_to_write_and_nothing_else() {
    let Some(place) = Place::new() else { return };
    let tries = |target: &str, mode: &str| {
        let path = place.path(target);
        let code = format!(
            "import os\ntry:\n f=open({:?},'{mode}')\n f.truncate(1<<20)\n f.flush()\n os.fdatasync(f.fileno())\n \
             print('said: done')\nexcept OSError as e:\n print('said:', e.strerror)",
            path.to_str().unwrap()
        );
        let confinement =
            Confinement { writable: vec![place.path("inside/extent")], ..place.confinement(&code) };
        said(&own_helper().command(&confinement).stdin(Stdio::null()).output().unwrap())
    };
    assert_eq!(tries("inside/extent", "r+b"), "done");
    assert_eq!(fs::metadata(place.path("inside/extent")).unwrap().len(), 1 << 20);
    for other in ["image", "key", "inside/link", "inside/new"] {
        assert_ne!(tries(other, "r+b"), "done", "{other}");
    }
    assert_eq!(tries("inside/new", "w+b"), "Permission denied");
    // Without a file to write nothing that is open can be changed either.
    let code = format!("os.truncate(os.open({:?},os.O_RDONLY),0)", place.path("image").to_str().unwrap());
    assert_eq!(place.tries(&code), "Function not implemented");
}

#[test]
fn it_reads_what_it_was_given_and_no_other_file() {
    let Some(place) = Place::new() else { return };
    for name in ["image", "inside/extent"] {
        assert_eq!(place.tries(&open(&place.path(name))), "done", "{name}");
    }
    for path in [place.path("key"), place.path("inside/link"), place.path("inside/../key")] {
        assert_eq!(place.tries(&open(&path)), "Permission denied", "{}", path.display());
    }
    for path in ["/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/1/environ", "/dev/zero"] {
        assert_ne!(place.tries(&open(Path::new(path))), "done", "{path}");
    }
    let folder = place.folder.path().display().to_string();
    assert_eq!(place.tries(&format!("os.listdir('{folder}')")), "Permission denied");
    assert_eq!(place.tries(&format!("os.listdir('{folder}/inside')")), "done");
    // Without the sandbox the same program reads it: the refusals above are the sandbox's.
    let code = format!("print('said:', {})", open(&place.path("key")));
    let confinement = Confinement { sandbox: false, ..place.confinement(&code) };
    let output = own_helper().command(&confinement).stdin(Stdio::null()).output().unwrap();
    assert_eq!(said(&output), "content of key");
}

#[test]
fn it_writes_nothing() {
    let Some(place) = Place::new() else { return };
    let image = place.path("image").display().to_string();
    let folder = place.path("inside").display().to_string();
    for code in [
        format!("open('{image}', 'r+')"),
        format!("open('{folder}/new', 'w')"),
        format!("os.truncate('{image}', 0)"),
        format!("os.unlink('{folder}/extent')"),
        format!("os.rename('{folder}/extent', '{folder}/other')"),
        format!("os.chmod('{image}', 0)"),
        format!("os.symlink('a', '{folder}/s')"),
        format!("os.mkdir('{folder}/d')"),
        format!("os.utime('{image}')"),
        "open('/tmp/sancerre-confined', 'w')".to_owned(),
    ] {
        assert_ne!(place.tries(&code), "done", "{code}");
    }
    assert_eq!(fs::read_to_string(place.path("image")).unwrap(), "content of image");
    assert_eq!(fs::read_dir(place.path("inside")).unwrap().count(), 2);
}

#[test]
fn it_has_no_network_no_other_process_and_no_way_back_to_rights() {
    let Some(place) = Place::new() else { return };
    let listener = UnixListener::bind(place.path("inside/socket")).unwrap();
    let socket = place.path("inside/socket").display().to_string();
    for code in [
        "import socket; socket.socket(socket.AF_INET)".to_owned(),
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)".to_owned(),
        format!("import socket; socket.socket(socket.AF_UNIX).connect('{socket}')"),
        "import socket; socket.socketpair()".to_owned(),
        "os.fork()".to_owned(),
        "os.posix_spawn('/usr/lib/x', ['x'], {})".to_owned(),
        "os.kill(os.getppid(), 0)".to_owned(),
        "os.setuid(1)".to_owned(),
        "os.setgroups([])".to_owned(),
        "os.chroot('/')".to_owned(),
        "os.mkfifo('/tmp/x')".to_owned(),
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))".to_owned(),
    ] {
        assert_ne!(place.tries(&code), "done", "{code}");
    }
    drop(listener);
    assert_eq!(
        place.tries("import threading; t=threading.Thread(target=print); t.start(); t.join()"),
        "done"
    );
    let code = "import ctypes\nl=ctypes.CDLL(None)\nl.syscall.restype=ctypes.c_long\n\
                print('said:', [l.syscall(n,0,0,0,0,0) for n in (101,165,321,425,250,56)], l.prctl(39,0,0,0,0))";
    // ptrace, mount, bpf, io_uring_setup, keyctl, and clone of a process.
    if cfg!(target_arch = "x86_64") {
        assert_eq!(place.says(code), "[-1, -1, -1, -1, -1, -1] -1");
    }
}

#[test]
fn nothing_is_inherited_neither_descriptors_nor_variables() {
    let Some(place) = Place::new() else { return };
    let code =
        "import os\ntry:\n print('said:', os.read(9, 99))\nexcept OSError as e:\n print('said:', e.strerror)";
    let helper = own_helper();
    let command = helper.command(&place.confinement(code));
    // The shell leaves a key open for whoever comes after it.
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg("exec 9<\"$0\"; exec \"$@\"").arg(place.path("key"));
    shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    assert_eq!(said(&shell.output().unwrap()), "Bad file descriptor");
    let mut command = helper.command(&place.confinement("import os; print('said:', sorted(os.environ))"));
    let output = command.env("SANCERRE_PASSWORD", "secret").stdin(Stdio::null()).output().unwrap();
    assert_eq!(said(&output), "['LC_ALL', 'MALLOC_ARENA_MAX']");
    let code = "print('said:', sum(os.path.exists(number) for number in range(3, 999)))";
    assert_eq!(place.says(code), "0");
}

#[test]
fn rights_are_given_up_for_good_without_the_sandbox_too() {
    let Some(place) = Place::new() else { return };
    let code = "f=dict(l.split(':',1) for l in open('/proc/self/status'))\n\
                print('said:', int(f['CapPrm'],16) & ~4, int(f['CapEff'],16) & ~4, f['NoNewPrivs'].strip())";
    let confinement = Confinement { sandbox: false, ..place.confinement(code) };
    let output = own_helper().command(&confinement).stdin(Stdio::null()).output().unwrap();
    // The bit that may be left is reading files of others.
    assert_eq!(said(&output), "0 0 1");
}

#[test]
fn limits_hold() {
    let Some(place) = Place::new() else { return };
    let code =
        "try:\n b = bytearray(3 << 30)\n print('said: done')\nexcept MemoryError:\n print('said: no memory')";
    assert_eq!(place.says(code), "no memory");
    let spin = Confinement {
        limits: Limits { cpu_seconds: 1, ..Limits::default() },
        ..place.confinement("while True: pass")
    };
    let output = own_helper().command(&spin).stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    let path = place.path("inside/extent");
    let grow = format!("open({:?},'r+b').truncate((1<<20)+1)", path.to_str().unwrap());
    for (file_bytes, said_it) in [(1 << 20, "File too large"), (2 << 20, "done")] {
        let grow = Confinement {
            writable: vec![path.clone()],
            limits: Limits { file_bytes, ..Limits::default() },
            ..place.confinement(&tried(&grow))
        };
        assert_eq!(said(&own_helper().command(&grow).stdin(Stdio::null()).output().unwrap()), said_it);
    }
}

#[test]
fn a_socket_is_passed_as_a_service_manager_does() {
    let Some(place) = Place::new() else { return };
    let listener = UnixListener::bind(place.path("socket")).unwrap();
    let code = "import os\nprint('said:', os.environ['LISTEN_FDS'], os.environ['LISTEN_PID'] == str(os.getpid()), \
                os.path.exists(3), os.path.exists(4))";
    let confinement = Confinement { listens: true, ..place.confinement(code) };
    let mut command = own_helper().command(&confinement);
    let output = command.stdin(std::os::fd::OwnedFd::from(listener)).output().unwrap();
    assert_eq!(said(&output), "1 True True False");
}

#[test]
fn what_is_missing_is_an_error_and_the_program_does_not_start() {
    let Some(place) = Place::new() else { return };
    let run = |confinement: &Confinement| {
        let output = own_helper().command(confinement).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let mut confinement = place.confinement("print('ran')");
    confinement.program = "/nonexistent/qemu-nbd".into();
    let (code, text) = run(&confinement);
    assert!(code == Some(71) && text.contains("/nonexistent/qemu-nbd"), "{code:?} {text}");
    let mut confinement = place.confinement("print('ran')");
    confinement.readable.push("/nonexistent/image".into());
    let (code, text) = run(&confinement);
    assert!(code == Some(71) && text.contains("/nonexistent/image"), "{code:?} {text}");
}

#[test]
fn it_ends_with_its_caller() {
    let Some(place) = Place::new() else { return };
    const CODE: &str = "SANCERRE_TEST_CODE";
    let pid = place.path("pid");
    if let Some(code) = std::env::var_os(CODE) {
        let confinement = place.confinement(code.to_str().unwrap());
        let mut child =
            own_helper().command(&confinement).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        fs::write(std::env::var_os("SANCERRE_TEST_PID").unwrap(), child.id().to_string()).unwrap();
        child.wait().unwrap();
        return;
    }
    let mut caller = Command::new(std::env::current_exe().unwrap());
    caller.args(["it_ends_with_its_caller", "--exact", "--nocapture"]).stdout(Stdio::null());
    caller.env(CODE, "import time; time.sleep(60)").env("SANCERRE_TEST_PID", &pid);
    let mut caller = caller.spawn().unwrap();
    let wait_for = |what: &str, test: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !test() {
            assert!(Instant::now() < deadline, "waited too long: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for("a child", &|| fs::read_to_string(&pid).is_ok_and(|text| !text.is_empty()));
    let process = format!("/proc/{}/comm", fs::read_to_string(&pid).unwrap());
    wait_for("the program", &|| fs::read_to_string(&process).is_ok_and(|name| name.starts_with("python3")));
    caller.kill().unwrap();
    caller.wait().unwrap();
    wait_for("its end", &|| !fs::read_to_string(&process).is_ok_and(|name| name.starts_with("python3")));
    // Somebody who is not the parent that is named starts nothing.
    let confinement = place.confinement("print('ran')");
    let command = own_helper().command(&confinement);
    let own = std::process::id().to_string();
    let words =
        command.get_args().map(|word| if word == own.as_str() { "1".into() } else { word.to_owned() });
    let output = Command::new(command.get_program()).args(words).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(71), "{output:?}");
}

/// With a system call that the kernel seems not to know.
fn without(place: &Place, call: &str, sandbox: bool) -> Option<Output> {
    find("strace")?;
    let confinement = Confinement { sandbox, ..place.confinement("print('said: ran')") };
    let command = own_helper().command(&confinement);
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={call}:error=ENOSYS")]);
    let output = strace.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null()).output();
    Some(output.unwrap())
}

#[test]
fn a_kernel_without_landlock_or_seccomp_is_an_error_unless_the_caller_said_so() {
    let Some(place) = Place::new() else { return };
    for (call, name) in [("landlock_create_ruleset", "Landlock"), ("seccomp", "seccomp")] {
        let Some(output) = without(&place, call, true) else { return };
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(71) && text.contains(name), "{output:?}");
        assert!(text.contains("`no_sandbox`"), "{text}");
        let Some(output) = without(&place, call, false) else { return };
        assert_eq!(said(&output), "ran");
    }
}
