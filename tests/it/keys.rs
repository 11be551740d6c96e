//! Which key may do what, on the engine: GUARANTEES §7 as tests.

use sancerre_engine::ErrorKind;
use sancerre_engine::repository::Repository;
use sancerre_engine::repository::log::Log;
use sancerre_engine::repository::session::append;
use sancerre_format::certificate::Role;
use sancerre_format::log::{Distrust, Held, Kind};
use sancerre_tests::disk::MemoryDisk;
use sancerre_tests::repo::{TestRepo, back_up, name, restore_bytes};

async fn try_sign(repository: &Repository, kind: Kind) -> Result<u64, ErrorKind> {
    let log = Log::load(repository).await.unwrap();
    append(repository, &log, kind, &[]).await.map(|session| session.number).map_err(|error| error.kind())
}

#[tokio::test]
async fn each_role_signs_its_own_kinds_and_opens_no_content() {
    let repo = TestRepo::new(1).await;
    let writer = repo.as_writer().await;
    let disk = MemoryDisk::new(vec![7; 100_000]);
    let saved = back_up(&writer, "web01", disk.clone()).await.unwrap().snapshot.unwrap();
    let keeper = repo.with_key_file(&repo.certify("vault", Role::Keeper).await).await;
    let admin = repo.as_admin().await;

    let named = Held { snapshots: vec![saved], vms: Vec::new(), reason: "test".into() };
    let hold = || Kind::Hold(named.clone());
    assert_eq!(try_sign(&writer, hold()).await, Err(ErrorKind::WrongKey));
    assert_eq!(try_sign(&keeper, hold()).await, Ok(2));
    assert_eq!(try_sign(&admin, hold()).await, Ok(3));

    let distrust = Distrust { writer: name("host1"), from: 4, reason: "test".into() };
    for other in [&writer, &keeper] {
        assert_eq!(try_sign(other, Kind::Revoke(distrust.clone())).await, Err(ErrorKind::WrongKey));
        assert_eq!(try_sign(other, Kind::Taint(distrust.clone())).await, Err(ErrorKind::WrongKey));
        let refused = restore_bytes(other, saved, "disk0").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WrongKey);
    }
    assert_eq!(try_sign(&admin, Kind::Revoke(distrust)).await, Ok(4));
    let refused = back_up(&keeper, "web01", disk).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongKey);
    assert!(refused.to_string().contains("keeper vault may not sign this"), "{refused}");

    let log = Log::load(&writer).await.unwrap();
    assert!(log.entries().all(|entry| entry.entry.is_ok()), "readers accept what was signed");
}
