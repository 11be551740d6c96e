//! Pack lists: what a session has uploaded, signed (FORMAT.md §6).

use std::collections::BTreeMap;

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
    /// A pack, and the words of later versions behind it, each with the space before it.
    fn parse(line: &str) -> Result<(Self, String)> {
        let fields: Vec<&str> = line.split(' ').collect();
        let &[ordinal, word, size, hash, sha256, tail, frames, ref more @ ..] = fields.as_slice() else {
            return Err(corrupt(PackList::KIND, format!("a pack has {} fields", fields.len())));
        };
        let known = more.iter().find(|word| !word.starts_with("x-"));
        ensure(known.is_none(), PackList::KIND, || format!("unknown word {:?}", known.unwrap_or(&"")))?;
        let kind = PackKind::parse(word);
        let kind = kind.ok_or_else(|| corrupt(PackList::KIND, format!("unknown kind {word:?}")))?;
        let pack = Self {
            ordinal: number(PackList::KIND, ordinal)?,
            kind,
            size_bytes: number(PackList::KIND, size)?,
            hash: Hash::from_hex(hash)?,
            sha256: Hash::from_hex(sha256)?,
            tail: Hash::from_hex(tail)?,
            frames: number(PackList::KIND, frames)?,
        };
        Ok((pack, more.iter().map(|word| format!(" {word}")).collect()))
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
    /// Words of later versions at the end of a pack's line, by its ordinal, as they are: this version makes none.
    pub words: BTreeMap<u32, String>,
}

impl Fields for PackList {
    const KIND: &'static str = "sancerre-list-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("session", self.session).field("sequence", self.sequence);
        self.by.write(text);
        let words = |pack: &ListedPack| self.words.get(&pack.ordinal).map_or("", String::as_str);
        text.repeated("pack", self.packs.iter().map(|pack| format!("{}{}", pack.line(), words(pack))));
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        let session = text.parsed("session", SessionId::parse)?;
        let sequence = text.number("sequence")?;
        let by = SignedBy::read(text)?;
        let lines = text.repeated("pack", ListedPack::parse)?;
        let ascending = lines.is_sorted_by(|(a, _), (b, _)| a.ordinal < b.ordinal);
        ensure(ascending, Self::KIND, || "ordinals are not ascending".into())?;
        let packs = lines.iter().map(|(pack, _)| *pack).collect();
        let words = lines.into_iter().filter(|(_, words)| !words.is_empty());
        let words = words.map(|(pack, words)| (pack.ordinal, words)).collect();
        Ok(Self { repository, zone, session, sequence, by, packs, words })
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
        let more = " x-new=1 x-other".to_owned();
        assert_eq!(ListedPack::parse(&format!("{line}{more}")).unwrap(), (pack, more));
        for other in [format!("{line} new"), line.replace("annex", "other")] {
            assert!(ListedPack::parse(&other).is_err(), "{other}");
        }
    }
}
