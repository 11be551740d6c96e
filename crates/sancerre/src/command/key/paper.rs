//! `key paper`: a sheet for the safe, from which everything can be restored with nothing else.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use qrcodegen::{QrCode, QrCodeEcc};
use rustix::fs::{FileType, Mode};
use sancerre_engine::keys::recipients::{self, To};
use sancerre_engine::repository::Repository;
use sancerre_format::names::Name;
use sancerre_format::recipient::Opener;
use serde_json::json;
use zeroize::Zeroizing;

use crate::access::Access;
use crate::command::{Context, done};
use crate::exit::{Done, Failure};
use crate::interrupt::until_signal;
use crate::io::Environment;
use crate::plain;
use crate::repository;
use crate::variables;

/// Print a recovery sheet: a new restore recipient whose secret is on the paper and nowhere else.
///
/// Needs the administrator's passphrase. Whoever has the sheet and can read the repository can restore everything; it
/// signs nothing. A sheet that is lost is taken back with `sancerre key remove restore LABEL`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre key paper | lp
  sancerre key paper --out sheet.txt
  sancerre key paper --svg sheet.svg")]
pub(crate) struct Paper {
    /// Write the sheet as a picture to this new file, and not to standard output
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    svg: Option<PathBuf>,
    /// Write the sheet to this new file, which only you can read, and not to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// How the labels of sheets begin.
pub(in crate::command) const SHEET: &str = "paper-";
/// Where Linux tells the host's name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
/// What the names of those variables hold that say where a provider is, and no secret.
const PLACES: [&str; 3] = ["ENDPOINT", "REGION", "ACCOUNT_NAME"];
/// And of those that are one.
const SECRETS: [&str; 5] = ["KEY", "SECRET", "TOKEN", "SERVICE_ACCOUNT", "CREDENTIAL"];
/// In its place on the sheet.
const BLANK: &str = "__________________________________________";

impl Paper {
    /// What it writes besides the repository, in words, and where.
    pub(super) fn written(&self) -> Vec<(&'static str, PathBuf)> {
        self.file().map(|path| ("the recovery sheet", path.to_owned())).into_iter().collect()
    }

    /// Where it goes; none for standard output.
    fn file(&self) -> Option<&Path> {
        self.svg.as_deref().or(self.out.as_deref())
    }
}

/// What stands on the sheet.
struct Sheet {
    lines: Vec<String>,
    qr: QrCode,
}

pub(super) async fn run(options: Paper, context: &Context) -> Result<Done, Failure> {
    if options.file().is_none() {
        // Before a recipient is made whose only copy would be lost.
        context.needs_stdout()?;
        keep_to_owner(std::io::stdout())?;
        if context.output.is_json() {
            return Err(Failure::usage(
                "a sheet is no part of JSON, which ends in log files: name a file with --out or --svg. Nothing was made",
            ));
        }
    }
    let repository = repository::open(context, Access::Admin).await?;
    let mut file = options.file().map(reserve).transpose()?;
    let (secret, recipient) = recipients::new_key(&context.host)?;
    let label = label(&recipient)?;
    let sheet = Sheet::new(&repository, &label, &secret, &context.environment)?;
    let to = To::Key(Opener::Age(recipient));
    let added = until_signal(async { Ok(recipients::add(&repository, &label, &to).await?) }).await;
    if let (Err(_), Some(path)) = (&added, options.file()) {
        // Empty; if it stays, the next attempt says that it exists.
        let _ = std::fs::remove_file(path);
    }
    added?;
    match &mut file {
        Some(file) => {
            let text = if options.svg.is_some() { sheet.svg() } else { sheet.text() };
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
                Failure::failed(format!(
                    "the sheet cannot be written: {error}; `sancerre key remove restore {label}`"
                ))
            })?;
        }
        None => context.output.result(&sheet.text()).map_err(|failure| {
            let advice =
                format!("the sheet is lost: take it back with `sancerre key remove restore {label}`");
            Failure::new(failure.exit, format!("{}; {advice}", failure.message))
        })?,
    }
    context.output.message(&format!(
        "{label} can restore every snapshot: print the sheet, then remove every copy of it from computers"
    ));
    let shown = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
    // The code itself is never in JSON, which ends in log files.
    Ok(done([
        ("label", json!(label.to_string())),
        ("svg", json!(shown(options.svg))),
        ("out", json!(shown(options.out))),
    ]))
}

