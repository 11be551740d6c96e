//! Compressed clusters. A cluster is decompressed into exactly its size, so no image takes more memory than that.

use std::cell::RefCell;
use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::bulk::Decompressor;
use zstd::zstd_safe::{find_frame_compressed_size, get_error_name};

use crate::positional::length;

/// QEMU inflates with a window of 4 KiB, and other readers may hold no more.
const WINDOW_BITS: u8 = 12;
const ZSTD_LEVEL: i32 = 3;

/// How the compressed clusters of an image are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Deflate without a header.
    Zlib,
    /// zstd.
    Zstd,
}

/// Fills `cluster` from the begin of `stored`; what follows there may belong to another cluster.
pub(crate) fn decompress(codec: Codec, stored: &[u8], cluster: &mut [u8]) -> Result<(), String> {
    match codec {
        Codec::Zlib => inflate(stored, cluster),
        Codec::Zstd => unzstd(stored, cluster),
    }
}

fn inflate(stored: &[u8], cluster: &mut [u8]) -> Result<(), String> {
    let mut state = Decompress::new(false);
    state.decompress(stored, cluster, FlushDecompress::Finish).map_err(|error| error.to_string())?;
    whole(state.total_out(), cluster)
}

fn unzstd(stored: &[u8], cluster: &mut [u8]) -> Result<(), String> {
    // A state is larger than most clusters, and made anew it would cost more than its use.
    thread_local!(static STATE: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) });
    STATE.with_borrow_mut(|kept| {
        let state = match kept {
            Some(state) => state,
            None => kept.insert(Decompressor::new().map_err(|error| error.to_string())?),
        };
        frames(state, stored, cluster)
    })
}

/// One frame or several. Each goes straight into its place: a frame's window, which it may claim to be huge, is never
/// allocated.
fn frames(state: &mut Decompressor<'_>, mut stored: &[u8], cluster: &mut [u8]) -> Result<(), String> {
    let mut filled = 0usize;
    while let Some(rest) = cluster.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let bytes = find_frame_compressed_size(stored).map_err(|code| get_error_name(code).to_owned())?;
        let (frame, behind) = stored.split_at_checked(bytes).ok_or("a frame is cut short")?;
        let added = state.decompress_to_buffer(frame, rest).map_err(|error| error.to_string())?;
        if added == 0 && frame.is_empty() {
            return Err("a frame without bytes".to_owned());
        }
        filled = filled.saturating_add(added);
        stored = behind;
    }
    whole(u64::try_from(filled).unwrap_or(u64::MAX), cluster)
}

fn whole(filled_bytes: u64, cluster: &[u8]) -> Result<(), String> {
    let cluster_bytes = length(cluster);
    match filled_bytes == cluster_bytes {
        true => Ok(()),
        false => Err(format!("{filled_bytes} of {cluster_bytes} bytes")),
    }
}

/// The compressed cluster; none when that would not be smaller.
pub(crate) fn compress(codec: Codec, cluster: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut room = vec![0; cluster.len().saturating_sub(1)];
    let used = match codec {
        Codec::Zlib => deflate(cluster, &mut room)?,
        Codec::Zstd => zstd::bulk::compress_to_buffer(cluster, &mut room, ZSTD_LEVEL).ok(),
    };
    Ok(used.map(|used| {
        room.truncate(used);
        room
    }))
}

fn deflate(cluster: &[u8], room: &mut [u8]) -> io::Result<Option<usize>> {
    let mut state = Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS);
    let status = state.compress(cluster, room, FlushCompress::Finish).map_err(io::Error::other)?;
    Ok((status == Status::StreamEnd).then(|| super::bytes::to_usize(state.total_out())))
}

#[cfg(test)]
mod tests;
