//! `key add restore`, `key remove restore`: who can restore.

use clap::{Args, Subcommand};
use sancerre_engine::keys::recipients::{self, Removed, To};
use sancerre_format::names::Name;
use sancerre_format::recipient::Opener;
use serde_json::json;

use crate::access::{self, Access};
use crate::arguments::parse_name;
use crate::command::{Context, done, ended};
use crate::exit::{Done, Exit, Failure};
use crate::interrupt::until_signal;
use crate::repository;

/// Let somebody restore, with a key of their own: every snapshot there is and will be.
///
/// Needs the administrator's passphrase. The secret part of the recipient stays with its owner, who gives it with
/// --identity.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  age-keygen -o vault.txt && sancerre key add restore --recipient age1… --label vault
  sancerre key add restore --recipient \"$(cat ~/.ssh/id_ed25519.pub)\" --label anna")]
pub(crate) struct AddRestore {
    /// An age recipient (age1…), or the line of an Ed25519 key's .pub file (ssh-ed25519 …)
    #[arg(long, value_name = "RECIPIENT", value_parser = parse_recipient)]
    recipient: Opener,
    /// What to call it; used once, for ever [default: made from the recipient]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    label: Option<Name>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Remove {
    /// Keep a restore recipient from what is saved from now on
    ///
    /// New backups are sealed to a new identity that the recipient does not get, and its object is removed if the
    /// store allows that. It cannot be undone what it could open already: older snapshots, if it kept a copy of that
    /// object or can still read it, and sizes and layout of the zones that exist.
    Restore {
        /// Its label in `sancerre key list`
        #[arg(value_name = "LABEL", value_parser = parse_name)]
        label: Name,
    },
}

pub(super) async fn add(options: AddRestore, context: &Context) -> Result<Done, Failure> {
    let label = options.label.map_or_else(|| default_label(&options.recipient), Ok)?;
    let repository = repository::open(context, Access::Admin).await?;
    let to = To::Key(options.recipient.clone());
    until_signal(async { Ok(recipients::add(&repository, &label, &to).await?) }).await?;
    context
        .output
        .message(&format!("{label} can restore every snapshot, with --identity and its own secret"));
    Ok(done([("label", json!(label.to_string())), ("recipient", json!(options.recipient.to_string()))]))
}

pub(super) async fn remove(label: Name, context: &Context) -> Result<Done, Failure> {
    let (repository, passphrase) = access::repository_as_admin(context).await?;
    let work = async { Ok(recipients::remove(&repository, &label, Some(&passphrase)).await?) };
    let removed = until_signal(work).await?;
    context.output.message(&format!(
        "{label} cannot open what is saved from now on (epoch {}). What was saved before it can still open if it kept a copy",
        removed.epoch
    ));
    Ok(report(context, &removed, label.as_str()))
}

/// Says what a store did not let go.
pub(super) fn report(context: &Context, removed: &Removed, label: &str) -> Done {
    for (key, why) in &removed.kept {
        context.output.warning(&format!("object {key} is still there and opens what it opened: {why}"));
    }
    let exit = if removed.kept.is_empty() { Exit::Done } else { Exit::NotAsAsked };
    let kept: Vec<&String> = removed.kept.iter().map(|(key, _)| key).collect();
    ended(exit, [("label", json!(label)), ("epoch", json!(removed.epoch)), ("kept", json!(kept))])
}

/// The comment at the end of a .pub file's line is no part of the key.
fn parse_recipient(text: &str) -> Result<Opener, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let key = match words.as_slice() {
        [kind, key, ..] if kind.starts_with("ssh-") => format!("{kind} {key}"),
        [one] => (*one).to_owned(),
        _ => text.to_owned(),
    };
    if key.starts_with("AGE-SECRET-KEY-") {
        return Err(
            "that is a secret key: give its public part, and keep the secret off command lines".into()
        );
    }
    match Opener::parse(&key) {
        Ok(opener) if opener != Opener::Passphrase && recipients::is_usable(&opener) => Ok(opener),
        _ => {
            Err("give an age recipient (age1…) or the line of an Ed25519 key's .pub file (ssh-ed25519 …)"
                .into())
        }
    }
}

/// `age-` or `ssh-` and a few characters by which people tell keys apart.
fn default_label(recipient: &Opener) -> Result<Name, Failure> {
    const DIGITS: usize = 10;
    let text = match recipient {
        Opener::Passphrase => "passphrase".to_owned(),
        Opener::Age(recipient) => {
            format!("age-{}", recipient.chars().skip("age1".len()).take(DIGITS).collect::<String>())
        }
        Opener::Ssh(key) => {
            let fingerprint = key.fingerprint();
            let digits = fingerprint.chars().skip("SHA256:".len()).filter(char::is_ascii_alphanumeric);
            format!("ssh-{}", digits.take(DIGITS).collect::<String>())
        }
    };
    Name::new(&text).map_err(|error| Failure::usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_understood() {
        let age = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
        assert_eq!(parse_recipient(age).unwrap().to_string(), age);
        assert_eq!(parse_recipient(&format!("{ssh} anna@desk\n")).unwrap().to_string(), ssh);
        assert_eq!(default_label(&parse_recipient(age).unwrap()).unwrap().as_str(), "age-ql3z7hjy54");
        for text in ["", "passphrase", "age1", "age1ql3z7", "ssh-rsa AAAA", "AGE-SECRET-KEY-1QQQ", "anna"] {
            parse_recipient(text).unwrap_err();
        }
    }
}
