//! Moves against a QEMU of our own making that says what it is asked to: what is done and written down, and in which order.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::hydrate::{Hydrated, Hydration, hydrate};
use crate::job::HydrateError;

/// What a QEMU with one disk has, as far as it is asked.
#[derive(Debug, Default)]
struct Machine {
    is_on_device: bool,
    is_paused: bool,
    has_device: bool,
    job: Option<&'static str>,
    error: Option<&'static str>,
    /// So many mirrors fail.
    fails: u32,
    /// Whether no mirror is ended.
    refuses: bool,
    /// What was done to it, and written down, in order.
    log: Vec<String>,
}

impl Machine {
    fn answer(&mut self, command: &str) -> Result<Value, &'static str> {
        let drive = if self.is_on_device { "device-0" } else { "disk-0" };
        match command {
            "query-jobs" => {
                let job = |status| json!({ "id": "hydrate-0", "type": "mirror", "status": status, "error": self.error });
                let jobs: Vec<Value> = self.job.map(job).into_iter().collect();
                // What runs is ready the next time.
                self.job = self.job.map(|job| if job == "running" { "ready" } else { job });
                return Ok(json!(jobs));
            }
            "query-block" => return Ok(json!([{ "inserted": { "node-name": drive } }])),
            "query-status" => {
                let status = if self.is_paused { "paused" } else { "running" };
                return Ok(json!({ "status": status, "running": !self.is_paused }));
            }
            "qmp_capabilities" => return Ok(json!({})),
            _ => self.log.push(command.to_owned()),
        }
        match command {
            "stop" => self.is_paused = true,
            "cont" => self.is_paused = false,
            "blockdev-add" => self.has_device = true,
            "blockdev-mirror" if !self.has_device => return Err("no such node"),
            "blockdev-mirror" if self.fails > 0 => {
                self.fails -= 1;
                (self.job, self.error) = (Some("concluded"), Some("Input/output error"));
            }
            "blockdev-mirror" => self.job = Some("running"),
            "job-complete" if self.refuses => return Err("not now"),
            "job-complete" => (self.job, self.is_on_device) = (Some("concluded"), true),
            "job-dismiss" => (self.job, self.error) = (None, None),
            _ => {}
        }
        Ok(json!({}))
    }

    fn talk(machine: &Mutex<Self>, mut stream: UnixStream) {
        writeln!(stream, "{{\"QMP\": {{}}}}").unwrap();
        for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
            let asked: Value = serde_json::from_str(&line).unwrap();
            let answer = machine.lock().unwrap().answer(asked["execute"].as_str().unwrap());
            let answer = match answer {
                Ok(value) => json!({ "return": value }),
                Err(words) => json!({ "error": { "desc": words } }),
            };
            if writeln!(stream, "{answer}").is_err() {
                return;
            }
        }
    }
}

/// What is written down, and the call at which whoever writes it is killed.
struct Ledger {
    machine: Arc<Mutex<Machine>>,
    switching: Option<bool>,
    is_there: bool,
    killed_at: Option<&'static str>,
}

impl Ledger {
    fn note(&mut self, what: &'static str) -> Result<(), String> {
        if self.killed_at == Some(what) {
            return Err("killed".into());
        }
        self.machine.lock().unwrap().log.push(what.to_owned());
        Ok(())
    }
}

impl Switches for Ledger {
    fn begins(&mut self, _: usize, runs: bool) -> Result<(), String> {
        self.note("begins")?;
        self.switching = Some(runs);
        Ok(())
    }

    fn is_there(&mut self, _: usize) -> Result<(), String> {
        let machine = self.machine.lock().unwrap();
        assert!(machine.is_paused && machine.is_on_device, "both hold the same");
        drop(machine);
        self.note("is_there")?;
        self.is_there = true;
        Ok(())
    }

    fn goes_back(&mut self, _: usize) -> Result<(), String> {
        self.switching = None;
        self.note("goes_back")
    }

    fn ends(&mut self, _: usize) -> Result<(), String> {
        self.note("ends")
    }
}

/// A machine that is looked after once; returns what came of it.
fn run(monitor: &Path, ledger: &mut Ledger) -> Result<Hydration, HydrateError> {
    let device = BlockDevice { path: "/dev/x".into(), size_bytes: 512 };
    let disk = Hydrated::Device(Moving { device, switching: ledger.switching });
    hydrate(monitor, &[disk], &mut |_| true, ledger)
}

