//! The built program on images that are made to keep it busy, that others write to, or that nobody said the form of.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{MIB, Site, has, noise, summary, told};

pub(crate) const BACKUP: [&str; 6] = ["backup", "--json", "--allow-small", "--key-file", "w.key", "--vm"];
const EXBIBYTE: u64 = 1 << 60;

fn site() -> Option<Site> {
    (has("qemu-img") && has("qemu-nbd") && has("qemu-io")).then(Site::new)
}

pub(crate) fn run(site: &Site, program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).current_dir(&site.folder).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", told(&done));
}

/// What the program says of these disks, and what it ends with.
fn saved(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let output = site.run(&[&BACKUP[..], &["web01"], arguments].concat());
    (output.status.code(), told(&output))
}

fn refused(site: &Site, arguments: &[&str]) -> String {
    let (code, said) = saved(site, arguments);
    assert_eq!(code, Some(1), "{arguments:?}: {said}");
    said
}

/// The largest disk that a first table of 32 MiB can have: 2 EiB. All but four MiB of it were never written.
#[test]
fn a_disk_of_exbibytes_costs_the_time_of_its_data() {
    let Some(site) = site() else { return };
    run(&site, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", "a.qcow2", "2E"]);
    let last = 2 * EXBIBYTE - MIB as u64;
    let writes = [0, EXBIBYTE - 77 * MIB as u64, EXBIBYTE + (5 << 40), last];
    for at in writes {
        run(&site, "qemu-io", &["-f", "qcow2", "-c", &format!("write -P 7 {at} 1M"), "a.qcow2"]);
    }
    let begun = Instant::now();
    for _ in 0..2 {
        let output = site.succeed(&[&BACKUP[..], &["web01", "a.qcow2"]].concat());
        assert_eq!(summary(&output)["size_bytes"].as_u64(), Some(2 * EXBIBYTE));
    }
    for command in [
        &["backup", "--allow-small", "--allow-changing", "--key-file", "w.key", "--vm", "web01", "a.qcow2"][..],
        &["check", "--read-data"],
        &["diff", "web01:latest~2", "web01:latest"],
    ] {
        site.succeed(command);
    }
    let said = site.run(&["restore", "web01:latest:disk0", "--target", "out.qcow2", "--format", "qcow2"]);
    assert_eq!(said.status.code(), Some(1), "{}", told(&said));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// Bytes as they lie in a sparse file, and a chain whose base is one.
#[test]
fn a_hole_of_any_file_costs_no_time() {
    let Some(site) = site() else { return };
    let file = std::fs::File::create(site.path("a.raw")).unwrap();
    // As much as ext4 takes.
    let size = 15_u64 << 40;
    file.set_len(size).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(1, MIB), size - (3 << 30)).unwrap();
    drop(file);
    run(&site, "qemu-img", &["create", "-q", "-f", "qcow2", "-b", "a.raw", "-F", "raw", "over.qcow2"]);
    let begun = Instant::now();
    let (code, said) = saved(&site, &["a=a.raw", "b=over.qcow2", "--image-parts", "."]);
    assert_eq!(code, Some(0), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let said = site.succeed(&["diff", "web01:latest", "web01:latest"]);
    assert!(said.status.success());
}

#[test]
fn a_header_of_a_quarter_million_extensions_is_refused_at_once() {
    let Some(site) = site() else { return };
    run(&site, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", "a.qcow2", "1G"]);
    let mut image = std::fs::read(site.path("a.qcow2")).unwrap();
    for at in (112..112 + 260_000 * 8).step_by(8) {
        image[at..at + 8].copy_from_slice(&[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0]);
    }
    std::fs::write(site.path("a.qcow2"), image).unwrap();
    let said = refused(&site, &["a.qcow2"]);
    assert!(said.contains("more than 256 extensions"), "{said}");
}

/// A program that has an image open for writing, as a running guest does.
struct Writer(Child);

impl Writer {
    fn of(site: &Site, format: &str, name: &str) -> Self {
        let mut child = Command::new("qemu-io")
            .args(["-f", format, name])
            .current_dir(&site.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It answers once it has the image.
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
            .unwrap();
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// By every way in which a file becomes a source.
#[test]
fn what_a_running_guest_writes_to_is_refused_whatever_it_is() {
    let Some(site) = site() else { return };
    std::fs::write(site.path("base.raw"), noise(3, 2 * MIB)).unwrap();
    for (format, name) in [
        ("qcow2", "a.qcow2"),
        ("vmdk", "a.vmdk"),
        ("vdi", "a.vdi"),
        ("vhdx", "a.vhdx"),
        ("vpc", "a.vhd"),
        ("qed", "a.qed"),
    ] {
        run(&site, "qemu-img", &["convert", "-f", "raw", "-O", format, "base.raw", name]);
    }
    run(&site, "qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "over.qcow2"]);
    let data =
        ["create", "-q", "-f", "qcow2", "-o", "data_file=data.raw,data_file_raw=on", "outside.qcow2", "2M"];
    run(&site, "qemu-img", &data);
    run(
        &site,
        "qemu-img",
        &["convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", "base.raw", "flat.vmdk"],
    );
    let parts = ["--image-parts", "."];
    let cases: [(&str, &str, &[&str]); 10] = [
        ("raw", "base.raw", &["base.raw"]),
        ("qcow2", "a.qcow2", &["a.qcow2"]),
        ("raw", "base.raw", &["over.qcow2", parts[0], parts[1]]),
        ("raw", "data.raw", &["outside.qcow2", parts[0], parts[1]]),
        ("vmdk", "a.vmdk", &["a.vmdk"]),
        ("raw", "flat-flat.vmdk", &["flat.vmdk", parts[0], parts[1]]),
        ("vdi", "a.vdi", &["a.vdi"]),
        ("vhdx", "a.vhdx", &["a.vhdx"]),
        ("vpc", "a.vhd", &["a.vhd"]),
        ("qed", "a.qed", &["a.qed"]),
    ];
    for (format, written, source) in cases {
        let (code, said) = saved(&site, source);
        assert_eq!(code, Some(0), "{source:?} before anybody writes: {said}");
        let writer = Writer::of(&site, format, written);
        let said = refused(&site, source);
        assert!(said.contains(written) && said.contains("open for writing"), "{written}, {source:?}: {said}");
        drop(writer);
    }
}

/// Whether what was said is that bytes are those of an image.
fn is_image(name: &str) -> bool {
    name.contains(" container and no raw disk")
        || name.contains("gives the bytes of a file")
        || name.contains("packed")
}

#[test]
fn an_image_whose_name_does_not_say_its_form_is_never_saved_as_a_raw_disk() {
    let Some(site) = site() else { return };
    std::fs::write(site.path("base"), noise(5, 2 * MIB)).unwrap();
    let forms = [
        ("qcow2", ""),
        ("qcow2", "compat=0.10"),
        ("qed", ""),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vhdx", ""),
        ("vhdx", "subformat=fixed"),
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=fixed"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vdi", ""),
        ("vdi", "static=on"),
        ("parallels", ""),
    ];
    for (number, (format, options)) in forms.into_iter().enumerate() {
        let name = ["disk", "disk.img", "vm-100-disk-0", "disk.dd", "disk.raw"][number % 5];
        let name = format!("{number}/{name}");
        std::fs::create_dir(site.path(number.to_string())).unwrap();
        let mut arguments = vec!["convert", "-f", "raw", "-O", format];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        arguments.extend(["base", &name]);
        run(&site, "qemu-img", &arguments);
        let said = refused(&site, &[&name]);
        assert!(is_image(&said), "{format} {options}: {said}");
        served(&site, &name, |uri| {
            let said = refused(&site, &[uri]);
            assert!(is_image(&said), "{format} {options}, served: {said}");
        });
    }
}

/// Serves the bytes of a file as they are.
fn served(site: &Site, name: &str, act: impl FnOnce(&str)) {
    let socket = site.path("nbd.sock");
    let _ = std::fs::remove_file(&socket);
    let mut server = Command::new("qemu-nbd");
    server.args(["--read-only", "--format", "raw", "--shared", "8", "--persistent", "--socket"]);
    server.arg(&socket).arg(site.path(name)).stdin(Stdio::null());
    let server = Writer(server.spawn().unwrap());
    wait_for(&socket);
    act(&format!("nbd+unix:///?socket={}", socket.display()));
    drop(server);
}

fn wait_for(socket: &Path) {
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "qemu-nbd does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is attached or piped in is saved as it is; if it is no disk without others, that is said.
#[test]
fn an_overlay_that_is_attached_or_piped_in_is_warned_of() {
    let Some(site) = site() else { return };
    std::fs::write(site.path("base.raw"), noise(7, MIB)).unwrap();
    run(&site, "qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "over.qcow2"]);
    run(&site, "qemu-img", &["convert", "-O", "qcow2", "base.raw", "whole.qcow2"]);
    for (name, is_warned) in [("over.qcow2", true), ("whole.qcow2", false)] {
        let (code, said) = saved(&site, &["base.raw", "--attach", name]);
        assert_eq!((code, said.contains("it is no disk")), (Some(0), is_warned), "{said}");
        let mut piped = site.command(&[&BACKUP[..], &["stream", "--stdin", "dump"]].concat());
        piped.stdin(std::fs::File::open(site.path(name)).unwrap());
        let output = piped.output().unwrap();
        let said = told(&output);
        assert_eq!((output.status.code(), said.contains("it is no disk")), (Some(0), is_warned), "{said}");
    }
}

/// What an administrator reads, and what has to be in it.
#[test]
fn each_refusal_names_the_file_what_is_wrong_and_what_to_do() {
    let Some(site) = site() else { return };
    let path = |name: &str| site.path(name);
    std::fs::write(path("base.raw"), noise(9, 4 * MIB)).unwrap();
    for format in ["qcow2", "vmdk", "vhdx", "vdi"] {
        run(&site, "qemu-img", &["convert", "-f", "raw", "-O", format, "base.raw", &format!("a.{format}")]);
        std::fs::copy(path("base.raw"), path(&format!("raw.{format}"))).unwrap();
        std::fs::write(path(&format!("empty.{format}")), b"").unwrap();
    }
    run(
        &site,
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-u", "-b", "gone.raw", "-F", "raw", "gone.qcow2", "4M"],
    );
    run(&site, "qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "over.qcow2"]);
    run(
        &site,
        "qemu-img",
        &["convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", "base.raw", "flat.vmdk"],
    );
    std::fs::remove_file(path("flat-flat.vmdk")).unwrap();
    let cut = std::fs::OpenOptions::new().write(true).open(path("a.qcow2")).unwrap();
    cut.set_len(MIB as u64).unwrap();
    let here = ["--image-parts", "."];
    let cases: [(&[&str], &[&str]); 13] = [
        (&["over.qcow2"], &["\"base.raw\"", "--image-parts DIRECTORY"]),
        (&["gone.qcow2", here[0], here[1]], &["gone.qcow2", "backing file \"gone.raw\" is not at", "rebase"]),
        (&["flat.vmdk", here[0], here[1]], &["flat.vmdk", "flat-flat.vmdk", "No such file", "--image-parts"]),
        (&["raw.qcow2"], &["raw.qcow2", "--format raw"]),
        (&["raw.vmdk"], &["raw.vmdk as VMDK", "signature", "--format raw"]),
        (&["raw.vhdx"], &["raw.vhdx as VHDX", "signature", "--format raw"]),
        (&["raw.vdi"], &["raw.vdi as VDI", "signature", "--format raw"]),
        (&["a.vdi", "--format", "vmdk"], &["a.vdi as VMDK", "by its signature it is VDI"]),
        (&["empty.qcow2"], &["empty.qcow2", "is empty"]),
        (&["empty.vmdk"], &["empty.vmdk", "is empty"]),
        (&["empty.vhdx"], &["empty.vhdx", "is empty"]),
        (&["empty.vdi"], &["empty.vdi", "is empty"]),
        (&["a.qcow2"], &["a.qcow2", "cut short", "copy it again"]),
    ];
    for (arguments, words) in cases {
        // JSON has them behind backslashes.
        let said = refused(&site, arguments).replace('\\', "");
        for word in words {
            assert!(said.contains(word), "{arguments:?} lacks {word}: {said}");
        }
        assert!(!said.contains("server still runs") && said.len() < 900, "{arguments:?}: {said}");
    }
}
