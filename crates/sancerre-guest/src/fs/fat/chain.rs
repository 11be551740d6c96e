//! The clusters of a file, by the table or because they follow each other.

use std::ops::Range;

use super::Found;
use super::boot::{Geometry, Variant};
use crate::bytes::{le16, le32, to_u64};
use crate::fault::{Fault, Result};
use crate::volume::Volume;

/// Clusters as stretches that follow each other.
pub(super) struct Chain(Vec<Range<u32>>);

impl Chain {
    /// Where they are.
    pub(super) fn places(&self, geometry: &Geometry) -> Vec<Range<u64>> {
        let place = |clusters: &Range<u32>| {
            let start = geometry.place(clusters.start)?;
            let count = u64::from(clusters.end.saturating_sub(clusters.start));
            Some(start..start.saturating_add(count.saturating_mul(geometry.cluster_bytes)))
        };
        self.0.iter().filter_map(place).collect()
    }
}

/// The clusters of at most so many bytes.
pub(super) fn follow(volume: &Volume, geometry: &Geometry, found: &Found, most_bytes: u64) -> Result<Chain> {
    let most = most_bytes.div_ceil(geometry.cluster_bytes.max(1)).min(u64::from(geometry.clusters));
    let Ok(most) = u32::try_from(most) else { return Err(Fault::Corrupt("a file with too many clusters")) };
    if most == 0 || found.first_cluster == 0 {
        return Ok(Chain(Vec::new()));
    }
    let last = geometry.clusters.saturating_add(1);
    if found.is_contiguous {
        let end = found.first_cluster.saturating_add(most);
        let is_inside = found.first_cluster >= 2 && end.saturating_sub(1) <= last;
        return match is_inside {
            true => Ok(Chain(vec![Range { start: found.first_cluster, end }])),
            false => Err(Fault::Corrupt("a file whose clusters are behind the end")),
        };
    }
    let mut stretches: Vec<Range<u32>> = Vec::new();
    let mut cluster = found.first_cluster;
    // A chain that leads back into itself ends here too.
    for _ in 0..most {
        if !(2..=last).contains(&cluster) {
            break;
        }
        match stretches.last_mut() {
            Some(stretch) if stretch.end == cluster => stretch.end = stretch.end.saturating_add(1),
            _ => stretches.push(Range { start: cluster, end: cluster.saturating_add(1) }),
        }
        cluster = next(volume, geometry, cluster)?;
    }
    Ok(Chain(stretches))
}

/// The cluster after this one; one that there is not at the end.
fn next(volume: &Volume, geometry: &Geometry, cluster: u32) -> Result<u32> {
    let number = u64::from(cluster);
    let (offset, length) = match geometry.variant {
        Variant::Fat12 => (number.saturating_add(number / 2), 2),
        Variant::Fat16 => (number.saturating_mul(2), 2),
        Variant::Fat32 | Variant::ExFat => (number.saturating_mul(4), 4),
    };
    let at = geometry.table.start.saturating_add(offset);
    if at.saturating_add(to_u64(length)) > geometry.table.end {
        return Err(Fault::Corrupt("a cluster that is not in the table"));
    }
    let bytes = volume.bytes(at, length)?;
    Ok(match geometry.variant {
        Variant::Fat12 => {
            let pair = le16(&bytes, 0)?;
            u32::from(if number % 2 == 0 { pair & 0xfff } else { pair >> 4 })
        }
        Variant::Fat16 => u32::from(le16(&bytes, 0)?),
        Variant::Fat32 => le32(&bytes, 0)? & 0x0fff_ffff,
        Variant::ExFat => le32(&bytes, 0)?,
    })
}
