//! `cargo xtask bench formats`: what a disk costs in another form than raw, and what a change map saves.
//!
//! Ratios within one run: every form is read from the page cache, in turns, three times; what counts is the median. With a
//! program named, that one is measured and nothing is built.

use super::measured::Measured;
use crate::shell;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const MIB: u64 = 1 << 20;
/// The disk, and how much of it holds data.
const DISK_BYTES: u64 = 4 << 30;
const DATA_BYTES: u64 = 2 << 30;
/// One piece that changed; a hundredth of a disk full of data does.
const PIECE: usize = 64 << 10;
const PIECES: u64 = DISK_BYTES / 100 / PIECE as u64;
const ROUNDS: usize = 3;
/// Name, QEMU's format, its options, and what is asked of its speed.
const FORMS: [(&str, &str, &str, &str); 6] = [
    ("a.qcow2", "qcow2", "cluster_size=64k", "0.8"),
    ("b.qcow2", "qcow2", "cluster_size=2M", "0.8"),
    ("c.qcow2", "qcow2", "cluster_size=4k", "0.8"),
    ("d.qcow2", "qcow2", "extended_l2=on,cluster_size=128k", "0.8"),
    ("e.vhdx", "vhdx", "subformat=dynamic", "0.5"),
    ("f.vdi", "vdi", "static=off", "0.5"),
];

/// Measures in `target/bench/formats`, and prints a table.
pub(crate) fn run(program: Option<&str>) -> Result<()> {
    let bench = Bench(Measured::new(program, "formats")?);
    bench.0.init("repo")?;
    bench.forms()?;
    bench.changed()?;
    bench.sparse()?;
    bench.0.remove()
}

struct Bench(Measured);

