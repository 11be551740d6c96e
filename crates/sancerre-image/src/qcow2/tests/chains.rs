//! Backing files and data files: read when they may be, and never otherwise.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::lab::{Lab, MIB};
use crate::{Disk, OpenError, Qcow2Fault, References, open_qcow2};

fn fault(result: Result<crate::Qcow2Disk, OpenError>) -> Qcow2Fault {
    match result {
        Err(OpenError::Qcow2 { fault, .. }) => *fault,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was opened"),
    }
}

#[test]
fn overlays_on_bases_of_other_sizes_read_as_qemu_reads_them() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("base.raw", 3 * MIB + 512, 4);
    lab.raw("small.raw", MIB + 1000, 5);
    lab.img("convert -f raw -O qcow2 -o cluster_size=4k base.raw base.qcow2");
    lab.img("convert -f raw -O qcow2 -c base.raw packed.qcow2");
    for (base, format) in
        [("base.raw", "raw"), ("small.raw", "raw"), ("base.qcow2", "qcow2"), ("packed.qcow2", "qcow2")]
    {
        for (size, form) in [
            ("1M", "cluster_size=64k"),
            ("5M", "cluster_size=512"),
            ("5M", "extended_l2=on,cluster_size=128k"),
            ("5M", "compat=0.10"),
            ("5M", "cluster_size=2M"),
        ] {
            lab.img(&format!("create -f qcow2 -F {format} -b {base} -o {form} top.qcow2 {size}"));
            lab.compare("top.qcow2", "an empty overlay");
            lab.io(
                "top.qcow2",
                &["write -P 9 300k 5k", "write -z 700k 70k", "write -P 8 1023k 512", "write -P 7 0 1k"],
            );
            lab.compare("top.qcow2", &format!("{form} on {base}"));
        }
    }
}

#[test]
fn a_chain_of_many_kinds_reads_as_qemu_reads_it() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("0.raw", 2 * MIB, 6);
    lab.img("create -f qcow2 -F raw -b 0.raw 1.qcow2 4M");
    let forms = ["cluster_size=512", "extended_l2=on", "compat=0.10", "cluster_size=2M", "cluster_size=4k"];
    for (number, form) in forms.iter().enumerate() {
        let (below, this) = (number + 1, number + 2);
        let size = 4 + number % 2;
        lab.img(&format!("create -f qcow2 -F qcow2 -b {below}.qcow2 -o {form} {this}.qcow2 {size}M"));
        let at = 100 * this;
        lab.io(
            &format!("{this}.qcow2"),
            &[
                &format!("write -P {this} {at}k 40k"),
                &format!("write -z {}k 10k", at + 13),
                &format!("write -P 77 {}k 3k", 3000 + at),
            ],
        );
    }
    lab.compare("6.qcow2", "the chain");
    let disk = lab.open_with_others("6.qcow2").unwrap();
    assert_eq!(disk.files().count(), 7);
    let base = disk.files().last().unwrap().to_owned();
    assert!(base.ends_with("0.raw"), "{base:?}");
    std::thread::sleep(std::time::Duration::from_millis(50));
    lab.patch("0.raw", 5, b"x");
    assert!(disk.check_unchanged().unwrap_err().to_string().contains("0.raw"));
}

#[test]
fn data_files_read_as_qemu_reads_them() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("disk.raw", 4 * MIB + 512, 7);
    for form in ["data_file=data", "data_file=data,data_file_raw=on", "data_file=data,extended_l2=on"] {
        lab.img(&format!("convert -f raw -O qcow2 -o {form} disk.raw disk.qcow2"));
        lab.io("disk.qcow2", &["write -P 1 5k 1k", "write -z 1M 128k", "discard 2M 64k"]);
        lab.compare("disk.qcow2", form);
        assert!(matches!(fault(lab.open("disk.qcow2")), Qcow2Fault::NotAllowed { role: "data file", .. }));
        let references = References { data_file: false, ..lab.references() };
        let refused = fault(open_qcow2(&lab.path("disk.qcow2"), Some(&references)));
        assert!(refused.to_string().contains("data file \"data\""), "{refused}");
        fs::remove_file(lab.path("data")).unwrap();
        let gone = fault(lab.open_with_others("disk.qcow2"));
        assert!(
            matches!(&gone, Qcow2Fault::NotThere { role: "data file", path, .. } if path.ends_with("data")),
            "{gone}"
        );
        fs::remove_file(lab.path("disk.qcow2")).unwrap();
    }
}

