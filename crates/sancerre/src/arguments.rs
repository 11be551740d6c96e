//! The commands and their options, as clap reads them. Variables are read elsewhere: see [`crate::io`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use sancerre_engine::backup::{Dedup, MEMORY_BYTES};
use sancerre_engine::select::Selector;
use sancerre_format::FormatError;
use sancerre_format::names::{Name, Tag, Time, Title, Zone};

use crate::command::audit::Audit;
use crate::command::doctor::Doctor;
use crate::command::drill::Drill;
use crate::command::files::{
    cat::Cat, catalogue::MakeCatalogue, find::Find, get::Get, history::History, ls::Ls, mount::Mount,
};
use crate::command::nbd::Nbd;
use crate::command::recover::Recover;
use crate::command::rto::Rto;
use crate::command::{
    Approve, Backup, ChangeMaps, Clean, Clear, Diff, Explain, Export, Forget, Gc, Held, Import, Init, Key,
    Lock, MetricsFile, Named, Repair, Setup, Suspect,
};
use crate::formats::Format;
use crate::limits::Limits;
use crate::live::DefineOptions;
use crate::named_path;
use crate::units::{parse_size, typed_size};

/// Base64 digits of a SHA-256, without padding.
const FINGERPRINT_DIGITS: usize = 43;

const AFTER_HELP: &str = "\
Passphrase, the first of these that is set:
  1. SANCERRE_PASSWORD                the passphrase itself
  2. SANCERRE_PASSWORD_FILE           a file that only you can read; its first line
  3. SANCERRE_PASSWORD_COMMAND        a command for sh -c; the first line it prints
  4. $CREDENTIALS_DIRECTORY/sancerre-password   the systemd credential
  5. the terminal

Other variables:
  SANCERRE_REPOSITORY                 instead of --repo
  SANCERRE_KEY_FILE                   instead of --key-file
  SANCERRE_TRUST                      instead of --trust
  SANCERRE_CACHE_DIR                  instead of --cache-dir of backup
  AWS_*, GOOGLE_*, AZURE_*            of the provider, for s3://, gs:// and az://
  NO_COLOR                            no colours in this help

Exit codes (scripts must take any other code for a failure):
    0  done                            12  wrong key or passphrase
    1  failed                          13  there is a repository already
    2  wrong usage                     20  something in the repository is damaged
    3  done, but not as asked          21  something in the repository is missing
   10  no repository there             22  the snapshot was forgotten
   30  saved, and suspect              23  something needs a newer version
   70  a bug; nothing was made final  130  interrupted

Names of snapshots:
  latest, latest~2                    the newest, the third newest, of the only machine
  web01:latest, web01:latest~1        of one machine
  3f9a, 3f9a12cc                      the beginning of an id, at least 4 digits
  web01:latest:disk0, 3f9a:disk0      one disk of it

Examples:
  export SANCERRE_REPOSITORY=/srv/backup SANCERRE_PASSWORD_FILE=/etc/sancerre/passphrase
  sancerre init --key-file /etc/sancerre/writer.key
  sancerre backup --key-file /etc/sancerre/writer.key --vm web01 /dev/vg0/web01-snap
  sancerre snapshots
  sancerre restore web01:latest:disk0 --target /dev/vg0/web01-new
  sancerre check --read-data-subset 5%";

