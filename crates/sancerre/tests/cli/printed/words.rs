//! What stands for something else in a page, and what cannot run here: declared here and nowhere else.

use sancerre_services::seaweedfs;
use sancerre_services::seaweedfs::{ADMIN, Bucket, HYPERVISOR, KEEPER, RESTORER};

/// Folders of a page that are folders of the trial.
pub(crate) const ROOTS: &[&str] = &[
    "/usr/lib/systemd",
    "/srv",
    "/etc",
    "/mnt",
    "/var/lib",
    "/var/cache",
    "/usr/bin/sancerre",
    "/usr/local",
    "/usr/share",
];

/// Words of a block that needs what is not here, and what that is. Such a block is not run, and said to be not run.
pub(crate) const NOT_HERE: &[(&str, &str)] = &[
    ("aws", "an account at AWS, and its command line"),
    ("cargo", "a clone of the sources, and minutes"),
    ("ceph", "a Ceph cluster, or a server that can be reached by SSH"),
    ("database", "a database server"),
    ("device", "a block device that may be written over"),
    ("guest", "a guest of some kind, or a machine to start one"),
    ("libvirt", "libvirt with a guest"),
    ("lvm", "LVM with a guest"),
    ("release", "the files of a release"),
    ("systemd", "a running service manager; the units themselves are verified"),
    ("zfs", "ZFS with a guest"),
];

/// Programs that pages type.
pub(crate) const PROGRAMS: &[&str] =
    &["age-keygen", "b3sum", "bash", "man", "mkfs.ext4", "qemu-img", "rsync", "setsid", "ssh-keygen", "zstd"];

/// Commands that read what a person types, and the file of the trial that has it.
pub(crate) const TYPED: &[(&str, &str)] = &[("(umask 077; cat > code.txt)", ".typed")];

/// What a word of [`NOT_HERE`] needs.
pub(crate) fn need(word: &str) -> &'static str {
    NOT_HERE.iter().find(|(name, _)| *name == word).map_or("?", |(_, need)| need)
}

/// A bucket as the pages make it, with the policy that STORES.md prints, and the words of pages that stand for it; none, said
/// loudly, where no server is installed.
pub(crate) fn bucket() -> Option<Vec<(&'static str, String)>> {
    let server = seaweedfs()?;
    let bucket = server.bucket(Bucket::LockedByDefault(45)).unwrap();
    let document = super::page_text("docs/STORES.md");
    let (_, policy) = document.split_once("```json policy\n").unwrap();
    let policy = policy.split_once("```").unwrap().0;
    let policy = policy.replace("BUCKET", &bucket).replace("ACCOUNT", "000000000000");
    let place = format!("/{bucket}");
    let set = server.request(ADMIN, ("PUT", &place, "policy="), &[], policy.as_bytes()).unwrap();
    assert_eq!(set.status, 204, "{}", set.text());
    Some(vec![
        ("hospital-backup", bucket),
        ("https://s3.example.com", server.endpoint()),
        ("HYPERVISOR_ID", HYPERVISOR.access_key.to_owned()),
        ("HYPERVISOR_SECRET", HYPERVISOR.secret_key.to_owned()),
        ("KEEPER_ID", KEEPER.access_key.to_owned()),
        ("KEEPER_SECRET", KEEPER.secret_key.to_owned()),
        ("RESTORER_ID", RESTORER.access_key.to_owned()),
        ("RESTORER_SECRET", RESTORER.secret_key.to_owned()),
    ])
}
