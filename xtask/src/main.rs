//! Project automation: `cargo xtask help` lists the commands.
//!
//! Depends on none of the product's packages, so it still runs when the product does not compile.
// A command line tool for developers: the terminal is its output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod ci;
mod demo;
mod deny;
mod dice;
mod dist;
mod fleet;
mod fuzz;
mod hypervisor;
mod long;
mod nights;
mod probe;
mod services;
mod setup;
mod shell;
mod tidy;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test                 setup, then ci: the one command on a fresh Debian machine with Rust
  ci                   formatting, house rules, dependencies, lints, documentation, tests
  tidy [--bless]       house rules over the sources; --bless renews the digests in docs/FORMAT.md
  deny                 licences, bans and sources of the dependencies, as deny.toml says
  setup                install the programs that the tests use
  services             run the S3 and Azure servers of the tests until Ctrl-C, and say how to use them
  demo                 back up and restore a small disk with the release program, and compare
  dist [--key FILE] [--binary FILE] [--try]
                       a Debian package, a tarball, an SBOM and checksums below target/packages, signed with an SSH
                       key; of a program that is there already; installed and removed in fresh Debians (as root)
  fleet OUT [NIGHTS]   virtual disks of a small hospital, 4 nights of 5 real Debian guests; needs root
  fleet --mini OUT [NIGHTS]
                       the same in small: 2 nights of 2 guests, without root
  nights OUT [--nights N] [--seed S] [--binary FILE] [--only WORD]
                       attacks and honest nights over real file systems, and what backups say of them; needs root
  fuzz [TARGET|all [SECONDS]]
                       the parsers under a fuzzer, a minute each if not said otherwise; installs cargo-fuzz
  probe rclone|radosgw what `sancerre doctor` says of a real server that lies; radosgw needs root
  sim [SEEDS [FIRST]]  lives of a repository with racing writers, collectors and attackers; 100000 if not said otherwise
  faults [COUNT]       backups and restores through that many injected faults; 100000 if not said otherwise
  bench FLEET          speed, size and memory beside restic and the physical limits; builds FLEET if it is not there
  bench formats [PROGRAM]
                       a disk in other forms beside raw, and by a change map; 10 GB below target/bench
  bench files [PROGRAM]
                       files of guests: a catalogue of a million, a year of nights, one file from far away; 12 GB below
                       target/bench, as root
  bench live [PROGRAM [WORD]]
                       machines that run and come back, on libvirt and QEMU, by a far store; all, or what begins with WORD
                       (exports, machines, recoveries, machines::loss); 20 GB, as root
  bench store FLEET    the same to an S3 server, near and far, with the requests that it costs
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(shell::exit_code_of(&error))
        }
    }
}

fn dispatch(words: &[&str]) -> Result<()> {
    // `nights --help` is no folder to fill.
    if words.iter().any(|word| ["--help", "-h"].contains(word)) {
        print!("{USAGE}");
        return Ok(());
    }
    match words {
        ["test"] => setup::run().and_then(|()| ci::run()),
        ["ci"] => ci::run(),
        ["tidy"] => tidy::run(tidy::Mode::Check),
        ["tidy", "--bless"] => tidy::run(tidy::Mode::Bless),
        ["deny"] => deny::run(),
        ["setup"] => setup::run(),
        ["services"] => services::run(),
        ["demo"] => demo::run(),
        ["dist", options @ ..] => dist::run(options),
        ["bench", "store", fleet] => bench::store::run(fleet),
        ["bench", "files"] => bench::files::run(None),
        ["bench", "files", program] => bench::files::run(Some(program)),
        ["bench", "formats"] => bench::formats::run(None),
        ["bench", "formats", program] => bench::formats::run(Some(program)),
        ["bench", "live"] => bench::live::run(None, ""),
        ["bench", "live", program] => bench::live::run(Some(program), ""),
        ["bench", "live", program, word] => bench::live::run(Some(program), word),
        ["bench", fleet] => bench::run(fleet),
        ["nights", options @ ..] => nights::run(options),
        ["fuzz"] => fuzz::run("all", "60"),
        ["fuzz", target] => fuzz::run(target, "60"),
        ["fuzz", target, seconds] => fuzz::run(target, seconds),
        ["probe", server] => probe::run(server),
        ["sim"] => long::sim("100000", "0"),
        ["sim", seeds] => long::sim(seeds, "0"),
        ["sim", seeds, first] => long::sim(seeds, first),
        ["faults"] => long::faults("100000"),
        ["faults", count] => long::faults(count),
        ["fleet", "--mini", out] => fleet::small(out, "2"),
        ["fleet", "--mini", out, nights] => fleet::small(out, nights),
        ["fleet", out] => fleet::full(out, "4"),
        ["fleet", out, nights] => fleet::full(out, nights),
        [] | ["help"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown command `{}`; `cargo xtask help` lists the commands", words.join(" ")),
    }
}
