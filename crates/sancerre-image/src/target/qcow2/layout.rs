//! What makes an image of the file: L1 table, reference counts, header.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::map::{CLUSTER_BITS, CLUSTER_BYTES, CLUSTER_LENGTH, COPIED, Map};
use crate::qcow2::codec::Codec;

/// Counts of two bytes, as QEMU has them by itself.
const REFCOUNT_ORDER: u32 = 4;
const COUNTS: u64 = CLUSTER_BYTES / 2;
const HEADER_BYTES: u32 = 112;
/// The extension that names the form of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;
const BACKING_BYTES_MAX: usize = 1023;
const COMPRESSION_FEATURE: u64 = 1 << 3;

/// The clusters that follow all others.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    l1_at: u64,
    blocks_at: u64,
    blocks: u64,
    table_at: u64,
    table_clusters: u64,
    /// Of the whole file.
    clusters: u64,
}

impl Layout {
    /// Behind `used` clusters. The counts count themselves too, so there are as many as it takes.
    fn new(used: u64, l1_entries: u64) -> Self {
        let l1_clusters = l1_entries.saturating_mul(8).div_ceil(CLUSTER_BYTES);
        let blocks_at = used.saturating_add(l1_clusters);
        let mut blocks = 1u64;
        loop {
            let table_clusters = blocks.saturating_mul(8).div_ceil(CLUSTER_BYTES);
            let table_at = blocks_at.saturating_add(blocks);
            let clusters = table_at.saturating_add(table_clusters);
            let needed = clusters.div_ceil(COUNTS);
            if needed <= blocks {
                return Self { l1_at: used, blocks_at, blocks, table_at, table_clusters, clusters };
            }
            blocks = needed;
        }
    }
}

/// Writes the tables, sets the size of the file, and returns the header.
pub(super) fn write_tables(
    file: &File,
    map: &Map,
    virtual_bytes: u64,
    codec: Option<Codec>,
    backing: Option<&Backing>,
) -> io::Result<Vec<u8>> {
    let l1_entries = u64::try_from(map.l1.len()).unwrap_or(u64::MAX);
    let layout = Layout::new(map.next, l1_entries);
    file.set_len(layout.clusters.saturating_mul(CLUSTER_BYTES))?;
    let l1 = map.l1.iter().flat_map(|table| match table {
        0 => [0; 8],
        table => (table | COPIED).to_be_bytes(),
    });
    file.write_all_at(&l1.collect::<Vec<u8>>(), layout.l1_at.saturating_mul(CLUSTER_BYTES))?;
    write_counts(file, map, &layout)?;
    Ok(header(&layout, l1_entries, virtual_bytes, codec, backing))
}

fn write_counts(file: &File, map: &Map, layout: &Layout) -> io::Result<()> {
    let mut table = Vec::new();
    for number in 0..layout.blocks {
        let first = number.saturating_mul(COUNTS);
        let mut block = Vec::with_capacity(CLUSTER_LENGTH);
        for cluster in first..first.saturating_add(COUNTS) {
            let count = if cluster < layout.clusters { map.references(cluster) } else { 0 };
            block.extend_from_slice(&count.to_be_bytes());
        }
        let at = layout.blocks_at.saturating_add(number).saturating_mul(CLUSTER_BYTES);
        file.write_all_at(&block, at)?;
        table.extend_from_slice(&at.to_be_bytes());
    }
    file.write_all_at(&table, layout.table_at.saturating_mul(CLUSTER_BYTES))
}

/// The file, of raw bytes, that an overlay stands on.
#[derive(Debug)]
pub(super) struct Backing(Vec<u8>);

impl Backing {
    /// By its path; none where that is too long for the format.
    pub(super) fn new(path: &[u8]) -> Option<Self> {
        (path.len() <= BACKING_BYTES_MAX).then(|| Self(path.to_vec()))
    }
}

fn header(
    layout: &Layout,
    l1_entries: u64,
    virtual_bytes: u64,
    codec: Option<Codec>,
    backing: Option<&Backing>,
) -> Vec<u8> {
    // Behind the header: its form, the end of the extensions, its path.
    let raw = [&BACKING_FORMAT.to_be_bytes()[..], &3u32.to_be_bytes(), b"raw\0\0\0\0\0"].concat();
    let (form, path) = backing.map_or((&[][..], &[][..]), |Backing(path)| (&raw[..], &path[..]));
    let ends_at = u64::from(HEADER_BYTES).saturating_add(crate::positional::length(form)).saturating_add(8);
    let path_at = if backing.is_some() { ends_at } else { 0 };
    let path_bytes = u32::try_from(path.len()).unwrap_or_default();
    let is_zstd = codec == Some(Codec::Zstd);
    let in_u32 = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let offset = |cluster: u64| cluster.saturating_mul(CLUSTER_BYTES).to_be_bytes();
    let fields: [&[u8]; 23] = [
        b"QFI\xfb",
        &3u32.to_be_bytes(),
        &path_at.to_be_bytes(),
        &path_bytes.to_be_bytes(),
        &CLUSTER_BITS.to_be_bytes(),
        &virtual_bytes.to_be_bytes(),
        &0u32.to_be_bytes(), // not encrypted
        &in_u32(l1_entries).to_be_bytes(),
        &offset(layout.l1_at),
        &offset(layout.table_at),
        &in_u32(layout.table_clusters).to_be_bytes(),
        &0u32.to_be_bytes(), // no snapshots
        &0u64.to_be_bytes(),
        &(if is_zstd { COMPRESSION_FEATURE } else { 0 }).to_be_bytes(),
        &0u64.to_be_bytes(), // compatible features
        &0u64.to_be_bytes(), // features that others clear
        &REFCOUNT_ORDER.to_be_bytes(),
        &HEADER_BYTES.to_be_bytes(),
        &[u8::from(is_zstd)],
        &[0; 7],
        form,
        &0u64.to_be_bytes(), // no more extensions
        path,
    ];
    fields.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_have_room_for_themselves() {
        for used in [1, 2, 32_760, 32_764, 32_765, 32_766, 32_767, 32_768, 1 << 20, 1 << 32] {
            let layout = Layout::new(used, 5);
            assert!(layout.clusters <= layout.blocks * COUNTS, "{used}: {layout:?}");
            assert!(layout.blocks * 8 <= layout.table_clusters * CLUSTER_BYTES, "{used}: {layout:?}");
            assert_eq!(layout.clusters, used + 1 + layout.blocks + layout.table_clusters);
        }
    }

    #[test]
    fn a_header_has_its_length() {
        let header = header(&Layout::new(1, 1), 1, 512, None, None);
        assert_eq!(header.len(), HEADER_BYTES as usize + 8);
    }
}
