//! What nothing stands for is given up by the administrator, by name: nobody else may, and others go on.

use sancerre_engine::monitor::Monitor;
use sancerre_engine::repair::{RepairOptions, repair};
use sancerre_engine::repository::log::Log;
use sancerre_engine::{Error, ErrorKind, StoreError};
use sancerre_format::log::{Kind, Note};
use sancerre_format::names;
use sancerre_tests::disk::{MemoryDisk, noise};
use sancerre_tests::odd::bad_sector;
use sancerre_tests::repo::{back_up, name, zone};

use crate::gc::collect;
use crate::lost::{Harm, MIB, Scene};

/// Of an entry that was no backup and no gc nothing stands for: the administrator gives it up.
#[tokio::test(start_paused = true)]
async fn a_lost_entry_for_which_nothing_stands_is_given_up_by_name() {
    for harm in [Harm::Gone, Harm::Unread(bad_sector)] {
        let mut scene = Scene::new(7).await;
        let note = Note { topic: name("drill"), result: None, snapshots: Vec::new() };
        let session = scene.repo.append(Kind::Note(note), &[]).await;
        scene.back_up("web01", scene.disk.clone()).await;
        let key = names::log(&zone(), session.number);
        scene.harm(&key, harm).await;
        scene.everything_restores().await;
        let before = scene.repo.objects().await;
        for error in [
            back_up(&scene.admin, "web01", MemoryDisk::new(scene.disk.clone())).await.unwrap_err(),
            collect(&scene.admin).await.unwrap_err(),
        ] {
            assert!(error.to_string().contains("`repair`"), "{error}");
        }
        assert_eq!(scene.repo.objects().await, before, "nothing was written");
        let report = scene.repair(&[]).await.unwrap();
        assert!(
            report.left.iter().any(|(object, advice)| *object == key && advice.contains("`give_up`")),
            "{report:?}"
        );
        for other in [names::log(&zone(), 1), names::log(&zone(), 99), names::list(&zone(), &session, 0)] {
            let error = scene.repair(&[&other]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        }
        let report = scene.repair(&[&key]).await.unwrap();
        assert_eq!(report.left, [], "{report:?}");
        assert_eq!(scene.back_up("web01", scene.disk.clone()).await, 0, "{harm:?}");
        collect(&scene.admin).await.unwrap();
        scene.everything_restores().await;
        let log = Log::load(&scene.admin).await.unwrap();
        assert_eq!(log.lost_entries().map(|(session, _)| session).collect::<Vec<_>>(), [session]);
    }
}

/// Two beside each other: of the lower one nobody knows what it was, so backups build on nothing below it.
#[tokio::test(start_paused = true)]
async fn what_nobody_knows_anything_of_keeps_writers_from_all_below_it() {
    let mut scene = Scene::new(8).await;
    let mut keys = Vec::new();
    for round in 0..2 {
        let note =
            Note { topic: name("drill"), result: Some(name(&format!("r{round}"))), snapshots: Vec::new() };
        keys.push(names::log(&zone(), scene.repo.append(Kind::Note(note), &[]).await.number));
    }
    scene.back_up("db01", noise(81, MIB)).await;
    scene.repo.lose(&keys).await;
    let error = scene.repair(&[&keys[1]]).await.unwrap();
    assert!(error.note.is_none() && error.left.iter().any(|(key, _)| *key == keys[0]), "{error:?}");
    assert!(matches!(
        back_up(&scene.admin, "web01", MemoryDisk::new(scene.disk.clone())).await,
        Err(Error::Gap { .. } | Error::Store(StoreError::Missing { .. }))
    ));
    let report = scene.repair(&[&keys[0]]).await.unwrap();
    assert!(report.left.is_empty() && report.done[0].contains("build on nothing"), "{report:?}");
    assert!(scene.back_up("web01", scene.disk.clone()).await > 2 * MIB as u64);
    assert_eq!(scene.back_up("web01", scene.disk.clone()).await, 0, "what came later is built on");
    collect(&scene.admin).await.unwrap();
    scene.everything_restores().await;
}

/// Only the administrator may; and where something stands for an entry there is nothing to give up.
#[tokio::test(start_paused = true)]
async fn nobody_else_gives_anything_up() {
    let scene = Scene::new(9).await;
    let key = names::log(&zone(), 1);
    scene.harm(&key, Harm::Gone).await;
    let options = RepairOptions { give_up: vec![key.clone()], ..RepairOptions::default() };
    for other in [scene.repo.as_keeper().await, scene.repo.as_writer().await] {
        let error = repair(&other, &options, &Monitor::silent()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    }
    let error = scene.repair(&[&key]).await.unwrap_err();
    assert!(error.to_string().contains("stands for it"), "{error}");
    scene.everything_restores().await;
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_outcome_stops_collectors_alone_and_is_given_up() {
    let mut scene = Scene::new(10).await;
    let session = scene.session(0);
    let key = names::outcome(&zone(), &session);
    scene.harm(&key, Harm::Unread(bad_sector)).await;
    let lost = scene.model.snapshots.remove(0);
    scene.everything_restores().await;
    assert_eq!(scene.back_up("web01", scene.disk.clone()).await, 0);
    let error = collect(&scene.admin).await.unwrap_err();
    assert!(error.to_string().contains("`forget("), "{error}");
    let report = scene.repair(&[&key]).await.unwrap();
    assert!(report.left.is_empty() && report.done[0].contains("forgotten"), "{report:?}");
    collect(&scene.admin).await.unwrap();
    scene.everything_restores().await;
    // What it shared with others is there.
    scene.odd.mend();
    let log = Log::load(&scene.admin).await.unwrap();
    assert!(log.refuse_forgotten(&lost.0).is_err());
}
