//! Opening frames: decrypted, decoded once, and every chunk compared with its id.

use sancerre_format::FormatError;
use sancerre_format::id::FramePlace;
use sancerre_format::node::chunk_id;

use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::restore::fetch::{Failed, Fetched};
use crate::restore::plan::{Piece, WantedFrame};

/// Opens the data frames of a range one by one and hands the raw bytes and the verified chunks in them to `each`.
///
/// Returns the frames and chunks that are not what the map says. Errors: those of `each`, and missing keys.
pub(super) fn open_all(
    fetched: &Fetched,
    mut each: impl FnMut(&[Piece], Vec<u8>) -> Result<()>,
) -> Result<Vec<Failed>> {
    let Fetched { frames, range, bytes } = fetched;
    let (mut scratch, mut failed) = (Vec::new(), Vec::new());
    for frame in &range.frames {
        let sealed = range.within(frame).and_then(|at| bytes.get(at)).unwrap_or_default();
        let raw = match frames.open_data_into(&frame.place, sealed, &mut scratch) {
            Ok(raw) => raw,
            Err(error) if error.is_damage() => {
                failed.push(Failed { frames: vec![frame.clone()], error });
                continue;
            }
            Err(error) => return Err(error),
        };
        let (good, bad) = verify(&frames.repository().keys.zone_secrets()?.keys.id, &raw, &frame.pieces);
        if !bad.is_empty() {
            failed.push(not_there(frames, frame.place, bad));
        }
        each(&good, raw)?;
    }
    Ok(failed)
}

fn not_there(frames: &Frames, place: FramePlace, pieces: Vec<Piece>) -> Failed {
    let detail = format!("{} of its chunks do not fit their ids", pieces.len());
    let error = frames.blame(&place, FormatError::Forged { what: "frame", detail });
    Failed { frames: vec![WantedFrame { place, pieces }], error }
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
    // Verified chunks lie inside the frame, so this cannot fail.
    raw.get(at).ok_or(Error::Worker)
}
