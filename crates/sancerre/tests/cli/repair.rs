//! The built program on a folder in which one small thing is lost or cannot be read: the kernel says EIO for one path, or the
//! file is gone. Nobody else is stopped, and `repair` helps.
use crate::support::{MIB, template};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Site {
    folder: tempfile::TempDir,
    disks: [Vec<u8>; 2],
}

impl Site {
    /// Two nights of a machine, whose second half is new in the second one, and a night of another.
    fn new() -> Self {
        let noise = |seed: u64| -> Vec<u8> {
            let mut state = seed;
            let words = (0..2 * MIB / 8).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state ^ (state >> 29)).to_le_bytes()
            });
            words.flatten().collect()
        };
        let site = Self { folder: tempfile::tempdir().unwrap(), disks: [noise(1), noise(2)] };
        template::make(&site.path("r"), &site.path("w.key"), "correct horse", 0);
        std::fs::write(site.path("web01.raw"), [&site.disks[0][..MIB], &vec![0; MIB]].concat()).unwrap();
        site.back_up("web01");
        for (at, vm) in ["web01", "db01"].into_iter().enumerate() {
            std::fs::write(site.path(&format!("{vm}.raw")), &site.disks[at]).unwrap();
            site.back_up(vm);
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn back_up(&self, vm: &str) {
        self.succeed(&["backup", "--key-file", "w.key", "--no-cache", "--vm", vm, &format!("{vm}.raw")]);
    }

    fn with_environment(&self, command: &mut Command) -> Output {
        command.env_clear().envs(crate::support::CHEAP).current_dir(&self.folder).stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("SANCERRE_REPOSITORY", self.path("r")).env("SANCERRE_PASSWORD", "correct horse");
        command.output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.with_environment(Command::new(env!("CARGO_BIN_EXE_sancerre")).args(arguments))
    }

    /// While the kernel cannot read this file.
    fn run_without(&self, file: &Path, arguments: &[&str]) -> Output {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(file);
        strace.args(["-e", "trace=openat,read,pread64", "-e", "inject=openat,read,pread64:error=EIO"]);
        self.with_environment(strace.arg(env!("CARGO_BIN_EXE_sancerre")).args(arguments))
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        text(&output)
    }

    /// The only file below a folder whose name begins so.
    fn file(&self, folder: &str, session: u64) -> PathBuf {
        let folder = self.path("r/zones/default").join(folder);
        let of_session = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            path.file_name()?.to_str()?.starts_with(&format!("{session:016x}")).then_some(path)
        };
        let found = std::fs::read_dir(folder).unwrap().find_map(of_session).unwrap();
        match found.is_dir() {
            false => found,
            true => std::fs::read_dir(found).unwrap().next().unwrap().unwrap().path(),
        }
    }

    fn key(&self, file: &Path) -> String {
        file.strip_prefix(self.path("r")).unwrap().display().to_string()
    }

    fn restores(&self, vm: &str, at: usize) {
        self.succeed(&["restore", &format!("{vm}:latest"), "--target", "out.raw", "--overwrite"]);
        assert!(std::fs::read(self.path("out.raw")).unwrap() == self.disks[at], "{vm}");
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_the_kernel_cannot_read_costs_what_it_held() {
    if !Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return sancerre_services::skip("strace is not installed");
    }
    let site = Site::new();
    for folder in ["log", "outcome", "lists"] {
        let file = site.file(folder, 1);
        let restored =
            site.run_without(&file, &["restore", "db01:latest", "--target", "out.raw", "--overwrite"]);
        assert!(restored.status.success(), "{folder}: {}", text(&restored));
        assert!(std::fs::read(site.path("out.raw")).unwrap() == site.disks[1]);
        let checked = site.run_without(&file, &["check", "--key-file", "w.key"]);
        assert_eq!(checked.status.code(), Some(20), "{folder}: {}", text(&checked));
        assert!(text(&checked).contains(&site.key(&file)), "{}", text(&checked));
        let backup = ["backup", "--key-file", "w.key", "--no-cache", "--vm", "db01", "db01.raw"];
        let saved = site.run_without(&file, &backup);
        assert!(saved.status.success(), "{folder}: {}", text(&saved));
    }
    // Of the machine itself: its log entry and its list cost it nothing.
    for folder in ["log", "lists"] {
        let file = site.file(folder, 1);
        let restored =
            site.run_without(&file, &["restore", "web01:latest", "--target", "out.raw", "--overwrite"]);
        assert!(restored.status.success(), "{folder}: {}", text(&restored));
        assert!(std::fs::read(site.path("out.raw")).unwrap() == site.disks[0]);
    }
    // A pack costs ranges, and the message does not promise what will not come.
    let pack = std::fs::read_dir(site.path("r/zones/default/packs/0000000000000001")).unwrap();
    let pack =
        pack.map(|entry| entry.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let restored = site.run_without(&pack, &["restore", "web01:latest", "--target", "new.raw"]);
    let told = text(&restored);
    assert_eq!(restored.status.code(), Some(20), "{told}");
    assert!(
        told.contains("bytes 0..") && told.contains("rescued disk") && told.contains("--resume"),
        "{told}"
    );
    assert!(!told.contains("goes on from there"), "{told}");
    site.succeed(&["restore", "web01:latest", "--target", "new.raw", "--resume"]);
    assert!(std::fs::read(site.path("new.raw")).unwrap() == site.disks[0]);
}

#[test]
fn repair_says_what_it_would_do_and_does_it() {
    let site = Site::new();
    assert!(site.succeed(&["repair"]).contains("nothing that could be made anew"));
    let list = site.file("lists", 1);
    std::fs::remove_file(&list).unwrap();
    let told = site.succeed(&["repair"]);
    assert!(told.contains("would write") && told.contains("--yes does it"), "{told}");
    assert_eq!(std::fs::read_dir(list.parent().unwrap()).unwrap().count(), 0, "nothing was done");
    site.restores("web01", 0);
    let writer = site.run(&["repair", "--yes", "--key-file", "w.key"]);
    assert!(writer.status.success(), "the passphrase is the administrator's: {}", text(&writer));
    assert_eq!(std::fs::read_dir(list.parent().unwrap()).unwrap().count(), 1);
    site.succeed(&["check", "--read-data"]);
    site.restores("web01", 0);

    // A log entry for which nothing stands: first its outcome goes, then itself.
    for file in [site.file("outcome", 1), site.file("log", 1)] {
        std::fs::remove_file(file).unwrap();
    }
    let stopped = site.run(&["backup", "--key-file", "w.key", "--no-cache", "--vm", "db01", "db01.raw"]);
    assert_eq!(stopped.status.code(), Some(21), "{}", text(&stopped));
    assert!(text(&stopped).contains("sancerre repair"), "{}", text(&stopped));
    let key = "zones/default/log/0000000000000001";
    let left = site.run(&["repair"]);
    assert!(
        left.status.code() == Some(3) && text(&left).contains(&format!("--give-up {key}")),
        "{}",
        text(&left)
    );
    site.succeed(&["repair", "--give-up", key, "--yes", "--reason", "no copy"]);
    site.back_up("db01");
    site.succeed(&["gc", "--wait", "0s"]);
    site.restores("db01", 1);
    // What the later night needs of that session is there, and the heads of its packs say what opens it.
    site.restores("web01", 0);
}

#[test]
fn a_lost_config_is_no_empty_place() {
    let site = Site::new();
    let (config, kept) = (site.path("r/config"), site.path("kept"));
    std::fs::rename(&config, &kept).unwrap();
    for arguments in [&["snapshots"][..], &["check", "--key-file", "w.key"], &["init", "--key-file", "n.key"]]
    {
        let output = site.run(arguments);
        assert_eq!(output.status.code(), Some(21), "{arguments:?}: {}", text(&output));
        let said = text(&output);
        assert!(said.contains("config is missing") && said.contains("Do not empty"), "{said}");
    }
    assert!(!site.path("n.key").exists() && !config.exists());
    std::fs::rename(&kept, &config).unwrap();
    site.restores("web01", 0);
}
