//! The signed object of a segment.

use bytes::Bytes;
use sancerre_format::id::SessionId;
use sancerre_format::index::{SealedSegment, SegmentFields, SegmentName};
use sancerre_format::record;

use crate::error::Result;
use crate::keys::SignerKey;
use crate::repository::Repository;

/// The object of a segment.
pub fn sign_segment(
    repository: &Repository,
    signer: &SignerKey,
    session: SessionId,
    sequence: u32,
    covers: Vec<SegmentName>,
    built: &SealedSegment,
) -> Result<Bytes> {
    let segment = SegmentFields {
        repository: repository.keys.trust.repository,
        zone: repository.keys.zone.clone(),
        session,
        sequence,
        by: signer.by.clone(),
        generation: repository.keys.zone_secrets()?.generation,
        covers,
        entries: built.entries,
        table_bytes: built.table_bytes,
        table_hash: built.table_hash,
    };
    Ok(record::encode(&segment, repository.host.tool, &signer.key, &[], &built.sealed)?.into())
}
