//! Where the passphrase comes from: the first of five places that is set. Never an argument, which every user of the
//! machine could read.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use sancerre_engine::host::Host;
use sancerre_engine::keys::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};
use crate::io::{Environment, Prompt};
use crate::key_file;
use crate::plain;
use crate::units::count;
use crate::variables::AROUND;

/// The passphrase itself.
pub(crate) const VALUE: &str = "SANCERRE_PASSWORD";
/// A file whose first line it is.
const FILE: &str = "SANCERRE_PASSWORD_FILE";
/// A shell command that prints it.
const COMMAND: &str = "SANCERRE_PASSWORD_COMMAND";
/// systemd's folder of credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// The credential's name.
const CREDENTIAL: &str = "sancerre-password";

/// 32 of them, five bits each; none that is taken for another when it is read from paper.
const LETTERS: &str = "0123456789abcdefghjkmnpqrstvwxyz";
/// Letters of a generated passphrase.
const GENERATED_LETTERS: usize = 24;
/// Letters between two dashes.
const GROUP_LETTERS: usize = 4;

/// A new passphrase has at least so many bytes.
const BYTES_MIN: usize = 8;
/// One with fewer characters, or fewer different ones, is called weak.
const STRONG_LETTERS: usize = 15;
const STRONG_DIFFERENT: usize = 8;

/// Whose passphrase most commands need.
pub(crate) const OF_REPOSITORY: &str = "the repository";

/// The passphrase from the first place that has one, else from the terminal, where `of` says whose is asked for.
///
/// Errors: a place that is set but cannot be read; an empty passphrase; no place and no terminal.
pub(crate) fn find(environment: &Environment, prompt: &Prompt, of: &str) -> Result<SecretString, Failure> {
    if let Some(secret) = unattended(environment)? {
        return Ok(secret);
    }
    secret(&ask(prompt, &format!("Passphrase of {of}: "))?, "the passphrase that was typed")
}

/// The passphrase of a new repository: from the first place that has one, else chosen on the terminal.
pub(crate) fn find_first(
    environment: &Environment,
    prompt: &Prompt,
    host: &Host,
) -> Result<SecretString, Failure> {
    match unattended(environment)? {
        Some(secret) => long_enough(secret),
        None => choose(prompt, host),
    }
}

/// A new passphrase: the first line of a file, or chosen on the terminal.
pub(crate) fn find_new(file: Option<&Path>, prompt: &Prompt, host: &Host) -> Result<SecretString, Failure> {
    match file {
        Some(path) => from_file(path, "--new-password-file").and_then(long_enough),
        None => choose(prompt, host),
    }
}

/// Offers a strong passphrase first. Whichever it is, it is typed a second time: nobody could open the repository after
/// a slip, or without having written it down.
fn choose(prompt: &Prompt, host: &Host) -> Result<SecretString, Failure> {
    let generated = generate(host);
    let question = Zeroizing::new(format!(
        "New passphrase. This one is strong: write it down and press Enter, or type your own.\n\n    {}\n\nPassphrase: ",
        *generated
    ));
    let typed = ask(prompt, &question)?;
    let chosen = if typed.is_empty() { generated } else { typed };
    let chosen = long_enough(secret(&chosen, "the passphrase that was typed")?)?;
    let second = ask(prompt, "The same passphrase again: ")?;
    match *second == chosen.expose_secret() {
        true => Ok(chosen),
        false => Err(Failure::failed("the two passphrases differ; nothing was made, run the command again")),
    }
}

/// What is shorter is tried out in no time, whatever it is.
fn long_enough(new: SecretString) -> Result<SecretString, Failure> {
    match new.expose_secret().trim_matches(AROUND).len() {
        BYTES_MIN.. => Ok(new),
        bytes => Err(Failure::usage(format!(
            "a passphrase of {} is too short: give at least {BYTES_MIN}, better {STRONG_LETTERS} and more. Nothing was made",
            count(bytes as u64, "byte")
        ))),
    }
}

/// What is weak about a new passphrase, as far as its length and its different characters tell.
pub(crate) fn weakness(new: &SecretString) -> Option<String> {
    let text = new.expose_secret().trim_matches(AROUND);
    let (letters, different) = (text.chars().count(), text.chars().collect::<BTreeSet<_>>().len());
    (letters < STRONG_LETTERS || different < STRONG_DIFFERENT).then(|| {
        format!(
            "the passphrase is weak ({}, {different} different): whoever can read the repository can try passphrases for years, \
             and nobody would notice. One of {STRONG_LETTERS} characters and more, at random, is safe, such as the one that is \
             offered where none is given; `sancerre key passwd` replaces it",
            count(letters as u64, "character")
        )
    })
}

