//! Whether the repository has a sheet for the safe.

use sancerre_engine::keys::overview::Overview;
use sancerre_engine::repository::Repository;

use crate::access;
use crate::command::Context;
use crate::command::key::SHEET;
use crate::exit::Failure;
use crate::repository;

/// Whether a sheet restores what is saved now. Asks nobody for a secret.
pub(super) async fn is_there(context: &Context) -> Result<bool, Failure> {
    let store = repository::store(context, false)?;
    let keys = access::public_keys(context, &store, access::zone(context)?).await?;
    let repository = Repository::open(store, context.host.clone(), keys).await?;
    let overview = Overview::read(&repository).await?;
    let is_one = |label: &str| label.starts_with(SHEET);
    Ok(overview.recipients.iter().any(|key| key.is_current && is_one(key.newest.label.as_str())))
}
