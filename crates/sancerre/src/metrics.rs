//! Metrics of backups as a Prometheus text file, for the node exporter's textfile collector.
//!
//! One file may hold several machines: what it says of others stays, and a failure leaves the time of the last
//! success, so "no good backup since yesterday" can raise an alarm.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use sancerre_format::names::Title;

use crate::exit::Failure;
use crate::files;

const LAST_SUCCESS: &str = "sancerre_backup_last_success_timestamp_seconds";
const RUN_SUCCESS: &str = "sancerre_backup_last_run_success";
const DURATION: &str = "sancerre_backup_duration_seconds";
const SIZE: &str = "sancerre_backup_size_bytes";
const DATA: &str = "sancerre_backup_data_bytes";
const NEW: &str = "sancerre_backup_new_bytes";
const STORED: &str = "sancerre_backup_stored_bytes";

/// Every metric: name and help.
const METRICS: [(&str, &str); 7] = [
    (LAST_SUCCESS, "When the last backup that was saved ended."),
    (RUN_SUCCESS, "Whether the last backup was saved."),
    (DURATION, "How long the last backup took."),
    (SIZE, "Size of the disks in the last saved backup."),
    (DATA, "Of that, without holes."),
    (NEW, "Of that, not known to the repository before."),
    (STORED, "What the last saved backup added to the repository."),
];

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Run {
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
}

/// Values by metric and machine, as text; the machine as a label spells it.
type Values = BTreeMap<(String, String), String>;

/// Brings the file up to date, by writing beside it and renaming.
pub(crate) fn update(path: &Path, vm: &Title, run: &Run) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::failed(format!(
            "cannot write metrics to {}: {error}; check the path and its permissions",
            path.display()
        ))
    };
    let mut values = match std::fs::read_to_string(path) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Values::new(),
        Err(error) => return Err(failed(error)),
    };
    set(&mut values, vm, run);
    files::replace(path, render(&values).as_bytes()).map_err(failed)
}

/// Lines `name{vm="…"} value` of the metrics above; anything else is not ours and is dropped.
fn parse(text: &str) -> Values {
    let known = |name: &str| METRICS.iter().any(|(known, _)| *known == name);
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once("{vm=\"")?;
            let (vm, value) = rest.rsplit_once("\"} ")?;
            known(name).then(|| ((name.to_owned(), vm.to_owned()), value.to_owned()))
        })
        .collect()
}

fn set(values: &mut Values, vm: &Title, run: &Run) {
    let label = vm.as_str().replace('\\', "\\\\").replace('"', "\\\"");
    let mut put = |metric: &str, value: String| values.insert((metric.to_owned(), label.clone()), value);
    put(RUN_SUCCESS, u8::from(run.saved.is_some()).to_string());
    put(DURATION, format!("{:.3}", run.duration.as_secs_f64()));
    if let Some(saved) = run.saved {
        put(LAST_SUCCESS, saved.unix_seconds.to_string());
        put(SIZE, saved.size_bytes.to_string());
        put(DATA, saved.data_bytes.to_string());
        put(NEW, saved.new_bytes.to_string());
        put(STORED, saved.stored_bytes.to_string());
    }
}

fn render(values: &Values) -> String {
    let mut text = String::new();
    for (metric, help) in METRICS {
        let of_metric: Vec<_> = values.iter().filter(|((name, _), _)| name == metric).collect();
        if of_metric.is_empty() {
            continue;
        }
        text.push_str(&format!("# HELP {metric} {help}\n# TYPE {metric} gauge\n"));
        for ((_, vm), value) in of_metric {
            text.push_str(&format!("{metric}{{vm=\"{vm}\"}} {value}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: Saved = Saved {
        unix_seconds: 1_700_000_000,
        size_bytes: 40,
        data_bytes: 30,
        new_bytes: 20,
        stored_bytes: 10,
    };

    fn run(saved: Option<Saved>) -> Run {
        Run { duration: Duration::from_millis(1500), saved }
    }

    fn name(text: &str) -> Title {
        Title::new(text).unwrap()
    }

    #[test]
    fn a_failure_keeps_the_time_of_the_last_success() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sancerre.prom");
        update(&path, &name("web01"), &run(Some(SAVED))).unwrap();
        update(&path, &name("web01"), &run(None)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("sancerre_backup_last_success_timestamp_seconds{vm=\"web01\"} 1700000000\n"),
            "{text}"
        );
        assert!(text.contains("sancerre_backup_last_run_success{vm=\"web01\"} 0\n"), "{text}");
        assert!(text.contains("sancerre_backup_duration_seconds{vm=\"web01\"} 1.500\n"), "{text}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_first_failure_claims_no_success() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sancerre.prom");
        update(&path, &name("web01"), &run(None)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("last_run_success{vm=\"web01\"} 0"), "{text}");
        assert!(!text.contains("last_success_timestamp"), "{text}");
    }

    #[test]
    fn any_name_is_a_label() {
        let mut values = Values::new();
        set(&mut values, &name("Büro \"2\"} \\ 1"), &run(None));
        let text = render(&values);
        assert!(text.contains("last_run_success{vm=\"Büro \\\"2\\\"} \\\\ 1\"} 0\n"), "{text}");
        assert_eq!(render(&parse(&text)), text);
    }

    #[test]
    fn other_machines_stay() {
        let mut values = Values::new();
        set(&mut values, &name("web01"), &run(Some(SAVED)));
        let mut values = parse(&(render(&values) + "something_else{vm=\"x\"} 1\nnot a metric\n"));
        set(&mut values, &name("db01"), &run(None));
        let text = render(&values);
        assert!(
            text.contains(
                "last_run_success{vm=\"db01\"} 0\nsancerre_backup_last_run_success{vm=\"web01\"} 1\n"
            ),
            "{text}"
        );
        assert!(!text.contains("something_else"), "{text}");
        assert_eq!(text.matches("# TYPE").count(), METRICS.len());
        assert_eq!(render(&parse(&text)), text);
    }
}