/// 120 random bits, in groups that people can read to each other.
fn generate(host: &Host) -> Zeroizing<String> {
    let random = Zeroizing::new(host.random::<GENERATED_LETTERS>());
    // No growth: reallocating would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(GENERATED_LETTERS.saturating_mul(2)));
    for (at, byte) in random.iter().enumerate() {
        if at > 0 && at.is_multiple_of(GROUP_LETTERS) {
            text.push('-');
        }
        text.extend(LETTERS.chars().nth(usize::from(byte % 32)));
    }
    text
}

/// Whether one can be had without a person.
pub(crate) fn is_given(environment: &Environment) -> bool {
    let is_set = [VALUE, FILE, COMMAND].iter().any(|name| environment.path(name).is_some());
    is_set || credential(environment).is_some()
}

/// From the first place that is set to something. A variable that is set to nothing is one that somebody unset so, if
/// there is another place; and an error if there is none, for it may be one that was to hold the passphrase.
fn unattended(environment: &Environment) -> Result<Option<SecretString>, Failure> {
    if let Some(value) = environment.text(VALUE)?.filter(|value| !value.trim_matches(AROUND).is_empty()) {
        return secret(value, VALUE).map(Some);
    }
    if let Some(path) = environment.path(FILE) {
        return from_file(&path, FILE).map(Some);
    }
    if let Some(command) = environment.setting(COMMAND)? {
        return from_command(command, environment).map(Some);
    }
    if let Some(path) = credential(environment) {
        return from_credential(&path).map(Some);
    }
    match [VALUE, FILE, COMMAND].into_iter().find(|name| environment.is_set(name)) {
        Some(name) => Err(Failure::usage(format!(
            "the variable {name} is empty; an empty passphrase protects nothing. Set it, or unset it to be asked"
        ))),
        None => Ok(None),
    }
}

fn credential(environment: &Environment) -> Option<std::path::PathBuf> {
    let path = environment.path(CREDENTIALS)?.join(CREDENTIAL);
    path.exists().then_some(path)
}

/// A file of the user: not read when others could read it, as key files are not.
fn from_file(path: &Path, place: &str) -> Result<SecretString, Failure> {
    let bytes = key_file::read(path, "passphrase file", place)?;
    first_secret(&bytes, path, place)
}

/// A credential of systemd, which alone decides who may read it: its mode shows an access list as rights of a group.
fn from_credential(path: &Path) -> Result<SecretString, Failure> {
    const PLACE: &str = "the systemd credential";
    let bytes = std::fs::read(path).map(Zeroizing::new).map_err(|error| {
        Failure::failed(format!(
            "cannot read the passphrase from {} ({PLACE}): {error}; check LoadCredential= in the unit",
            path.display()
        ))
    })?;
    first_secret(&bytes, path, PLACE)
}

fn first_secret(bytes: &[u8], path: &Path, place: &str) -> Result<SecretString, Failure> {
    let place = format!("{} ({place})", plain::path(path));
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("{place} is not text in UTF-8; save it again as such")))?;
    secret(first_line(text), &place)
}

/// Runs the command with the shell; standard input stays free for a stream to back up.
fn from_command(command: &str, environment: &Environment) -> Result<SecretString, Failure> {
    let failed = |what: String| {
        Failure::failed(format!("the command in {COMMAND} {what}; run `{command}` by hand to see why"))
    };
    let shell = Command::new("sh")
        .args(["-c", command])
        .env_clear()
        // Not the passphrase itself: what the command starts would show it to every process of this user.
        .envs(environment.iter().filter(|(name, _)| *name != VALUE))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(format!("cannot be run: {error}")))?;
    let text = Zeroizing::new(shell.stdout);
    if !shell.status.success() {
        return Err(failed(format!("failed ({})", shell.status)));
    }
    let text = std::str::from_utf8(&text).map_err(|_| failed("printed something that is not text".into()))?;
    secret(first_line(text), &format!("what {COMMAND} printed"))
}

fn ask(prompt: &Prompt, question: &str) -> Result<Zeroizing<String>, Failure> {
    prompt(&plain::lines(question)).map_err(|error| {
        Failure::new(
            Exit::WrongKey,
            format!(
                "there is no passphrase and no terminal to ask for one ({error}); set {VALUE}, {FILE} or {COMMAND}, \
                 provide the systemd credential {CREDENTIAL}, or give a key file where one is enough"
            ),
        )
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn secret(text: &str, place: &str) -> Result<SecretString, Failure> {
    if text.trim_matches(AROUND).is_empty() {
        return Err(Failure::usage(format!("{place} is empty; an empty passphrase protects nothing")));
    }
    if text.contains('\0') {
        let what = "holds a zero byte, as text in UTF-16 does; save it as UTF-8";
        return Err(Failure::usage(format!("{place} {what}")));
    }
    Ok(SecretString::from(text.to_owned()))
}

#[cfg(test)]
mod tests;
