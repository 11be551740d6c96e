//! Encrypted volumes, made by cryptsetup and filled by QEMU's own LUKS: neither needs the kernel's device mapper.

use std::path::Path;
use std::sync::Arc;

use sancerre_guest::{Guest, Passphrases, VolumeContent};
use sancerre_image::{Disk, open_raw};
use zeroize::Zeroizing;

use crate::lab::{Lab, MIB, Tree, has, is_root, of_guest, reader};

const PASSPHRASE: &str = "correct horse";

fn open(image: &Path, passphrases: &[&str]) -> Arc<Guest> {
    let disk: Arc<dyn Disk> = Arc::new(open_raw(image).unwrap());
    let all = passphrases.iter().map(|text| Zeroizing::new(text.as_bytes().to_vec())).collect();
    Arc::new(reader().unlocking(Passphrases::new(all)).open(vec![disk]).unwrap())
}

fn content(guest: &Guest) -> String {
    match &guest.volumes()[0].content {
        VolumeContent::Files(info) => info.kind.clone(),
        VolumeContent::Known(what) => what.clone(),
        VolumeContent::Broken(why) => format!("broken: {why}"),
        VolumeContent::Unknown => "?".to_owned(),
    }
}

/// A file system, and an empty LUKS volume that takes it.
fn lab() -> Option<(Lab, Tree)> {
    if !(has(&["cryptsetup", "qemu-img", "mke2fs"]) && is_root()) {
        return None;
    }
    let lab = Lab::new();
    lab.image("fs.img", 24 * MIB);
    lab.run(&format!(
        "printf '{PASSPHRASE}' > pw; mke2fs -q -F -t ext4 fs.img; mount -o loop fs.img $M
         mkdir -p $M/a/b; head -c 5000000 /dev/urandom > $M/a/big; echo small > $M/a/b/small; ln -s b/small $M/a/link
         truncate -s 3M $M/sparse; echo end >> $M/sparse; head -c 60 /dev/zero > $M/zeros; umount $M"
    ));
    let tree = lab.mounted("fs.img", "-o loop,ro");
    Some((lab, tree))
}

/// Made with these words of cryptsetup, filled, and then changed by these.
fn fill(lab: &Lab, format: &str, change: &str) {
    lab.run(&format!(
        "rm -f x.luks; truncate -s 32M x.luks
         cryptsetup luksFormat -q --type luks1 --cipher aes-xts-plain64 --pbkdf-force-iterations 1000 --key-file pw {format} x.luks
         qemu-img convert -n --object secret,id=s0,file=pw -f raw fs.img --target-image-opts driver=luks,file.filename=x.luks,key-secret=s0
         {change}"
    ));
}

#[test]
fn volumes_of_both_versions_are_read_as_what_is_in_them() {
    let Some((lab, tree)) = lab() else { return };
    let convert = "cryptsetup convert -q --type luks2 x.luks";
    let key = "cryptsetup luksConvertKey -q --key-file pw --pbkdf";
    for (format, change) in [
        ("--key-size 512 --hash sha256", String::new()),
        ("--key-size 256 --hash sha512", String::new()),
        ("--key-size 512 --hash sha1", String::new()),
        ("--key-size 512 --hash sha256", convert.to_owned()),
        (
            "--key-size 512 --hash sha256",
            format!("{convert}; {key} argon2id --pbkdf-force-iterations 4 --pbkdf-memory 32768 x.luks"),
        ),
        (
            "--key-size 256 --hash sha512",
            format!(
                "{convert}; {key} argon2i --pbkdf-force-iterations 4 --pbkdf-memory 16384 --pbkdf-parallel 3 x.luks"
            ),
        ),
        (
            "--key-size 512 --hash sha256",
            format!("{convert}; {key} pbkdf2 --hash sha512 --pbkdf-force-iterations 1000 x.luks"),
        ),
    ] {
        fill(&lab, format, &change);
        let image = lab.path("x.luks");
        let guest = open(&image, &["another one", PASSPHRASE]);
        assert_eq!(content(&guest), "ext4", "{format} {change}");
        let (found, faults) = of_guest(&guest, 0);
        assert_eq!((&found, faults), (&tree, Vec::new()), "{format} {change}");
        assert_eq!(content(&open(&image, &[])), "LUKS encryption");
        let wrong = content(&open(&image, &["another one"]));
        assert!(wrong.contains("none of the passphrases"), "{wrong}");
    }
    // The second header stands in for the first.
    lab.run("printf x | dd of=x.luks bs=1 seek=5000 conv=notrunc status=none");
    assert_eq!(of_guest(&open(&lab.path("x.luks"), &[PASSPHRASE]), 0).0, tree);
    lab.run("printf x | dd of=x.luks bs=1 seek=21400 conv=notrunc status=none");
    let broken = content(&open(&lab.path("x.luks"), &[PASSPHRASE]));
    assert!(broken.contains("checksum"), "{broken}");
}

#[test]
fn what_a_header_asks_for_is_bounded_and_other_ciphers_are_named() {
    let Some((lab, _)) = lab() else { return };
    lab.run(
        "truncate -s 32M y.luks; cryptsetup luksFormat -q --type luks1 --cipher aes-cbc-essiv:sha256 --pbkdf-force-iterations 1000 --key-file pw y.luks",
    );
    let named = content(&open(&lab.path("y.luks"), &[PASSPHRASE]));
    assert!(named.contains("cipher other than"), "{named}");
    // Four thousand million rounds, by the header's word.
    fill(
        &lab,
        "--key-size 512 --hash sha256",
        "printf '\\377\\377\\377\\377' | dd of=x.luks bs=1 seek=212 conv=notrunc status=none",
    );
    let refused = content(&open(&lab.path("x.luks"), &[PASSPHRASE]));
    assert!(refused.contains("rounds"), "{refused}");
}
