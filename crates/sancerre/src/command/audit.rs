//! `audit`: verify the repository without any secret, remember it, and write a report that can be filed.

mod html;
mod sign;
mod summary;
mod timeline;
mod words;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use sancerre_engine::audit::{self, AuditOptions, AuditReport, AuditState};
use sancerre_engine::check::{ReadData, Sample};
use sancerre_format::names::Title;
use sancerre_format::sign::SigningKey;

use super::{Context, check, ended};
use crate::arguments::{Subset, parse_title};
use crate::exit::{Done, Exit, Failure};
use crate::files::{self, Destination, Readers};
use crate::plain;
use crate::progress::Work;
use crate::repository;
use crate::units::{parse_percent, parse_seconds};

/// Verify the repository without any secret, and write a report of it.
///
/// Needs read access to the store and the fingerprint that `sancerre init` printed. Verifies all zones: every
/// signature back to that key, the history of each machine, and that every pack is there; on request, that the packs'
/// bytes are what their writers signed. Opens no content. See docs/AUDIT.md.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sancerre audit --trust SHA256:fe85… --state audit.state --max-age 26h
  sancerre audit --trust SHA256:fe85… --sample-loss 0.1% --confidence 99%
  sancerre audit --trust SHA256:fe85… --read-data --report audit.html --sign ~/.ssh/id_ed25519

Exit codes: 20 damaged, 21 missing, 3 a machine without a fresh snapshot or drill, 12 another admin key than --trust.")]
pub(crate) struct Audit {
    /// Read all packs and compare their bytes with what was signed
    #[arg(long, conflicts_with_all = ["read_data_subset", "sample_loss"])]
    read_data: bool,
    /// Read some packs: a fixed share (5%), or part n of t (3/7)
    #[arg(long, value_name = "N%|n/t", conflicts_with = "sample_loss")]
    read_data_subset: Option<Subset>,
    /// Read so many packs, drawn at random, that the loss of this share of them would be noticed
    #[arg(long, value_name = "N%", value_parser = parse_percent)]
    sample_loss: Option<f64>,
    /// With this probability
    #[arg(long, value_name = "N%", value_parser = parse_percent, default_value = "99%", requires = "sample_loss")]
    confidence: f64,
    /// Fail when the newest snapshot under any machine's public name is older, such as 26h or 8d; a machine that was renamed
    /// has two
    #[arg(long, value_name = "AGE", value_parser = parse_seconds)]
    max_age: Option<u64>,
    /// Fail when a machine has not passed a drill for longer (`sancerre drill`)
    #[arg(long, value_name = "AGE", value_parser = parse_seconds)]
    max_drill_age: Option<u64>,
    /// The public name of a machine that is not backed up any more, or not under this name, so --max-age and --max-drill-age leave it out; may
    /// be given several times
    #[arg(long, value_name = "VM", value_parser = parse_title)]
    retired: Vec<Title>,
    /// Remember in this file what was seen, so that the next audit notices what is gone or replaced
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Write a report for filing, as one HTML file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Sign the report with this SSH key, into FILE.sig
    #[arg(long, value_name = "KEY", requires = "report")]
    sign: Option<PathBuf>,
}

impl Audit {
    /// What it writes, in words, and where.
    pub(crate) fn written(&self) -> Vec<(&'static str, PathBuf)> {
        let state = self.state.clone().map(|path| ("the file of what was seen", path));
        let report = self.report.clone().map(|path| ("the report", path));
        state.into_iter().chain(report).collect()
    }
}

pub(crate) async fn run(options: Audit, context: &Context) -> Result<Done, Failure> {
    let started = Instant::now();
    let trust = context.global.trust.clone().ok_or_else(|| {
        Failure::usage("give the trust anchor with --trust or SANCERRE_TRUST: the fingerprint that `sancerre init` printed")
    })?;
    // What is written to standard output must stand there alone.
    let is_stdout = options.report.as_deref().is_some_and(files::is_stdout);
    if is_stdout {
        context.needs_stdout()?;
    }
    let stdout = if is_stdout { context.output.take_stdout() } else { None };
    // Before hours of reading: what must be readable, is.
    let key = options.sign.as_deref().map(|path| sign::read(path, context)).transpose()?;
    refuse_odd(&options)?;
    let state = options.state.as_deref().map(read_state).transpose()?.flatten();
    let store = repository::store(context, false)?;
    let settings = AuditOptions {
        trust,
        zone: context.global.zone.clone(),
        read_data: read_data(&options, context),
        max_age_seconds: options.max_age,
        max_drill_age_seconds: options.max_drill_age,
        retired: options.retired.clone(),
        state,
    };
    let (monitor, watched) = context.watched(Work::Check)?;
    let report = audit::audit(&store, &context.host, &settings, &monitor).await?;
    drop(watched);
    let took = started.elapsed();

    context.output.result(&words::text(&report, &settings))?;
    remember(&options, &report, context)?;
    if let Some(path) = &options.report {
        // Hours may have passed.
        refuse_others(&options)?;
        let page = html::page(&report, &settings, store.location(), took);
        write_report(path, &page, stdout, key.as_ref(), context)?;
    }
    Ok(ended(exit(&report), summary::summary(&report, took)))
}

