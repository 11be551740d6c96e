//! What must be known: from options, else asked for at the terminal.

use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use sancerre_format::names::Name;

use super::schedule::{self, At};
use super::{By, Setup};
use crate::arguments::{Global, parse_name};
use crate::command::Context;
use crate::exit::Failure;
use crate::plain;
use crate::repository;
use crate::sources::{Attachment, DiskSource};

/// How often something that makes no sense is asked for again.
const TRIES: usize = 3;
/// Longer answers are none.
const ANSWER_MAX: usize = 8192;

/// All that must be known.
pub(super) struct Answers {
    /// A whole path, or a URL.
    pub(super) location: String,
    pub(super) vm: Name,
    pub(super) disks: Vec<DiskSource>,
    /// Files that go with it.
    pub(super) attached: Vec<Attachment>,
    pub(super) at: At,
    pub(super) by: By,
}

impl Answers {
    /// The options of a command that is a part of this one.
    pub(super) fn global(&self, context: &Context, key: Option<&Path>) -> Global {
        Global {
            repo: Some(self.location.clone()),
            key_file: key.map(Path::to_owned),
            ..context.global.clone()
        }
    }

    /// The folder of the repository; none for one elsewhere.
    pub(super) fn folder(&self) -> Option<&Path> {
        (!self.location.contains("://")).then(|| Path::new(&self.location))
    }

    /// The disks with the names that a backup gives them: bare paths are disk0, disk1 … in their order.
    pub(super) fn named_disks(&self) -> Vec<(String, &Path)> {
        let mut bare = 0..;
        let mut name = |disk: &DiskSource| match &disk.name {
            Some(name) => name.to_string(),
            None => format!("disk{}", bare.next().unwrap_or(0)),
        };
        self.disks.iter().map(|disk| (name(disk), disk.path.as_path())).collect()
    }

    /// Disks and files as a backup takes them.
    pub(super) fn source_words(&self) -> Vec<String> {
        let disks = self.named_disks().into_iter().map(|(name, path)| format!("{name}={}", path.display()));
        let attached = |file: &Attachment| format!("--attach={}={}", file.name, file.path.display());
        disks.chain(self.attached.iter().map(attached)).collect()
    }
}

/// Asks for what the options leave open.
///
/// Errors: [`Exit::Usage`](crate::exit::Exit) where something is missing and nobody can be asked, or where it can stand in no file.
pub(super) fn complete(options: &Setup, context: &Context) -> Result<Answers, Failure> {
    let mut person = Person::new(context);
    let location = match repository::named(context) {
        named if named.is_empty() => person.ask(
            "Where is the repository to be? A folder, such as /mnt/nas/backup, or s3://BUCKET",
            ("--repo", None),
            |text| Ok(text.to_owned()),
        )?,
        named => named,
    };
    let vm = match &options.vm {
        Some(vm) => vm.clone(),
        None => person.ask("What is the machine called?", ("--vm", None), parse_name)?,
    };
    let disks = match options.disks.as_slice() {
        [] => person.ask(
            "Where are its disks? Paths, with blanks between them",
            ("its disks", None),
            |text| parse_disks(text).and_then(all_readable),
        )?,
        disks => disks.to_vec(),
    };
    let at = match options.at {
        Some(at) => at,
        None => person.or_usual("When, each night?", "01:00", schedule::parse_at)?,
    };
    let by = match options.by {
        Some(by) => by,
        None => {
            person.or_usual("Who starts it: systemd, cron or nobody?", usual_by(&options.root), |text| {
                clap::ValueEnum::from_str(text, true)
            })?
        }
    };
    let answers = Answers {
        location: whole(&location)?,
        vm,
        disks: disks.into_iter().map(whole_disk).collect::<Result<_, _>>()?,
        attached: options.attach.iter().map(whole_file).collect::<Result<_, _>>()?,
        at,
        by,
    };
    refuse_odd(&answers)?;
    let refused = |problem| Failure::usage(format!("{problem}. Nothing was done"));
    all_readable(answers.disks).map_err(refused).map(|disks| Answers { disks, ..answers })
}

/// What this system has.
fn usual_by(root: &Path) -> &'static str {
    let has = |path: &str| super::files::below(root, Path::new(path)).is_dir();
    match () {
        () if has("/run/systemd/system") => "systemd",
        () if has("/etc/cron.d") => "cron",
        () => "nobody",
    }
}

fn parse_disks(text: &str) -> Result<Vec<DiskSource>, String> {
    text.split_whitespace().map(str::parse).collect()
}

/// The disks, if each can be opened: what is written would else name one that every night fails on.
fn all_readable(disks: Vec<DiskSource>) -> Result<Vec<DiskSource>, String> {
    disks.iter().filter(|disk| !is_export(disk)).try_for_each(readable)?;
    Ok(disks)
}

/// Whether somebody else serves it.
fn is_export(disk: &DiskSource) -> bool {
    disk.path.to_str().is_some_and(sancerre_image::nbd::NbdUri::is_one)
}

