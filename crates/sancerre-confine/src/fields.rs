//! What stands in the packets of a confined child: little-endian numbers and texts, one after the other.
//!
//! The child is a process that foreign bytes may have taken over, so nothing here fails but by `None`.

use std::ops::Range;

/// The fields of a packet, from the first on. `None` is a packet that is cut short or says what no child says.
#[derive(Debug)]
pub struct PacketFields<'a>(&'a [u8]);

impl<'a> PacketFields<'a> {
    /// The fields in these bytes.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether there are no more.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// So many bytes.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// All that is left, as UTF-8.
    pub fn rest_as_text(&mut self) -> Option<String> {
        std::str::from_utf8(self.rest()).ok().map(str::to_owned)
    }

    /// A byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// Two bytes.
    pub fn short(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// Where something begins and ends, in any order: whoever uses it checks that.
    pub fn range(&mut self) -> Option<Range<u64>> {
        Some(self.long()?..self.long()?)
    }

    /// Bytes after their number, which takes two.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.short()?);
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// The same, as UTF-8.
    pub fn text(&mut self) -> Option<String> {
        std::str::from_utf8(self.bytes()?).ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_none() {
        let packet = [1, 2, 0, b'a', b'b', 9];
        let mut fields = PacketFields::of(&packet);
        assert_eq!((fields.flag(), fields.text(), fields.is_empty()), (Some(true), Some("ab".into()), false));
        assert_eq!((fields.short(), fields.flag(), fields.byte()), (None, None, None));
        assert_eq!(PacketFields::of(&packet[1..4]).bytes(), None);
        assert_eq!(PacketFields::of(&[0xff, 0xff]).rest_as_text(), None);
    }
}
