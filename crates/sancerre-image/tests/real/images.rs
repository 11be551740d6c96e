//! Foreign containers through a confined `qemu-nbd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sancerre_confine::Limits;
use sancerre_image::foreign::{ImageDisk, ImageError, ImageFormat, ImageReader};
use sancerre_image::nbd::NbdOptions;
use sancerre_image::{ChangedError, Disk};

use crate::open_log::{Begun, SECTOR, leave_open};
use crate::own_helper;
use crate::support::{MIB, assert_is, have, map_of, noise, run, source};

const QEMU_NBD: &str = "/usr/bin/qemu-nbd";

fn reader() -> ImageReader {
    ImageReader {
        qemu_nbd: QEMU_NBD.into(),
        helper: own_helper(),
        limits: Limits::default(),
        sandbox: true,
        options: NbdOptions::default(),
    }
}

fn ready() -> bool {
    have(&["qemu-nbd", "qemu-img"]) && Path::new(QEMU_NBD).exists()
}

fn format(name: &str) -> ImageFormat {
    use ImageFormat::{Parallels, Qed, Vdi, Vhd, Vhdx, Vmdk};
    [Vmdk, Vhd, Vhdx, Vdi, Parallels, Qed].into_iter().find(|format| format.qemu_name() == name).unwrap()
}

fn refused(image: &Path, format: ImageFormat, allowed: Option<&Path>) -> String {
    match reader().open(image, format, allowed) {
        Err(
            error @ (ImageError::Refused { .. }
            | ImageError::Parts { .. }
            | ImageError::PartGone { .. }
            | ImageError::OtherFormat { .. }),
        ) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_foreign_format_reads_as_qemu_img_converts_it() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 20 * MIB);
    for (name, options) in [
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", "subformat=twoGbMaxExtentFlat"),
        ("vmdk", "subformat=streamOptimized"),
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vpc", "subformat=dynamic"),
        ("vhdx", "subformat=dynamic"),
        ("vhdx", "subformat=fixed"),
        ("vhdx", "block_size=1M,log_size=2M"),
        ("vdi", "static=off"),
        ("vdi", "static=on"),
        ("parallels", "cluster_size=1M"),
        ("qed", "cluster_size=4096"),
        ("qed", "cluster_size=65536"),
    ] {
        let inside = folder.path().join("inside");
        fs::create_dir(&inside).unwrap();
        run(
            &format!("qemu-img convert -O {name} -o {options} source.raw inside/image.{name}"),
            folder.path(),
        );
        // VHD without force_size has another size, so that the truth is what qemu-img makes of it.
        run(&format!("qemu-img convert -f {name} -O raw inside/image.{name} truth.raw"), folder.path());
        let map = map_of(folder.path(), &format!("-f {name} inside/image.{name}"));
        let image = inside.join(format!("image.{name}"));
        let disk = reader().open(&image, format(name), Some(&inside));
        let disk = disk.unwrap_or_else(|error| panic!("{name} {options}: {error}"));
        assert_is(&disk, &folder.path().join("truth.raw"), Some(&map), &format!("{name} {options}"));
        disk.check_unchanged().unwrap();
        assert_eq!(disk.path(), image);
        drop(disk);
        fs::remove_dir_all(&inside).unwrap();
    }
}

/// A VMDK whose only extent is a file of somebody else.
fn thief(extent: &str, path: &Path) {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\n\
         RW 8 FLAT \"{extent}\" 0\n\nddb.virtualHWVersion = \"4\"\n"
    );
    fs::write(path, text).unwrap();
}

