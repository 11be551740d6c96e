//! `setup`: all that a machine's nightly backup needs, made at once and tried out.
//!
//! What it does are the commands that a person would type, and files that a person would write; `--dry-run` shows both.
//! Nothing that is there already is changed: it is left alone, by name.

mod answers;
mod files;
mod schedule;
mod sheet;
mod trial;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, ValueEnum};
use sancerre_engine::keys::{ExposeSecret, SecretString};
use sancerre_engine::repository::log::Log;
use sancerre_format::names::{self, Name};
use serde_json::json;

use super::{Context, ended};
use crate::access::{self, Access, MACHINE_KEY_FILE};
use crate::arguments::{Arguments, parse_name};
use crate::exit::{Done, Exit, Failure};
use crate::named_path;
use crate::passphrase::{self, OF_REPOSITORY, VALUE};
use crate::plain;
use crate::repository;
use crate::sources::{Attachment, DiskSource};
use answers::Answers;
use files::{Planned, Written};

/// Set up a machine's nightly backup: repository, key file, configuration, schedule, first backup, test restore.
///
/// Asks for what no option says: where the repository is to be, the machine's name, its disks, at what time, and who
/// starts it. Then it makes the repository (or joins the one that is there), writes the files, runs the first backup,
/// restores it and compares it with the disks, and prints the sheet for the safe. What is there already is left alone, so
/// it can be run again, and for the next machine. Credentials of a bucket are taken from the variables, and written into the machine's configuration,
/// which only root can read.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 3: all is made, but something was there already and says something else, or was not as it should be, or the
repository has no sheet and none could be made.

Examples:
  sancerre setup
  sancerre setup --dry-run -r /mnt/nas/backup --vm web01 /dev/vg0/web01
  sancerre setup -r s3://bucket/backup --vm web01 --at 01:15 --by cron --sheet sheet.txt system=/dev/vg0/web01
  sancerre setup -r /mnt/nas/backup --vm web01 --attach /etc/libvirt/qemu/web01.xml /dev/vg0/web01")]
pub(crate) struct Setup {
    /// The machine's name: letters, digits, dots, dashes and underscores
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    vm: Option<Name>,
    /// Its disks: files or block devices that nobody writes to while they are read
    #[arg(value_name = "[NAME=]PATH", value_parser = named_path::disk())]
    disks: Vec<DiskSource>,
    /// A file that belongs to the machine, such as its configuration; may be given several times
    #[arg(long, value_name = "[NAME=]FILE", value_parser = named_path::attachment())]
    attach: Vec<Attachment>,
    /// When, each night
    #[arg(long, value_name = "HH:MM", value_parser = schedule::parse_at)]
    at: Option<schedule::At>,
    /// Who starts it
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Name of this host as a writer [default: the host's name]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    writer: Option<Name>,
    /// Write the sheet for the safe to this new file, which only you can read, and not to standard output
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// Put the files below this folder in place of /, as for a system that is being installed, and start nothing
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    root: PathBuf,
    /// Only show all of it: commands, and files with what is in them
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

/// Who starts a backup each night.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// A unit and a timer of systemd
    Systemd,
    /// A line of cron
    Cron,
    /// Nobody: only the rest is made
    Nobody,
}

/// What is there of the repository when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RepositoryState {
    /// Nothing.
    New,
    /// A repository of which this host has no key file.
    Foreign,
    /// A repository, and this host's key file.
    Ours,
}

pub(crate) async fn run(options: Setup, context: &Context) -> Result<Done, Failure> {
    if options.sheet.is_none() && !options.dry_run {
        if context.output.is_json() {
            return Err(Failure::usage(
                "the sheet for the safe is no part of JSON, which ends in log files: name a file with --sheet. Nothing was done",
            ));
        }
        context.needs_stdout()?;
    }
    let answers = answers::complete(&options, context)?;
    let key = files::below(&options.root, &key_place(context));
    let plan = Plan {
        state: state(context, &answers, &key).await?,
        files: schedule::plan(&options, &answers, context)?,
        key,
        answers,
    };
    match options.dry_run {
        true => plan.show(&options, context).await,
        false => plan.carry_out(&options, context).await,
    }
}

/// Where the key file is for those who start the backup.
fn key_place(context: &Context) -> PathBuf {
    let named = access::key_file(context).and_then(|path| std::path::absolute(path).ok());
    named.unwrap_or_else(|| PathBuf::from(MACHINE_KEY_FILE))
}

