//! `key rotate`: another generation of a zone's keys.

use sancerre_engine::keys::{certify, newest_generation, no_zone};
use serde_json::json;

use crate::access::Access;
use crate::command::{Context, done};
use crate::exit::{Done, Failure};
use crate::interrupt::until_signal;
use crate::repository;

pub(super) async fn run(context: &Context) -> Result<Done, Failure> {
    let mut repository = repository::open(context, Access::Admin).await?;
    let zone = repository.keys.zone.clone();
    let made = until_signal(async {
        // A zone is made by its first key file; a name that was mistyped must not make one.
        let (store, trust) = (&repository.store, &repository.keys.trust);
        if newest_generation(store, trust, &zone).await?.is_none() {
            return Err(no_zone(store, trust, &zone).await.into());
        }
        Ok(certify::make_generation(&mut repository).await?)
    });
    let generation = made.await?;
    context.output.message(&format!(
        "zone {zone} has new keys (generation {generation}). What was saved before restores as ever; the first backup of \
         each machine with the new keys stores all of it again. Key files keep the keys they were made with: make new \
         ones with `sancerre key add`, and revoke the old ones with `sancerre key revoke`"
    ));
    Ok(done([("zone", json!(zone.to_string())), ("generation", json!(generation))]))
}
