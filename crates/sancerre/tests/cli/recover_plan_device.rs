//! Machines of one plan move to devices that their lines name.

use std::fs;

use crate::recover::back_up_tiny;
use crate::support::devices::LoopDevice;
use crate::support::guests::Running;
use crate::support::{MIB, Site, has, told};

const RECOVER: [&str; 7] = ["recover", "--plan", "plan", "--to", "qemu", "--storage", "guests"];
const GUEST: &str = "--accel tcg --guest-memory 64M --guest-cpus 1";

#[test]
fn machines_of_a_plan_move_to_the_devices_that_their_lines_name() {
    if !has("qemu-system-x86_64") {
        return;
    }
    let site = Site::new();
    let disks = [back_up_tiny(&site, "db01", 81), back_up_tiny(&site, "web01", 82)];
    let attach = |name: &str, byte: u8| {
        fs::write(site.path(name), vec![byte; 9 * MIB]).unwrap();
        LoopDevice::attach(&site.path(name))
    };
    let (Some(first), Some(second)) = (attach("first.raw", 0), attach("second.raw", 0xaa)) else { return };
    let running = ["db01", "web01"].map(|vm| Running::new(&site, vm));
    let pids = running.each_ref().map(|running| running.pid_words().join(" "));
    let plan = |db: &str, web: &str| {
        let [of_db, of_web] = &pids;
        let plan = format!(
            "db01:latest {db} {GUEST} -- {of_db}\nweb01:latest --after db01 {web} {GUEST} -- {of_web}\n"
        );
        fs::write(site.path("plan"), plan).unwrap();
    };
    let on = |device: &LoopDevice| format!("--storage disk0={}", device.name());
    let refuse = |words: &[&str], code: i32, says: &[&str]| {
        let refused = site.run(words);
        assert_eq!(refused.status.code(), Some(code), "{words:?}: {}", told(&refused));
        says.iter().for_each(|says| assert!(told(&refused).contains(says), "{says}: {}", told(&refused)));
        assert!(!site.path("guests").exists(), "{words:?}");
    };
    for (db, web, says) in [
        (on(&first), on(&first), &["disk0 of db01", "disk0 of web01", "same device"][..]),
        (on(&first), format!("--storage vda={}", second.name()), &["no disk vda"]),
        (on(&first), "--storage disk0=/dev/vg0/typo".into(), &["no block device"]),
        (
            on(&first),
            "--storage elsewhere".into(),
            &["elsewhere is no block device", "stands behind --storage"],
        ),
        (on(&first), "--overwrite".into(), &["line 2", "--storage"]),
    ] {
        plan(&db, &web);
        refuse(&RECOVER, 2, says);
    }
    plan(&on(&first), &on(&second));
    refuse(&[&RECOVER[..], &["--overwrite"]].concat(), 2, &["its line of the plan"]);
    refuse(&[&RECOVER[..], &["--storage", second.name()]].concat(), 2, &["its line of the plan"]);

    // What the device of one has costs that one and no other.
    let refused = site.run(&RECOVER);
    assert_eq!(refused.status.code(), Some(1), "{}", told(&refused));
    assert!(
        told(&refused).contains("web01: ") && told(&refused).contains("is not empty"),
        "{}",
        told(&refused)
    );
    assert_eq!(fs::read(site.path("second.raw")).unwrap(), vec![0xaa; 9 * MIB]);
    plan(&on(&first), &format!("{} --overwrite", on(&second)));
    let said = told(&site.succeed(&RECOVER));
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what}: {said}"));
    assert!(at("db01 needs the repository no more") < at("web01 runs"), "{said}");
    for (number, (name, behind)) in [("first.raw", 0), ("second.raw", 0xaa)].into_iter().enumerate() {
        running[number].end();
        assert!(!running[number].folder.join("disk0.qcow2").exists(), "{name}");
        let found = fs::read(site.path(name)).unwrap();
        assert!(found[..8 * MIB] == disks[number], "{name}");
        assert!(found[8 * MIB..].iter().all(|byte| *byte == behind), "{name}");
    }
    // A forecast reads the same plan, and writes to no device.
    let forecast = site.succeed(&["rto", "--plan", "plan", "--storage", ".", "--probe", "1s"]);
    assert!(told(&forecast).contains("web01"), "{}", told(&forecast));
    assert!(fs::read(site.path("second.raw")).unwrap()[..8 * MIB] == disks[1]);
}
