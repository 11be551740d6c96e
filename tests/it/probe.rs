//! The probe against buckets that lie: each lie is seen, and called what it is.

use sancerre_engine::host::Host;
use sancerre_engine::location;
use sancerre_engine::store::StoreOptions;
use sancerre_engine::store::probe::{Check, ProbeVerdict, Report, probe};
use sancerre_tests::backends::Backend;
use sancerre_tests::bucket::{FakeBucket, Features, Lie};

async fn examine(features: Features) -> Report {
    let bucket = FakeBucket::start(features).await;
    let (place, variables) = bucket.s3();
    let store = location::open(&place, variables, false, &StoreOptions::default()).unwrap();
    let host = Host::real("sancerre test");
    probe(&store, &*host.clock, &*host.random).await.unwrap()
}

fn verdict(report: &Report, check: Check) -> ProbeVerdict {
    report
        .findings
        .iter()
        .find(|finding| finding.check == check)
        .unwrap_or_else(|| panic!("{check:?}: {report:?}"))
        .verdict
}

#[tokio::test]
async fn an_honest_bucket_is_believed() {
    let plain = examine(Features::default()).await;
    assert_eq!((plain.unsafe_findings().count(), plain.doubtful_findings().count()), (0, 0), "{plain:?}");
    for check in [Check::Versions, Check::Retention, Check::Overwrite, Check::Delete] {
        assert_eq!(verdict(&plain, check), ProbeVerdict::Absent, "{check:?}");
    }
    let locked = examine(Features { versions: true, lock: true, lie: None }).await;
    assert_eq!((locked.unsafe_findings().count(), locked.doubtful_findings().count()), (0, 0), "{locked:?}");
    for check in
        [Check::Checksum, Check::Clock, Check::Versions, Check::VersionOrder, Check::Retention, Check::Delete]
    {
        assert_eq!(verdict(&locked, check), ProbeVerdict::Holds, "{check:?}");
    }
}

/// Each lie, the check that finds it, and whether a repository may still be there.
const LIES: [(Lie, Check, ProbeVerdict, bool); 17] = [
    (Lie::IgnoresCreateOnly, Check::CreateOnly, ProbeVerdict::Lies, false),
    (Lie::RefusesAndOverwrites, Check::CreateOnly, ProbeVerdict::Lies, false),
    (Lie::IgnoresCreateOnlyWithVersions, Check::CreateOnly, ProbeVerdict::Lies, false),
    (Lie::LooksThenWrites, Check::Race, ProbeVerdict::Lies, false),
    (Lie::Forgets, Check::ReadBack, ProbeVerdict::Lies, false),
    (Lie::ChangesBytes, Check::ReadBack, ProbeVerdict::Lies, false),
    (Lie::IgnoresRanges, Check::Range, ProbeVerdict::Absent, false),
    (Lie::ShiftsRanges, Check::Range, ProbeVerdict::Lies, false),
    (Lie::ListsLate, Check::List, ProbeVerdict::Absent, true),
    (Lie::ListsWrongSizes, Check::List, ProbeVerdict::Lies, true),
    (Lie::IgnoresChecksums, Check::Checksum, ProbeVerdict::Absent, true),
    (Lie::WrongClock, Check::Clock, ProbeVerdict::Absent, true),
    (Lie::KeepsNoVersions, Check::Versions, ProbeVerdict::Lies, true),
    (Lie::LocksNothing, Check::Retention, ProbeVerdict::Lies, true),
    (Lie::LockIsForShow, Check::Retention, ProbeVerdict::Lies, true),
    (Lie::DeletesNothing, Check::Delete, ProbeVerdict::Lies, true),
    (Lie::ListsVersionsBackwards, Check::VersionOrder, ProbeVerdict::Lies, false),
];

#[tokio::test]
async fn every_lie_is_seen() {
    for (lie, check, expected, is_safe) in LIES {
        let report =
            examine(Features { versions: true, lock: lie != Lie::DeletesNothing, lie: Some(lie) }).await;
        assert_eq!(verdict(&report, check), expected, "{lie:?}: {report:#?}");
        assert_eq!(report.unsafe_findings().next().is_none(), is_safe, "{lie:?}: {report:#?}");
        assert!(!is_safe || report.doubtful_findings().next().is_some(), "{lie:?}: {report:#?}");
    }
}

#[tokio::test]
async fn real_stores_are_fit() {
    for backend in
        [Backend::folder().await, Backend::s3().await, Backend::azure().await, Backend::gcs().await]
    {
        let Some(backend) = backend else { continue };
        let host = Host::real("sancerre test");
        let report = probe(&backend.store, &*host.clock, &*host.random).await.unwrap();
        assert_eq!(report.unsafe_findings().count() + report.doubtful_findings().count(), 0, "{report:#?}");
        // Whatever could be removed again is gone.
        assert_eq!(backend.store.list("probe/").await.unwrap(), [], "{}", backend.store.location());
    }
}
