//! What a machine that stands still is asked for, and told to do.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sancerre_boot::{Hydrated, HydrationProgress, Switches};

use super::*;
use crate::fake_virsh::FakeVirsh;

const RESUME: &str = "resume --domain u";
const QUERY: &str = r#"qemu-monitor-command --domain u {"execute":"query-status"}"#;
const STOP: &str = r#"qemu-monitor-command --domain u {"execute":"stop"}"#;

fn machine(fake: &FakeVirsh, disks: Vec<(String, PathBuf, &'static str)>) -> Recovering {
    let recovered = Recovered {
        restored: Restored { xml: String::new(), name: None, disks, nvram: None },
        switched: Vec::new(),
        exports: "/new/export.sock".into(),
        has_network: false,
        is_in_software: true,
        console: None,
    };
    recovered.recovering(&fake.virsh(), "web".into(), "u".into()).unwrap()
}

#[test]
fn a_machine_that_runs_though_libvirt_has_it_paused_is_stopped_and_resumed() {
    let fake = FakeVirsh::new("paused (I/O error)", true);
    let mut machine = machine(&fake, Vec::new());
    let started = Instant::now();
    while machine.state().unwrap() != MachineState::Runs {
        machine.keep_running(started).unwrap();
        sleep(Duration::from_millis(100));
    }
    assert_eq!(fake.told(), [RESUME, QUERY, STOP, RESUME]);
    assert!(started.elapsed() >= crate::standing::ALL_TOLD * 2, "QEMU may not have told all by then");
}

#[test]
fn a_machine_whose_qemu_stands_still_is_only_resumed() {
    let fake = FakeVirsh::new("paused (unknown)", false);
    let mut machine = machine(&fake, Vec::new());
    let started = Instant::now();
    while fake.told().len() < 3 {
        machine.keep_running(started).unwrap();
        sleep(Duration::from_millis(100));
    }
    assert_eq!(fake.told(), [RESUME, QUERY, RESUME]);
}

struct NoSwitches;

impl Switches for NoSwitches {
    fn begins(&mut self, _: usize, _: bool) -> Result<(), String> {
        Err("no disk moves".into())
    }

    fn is_there(&mut self, _: usize) -> Result<(), String> {
        Err("no disk moves".into())
    }

    fn ends(&mut self, _: usize) -> Result<(), String> {
        Err("no disk moves".into())
    }

    fn goes_back(&mut self, _: usize) -> Result<(), String> {
        Err("no disk moves".into())
    }
}

/// A libvirt that does not come to see it: that is said, and nobody waits for it.
#[test]
fn a_whole_disk_that_libvirt_takes_for_one_on_its_export_is_asked_for_some_times() {
    let fake = FakeVirsh::new("running (unpaused)", true);
    fake.say(
        "live",
        "<domain><name>web</name><devices><disk type='file'><source file='/vda.qcow2'/><backingStore type='network'>\
         <source protocol='nbd' name='vda'><host transport='unix' socket='/new/export.sock'/></source></backingStore>\
         <target dev='vda'/></disk></devices></domain>",
    );
    let image = fake.folder.path().join("vda.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("1M").status();
    assert!(made.unwrap().success());
    let mut machine = machine(&fake, vec![("vda".into(), image, "qcow2")]);
    let mut said = Vec::new();
    let watch = Watch { look: &mut |_: HydrationProgress| true, say: &mut |words| said.push(words) };
    let ways = [(Hydrated::Overlay, 1 << 20)];
    let hydration = machine.fill(fake.folder.path(), &ways, watch, &mut NoSwitches).unwrap();
    assert!(hydration.unfinished.is_empty());
    assert_eq!(fake.told(), ["blockpull --domain u --path vda"; sancerre_boot::PASSES as usize]);
    assert!(said.len() == 1 && said[0].contains("cannot be backed up until"), "{said:?}");
}