#[test]
fn an_image_that_names_a_file_it_was_not_given_never_gets_it() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (inside, key) = (folder.path().join("inside"), folder.path().join("key"));
    fs::create_dir(&inside).unwrap();
    fs::write(&key, [b'k'; 4096]).unwrap();
    fs::write(inside.join("extent"), [b'e'; 4096]).unwrap();
    std::os::unix::fs::symlink(&key, inside.join("link")).unwrap();
    let image = inside.join("image.vmdk");
    let key_text = key.to_str().unwrap();
    for extent in
        ["extent", "../key", "link", key_text, "/etc/shadow", "nbd://127.0.0.1/x", "/proc/self/environ"]
    {
        thief(extent, &image);
        let message = refused(&image, ImageFormat::Vmdk, None);
        assert!(message.contains("image.vmdk") && message.contains(&format!("{extent:?}")), "{message}");
        if extent != "extent" {
            refused(&image, ImageFormat::Vmdk, Some(&inside));
        }
    }
    let mut bytes = [0; 4096];
    thief("extent", &image);
    let disk = reader().open(&image, ImageFormat::Vmdk, Some(&inside)).unwrap();
    disk.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, [b'e'; 4096]);
    // Where the folder above may be read too, so may the key.
    thief("../key", &image);
    reader().open(&image, ImageFormat::Vmdk, Some(folder.path())).unwrap().read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, [b'k'; 4096]);
}

#[test]
fn an_image_in_another_format_than_named_is_refused_with_the_programs_words() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = source(folder.path(), 20 * MIB);
    let started = Instant::now();
    for name in ["vmdk", "vpc", "vhdx", "vdi", "parallels", "qed"] {
        let message = refused(&raw, format(name), None);
        assert!(
            message.contains("source.raw as ") && message.contains("does not have the signature"),
            "{message}"
        );
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let error = reader().open(folder.path(), ImageFormat::Vdi, None).unwrap_err();
    assert!(matches!(error, ImageError::NotAnImage { .. }), "{error}");
    let missing = ImageReader { qemu_nbd: "/nonexistent/qemu-nbd".into(), ..reader() };
    let error = missing.open(&raw, ImageFormat::Vdi, None).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/qemu-nbd"), "{error}");
}

/// A reader keeps no guest from starting: it must only notice that one did.
#[test]
fn a_guest_may_start_while_its_image_is_read() {
    if !ready() || !have(&["qemu-io"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 20 * MIB);
    let kinds = [
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vhdx", "subformat=dynamic"),
        ("vdi", "static=off"),
    ];
    for (name, options) in kinds {
        run(&format!("qemu-img convert -O {name} -o {options} source.raw image.{name}"), folder.path());
        let image = folder.path().join(format!("image.{name}"));
        let disk = reader().open(&image, format(name), Some(folder.path())).unwrap();
        disk.check_unchanged().unwrap();
        let said = Command::new("qemu-io")
            .args(["-f", name, "-c", "write -P 5 1M 64k"])
            .arg(&image)
            .output()
            .unwrap();
        assert!(said.status.success(), "{name} {options}: {said:?}");
        assert!(disk.check_unchanged().is_err(), "{name} {options}");
    }
}

/// QEMU itself says "Invalid argument".
#[test]
fn a_vhdx_that_stands_on_another_is_refused_by_that_name() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 20 * MIB);
    run("qemu-img convert -O vhdx source.raw image.avhdx", folder.path());
    let image = folder.path().join("image.avhdx");
    let mut bytes = fs::read(&image).unwrap();
    let metadata = bytes.windows(8).position(|found| found == b"metadata").unwrap();
    // The parameters are the first item, the size of a block and its bits.
    let at = metadata + u32::from_le_bytes(bytes[metadata + 48..metadata + 52].try_into().unwrap()) as usize;
    assert_eq!(bytes[at..at + 8], [0, 0, 0x80, 0, 0, 0, 0, 0]);
    bytes[at + 4] |= 2;
    fs::write(&image, bytes).unwrap();
    let said = reader().open(&image, ImageFormat::Vhdx, None).unwrap_err().to_string();
    assert!(said.contains("image.avhdx") && said.contains("a differencing VHDX"), "{said}");
    // QEMU cannot convert it either.
    assert!(said.contains("Delete its checkpoint") && !said.contains("qemu-img"), "{said}");
}