fn readable(disk: &DiskSource) -> Result<(), String> {
    let failed =
        |why: &str| format!("cannot read the disk {}: {why}; check the path", plain::path(&disk.path));
    let kind = std::fs::metadata(&disk.path).map_err(|error| failed(&error.to_string()))?.file_type();
    // Opening a pipe would wait for somebody who writes to it.
    if !kind.is_file() && !kind.is_block_device() {
        return Err(failed("it is neither a file nor a block device"));
    }
    std::fs::File::open(&disk.path).map(drop).map_err(|error| failed(&error.to_string()))
}

/// Who starts the backup is in another folder.
fn whole(location: &str) -> Result<String, Failure> {
    if location.contains("://") {
        return Ok(location.to_owned());
    }
    let folder = sancerre_engine::location::folder(location)?;
    let text = folder.to_str().ok_or_else(|| {
        Failure::usage(format!(
            "{} is not text in UTF-8; make a symbolic link to it, and give that",
            plain::path(&folder)
        ))
    })?;
    Ok(text.to_owned())
}

fn whole_disk(disk: DiskSource) -> Result<DiskSource, Failure> {
    if is_export(&disk) {
        return Ok(disk);
    }
    Ok(DiskSource { path: whole_path(&disk.path)?, ..disk })
}

/// A file that nobody could read would only be missed at night.
fn whole_file(file: &Attachment) -> Result<Attachment, Failure> {
    let path = whole_path(&file.path)?;
    std::fs::File::open(&path).map_err(|error| {
        Failure::usage(format!(
            "cannot read {}: {error}; check the path. Nothing was done",
            plain::path(&path)
        ))
    })?;
    Ok(Attachment { name: file.name.clone(), path })
}

fn whole_path(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::usage(format!("cannot find {}: {error}; check the path", plain::path(path)))
    })
}

/// What would mean something else to systemd, to cron or to a shell.
fn refuse_odd(answers: &Answers) -> Result<(), Failure> {
    let all = answers.source_words().into_iter().chain([answers.location.clone()]);
    match all.into_iter().find(|word| !is_plain(word)) {
        None => Ok(()),
        Some(odd) => Err(Failure::usage(format!(
            "{odd:?} holds a blank, or a character that means something to systemd or to a shell: give it another name, or set \
             this machine up by hand (docs/NIGHTLY-FOLDER.md). Nothing was done"
        ))),
    }
}

/// Whether a word means itself in every file that is written.
pub(super) fn is_plain(word: &str) -> bool {
    !word.is_empty()
        && word.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-+:=@,?&~[]".contains(letter))
}

/// Who is asked.
struct Person<'a> {
    context: &'a Context,
    stdin: Option<Box<dyn Read + Send>>,
}

impl<'a> Person<'a> {
    fn new(context: &'a Context) -> Self {
        Self { context, stdin: None }
    }

    /// Where nobody can be asked the usual answer is taken.
    fn or_usual<T>(
        &mut self,
        question: &str,
        usual: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        match self.is_there() {
            true => self.ask(question, ("", Some(usual)), parse),
            false => parse(usual).map_err(Failure::usage),
        }
    }

    fn is_there(&self) -> bool {
        self.context.stdin_is_terminal && !self.context.output.is_json()
    }

    fn ask<T>(
        &mut self,
        question: &str,
        (option, usual): (&str, Option<&str>),
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        if !self.is_there() {
            return Err(Failure::usage(format!(
                "there is no terminal to ask at: give {option}; see `sancerre setup --help`. Nothing was done"
            )));
        }
        for _ in 0..TRIES {
            let shown = usual.map_or_else(String::new, |usual| format!(" [{usual}]"));
            self.context.output.ask(&format!("{question}{shown} "));
            let answer = self.line()?;
            let answer = if answer.is_empty() { usual.unwrap_or_default() } else { &answer };
            match parse(answer) {
                _ if answer.is_empty() => {
                    self.context.output.message("please give an answer, or end with Ctrl-C");
                }
                Ok(parsed) => return Ok(parsed),
                Err(problem) => self.context.output.message(&problem),
            }
        }
        Err(Failure::usage("no answer that makes sense; nothing was done"))
    }

    fn line(&mut self) -> Result<String, Failure> {
        let failed =
            |why: String| Failure::failed(format!("cannot read the answer: {why}; nothing was done"));
        if self.stdin.is_none() {
            self.stdin = self.context.take_stdin();
        }
        let stdin = self.stdin.as_mut().ok_or_else(|| failed("standard input is in use".into()))?;
        let (mut line, mut byte) = (Vec::new(), [0]);
        while line.len() < ANSWER_MAX {
            match stdin.read(&mut byte) {
                Ok(0) if line.is_empty() => return Err(failed("it ended".into())),
                Ok(0) => break,
                Ok(_) if byte == *b"\n" => break,
                Ok(_) => line.extend(byte),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        String::from_utf8(line)
            .map(|line| line.trim().to_owned())
            .map_err(|_| failed("it is not text".into()))
    }
}
