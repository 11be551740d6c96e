//! A type for each identifier of FORMAT.md §1.1, so that one cannot stand where another belongs.

use std::fmt;

use crate::error::{Result, corrupt};

/// Decodes lower-case hexadecimal of exactly `N` bytes.
pub fn from_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let digits = text.as_bytes();
    if digits.len() != N.saturating_mul(2) {
        return Err(corrupt(what, format!("{text:?} is not {N} bytes of hexadecimal")));
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: &u8| match digit {
            b'0'..=b'9' => Some(digit.wrapping_sub(b'0')),
            b'a'..=b'f' => Some(digit.wrapping_sub(b'a').wrapping_add(10)),
            _ => None,
        };
        let (Some(high), Some(low)) = (pair.first().and_then(value), pair.last().and_then(value)) else {
            return Err(corrupt(what, format!("{text:?} is not lower-case hexadecimal")));
        };
        *byte = (high << 4) | low;
    }
    Ok(bytes)
}

/// Lower-case hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Parses lower-case hexadecimal.
            pub fn from_hex(text: &str) -> Result<Self> {
                from_hex($what, text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), to_hex(&self.0))
            }
        }
    };
}

byte_id!(
    /// A repository: random, made by `init`.
    RepositoryId, 16, "repository id"
);
byte_id!(
    /// BLAKE3 of public bytes: of an object, a sealed frame, a directory.
    Hash, 32, "hash"
);
byte_id!(
    /// A chunk's or a node's identity: keyed BLAKE3 of its plaintext, so it can be compared only inside its zone.
    ContentId, 32, "content id"
);

impl Hash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// Digits of an id that people see.
const SHORT_DIGITS: usize = 8;

/// A session: its number in the zone's log and the hash of its log entry. The number alone never authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// Place in the log, from 1.
    pub number: u64,
    /// BLAKE3 of the log entry's bytes; also the snapshot's id.
    pub intent: Hash,
}

impl SessionId {
    /// Parses `<16 hex>-<64 hex>`.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = text.split_once('-').and_then(|(number, intent)| {
            let number = u64::from_be_bytes(from_hex("session number", number).ok()?);
            Some(Self { number, intent: Hash::from_hex(intent).ok()? })
        });
        parsed.ok_or_else(|| corrupt("session id", format!("{text:?} is not <number>-<hash>")))
    }

    /// The beginning of a snapshot's id, as messages show it and people type it: 8 hex digits.
    pub fn short(&self) -> String {
        self.intent.to_string().chars().take(SHORT_DIGITS).collect()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.number, self.intent)
    }
}

/// A pack: the session that wrote it and its ordinal there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// Number of the writing session.
    pub session: u64,
    /// Counts the packs of the session from 0.
    pub ordinal: u32,
}

/// A frame's lasting name: where it was first stored. Repacking moves a frame but not its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameName {
    /// The pack it was first stored in.
    pub pack: PackName,
    /// Its position there, from 0.
    pub index: u32,
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.session, self.ordinal)
    }
}

impl fmt::Display for FrameName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pack, self.index)
    }
}

/// Where a sealed frame lies, as far as its writer knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FramePlace {
    /// Its lasting name.
    pub frame: FrameName,
    /// Where it starts in the pack.
    pub offset_bytes: u32,
    /// Size of the sealed frame.
    pub sealed_bytes: u32,
}

/// Where a chunk or node lies: a stretch of a frame's raw bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The frame.
    pub frame: FramePlace,
    /// Where it starts in the raw frame.
    pub offset_bytes: u32,
    /// Its size.
    pub size_bytes: u32,
}
