//! The chain of admin keys: which key must have signed what, where.

mod common;

use common::*;
use sancerre_format::FormatError;
use sancerre_format::certificate::{Certificate, Role};
use sancerre_format::config::Config;
use sancerre_format::id::Hash;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::Zone;
use sancerre_format::outcome::Abort;
use sancerre_format::record::{self, Fields, SignedBy};
use sancerre_format::trust::{Succession, Trust};

fn config_hash() -> Hash {
    Hash::of(&sign(&config(), ADMIN))
}

fn followed(succession: &Succession, seed: u8) -> Result<Trust, FormatError> {
    let mut trust = trust();
    let record = record::decode::<Succession>(&trust, &sign(succession, seed))?;
    trust.follow(&record, config_hash())?;
    Ok(trust)
}

fn at<F: Fields>(trust: &Trust, fields: &F, seed: u8) -> bool {
    record::decode::<F>(trust, &sign(fields, seed)).is_ok()
}

fn hold_at(number: u64, by: SignedBy) -> Entry {
    Entry { number, ..entry(Kind::Index, by) }
}

#[test]
fn each_key_signs_where_it_is_in_force() {
    let trust = followed(&succession(), ADMIN).unwrap();
    assert_eq!((trust.number(), trust.current()), (2, &key(SECOND).public()));
    for (number, old, new) in [(8, true, true), (9, false, true), (10, false, true)] {
        assert_eq!(at(&trust, &hold_at(number, admin()), ADMIN), old, "entry {number} by the old key");
        assert_eq!(at(&trust, &hold_at(number, admin()), SECOND), new, "entry {number} by the new key");
    }
    // An outcome is judged by the number of its session.
    for (number, old) in [(7, true), (9, false)] {
        let abort = Abort { session: session(number), by: admin(), ..samples::abort() };
        assert_eq!((at(&trust, &abort, ADMIN), at(&trust, &abort, SECOND)), (old, true), "outcome {number}");
    }
    // A zone that the record does not name was made later.
    let elsewhere = Entry { zone: Zone::new("attic").unwrap(), ..hold_at(5, admin()) };
    assert!(!at(&trust, &elsewhere, ADMIN) && at(&trust, &elsewhere, SECOND));
    // What has no place in a log is judged by the last key; `config` by the first.
    assert!(!at(&trust, &samples::recipient(), ADMIN) && at(&trust, &samples::recipient(), SECOND));
    assert!(!at(&trust, &config(), ADMIN) && at::<Config>(&trust.anchor(), &config(), ADMIN));
}

#[test]
fn certificates_count_where_they_are_kept() {
    let trust = followed(&succession(), ADMIN).unwrap();
    let (kept, gone) = (certificate(Role::Keeper), certificate(Role::Writer));
    assert!(at::<Certificate>(&trust, &kept, ADMIN) && !at::<Certificate>(&trust, &gone, ADMIN));
    assert!(at(&trust, &hold_at(20, keeper()), KEEPER), "its certificate is kept");
    let quarantine =
        |number| Entry { kind: Kind::Quarantine { reason: "test".into() }, ..hold_at(number, writer()) };
    assert!(at(&trust, &quarantine(8), WRITER) && !at(&trust, &quarantine(9), WRITER));
    let renewed = signed_by(&certificate(Role::Writer), SECOND);
    let renewed = Entry { by: renewed, ..quarantine(20) };
    assert!(at(&trust, &renewed, WRITER) && !at(&common::trust(), &renewed, WRITER));
    // The old key made one after it was replaced.
    let late = signed_by(&Certificate { name: name("late"), ..certificate(Role::Keeper) }, ADMIN);
    assert!(!at(&trust, &hold_at(20, late), KEEPER));
}

#[test]
fn what_does_not_follow_is_refused() {
    let good = succession();
    let refused = |succession: Succession, seed: u8, says: &str| {
        let error = followed(&succession, seed).unwrap_err().to_string();
        assert!(error.contains(says), "{error} does not say {says}");
    };
    let again = |succession: Succession| succession.prove(&key(SECOND)).unwrap();
    refused(good.clone(), STRANGER, "another key");
    refused(good.clone(), SECOND, "another key");
    refused(Succession { number: 3, ..good.clone() }, ADMIN, "signature");
    refused(Succession { proof: "-".into(), ..good.clone() }, ADMIN, "proof");
    refused(again(Succession { previous: Hash([1; 32]), ..good.clone() }), ADMIN, "another record");
    let own = Succession { admin: key(ADMIN).public(), ..good.clone() }.prove(&key(ADMIN)).unwrap();
    refused(own, ADMIN, "before");
    // Of two that follow on one key the second is none.
    let mut trust = followed(&good, ADMIN).unwrap();
    let other = again(Succession { number: 3, ..good.clone() });
    assert!(record::decode::<Succession>(&trust, &sign(&other, ADMIN)).is_err());
    // The next one may not begin before it.
    let hash = Hash::of(&sign(&good, ADMIN));
    let third = |number, from| {
        let from = vec![(zone(), from), (Zone::new("ward-4").unwrap(), 1)];
        let third = Succession { number, admin: key(6).public(), previous: hash, from, ..good.clone() };
        third.prove(&key(6)).unwrap()
    };
    for (number, from, follows) in [(3, 8, false), (2, 9, false), (7, 9, true)] {
        let bytes = sign(&third(number, from), SECOND);
        let record = record::decode::<Succession>(&trust, &bytes).unwrap();
        assert_eq!(trust.follow(&record, hash).is_ok(), follows, "{number} from {from}");
    }
    assert_eq!(trust.admins().count(), 3);
}
