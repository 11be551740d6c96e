//! The built program on folders that cannot do everything: mounts without hard links or without flushing, disks that are
//! full, umasks, and what writes leave that died.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::support::{FIRST_LINK_WAITS, Loop, MIB, Site, has, quiet, told, walk};

/// Whatever a mount says to a hard link: a repository works there, and a second one is not made over it.
#[test]
fn a_folder_without_hard_links_holds_a_repository() {
    if !Site::has_strace() {
        return;
    }
    for refusal in ["EPERM", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EIO", "EACCES", "EINVAL"] {
        let site = Site::empty();
        let inject = format!("inject=link,linkat:error={refusal}");
        let strace =
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=link,linkat", "-e", inject.as_str()];
        let run = |arguments: &[&str]| site.command_behind(&strace, arguments).output().unwrap();
        let made = run(&["init", "--key-file", "w.key", "--writer", "hv1"]);
        assert!(made.status.success(), "{refusal}: {}", told(&made));
        assert_eq!(run(&["init", "--key-file", "x.key"]).status.code(), Some(13), "{refusal}");
        std::fs::write(site.path("disk.raw"), crate::support::noise(1, 2 * MIB)).unwrap();
        let saved = run(&["backup", "--key-file", "w.key", "--vm", "web01", "disk0=disk.raw"]);
        assert!(saved.status.success(), "{refusal}: {}", told(&saved));
        // A host that has hard links works beside it.
        assert!(site.back_up(2, 2 * MIB).status.success());
        if refusal == "EPERM" {
            site.comes_back();
        }
        let left: Vec<PathBuf> = walk(&site.place.join("zones"))
            .into_iter()
            .filter(|path| path.to_string_lossy().contains('#'))
            .collect();
        assert!(left.is_empty(), "{refusal}: {left:?}");
    }
}

/// Something with which a folder is seen, while this lives.
struct Mount {
    server: Child,
    mountpoint: PathBuf,
}