/// Back up virtual machine disks: deduplicated, encrypted, never overwritten.
#[derive(Debug, Parser)]
#[command(name = "sancerre", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The repository: a path, or a file://, s3://, gs:// or az:// URL [env: SANCERRE_REPOSITORY]
    #[arg(short, long, global = true, value_name = "LOCATION", value_parser = named_path::location())]
    pub(crate) repo: Option<String>,
    /// A writer's or keeper's key file: enough to back up, to list and to check, not to restore [env: SANCERRE_KEY_FILE]
    /// [default: ~/.config/sancerre/writer.key or /etc/sancerre/writer.key, if it is there and of this repository]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// A restore recipient's secret: an age identity file, or an OpenSSH Ed25519 key; may be given several times
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) identity: Vec<PathBuf>,
    /// The trust anchor that `init` printed: refuse a repository of any other administrator [env: SANCERRE_TRUST]
    #[arg(long, global = true, value_name = "FINGERPRINT", value_parser = parse_fingerprint)]
    pub(crate) trust: Option<String>,
    /// The zone: hosts of one zone deduplicate against each other [default: default, or the key file's]
    #[arg(long, global = true, value_name = "NAME", value_parser = parse_zone)]
    pub(crate) zone: Option<Zone>,
    /// Memory to stay within; with less, deduplication and speed suffer, nothing fails
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size, default_value = typed_size(MEMORY_BYTES))]
    pub(crate) memory: u64,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Write JSON lines to standard output, the last of them a summary (`dump`: to standard error)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Write only results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Write more: which key and which credentials are used
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a repository and the key file of its first writer
    Init(Init),
    /// Set up a machine's nightly backup: repository, key file, configuration, schedule, first backup, test restore
    Setup(Setup),
    /// Back up the disks of one virtual machine
    Backup(Box<Backup>),
    /// Save the machine in an OVA as one snapshot
    Import(Box<Import>),
    /// List snapshots
    #[command(alias = "list")]
    Snapshots(Snapshots),
    /// Say what changed between two snapshots
    Diff(Diff),
    /// Say which nights look suspect, and which is the newest one before
    Clean(Clean),
    /// Say where on its disks a night left its traces
    Explain(Explain),
    /// Say what changed on a disk, by what its storage knows
    Map(ChangeMaps),
    /// Restore one disk to a file or device, a whole snapshot or several machines into a directory
    Restore(Restore),
    /// Write one disk, stream or file of a snapshot to standard output
    Dump(Dump),
    /// Write a machine, or one disk, as a file that another hypervisor imports
    Export(Export),
    /// List what is on the disks of a snapshot: volumes, folders and files
    Ls(Ls),
    /// Write a file of a guest to standard output
    Cat(Cat),
    /// Bring files and folders of a guest back
    Get(Get),
    /// Find files of a guest by their names
    Find(Find),
    /// Make the catalogue of files of a snapshot that was saved without one
    Catalogue(MakeCatalogue),
    /// Say how a file of a guest was in each of its snapshots
    History(History),
    /// Mount the disks of a snapshot in a directory, read-only
    Mount(Mount),
    /// Serve the disks of a snapshot over NBD, for a guest to boot from or a program to read
    Nbd(Nbd),
    /// Start a machine from its snapshot at once, and make its disks whole while it runs
    Recover(Recover),
    /// Prove that machines come up: start each from its snapshot, and see
    Drill(Drill),
    /// Say how long it would take until machines are back
    Rto(Rto),
    /// Verify the repository and say what damage costs
    Check(Check),
    /// Try out the store: what it does, and what that means
    Doctor(Doctor),
    /// Verify the repository without any secret, and write a report of it
    Audit(Audit),
    /// Say how much is stored, for which machine, and how much is garbage
    Stats,
    /// Say which snapshots may go, by rules or by name; removes nothing yet
    Forget(Forget),
    /// Consent to what another keeper wants to forget
    Approve(Approve),
    /// Take a forget back, until gc has run
    Undelete(Named),
    /// Protect snapshots or machines from every forget
    Hold(Held),
    /// End the hold of snapshots or machines
    Release(Held),
    /// Say that a suspect machine was looked at, so that deletion goes on
    Clear(Clear),
    /// Call a snapshot suspect, or compute from content how it looks
    Suspect(Suspect),
    /// Delete what no snapshot needs
    Gc(Gc),
    /// Write anew what small lost records said, and give up what cannot be had back
    Repair(Repair),
    /// Keep what live snapshots need locked for longer (S3 Object Lock)
    Lock(Lock),
    /// Manage the keys of writers, keepers and restore recipients
    Key(Key),
    /// Work on the index, a cache that is made of the packs
    Index(Index),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write manual pages
    #[command(hide = true)]
    Man {
        /// Into this directory
        directory: PathBuf,
    },
}

/// List snapshots.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre snapshots
  sancerre snapshots --vm web01 --tag monthly
  sancerre snapshots --json | jq -r '.snapshots[].id'")]
pub(crate) struct Snapshots {
    /// Only those of this machine
    #[arg(long, value_name = "NAME", value_parser = parse_title)]
    pub(crate) vm: Option<Title>,
    /// Only those with this tag; given several times, with all of them
    #[arg(long = "tag", value_name = "TAG", value_parser = parse_tag)]
    pub(crate) tags: Vec<Tag>,
}

