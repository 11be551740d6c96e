//! `init`: a repository, and the key file of its first writer.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use sancerre_engine::Error;
use sancerre_engine::init::{self, Made, NewRepository};
use sancerre_engine::store::Store;
use sancerre_engine::store::probe::{self, ProbeFinding, Report};
use sancerre_format::config::Layout;
use sancerre_format::names::{self, Name};
use serde_json::json;

use super::approve::parse_approvals;
use super::{Context, doctor, done};
use crate::access;
use crate::arguments::parse_name;
use crate::exit::{Done, Failure};
use crate::interrupt::until_signal;
use crate::key_file::KeyFile;
use crate::passphrase;
use crate::plain;
use crate::repository;
use crate::used;

/// What to do when the repository is made but its key file cannot be written.
const INSTEAD: &str =
    "the repository is made: back up with the passphrase, or make another key with `sancerre key add`";
/// How the object `config` of every repository begins.
const OF_CONFIG: &[u8; 16] = b"sancerre-config-";
/// What statfs(2) calls tmpfs and ramfs.
const IN_MEMORY: [rustix::fs::FsWord; 2] = [0x0102_1994, 0x8584_58f6];
/// Where Linux tells the host's name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Make a repository and the key file of its first writer.
///
/// The key file is made with mode 0600 and never replaces one that exists. It can back up, and it can neither open
/// nor remove what is stored; keep it on the hypervisor. The passphrase opens everything; keep it elsewhere.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre init -r /srv/backup --key-file /etc/sancerre/writer.key
  sancerre init -r s3://bucket/backup --writer hv1")]
pub(crate) struct Init {
    /// Where to write the key file; the same as --key-file, for scripts that set that one for other commands
    #[arg(long, value_name = "FILE")]
    key_file_out: Option<PathBuf>,
    /// Name of the first writer [default: this host's name]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    writer: Option<Name>,
    /// Make the repository even on a store that cannot keep one safely; snapshots may be lost there
    #[arg(long)]
    allow_unsafe_store: bool,
    /// Make the repository in a folder that holds other things too; they stay, and are left alone
    #[arg(long)]
    among_other_files: bool,
    /// How many other keepers must approve a forget, a release or a clear before it counts; `key approvals` changes it
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true, value_parser = parse_approvals)]
    approvals_needed: u32,
}

impl Init {
    /// What it writes besides the repository, in words, and where.
    pub(crate) fn written(&self, context: &Context) -> Vec<(&'static str, PathBuf)> {
        let path = self.key_file_out.clone().or_else(|| access::key_file(context));
        path.map(|path| ("the key file", path)).into_iter().collect()
    }
}

pub(crate) async fn run(options: Init, context: &Context) -> Result<Done, Failure> {
    if let Ok(folder) = repository::folder(context) {
        refuse_inside(&folder)?;
    }
    let store = repository::store(context, true)?;
    warn_of_memory(&store, context);
    if !options.among_other_files {
        refuse_used(&store)?;
    }
    // Before a passphrase is asked for and a key file is made.
    if store.get(names::CONFIG).await?.is_some() {
        return Err(Error::RepositoryExists { location: store.location().to_owned() }.into());
    }
    let seen =
        until_signal(async { Ok(probe::probe(&store, &*context.host.clock, &*context.host.random).await?) })
            .await?;
    judge(&seen, options.allow_unsafe_store, context)?;
    let path = options.key_file_out.or_else(|| access::key_file(context));
    path.as_deref().map_or(Ok(()), KeyFile::refuse_existing)?;
    let passphrase = passphrase::find_first(&context.environment, &context.prompt, &context.host)?;
    if let Some(weakness) = passphrase::weakness(&passphrase) {
        context.output.warning(&weakness);
    }
    let new = NewRepository {
        passphrase,
        zone: access::zone(context)?,
        writer: options.writer.unwrap_or_else(host_name),
        approvals_needed: options.approvals_needed,
        layout: Layout::default(),
    };
    let key_file = path.map(KeyFile::reserve).transpose()?;
    let made = until_signal(async { Ok(init::init(&store, &context.host, &new).await?) }).await;
    let made = match (made, key_file) {
        (Ok(made), Some(key_file)) => {
            let path = key_file.write(made.key_file.as_bytes(), INSTEAD)?;
            return report(context, store.location(), &new, &made, Some(&path));
        }
        (Err(failure), Some(key_file)) => {
            key_file.give_up();
            return Err(failure);
        }
        (made, None) => made?,
    };
    report(context, store.location(), &new, &made, None)
}

/// A repository in a folder of another one would be taken for objects of that one.
fn refuse_inside(folder: &Path) -> Result<(), Failure> {
    let found = folder.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, real)) = found else { return Ok(()) };
    let is_repository = |above: &&Path| {
        let mut start = [0; OF_CONFIG.len()];
        let read =
            std::fs::File::open(above.join(names::CONFIG)).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == *OF_CONFIG
    };
    // `init` where one is says that it exists.
    let above = if above == folder { real.parent() } else { Some(real.as_path()) };
    match above.and_then(|above| above.ancestors().find(is_repository)) {
        None => Ok(()),
        Some(other) => Err(Failure::usage(format!(
            "{} lies inside the repository {}, where only the program's own objects belong: name another place. Nothing was \
             made",
            plain::path(folder),
            plain::path(other)
        ))),
    }
}