async fn state(context: &Context, answers: &Answers, key: &Path) -> Result<RepositoryState, Failure> {
    let looking = context.step(answers.global(context, None), context.environment.clone());
    let is_there = match repository::store(&looking, false) {
        Ok(store) => store.get(names::CONFIG).await?.is_some(),
        Err(failure) if failure.exit == Exit::NoRepository => false,
        Err(failure) => return Err(failure),
    };
    match (is_there, key.exists()) {
        (true, true) => Ok(RepositoryState::Ours),
        (true, false) => Ok(RepositoryState::Foreign),
        (false, false) => Ok(RepositoryState::New),
        (false, true) => Err(Failure::usage(format!(
            "there is no repository at {}, and a key file {} is there: either the disk or share with the repository is not \
             mounted, or the key file belongs to another one; then name another with --key-file. Nothing was done",
            plain::line(&answers.location),
            plain::path(key)
        ))),
    }
}

struct Plan {
    state: RepositoryState,
    answers: Answers,
    /// Where this host's key file is, or will be.
    key: PathBuf,
    files: Vec<Planned>,
}

impl Plan {
    /// The command that makes what the repository lacks; none if nothing.
    fn making(&self, options: &Setup) -> Option<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let key = self.key.display().to_string();
        match self.state {
            RepositoryState::Ours => None,
            RepositoryState::New => {
                let writer = options.writer.iter().flat_map(|name| ["--writer".to_owned(), name.to_string()]);
                Some(words(&["init", "--key-file-out", &key]).into_iter().chain(writer).collect())
            }
            RepositoryState::Foreign => {
                let writer = options.writer.clone().unwrap_or_else(super::init::host_name);
                Some(words(&["key", "add", "writer", writer.as_str(), "--out", &key]))
            }
        }
    }

    fn backup(&self) -> Vec<String> {
        let (key, vm) = (self.key.display().to_string(), self.answers.vm.to_string());
        let words = ["backup".to_owned(), "--key-file".into(), key, "--vm".into(), vm];
        words.into_iter().chain(self.answers.source_words()).collect()
    }

    fn sheet(options: &Setup) -> Vec<String> {
        let out = options.sheet.iter().flat_map(|path| ["--out".to_owned(), path.display().to_string()]);
        ["key".to_owned(), "paper".into()].into_iter().chain(out).collect()
    }

    /// Everything, and nothing done.
    async fn show(&self, options: &Setup, context: &Context) -> Result<Done, Failure> {
        let looking = context.step(self.answers.global(context, None), context.environment.clone());
        let has_sheet = self.state != RepositoryState::New && sheet::is_there(&looking).await?;
        let mut text = format!("export SANCERRE_REPOSITORY={}\n", plain::line(&self.answers.location));
        let mut command = |words: &[String]| text.push_str(&format!("sancerre {}\n", words.join(" ")));
        self.making(options).iter().for_each(|words| command(words));
        command(&self.backup());
        if !has_sheet {
            command(&Self::sheet(options));
        }
        text.push_str("the backup is restored, to nowhere, and compared with the disks\n");
        self.files.iter().for_each(|file| text.push_str(&file.shown()));
        for words in schedule::commands(options, &self.answers) {
            text.push_str(&format!("{}\n", words.join(" ")));
        }
        context.output.result(&text)?;
        context.output.message("nothing was done");
        let files = self.files.iter().map(|file| json!(file.path.display().to_string())).collect();
        Ok(ended(Exit::Done, [("dry_run", json!(true)), ("files", files)]))
    }

    async fn carry_out(&self, options: &Setup, context: &Context) -> Result<Done, Failure> {
        let passphrase = self.passphrase(context)?;
        self.files.iter().try_for_each(Planned::can_be_made)?;
        files::make_folders(&self.key)?;
        let environment = match &passphrase {
            Some(found) => context.environment.with(VALUE, found.expose_secret()),
            None => context.environment.clone(),
        };
        // The admin's key signs what is made; from then on this host's own key does.
        let making = context.step(self.answers.global(context, None), environment.clone());
        if let Some(words) = self.making(options) {
            step(&making, words).await?;
        }
        let own = context.step(self.answers.global(context, Some(&self.key)), environment);
        let (mut done, is_fine) = match self.work(options, context, &own, passphrase.is_some()).await {
            Err(failure) if self.state == RepositoryState::New => Err(without_sheet(failure)),
            worked => worked,
        }?;
        let has_sheet = sheet::is_there(&own).await? || self.make_sheet(options, context, passphrase).await?;
        done.summary.insert("sheet".into(), json!(has_sheet));
        done.exit = if is_fine && has_sheet { Exit::Done } else { Exit::NotAsAsked };
        Ok(done)
    }

    /// The first backup, the test restore, and then the files: a machine that cannot be saved gets none.
    async fn work(
        &self,
        options: &Setup,
        context: &Context,
        own: &Context,
        has_passphrase: bool,
    ) -> Result<(Done, bool), Failure> {
        let has_snapshot = self.state == RepositoryState::Ours && has_snapshot(own, &self.answers.vm).await?;
        let saved = match has_snapshot {
            true => {
                context.output.message(&format!("{} has a snapshot already", self.answers.vm));
                Exit::Done
            }
            false => step(own, self.backup()).await?.exit,
        };
        let compared = match has_passphrase && !has_snapshot {
            true => Some(trial::restore(own, &self.answers).await?),
            false => None,
        };
        let mut written = vec![Written { path: self.key.clone(), fate: self.state.fate() }];
        for file in &self.files {
            written.push(file.write()?);
        }
        let started = schedule::start(options, &self.answers, &written, context)?;
        files::tell(context, &written);
        let is_fine = saved == Exit::Done
            && started
            && compared.as_ref().is_none_or(|compared| compared.is_equal)
            && !written.iter().any(|file| file.fate == files::Fate::Other);
        let done = ended(
            Exit::Done,
            [
                ("dry_run", json!(false)),
                ("files", files::json(&written)),
                ("first_backup", json!(!has_snapshot)),
                ("restored_bytes", json!(compared.map(|compared| compared.bytes))),
            ],
        );
        Ok((done, is_fine))
    }

    /// The sheet for the safe, of a repository that has none. False where none was made, which is warned of.
    async fn make_sheet(
        &self,
        options: &Setup,
        context: &Context,
        passphrase: Option<SecretString>,
    ) -> Result<bool, Failure> {
        let found = match passphrase {
            Some(found) => Ok(found),
            None if context.stdin_is_terminal => {
                passphrase::find(&context.environment, &context.prompt, OF_REPOSITORY)
            }
            None => Err(Failure::new(Exit::WrongKey, "there is no passphrase")),
        };
        let made = match found {
            Ok(found) => {
                let environment = context.environment.with(VALUE, found.expose_secret());
                let making = context.step(self.answers.global(context, None), environment);
                step(&making, Self::sheet(options)).await
            }
            Err(failure) => Err(failure),
        };
        match made {
            Ok(_) => Ok(true),
            Err(failure) if failure.exit == Exit::Interrupted => Err(failure),
            Err(failure) => {
                let how = "`sancerre key paper` makes one";
                context.output.warning(&format!("no sheet was made: {how} ({})", failure.message));
                Ok(false)
            }
        }
    }

    /// Chosen for a new repository, else the repository's where something must be signed with it.
    fn passphrase(&self, context: &Context) -> Result<Option<SecretString>, Failure> {
        let (environment, prompt) = (&context.environment, &context.prompt);
        match self.state {
            RepositoryState::New => passphrase::find_first(environment, prompt, &context.host).map(Some),
            RepositoryState::Foreign => passphrase::find(environment, prompt, OF_REPOSITORY).map(Some),
            RepositoryState::Ours if passphrase::is_given(environment) => {
                passphrase::find(environment, prompt, OF_REPOSITORY).map(Some)
            }
            RepositoryState::Ours => Ok(None),
        }
    }
}