#[test]
fn a_backing_file_that_nobody_allowed_is_named_and_not_read() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("base.raw", MIB, 1);
    lab.img("create -f qcow2 -F raw -b base.raw top.qcow2");
    let refused = fault(lab.open("top.qcow2"));
    assert!(matches!(&refused, Qcow2Fault::NotAllowed { role: "backing file", name } if name == "base.raw"));
    let references = References { backing: false, ..lab.references() };
    assert_eq!(fault(open_qcow2(&lab.path("top.qcow2"), Some(&references))), refused);
}

/// Whatever an image calls its base, only files inside the named directory are read.
#[test]
fn no_name_leads_out_of_the_named_directory() {
    let Some(lab) = Lab::new() else { return };
    for folder in ["images", "images/deep", "outside"] {
        fs::create_dir(lab.path(folder)).unwrap();
    }
    lab.raw("outside/secret.raw", MIB, 1);
    lab.raw("images/base.raw", MIB, 2);
    symlink("../outside", lab.path("images/link")).unwrap();
    symlink("../outside/secret.raw", lab.path("images/secret")).unwrap();
    symlink(lab.path("outside/secret.raw"), lab.path("images/absolute")).unwrap();
    symlink("base.raw", lab.path("images/inner")).unwrap();
    let images = lab.path("images");
    let references = References { directory: &images, backing: true, data_file: true };
    let open = |name: &str, base: &str| {
        lab.img(&format!("create -u -f qcow2 -F raw -b {base} {name} 1M"));
        open_qcow2(&lab.path(name), Some(&references))
    };
    let secret = lab.path("outside/secret.raw");
    for base in [
        "/etc/shadow",
        "../outside/secret.raw",
        "deep/../../outside/secret.raw",
        "link/secret.raw",
        "secret",
        "absolute",
        "/proc/self/cwd/base.raw",
        secret.to_str().unwrap(),
    ] {
        let refused = fault(open("images/top.qcow2", base));
        assert!(matches!(refused, Qcow2Fault::NotInside { .. }), "{base}: {refused}");
    }
    let absolute = lab.path("images/base.raw");
    for base in [
        "base.raw",
        "inner",
        "deep/../base.raw",
        "./base.raw",
        "../images/base.raw",
        absolute.to_str().unwrap(),
    ] {
        open("images/top.qcow2", base).unwrap_or_else(|error| panic!("{base}: {error}"));
    }
    open("images/deep/top.qcow2", "../base.raw").unwrap();
    // An overlay may be elsewhere: what it names counts.
    open("outside/top.qcow2", "../images/base.raw").unwrap();
    assert!(matches!(fault(open("outside/top.qcow2", "secret.raw")), Qcow2Fault::NotInside { .. }));
}

#[test]
fn a_name_of_something_else_than_a_file_is_refused() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -u -f qcow2 -F raw -b nbd:localhost:10809 top.qcow2 1M");
    let refused = fault(lab.open_with_others("top.qcow2"));
    assert!(matches!(refused, Qcow2Fault::NotAPath { .. }), "{refused}");
    crate::testing::run("mkfifo", &[lab.path("pipe").to_str().unwrap()]).unwrap();
    lab.img("create -u -f qcow2 -F raw -b pipe top.qcow2 1M");
    let error = lab.open_with_others("top.qcow2").unwrap_err();
    assert!(matches!(error, OpenError::NotADisk { .. }), "{error}");
}

#[test]
fn a_block_device_may_be_a_base_and_no_other_device() {
    let Some(lab) = Lab::new() else { return };
    let references = References { directory: Path::new("/dev"), backing: true, data_file: true };
    lab.img("create -u -f qcow2 -F raw -b /dev/zero top.qcow2 1M");
    let error = open_qcow2(&lab.path("top.qcow2"), Some(&references)).unwrap_err();
    assert!(matches!(&error, OpenError::NotADisk { kind: "character device", .. }), "{error}");

    let bytes = lab.raw("disk.raw", MIB, 4);
    let Some(device) = crate::testing::LoopDevice::attach(&lab.path("disk.raw")) else { return };
    lab.img(&format!("create -u -f qcow2 -F raw -b {} top.qcow2 1M", device.path().display()));
    let disk = open_qcow2(&lab.path("top.qcow2"), Some(&references)).unwrap();
    super::lab::assert_same(&disk, &bytes, "on a device");
}

