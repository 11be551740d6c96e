//! Who starts the backup each night: the files of systemd or of cron.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::answers::{Answers, is_plain};
use super::files::{Fate, Planned, Written, below};
use super::{By, Setup, key_place};
use crate::command::Context;
use crate::exit::Failure;
use crate::repository;
use crate::variables;

/// The units as they are packaged.
const SERVICE: &str = include_str!("../../../../../docs/systemd/sancerre-backup@.service");
const TIMER: &str = include_str!("../../../../../docs/systemd/sancerre-backup@.timer");
/// Where packages put units.
const PACKAGED: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// Where administrators do.
const UNITS: &str = "/etc/systemd/system";
/// The program that the packaged unit starts.
const PROGRAM: &str = "/usr/bin/sancerre";
/// Where the metrics go, as by the packaged unit.
const METRICS: &str = "/var/lib/sancerre";
const MADE_BY: &str = "# Made by `sancerre setup`.\n";

/// A time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    hour: u8,
    minute: u8,
}

pub(super) fn parse_at(text: &str) -> Result<At, String> {
    let number = |text: &str, most: u8| {
        let is_short = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u8>().ok().filter(|number| is_short && *number <= most)
    };
    let parsed =
        text.split_once(':').and_then(|(hour, minute)| Some((number(hour, 23)?, number(minute, 59)?)));
    parsed.map(|(hour, minute)| At { hour, minute }).ok_or_else(|| "give a time such as 01:15".to_owned())
}

/// All files but the key, with what is in them.
pub(super) fn plan(options: &Setup, answers: &Answers, context: &Context) -> Result<Vec<Planned>, Failure> {
    let file = |path: String, mode: u32, text: String| Planned {
        path: below(&options.root, Path::new(&path)),
        mode,
        text,
    };
    let (vm, key) = (&answers.vm, plain_path(&key_place(context))?);
    let mut files = vec![file(format!("/etc/sancerre/{vm}.conf"), 0o600, configuration(answers, context)?)];
    match answers.by {
        By::Nobody => {}
        By::Cron => {
            let night = format!("/etc/sancerre/night-{vm}");
            // cron reads no file with a dot in its name.
            let name = vm.as_str().replace('.', "_");
            files.push(file(night.clone(), 0o700, script(vm.as_str(), &key)?));
            files.push(file(format!("/etc/cron.d/sancerre-{name}"), 0o644, cron(answers.at, &night)));
        }
        By::Systemd => {
            for (name, unit) in [("service", SERVICE), ("timer", TIMER)] {
                let unit_file = format!("sancerre-backup@.{name}");
                let at = |folder: &str| below(&options.root, Path::new(folder)).join(&unit_file);
                if !PACKAGED.iter().any(|folder| at(folder).exists()) {
                    let text = unit.replace(PROGRAM, &program()?);
                    files.push(file(format!("{UNITS}/{unit_file}"), 0o644, text));
                }
            }
            let drop_in = |kind: &str| format!("{UNITS}/sancerre-backup@{vm}.{kind}.d/setup.conf");
            files.push(file(drop_in("service"), 0o644, service(answers, &key)));
            files.push(file(drop_in("timer"), 0o644, timer(answers.at)));
        }
    }
    Ok(files)
}

/// What systemd and a shell read alike.
fn configuration(answers: &Answers, context: &Context) -> Result<String, Failure> {
    let mut text = format!("{MADE_BY}SANCERRE_REPOSITORY=\"{}\"\n", answers.location);
    if answers.folder().is_none() {
        let looking = context.step(answers.global(context, None), context.environment.clone());
        let store = repository::store(&looking, false)?;
        for (name, value) in variables::cloud(&context.environment)? {
            if !store.settings().contains(&name) {
                continue;
            }
            if !is_plain(&value) {
                return Err(Failure::usage(format!(
                    "the variable {name} holds what can stand in no line of a configuration: put it into a file, and name that \
                     in the variable, as docs/STORES.md says. Nothing was done"
                )));
            }
            text.push_str(&format!("{name}=\"{value}\"\n"));
        }
    }
    text.push_str(&format!("DISKS=\"{}\"\n", answers.source_words().join(" ")));
    Ok(text)
}

