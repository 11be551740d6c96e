//! The small fleet: `mkfs.ext4 -d` fills night 0, `debugfs -w` works on the copies, so nothing is mounted.
//!
//! Generated contents and their order repeat exactly; the machine's own files and inode change times do not.

use super::content::{self, Document};
use crate::dice::Dice;
use crate::shell;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the partition starts.
const PARTITION_OFFSET_BYTES: u64 = 1 << 20;
/// The clock inside the guests: night 0, and a day later each night.
const NIGHT_0_UNIX_SECONDS: u64 = 1_700_000_000;
const DAY_SECONDS: u64 = 86_400;
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/share", "/usr/bin", "/usr/sbin"];

/// What a guest holds on night 0 and what happens there each night.
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    disk_mib: u64,
    /// Files of the machine's own system, taken from each of three folders.
    system_mib: u64,
    documents: usize,
    new_documents: usize,
    changed_documents: usize,
    log_lines: usize,
}

/// A web server: mostly a system, a log that grows.
pub(crate) const WEB: Guest = Guest {
    name: "web01",
    disk_mib: 512,
    system_mib: 40,
    documents: 40,
    new_documents: 4,
    changed_documents: 2,
    log_lines: 20_000,
};
/// A file server: only documents.
pub(crate) const FILES: Guest = Guest {
    name: "files01",
    disk_mib: 256,
    system_mib: 0,
    documents: 500,
    new_documents: 20,
    changed_documents: 15,
    log_lines: 0,
};

/// Path in the guest to size in bytes and SHA-256.
type Truth = BTreeMap<String, (usize, String)>;

/// Builds `nights` nights of both guests below `out`; what is there already is built anew.
pub(crate) fn build(out: &Path, nights: u32) -> Result<()> {
    ensure!(nights > 0, "a fleet has at least one night");
    let mut truths: Vec<(Guest, Truth)> = vec![(WEB, Truth::new()), (FILES, Truth::new())];
    for night in 0..nights {
        fs::create_dir_all(folder(out, night)).with_context(|| format!("cannot create {}", out.display()))?;
        let mut lines = String::new();
        for (guest, truth) in &mut truths {
            advance(guest, out, night, truth)?;
            for (path, (size_bytes, digest)) in truth.iter() {
                writeln!(lines, "{}\t{path}\t{size_bytes}\t{digest}", guest.name)?;
            }
        }
        fs::write(folder(out, night).join("truth.tsv"), lines)?;
        println!("fleet: night {night} in {}", folder(out, night).display());
    }
    Ok(())
}

/// Builds `nights` nights of one guest below `out`, without the list of its files.
pub(crate) fn build_guest(guest: &Guest, out: &Path, nights: u32) -> Result<()> {
    let mut truth = Truth::new();
    for night in 0..nights {
        fs::create_dir_all(folder(out, night)).with_context(|| format!("cannot create {}", out.display()))?;
        advance(guest, out, night, &mut truth)?;
    }
    Ok(())
}

/// The disk of `guest` on `night`.
pub(crate) fn disk(out: &Path, night: u32, guest: &Guest) -> PathBuf {
    folder(out, night).join(format!("{}.raw", guest.name))
}

/// Makes the disk of one night, from nothing or from the night before, and brings `truth` up to date.
fn advance(guest: &Guest, out: &Path, night: u32, truth: &mut Truth) -> Result<()> {
    let stage = out.join(format!("stage-{}", guest.name));
    let _ = fs::remove_dir_all(&stage);
    fs::create_dir_all(&stage).with_context(|| format!("cannot create {}", stage.display()))?;
    let image = disk(out, night, guest);
    if night == 0 {
        first_night(guest, &stage, &image, truth)?;
    } else {
        copy(&disk(out, night - 1, guest), &image)?;
        next_night(guest, night, &stage, &image, truth)?;
    }
    fs::remove_dir_all(&stage).with_context(|| format!("cannot remove {}", stage.display()))
}

fn folder(out: &Path, night: u32) -> PathBuf {
    out.join(format!("night-{night}"))
}

fn first_night(guest: &Guest, stage: &Path, image: &Path, truth: &mut Truth) -> Result<()> {
    for system in SYSTEM_FOLDERS.iter().filter(|_| guest.system_mib > 0) {
        for path in content::system_files(Path::new(system), guest.system_mib << 20)? {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let document = Document { path: path.to_string_lossy().into_owned(), bytes };
            put(stage, &document, truth)?;
        }
    }
    let mut random = Dice::new(0, &format!("{} night 0", guest.name));
    for _ in 0..guest.documents {
        put(stage, &content::document(&mut random, "/srv"), truth)?;
    }
    format(guest, stage, image)
}

/// Users write new documents and replace old ones, a log is written.
fn next_night(guest: &Guest, night: u32, stage: &Path, image: &Path, truth: &mut Truth) -> Result<()> {
    let mut random = Dice::new(0, &format!("{} night {night}", guest.name));
    let old: Vec<String> = truth.keys().filter(|path| path.starts_with("/srv/")).cloned().collect();
    let mut script = String::new();
    for _ in 0..guest.changed_documents {
        let path = old[random.below(old.len())].clone();
        let document = Document { path, ..content::document(&mut random, "/srv") };
        write(stage, &document, &mut script, truth)?;
    }
    for _ in 0..guest.new_documents {
        let document = content::document(&mut random, &format!("/srv/night-{night}"));
        write(stage, &document, &mut script, truth)?;
    }
    if guest.log_lines > 0 {
        let bytes = content::log(&mut random, guest.log_lines);
        let document = Document { path: format!("/var/log/access.log.{night}"), bytes };
        write(stage, &document, &mut script, truth)?;
    }
    debugfs(image, night, stage, &script)
}