/// A file that a shell made for the sheet is often one that everybody may read.
fn keep_to_owner(stream: impl AsFd) -> Result<(), Failure> {
    let failed = |error: rustix::io::Errno| {
        Failure::failed(format!(
            "others can read the file that the sheet would go to, and that cannot be changed: {error}; nothing was made. Name a \
             new file with --out, or pass the sheet to a printer"
        ))
    };
    let found = rustix::fs::fstat(&stream).map_err(failed)?;
    let mode = Mode::from_raw_mode(found.st_mode);
    let is_shared = mode.intersects(Mode::RWXG | Mode::RWXO);
    if FileType::from_raw_mode(found.st_mode).is_file() && is_shared {
        rustix::fs::fchmod(&stream, mode & Mode::RWXU).map_err(failed)?;
    }
    Ok(())
}

fn reserve(path: &Path) -> Result<std::fs::File, Failure> {
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        Failure::failed(format!("cannot make {}: {error}; nothing was made, name a new file", path.display()))
    })
}

/// `paper-` and the start of the public key, which is on the sheet too.
fn label(recipient: &str) -> Result<Name, Failure> {
    let digits: String = recipient.chars().skip("age1".len()).take(8).collect();
    Name::new(&format!("{SHEET}{digits}")).map_err(|error| Failure::usage(error.to_string()))
}

/// Where the repository is, for somebody who stands before another machine in ten years.
struct RepositoryPlace {
    shown: String,
    /// One command, with blanks for what is secret.
    exports: String,
    /// What to do about the blanks.
    advice: Option<&'static str>,
}

impl RepositoryPlace {
    /// The whole path or URL, whichever part of it was typed; of a bucket also where its provider is.
    fn of(repository: &Repository, environment: &Environment) -> Result<Self, Failure> {
        let typed = repository.store.location();
        let is_url = typed.contains("://");
        let whole = match is_url {
            true => typed.to_owned(),
            false => {
                std::fs::canonicalize(typed).map(|path| path.display().to_string()).map_err(|error| {
                    Failure::failed(format!(
                        "cannot find the whole path of {typed}: {error}; check the location"
                    ))
                })?
            }
        };
        let host = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
        let shown = match host.trim() {
            host if !is_url && !host.is_empty() => format!("{whole}  on {host}"),
            _ => whole.clone(),
        };
        let mut exports = format!("       export SANCERRE_REPOSITORY={}", quoted(&whole));
        let used = |name: &String| is_url && repository.store.settings().contains(name);
        let mut has_blanks = false;
        for (name, value) in variables::cloud(environment)?.into_iter().filter(|(name, _)| used(name)) {
            let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
            let value = match (has(&PLACES), has(&SECRETS)) {
                (true, _) => quoted(&value),
                (false, true) => BLANK.to_owned(),
                (false, false) => continue,
            };
            has_blanks |= value == BLANK;
            exports.push_str(&format!(" \\\n         {name}={value}"));
        }
        let advice = match (is_url, has_blanks) {
            (false, _) => None,
            (true, true) => Some(
                "  Fill in the blanks, here and now: credentials of whoever may read all, and nothing else.",
            ),
            (true, false) => {
                Some("  A bucket also needs the provider's own credentials: ____________________________")
            }
        };
        Ok(Self { shown: plain::line(&shown).into_owned(), exports, advice })
    }
}

/// The code in groups that people can compare; what all codes begin with is one.
fn in_groups(secret: &str) -> Zeroizing<String> {
    const LETTERS: usize = 6;
    let start = secret.rfind('1').map_or(0, |at| at.saturating_add(1));
    let (kind, code) = secret.split_at(start);
    // No growth: reallocating would leave copies behind.
    let mut groups = Zeroizing::new(String::with_capacity(secret.len().saturating_mul(2)));
    groups.push_str(kind);
    for (at, letter) in code.chars().enumerate() {
        if at.is_multiple_of(LETTERS) {
            groups.push(' ');
        }
        groups.push(letter);
    }
    groups
}

/// As a shell reads it back.
fn quoted(text: &str) -> String {
    format!("'{}'", plain::line(text).replace('\'', r"'\''"))
}

