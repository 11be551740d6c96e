//! How a command uses the store: how long it waits, how fast it goes, and what it used.

use std::time::Duration;

use clap::Args;
use sancerre_engine::host::Host;
use sancerre_engine::store::traffic::Totals;
use sancerre_engine::store::{Cancel, StoreOptions};
use serde_json::{Value, json};

use crate::command::Context;
use crate::process;
use crate::units::{count, parse_duration, parse_size, size, typed_seconds};

/// Options of every command that are about the store.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Limits {
    /// How long to wait for a store that does not answer, such as 90s, 15m or 2h
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration, default_value = retry_default())]
    pub(crate) retry_for: Duration,
    /// Send at most so many bytes a second, such as 10M
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_rate)]
    pub(crate) limit_upload: Option<u64>,
    /// Receive at most so many bytes a second
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_rate)]
    pub(crate) limit_download: Option<u64>,
}

/// As long as a store that is told nothing else.
fn retry_default() -> &'static str {
    typed_seconds(StoreOptions::default().retry_for.as_secs())
}

fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("at 0 bytes a second nothing would ever be done; leave the option out for no limit".into()),
        rate => Ok(rate),
    }
}

/// The options of a command's store.
pub(crate) fn store_options(context: &Context, cancel: &Cancel) -> StoreOptions {
    let limits = &context.global.limits;
    let output = context.output.clone();
    StoreOptions {
        retry_for: limits.retry_for,
        upload_limit: limits.limit_upload,
        download_limit: limits.limit_download,
        files: process::store_files(),
        salt: salt(&context.host),
        notice: std::sync::Arc::new(move |text| output.warning(&text)),
        cancel: cancel.clone(),
        ..StoreOptions::default()
    }
}

fn salt(host: &Host) -> u64 {
    u64::from_le_bytes(host.random())
}

/// What a command asked of the store, as a line.
pub(crate) fn line(totals: &Totals) -> String {
    format!(
        "store: {} ({} put, {} get, {} list), {} sent, {} received",
        count(totals.requests(), "request"),
        totals.put,
        totals.get,
        totals.list,
        size(totals.sent_bytes),
        size(totals.received_bytes)
    )
}

/// The same for JSON.
pub(crate) fn summary(totals: &Totals) -> Value {
    json!({
        "requests": totals.requests(),
        "put": totals.put,
        "get": totals.get,
        "list": totals.list,
        "delete": totals.delete,
        "sent_bytes": totals.sent_bytes,
        "received_bytes": totals.received_bytes,
    })
}
