//! What a guest overwrites while it is backed up is kept aside. When there is no room for that, or nobody reads it any more, it is
//! the backup that ends, and the guest goes on.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::hypervisor::{Guest, Host};
use crate::support::devices::LoopDevice;
use crate::support::{Loop, MIB, noise, told};

/// So slowly that the guest overwrites more than there is room for before all is read.
const SLOWLY: [&str; 6] = ["--limit-upload", "2MB", "--memory", "64M", "--scratch", "mounted"];

/// A disk of noise takes a while to be stored. It does not fit into the packs that wait in memory, three of 32 MiB: so reading waits
/// for the store, and what the guest overwrites meanwhile has to be kept aside.
fn devices(host: &Host) -> String {
    let path = host.path("disks/noise.raw");
    fs::write(&path, noise(71, 160 * MIB)).unwrap();
    host.own(&path);
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vdc' bus='virtio'/></disk>",
        path.display()
    )
}

fn small(host: &Host) -> Option<Loop> {
    let mounted = Loop::new(host.folder.path(), 8, &[])?;
    host.own(&mounted.mountpoint);
    Some(mounted)
}

#[test]
fn a_full_scratch_disk_ends_the_backup_and_not_the_guest() {
    let Some(host) = Host::start() else { return };
    let Some(_mounted) = small(&host) else { return };
    let devices = devices(&host);
    let guest = Guest { ticks: 0, devices: &devices, ..Guest::default() };
    host.run(&guest);
    let only_two = [&host.backup(guest.name)[..], &["--exclude-disk", "vdc"]].concat();
    host.succeed(&only_two);
    let output = host.expect(1, &[&host.backup(guest.name)[..], &SLOWLY].concat());
    assert!(told(&output).contains("too little for what the guest overwrites"), "{}", told(&output));
    host.wait_for_writes(&guest, 20);
    host.is_clean(guest.name);
    assert_eq!(fs::read_dir(host.path("mounted")).unwrap().count(), 1, "only lost+found");
    host.succeed(&only_two);
    host.is_a_moment(&guest, "latest");
    host.is_clean(guest.name);
}

#[test]
fn a_backup_that_is_killed_leaves_no_job_that_could_fill_its_scratch_disk() {
    let Some(host) = Host::start() else { return };
    let devices = devices(&host);
    let guest = Guest { ticks: 0, devices: &devices, ..Guest::default() };
    host.run(&guest);
    let words = [&host.backup(guest.name)[..], &SLOWLY[..4]].concat();
    let mut child = host.sancerre(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let has_job = || host.virsh(&["backup-dumpxml", guest.name]).status.success();
    let wait = |is_there: bool, what: &str| {
        let started = Instant::now();
        while has_job() != is_there {
            assert!(started.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait(true, "it does not begin");
    child.kill().unwrap();
    child.wait().unwrap();
    wait(false, "the job is left");
    host.wait_for_writes(&guest, 20);
    host.succeed(&[&host.backup(guest.name)[..], &["--exclude-disk", "vdc"]].concat());
    host.is_a_moment(&guest, "latest");
    host.is_clean(guest.name);
}

/// A loop device that a host's guests may open; and the group that it was of.
struct Device(LoopDevice, u32);

impl Device {
    /// None, loudly, where there is none to be had.
    fn over(host: &Host, file: &str) -> Option<Self> {
        let device = LoopDevice::attach(&host.path(file))?;
        let group = fs::metadata(device.name()).unwrap().gid();
        host.own(device.name().as_ref());
        Some(Self(device, group))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        chown(self.0.name(), Some(0), Some(self.1)).unwrap();
    }
}

#[test]
fn a_block_device_of_a_running_machine_is_of_the_same_moment_and_read_whole() {
    let Some(host) = Host::start() else { return };
    fs::write(host.path("device.img"), noise(72, 4 * MIB)).unwrap();
    let Some(device) = Device::over(&host, "device.img") else { return };
    let devices = format!(
        "<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='{}'/><target dev='vdc' bus='virtio'/></disk>",
        device.0.name()
    );
    let guest = Guest { ticks: 0, devices: &devices, ..Guest::default() };
    host.run(&guest);
    for _ in 0..2 {
        host.back_up(guest.name);
        host.is_a_moment(&guest, "latest");
        assert!(fs::read(host.path("restored/vdc.raw")).unwrap() == noise(72, 4 * MIB));
        host.is_clean(guest.name);
    }
    let uuid = host.ask(&["domuuid", guest.name]);
    let left = fs::read_dir("/var/tmp").unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains(uuid.trim())).collect();
    assert!(left.is_empty(), "{left:?}");
    // Before its device is taken away.
    host.ask(&["destroy", guest.name]);
}