/// What a backup came to.
struct Saved {
    seconds: f64,
    new_bytes: u64,
    /// Read again of what a map calls unchanged; none without a map.
    sampled_bytes: Option<u64>,
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.0.place.join(name)
    }

    fn save(&self, repository: &str, arguments: &[&str]) -> Result<Saved> {
        let (summary, seconds) = self.0.save(repository, arguments)?;
        let new_bytes = summary["new_bytes"].as_u64().context("the summary has no new bytes")?;
        // `map SOURCE SESSION SAMPLED TAKEN`
        let scan = summary["scan"].as_str().context("the summary does not say how the disk was read")?;
        let sampled = scan.starts_with("map ").then(|| scan.rsplit(' ').nth(1)).flatten();
        Ok(Saved { seconds, new_bytes, sampled_bytes: sampled.map(str::parse).transpose()? })
    }

    fn qemu_img(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("qemu-img");
        command.args(arguments).current_dir(&self.0.place);
        shell::output(command).map(drop)
    }

    /// Every form of one disk that is known already: how fast it is read, and how much of it is new.
    fn forms(&self) -> Result<()> {
        make_disk(&self.path("disk.raw"), DATA_BYTES)?;
        for (name, format, options, _) in FORMS {
            self.qemu_img(&["convert", "-f", "raw", "-O", format, "-o", options, "disk.raw", name])?;
        }
        self.save("repo", &["disk.raw"])?;
        let names: Vec<&str> = std::iter::once("disk.raw").chain(FORMS.map(|form| form.0)).collect();
        let mut new_bytes = vec![0; names.len()];
        let mut times = vec![Vec::new(); names.len()];
        for _ in 0..ROUNDS {
            for (number, name) in names.iter().enumerate() {
                let saved = self.save("repo", &[name])?;
                times[number].push(saved.seconds);
                new_bytes[number] = new_bytes[number].max(saved.new_bytes);
            }
        }
        let medians: Vec<f64> = times.into_iter().map(median).collect();
        let first = |name: &str| self.first(name);
        let firsts = names.iter().copied().map(first).collect::<Result<Vec<f64>>>()?;
        println!(
            "| form | known disk, s | of raw's speed | goal | new | first backup, s | of raw's speed | nbdcopy to nowhere, s |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|"
        );
        let others = FORMS.map(|(_, format, options, goal)| (format, options, goal));
        for (number, (format, options, goal)) in [("raw", "", "")].into_iter().chain(others).enumerate() {
            let (seconds, new, first) = (medians[number], new_bytes[number], firsts[number]);
            println!(
                "| {format} {options} | {seconds:.2} | {:.2} | {goal} | {:.3} % | {first:.2} | {:.2} | {:.2} |",
                medians[0] / seconds,
                new as f64 * 100.0 / DATA_BYTES as f64,
                firsts[0] / first,
                self.nbdcopy(names[number], format)?
            );
        }
        for (name, ..) in FORMS {
            fs::remove_file(self.path(name))?;
        }
        Ok(())
    }

    /// Seconds of the first backup into a repository of its own.
    fn first(&self, name: &str) -> Result<f64> {
        let round = |_| {
            self.0.init("first")?;
            let saved = self.save("first", &[name])?;
            fs::remove_dir_all(self.path("first"))?;
            fs::remove_file(self.path("first.key"))?;
            Ok(saved.seconds)
        };
        Ok(median((0..ROUNDS).map(round).collect::<Result<Vec<f64>>>()?))
    }

    /// What a well-made client of QEMU's own server takes to read all of a disk and throw it away: none is faster that way.
    fn nbdcopy(&self, name: &str, format: &str) -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let mut command = Command::new("nbdcopy");
            command.args(["--", "[", "qemu-nbd", "-r", "-f", format, name, "]", "null:"]);
            let begun = Instant::now();
            shell::run({
                command.current_dir(&self.0.place);
                command
            })?;
            times.push(begun.elapsed().as_secs_f64());
        }
        Ok(median(times))
    }

    /// A hundredth changed: a backup by a map of that, and one of those bytes alone.
    fn changed(&self) -> Result<()> {
        self.0.init("alone")?;
        make_disk(&self.path("full.raw"), DISK_BYTES)?;
        self.save("repo", &["full.raw"])?;
        let disk = File::options().write(true).open(self.path("full.raw"))?;
        let mut alone = File::create(self.path("alone.raw"))?;
        let mut ranges = Vec::new();
        for number in 0..PIECES {
            let at = number * (DISK_BYTES / PIECES) / PIECE as u64 * PIECE as u64;
            let bytes = noise(1_000_000 + number, PIECE);
            disk.write_all_at(&bytes, at)?;
            alone.write_all(&bytes)?;
            ranges.push(format!("{{\"offset\":{at},\"length\":{PIECE}}}"));
        }
        let map = format!(
            "{{\"form\":\"sancerre-change-map-1\",\"disk-bytes\":{DISK_BYTES},\"source\":\"bench\",\"changed\":[{}]}}",
            ranges.join(",")
        );
        fs::write(self.path("map"), map)?;
        let by_map = ["full.raw", "--changed", "map", "--changed-since", "web01:latest"];
        let read = self.bytes_read(&[&by_map[..], &["--dry-run"]].concat())?;
        let mapped = self.save("repo", &by_map)?;
        let only = self.save("alone", &["alone.raw"])?;
        let whole = self.save("repo", &["full.raw"])?;
        ensure!(whole.new_bytes == 0, "a full read found {} bytes that the map hid", whole.new_bytes);
        let changed = PIECES * PIECE as u64;
        println!("\n| {} MiB changed of {} | | goal |\n|---|--:|--:|", changed / MIB, DISK_BYTES / MIB);
        println!("| seconds by the map; of the whole disk | {:.2}; {:.2} | |", mapped.seconds, whole.seconds);
        println!("| of a backup of those bytes alone | {:.2} | 1.3 |", mapped.seconds / only.seconds);
        match read {
            Some(read) => {
                let of_changed = |bytes| bytes as f64 / changed as f64;
                let sampled = mapped.sampled_bytes.context("no map was used")?;
                println!("| bytes read of those that changed | {:.2} | 2.5 |", of_changed(read));
                println!("| of them to see whether the map is true | {:.2} | |", of_changed(sampled));
            }
            None => println!("| bytes read | strace is not installed | 2.5 |"),
        }
        Ok(())
    }

    /// What is read of the disk, by the calls of the kernel.
    fn bytes_read(&self, arguments: &[&str]) -> Result<Option<u64>> {
        if !shell::is_installed("strace") {
            return Ok(None);
        }
        let inner = self.0.command("repo", &[]);
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-e", "trace=pread64", "-o", "trace"]).arg(inner.get_program());
        command.args(["backup", "--quiet", "--key-file", "repo.key", "--vm", "web01"]).args(arguments);
        command.current_dir(&self.0.place).env("SANCERRE_PASSWORD", "only a benchmark");
        command.env("SANCERRE_REPOSITORY", self.path("repo"));
        shell::output(command)?;
        let trace = fs::read_to_string(self.path("trace"))?;
        let of_disk = trace.lines().filter(|line| line.contains("full.raw>") && !line.contains("unfinished"));
        Ok(Some(of_disk.filter_map(|line| line.rsplit_once("= ")?.1.trim().parse::<u64>().ok()).sum()))
    }

    /// A huge disk with little in it.
    fn sparse(&self) -> Result<()> {
        self.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "small.qcow2"])?;
        fs::copy(self.path("small.qcow2"), self.path("huge.qcow2"))?;
        self.qemu_img(&["resize", "-q", "-f", "qcow2", "huge.qcow2", "16T"])?;
        let time = |name| -> Result<f64> {
            let rounds: Result<Vec<f64>> =
                (0..ROUNDS).map(|_| self.save("repo", &[name]).map(|saved| saved.seconds)).collect();
            Ok(median(rounds?))
        };
        let (small, huge) = (time("small.qcow2")?, time("huge.qcow2")?);
        println!(
            "\nqcow2 with {} GiB of data: a disk of 4 GiB in {small:.2} s, of 16 TiB in {huge:.2} s",
            DATA_BYTES >> 30
        );
        Ok(())
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A disk whose data are half noise and half of a kind that compresses, by turns; behind them a hole.
fn make_disk(path: &Path, data_bytes: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.set_len(DISK_BYTES)?;
    for number in 0..data_bytes / MIB {
        let mut bytes = noise(number, MIB as usize);
        if number % 2 == 1 {
            bytes.chunks_mut(64).for_each(|piece| piece[8..].fill(b' '));
        }
        file.write_all_at(&bytes, number * MIB)?;
    }
    Ok(())
}

/// The same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = (0..length / 8).map(|_| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).to_le_bytes()
    });
    words.flatten().collect()
}