/// Puts a document below `stage` for `mkfs.ext4 -d`. A path that is there already is left as it is.
fn put(stage: &Path, document: &Document, truth: &mut Truth) -> Result<()> {
    let target = stage.join(document.path.trim_start_matches('/'));
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(&target, &document.bytes).with_context(|| format!("cannot write {}", target.display()))?;
    let digest = Sha256::digest(&document.bytes);
    let digest = digest.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    truth.insert(document.path.clone(), (document.bytes.len(), digest));
    Ok(())
}

/// Puts a document below `stage`, and the commands that bring it into the image at the end of `script`.
fn write(stage: &Path, document: &Document, script: &mut String, truth: &mut Truth) -> Result<()> {
    let path = &document.path;
    if truth.contains_key(path) {
        writeln!(script, "rm {path}")?;
    }
    for (at, _) in path.match_indices('/').skip(1) {
        writeln!(script, "mkdir {}", &path[..at])?;
    }
    writeln!(script, "write {} {path}", stage.join(path.trim_start_matches('/')).display())?;
    put(stage, document, truth)
}

/// A partition table and a file system with the files below `stage`.
fn format(guest: &Guest, stage: &Path, image: &Path) -> Result<()> {
    let file = fs::File::create(image).with_context(|| format!("cannot create {}", image.display()))?;
    file.set_len(guest.disk_mib << 20)?;
    let image = image.to_string_lossy();
    let table = "printf 'label: dos\\nlabel-id: 0x53414e43\\nstart=2048, type=83\\n' | sfdisk -q \"$0\"";
    shell::run(shell::command("sh", &["-c", table, &image]))?;
    let uuid = "53414e43-4552-4245-8000-000000000001";
    let options = format!("offset={PARTITION_OFFSET_BYTES},lazy_itable_init=0,hash_seed={uuid}");
    let size = format!("{}M", guest.disk_mib - (PARTITION_OFFSET_BYTES >> 20));
    let stage = stage.to_string_lossy();
    let arguments = ["-q", "-F", "-L", guest.name, "-U", uuid, "-E", &options, "-d", &stage, &image, &size];
    let mut command = shell::command("mkfs.ext4", &arguments);
    command.env("E2FSPROGS_FAKE_TIME", NIGHT_0_UNIX_SECONDS.to_string());
    shell::run(command)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    shell::run(shell::command("cp", &["--sparse=always", &from.to_string_lossy(), &to.to_string_lossy()]))
}

/// Runs `script` on the file system inside `image`.
///
/// debugfs ends with 0 whatever happens and complains about folders that are there already: what it wrote is checked
/// by whoever compares the disk with the truth.
fn debugfs(image: &Path, night: u32, stage: &Path, script: &str) -> Result<()> {
    let file = stage.join("debugfs.script");
    fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))?;
    let image = format!("{}?offset={PARTITION_OFFSET_BYTES}", image.display());
    let mut command = shell::command("debugfs", &["-w", "-f", &file.to_string_lossy(), &image]);
    command.env("E2FSPROGS_FAKE_TIME", (NIGHT_0_UNIX_SECONDS + u64::from(night) * DAY_SECONDS).to_string());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    shell::run(command)
}

#[cfg(test)]
mod tests {
    use super::{FILES, Truth, advance, debugfs, disk, folder};
    use crate::shell;
    use sha2::{Digest, Sha256};
    use std::fs;

    // The files of the second night, read back by debugfs, are those that the truth lists; the rest stayed.
    #[test]
    fn the_second_night_holds_what_the_truth_says() {
        let missing =
            ["mkfs.ext4", "debugfs", "sfdisk"].into_iter().find(|program| !shell::is_installed(program));
        if let Some(program) = missing {
            assert!(std::env::var_os("CI").is_none(), "{program} is missing");
            eprintln!("SKIPPED: {program} is missing; `cargo xtask setup` installs it");
            return;
        }
        let out = std::env::temp_dir().join(format!("sancerre-fleet-{}", std::process::id()));
        let mut truth = Truth::new();
        for night in 0..2 {
            fs::create_dir_all(folder(&out, night)).unwrap();
            advance(&FILES, &out, night, &mut truth).unwrap();
        }
        let dump: String = truth
            .keys()
            .enumerate()
            .map(|(at, path)| format!("dump {path} {}/{at}\n", out.display()))
            .collect();
        let stage = out.join("stage");
        fs::create_dir_all(&stage).unwrap();
        debugfs(&disk(&out, 1, &FILES), 1, &stage, &dump).unwrap();
        assert!(truth.keys().filter(|path| path.starts_with("/srv/night-1/")).count() == FILES.new_documents);
        for (at, (path, (size_bytes, digest))) in truth.iter().enumerate() {
            let bytes = fs::read(out.join(at.to_string())).unwrap();
            let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((bytes.len(), &found), (*size_bytes, digest), "{path}");
        }
        fs::remove_dir_all(&out).unwrap();
    }
}
