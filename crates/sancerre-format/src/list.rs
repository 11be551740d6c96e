//! Pack lists: what a session has uploaded, signed (FORMAT.md §6).

use crate::certificate::{Role, Signer};
use crate::error::{Result, corrupt, ensure};
use crate::id::{Hash, RepositoryId, SessionId};
use crate::names::Zone;
use crate::pack::PackKind;
use crate::record::{Fields, SignedBy, read_zone, signer_fits, write_zone};
use crate::text::{TextReader, TextWriter, number};

/// One pack as its session vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedPack {
    /// Its ordinal in the session.
    pub ordinal: u32,
    /// What its frames hold.
    pub kind: PackKind,
    /// Size of the object.
    pub size_bytes: u64,
    /// BLAKE3 of the object: the end of its key.
    pub hash: Hash,
    /// SHA-256 of the object: what stores and other tools know it by.
    pub sha256: Hash,
    /// BLAKE3 of all that follows its frames: table, directory and trailer.
    pub tail: Hash,
    /// Frames in it.
    pub frames: u32,
}

impl ListedPack {
    fn parse(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let &[ordinal, word, size, hash, sha256, tail, frames, ref more @ ..] = fields.as_slice() else {
            return Err(corrupt(PackList::KIND, format!("a pack has {} fields", fields.len())));
        };
        let known = more.iter().find(|word| !word.starts_with("x-"));
        ensure(known.is_none(), PackList::KIND, || format!("unknown word {:?}", known.unwrap_or(&"")))?;
        let kind = PackKind::parse(word);
        let kind = kind.ok_or_else(|| corrupt(PackList::KIND, format!("unknown kind {word:?}")))?;
        Ok(Self {
            ordinal: number(PackList::KIND, ordinal)?,
            kind,
            size_bytes: number(PackList::KIND, size)?,
            hash: Hash::from_hex(hash)?,
            sha256: Hash::from_hex(sha256)?,
            tail: Hash::from_hex(tail)?,
            frames: number(PackList::KIND, frames)?,
        })
    }

    fn line(&self) -> String {
        let kind = self.kind.word();
        let Self { ordinal, size_bytes, hash, sha256, tail, frames, .. } = self;
        format!("{ordinal} {kind} {size_bytes} {hash} {sha256} {tail} {frames}")
    }
}

/// One of a session's pack lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackList {
    /// The repository.
    pub repository: RepositoryId,
    /// The zone.
    pub zone: Zone,
    /// The session that wrote the packs.
    pub session: SessionId,
    /// Counts the session's lists from 0.
    pub sequence: u32,
    /// Who signed: the session's signer.
    pub by: SignedBy,
    /// The packs, ordinals ascending.
    pub packs: Vec<ListedPack>,
}

impl Fields for PackList {
    const KIND: &'static str = "sancerre-list-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("session", self.session).field("sequence", self.sequence);
        self.by.write(text);
        text.repeated("pack", self.packs.iter().map(ListedPack::line));
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        let session = text.parsed("session", SessionId::parse)?;
        let sequence = text.number("sequence")?;
        let by = SignedBy::read(text)?;
        let packs = text.repeated("pack", ListedPack::parse)?;
        let ascending = packs.is_sorted_by(|a, b| a.ordinal < b.ordinal);
        ensure(ascending, Self::KIND, || "ordinals are not ascending".into())?;
        Ok(Self { repository, zone, session, sequence, by, packs })
    }

    fn allows(&self, signer: &Signer) -> bool {
        signer_fits(signer, &self.by, &self.zone, Role::STORING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_later_versions_are_skipped() {
        let hash = Hash([7; 32]);
        let pack = ListedPack {
            ordinal: 3,
            kind: PackKind::Annex,
            size_bytes: 9,
            hash,
            sha256: hash,
            tail: hash,
            frames: 1,
        };
        let line = pack.line();
        assert!(line.contains(" annex "), "{line}");
        assert_eq!(ListedPack::parse(&format!("{line} x-new=1 x-other")).unwrap(), pack);
        for other in [format!("{line} new"), line.replace("annex", "other")] {
            assert!(ListedPack::parse(&other).is_err(), "{other}");
        }
    }
}
