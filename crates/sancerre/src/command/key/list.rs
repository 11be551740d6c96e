//! `key list`: everything public about the keys.

use sancerre_engine::keys::LeftOut;
use sancerre_engine::keys::overview::{CertifiedKey, Overview, RestoreKey};
use sancerre_format::names::Time;
use serde_json::{Value, json};

use crate::access::Access;
use crate::command::{Context, done};
use crate::exit::{Done, Failure};
use crate::output::{Align, table};
use crate::repository;

const KEYS: [(&str, Align); 6] = [
    ("name", Align::Left),
    ("role", Align::Left),
    ("zone", Align::Left),
    ("issued (UTC)", Align::Left),
    ("expires", Align::Left),
    ("state", Align::Left),
];
const RECIPIENTS: [(&str, Align); 4] = [
    ("restores as", Align::Left),
    ("since (UTC)", Align::Left),
    ("state", Align::Left),
    ("opened by", Align::Left),
];
/// As much of a recipient as people look at: all of an X25519 or ssh-ed25519 key.
const OPENER_CHARS: usize = 80;
const ZONES: [(&str, Align); 3] =
    [("zone", Align::Left), ("since (UTC)", Align::Left), ("generation", Align::Right)];

pub(super) async fn run(context: &Context) -> Result<Done, Failure> {
    let repository = repository::open(context, Access::Public).await?;
    let overview = Overview::read(&repository).await?;
    let now = context.host.clock.now();
    for LeftOut { why, .. } in &overview.left_out {
        context.output.warning(&format!("left out: {why}"));
    }
    for lost in &overview.lost {
        context.output.warning(&lost.to_string());
    }
    let keys: Vec<_> = overview.keys.iter().map(|key| key_row(key, now)).collect();
    let recipients: Vec<_> = overview.recipients.iter().map(recipient_row).collect();
    let zones: Vec<_> = overview
        .zones
        .iter()
        .map(|zone| vec![zone.zone.to_string(), day(zone.created), zone.generation.to_string()])
        .collect();
    let anchor = repository.keys.trust.admin.fingerprint();
    let admin = repository.keys.trust.current().fingerprint();
    context.output.result(&format!(
        "{}\n{}\n{}\nepoch         {}\nadmin key     {admin}\ntrust anchor  {anchor}\n",
        table(&KEYS, &keys),
        table(&RECIPIENTS, &recipients),
        table(&ZONES, &zones),
        overview.epochs.iter().map(|identity| identity.epoch).max().unwrap_or_default(),
    ))?;
    Ok(done([
        ("repository", json!(repository.keys.trust.repository.to_string())),
        ("trust_anchor", json!(anchor)),
        ("admin_key", json!(admin)),
        ("keys", json!(overview.keys.iter().map(|key| key_json(key, now)).collect::<Vec<_>>())),
        ("recipients", json!(overview.recipients.iter().map(recipient_json).collect::<Vec<_>>())),
        ("epochs", epochs_json(&overview)),
        ("zones", zones_json(&overview)),
        ("lost_keys", json!(overview.lost.iter().map(|lost| &lost.object).collect::<Vec<_>>())),
    ]))
}

/// The day of a time.
fn day(time: Time) -> String {
    time.to_string().chars().take(10).collect()
}

/// What is to be known of a key besides its certificate.
fn state(key: &CertifiedKey, now: Time) -> String {
    let expired = key.certificate.expires.is_some_and(|expires| expires < now);
    let parts = [
        key.revoked_from.map(|from| format!("revoked from {from}")),
        key.tainted_from.map(|from| format!("tainted from {from}")),
        expired.then(|| "expired".to_owned()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "good".into() } else { parts.join(", ") }
}

fn key_row(key: &CertifiedKey, now: Time) -> Vec<String> {
    let certificate = &key.certificate;
    vec![
        certificate.name.to_string(),
        certificate.role_name.to_string(),
        certificate.zone.to_string(),
        day(certificate.issued),
        certificate.expires.map_or_else(|| "never".into(), day),
        state(key, now),
    ]
}

fn key_json(key: &CertifiedKey, now: Time) -> Value {
    let certificate = &key.certificate;
    json!({
        "name": certificate.name.to_string(),
        "role": certificate.role_name.to_string(),
        "zone": certificate.zone.to_string(),
        "key": certificate.key.to_string(),
        "issued": certificate.issued.to_string(),
        "expires": certificate.expires.map(|expires| expires.to_string()),
        "expired": certificate.expires.is_some_and(|expires| expires < now),
        "revoked_from": key.revoked_from,
        "tainted_from": key.tainted_from,
    })
}

fn recipient_row(recipient: &RestoreKey) -> Vec<String> {
    let newest = &recipient.newest;
    let state = match recipient.is_current {
        true => "restores everything".to_owned(),
        false => format!("removed: opens epochs to {}", newest.epoch),
    };
    // A hybrid one has two thousand characters.
    let opener: String = newest.opener.to_string().chars().take(OPENER_CHARS).collect();
    vec![newest.label.to_string(), day(newest.created), state, opener]
}

fn recipient_json(recipient: &RestoreKey) -> Value {
    json!({
        "label": recipient.newest.label.to_string(),
        "recipient": recipient.newest.opener.to_string(),
        "created": recipient.newest.created.to_string(),
        "epoch": recipient.newest.epoch,
        "current": recipient.is_current,
    })
}

fn epochs_json(overview: &Overview) -> Value {
    let epochs = overview.epochs.iter().map(|identity| {
        json!({ "epoch": identity.epoch, "created": identity.created.to_string(), "recipient": identity.recipient })
    });
    epochs.collect()
}

fn zones_json(overview: &Overview) -> Value {
    let zones = overview.zones.iter().map(|zone| {
        json!({ "zone": zone.zone.to_string(), "generation": zone.generation, "created": zone.created.to_string() })
    });
    zones.collect()
}
