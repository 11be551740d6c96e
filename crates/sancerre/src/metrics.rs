//! Metrics of backups and of a keeper's jobs as a Prometheus text file, for the node exporter's textfile collector.
//!
//! One file may hold several machines and jobs: what it says of others stays, and a failure leaves the time of the last
//! success, so "no good backup since yesterday" can raise an alarm.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use sancerre_engine::host::Host;
use sancerre_engine::suspicion::Suspicion;
use sancerre_format::names::Title;

use crate::exit::{Exit, Failure};
use crate::files::{self, Destination, Readers};
use crate::output::Output;
use crate::plain;

/// How long others may take to bring a file of the same folder up to date.
const TURN: Duration = Duration::from_secs(10);
const TURN_PAUSE: Duration = Duration::from_millis(20);

const LAST_SUCCESS: &str = "sancerre_backup_last_success_timestamp_seconds";
const RUN_SUCCESS: &str = "sancerre_backup_last_run_success";
const DURATION: &str = "sancerre_backup_duration_seconds";
const SIZE: &str = "sancerre_backup_size_bytes";
const DATA: &str = "sancerre_backup_data_bytes";
const NEW: &str = "sancerre_backup_new_bytes";
const STORED: &str = "sancerre_backup_stored_bytes";
const SUSPICION: &str = "sancerre_backup_suspicion";

const JOB_LAST_SUCCESS: &str = "sancerre_job_last_success_timestamp_seconds";
const JOB_RUN_SUCCESS: &str = "sancerre_job_last_run_success";
const JOB_EXIT_CODE: &str = "sancerre_job_last_exit_code";
const JOB_DURATION: &str = "sancerre_job_duration_seconds";

/// Every metric of a backup: name and help.
const BACKUP: [(&str, &str); 8] = [
    (LAST_SUCCESS, "When the last backup that was saved ended."),
    (RUN_SUCCESS, "Whether the last backup was saved."),
    (DURATION, "How long the last backup took."),
    (SIZE, "Size of the disks in the last saved backup."),
    (DATA, "Of that, without holes."),
    (NEW, "Of that, not known to the repository before."),
    (STORED, "What the last saved backup added to the repository."),
    (SUSPICION, "How the last saved backup looks: 0 normal, 1 unusual, 2 suspect."),
];

/// Every metric of a job.
const JOB: [(&str, &str); 4] = [
    (JOB_LAST_SUCCESS, "When the last run that did all that was asked ended."),
    (JOB_RUN_SUCCESS, "Whether the last run did all that was asked."),
    (JOB_EXIT_CODE, "Exit code of the last run."),
    (JOB_DURATION, "How long the last run took."),
];

/// A job of a keeper, and how a run of it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JobRun<'a> {
    pub(crate) name: &'a str,
    /// Where it is, as it was given: one host may look after several.
    pub(crate) repository: &'a str,
    pub(crate) exit: Exit,
    pub(crate) unix_seconds: i64,
    pub(crate) duration: Duration,
}

/// What a backup did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Run<'a> {
    /// Where it went, as it was given: one machine may be saved to several.
    pub(crate) repository: &'a str,
    pub(crate) duration: Duration,
    /// None when nothing was saved.
    pub(crate) saved: Option<Saved>,
}

/// What a saved backup was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Saved {
    pub(crate) unix_seconds: i64,
    pub(crate) size_bytes: u64,
    pub(crate) data_bytes: u64,
    pub(crate) new_bytes: u64,
    pub(crate) stored_bytes: u64,
    /// None without statistics.
    pub(crate) suspicion: Option<Suspicion>,
}

/// Values by metric and labels, as text.
type Values = BTreeMap<(String, String), String>;

/// What a file says.
#[derive(Debug, Default, PartialEq)]
struct Known {
    /// Ours.
    values: Values,
    /// Lines of other programs, which stay as they are.
    others: String,
}

/// Writes down what a backup of a machine did, as [`change`].
pub(crate) fn update(
    path: &Path,
    vm: &Title,
    run: &Run<'_>,
    host: &Host,
    output: &Output,
) -> Result<(), Failure> {
    change(path, host, output, |values| set(values, vm, run))
}