/// What lies in memory is gone with the next restart, backups too.
fn warn_of_memory(store: &Store, context: &Context) {
    let kind =
        store.folder_path().and_then(|folder| rustix::fs::statfs(folder).ok()).map(|found| found.f_type);
    if kind.is_some_and(|kind| IN_MEMORY.contains(&kind)) {
        context.output.warning(
            "this folder lies in memory (tmpfs or ramfs): the repository, and all backups in it, are gone when this machine \
             restarts. Use it to try things out, and nothing else",
        );
    }
}

/// A folder in which somebody keeps other things is seldom meant.
fn refuse_used(store: &Store) -> Result<(), Failure> {
    const NAMED: usize = 3;
    let Some(folder) = store.folder_path() else { return Ok(()) };
    let others = used::others(folder).map_err(|error| {
        Failure::failed(format!(
            "cannot read the folder {}: {error}; check its permissions",
            folder.display()
        ))
    })?;
    if others.is_empty() {
        return Ok(());
    }
    let named = others.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = if others.len() > NAMED { " and more" } else { "" };
    Err(Failure::usage(plain::line(&format!(
        "the folder {} holds other things: {named}{more}. Nothing was made. Give the repository a folder of its own; or \
         make it among them with --among-other-files",
        folder.display()
    ))))
}

/// Warns of what the store lacks, and fails where it must not hold a repository.
fn judge(report: &Report, allow: bool, context: &Context) -> Result<(), Failure> {
    context.output.detail(&doctor::text(report));
    let say = |finding: &ProbeFinding| format!("{}; {}", finding.seen, finding.check.consequence());
    let worst: Vec<String> = report.unsafe_findings().map(say).collect();
    if !worst.is_empty() && !allow {
        return Err(Failure::failed(format!(
            "this store is not fit for a repository: {}. Nothing was made; `sancerre doctor` shows all of it, and \
             --allow-unsafe-store makes the repository all the same",
            worst.join(". ")
        )));
    }
    let doubtful = report.doubtful_findings().map(say);
    worst.into_iter().chain(doubtful).for_each(|text| context.output.warning(&text));
    Ok(())
}

fn report(
    context: &Context,
    location: &str,
    new: &NewRepository,
    made: &Made,
    key_file: Option<&Path>,
) -> Result<Done, Failure> {
    let (id, anchor) = (made.trust.repository.to_string(), made.trust.admin.fingerprint());
    let key = key_file.map(|path| path.display().to_string());
    let shown = key_file.map(plain::path);
    let mut text = format!("repository    {id}\ntrust anchor  {anchor}\n");
    if let Some(key) = &shown {
        text.push_str(&format!("key file      {key}\n"));
    }
    context.output.result(&text)?;
    context.output.message(&advice(&plain::line(location), shown.as_deref()));
    Ok(done([
        ("repository", json!(id)),
        ("location", json!(location)),
        ("zone", json!(new.zone.to_string())),
        ("writer", json!(new.writer.to_string())),
        ("trust_anchor", json!(anchor)),
        ("key_file", json!(key)),
    ]))
}

fn advice(location: &str, key: Option<&str>) -> String {
    let mut text = format!(
        "\nMade a repository at {location}.\n\
         Keep the passphrase where a fire or an intruder here does not reach it: without it nothing can be restored,\n\
         and nobody can replace it. Write the trust anchor beside it: it tells this repository from a forged one.\n"
    );
    text.push_str(&match key {
        Some(key) => format!(
            "The key file {key} is for unattended backups on this host. It cannot open content, restore or remove\n\
             anything; readable by its owner only. It can be lost: the passphrase does all it does."
        ),
        None => "No key file was asked for (--key-file): backups need the passphrase.".to_owned(),
    });
    text
}

/// This host's name, as far as it can be one here.
pub(super) fn host_name() -> Name {
    let text = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
    to_name(text.trim())
}

/// What is not allowed in a name becomes a dash.
fn to_name(text: &str) -> Name {
    let fitting =
        |letter: char| if letter.is_ascii_alphanumeric() || "._-".contains(letter) { letter } else { '-' };
    let text: String = text
        .trim_start_matches(|letter: char| !letter.is_ascii_alphanumeric())
        .chars()
        .take(64)
        .map(fitting)
        .collect();
    let fitting = Name::new(&text).or_else(|_| Name::new("writer"));
    #[allow(clippy::expect_used)]
    fitting.expect("a word is a name") // invariant: letters only
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_a_name() {
        let cases = [
            ("hv1.example.org", "hv1.example.org"),
            ("-hv 1", "hv-1"),
            ("höst", "h-st"),
            ("", "writer"),
            ("---", "writer"),
        ];
        for (text, expected) in cases {
            assert_eq!(to_name(text).as_str(), expected);
        }
        assert_eq!(to_name(&"a".repeat(80)).as_str().len(), 64);
    }
}
