//! The bytes of a stream.

use std::ops::Range;

use super::Ntfs;
use super::attribute::{Attribute, Body, DataRun, size_bytes};
use super::lznt1;
use crate::bytes::{slice, to_u64, to_usize};
use crate::fault::{Fault, Result};
use crate::fs::{Piece, PiecePlace, RUNS_MAX, push};

/// Clusters of a stream at a place, by their numbers in the stream.
struct Stretch {
    clusters: Range<u64>,
    at: Option<u64>,
}

fn stretches(parts: &[Attribute]) -> impl Iterator<Item = Stretch> + '_ {
    parts.iter().flat_map(|part| {
        let (mut number, places): (u64, &[DataRun]) = match &part.body {
            Body::Elsewhere { first_cluster, places, .. } => (*first_cluster, places),
            Body::Here(_) => (0, &[]),
        };
        places.iter().map(move |place| {
            let start = number;
            number = number.saturating_add(place.clusters);
            Stretch { clusters: start..number, at: place.at }
        })
    })
}

/// Where the bytes of a range are.
pub(super) fn pieces(ntfs: &Ntfs, parts: &[Attribute], range: Range<u64>) -> Result<Vec<Piece>> {
    let length_bytes = range.end.saturating_sub(range.start);
    let first = parts.first().ok_or(Fault::Missing)?;
    refuse_encrypted(first)?;
    let initialized = match &first.body {
        Body::Elsewhere { initialized_bytes, unit_clusters, .. }
            if !first.is_compressed || *unit_clusters == 1 =>
        {
            *initialized_bytes
        }
        _ => return Ok(vec![Piece { length_bytes, place: PiecePlace::Held }]),
    };
    let mut pieces = Vec::new();
    let mut at = range.start;
    let data_end = range.end.min(initialized);
    for stretch in stretches(parts) {
        if at >= data_end || pieces.len() > RUNS_MAX {
            break;
        }
        let scale = |clusters: u64| clusters.saturating_mul(ntfs.cluster_bytes);
        let (start, end) = (scale(stretch.clusters.start), scale(stretch.clusters.end));
        if end <= at {
            continue;
        }
        push(&mut pieces, start.min(data_end).saturating_sub(at), PiecePlace::Hole);
        at = at.max(start.min(data_end));
        let length = end.min(data_end).saturating_sub(at);
        let place = match stretch.at {
            None => PiecePlace::Hole,
            Some(cluster) => {
                let base = cluster.checked_mul(ntfs.cluster_bytes);
                let base = base.ok_or(Fault::Corrupt("a place behind the end of the volume"))?;
                PiecePlace::Volume(base.saturating_add(at.saturating_sub(start)))
            }
        };
        push(&mut pieces, length, place);
        at = at.saturating_add(length);
    }
    if pieces.len() <= RUNS_MAX {
        push(&mut pieces, range.end.saturating_sub(at), PiecePlace::Hole);
    }
    pieces.truncate(RUNS_MAX);
    Ok(pieces)
}

/// Fills `buffer` with bytes from inside of a stream.
pub(super) fn read(ntfs: &Ntfs, parts: &[Attribute], offset: u64, buffer: &mut [u8]) -> Result<()> {
    let first = parts.first().ok_or(Fault::Missing)?;
    refuse_encrypted(first)?;
    let end = offset.checked_add(to_u64(buffer.len())).filter(|end| *end <= size_bytes(parts));
    let end = end.ok_or(Fault::Corrupt("a place behind the end of a file"))?;
    match &first.body {
        Body::Here(bytes) => {
            buffer.copy_from_slice(slice(bytes, to_usize(offset), buffer.len())?);
            Ok(())
        }
        Body::Elsewhere { unit_clusters, .. } if first.is_compressed && *unit_clusters > 1 => {
            unpack(ntfs, parts, *unit_clusters, offset, buffer)
        }
        Body::Elsewhere { .. } => {
            let (mut at, mut rest) = (offset, buffer);
            while at < end {
                for piece in pieces(ntfs, parts, at..end)? {
                    let (this, behind) = std::mem::take(&mut rest).split_at_mut(to_usize(piece.length_bytes));
                    match piece.place {
                        PiecePlace::Volume(place) => ntfs.volume.read(place, this)?,
                        _ => this.fill(0),
                    }
                    rest = behind;
                    at = at.saturating_add(piece.length_bytes);
                }
            }
            Ok(())
        }
    }
}

/// Of a compressed stream, unit by unit.
fn unpack(
    ntfs: &Ntfs,
    parts: &[Attribute],
    unit_clusters: u64,
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    let unit_bytes = unit_clusters.saturating_mul(ntfs.cluster_bytes);
    if unit_bytes > 16 << 20 {
        return Err(Fault::Corrupt("a stream compressed in units that there are not"));
    }
    let initialized = match parts.first().map(|first| &first.body) {
        Some(Body::Elsewhere { initialized_bytes, .. }) => *initialized_bytes,
        _ => 0,
    };
    let (mut at, mut rest) = (offset, buffer);
    while !rest.is_empty() {
        let number = at / unit_bytes;
        let skip = at % unit_bytes;
        let length = rest.len().min(to_usize(unit_bytes.saturating_sub(skip)));
        let (piece, behind) = std::mem::take(&mut rest).split_at_mut(length);
        match number.saturating_mul(unit_bytes) < initialized {
            false => piece.fill(0),
            true => {
                let mut bytes = unit(ntfs, parts, number, unit_clusters, unit_bytes)?;
                let written = to_usize(initialized.saturating_sub(number.saturating_mul(unit_bytes)));
                bytes.get_mut(written..).unwrap_or_default().fill(0);
                piece.copy_from_slice(slice(&bytes, to_usize(skip), length)?);
            }
        }
        rest = behind;
        at = at.saturating_add(to_u64(length));
    }
    Ok(())
}

/// A unit is all there (as it is), in part (compressed), or not at all (zeros).
fn unit(ntfs: &Ntfs, parts: &[Attribute], number: u64, clusters: u64, bytes: u64) -> Result<Vec<u8>> {
    let first = number.saturating_mul(clusters);
    let wanted = first..first.saturating_add(clusters);
    let mut stored = Vec::new();
    for stretch in stretches(parts) {
        let from = stretch.clusters.start.max(wanted.start);
        let to = stretch.clusters.end.min(wanted.end);
        if from >= to {
            continue;
        }
        let Some(at) = stretch.at else { continue };
        let place = at.saturating_add(from.saturating_sub(stretch.clusters.start));
        let place = place.checked_mul(ntfs.cluster_bytes).ok_or(Fault::Corrupt("a place behind the end"))?;
        let length = to.saturating_sub(from).saturating_mul(ntfs.cluster_bytes);
        stored.extend(ntfs.volume.bytes(place, to_usize(length))?);
    }
    let whole = to_usize(bytes);
    if stored.len() >= whole {
        stored.truncate(whole);
        return Ok(stored);
    }
    let mut unpacked = if stored.is_empty() { Vec::new() } else { lznt1::unpack(&stored, whole)? };
    unpacked.resize(whole, 0);
    Ok(unpacked)
}

fn refuse_encrypted(first: &Attribute) -> Result<()> {
    match first.is_encrypted {
        false => Ok(()),
        true => Err(Fault::Unsupported("it is encrypted by the guest (EFS)".to_owned())),
    }
}
