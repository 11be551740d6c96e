//! Images, mounts, trees, and both ways to read them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use sancerre_confine::Helper;
use sancerre_guest::{
    FolderEntry, Guest, GuestError, GuestFile, GuestReader, NodeKind, VolumeContent, inside,
};
use sancerre_image::{Disk, open_raw};

pub(crate) const MIB: u64 = 1 << 20;

/// Not a test: this binary is its own child, when it is called with arguments after `--`.
#[test]
fn helper() {
    let mut arguments = std::env::args_os().skip_while(|word| word != "--");
    if arguments.next().is_some() {
        std::process::exit(sancerre_confine::run(arguments, inside));
    }
}

pub(crate) fn reader() -> GuestReader {
    let arguments = ["lab::helper", "--exact", "--nocapture", "--"].map(OsString::from).to_vec();
    GuestReader::new(Helper { program: std::env::current_exe().unwrap(), arguments }, true)
}

pub(crate) fn open(images: &[&Path]) -> Arc<Guest> {
    let disk = |path: &&Path| -> Arc<dyn Disk> { Arc::new(open_raw(path).unwrap()) };
    Arc::new(reader().open(images.iter().map(disk).collect()).unwrap())
}

/// Says loudly that a test did not run, and fails where everything must run.
pub(crate) fn skip(reason: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "cannot run here, and CI is set: {reason}");
    eprintln!("SKIPPED: {reason}");
    false
}

pub(crate) fn has(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let found = Command::new("sh")
            .args(["-c", &format!("PATH=$PATH:/sbin:/usr/sbin command -v {program} >/dev/null")])
            .status();
        found.is_ok_and(|status| status.success()) || skip(&format!("no {program}"))
    })
}

pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t")) || skip("not root")
}

pub(crate) fn shell(script: &str) -> String {
    let script = format!("set -e\nexport PATH=$PATH:/sbin:/usr/sbin\n{script}");
    let output = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(lab.path("mnt")).unwrap();
        lab
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// Runs a script in the folder, in which `$M` is where things are mounted.
    pub(crate) fn run(&self, script: &str) -> String {
        shell(&format!("cd {0}; M={0}/mnt; {script}", self.folder.path().display()))
    }

    /// Runs a script while a file system of user space serves the image.
    pub(crate) fn with_fuse(&self, mount: &str, sector: u32, script: &str) {
        self.run(&format!(
            "L=$(losetup -b {sector} -f --show fs.img); trap 'umount $M 2>/dev/null; losetup -d $L' EXIT
             {mount} $L $M >/dev/null; {script}
             umount $M; trap - EXIT; losetup -d $L"
        ));
    }

    /// What is on the image, by a file system of user space.
    pub(crate) fn by_fuse(&self, mount: &str, sector: u32) -> Tree {
        let device = self
            .run(&format!("L=$(losetup -r -b {sector} -f --show fs.img); {mount} $L $M >/dev/null; echo $L"));
        let tree = of_folder(&self.path("mnt"));
        self.run(&format!("umount $M; losetup -d {device}"));
        tree
    }

    /// What is on a mounted image, by the kernel.
    pub(crate) fn mounted(&self, image: &str, options: &str) -> Tree {
        self.run(&format!("mount {options} {image} $M"));
        let tree = of_folder(&self.path("mnt"));
        self.run("umount $M");
        tree
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ =
            Command::new("umount").args(["-q", "-l"]).arg(self.path("mnt")).stderr(Stdio::null()).status();
    }
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) kind: NodeKind,
    pub(crate) size: u64,
    /// Of its bytes, or of its target.
    pub(crate) hash: u64,
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

pub(crate) type Tree = BTreeMap<Vec<u8>, Known>;

