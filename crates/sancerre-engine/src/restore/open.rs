//! Opening frames: decrypted, decoded once, and every chunk compared with its id.

use sancerre_format::FormatError;
use sancerre_format::node::chunk_id;

use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::restore::fetch::{Failed, Fetched};
use crate::restore::plan::{Piece, WantedFrame};

/// Opens a data frame and hands the verified chunks in it and the raw bytes to `take`.
///
/// Returns the frame or the chunks that are not what the map says. Errors: those of `take`, and missing keys.
pub(super) fn open(
    fetched: &Fetched,
    take: impl FnOnce(&[Piece], Vec<u8>) -> Result<()>,
) -> Result<Option<Failed>> {
    let Fetched { frames, frame, sealed, .. } = fetched;
    let raw = match frames.open_data(&frame.place, sealed) {
        Ok(raw) => raw,
        Err(error) if error.is_damage() => return Ok(Some(Failed { frames: vec![frame.clone()], error })),
        Err(error) => return Err(error),
    };
    let (good, bad) = verify(&frames.repository().keys.zone_secrets()?.keys.id, &raw, &frame.pieces);
    take(&good, raw)?;
    Ok((!bad.is_empty()).then(|| not_there(frames, frame, bad)))
}

fn not_there(frames: &Frames, frame: &WantedFrame, pieces: Vec<Piece>) -> Failed {
    let detail = format!("{} of its chunks do not fit their ids", pieces.len());
    let error = frames.blame(&frame.place, FormatError::Forged { what: "frame", detail });
    Failed { frames: vec![WantedFrame { pieces, ..frame.clone() }], error }
}

/// Splits chunks into those that are there and those that are not. A chunk wanted many times is hashed once.
fn verify(id_key: &[u8; 32], raw: &[u8], pieces: &[Piece]) -> (Vec<Piece>, Vec<Piece>) {
    let same = |a: &Piece, b: &Piece| a.raw() == b.raw() && a.id == b.id;
    let (mut good, mut bad) = (Vec::with_capacity(pieces.len()), Vec::new());
    for copies in pieces.chunk_by(same) {
        let fits = copies.first().is_some_and(|piece| is_chunk(id_key, raw, piece));
        if fits { good.extend_from_slice(copies) } else { bad.extend_from_slice(copies) }
    }
    (good, bad)
}

fn is_chunk(id_key: &[u8; 32], raw: &[u8], piece: &Piece) -> bool {
    raw.get(piece.raw()).is_some_and(|chunk| chunk_id(id_key, chunk) == piece.id)
}

/// The bytes of a verified chunk or run of chunks.
pub(super) fn stretch(raw: &[u8], at: std::ops::Range<usize>) -> Result<&[u8]> {
    let outside =
        || Error::bug(format!("a verified chunk at {at:?} lies outside its frame of {} bytes", raw.len()));
    raw.get(at.clone()).ok_or_else(outside)
}
