//! The built program writes disks and machines for other hypervisors, and reads their machines: QEMU, tar and sha256sum are the
//! judges.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{MIB, Site, has, noise, told, walk};

/// Data, zeros that are written, a hole that is longer than a grain table, and a size that is no whole sector.
fn disk() -> Vec<u8> {
    let mut disk = noise(41, 2 * MIB + 4096);
    disk.resize(75 * MIB, 0);
    disk.extend(noise(42, MIB));
    disk.extend(b"text that compresses, ".repeat(20_000));
    disk
}

/// A repository with a machine of two disks; none, said loudly, without QEMU's programs.
fn site() -> Option<Site> {
    if !has("qemu-img") || !has("qemu-nbd") {
        return None;
    }
    let site = Site::new();
    std::fs::write(site.path("system.raw"), disk()).unwrap();
    std::fs::write(site.path("data.raw"), noise(43, 3 * MIB)).unwrap();
    site.succeed(&[
        "backup",
        "--key-file",
        "w.key",
        "--vm",
        "Büro <1> & \"x\"",
        "system=system.raw",
        "data=data.raw",
    ]);
    Some(site)
}

fn runs(program: &str, arguments: &[&str], folder: &Path) -> Output {
    Command::new(program).args(arguments).current_dir(folder).output().unwrap()
}

fn succeeds(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = runs(program, arguments, folder);
    assert!(output.status.success(), "{program} {arguments:?}: {}", told(&output));
    told(&output)
}

fn compare(site: &Site, raw: &str, format: &str, image: &str) {
    succeeds("qemu-img", &["compare", "-f", "raw", "-F", format, raw, image], &site.path(""));
}