fn add(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// By the kernel.
pub(crate) fn of_folder(root: &Path) -> Tree {
    let (mut tree, mut open) = (Tree::new(), vec![Vec::new()]);
    while let Some(folder) = open.pop() {
        let path = root.join(PathBuf::from(OsString::from_vec(folder.clone())));
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let mut name = folder.clone();
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(entry.file_name().as_bytes());
            let metadata = fs::symlink_metadata(entry.path()).unwrap();
            let (kind, hash) = if metadata.is_dir() {
                open.push(name.clone());
                (NodeKind::Directory, 0)
            } else if metadata.is_symlink() {
                (NodeKind::Link, add(0, fs::read_link(entry.path()).unwrap().as_os_str().as_bytes()))
            } else if metadata.is_file() {
                (NodeKind::File, hash_file(&entry.path(), metadata.len()))
            } else {
                (NodeKind::Special, 0)
            };
            let size = if kind == NodeKind::Directory { 0 } else { metadata.len() };
            let known = Known {
                kind,
                size,
                hash,
                mode: Some(metadata.mode() & 0o7777),
                owner: Some((metadata.uid(), metadata.gid())),
                seconds: metadata.mtime(),
                nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap(),
            };
            tree.insert(name, known);
        }
    }
    tree
}

fn hash_file(path: &Path, size: u64) -> u64 {
    let file = File::open(path).unwrap();
    let mut hash = 0;
    let mut at = 0;
    while at < size {
        let mut piece = vec![0; usize::try_from((size - at).min(MIB)).unwrap()];
        file.read_exact_at(&mut piece, at).unwrap();
        hash = add(hash, &piece);
        at += piece.len() as u64;
    }
    hash
}

/// By our own reader. What cannot be read is left out, and counted.
pub(crate) fn of_guest(guest: &Arc<Guest>, volume: u16) -> (Tree, Vec<String>) {
    let VolumeContent::Files(info) = &guest.volumes()[usize::from(volume)].content else {
        panic!("no files: {:?}", guest.volumes());
    };
    let (mut tree, mut faults) = (Tree::new(), Vec::new());
    let mut open = vec![(Vec::new(), info.root)];
    while let Some((folder, id)) = open.pop() {
        let mut entries = Vec::new();
        if let Err(error) = guest.list(volume, id, &mut |entry| entries.push(entry)) {
            faults.push(format!("{}: {error}", String::from_utf8_lossy(&folder)));
        } else if let Err(error) = is_placed_alike(guest, volume, id, &entries) {
            faults.push(format!("{}, with places: {error}", String::from_utf8_lossy(&folder)));
        }
        for entry in entries {
            let mut name: Vec<u8> = folder.clone();
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(&entry.name);
            let node = entry.node;
            let hash = match node.kind {
                NodeKind::File => guest_hash(guest, volume, node.id, node.size_bytes),
                NodeKind::Link => guest.link(volume, node.id).map(|target| add(0, &target)),
                _ => Ok(0),
            };
            if node.kind == NodeKind::Directory && name.len() < 4000 {
                open.push((name.clone(), node.id));
            }
            let hash = match hash {
                Ok(hash) => hash,
                Err(error) => {
                    faults.push(format!("{}: {error}", String::from_utf8_lossy(&name)));
                    continue;
                }
            };
            let moment = node.modified;
            let known = Known {
                kind: node.kind,
                size: if node.kind == NodeKind::Directory { 0 } else { node.size_bytes },
                hash,
                mode: node.mode,
                owner: node.owner,
                seconds: moment.map_or(0, |moment| moment.seconds),
                nanoseconds: moment.map_or(0, |moment| moment.nanoseconds),
            };
            tree.insert(name, known);
        }
        if tree.len() > 300_000 {
            break;
        }
    }
    (tree, faults)
}

/// With places a folder has the same names, and its files lie where they lie when they are asked for one by one.
fn is_placed_alike(
    guest: &Guest,
    volume: u16,
    folder: u64,
    entries: &[FolderEntry],
) -> Result<(), GuestError> {
    const ASKED: usize = 50;
    let mut placed = Vec::new();
    guest.list_placed(volume, folder, 256, &mut |one| placed.push(one))?;
    let key = |entry: &FolderEntry| (entry.name.clone(), entry.node.id);
    placed.sort_by_cached_key(|one| key(&one.entry));
    let mut sorted = entries.to_vec();
    sorted.sort_by_cached_key(key);
    assert!(placed.iter().map(|one| &one.entry).eq(sorted.iter()), "{placed:?} {sorted:?}");
    for one in placed.iter().filter(|one| one.entry.node.size_bytes > 0).take(ASKED) {
        let Some(runs) = &one.runs else { continue };
        let node = &one.entry.node;
        assert_eq!(*runs, guest.runs(volume, node.id, b"", 0..node.size_bytes)?);
    }
    Ok(())
}