/// Restore one disk to a file or device, a whole snapshot or several machines into a directory.
///
/// A file gets its name only when it is whole; until then it is NAME.sancerre-partial. What is at the target already and
/// verifies is not fetched. Needs the passphrase: a writer's key file opens no content.
#[derive(Debug, Args)]
#[command(after_help = "\
Into a directory, disks are named NAME.raw or NAME.qcow2, streams and attached files NAME. What
no file can be called everywhere (/ \\ : * ? \" < > | %), a first . or -, and the last . of a NAME
that would look like a disk or a partial file, is written as % and two hex digits.

Examples:
  sancerre restore web01:latest:disk0 --target web01.raw
  sancerre restore web01:latest~1 --target /dev/vg0/web01 --overwrite
  sancerre restore 3f9a12cc --target /srv/restored/
  sancerre restore --all --target /srv/restored/              # the newest of every machine
  sancerre restore 3f9a12cc --target /srv/restored/ --resume    # after it was interrupted
  sancerre restore web01:latest~1:disk0 --target web01.raw --in-place --keep-damaged damaged.qcow2
  sancerre restore web01:latest --target /srv/vm/web01/ --format qcow2 --to libvirt    # defines the machine, too")]
pub(crate) struct Restore {
    /// The snapshot, and one disk of it if it has several: see `sancerre --help`. Several go into a directory, each into
    /// one of its own that is called as its machine
    #[arg(value_name = "SNAPSHOT[:DISK]", value_parser = Selector::parse, required_unless_present = "all")]
    pub(crate) snapshots: Vec<Selector>,
    /// The newest snapshot of every machine, as if they were named one by one
    #[arg(long, conflicts_with = "snapshots")]
    pub(crate) all: bool,
    /// A file, a block device, a directory (one that exists, or a path that ends in a slash), an export of an NBD server
    /// (nbd://, nbds://, nbd+unix://), a pipe, or - for standard output
    #[arg(long, value_name = "PATH")]
    pub(crate) target: PathBuf,
    /// Replace what is at the target; what is equal there is kept, and only the rest is fetched (a qcow2 image is
    /// made anew). A file keeps its owner, mode and attributes
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Write over the file or device where it lies: only what differs is fetched and written, and no room is needed for a
    /// second disk. Until it is done the target is neither the old disk nor the new; interrupted, the same command goes on
    #[arg(long, conflicts_with_all = ["overwrite", "resume", "format", "compress"])]
    pub(crate) in_place: bool,
    /// With --in-place: keep what is replaced in this new file, a qcow2 overlay of the target. It is whole before anything is
    /// written, and opened it shows the disk as it was
    #[arg(long, value_name = "FILE", requires = "in_place", conflicts_with = "wipe_rest")]
    pub(crate) keep_damaged: Option<PathBuf>,
    /// raw, or qcow2: an image that QEMU starts from, and in which holes take no space. Without it a target that ends in
    /// .qcow2 is one
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Compress the clusters of a qcow2 image: smaller, and slower to write
    #[arg(long)]
    pub(crate) compress: bool,
    /// On a device that is larger than the disk, make all that lies behind the disk zeros too
    #[arg(long)]
    pub(crate) wipe_rest: bool,
    /// Go on with what an interrupted restore left: partial files, and files it finished (to a device: use --overwrite)
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) define: DefineOptions,
}

/// Write one disk, stream or file of a snapshot to standard output.
///
/// Needs the passphrase: a writer's key file opens no content.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre dump web01:latest:disk0 | zstd > web01.raw.zst
  sancerre dump db01:latest:dump.sql | psql")]
pub(crate) struct Dump {
    /// The snapshot, and one disk of it if it has several: see `sancerre --help`
    #[arg(value_name = "SNAPSHOT[:DISK]", value_parser = Selector::parse)]
    pub(crate) snapshot: Selector,
}

/// Verify the repository and say what damage costs.
///
/// Without --read-data it verifies signatures, that every pack is there, and the maps. Reading data verifies every
/// stored byte, and that it lies where the maps say; with the passphrase the content too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre check
  sancerre check --read-data-subset 5%
  sancerre check --read-data-subset 3/7      # the third seventh, one a day of the week
  sancerre check --read-data --quarantine")]
pub(crate) struct Check {
    /// Read all packs
    #[arg(long, conflicts_with = "read_data_subset")]
    pub(crate) read_data: bool,
    /// Read some packs: a share drawn at random (5%), or part n of t (3/7)
    #[arg(long, value_name = "N%|n/t")]
    pub(crate) read_data_subset: Option<Subset>,
    /// Write down what was lost, so that the next backup stores it again
    #[arg(long)]
    pub(crate) quarantine: bool,
    #[command(flatten)]
    pub(crate) metrics: MetricsFile,
}

/// Work on the index, a cache that is made of the packs.
#[derive(Debug, Args)]
pub(crate) struct Index {
    #[command(subcommand)]
    pub(crate) command: IndexCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IndexCommand {
    /// Make the index anew from the packs' own tables
    Rebuild,
    /// Merge small segments into large ones, which need less memory and fewer requests; deletes nothing
    Merge,
}

/// Whose packs a backup builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DedupScope {
    /// Only this writer's
    Own,
    /// All writers' of the zone
    Zone,
}