/// Writes the report, and its signature beside it.
fn write_report(
    path: &Path,
    page: &str,
    stdout: Option<Box<dyn Write + Send>>,
    key: Option<&SigningKey>,
    context: &Context,
) -> Result<(), Failure> {
    match stdout {
        Some(mut stdout) if files::is_stdout(path) => {
            let written = stdout.write_all(page.as_bytes()).and_then(|()| stdout.flush());
            written.map_err(|error| unwritten(path, &error))?;
        }
        _ => write(path, page.as_bytes(), context)?,
    }
    if let Some(key) = key {
        let signature = sign::sign(key, page.as_bytes())?;
        write(&sign::beside(path), signature.as_bytes(), context)?;
    }
    context.output.message(&format!("report written to {}", plain::path(path)));
    Ok(())
}

/// Damage first, then loss; a machine without a fresh snapshot is neither.
fn exit(report: &AuditReport) -> Exit {
    let findings: Vec<_> = report.all_findings().collect();
    match check::exit(findings) {
        Exit::Done if report.stale().next().is_some() || report.undrilled().next().is_some() => {
            Exit::NotAsAsked
        }
        exit => exit,
    }
}

fn read_data(options: &Audit, context: &Context) -> ReadData {
    match options.sample_loss {
        Some(loss_percent) => ReadData::Sample(Sample {
            loss_percent,
            confidence_percent: options.confidence,
            seed: context.host.random(),
        }),
        None => check::read_data(context, options.read_data, options.read_data_subset),
    }
}

/// The memory of earlier audits; none the first time.
fn read_state(path: &Path) -> Result<Option<AuditState>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => AuditState::decode(&text)
            .map(Some)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::failed(format!(
            "cannot read the state file {}: {error}; check --state",
            path.display()
        ))),
    }
}

/// Writes the memory. What contradicts it is not remembered, so that the next audit says so again.
fn remember(options: &Audit, report: &AuditReport, context: &Context) -> Result<(), Failure> {
    let Some(path) = &options.state else { return Ok(()) };
    match &report.state {
        Some(state) => write(path, state.encode().as_bytes(), context),
        None => {
            context.output.warning(&format!(
                "{} stays as it was: what the store shows contradicts it. Once you know why, move it away to start anew",
                path.display()
            ));
            Ok(())
        }
    }
}

/// What cannot be remembered or signed, before hours of reading.
fn refuse_odd(options: &Audit) -> Result<(), Failure> {
    let is_file =
        |path: &Path| !matches!(files::destination(path), Ok(Destination::Stdout | Destination::Through(_)));
    if let Some(path) = options.state.as_deref().filter(|path| !is_file(path)) {
        let path = path.display();
        return Err(Failure::usage(format!(
            "{path} is no file, so nothing can be remembered in it; check --state"
        )));
    }
    match options.report.as_deref().filter(|path| !is_file(path) && options.sign.is_some()) {
        Some(path) => Err(Failure::usage(format!(
            "the signature is written beside the report, and {} is no file; name a file with --report",
            path.display()
        ))),
        None => refuse_others(options),
    }
}

/// Only an empty file, an earlier report and its signature are replaced: nothing says that another file may go.
fn refuse_others(options: &Audit) -> Result<(), Failure> {
    let Some(report) = &options.report else { return Ok(()) };
    let refuse = |path: &Path, what: &str, is_ours: fn(&[u8]) -> bool| {
        files::refuse_other(path, is_ours).map_err(|error| {
            Failure::usage(format!(
                "{what} cannot be written to {}: {error}. Name a new file, or one that holds an earlier report, with \
                 --report; nothing was done",
                plain::path(path)
            ))
        })
    };
    refuse(report, "the report", html::is_page)?;
    match options.sign {
        Some(_) => refuse(&sign::beside(report), "the report's signature", sign::is_signature),
        None => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8], context: &Context) -> Result<(), Failure> {
    let written = files::write(path, bytes, Readers::Usual, &context.host, &context.output);
    written.map_err(|error| unwritten(path, &error))
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!(
        "the audit is done, but {} cannot be written: {error}; check the path and its permissions",
        path.display()
    ))
}
