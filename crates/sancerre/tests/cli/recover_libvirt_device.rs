//! The built program has a real libvirt move the disks of running machines to block devices, is killed while it does, as are QEMU
//! and libvirt, and loses nothing that a guest wrote.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::hypervisor::{Guest, Host};
use crate::recover_libvirt::{THIRD, saved};
use crate::support::devices::LoopDevice;
use crate::support::{MIB, noise, summary, told};

/// More than a disk, which the guest must not see.
const LARGER: usize = 28 * MIB;
const DISK: usize = 20 * MIB;
/// So slow that copying the third disk takes seconds.
const SLOW: [&str; 2] = ["--limit-download", "1500KB"];
const MACHINE: &str = "web 01";

/// Stands before virsh, and kills the program that asks it for something: before that is done, or afterwards.
const VIRSH: &str = "#!/bin/sh
is_asked() { grep -qx \"$1\" kill-at && case \" $2 \" in *\" ${1#* } \"*) true;; *) false;; esac; }
word=$(cut -d' ' -f2- kill-at)
if is_asked \"before $word\" \"$*\"; then kill -KILL $PPID; exit 1; fi
VIRSH \"$@\"; code=$?
if is_asked \"after $word\" \"$*\"; then kill -KILL $PPID; fi
exit $code
";

/// A host with a saved machine, some of whose disks go to devices; the others stay in the folder.
struct Lab {
    devices: Vec<(&'static str, LoopDevice)>,
    host: Host,
    /// What the guest had written when it was saved.
    saved: u32,
}

impl Lab {
    fn new(targets: &[&'static str]) -> Option<Self> {
        let host = Host::start()?;
        let saved = saved(&host);
        let attach = |target: &&'static str| {
            let path = host.path(format!("{target}.device"));
            fs::write(&path, vec![0xaa; if *target == "vdc" { THIRD } else { LARGER }]).unwrap();
            let device = LoopDevice::attach(&path)?;
            host.own(Path::new(device.name()));
            Some((*target, device))
        };
        let devices = targets.iter().map(attach).collect::<Option<_>>()?;
        fs::create_dir(host.path("bin")).unwrap();
        let folders = std::env::var_os("PATH").unwrap();
        let virsh =
            std::env::split_paths(&folders).map(|folder| folder.join("virsh")).find(|path| path.is_file());
        fs::write(host.path("bin/virsh"), VIRSH.replace("VIRSH", virsh.unwrap().to_str().unwrap())).unwrap();
        fs::set_permissions(host.path("bin/virsh"), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { devices, host, saved })
    }

    fn device(&self, target: &str) -> &str {
        self.devices.iter().find(|(of, _)| *of == target).unwrap().1.name()
    }

    fn words(&self, more: &[&str]) -> Vec<String> {
        let words =
            ["recover", "web 01:latest", "--to", "libvirt", "--connect", "qemu:///session", "--accel", "tcg"];
        let words = words.iter().chain(&["--overwrite", "--storage", "guests"]).chain(more);
        let devices = self.devices.iter().map(|(target, device)| format!("{target}={}", device.name()));
        let storage = devices.flat_map(|device| ["--storage".to_owned(), device]);
        words.map(|word| (*word).to_owned()).chain(storage).collect()
    }

    fn begin(&self, more: &[&str]) -> Child {
        let words = self.words(more);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.host.sancerre(&words).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap()
    }

    fn expect(&self, code: i32, more: &[&str]) -> std::process::Output {
        let words = self.words(more);
        self.host.expect(code, &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs the program until it is killed when it asks for this.
    fn kill_at(&self, moment: &str, more: &[&str]) {
        fs::write(self.host.path("kill-at"), format!("{moment}\n")).unwrap();
        let words = self.words(more);
        let mut command = self.host.sancerre(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let path = format!("{}:{}", self.host.path("bin").display(), std::env::var("PATH").unwrap());
        let output = command.env("PATH", path).output().unwrap();
        assert_eq!(output.status.code(), None, "{moment}: {}: {}", told(&output), self.recovery(MACHINE));
    }

    fn recovery(&self, name: &str) -> String {
        fs::read_to_string(self.host.path(format!("guests/{name}/recovery.json"))).unwrap_or_default()
    }

    /// How far a disk is, as it is written down.
    fn stage(&self, name: &str, target: &str) -> String {
        let recovery: serde_json::Value = serde_json::from_str(&self.recovery(name)).unwrap();
        let moving = &recovery["devices"][target];
        format!("{} {}", moving["stage"].as_str().unwrap(), moving["runs"])
    }

    /// The machine whose guest writes to these devices by now.
    fn guest<'a>(&self, name: &'a str, on_devices: &[&str]) -> Guest<'a> {
        let disks: &[&str] = match on_devices {
            [] => &["qcow2", "qcow2"],
            [_] => &["raw", "qcow2"],
            _ => &["raw", "raw"],
        };
        for (number, target) in ["vda", "vdb"].into_iter().enumerate() {
            let overlay = self.host.path(format!("guests/{name}/{target}.qcow2"));
            let path = if on_devices.contains(&target) { self.device(target).into() } else { overlay };
            let link = self.host.disk(name, number);
            let _ = fs::remove_file(&link);
            symlink(path, link).unwrap();
        }
        Guest { name, disks, ticks: 0, ..Guest::default() }
    }

    /// Waits until libvirt says this of a machine, while the program runs.
    fn wait_until(&self, name: &str, child: &mut Child, is_so: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !is_so(&String::from_utf8_lossy(&self.host.virsh(&["dumpxml", name]).stdout)) {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}");
            assert!(started.elapsed() < Duration::from_secs(120), "{}", self.recovery(name));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the third disk is on its way, and the first on its device.
    fn wait_for_third(&self, child: &mut Child) {
        let third = format!("<source dev='{}'", self.device("vdc"));
        self.wait_until(MACHINE, child, |xml| xml.contains("<mirror") && xml.contains(&third));
        assert!(self.stage(MACHINE, "vda").starts_with("there"), "{}", self.recovery(MACHINE));
    }

    /// The disks of a machine that is off: those that its guest writes to are of one moment, which is returned.
    fn compare(&self, name: &str) -> u32 {
        let targets: Vec<&str> =
            self.devices.iter().map(|(target, _)| *target).filter(|target| *target != "vdc").collect();
        let guest = self.guest(name, &targets);
        let disk = |number: usize| {
            let mut disk = self.host.converted(&guest, number);
            let rest = disk.split_off(DISK);
            assert!(rest.iter().all(|byte| *byte == 0xaa), "what lies behind the disk is not the guest's");
            disk
        };
        for (target, device) in &self.devices {
            let overlay = self.host.path(format!("guests/{name}/{target}.qcow2"));
            assert!(!overlay.exists(), "nothing needs {target} any more");
            let is_saved = *target != "vdc" || fs::read(device.name()).unwrap() == noise(61, THIRD);
            assert!(is_saved, "the third disk is not what was saved");
        }
        self.host.is_of_a_moment(&guest, &[disk(0), disk(1)], name)
    }
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_machine_moves_to_devices_while_all_around_it_is_killed_and_loses_no_write() {
    let Some(mut lab) = Lab::new(&["vda", "vdc"]) else { return };
    // Each finds what the one before left: a note, a guest that stands still, one that is on its device and nobody wrote it
    // down, one that was not let go on.
    for (moment, stage) in [
        ("before suspend", "switches true"),
        ("after suspend", "switches true"),
        ("before --pivot", "switches true"),
        ("after --pivot", "switches true"),
        ("before resume", "there true"),
    ] {
        lab.kill_at(moment, &[]);
        assert_eq!(lab.stage(MACHINE, "vda"), stage, "{moment}");
    }
    let mut child = lab.begin(&SLOW);
    lab.wait_for_third(&mut child);
    lab.host.wait_for_writes(&lab.guest(MACHINE, &["vda"]), 3);
    end(child);
    // One that was killed while it copied, one whose QEMU dies, which it starts once more by itself, and one whose machine is
    // ended, which it does not.
    let mut child = lab.begin(&SLOW);
    lab.wait_for_third(&mut child);
    lab.host.kill(MACHINE);
    lab.wait_for_third(&mut child);
    lab.host.ask(&["destroy", MACHINE]);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    // A libvirt that is started anew finds its copy.
    let mut child = lab.begin(&SLOW);
    lab.wait_for_third(&mut child);
    lab.host.libvirtd_kill();
    let _ = child.wait().unwrap();
    lab.host.libvirtd_up();

    is_described_with_its_devices(&lab);
    lab.host.back_up(MACHINE);
    let guest = lab.guest(MACHINE, &["vda"]);
    lab.host.is_a_moment(&guest, "latest");
    lab.host.ask(&["destroy", MACHINE]);
    let before = lab.compare(MACHINE);
    assert!(before > lab.saved + 8, "{before} of {}", lab.saved);

    // It needs nobody any more, and what gives it its network back is a machine with the same disks.
    lab.host.ask(&["define", lab.host.path(format!("guests/{MACHINE}/with-network.xml")).to_str().unwrap()]);
    let defined = lab.host.ask(&["dumpxml", MACHINE]);
    assert!(
        defined.contains("52:54:00:11:22:33") && defined.contains(&format!("dev='{}'", lab.device("vda"))),
        "{defined}"
    );
    lab.host.ask(&["start", MACHINE]);
    lab.host.wait_for_writes(&guest, 3);
    lab.host.ask(&["destroy", MACHINE]);
    let last = lab.compare(MACHINE);
    assert!(last > before);
    // While it is off its devices are read themselves, and no byte of what lies behind the disks.
    lab.host.back_up(MACHINE);
    assert_eq!(lab.host.is_a_moment(&guest, "latest"), last);
    refuse_others(&lab);
}

/// Its recovery is over, and nothing that libvirt knows of it speaks of one.
fn is_described_with_its_devices(lab: &Lab) {
    let summary = summary(&lab.expect(0, &["--json"]));
    let [first, third] = ["vda", "vdc"].map(|target| lab.device(target).to_owned());
    assert_eq!(
        (&summary["was_running"], &summary["disks"][0]),
        (&true.into(), &first.as_str().into()),
        "{summary}"
    );
    let guest = lab.guest(MACHINE, &["vda"]);
    lab.host.wait_for_writes(&guest, 3);
    for defined in [lab.host.ask(&["dumpxml", MACHINE]), lab.host.ask(&["dumpxml", "--inactive", MACHINE])] {
        assert!(!defined.contains("nbd") && !defined.contains("mirror"), "{defined}");
        assert!(
            defined.contains(&format!("dev='{first}'")) && defined.contains(&format!("dev='{third}'")),
            "{defined}"
        );
        assert_eq!(
            defined.matches("<slice ").count(),
            1,
            "only one device is larger than its disk: {defined}"
        );
    }
    assert!(!lab.host.ask(&["dumpxml", "--inactive", MACHINE]).contains("error_policy"));
    let seen = lab.host.ask(&["domblkinfo", MACHINE, "vda"]);
    assert!(seen.lines().any(|line| line.ends_with(&format!(" {DISK}"))), "{seen}");
}

/// What is on another device is not the guest's, and another hypervisor knows nothing of it.
fn refuse_others(lab: &Lab) {
    let (host, first) = (&lab.host, lab.device("vda"));
    fs::write(host.path("other.device"), vec![0x55; LARGER]).unwrap();
    let Some(other) = LoopDevice::attach(&host.path("other.device")) else { return };
    host.own(Path::new(other.name()));
    let words = lab.words(&[]);
    let with = |old: &str, new: &str| {
        let words = words.iter().map(|word| if word == old { new } else { word.as_str() });
        words.map(str::to_owned).collect::<Vec<String>>()
    };
    let refuse = |words: &[String], code: i32, says: &str| {
        let refused = host.expect(code, &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(told(&refused).contains(says), "{}", told(&refused));
    };
    refuse(&with(&format!("vda={first}"), &format!("vda={}", other.name())), 1, "is not the device");
    let qemu: Vec<String> = with("libvirt", "qemu")
        .into_iter()
        .filter(|word| word != "--connect" && !word.starts_with("qemu:"))
        .collect();
    refuse(&qemu, 2, "--to libvirt");
    assert!(fs::read(other.name()).unwrap().iter().all(|byte| *byte == 0x55));
}

/// What happens to a machine after the program was killed at a moment of the switch of its second disk, when its first is on its
/// device: its guest needs no export then, and writes to both.
fn at_the_switch(lab: &Lab, name: &str, moment: &str, happens: impl Fn(&str)) {
    let more = ["--as", name];
    // The guest has written something by itself then.
    lab.kill_at("before suspend", &more);
    lab.kill_at(moment, &more);
    happens(name);
    lab.expect(0, &more);
    lab.host.wait_for_writes(&lab.guest(name, &["vda", "vdb"]), 3);
    lab.host.ask(&["destroy", name]);
    let wrote = lab.compare(name);
    assert!(wrote > lab.saved + 3, "{moment}: {wrote} after {}", lab.saved);
    lab.host.ask(&["undefine", name]);
    fs::remove_dir_all(lab.host.path(format!("guests/{name}"))).unwrap();
}

#[test]
fn a_power_cut_at_the_switch_loses_no_write_of_a_machine() {
    let Some(lab) = Lab::new(&["vda", "vdb", "vdc"]) else { return };
    let cut = |name: &str| lab.host.kill(name);
    at_the_switch(&lab, "one", "before vdb --pivot", cut);
    at_the_switch(&lab, "two", "after vdb --pivot", cut);
    // Its owner finds it paused, and lets it go on.
    at_the_switch(&lab, "three", "after vdb --pivot", |name| {
        let guest = lab.guest(name, &["vda", "vdb"]);
        lab.host.ask(&["resume", name]);
        lab.host.wait_for_writes(&guest, 6);
        let wrote = lab.host.number(&guest);
        cut(name);
        assert_eq!(lab.stage(name, "vdb"), "switches true");
        lab.kill_at("before start", &["--as", name]);
        assert!(lab.host.number(&guest) >= wrote && lab.stage(name, "vdb") == "there true");
    });
}

#[test]
fn what_libvirt_forgot_in_a_power_cut_starts_from_its_device_all_the_same() {
    let Some(lab) = Lab::new(&["vda", "vdb", "vdc"]) else { return };
    let forgets = |name: &str, is_started: bool| {
        lab.kill_at("before resume", &["--as", name]);
        assert_eq!(lab.stage(name, "vdb"), "there true");
        // As it was before the switch, which nobody can start without the export.
        let (host, old) = (&lab.host, lab.host.path("old.xml"));
        let overlay = host.path(format!("guests/{name}/vdb.qcow2"));
        let defined = host.ask(&["dumpxml", "--inactive", name]);
        let source = format!("<source dev='{}'>", lab.device("vdb"));
        let (before, after) = defined.split_once(&source).unwrap();
        let after = after.split_once("</source>").unwrap().1.split_once("<backingStore/>").unwrap().1;
        let before = before.rsplit_once("<disk ").unwrap().0;
        let driver =
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='writethrough'/>";
        let backing = format!(
            "<backingStore type='network'><format type='raw'/><source protocol='nbd' name='vdb'><host transport='unix' socket='{}'/>\
             </source><backingStore/></backingStore>",
            host.path(format!("guests/{name}/export.sock")).display()
        );
        let text = format!("{before}{driver}<source file='{}'/>{backing}{after}", overlay.display());
        host.kill(name);
        fs::write(&old, text).unwrap();
        host.ask(&["define", old.to_str().unwrap()]);
        if is_started {
            let started = host.virsh(&["start", name]);
            assert!(!started.status.success(), "nobody goes on from the overlay without its export");
        }
    };
    at_the_switch(&lab, "one", "after vdb --pivot", |name| forgets(name, true));

    // Where it finds the export all the same, that is said, and the overlay is not taken for the disk.
    let (name, more) = ("two", ["--as", "two"]);
    lab.kill_at("after vdb --pivot", &more);
    forgets(name, false);
    let socket = lab.host.path(format!("guests/{name}/export.sock"));
    let serve = ["nbd", "web 01:latest", "--socket", socket.to_str().unwrap()];
    let mut export = lab.host.sancerre(&serve).stdout(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !lab.host.virsh(&["start", name]).status.success() {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", export.try_wait());
        std::thread::sleep(Duration::from_millis(200));
    }
    end(export);
    let refused = lab.expect(1, &more);
    assert!(told(&refused).contains("runs from"), "{}", told(&refused));
    assert!(
        lab.host.path(format!("guests/{name}/vdb.qcow2")).exists(),
        "somebody may need what was written there"
    );
    lab.host.ask(&["destroy", name]);
    lab.expect(0, &more);
    assert!(lab.host.ask(&["dumpxml", name]).contains(lab.device("vdb")));
}

#[test]
fn devices_that_no_machine_can_move_to_are_refused_and_steps_are_printed() {
    let Some(lab) = Lab::new(&["vda", "vdc"]) else { return };
    let host = &lab.host;
    let steps = told(&lab.expect(0, &["--print"]));
    for step in [
        "virsh blockcopy 'web 01' vda",
        "virsh suspend",
        "--pivot",
        "--inactive",
        "blockpull 'web 01' vdb",
        "<slice ",
    ] {
        assert!(steps.contains(step), "{step}: {steps}");
    }
    fs::write(host.path("small.device"), vec![0; DISK - 4096]).unwrap();
    let Some(small) = LoopDevice::attach(&host.path("small.device")) else { return };
    host.own(Path::new(small.name()));
    let words = lab.words(&[]);
    let on = format!("vda={}", small.name());
    let words: Vec<&str> =
        words.iter().map(|word| if word.starts_with("vda=") { on.as_str() } else { word.as_str() }).collect();
    let refused = host.expect(1, &words);
    assert!(told(&refused).contains(&DISK.to_string()), "{}", told(&refused));
    // Another machine of that name has the device: it is not taken for ours, and loses nothing.
    let disk = |target: &str, name: &str| {
        let raw = "<driver name='qemu' type='raw'/>";
        format!("<disk type='block'>{raw}<source dev='{name}'/><target dev='{target}' bus='virtio'/></disk>")
    };
    let disks =
        [disk("vda", lab.device("vda")), disk("vdb", small.name()), disk("vdc", lab.device("vdc"))].concat();
    let xml = format!(
        "<domain type='qemu'><name>{MACHINE}</name><memory unit='MiB'>16</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>\
         <devices>{disks}</devices></domain>"
    );
    fs::write(host.path("theirs.xml"), xml).unwrap();
    host.ask(&["define", host.path("theirs.xml").to_str().unwrap()]);
    let refused = lab.expect(1, &[]);
    assert!(told(&refused).contains("there is a machine web 01"), "{}", told(&refused));
    assert!(!host.path("guests").exists(), "what is refused changes nothing");
    let mut head = [0; 4096];
    fs::File::open(lab.device("vda")).unwrap().read_exact_at(&mut head, 0).unwrap();
    assert_eq!(head, [0xaa; 4096]);
}