fn script(vm: &str, key: &str) -> Result<String, Failure> {
    Ok(format!(
        "#!/bin/sh\n{MADE_BY}set -euf\nset -a; . /etc/sancerre/{vm}.conf; set +a\n\
         # What takes a snapshot of the disks goes here: docs/QUIESCE.md has a recipe for each kind of storage.\n\
         mkdir -p {METRICS} || true\n\
         status=0\n\
         # shellcheck disable=SC2086\n\
         {} backup -q --key-file {key} --vm {vm} --metrics-file {METRICS}/{vm}.prom $DISKS || status=$?\n\
         # What removes that snapshot goes here.\n\
         exit $status\n",
        program()?
    ))
}

fn cron(at: At, night: &str) -> String {
    format!("{MADE_BY}PATH=/usr/sbin:/usr/bin:/sbin:/bin\n{} {} * * * root {night}\n", at.minute, at.hour)
}

fn service(answers: &Answers, key: &str) -> String {
    let folder = answers.folder().map(Path::display);
    let mount =
        folder.as_ref().map_or_else(String::new, |folder| format!("[Unit]\nRequiresMountsFor={folder}\n"));
    let write = folder.map_or_else(String::new, |folder| format!("ReadWritePaths={folder}\n"));
    format!("{MADE_BY}{mount}[Service]\n{write}LoadCredential=\nLoadCredential=writer.key:{key}\n")
}

fn timer(at: At) -> String {
    format!(
        "{MADE_BY}[Timer]\nOnCalendar=\nOnCalendar=*-*-* {:02}:{:02}:00\nRandomizedDelaySec=0\n",
        at.hour, at.minute
    )
}

/// This program, where it is.
fn program() -> Result<String, Failure> {
    let own = std::env::current_exe().map_err(|error| {
        Failure::failed(format!("cannot find where this program is: {error}; mount /proc"))
    })?;
    plain_path(&own)
}

fn plain_path(path: &Path) -> Result<String, Failure> {
    path.to_str().filter(|text| is_plain(text)).map(str::to_owned).ok_or_else(|| {
        Failure::usage(format!(
            "{} holds a blank, or a character that means something to systemd or to a shell: move it. Nothing was done",
            crate::plain::path(path)
        ))
    })
}

/// What makes the files count.
pub(super) fn commands(options: &Setup, answers: &Answers) -> Vec<Vec<String>> {
    if answers.by != By::Systemd || options.root != Path::new("/") {
        return Vec::new();
    }
    let timer = format!("sancerre-backup@{}.timer", answers.vm);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    vec![words(&["systemctl", "daemon-reload"]), words(&["systemctl", "enable", "--now", &timer])]
}

/// Lets systemd know, if something is new and it runs. False if that failed, which is warned of.
pub(super) fn start(
    options: &Setup,
    answers: &Answers,
    written: &[Written],
    context: &Context,
) -> Result<bool, Failure> {
    let is_new = written.iter().any(|file| file.fate == Fate::Made && file.path.starts_with(UNITS));
    for words in commands(options, answers).into_iter().filter(|_| is_new) {
        let line = words.join(" ");
        if !PathBuf::from("/run/systemd/system").is_dir() {
            context.output.message(&format!("type this where systemd runs: {line}"));
            continue;
        }
        context.output.message(&format!("\n$ {line}"));
        let ended = words.split_first().map(|(program, rest)| Command::new(program).args(rest).status());
        if !matches!(&ended, Some(Ok(status)) if status.success()) {
            context.output.warning(&format!(
                "`{line}` failed, so nothing starts the backup yet; see what it said above"
            ));
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_are_understood() {
        for (text, hour, minute) in [("01:15", 1, 15), ("1:05", 1, 5), ("23:59", 23, 59), ("0:0", 0, 0)] {
            assert_eq!(parse_at(text), Ok(At { hour, minute }), "{text}");
        }
        for text in ["", "1", "24:00", "01:60", "+1:15", "01:15:00", "001:15", "a:b"] {
            parse_at(text).unwrap_err();
        }
    }
}
