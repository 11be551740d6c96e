//! Forged fields of the records that no writer or collector signs every night: checkpoints, approvals, how many of them
//! are needed, and admin keys that follow.

mod common;

use common::forgery::Class::{Corrupt, Forged, Unsupported};
use common::forgery::*;
use common::samples;
use common::*;
use sancerre_format::certificate::{Certificate, Role};
use sancerre_format::checkpoint::Checkpoint;
use sancerre_format::id::Hash;
use sancerre_format::log::{Entry, Kind};
use sancerre_format::names::Zone;
use sancerre_format::record::Fields;
use sancerre_format::trust::Succession;

/// A record with its text changed and signed anew by the same key.
fn changed<F: Fields>(fields: &F, seed: u8, from: &str, to: &str) -> Vec<u8> {
    let (text, _, parts) = pieces(&sign(fields, seed));
    assert!(text.contains(from), "{from:?} is not in {text}");
    resign(&text.replacen(from, to, 1), seed, &parts)
}

#[test]
fn checkpoints() {
    let good = samples::checkpoint();
    read::<Checkpoint>(&sign(&good, KEEPER)).unwrap();
    let edited = |from: &str, to: &str| changed(&good, KEEPER, from, to);
    let by = |by| sign(&Checkpoint { by, ..samples::checkpoint() }, KEEPER);
    let elsewhere = Certificate { zone: Zone::new("ward-4").unwrap(), ..certificate(Role::Keeper) };
    let over = Certificate { expires: Some(time("2026-11-23T21:10:27Z")), ..certificate(Role::Keeper) };
    let commit = format!("commit: {}\n", good.commit);
    let f = forgery::<Checkpoint>;
    refuse(vec![
        f("of nothing", edited("upto: 9", "upto: 1"), Corrupt, "speaks of nothing"),
        f("of number 0", edited("upto: 9", "upto: 0"), Corrupt, "speaks of nothing"),
        f("number with a zero before it", edited("upto: 9", "upto: 09"), Corrupt, "not a number"),
        f("without its commit", edited(&commit, ""), Corrupt, "expected \"commit\""),
        f("of no certain commit", edited(&commit, "commit: -\n"), Corrupt, "hexadecimal"),
        f("of no certain gc", edited("previous: ", "previous: -"), Corrupt, "hexadecimal"),
        f("with another field", edited("upto: 9", "upto: 9\nfrom: 4"), Corrupt, "expected \"previous\""),
        f("of another zone", edited("zone: ward-3", "zone: ward-4"), Forged, "may not sign"),
        f("keeper of another zone", by(signed_by(&elsewhere, ADMIN)), Forged, "may not sign"),
        f("keeper whose certificate ended", by(signed_by(&over, ADMIN)), Forged, "may not sign"),
        f("keeper of nobody", by(signed_by(&certificate(Role::Keeper), STRANGER)), Forged, "another key"),
        f("admin in name", by(admin()), Forged, "another key"),
        f("of a later version", edited("checkpoint-v1", "checkpoint-v2"), Unsupported, "v2"),
        f("that needs more", edited("critical: -", "critical: folds"), Unsupported, "folds"),
    ]);
}

#[test]
fn approvals() {
    let entry_of = |kind, by| entry(kind, by);
    let approve = entry_of(Kind::Approve(approval()), keeper());
    let quorum = entry_of(Kind::Quorum(quorum()), admin());
    let line = format!("entry: {}\n", session(5));
    let lower = format!("entry: {}\n", session(3));
    let approved = |from: &str, to: &str| changed(&approve, KEEPER, from, to);
    let needed =
        |to: &str| changed(&quorum, ADMIN, "approvals-needed: 1", &format!("approvals-needed: {to}"));
    let f = forgery::<Entry>;
    refuse(vec![
        f("approves nothing", approved(&line, ""), Corrupt, "names no entry"),
        f("approves twice", approved(&line, &line.repeat(2)), Corrupt, "not ascending"),
        f("approves in no order", approved(&line, &format!("{line}{lower}")), Corrupt, "not ascending"),
        f("approves a bare number", approved(&line, "entry: 5\n"), Corrupt, "session id"),
        f("approves for no reason", approved("reason: agreed", "reason: "), Corrupt, "empty"),
        f("as many as never", needed("4294967296"), Corrupt, "not a number"),
        f("fewer than none", needed("-1"), Corrupt, "not a number"),
        f("as many as there are", needed("-"), Corrupt, "not a number"),
        f("more than there can be", needed("17"), Corrupt, "more than the 16"),
    ]);
}

#[test]
fn admin_keys_that_follow() {
    let good = succession();
    read::<Succession>(&sign(&good, ADMIN)).unwrap();
    let edited = |from: &str, to: &str| changed(&good, ADMIN, from, to);
    let (first, second) = ("from: ward-3 9\n", "from: ward-4 1\n");
    let keeps = "keeps: keys/certificates/keeper-1 ";
    let f = forgery::<Succession>;
    refuse(vec![
        f("the key of config", edited("number: 2", "number: 0"), Corrupt, "number 0"),
        f("no number", edited("number: 2", "number: 65536"), Corrupt, "not a number"),
        f(
            "zones in no order",
            edited(&[first, second].concat(), &[second, first].concat()),
            Corrupt,
            "ascending",
        ),
        f("a zone twice", edited(first, &first.repeat(2)), Corrupt, "ascending"),
        f("a zone from nowhere", edited(first, "from: ward-3\n"), Corrupt, "has no value"),
        f("a zone by a path", edited("from: ward-3", "from: ../ward-3"), Corrupt, "name"),
        f(
            "keeps a log entry",
            edited(keeps, "keeps: zones/ward-3/log/0000000000000001 "),
            Corrupt,
            "below keys/",
        ),
        f("keeps with a space", edited(keeps, "keeps: keys/certificates/keeper 1 "), Corrupt, "below keys/"),
        f(
            "keeps without a hash",
            edited(keeps, "keeps: keys/certificates/keeper-1 0"),
            Corrupt,
            "hexadecimal",
        ),
        f(
            "another repository's",
            sign(&Succession { previous: Hash([1; 32]), ..good.clone() }, STRANGER),
            Forged,
            "another key",
        ),
        f("a later version", edited("admin-v1", "admin-v2"), Unsupported, "v2"),
    ]);
}