/// Writes down what a job did, as [`change`].
pub(crate) fn update_job(path: &Path, run: &JobRun<'_>, host: &Host, output: &Output) -> Result<(), Failure> {
    change(path, host, output, |values| set_job(values, run))
}

/// Brings the file up to date: what it says of other machines, of other jobs and of other programs stays. Anybody may read it, for the
/// node exporter is another user. What is no plain file gets this run's metrics alone.
///
/// Errors: a file that holds something else than metrics is not touched.
fn change(path: &Path, host: &Host, output: &Output, set: impl FnOnce(&mut Values)) -> Result<(), Failure> {
    let shown = plain::path(path);
    let failed = |error: std::io::Error| {
        Failure::failed(format!(
            "cannot write metrics to {shown}: {error}; check the path and its permissions"
        ))
    };
    let (mut known, mut turn) = (Known::default(), None);
    if let Destination::File(file) = files::destination(path).map_err(failed)? {
        turn = Some(Turn::take(&file).map_err(failed)?);
        known = match std::fs::read_to_string(&file) {
            Ok(text) => parse(&text).map_err(|line| {
                Failure::failed(format!(
                    "{shown} is no file of metrics (line {line} is none), so nothing was written to it; name another file \
                     with --metrics-file"
                ))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Known::default(),
            Err(error) => return Err(failed(error)),
        };
    }
    set(&mut known.values);
    let written = files::write(path, render(&known).as_bytes(), Readers::All, host, output);
    drop(turn);
    written.map_err(failed)
}

/// The right to change a file: two backups that end at once must both be in it. What is locked is its folder, since the
/// file itself is another one after each change.
struct Turn {
    _folder: Option<File>,
}

impl Turn {
    fn take(file: &Path) -> std::io::Result<Self> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new(".")))?;
        let began = Instant::now();
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Self { _folder: Some(folder) }),
                Err(TryLockError::WouldBlock) if began.elapsed() < TURN => std::thread::sleep(TURN_PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(std::io::Error::other(
                        "another program has had its folder locked for a long time",
                    ));
                }
                // Some network file systems have no locks: there each run needs a file of its own.
                Err(TryLockError::Error(_)) => return Ok(Self { _folder: None }),
            }
        }
    }
}

/// Lines `name{labels} value` of the metrics above; other programs' lines are kept.
///
/// Errors: the number of the first line that is neither a metric nor a comment.
fn parse(text: &str) -> Result<Known, usize> {
    let mut known = Known::default();
    for (number, line) in (1..).zip(text.lines()) {
        let name = line.strip_prefix("# HELP ").or(line.strip_prefix("# TYPE ")).unwrap_or(line);
        let name: &str = name.split(['{', ' ']).next().unwrap_or_default();
        match (all().any(|(ours, _)| *ours == name), ours(line)) {
            (true, Some((key, value))) => drop(known.values.insert(key, value)),
            // Our own comments are written anew.
            (true, None) if line.starts_with('#') => {}
            _ if line.starts_with('#') || line.trim().is_empty() || is_metric(line) => {
                known.others.push_str(line);
                known.others.push('\n');
            }
            _ => return Err(number),
        }
    }
    Ok(known)
}

fn ours(line: &str) -> Option<((String, String), String)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once("\"} ")?;
    Some(((name.to_owned(), format!("{labels}\"")), value.to_owned()))
}

fn all() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    BACKUP.iter().chain(&JOB)
}

/// A value as a label spells it.
fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

/// `name value` or `name{labels} value`, perhaps with a time behind it.
fn is_metric(line: &str) -> bool {
    let end = line.find(|letter: char| !(letter.is_ascii_alphanumeric() || "_:".contains(letter)));
    let (name, rest) = line.split_at(end.unwrap_or(line.len()));
    let values =
        if rest.starts_with('{') { rest.rsplit_once('}').map(|(_, values)| values) } else { Some(rest) };
    let mut words = values.unwrap_or_default().split_whitespace();
    let is_number = words.next().is_some_and(|word| word.parse::<f64>().is_ok());
    let is_time = words.next().is_none_or(|word| word.parse::<i64>().is_ok());
    !name.is_empty() && is_number && is_time && words.next().is_none()
}