fn machine(machine: Machine) -> (tempfile::TempDir, PathBuf, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q");
    let listener = UnixListener::bind(&path).unwrap();
    let machine = Arc::new(Mutex::new(machine));
    let ledger = Ledger { machine: Arc::clone(&machine), switching: None, is_there: false, killed_at: None };
    std::thread::spawn(move || {
        listener.incoming().for_each(|stream| Machine::talk(&machine, stream.unwrap()));
    });
    (folder, path, ledger)
}

fn log(ledger: &Ledger) -> Vec<String> {
    ledger.machine.lock().unwrap().log.clone()
}

#[test]
fn what_counts_is_written_down_while_the_guest_stands_still() {
    let (_folder, monitor, mut ledger) = machine(Machine::default());
    assert_eq!(run(&monitor, &mut ledger).unwrap(), Hydration::default());
    let steps = [
        "blockdev-del",
        "blockdev-add",
        "blockdev-mirror",
        "begins",
        "stop",
        "job-complete",
        "job-dismiss",
        "is_there",
        "cont",
        "blockdev-del",
        "blockdev-del",
        "ends",
    ];
    assert_eq!(log(&ledger), steps);
}

#[test]
fn whoever_is_killed_at_any_note_is_followed_by_one_who_goes_on() {
    for killed_at in ["begins", "is_there", "ends"] {
        let (_folder, monitor, mut ledger) = machine(Machine::default());
        ledger.killed_at = Some(killed_at);
        assert!(matches!(run(&monitor, &mut ledger), Err(HydrateError::Noted(_))), "{killed_at}");
        let is_paused = ledger.machine.lock().unwrap().is_paused;
        assert_eq!(is_paused, killed_at == "is_there", "it goes on only when it is known from where");
        ledger.killed_at = None;
        // Another looks at an overlay that is nobody's any more only to finish.
        ledger.machine.lock().unwrap().is_paused |= killed_at == "ends";
        assert_eq!(run(&monitor, &mut ledger).unwrap(), Hydration::default(), "{killed_at}");
        let machine = ledger.machine.lock().unwrap();
        assert!(ledger.is_there && machine.is_on_device && !machine.is_paused, "{killed_at}");
        assert_eq!(machine.log.iter().filter(|step| *step == "blockdev-mirror").count(), 1, "{killed_at}");
    }
}

#[test]
fn a_guest_that_was_paused_stays_paused() {
    let (_folder, monitor, mut ledger) = machine(Machine { is_paused: true, ..Machine::default() });
    run(&monitor, &mut ledger).unwrap();
    assert!(!log(&ledger).contains(&"cont".to_owned()), "{:?}", log(&ledger));
}

#[test]
fn a_copy_that_fails_is_tried_again_and_named_at_last() {
    let (_folder, monitor, mut ledger) = machine(Machine { fails: 2, ..Machine::default() });
    assert_eq!(run(&monitor, &mut ledger).unwrap(), Hydration::default());
    let (_folder, monitor, mut ledger) = machine(Machine { fails: 9, ..Machine::default() });
    let unfinished = run(&monitor, &mut ledger).unwrap().unfinished;
    assert_eq!(unfinished, [(0, "Input/output error".to_owned())]);
    let machine = ledger.machine.lock().unwrap();
    assert!(!machine.is_on_device && !machine.is_paused && !ledger.is_there);
}

#[test]
fn a_guest_whose_switch_is_refused_does_not_stand_still() {
    let (_folder, monitor, mut ledger) = machine(Machine { refuses: true, ..Machine::default() });
    assert!(matches!(run(&monitor, &mut ledger), Err(HydrateError::Monitor(_))));
    assert_eq!(log(&ledger)[3..], ["begins", "stop", "job-complete", "cont"]);
    assert!(!ledger.is_there);
}

#[test]
fn a_guest_that_stands_still_in_its_switch_waits_for_no_turn() {
    let paused = Machine { is_paused: true, is_on_device: true, ..Machine::default() };
    let (_folder, monitor, mut ledger) = machine(paused);
    let device = BlockDevice { path: "/dev/x".into(), size_bytes: 512 };
    let disk = Hydrated::Device(Moving { device, switching: Some(true) });
    hydrate(&monitor, &[disk], &mut |_| false, &mut ledger).unwrap();
    assert!(ledger.is_there && !ledger.machine.lock().unwrap().is_paused);
}