#[test]
fn what_a_log_holds_is_read_and_the_image_stays_as_it_is() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("source.raw"), noise(3, MIB as usize)).unwrap();
    run("qemu-img convert -f raw -O vhdx source.raw image.vhdx", folder.path());
    let image = folder.path().join("image.vhdx");
    let whole = reader().open(&image, ImageFormat::Vhdx, None).unwrap();
    let before = fs::read(&image).unwrap();
    let place = before.windows(64).position(|found| found == &noise(3, 64)[..]).unwrap() as u64;
    leave_open(&image, &[Begun::Data(place, &[7; SECTOR])], before.len() as u64);
    let left = fs::read(&image).unwrap();
    let replayed = reader().open(&image, ImageFormat::Vhdx, None).unwrap();
    let mut bytes = [0; SECTOR];
    replayed.read_at(0, &mut bytes).unwrap();
    assert_eq!((bytes, replayed.is_replayed(), whole.is_replayed()), ([7; SECTOR], true, false));
    replayed.check_unchanged().unwrap();
    assert!(fs::read(&image).unwrap() == left);
}

/// A log whose zeros never end, and one whose writer knew of a longer file.
#[test]
fn a_log_that_cannot_be_replayed_is_refused_soon() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 20 * MIB);
    let impatient = NbdOptions { timeout: Duration::from_secs(3), ..NbdOptions::default() };
    let reader = ImageReader { options: impatient, ..reader() };
    let image = folder.path().join("image.vhdx");
    for (zeros_bytes, more_bytes) in [(1 << 50, 0), (4096, MIB)] {
        run("qemu-img convert -O vhdx source.raw image.vhdx", folder.path());
        let length_bytes = fs::metadata(&image).unwrap().len();
        leave_open(&image, &[Begun::Zeros(8 * MIB, zeros_bytes)], length_bytes + more_bytes);
        let (before, started) = (fs::read(&image).unwrap(), Instant::now());
        let said = reader.open(&image, ImageFormat::Vhdx, None).unwrap_err().to_string();
        assert!(said.contains("image.vhdx") && said.contains("its log cannot be replayed"), "{said}");
        assert!(started.elapsed() < Duration::from_secs(20) && fs::read(&image).unwrap() == before);
    }
}

#[test]
fn damaged_images_end_in_bytes_or_in_an_error_soon() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 20 * MIB);
    let impatient = NbdOptions { timeout: Duration::from_secs(5), ..NbdOptions::default() };
    let reader = ImageReader { options: impatient, ..reader() };
    let (mut refused, mut read) = (0, 0);
    for name in ["vmdk", "vpc", "vhdx", "vdi", "parallels", "qed"] {
        run(&format!("qemu-img convert -O {name} source.raw image"), folder.path());
        let whole = fs::read(folder.path().join("image")).unwrap();
        for damage in 0..24_usize {
            let mut bytes = whole.clone();
            match damage {
                0..4 => bytes.truncate([0, 300, 70_000, whole.len() / 2][damage]),
                4 => bytes.extend_from_slice(&[0xff; 100_000]),
                // Numbers in the headers and tables become huge.
                _ => {
                    let at = [
                        8, 16, 24, 32, 40, 48, 64, 72, 80, 512, 520, 1024, 4096, 65536, 196_608, 262_176,
                        300, 368, 530,
                    ][damage - 5];
                    let end = (at + 8).min(bytes.len());
                    if let Some(field) = bytes.get_mut(at..end) {
                        field.fill(if damage % 2 == 0 { 0xff } else { 0x7f });
                    }
                }
            }
            let image = folder.path().join("damaged");
            fs::write(&image, bytes).unwrap();
            let started = Instant::now();
            match reader.open(&image, format(name), None) {
                Err(_) => refused += 1,
                Ok(disk) => {
                    read += 1;
                    let mut buffer = vec![0; 1 << 20];
                    let end = disk.size_bytes().min(20 * MIB);
                    let _ = disk.data_ranges(0..end);
                    (0..end / MIB).any(|at| disk.read_at(at * MIB, &mut buffer).is_err());
                }
            }
            assert!(started.elapsed() < Duration::from_secs(12), "{name} {damage}: {:?}", started.elapsed());
        }
    }
    assert!(refused > 40 && read > 20, "{refused} refused, {read} read");
}

fn split(folder: &Path) -> (PathBuf, ImageDisk) {
    source(folder, 20 * MIB);
    let inside = folder.join("inside");
    fs::create_dir(&inside).unwrap();
    run("qemu-img convert -O vmdk -o subformat=twoGbMaxExtentFlat source.raw inside/image.vmdk", folder);
    let disk = reader().open(&inside.join("image.vmdk"), ImageFormat::Vmdk, Some(&inside)).unwrap();
    (inside, disk)
}