/// The verdict as a number.
fn level(verdict: Suspicion) -> u8 {
    match verdict {
        Suspicion::Normal => 0,
        Suspicion::Unusual => 1,
        Suspicion::Suspect => 2,
    }
}

fn set(values: &mut Values, vm: &Title, run: &Run<'_>) {
    let labels = format!("{},{}", label("repository", run.repository), label("vm", vm.as_str()));
    let mut put = |metric: &str, value: String| values.insert((metric.to_owned(), labels.clone()), value);
    put(RUN_SUCCESS, u8::from(run.saved.is_some()).to_string());
    put(DURATION, format!("{:.3}", run.duration.as_secs_f64()));
    if let Some(saved) = run.saved {
        put(LAST_SUCCESS, saved.unix_seconds.to_string());
        put(SIZE, saved.size_bytes.to_string());
        put(DATA, saved.data_bytes.to_string());
        put(NEW, saved.new_bytes.to_string());
        put(STORED, saved.stored_bytes.to_string());
        match saved.suspicion.map(level) {
            Some(level) => drop(put(SUSPICION, level.to_string())),
            // What an earlier run said is not true of this one.
            None => drop(values.remove(&(SUSPICION.to_owned(), labels.clone()))),
        }
    }
}

fn set_job(values: &mut Values, run: &JobRun<'_>) {
    let labels = format!("{},{}", label("job_name", run.name), label("repository", run.repository));
    let mut put = |metric: &str, value: String| values.insert((metric.to_owned(), labels.clone()), value);
    let is_done = run.exit == Exit::Done;
    put(JOB_RUN_SUCCESS, u8::from(is_done).to_string());
    put(JOB_EXIT_CODE, run.exit.code().to_string());
    put(JOB_DURATION, format!("{:.3}", run.duration.as_secs_f64()));
    if is_done {
        put(JOB_LAST_SUCCESS, run.unix_seconds.to_string());
    }
}

