//! The only bounds-checked cursor over binary input, and its counterpart for output.

use crate::error::{Result, corrupt};

/// Reads little-endian fields off the front of a slice; every read is checked.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A cursor at the start of `bytes`; `what` names the structure in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            let left = self.rest.len();
            return Err(corrupt(self.what, format!("ends early: {count} bytes wanted, {left} left")));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next two bytes as a number.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes as a number.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes as a number.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Skips `N` reserved bytes, which must be zero.
    pub fn zeros<const N: usize>(&mut self) -> Result<()> {
        if self.array::<N>()? == [0; N] {
            Ok(())
        } else {
            Err(corrupt(self.what, "a reserved field is not zero"))
        }
    }

    /// A count that announces `count` items of `item_bytes` each: refused when they cannot be there, so that a
    /// hostile count never sizes an allocation.
    pub fn count(&mut self, item_bytes: usize) -> Result<usize> {
        let count = to_usize(self.u32()?);
        if count.checked_mul(item_bytes.max(1)).is_none_or(|needed| needed > self.rest.len()) {
            let left = self.rest.len();
            return Err(corrupt(
                self.what,
                format!("announces {count} entries, but only {left} bytes follow"),
            ));
        }
        Ok(count)
    }

    /// A number in as many bytes as it needs: seven bits in each, the lowest first; the highest bit of a byte says that more
    /// follow, and no byte is there in vain.
    pub fn number(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return match byte == 0 && shift > 0 {
                    true => Err(corrupt(self.what, "a number is longer than it must be")),
                    false => Ok(value),
                };
            }
        }
        Err(corrupt(self.what, "a number is too large"))
    }

    /// How far a number went since the one before it, forwards or backwards.
    pub fn moved(&mut self, from: u64) -> Result<u64> {
        let step = self.number()?;
        Ok(from.wrapping_add((step >> 1) ^ (step & 1).wrapping_neg()))
    }

    /// Text or a name, behind its length.
    pub fn text(&mut self) -> Result<&'a [u8]> {
        let length = self.number()?;
        let length = usize::try_from(length).ok().filter(|length| *length <= self.rest.len());
        let short = || corrupt(self.what, "a text is longer than what it stands in");
        self.take(length.ok_or_else(short)?)
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Fails unless everything was read.
    pub fn finish(self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(corrupt(self.what, format!("{extra} bytes too many at the end"))),
        }
    }
}

/// Writes what [`Reader::number`] reads.
pub fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Writes what [`Reader::moved`] reads.
pub fn put_moved(bytes: &mut Vec<u8>, from: u64, to: u64) {
    let step = to.wrapping_sub(from);
    put_number(bytes, (step << 1) ^ (step >> 63).wrapping_neg());
}

/// Writes what [`Reader::text`] reads.
pub fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    put_number(bytes, to_u64(text.len()));
    bytes.extend_from_slice(text);
}

/// `u32` to `usize`: lossless on every platform this crate supports.
#[allow(clippy::as_conversions)]
pub const fn to_usize(value: u32) -> usize {
    const { assert!(usize::BITS >= 64, "sancerre needs a 64-bit platform") };
    value as usize
}

/// `usize` to `u64`: lossless on every platform this crate supports.
#[allow(clippy::as_conversions)]
pub const fn to_u64(value: usize) -> u64 {
    const { assert!(usize::BITS <= 64, "sancerre needs a 64-bit platform") };
    value as u64
}

/// A size that the format stores in 32 bits; callers bound it far below (frames, packs, pages).
pub fn to_u32(what: &'static str, value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| corrupt(what, format!("{value} does not fit 32 bits")))
}