#[test]
fn a_write_to_any_part_of_an_image_is_noticed() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (inside, disk) = split(folder.path());
    disk.check_unchanged().unwrap();
    let extent = inside.join("image-f001.vmdk");
    std::thread::sleep(Duration::from_millis(20));
    std::os::unix::fs::FileExt::write_at(&fs::File::options().write(true).open(&extent).unwrap(), b"x", 5)
        .unwrap();
    let error = disk.check_unchanged().unwrap_err();
    assert!(
        matches!(error, ChangedError::Modified { .. }) && error.to_string().contains("image-f001"),
        "{error}"
    );
}

/// Whoever writes to an image can set the time of that back.
#[test]
fn a_write_whose_time_was_set_back_is_noticed() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 20 * MIB);
    run("qemu-img convert -O vdi source.raw image", folder.path());
    let path = folder.path().join("image");
    let disk = reader().open(&path, ImageFormat::Vdi, None).unwrap();
    let written = fs::metadata(&path).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let file = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"x", 1 << 21).unwrap();
    file.set_modified(written).unwrap();
    let error = disk.check_unchanged().unwrap_err();
    assert!(matches!(error, ChangedError::Touched { .. }), "{error}");
}

/// QEMU reads zeros behind the end of a file.
#[test]
fn an_image_that_was_cut_is_refused_or_read_right() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Data to the very end.
    fs::write(folder.path().join("source.raw"), noise(9, 6 * MIB as usize)).unwrap();
    let raw = fs::read(folder.path().join("source.raw")).unwrap();
    for name in ["vpc", "vhdx", "vdi", "parallels", "qed", "vmdk"] {
        run(&format!("qemu-img convert -O {name} source.raw image"), folder.path());
        let whole = fs::read(folder.path().join("image")).unwrap();
        for cut in [1, 511, 512, 1000, 4096, 60_000, 70_000, 200_000, 1_000_000] {
            let image = folder.path().join("cut");
            fs::write(&image, &whole[..whole.len() - cut]).unwrap();
            let Ok(disk) = reader().open(&image, format(name), None) else { continue };
            let mut bytes = vec![0; raw.len()];
            let read = disk.read_at(0, &mut bytes);
            assert!(
                read.is_err() || bytes == raw,
                "{name} without its last {cut} bytes reads as another disk"
            );
        }
    }
}

fn is_running(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|text| !text.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// Processes of `qemu-nbd` whose arguments name the image.
fn servers_of(image: &str) -> Vec<u32> {
    let numbers =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_ours = |process: &u32| {
        fs::read_to_string(format!("/proc/{process}/cmdline"))
            .is_ok_and(|text| text.starts_with(QEMU_NBD) && text.contains(image))
    };
    numbers.filter(is_ours).collect()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_program_is_left_behind_however_the_reader_ends() {
    if !ready() {
        return;
    }
    const IMAGE: &str = "SANCERRE_TEST_IMAGE";
    if let Some(image) = std::env::var_os(IMAGE) {
        let _disk = reader().open(Path::new(&image), ImageFormat::Vdi, None).unwrap();
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), 20 * MIB);
    run("qemu-img convert -O vdi source.raw image.vdi", folder.path());
    let image = folder.path().join("image.vdi");
    let name = image.to_str().unwrap();
    let disk = reader().open(&image, ImageFormat::Vdi, None).unwrap();
    let [process] = servers_of(name)[..] else { panic!("{:?}", servers_of(name)) };
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    drop(disk);
    assert!(!is_running(process));
    let private = format!("sancerre-{}-", std::process::id());
    let left = fs::read_dir(std::env::temp_dir()).unwrap();
    assert!(
        !left.into_iter().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(&private))
    );

    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["images::no_program_is_left_behind_however_the_reader_ends", "--exact", "--nocapture"]);
    let mut other = other.env(IMAGE, name).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the reader starts", || !servers_of(name).is_empty());
    std::thread::sleep(Duration::from_millis(300));
    other.kill().unwrap();
    other.wait().unwrap();
    wait_until("the program ends with its reader", || servers_of(name).is_empty());
}