/// The first bytes of a raw base are the guest's: it could make a format of them.
#[test]
fn the_format_of_a_backing_file_is_never_guessed() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("base.raw", MIB, 1);
    lab.img("create -f qcow2 -F raw -b base.raw top.qcow2");
    let mut image = lab.read("top.qcow2");
    let at = image.windows(4).position(|bytes| bytes == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    image[at..at + 4].copy_from_slice(&[0xe2, 0x79, 0x2a, 0xcb]);
    lab.write("none.qcow2", &image);
    assert!(matches!(fault(lab.open_with_others("none.qcow2")), Qcow2Fault::NoBackingFormat { .. }));
    for format in ["vmdk", "vpc", "luks"] {
        lab.img(&format!("create -u -f qcow2 -F {format} -b base.raw other.qcow2 1M"));
        let refused = fault(lab.open_with_others("other.qcow2"));
        assert!(refused.to_string().contains(format), "{refused}");
    }
    // A raw base that begins as an image does is raw all the same.
    lab.img("create -f qcow2 inner.qcow2 1M");
    let inner = lab.read("inner.qcow2");
    lab.write("looks.raw", &inner);
    lab.img("create -f qcow2 -F raw -b looks.raw raw-top.qcow2 64k");
    let bytes = lab.compare("raw-top.qcow2", "a raw base with a header");
    assert!(bytes.starts_with(b"QFI\xfb"));
}

#[test]
fn circles_and_endless_chains_are_refused() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -u -f qcow2 -F qcow2 -b a.qcow2 other.qcow2 1M");
    fs::rename(lab.path("other.qcow2"), lab.path("a.qcow2")).unwrap();
    assert_eq!(fault(lab.open_with_others("a.qcow2")), Qcow2Fault::Loop);
    lab.img("create -u -f qcow2 -F qcow2 -b c.qcow2 b.qcow2 1M");
    lab.img("create -u -f qcow2 -F qcow2 -b b.qcow2 c.qcow2 1M");
    fs::hard_link(lab.path("b.qcow2"), lab.path("d.qcow2")).unwrap();
    assert_eq!(fault(lab.open_with_others("d.qcow2")), Qcow2Fault::Loop);

    lab.img("create -f qcow2 0.qcow2 1M");
    for number in 1..=64 {
        lab.img(&format!("create -u -f qcow2 -F qcow2 -b {}.qcow2 {number}.qcow2 1M", number - 1));
    }
    lab.io("0.qcow2", &["write -P 5 0 1M"]);
    let disk = lab.open_with_others("63.qcow2").unwrap();
    assert!(super::lab::whole(&disk).iter().all(|byte| *byte == 5));
    assert!(matches!(fault(lab.open_with_others("64.qcow2")), Qcow2Fault::Deep { limit: 64 }));
}

/// What stands behind an image is held to the same rules.
#[test]
fn a_damaged_base_is_named() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -f qcow2 base.qcow2 1M");
    lab.img("create -f qcow2 -F qcow2 -b base.qcow2 top.qcow2");
    lab.patch("base.qcow2", 79, &[2]);
    let error = lab.open_with_others("top.qcow2").unwrap_err();
    assert!(error.to_string().contains("base.qcow2") && error.to_string().contains("corrupt"), "{error}");
    fs::remove_file(lab.path("base.qcow2")).unwrap();
    let error = lab.open_with_others("top.qcow2").unwrap_err().to_string();
    assert!(
        error.contains("top.qcow2") && error.contains("backing file \"base.qcow2\" is not at"),
        "{error}"
    );
}

#[test]
fn a_directory_that_is_none_is_an_error() {
    let Some(lab) = Lab::new() else { return };
    lab.img("create -f qcow2 disk.qcow2 1M");
    for directory in [lab.path("nowhere"), lab.path("disk.qcow2")] {
        let references = References { directory: &directory, backing: true, data_file: true };
        let error = open_qcow2(&lab.path("disk.qcow2"), Some(&references)).unwrap_err();
        assert!(matches!(&error, OpenError::Io { path, .. } if *path == directory), "{error}");
    }
    assert_eq!(lab.open("disk.qcow2").unwrap().size_bytes(), MIB);
}
