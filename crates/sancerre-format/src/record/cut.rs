//! Records of which parts were cut off: the signed text says size and hash of each, so what is left verifies as well.

use super::{Fields, Record, Trust, Unverified, read_text};
use crate::bytes::to_u64;
use crate::error::{Result, corrupt};
use crate::id::Hash;

/// How much of a record is at hand. The signed text says size and hash of each part, so a record without parts verifies
/// as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// All of it.
    Whole,
    /// All but the public part.
    Sealed,
    /// Text and signature.
    Head,
}

/// Cuts parts off a record, of which nothing is verified but where they begin.
///
/// Errors: bytes that are no record, or whose length is not what the text announces.
pub fn cut<F: Fields>(bytes: &[u8], cut: Cut) -> Result<Vec<u8>> {
    let unverified = Unverified::split_head(F::KIND, bytes)?;
    let [public, sealed] = read_text::<F>(unverified.text)?.parts;
    let parts = usize::try_from(public.0).ok().and_then(|size| unverified.parts.split_at_checked(size));
    let (_, sealed_part) = parts
        .filter(|(_, rest)| to_u64(rest.len()) == sealed.0)
        .ok_or_else(|| corrupt(F::KIND, "it does not have the size that its text announces"))?;
    Ok(match cut {
        Cut::Whole => bytes.to_vec(),
        Cut::Sealed => [unverified.head().as_slice(), sealed_part].concat(),
        Cut::Head => unverified.head(),
    })
}

/// Verifies and decodes what [`cut`] left of a record whose whole bytes have this hash. That they do is somebody's word.
pub fn decode_cut<F: Fields>(trust: &Trust, bytes: &[u8], cut: Cut, hash: Hash) -> Result<Record<F>> {
    Unverified::split_head(F::KIND, bytes)?.verify_cut(trust, cut, hash)
}
