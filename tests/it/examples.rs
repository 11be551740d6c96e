//! The programs that show how the engine is embedded, one after the other on a folder of this machine.

use std::path::Path;

#[allow(dead_code)]
#[path = "../../crates/sancerre-engine/examples/backup.rs"]
mod backup;
#[allow(dead_code)]
#[path = "../../crates/sancerre-engine/examples/read_disk.rs"]
mod read_disk;
#[allow(dead_code)]
#[path = "../../crates/sancerre-engine/examples/restore.rs"]
mod restore;

const PASSPHRASE: &str = "correct horse battery staple";

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_save_read_and_restore_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (disk, target) = (folder.path().join("disk.raw"), folder.path().join("restored.raw"));
    let bytes: Vec<u8> = (0..3_u32 << 20).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    std::fs::write(&disk, &bytes).unwrap();
    let repository = text(&folder.path().join("repository"));

    let first = backup::run(&repository, PASSPHRASE, &text(&disk)).await.unwrap();
    let second = backup::run(&repository, PASSPHRASE, &text(&disk)).await.unwrap();
    assert_ne!(first, second);
    let sector = read_disk::run(&repository, PASSPHRASE, &first, 5000).await.unwrap();
    assert!(sector == bytes[5000 * 512..5001 * 512]);
    assert!(read_disk::run(&repository, PASSPHRASE, &first, 6144).await.is_err());
    let restored = restore::run(&repository, PASSPHRASE, "example:latest", &text(&target)).await.unwrap();
    assert_eq!(restored, bytes.len() as u64);
    assert!(std::fs::read(&target).unwrap() == bytes);
    assert!(backup::run(&repository, "wrong", &text(&disk)).await.is_err());
}