impl RepositoryState {
    fn fate(self) -> files::Fate {
        if self == Self::Ours { files::Fate::There } else { files::Fate::Made }
    }
}

/// Who made a repository and got no further must not take the sheet for made.
fn without_sheet(failure: Failure) -> Failure {
    let advice =
        "The repository is made, and no sheet yet: run the same command again, or `sancerre key paper`";
    Failure::new(failure.exit, format!("{}. {advice}", failure.message))
}

/// Runs another command, as if it had been typed.
async fn step(context: &Context, words: Vec<String>) -> Result<Done, Failure> {
    context.output.message(&format!("\n$ sancerre {}", plain::line(&words.join(" "))));
    let all = std::iter::once("sancerre".to_owned()).chain(words);
    let parsed = Arguments::try_parse_from(all)
        .map_err(|error| Failure::usage(format!("{}; nothing was done", error.to_string().trim())))?;
    let _ = context.intent.set(crate::written::Intent::of(&parsed.command, context));
    Box::pin(super::dispatch(parsed.command, context)).await
}

/// Whether there is one of this machine already.
async fn has_snapshot(context: &Context, vm: &Name) -> Result<bool, Failure> {
    let repository = repository::open(context, Access::Public).await?;
    let log: Log = repository::load_recent_log(context, &repository).await?;
    Ok(log.snapshots().iter().any(|snapshot| snapshot.manifest.fields.vm.as_str() == vm.as_str()))
}
