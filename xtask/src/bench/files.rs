//! `cargo xtask bench files`: what files of guests cost. A catalogue of a million files, a search in a year of nights, one file
//! from far away, a mount beside `dump`. Needs root, to fill file systems. With a program named, that one is measured and
//! nothing is built; with `MILLION` and `NIGHTS` in the environment, other numbers of files and nights.

use super::link::{FAR, Link};
use super::measured::Measured;
use crate::shell;
use anyhow::{Context, Result, ensure};
use sancerre_services::seaweedfs::{self, Bucket};
use serde_json::Value;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const IN_FOLDER: u64 = 50;

/// Fills a tree; the arguments are the mount, the number of files, and how many are in a folder. Sizes and contents follow from
/// the number of a file.
const FILL: &str = r"import os, sys
root, count, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(0, count, each):
    folder = f'{root}/share-{number // each % 97:02}/dossier-{number // each:06}'
    os.makedirs(folder)
    for at in range(number, min(count, number + each)):
        with open(f'{folder}/letter-{at:07}.doc', 'wb') as file:
            file.write(b'%d ' % at * (20 + at % 100))";

/// A night: of every hundredth folder one file in two is written anew, in every thousandth ten come and five go.
const NIGHT: &str = r"import os, sys
root = sys.argv[1]
folders = sorted(f'{a}/{b}' for a in os.listdir(root) if a.startswith('share') for b in os.listdir(f'{root}/{a}'))
for folder in folders[::100]:
    for name in sorted(os.listdir(f'{root}/{folder}'))[::2]:
        open(f'{root}/{folder}/{name}', 'ab').write(b'once more')
for folder in folders[7::1000]:
    for name in sorted(os.listdir(f'{root}/{folder}'))[:5]:
        os.remove(f'{root}/{folder}/{name}')
    for at in range(10):
        open(f'{root}/{folder}/new-{at}.doc', 'wb').write(b'new')";

/// Measures in `target/bench/files`, and prints what came of it.
pub(crate) fn run(program: Option<&str>) -> Result<()> {
    let bench = Bench { measured: Measured::new(program, "files")? };
    fs::create_dir(bench.measured.place.join("mnt"))?;
    println!("| what | measured | goal |\n|---|--:|--:|");
    bench.million(number("MILLION", 1_000_000)?)?;
    bench.year(number("NIGHTS", 365)?)?;
    bench.far()?;
    bench.mount()?;
    bench.measured.remove()
}

fn number(variable: &str, usual: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is no number")),
        Err(_) => Ok(usual),
    }
}

fn row(what: &str, measured: &str, goal: &str) {
    println!("| {what} | {measured} | {goal} |");
}

struct Bench {
    measured: Measured,
}

