//! A plan: a line for each machine, with what would stand behind `recover` for it, in the order in which they matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use sancerre_engine::select::Selector;

use super::libvirt::Identity;
use super::order::Sign;
use crate::exit::Failure;
use crate::guests::GuestOptions;
use crate::plain;
use crate::units::parse_seconds;

/// What a console says when somebody may log in, and how many seconds that may take, if nothing else is said.
const LOGIN: &str = "login:";
const UP_LIMIT: u64 = 600;

/// One machine of a plan.
#[derive(Debug, Clone, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub(in crate::command) struct Line {
    /// Its snapshot
    #[arg(value_name = "SNAPSHOT", value_parser = Selector::parse)]
    pub(in crate::command) snapshot: Selector,
    /// A machine of an earlier line, which must be up before this one starts
    #[arg(long, value_name = "VM")]
    pub(in crate::command) after: Vec<String>,
    /// What says that it is up
    #[arg(long, value_name = "SIGN", default_value = "serial:login:")]
    pub(super) up: Sign,
    /// After so long those that wait for it are started all the same
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "10m")]
    pub(super) up_limit: u64,
    /// A block device that a disk of its moves to
    #[arg(long, value_name = "[DISK=]DEVICE")]
    pub(super) storage: Vec<PathBuf>,
    /// Its devices that are not empty may be overwritten
    #[arg(long, requires = "storage")]
    pub(super) overwrite: bool,
    #[command(flatten)]
    pub(super) identity: Identity,
    #[command(flatten)]
    pub(super) guest: GuestOptions,
}

impl Line {
    /// A machine alone, for which nobody waits but who records what it asks for.
    pub(super) fn only(
        snapshot: &Selector,
        identity: &Identity,
        guest: &GuestOptions,
        is_traced: bool,
    ) -> Self {
        let (up, up_limit) = match is_traced {
            true => (Sign::Serial(LOGIN.into()), UP_LIMIT),
            false => (Sign::Time(Duration::ZERO), 0),
        };
        let (snapshot, identity) = (snapshot.clone(), identity.clone());
        let (after, storage) = (Vec::new(), Vec::new());
        Self { snapshot, after, up, up_limit, storage, overwrite: false, identity, guest: guest.clone() }
    }
}

/// Whether nothing was said of a guest.
pub(super) fn is_untouched(guest: &GuestOptions) -> bool {
    Line::try_parse_from(["latest"]).is_ok_and(|line| line.guest == *guest)
}

/// Whether nothing was said of a guest but how its processor is made.
pub(super) fn is_described(guest: &GuestOptions) -> bool {
    Line::try_parse_from(["latest"])
        .is_ok_and(|line| GuestOptions { accel: guest.accel, ..line.guest } == *guest)
}

/// The machines of a file.
pub(in crate::command) fn read(path: &Path) -> Result<Vec<Line>, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::failed(format!("cannot read the plan {}: {error}; name another file", plain::path(path)))
    })?;
    let odd = |number: usize, what: String| {
        Failure::usage(format!("line {} of the plan {}: {what}", number.saturating_add(1), plain::path(path)))
    };
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let words = words(line).map_err(|what| odd(number, what))?;
        if !words.is_empty() {
            // What follows after an empty line is about another command line.
            let what = |error: clap::Error| {
                let text = error.to_string();
                let lines: Vec<&str> =
                    text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
                lines.join(" ").trim_start_matches("error: ").to_owned()
            };
            lines.push(Line::try_parse_from(words).map_err(|error| odd(number, what(error)))?);
        }
    }
    match lines.is_empty() {
        true => Err(Failure::usage(format!("the plan {} names no machine", plain::path(path)))),
        false => Ok(lines),
    }
}

/// The words of a line, as a shell would have them: quotes hold spaces, and `#` begins a remark.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote): (Vec<String>, Option<String>, Option<char>) =
        (Vec::new(), None, None);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    match quote {
        Some(open) => Err(format!("the quote {open} has no end")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Result<Vec<Line>, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan");
        fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn lines_are_read_as_a_shell_reads_them() {
        let plan = "# the hospital\n\ndb01:latest --up 'serial:ready now' # first\n\
                    web01:latest --after db01 --storage a=/dev/vg/a --storage '/dev/vg 2/b' --overwrite --after dns --guest-memory 4G -- -nic \"bridge,br=br 0\" '' -x\n";
        let lines = told(plan).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].up, Sign::Serial("ready now".into()));
        assert_eq!(lines[1].after, ["db01", "dns"]);
        assert_eq!(lines[1].storage, ["a=/dev/vg/a", "/dev/vg 2/b"].map(PathBuf::from));
        assert!(lines[1].overwrite && !lines[0].overwrite);
        assert_eq!(lines[1].guest.guest_memory, 4 << 30);
        assert_eq!(lines[1].guest.more, ["-nic", "bridge,br=br 0", "", "-x"]);
        assert_eq!(lines[1].up, Sign::Serial("login:".into()));
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (text, words) in [
            ("db01:latest\nweb01:latest --aftr db01\n", "line 2"),
            ("db01:latest 'x\n", "no end"),
            ("db01:latest --up port:22\n", "address and a port"),
            ("# nothing\n", "no machine"),
            ("--after x\n", "line 1"),
            ("db01:latest --overwrite\n", "--storage"),
        ] {
            let failure = told(text).unwrap_err();
            assert_eq!(failure.exit, crate::exit::Exit::Usage);
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }
}
