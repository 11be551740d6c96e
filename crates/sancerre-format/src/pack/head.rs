//! The head of a pack: what it is, who wrote it, and the sealed keys of the sessions whose frames it holds.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::{UnitKind, UnitName, WHAT};
use crate::bytes::Reader;
use crate::error::{Result, corrupt, ensure, unsupported};
use crate::id::{Hash, PackName, RepositoryId, SessionId};

const MAGIC: &[u8; 8] = b"SANCPACK";
const VERSION: u16 = 1;
const SUITE: u8 = 1;
const FIXED_BYTES: usize = 80;
const SESSION_BYTES: usize = 42;
const SESSIONS_MAX: usize = 1024;
const SEALED_KEY_BYTES_MAX: usize = 4096;

/// Sizes a head can have.
pub(super) const SIZES: RangeInclusive<usize> =
    FIXED_BYTES + SESSION_BYTES..=FIXED_BYTES + SESSIONS_MAX * (SESSION_BYTES + SEALED_KEY_BYTES_MAX);

/// What a pack's frames hold. Never mixed: metadata is fetched whole and kept, data is read in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackKind {
    /// Chunks.
    Data,
    /// Nodes of maps.
    Metadata,
    /// Pieces that this version keeps, moves and verifies, and never opens.
    Annex,
}

impl PackKind {
    const fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Metadata => 2,
            Self::Annex => 3,
        }
    }

    /// Its word in pack lists.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Metadata => "meta",
            Self::Annex => "annex",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Data, Self::Metadata, Self::Annex].into_iter().find(|kind| kind.word() == word)
    }

    /// The kind of the units that are this pack's frames.
    pub const fn frame_kind(self) -> UnitKind {
        match self {
            Self::Data => UnitKind::Data,
            Self::Metadata => UnitKind::Metadata,
            Self::Annex => UnitKind::Annex,
        }
    }
}

/// A session of which the pack holds frames, and what opens them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSession {
    /// The session.
    pub session: SessionId,
    /// Its session key, an age file; empty in other packs than those of data, and for a gc, which has none.
    pub sealed_key: Vec<u8>,
}

/// The head of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackHead {
    /// What the frames hold.
    pub kind: PackKind,
    /// The repository.
    pub repository: RepositoryId,
    /// Counts the packs of the writing session from 0.
    pub ordinal: u32,
    /// The writing session first, then those of moved frames; at most 1024, each number once.
    pub sessions: Vec<SealedSession>,
}

impl PackHead {
    /// The session that wrote the pack.
    pub fn writer(&self) -> SessionId {
        let unset = SessionId { number: 0, intent: Hash([0; 32]) };
        // Both ways to a head, decode and the builder, refuse one without sessions.
        self.sessions.first().map_or(unset, |first| first.session)
    }

    /// The pack's name.
    pub fn name(&self) -> PackName {
        PackName { session: self.writer().number, ordinal: self.ordinal }
    }

    /// The unit name of the pack's table.
    pub(super) fn table_name(&self) -> UnitName {
        UnitName { kind: UnitKind::PackTable, session: self.writer(), a: self.ordinal, b: 0 }
    }

    pub(super) fn check(&self) -> Result<()> {
        ensure((1..=SESSIONS_MAX).contains(&self.sessions.len()), WHAT, || {
            format!("its head lists {} sessions", self.sessions.len())
        })?;
        let mut numbers = BTreeSet::new();
        for SealedSession { session, sealed_key } in &self.sessions {
            ensure(numbers.insert(session.number), WHAT, || {
                format!("its head lists session {} twice", session.number)
            })?;
            let size = sealed_key.len();
            ensure(size <= SEALED_KEY_BYTES_MAX, WHAT, || format!("a sealed session key has {size} bytes"))?;
            ensure(size == 0 || self.kind == PackKind::Data, WHAT, || {
                "only a pack of data holds session keys".into()
            })?;
        }
        Ok(())
    }

    /// Encodes a head that [`PackHead::check`] accepted.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        self.check()?;
        let too_many = |_| corrupt(WHAT, "its head is too large");
        let writer = self.writer();
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.kind.code(), SUITE, 0, 0, 0, 0]);
        out.extend_from_slice(&self.repository.0);
        out.extend_from_slice(&writer.number.to_le_bytes());
        out.extend_from_slice(&writer.intent.0);
        out.extend_from_slice(&self.ordinal.to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.sessions.len()).map_err(too_many)?.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        for SealedSession { session, sealed_key } in &self.sessions {
            out.extend_from_slice(&session.number.to_le_bytes());
            out.extend_from_slice(&session.intent.0);
            out.extend_from_slice(&u16::try_from(sealed_key.len()).map_err(too_many)?.to_le_bytes());
            out.extend_from_slice(sealed_key);
        }
        Ok(out)
    }

    /// Decodes a head of exactly these bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(WHAT, bytes);
        let kind = decode_format(&mut reader)?;
        let repository = RepositoryId(reader.array()?);
        let writer = decode_session(&mut reader)?;
        let ordinal = reader.u32()?;
        let count = usize::from(reader.u16()?);
        reader.zeros::<2>()?;
        ensure(count <= SESSIONS_MAX, WHAT, || format!("its head lists {count} sessions"))?;
        let sessions = (0..count).map(|_| decode_sealed(&mut reader)).collect::<Result<Vec<_>>>()?;
        reader.finish()?;
        let head = Self { kind, repository, ordinal, sessions };
        head.check()?;
        ensure(head.writer() == writer, WHAT, || {
            format!("it was written by {writer}, but lists {} first", head.writer())
        })?;
        Ok(head)
    }
}

/// Looks at how a pack begins, for who reads only frames of it.
///
/// Errors: [`FormatError::Unsupported`](crate::FormatError::Unsupported) when it needs a newer version; what is no start of
/// a pack.
pub fn refuse_newer(start: &[u8]) -> Result<()> {
    decode_format(&mut Reader::new(WHAT, start)).map(drop)
}

fn decode_format(reader: &mut Reader<'_>) -> Result<PackKind> {
    ensure(reader.take(MAGIC.len())? == MAGIC, WHAT, || "it does not start as a pack starts".into())?;
    let version = reader.u16()?;
    ensure(version != 0, WHAT, || "version 0".into())?;
    let kind = reader.u8()?;
    let suite = reader.u8()?;
    let critical = reader.u32()?;
    match (version, suite, critical) {
        (VERSION, SUITE, 0) => {}
        (VERSION, SUITE, features) => {
            return Err(unsupported(WHAT, format!("critical features {features:#010x}")));
        }
        (VERSION, suite, _) => return Err(unsupported(WHAT, format!("suite {suite}"))),
        (version, ..) => return Err(unsupported(WHAT, format!("version {version}"))),
    }
    match kind {
        1 => Ok(PackKind::Data),
        2 => Ok(PackKind::Metadata),
        3 => Ok(PackKind::Annex),
        0 => Err(corrupt(WHAT, "kind 0")),
        other => Err(unsupported(WHAT, format!("kind {other}"))),
    }
}

fn decode_session(reader: &mut Reader<'_>) -> Result<SessionId> {
    Ok(SessionId { number: reader.u64()?, intent: Hash(reader.array()?) })
}

fn decode_sealed(reader: &mut Reader<'_>) -> Result<SealedSession> {
    let session = decode_session(reader)?;
    let size = usize::from(reader.u16()?);
    Ok(SealedSession { session, sealed_key: reader.take(size)?.to_vec() })
}
