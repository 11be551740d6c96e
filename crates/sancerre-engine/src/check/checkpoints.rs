//! Checkpoints: whoever starts at one must see what one sees who reads all. A wrong one costs no data, but hides it.

use bytes::Bytes;
use sancerre_advice::Verb::RevokeKey;
use sancerre_format::checkpoint::Checkpoint;
use sancerre_format::names::{Folder, ZoneKey};
use sancerre_format::record;

use super::report::{Finding, Severity};
use crate::cache::{Read, Wanted};
use crate::error::Result;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::log::{Log, decode_checkpoint};

/// Compares every checkpoint that the store lists with the whole log.
pub(super) async fn check(repository: &Repository, log: &Log) -> Result<Vec<Finding>> {
    let listed = repository.list(Folder::Checkpoints).await?.into_iter().filter(|listed| {
        matches!(ZoneKey::parse(&repository.keys.zone, &listed.key), Ok(ZoneKey::Checkpoint(_)))
    });
    let mut findings = Vec::new();
    for listed in listed {
        let decode = |key: &str, bytes: &Bytes| {
            let checkpoint = record::decode::<Checkpoint>(&repository.keys.trust, bytes)?;
            let recent = decode_checkpoint(repository, key, bytes)
                .and_then(|(checkpoint, state)| Log::of_checkpoint(repository, &checkpoint, &state));
            Ok((checkpoint, recent))
        };
        let read = repository.read_all(vec![Wanted::listed(listed)], &Monitor::silent(), decode).await?.pop();
        let Some(Read { key, value, .. }) = read else { continue };
        let (severity, problem) = match value {
            Ok((checkpoint, _)) if log.revocation(&checkpoint.fields.by.name).is_some() => continue,
            Err(error) | Ok((_, Err(error))) => {
                (Severity::of(&error), format!("{error}; nothing is lost: the next gc writes a new one"))
            }
            Ok((checkpoint, Ok(recent))) => match recent.differs_from(log)? {
                None => continue,
                Some(why) => (
                    Severity::Damaged,
                    format!(
                        "{why}. Whoever starts at it is misled: {} signed it; find out why, and end that key with \
                         {RevokeKey}",
                        checkpoint.signer
                    ),
                ),
            },
        };
        findings.push(Finding::new(severity, key, problem));
    }
    Ok(findings)
}