impl Mount {
    /// Shows `site`'s folder `behind` at `mounted`; `refusals` as the script has them. None, loudly, without FUSE.
    fn new(site: &Site, refusals: &[&str]) -> Option<Self> {
        if !has("fusermount") || !has("/usr/bin/python3") {
            return None;
        }
        let (behind, mountpoint) = (site.path("behind"), site.path("mounted"));
        std::fs::create_dir(&behind).unwrap();
        std::fs::create_dir(&mountpoint).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/folders/mount.py");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).args([&behind, &mountpoint]).args(refusals);
        let mount = Self { server: command.stdin(Stdio::null()).spawn().unwrap(), mountpoint };
        let started = Instant::now();
        let device = |path: &Path| path.metadata().map(|meta| meta.dev()).ok();
        while device(&mount.mountpoint) == device(&behind) {
            if started.elapsed() > Duration::from_secs(20) {
                sancerre_services::skip("FUSE does not mount here");
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(mount)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        quiet(Command::new("fusermount").args(["-u", "-z"]).arg(&self.mountpoint));
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// Where nothing can be created without the risk of replacing something, `init` and `doctor` say what lacks.
#[test]
fn a_mount_with_neither_links_nor_such_renames_is_refused_by_name() {
    let site = Site::empty();
    let Some(mount) = Mount::new(&site, &[]) else { return };
    let place = mount.mountpoint.join("repository");
    let site = site.at(place);
    let refused = site.run(&["init", "--key-file", "w.key"]);
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    for word in ["hard links", "Operation not permitted", "renameat2", "Invalid argument", "Nothing was made"]
    {
        assert!(told(&refused).contains(word), "{word}: {}", told(&refused));
    }
    assert!(!site.path("w.key").exists() && walk(&site.place).is_empty());
    let tried = site.run(&["doctor"]);
    assert!(tried.status.code() == Some(1) && told(&tried).contains("hard links"), "{}", told(&tried));
}

/// A mount whose folders cannot be flushed holds a repository; `init` and `doctor` say what that means.
#[test]
fn a_mount_whose_folders_cannot_be_flushed_is_used_and_told() {
    for refusal in ["EINVAL", "ENOTSUP", "ENOTTY", "EACCES"] {
        let site = Site::empty();
        let refusal = format!("fsyncdir={refusal}");
        let Some(mount) = Mount::new(&site, &["links", &refusal]) else { return };
        let site = site.at(mount.mountpoint.join("repository"));
        let made = site.run(&["init", "--key-file", "w.key", "--writer", "hv1"]);
        assert!(made.status.success() && told(&made).contains("cannot be flushed"), "{}", told(&made));
        let saved = site.back_up(1, 2 * MIB);
        assert!(saved.status.success(), "{refusal}: {}", told(&saved));
        site.comes_back();
        let tried = site.run(&["doctor", "--json"]);
        assert_eq!(tried.status.code(), Some(3), "{}", told(&tried));
        assert!(told(&tried).contains(r#""check":"flush""#), "{}", told(&tried));
    }
}

/// A share that lets nobody delete keeps a second name of each object; `check` says so, and nothing else suffers.
#[test]
fn a_mount_that_lets_nobody_delete_holds_a_repository() {
    let site = Site::empty();
    let Some(mount) = Mount::new(&site, &["links", "unlink=EPERM"]) else { return };
    let site = site.at(mount.mountpoint.join("repository"));
    site.succeed(&["init", "--key-file", "w.key", "--writer", "hv1"]);
    let saved = site.back_up(1, 2 * MIB);
    assert!(saved.status.success(), "{}", told(&saved));
    site.comes_back();
    let checked = site.succeed(&["check"]);
    assert!(told(&checked).contains("writes that are under way, or died"), "{}", told(&checked));
}

fn dated(path: &Path, hours_ago: u64) {
    let time = SystemTime::now() - Duration::from_secs(hours_ago * 3600);
    std::fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Files of writes that died, wherever they lie: told, and removed once nobody can be writing them.
#[test]
fn what_a_dead_write_left_is_told_and_goes_a_day_later() {
    let site = Site::new();
    assert!(site.back_up(1, 2 * MIB).status.success());
    let old =
        ["config#1", "keys/zones/x#7", "zones/default/log/x#2", "zones/default/packs/0000000000000009/x#1"];
    let new = "zones/default/outcome/y#18446744073709551615";
    for name in old.iter().chain([&new]) {
        let path = site.place.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, crate::support::noise(3, MIB)).unwrap();
    }
    old.iter().for_each(|name| dated(&site.place.join(name), 25));
    dated(&site.place.join(new), 23);
    // Room for emergencies is none of them, however old.
    let reserve = || walk(&site.place.join("reserve")).len();
    let before = reserve();
    dated(&site.place.join("reserve/0"), 1000);
    let checked = site.succeed(&["check"]);
    assert!(told(&checked).contains("5 files of 5242880 bytes"), "{}", told(&checked));
    let counted = site.succeed(&["stats", "--json"]);
    assert!(told(&counted).contains(r#""leftover_bytes":5242880"#), "{}", told(&counted));
    let dry = site.succeed(&["gc", "--key-file", "k.key", "--dry-run"]);
    assert!(old.iter().all(|name| site.place.join(name).exists()), "{}", told(&dry));
    let collected = site.succeed(&["gc", "--key-file", "k.key", "--wait", "0s"]);
    assert!(told(&collected).contains("4 files of writes that died"), "{}", told(&collected));
    for name in old {
        assert!(!site.place.join(name).exists(), "{name}");
    }
    assert!(site.place.join(new).exists());
    assert_eq!(reserve(), before);
    site.comes_back();
}

/// A write whose file somebody takes for dead is made again.
#[test]
fn a_file_that_is_cleared_away_while_it_is_written_is_written_again() {
    if !Site::has_strace() {
        return;
    }
    let site = Site::new();
    // The first link waits; meanwhile everything that is under way is removed.
    let mut add = site.command_behind(&FIRST_LINK_WAITS, &["key", "add", "writer", "hv2", "--out", "x.key"]);
    let add = add.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let staged = || {
        walk(&site.place.join("keys"))
            .into_iter()
            .filter(|path| path.to_string_lossy().contains('#'))
            .collect::<Vec<_>>()
    };
    while staged().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(120), "nothing was written");
        std::thread::sleep(Duration::from_millis(10));
    }
    staged().iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let added = add.wait_with_output().unwrap();
    assert!(added.status.success(), "{}", told(&added));
    assert!(told(&site.succeed(&["key", "list"])).contains("hv2"));
}

/// Fills a file system to the last byte.
fn fill(folder: &Path) {
    for (name, block) in [("filled", "bs=64k"), ("rest", "bs=1k")] {
        let path = folder.join(name);
        quiet(Command::new("dd").args(["if=/dev/zero", block]).arg(format!("of={}", path.display())));
    }
    // What is still missing are names: a folder cannot grow either.
    for number in 0..100 {
        if std::fs::write(folder.join(format!("rest{number}")), [0; 1000]).is_err() {
            return;
        }
    }
}

/// Forgets and collects on a disk on which nothing more can be written.
fn can_be_emptied(site: &Site) {
    let full = site.back_up(9, 24 * MIB);
    assert_eq!(full.status.code(), Some(1), "{}", told(&full));
    let text = told(&full);
    for word in ["the disk is full", "sancerre gc", site.place.to_str().unwrap()] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let forgotten = site.run(&["forget", "--key-file", "k.key", "web01:latest~1"]);
    assert!(forgotten.status.success(), "{}", told(&forgotten));
    let collected = site.run(&["gc", "--key-file", "k.key", "--json"]);
    assert!(collected.status.success(), "{}", told(&collected));
    assert!(!told(&collected).contains(r#""deleted_packs":0"#), "{}", told(&collected));
}

fn works_again(site: &Site) {
    let saved = site.back_up(10, 4 * MIB);
    assert!(saved.status.success(), "{}", told(&saved));
    site.comes_back();
    site.succeed(&["check"]);
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_can_be_emptied() {
    let site = Site::empty();
    let Some(disk) = Loop::new(site.folder.path(), 64, &[]) else { return };
    let site = site.at(disk.mountpoint.join("repository")).made();
    assert!(site.back_up(1, 12 * MIB).status.success());
    assert!(site.back_up(2, 12 * MIB).status.success());
    fill(&disk.mountpoint);
    can_be_emptied(&site);
    works_again(&site);
}

#[test]
fn a_disk_that_has_no_room_for_one_more_file_can_be_emptied() {
    let site = Site::empty();
    let Some(disk) = Loop::new(site.folder.path(), 96, &["-N", "256"]) else { return };
    let site = site.at(disk.mountpoint.join("repository")).made();
    assert!(site.back_up(1, 12 * MIB).status.success());
    assert!(site.back_up(2, 12 * MIB).status.success());
    std::fs::create_dir(disk.mountpoint.join("others")).unwrap();
    let made = (0..1000)
        .take_while(|number| std::fs::write(disk.mountpoint.join(format!("others/{number}")), b"").is_ok());
    assert!(made.count() < 1000);
    can_be_emptied(&site);
    // Small objects take as many names as large ones.
    std::fs::remove_dir_all(disk.mountpoint.join("others")).unwrap();
    works_again(&site);
}

/// Modes of everything in a folder, with the folder's own.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let own = std::fs::metadata(folder).unwrap().permissions().mode() & 0o7777;
    let entries = std::fs::read_dir(folder).unwrap().flatten().flat_map(|entry| {
        if entry.path().is_dir() {
            return modes(&entry.path());
        }
        vec![(entry.path(), entry.metadata().unwrap().permissions().mode() & 0o7777)]
    });
    [(folder.to_owned(), own)].into_iter().chain(entries).collect()
}

/// Whatever the umask, a repository is for its owner alone; in a folder that hands its group on, for that group too.
#[test]
fn permissions_do_not_depend_on_the_umask() {
    for (umask, shared) in [("000", false), ("077", false), ("027", false), ("000", true), ("077", true)] {
        let site = Site::empty();
        if shared {
            std::fs::set_permissions(&site.folder, std::fs::Permissions::from_mode(0o2770)).unwrap();
        }
        std::fs::write(site.path("disk.raw"), crate::support::noise(1, MIB)).unwrap();
        let (init, backup) = (
            ["init", "--key-file", "w.key", "--writer", "hv1"].as_slice(),
            ["backup", "--key-file", "w.key", "--vm", "web01", "disk0=disk.raw"].as_slice(),
        );
        for arguments in [init, backup] {
            let shell = ["sh", "-c", r#"umask "$0"; exec "$@""#, umask];
            let done = site.command_behind(&shell, arguments).output().unwrap();
            assert!(done.status.success(), "{umask}: {}", told(&done));
        }
        let (folders, files) = if shared { (0o2770, 0o660) } else { (0o700, 0o600) };
        for (path, mode) in modes(&site.place) {
            let wanted = if path.is_dir() { folders } else { files };
            assert_eq!(mode, wanted, "umask {umask}, shared {shared}: {} has {mode:o}", path.display());
        }
    }
}

/// A passphrase that others can read is none.
#[test]
fn a_passphrase_file_that_others_can_read_is_refused() {
    let site = Site::new();
    let path = site.path("passphrase");
    std::fs::write(&path, "correct horse\n").unwrap();
    for (mode, is_read) in [(0o644, false), (0o640, false), (0o600, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = site.command(&["snapshots"]);
        let output =
            command.env_remove("SANCERRE_PASSWORD").env("SANCERRE_PASSWORD_FILE", &path).output().unwrap();
        assert_eq!(output.status.success(), is_read, "{mode:o}: {}", told(&output));
        assert_eq!(told(&output).contains("chmod 600"), !is_read, "{mode:o}: {}", told(&output));
    }
}