impl Sheet {
    fn new(
        repository: &Repository,
        label: &Name,
        secret: &str,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let Ok(qr) = QrCode::encode_text(secret, QrCodeEcc::Quartile) else {
            return Err(Failure::failed("the code does not fit a QR code; this is a bug, please report it"));
        };
        let trust = &repository.keys.trust;
        let (place, anchor) = (RepositoryPlace::of(repository, environment)?, trust.admin.fingerprint());
        let lines = [
            "SANCERRE RECOVERY SHEET: whoever holds it can read every backup. Keep it in a safe.".to_owned(),
            String::new(),
            format!("repository     {}", trust.repository),
            format!("location       {}", place.shown),
            format!("trust anchor   {anchor}"),
            format!(
                "made           {}, as {label}, by {}",
                repository.host.clock.now(),
                repository.host.tool
            ),
            String::new(),
            "recovery code".to_owned(),
            format!("  {}", *in_groups(secret)),
            String::new(),
            "To restore, with nothing but this sheet, the repository and the program:".to_owned(),
            "  1. Type or scan the code into a file that only you can read:".to_owned(),
            "       (umask 077; cat > code.txt)      then the code, Enter, Ctrl-D".to_owned(),
            "     In capital letters; the blanks between its groups may be typed or left out.".to_owned(),
            "  2. List what is there, then restore:".to_owned(),
            place.exports,
            "       sancerre snapshots --identity code.txt \\".to_owned(),
            format!("         --trust {anchor}"),
            "       sancerre restore VM:latest --target restored/ --identity code.txt \\".to_owned(),
            format!("         --trust {anchor}"),
            "     VM is a name that the list shows; VM:latest~7 is the one seven nights before the newest."
                .to_owned(),
            "     Each disk becomes restored/NAME.raw. To a device: VM:latest:NAME --target /dev/…"
                .to_owned(),
            place.advice.unwrap_or_default().to_owned(),
            "  The program is one file that needs nothing else. Copies of it, and of its source, are at:"
                .to_owned(),
            "     __________________________________________________________________________".to_owned(),
            "  Notes: ______________________________________________________________________".to_owned(),
            format!("  If the sheet is lost: sancerre key remove restore {label}"),
        ];
        Ok(Self { lines: lines.iter().flat_map(|line| line.split('\n')).map(str::to_owned).collect(), qr })
    }

    /// For a terminal and a printer: two rows of the QR code in each line, with the quiet margin it needs.
    fn text(&self) -> Zeroizing<String> {
        const MARGIN: i32 = 2;
        let mut text = Zeroizing::new(self.lines.join("\n"));
        text.push_str("\n\n");
        let size = self.qr.size();
        for y in (-MARGIN..size.saturating_add(MARGIN)).step_by(2) {
            for x in -MARGIN..size.saturating_add(MARGIN) {
                // Light is drawn, so that it reads on a dark terminal; outside the code all is light.
                let below = y.saturating_add(1);
                text.push(match (self.qr.get_module(x, y), self.qr.get_module(x, below)) {
                    (true, true) => ' ',
                    (true, false) => '▄',
                    (false, true) => '▀',
                    (false, false) => '█',
                });
            }
            text.push('\n');
        }
        text
    }

    /// One page: the text, and the code below it.
    fn svg(&self) -> Zeroizing<String> {
        const LINE: usize = 18;
        const LEFT: usize = 30;
        let top = self.lines.len().saturating_add(3).saturating_mul(LINE);
        let mut svg = Zeroizing::new(String::from(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 1130\" font-family=\"monospace\" font-size=\"13\">\n\
             <rect width=\"800\" height=\"1130\" fill=\"#fff\"/>\n",
        ));
        for (number, line) in self.lines.iter().enumerate() {
            let y = number.saturating_add(2).saturating_mul(LINE);
            svg.push_str(&format!(
                "<text x=\"{LEFT}\" y=\"{y}\" xml:space=\"preserve\">{}</text>\n",
                escaped(line)
            ));
        }
        svg.push_str(&format!("<path transform=\"translate({LEFT},{top}) scale(8)\" d=\""));
        for y in 0..self.qr.size() {
            for x in (0..self.qr.size()).filter(|x| self.qr.get_module(*x, y)) {
                svg.push_str(&format!("M{x},{y}h1v1h-1z"));
            }
        }
        svg.push_str("\"/>\n</svg>\n");
        svg
    }
}

/// A location may hold anything.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