/// The engine's.
impl Default for DedupScope {
    fn default() -> Self {
        match Dedup::default() {
            Dedup::Own => Self::Own,
            Dedup::Zone => Self::Zone,
        }
    }
}

impl From<DedupScope> for Dedup {
    fn from(scope: DedupScope) -> Self {
        match scope {
            DedupScope::Own => Self::Own,
            DedupScope::Zone => Self::Zone,
        }
    }
}

/// Which packs `check` reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Subset {
    /// A share drawn at random.
    Percent(f64),
    /// One of equal parts, from 1.
    Part {
        /// Which.
        part: u32,
        /// Of how many.
        of: u32,
    },
}

impl std::str::FromStr for Subset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match (text.strip_suffix('%'), text.split_once('/')) {
            (Some(share), _) => {
                share.parse().ok().filter(|share| *share > 0.0 && *share <= 100.0).map(Self::Percent)
            }
            (None, Some((part, of))) => {
                let numbers = part.parse().ok().zip(of.parse().ok());
                numbers
                    .filter(|(part, of)| (1..=*of).contains(part))
                    .map(|(part, of)| Self::Part { part, of })
            }
            _ => None,
        };
        parsed.ok_or_else(|| "give a share such as 5%, or a part such as 3/7".into())
    }
}

pub(crate) fn parse_name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(rule)
}

/// Which rule a word of the command line breaks. It is wrong, not damaged.
pub(crate) fn rule(error: FormatError) -> String {
    match error {
        FormatError::Corrupt { detail, .. } => detail,
        other => other.to_string(),
    }
}

/// The name of a machine or disk, in whichever Unicode form it was typed.
pub(crate) fn parse_title(text: &str) -> Result<Title, String> {
    Title::typed(text).map_err(rule)
}

/// A time, or a day, which lasts to its end.
pub(crate) fn parse_until(text: &str) -> Result<Time, String> {
    Time::parse(text)
        .or_else(|_| Time::parse(&format!("{text}T23:59:59Z")))
        .map_err(|_| "give a day such as 2027-12-31, or a time such as 2027-12-31T12:00:00Z".into())
}

pub(crate) fn parse_fingerprint(text: &str) -> Result<String, String> {
    let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\u{feff}');
    match text.strip_prefix("SHA256:").is_some_and(|hash| hash.len() == FINGERPRINT_DIGITS) {
        true => Ok(text.to_owned()),
        false => {
            Err("a trust anchor is SHA256: and 43 more characters, as `sancerre init` printed it".into())
        }
    }
}

pub(crate) fn parse_tag(text: &str) -> Result<Tag, String> {
    Tag::new(text).map_err(rule)
}

fn parse_zone(text: &str) -> Result<Zone, String> {
    Zone::new(text).map_err(rule)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_option_has_a_line_of_help() {
        fn visit(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&Arguments::command());
    }

    #[test]
    fn a_day_lasts_to_its_end() {
        let cases =
            [("2027-12-31", "2027-12-31T23:59:59Z"), ("2027-12-31T12:00:00Z", "2027-12-31T12:00:00Z")];
        for (text, expected) in cases {
            assert_eq!(parse_until(text).unwrap().to_string(), expected);
        }
        for text in ["", "2027", "31.12.2027", "2027-02-30", "2027-12-31T12:00:00"] {
            parse_until(text).unwrap_err();
        }
    }

    #[test]
    fn subsets_are_understood() {
        let cases = [
            ("5%", Subset::Percent(5.0)),
            ("0.5%", Subset::Percent(0.5)),
            ("100%", Subset::Percent(100.0)),
            ("3/7", Subset::Part { part: 3, of: 7 }),
            ("7/7", Subset::Part { part: 7, of: 7 }),
        ];
        for (text, subset) in cases {
            assert_eq!(text.parse(), Ok(subset), "{text}");
        }
        for text in ["", "5", "%", "0%", "-5%", "101%", "NaN%", "0/7", "8/7", "1/0", "1/2/3", "a/b"] {
            text.parse::<Subset>().unwrap_err();
        }
    }

    #[test]
    fn memory_has_its_documented_default() {
        let parsed = Arguments::try_parse_from(["sancerre", "snapshots"]).unwrap();
        assert_eq!(parsed.global.memory, 300 << 20);
        let parsed = Arguments::try_parse_from(["sancerre", "snapshots", "--memory", "1G"]).unwrap();
        assert_eq!(parsed.global.memory, 1 << 30);
    }
}