impl Bench {
    fn shell(&self, script: &str) -> Result<()> {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("set -e; export PATH=$PATH:/sbin:/usr/sbin; {script}")]);
        command.current_dir(&self.measured.place);
        shell::output(command).map(drop)
    }

    /// Runs a program of Python's on a mounted image.
    fn mounted(&self, image: &str, script: &str, arguments: &str) -> Result<()> {
        fs::write(self.measured.place.join("script.py"), script)?;
        self.shell(&format!(
            "mount -o loop {image} mnt; trap 'umount mnt' EXIT; python3 script.py mnt {arguments}"
        ))
    }

    fn million(&self, files: u64) -> Result<()> {
        self.measured.init("million")?;
        let (inodes, bytes) = (files + files / 8 + 1000, files * 5 / 1000 + 64);
        self.shell(&format!(
            "truncate -s {bytes}M many.raw; mke2fs -q -F -t ext4 -b 1024 -N {inodes} many.raw"
        ))?;
        self.mounted("many.raw", FILL, &format!("{files} {IN_FOLDER}"))?;
        self.measured.save("million", &["many.raw"])?;
        let (_, without) = self.measured.save("million", &["many.raw"])?;
        let (first, with) = self.measured.save("million", &["many.raw", "--catalogue"])?;
        let size = catalogue(&first, "size_bytes")?;
        let seconds = with - without;
        let of = format!("{files} files: a catalogue is made in (s)");
        row(&of, &format!("{seconds:.1}"), "60");
        row(
            "its size, and what of it is stored (MiB)",
            &format!("{:.1}, {:.1}", mib(size), mib(stored(&first)?)),
            "",
        );
        self.mounted("many.raw", NIGHT, "")?;
        self.measured.save("million", &["many.raw"])?;
        let (second, _) = self.measured.save("million", &["many.raw", "--catalogue"])?;
        let new = catalogue(&second, "new_bytes")?;
        let text = format!("{:.1} %, {:.1} %", share(new, size), share(stored(&second)?, stored(&first)?));
        row("the next night adds, of its bytes and of what is stored", &text, "3 %");
        let (found, seconds) = self.measured.said("million", &["find", "letter-0012345*", "latest"])?;
        ensure!(found["by_catalogue"] == true, "no catalogue was read");
        let (_, slow) =
            self.measured.said("million", &["find", "letter-0012345*", "latest", "--no-catalogue"])?;
        row("`find` in one night, and by the disks (s)", &format!("{seconds:.1}, {slow:.1}"), "");
        let (_, seconds) = self.measured.said("million", &["diff", "--files", "latest~1", "latest"])?;
        row("`diff --files` of two nights, one without a catalogue (s)", &format!("{seconds:.1}"), "");
        self.shell("rm -r million million.key many.raw")
    }

    /// Nights of a smaller machine, of which each changes a little.
    fn year(&self, nights: u64) -> Result<()> {
        self.measured.init("year")?;
        let files = 20_000;
        self.shell("truncate -s 160M year.raw; mke2fs -q -F -t ext4 -b 1024 -N 40000 year.raw")?;
        self.mounted("year.raw", FILL, &format!("{files} {IN_FOLDER}"))?;
        for night in 0..nights {
            let script = format!(
                "import sys\nopen(f'{{sys.argv[1]}}/share-{:02}/night-{night}', 'wb').write(b'x')",
                night % 97
            );
            self.mounted("year.raw", &script, "")?;
            self.measured.save("year", &["year.raw", "--catalogue", "--no-statistics"])?;
        }
        self.measured.said("year", &["find", "night-7", "latest", "--all"])?;
        let (found, seconds) = self.measured.said("year", &["find", "night-7", "latest", "--all"])?;
        ensure!(found["by_catalogue"] == nights, "{} nights were told by catalogues", found["by_catalogue"]);
        row(
            &format!("`find --all` over {nights} nights of {files} files, warm (s)"),
            &format!("{seconds:.1}"),
            "5",
        );
        let (_, seconds) = self.measured.said("year", &["history", "web01:/share-07/night-7"])?;
        row("`history` of one file over them (s)", &format!("{seconds:.1}"), "");
        self.shell("rm -r year year.key year.raw")
    }

    /// One file and one folder of a large disk, cold and from far away.
    fn far(&self) -> Result<()> {
        let server = sancerre_services::seaweedfs()
            .context("the S3 server is not installed; `cargo xtask setup` does")?;
        let bucket = server.bucket(Bucket::Plain)?;
        let near = Near { bench: self, bucket: format!("s3://{bucket}"), port: server.port() };
        near.run(&["init", "--quiet", "--key-file", "w.key"])?;
        self.shell(
            "truncate -s 200G large.raw; mke2fs -q -F -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 large.raw
             mount -o loop large.raw mnt; trap 'umount mnt' EXIT; mkdir mnt/share mnt/many
             for n in 1 2 3 4; do head -c 900M /dev/urandom > mnt/share/$n; done; head -c 1000000 /dev/urandom > mnt/share/wanted
             for n in $(seq 1000); do echo $n > mnt/many/file-$n; done",
        )?;
        near.run(&["backup", "--key-file", "w.key", "--vm", "large", "large.raw"])?;
        let link = Link::open(server.port(), FAR)?;
        let far = Near { port: link.port(), ..near };
        for (what, arguments, goal) in [
            (
                "a file of 1 MB of a disk of 200 GB behind 30 ms, cold",
                &["get", "latest:/share/wanted", "--target", "wanted"][..],
                "10 s, 200 MB",
            ),
            (
                "`ls` of a folder of 1,000 files there, with opening",
                &["ls", "-l", "latest:/many"],
                "3 s after opening",
            ),
        ] {
            link.take_counts();
            let begun = Instant::now();
            far.run(arguments)?;
            let (seconds, counts) = (begun.elapsed().as_secs_f64(), link.take_counts());
            let text = format!(
                "{seconds:.1} s, {:.1} MB, {} requests",
                counts.bytes as f64 / 1e6,
                counts.requests()
            );
            row(what, &text, goal);
        }
        self.shell("rm w.key large.raw wanted")
    }

    /// A large file through a mount, beside the whole disk through `dump`.
    fn mount(&self) -> Result<()> {
        self.measured.init("mounted")?;
        self.shell(
            "truncate -s 2200M disk.raw; mke2fs -q -F -t ext4 disk.raw; mount -o loop disk.raw mnt; trap 'umount mnt' EXIT
             head -c 1900M /dev/urandom > mnt/big",
        )?;
        self.measured.save("mounted", &["disk.raw"])?;
        fs::create_dir_all(self.measured.place.join("seen"))?;
        let (mut dumped, mut read) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let mut dump = self.measured.command("mounted", &["dump", "latest", "--quiet"]);
            let begun = Instant::now();
            ensure!(dump.stdout(Stdio::null()).status()?.success(), "dump failed");
            dumped.push(begun.elapsed().as_secs_f64());
            read.push(self.read_mounted()?);
        }
        [&mut dumped, &mut read].iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
        let speed = (1900.0 / read[1]) / (1900.0 / dumped[1]);
        row("a file of 1.9 GB through `mount`, its speed by that of `dump`", &format!("{speed:.2}"), "0.7");
        self.shell("rm -r mounted mounted.key disk.raw seen")
    }

    fn read_mounted(&self) -> Result<f64> {
        let mut command = self.measured.command("mounted", &["mount", "latest", "seen"]);
        let mut mounted = Mounted(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let file = self.measured.place.join("seen/disk0/whole/big");
        let begun = Instant::now();
        while !file.exists() {
            ensure!(begun.elapsed() < Duration::from_secs(60), "the mount does not come");
            thread::sleep(Duration::from_millis(50));
        }
        let begun = Instant::now();
        self.shell("cat seen/disk0/whole/big > /dev/null")?;
        let seconds = begun.elapsed().as_secs_f64();
        self.shell("umount seen")?;
        mounted.0.wait()?;
        Ok(seconds)
    }
}

struct Mounted(Child);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Of one that ended already there is nothing to end.
        let _ = self.0.kill();
    }
}

/// A bucket at the end of a line.
struct Near<'a> {
    bench: &'a Bench,
    bucket: String,
    port: u16,
}

impl Near<'_> {
    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.bench.measured.command(&self.bucket, arguments);
        command.envs(seaweedfs::variables(&format!("http://127.0.0.1:{}", self.port), seaweedfs::ADMIN));
        shell::output(command).map(drop)
    }
}

fn catalogue(saved: &Value, field: &str) -> Result<u64> {
    let members = saved["members"].as_array().context("the summary has no members")?;
    let found =
        members.iter().find(|member| member["name"] == "catalogue").context("there is no catalogue")?;
    found[field].as_u64().with_context(|| format!("the catalogue has no {field}"))
}

fn stored(saved: &Value) -> Result<u64> {
    saved["stored_bytes"].as_u64().context("the summary has no stored bytes")
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}