fn render(known: &Known) -> String {
    let mut text = known.others.clone();
    for (metric, help) in all() {
        let of_metric: Vec<_> = known.values.iter().filter(|((name, _), _)| name == metric).collect();
        if of_metric.is_empty() {
            continue;
        }
        text.push_str(&format!("# HELP {metric} {help}\n# TYPE {metric} gauge\n"));
        for ((_, labels), value) in of_metric {
            text.push_str(&format!("{metric}{{{labels}}} {value}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::io::Io;

    const SAVED: Saved = Saved {
        unix_seconds: 1_700_000_000,
        size_bytes: 40,
        data_bytes: 30,
        new_bytes: 20,
        stored_bytes: 10,
        suspicion: Some(Suspicion::Normal),
    };
    const OTHER: &str =
        "# HELP other_total Of another program.\nother_total 3\nother{a=\"}\"} 1.5 1700000000000\n";

    fn run(saved: Option<Saved>) -> Run<'static> {
        Run { repository: "/nas", duration: Duration::from_millis(1500), saved }
    }

    fn name(text: &str) -> Title {
        Title::new(text).unwrap()
    }

    fn updated(path: &Path, vm: &str, saved: Option<Saved>) -> Result<(), Failure> {
        update(path, &name(vm), &run(saved), &Host::real("test"), &Output::json(&mut Io::process()))
    }

    /// What the file says after a run.
    fn text_after(path: &Path, vm: &str, saved: Option<Saved>) -> String {
        updated(path, vm, saved).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_failure_keeps_the_time_of_the_last_success() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sancerre.prom");
        updated(&path, "web01", Some(SAVED)).unwrap();
        let text = text_after(&path, "web01", None);
        assert!(
            text.contains("sancerre_backup_last_success_timestamp_seconds{repository=\"/nas\",vm=\"web01\"} 1700000000\n"),
            "{text}"
        );
        assert!(
            text.contains("sancerre_backup_last_run_success{repository=\"/nas\",vm=\"web01\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("sancerre_backup_duration_seconds{repository=\"/nas\",vm=\"web01\"} 1.500\n"),
            "{text}"
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(path.metadata().unwrap().mode() & 0o444, 0o444, "the node exporter is another user");
    }

    #[test]
    fn one_machine_in_two_repositories_has_two_series() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sancerre.prom");
        updated(&path, "web01", Some(SAVED)).unwrap();
        let other = Run { repository: "s3://b", ..run(None) };
        update(&path, &name("web01"), &other, &Host::real("test"), &Output::json(&mut Io::process()))
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for (labels, success) in
            [(r#"{repository="/nas",vm="web01"}"#, 1), (r#"{repository="s3://b",vm="web01"}"#, 0)]
        {
            assert!(text.contains(&format!("last_run_success{labels} {success}\n")), "{text}");
        }
    }

    #[test]
    fn a_first_failure_claims_no_success() {
        let folder = tempfile::tempdir().unwrap();
        let text = text_after(&folder.path().join("sancerre.prom"), "web01", None);
        assert!(text.contains("last_run_success{repository=\"/nas\",vm=\"web01\"} 0"), "{text}");
        assert!(!text.contains("last_success_timestamp"), "{text}");
    }

    #[test]
    fn any_name_is_a_label() {
        let mut known = Known::default();
        set(&mut known.values, &name("Büro \"2\"} \\ 1"), &run(None));
        let text = render(&known);
        assert!(
            text.contains("last_run_success{repository=\"/nas\",vm=\"Büro \\\"2\\\"} \\\\ 1\"} 0\n"),
            "{text}"
        );
        assert_eq!(render(&parse(&text).unwrap()), text);
    }

    #[test]
    fn other_machines_and_other_programs_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sancerre.prom");
        std::fs::write(&path, OTHER).unwrap();
        updated(&path, "web01", Some(SAVED)).unwrap();
        let text = text_after(&path, "db01", None);
        assert!(
            text.contains(
                "last_run_success{repository=\"/nas\",vm=\"db01\"} 0\nsancerre_backup_last_run_success{repository=\"/nas\",vm=\"web01\"} 1\n"
            ),
            "{text}"
        );
        assert!(text.starts_with(OTHER), "{text}");
        assert_eq!(text.matches("# TYPE").count(), BACKUP.len());
        assert_eq!(render(&parse(&text).unwrap()), text);
    }

    #[test]
    fn jobs_stand_beside_machines_and_keep_the_time_of_their_last_success() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sancerre.prom");
        updated(&path, "web01", Some(SAVED)).unwrap();
        let job = JobRun {
            name: "gc",
            repository: "/mnt/\"nas\"",
            exit: Exit::Done,
            unix_seconds: 1_700_000_000,
            duration: Duration::from_millis(1500),
        };
        let write = |job: &JobRun<'_>| {
            update_job(&path, job, &Host::real("test"), &Output::json(&mut Io::process())).unwrap();
        };
        write(&job);
        write(&JobRun { repository: "s3://b", ..job });
        write(&JobRun { exit: Exit::Missing, unix_seconds: 1_800_000_000, ..job });
        let text = std::fs::read_to_string(&path).unwrap();
        let labels = r#"{job_name="gc",repository="/mnt/\"nas\""}"#;
        for line in [
            format!("sancerre_job_last_success_timestamp_seconds{labels} 1700000000\n"),
            format!("sancerre_job_last_run_success{labels} 0\n"),
            format!("sancerre_job_last_exit_code{labels} 21\n"),
            "sancerre_job_last_run_success{job_name=\"gc\",repository=\"s3://b\"} 1\n".to_owned(),
            "sancerre_backup_last_run_success{repository=\"/nas\",vm=\"web01\"} 1\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
        assert_eq!(render(&parse(&text).unwrap()), text);
    }

    #[test]
    fn what_is_no_file_of_metrics_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        for text in ["root:x:0:0:root:/root:/bin/bash\n", "a 1\nnot a metric\n", "a b\n", "a{ 1\n"] {
            std::fs::write(&path, text).unwrap();
            let failure = updated(&path, "web01", None).unwrap_err();
            assert!(failure.message.contains("no file of metrics"), "{}", failure.message);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_runs_at_once_are_both_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sancerre.prom");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    (0..20).for_each(|round| updated(path, &format!("vm{writer}-{round}"), None).unwrap());
                });
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("sancerre_backup_last_run_success{").count(), 8 * 20);
    }
}