fn guest_hash(guest: &Arc<Guest>, volume: u16, id: u64, size: u64) -> Result<u64, GuestError> {
    let mut file = GuestFile::new(Arc::clone(guest), volume, id, b"", size);
    let (mut hash, mut at) = (0, 0);
    while at < size.min(256 * MIB) {
        let mut piece = vec![0; usize::try_from((size - at).min(MIB)).unwrap()];
        file.read_at(at, &mut piece)?;
        hash = add(hash, &piece);
        at += piece.len() as u64;
    }
    Ok(hash)
}

/// Fails with the first names that differ.
pub(crate) fn assert_same(ours: &Tree, theirs: &Tree, what: &str) {
    let mut wrong = Vec::new();
    for name in ours.keys().chain(theirs.keys()) {
        let (one, other) = (ours.get(name), theirs.get(name));
        if one != other {
            wrong.push(format!("{}: ours {one:?}, theirs {other:?}", String::from_utf8_lossy(name)));
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{what}: {} differ: {}", wrong.len(), wrong[..wrong.len().min(6)].join("\n"));
    assert!(!ours.is_empty(), "{what}: nothing was compared");
}

/// Only what every file system keeps: names, kinds, bytes.
pub(crate) fn bare(tree: Tree) -> Tree {
    let bare = |known: Known| Known { mode: None, owner: None, seconds: 0, nanoseconds: 0, ..known };
    tree.into_iter().map(|(name, known)| (name, bare(known))).collect()
}

/// A tree with something of everything, made below `$M`.
pub(crate) const TREE: &str = r#"
mkdir -p "$M/d1/d2/d3/d4/d5/d6/d7/d8" "$M/many" "$M/Ünïcode" "$M/empty"
echo -n hello > "$M/d1/d2/d3/d4/d5/d6/d7/d8/deep"
: > "$M/empty file"
head -c 59 /dev/urandom > "$M/inline"; head -c 100 /dev/urandom > "$M/small"
head -c 5000 /dev/urandom > "$M/d1/5000"
head -c 3000001 /dev/urandom > "$M/d1/3M"
truncate -s 40M "$M/sparse"; echo x | dd of="$M/sparse" bs=1 seek=20000000 conv=notrunc status=none
for i in $(seq 0 40); do head -c 1000 /dev/urandom | dd of="$M/holes" bs=1000 seek=$((i*37)) conv=notrunc status=none; done
for i in $(seq 1 700); do echo $i > "$M/many/file with a rather long name, number $i"; done
echo ä > "$M/Ünïcode/日本語 ファイル.txt"; echo é > "$M/Ünïcode/e$(printf '\314\201').txt"
for i in 1 2 3; do for f in a b; do head -c 40000 /dev/urandom >> "$M/frag$f"; sync -f "$M"; done; done
rm "$M/many/file with a rather long name, number 5"
"#;

/// What only file systems of Linux have, on top.
pub(crate) const LINUX: &str = r#"
ln -s d1/3M "$M/link"; ln -s "$(head -c 300 /dev/zero | tr '\0' x)" "$M/longlink"; ln "$M/small" "$M/hard"
printf x > "$M/$(printf 'bad\377name')"; mkfifo "$M/fifo"; mknod "$M/dev" c 1 3
printf x > "$M/$(printf 'line\nbreak\033[31m')"
chmod 4755 "$M/small"; chown 1234:70000 "$M/d1/5000"; touch -d '2040-05-06 07:08:09.123456789' "$M/d1/5000"
touch -d '1960-01-02 03:04:05' "$M/inline"; chmod 0 "$M/empty file"
"#;