#[test]
fn every_form_of_a_disk_is_what_qemu_takes_it_for() {
    let Some(site) = site() else { return };
    for (suffix, format, checks) in
        [("vmdk", "vmdk", true), ("vhdx", "vhdx", true), ("vhd", "vpc", false), ("vdi", "vdi", true)]
    {
        let file = format!("out.{suffix}");
        site.succeed(&["export", "latest:system", "--target", &file]);
        compare(&site, "system.raw", format, &file);
        if checks {
            succeeds("qemu-img", &["check", "-f", format, &file], &site.path(""));
        }
        // Zeros take no room.
        assert!(std::fs::metadata(site.path(&file)).unwrap().blocks() * 512 < 12 << 20, "{file}");
    }
    let again = site.run(&["export", "latest:system", "--target", "out.vmdk"]);
    assert_eq!(again.status.code(), Some(1), "{}", told(&again));
    let unknown = site.run(&["export", "latest:system", "--target", "out.img"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", told(&unknown));
    assert!(walk(site.folder.path()).iter().all(|path| !path.display().to_string().ends_with("-partial")));
}

#[test]
fn a_machine_goes_out_as_an_ova_that_tar_sha256sum_and_qemu_agree_with_and_comes_back_the_same() {
    let Some(site) = site() else { return };
    site.succeed(&["export", "latest", "--target", "out.ova", "--cpus", "4", "--guest-memory", "3G"]);
    let listed = succeeds("tar", &["tf", "out.ova"], &site.path(""));
    let names: Vec<&str> = listed.lines().collect();
    let [ovf, mf, system, data] = names.as_slice() else { panic!("{listed}") };
    assert!(ovf.ends_with(".ovf") && mf.ends_with(".mf"), "{listed}");
    std::fs::create_dir(site.path("unpacked")).unwrap();
    let unpacked = site.path("unpacked");
    succeeds("tar", &["xf", "../out.ova"], &unpacked);
    succeeds("sha256sum", &["--check", "--strict", mf], &unpacked);
    for (raw, image) in [("../system.raw", system), ("../data.raw", data)] {
        succeeds("qemu-img", &["compare", "-f", "raw", "-F", "vmdk", raw, image], &unpacked);
        let found = std::fs::metadata(unpacked.join(image)).unwrap().len();
        let said = std::fs::read_to_string(unpacked.join(ovf)).unwrap();
        assert!(said.contains(&format!("ovf:size=\"{found}\"")), "{said}");
        assert!(said.contains("<Name>Büro &lt;1&gt; &amp; &quot;x&quot;</Name>") && said.contains(">3072<"));
    }
    // Back as one snapshot of one machine; nothing of it is new but the ends.
    let output = site.succeed(&["import", "out.ova", "--key-file", "w.key", "--vm", "copy", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let summary: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    // A chunk at the end of each disk.
    assert!(summary["new_bytes"].as_u64().unwrap() < 2 * (512 << 10), "{summary}");
    site.succeed(&["restore", "copy:latest", "--target", "back/"]);
    for (name, raw) in [("disk0.raw", "system.raw"), ("disk1.raw", "data.raw")] {
        let (came, went) =
            (std::fs::read(site.path("back").join(name)).unwrap(), std::fs::read(site.path(raw)).unwrap());
        assert!(came[..went.len()] == went && came.len() < went.len() + 512, "{name}");
    }
    assert_eq!(
        std::fs::read(site.path("back/machine.ovf")).unwrap(),
        std::fs::read(unpacked.join(ovf)).unwrap()
    );
    // The same snapshot gives the same bytes.
    site.succeed(&[
        "export",
        "Büro <1> & \"x\":latest",
        "--target",
        "again.ova",
        "--cpus",
        "4",
        "--guest-memory",
        "3G",
    ]);
    assert!(std::fs::read(site.path("again.ova")).unwrap() == std::fs::read(site.path("out.ova")).unwrap());
}

#[test]
fn an_ova_that_others_made_is_imported_and_one_that_lies_is_not() {
    let Some(site) = site() else { return };
    let folder = site.path("made, by=others");
    std::fs::create_dir(&folder).unwrap();
    succeeds(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "../data.raw", "d.vmdk"],
        &folder,
    );
    let size = std::fs::metadata(folder.join("d.vmdk")).unwrap().len();
    let ovf = |size: u64| {
        format!(
            "<?xml version=\"1.0\"?><Envelope xmlns:ovf=\"o\"><References><File ovf:id=\"f\" ovf:href=\"d.vmdk\" \
             ovf:size=\"{size}\"/></References><DiskSection><Disk ovf:diskId=\"d\" ovf:fileRef=\"f\" ovf:capacity=\"3\" \
             ovf:capacityAllocationUnits=\"byte * 2^20\"/></DiskSection><VirtualSystem/></Envelope>"
        )
    };
    std::fs::write(folder.join("m.ovf"), ovf(size)).unwrap();
    std::fs::write(
        folder.join("m.mf"),
        succeeds("sha256sum", &["--tag", "m.ovf", "d.vmdk"], &folder).replace(" (", "("),
    )
    .unwrap();
    let import = |file: &str| site.run(&["import", file, "--key-file", "w.key", "--vm", "made"]);
    for form in ["gnu", "ustar", "posix"] {
        let file = format!("{form}.ova");
        succeeds("tar", &["--format", form, "-cf", &file, "./m.ovf", "m.mf", "d.vmdk"], &folder);
        let output = import(&format!("made, by=others/{file}"));
        assert!(output.status.success() && !told(&output).contains("warning"), "{}", told(&output));
        site.succeed(&["restore", "made:latest:disk0", "--target", "made.raw", "--overwrite"]);
        assert!(
            std::fs::read(site.path("made.raw")).unwrap() == std::fs::read(site.path("data.raw")).unwrap()
        );
    }
    let whole = std::fs::read(folder.join("gnu.ova")).unwrap();
    let refuses = |bytes: &[u8], words: &str| {
        std::fs::write(site.path("bad.ova"), bytes).unwrap();
        let output = import("bad.ova");
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(told(&output).contains(words), "{words}: {}", told(&output));
    };
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    refuses(&changed, "not what its manifest says");
    refuses(&whole[..middle], "cut short");
    refuses(&disk()[..MIB], "it has a header");
    refuses(b"", "cut short");
    std::fs::write(folder.join("m.ovf"), ovf(size + 512)).unwrap();
    succeeds("tar", &["-cf", "lying.ova", "m.ovf", "d.vmdk"], &folder);
    refuses(&std::fs::read(folder.join("lying.ova")).unwrap(), "its description says");
    // By its name it is never saved as a raw disk without a word.
    let output = site.run(&["backup", "--key-file", "w.key", "--vm", "x", "made, by=others/gnu.ova"]);
    assert!(
        output.status.code() == Some(1) && told(&output).contains("sancerre import"),
        "{}",
        told(&output)
    );
}
