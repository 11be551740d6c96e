//! Checkpoints: the log below a number, without what has no effect any more (FORMAT.md §9.4). Whoever starts at one reads
//! the records that it carries as if they came from the log, and the log from that number on.

use std::collections::BTreeMap;

use crate::bytes::to_u64;
use crate::certificate::Signer;
use crate::error::{Result, corrupt, ensure};
use crate::frames::FrameSet;
use crate::id::{Hash, PackName, RepositoryId, SessionId};
use crate::limits::{CHECKPOINT_RECORDS_BYTES_MAX, PACKS_NAMED_MAX};
use crate::log::{KEEPERS, sessions};
use crate::names::{Time, Zone};
use crate::record::{
    Cut, Fields, SignedBy, compress_public, decompress_part, decompress_public, read_zone, signer_fits,
    write_zone,
};
use crate::text::{TextReader, TextWriter, number};

const WHAT: &str = "sancerre-state-v1";
/// Size of the compressed text, before it.
const LENGTH_BYTES: usize = 4;

/// What a checkpoint is about; its public part is a [`CheckpointState`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The repository.
    pub repository: RepositoryId,
    /// The zone.
    pub zone: Zone,
    /// It speaks of all entries below this number and of their outcomes; must agree with its key.
    pub upto: u64,
    /// BLAKE3 of the log entry below `upto`, which is the signer's own gc.
    pub previous: Hash,
    /// BLAKE3 of that gc's commit, which names all records below it by one digest.
    pub commit: Hash,
    /// Who signed.
    pub by: SignedBy,
    /// When: a claim.
    pub time: Time,
}

/// What still matters of the log below a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointState {
    /// Packs of sessions below the number that may be used: whole packs only. All others are burnt, or nobody needs them.
    pub kept: FrameSet,
    /// Frames that lie elsewhere than in the pack of their name, by the pack of `kept` in which they lie.
    pub moves: BTreeMap<PackName, FrameSet>,
    /// The newest outcomes of each machine that no later session names as a parent, ascending; all are in `entries`, and in
    /// `outcomes` those that no commit gave up.
    pub heads: Vec<SessionId>,
    /// Log entries, ascending.
    pub entries: Vec<CarriedRecord>,
    /// Outcomes, ascending.
    pub outcomes: Vec<CarriedRecord>,
    /// Ignorable lines of later versions, as they are: this version makes none.
    pub extensions: Vec<String>,
}

/// A record that a checkpoint carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedRecord {
    /// The session that it announced or ended.
    pub session: SessionId,
    /// BLAKE3 of the whole object.
    pub hash: Hash,
    /// Which parts were cut off.
    pub cut: Cut,
    /// What is left.
    pub bytes: Vec<u8>,
}

impl Fields for Checkpoint {
    const KIND: &'static str = "sancerre-checkpoint-v1";

    fn write(&self, text: &mut TextWriter) {
        write_zone(text, &self.repository, &self.zone);
        text.field("upto", self.upto).field("previous", self.previous).field("commit", self.commit);
        self.by.write(text);
        text.field("time", self.time);
    }

    fn read(text: &mut TextReader<'_>) -> Result<Self> {
        let (repository, zone) = read_zone(text)?;
        let upto = text.number("upto")?;
        ensure(upto > 1, Self::KIND, || "it speaks of nothing".into())?;
        Ok(Self {
            repository,
            zone,
            upto,
            previous: text.parsed("previous", Hash::from_hex)?,
            commit: text.parsed("commit", Hash::from_hex)?,
            by: SignedBy::read(text)?,
            time: text.parsed("time", Time::parse)?,
        })
    }

    fn allows(&self, signer: &Signer) -> bool {
        signer_fits(signer, &self.by, &self.zone, KEEPERS) && signer.is_valid_at(self.time)
    }
}

impl CheckpointState {
    /// The public part.
    ///
    /// Errors: more packs or bytes than a reader accepts.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check_packs()?;
        let text = compress_public(&self.text())?;
        let records: Vec<&[u8]> = self.records().map(|record| record.bytes.as_slice()).collect();
        let records = records.concat();
        ensure(to_u64(records.len()) <= CHECKPOINT_RECORDS_BYTES_MAX, WHAT, || {
            format!("{} bytes of records are too many", records.len())
        })?;
        let records =
            zstd::bulk::compress(&records, 3).map_err(|error| corrupt(WHAT, format!("zstd: {error}")))?;
        let length = u32::try_from(text.len()).map_err(|_| corrupt(WHAT, "its text is too long"))?;
        Ok([&length.to_le_bytes()[..], &text, &records].concat())
    }

    /// Reads what [`CheckpointState::encode`] wrote into a checkpoint up to this number.
    ///
    /// Errors: also a state that names sessions at or above it.
    pub fn decode(part: &[u8], upto: u64) -> Result<Self> {
        let (length, rest) =
            part.split_first_chunk::<LENGTH_BYTES>().ok_or_else(|| corrupt(WHAT, "it has no length"))?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (text, records) =
            rest.split_at_checked(length).ok_or_else(|| corrupt(WHAT, "its text ends early"))?;
        let text = decompress_public(WHAT, text)?;
        let records = decompress_part(WHAT, records, CHECKPOINT_RECORDS_BYTES_MAX)?;
        let state = Self::read(&text, &records)?;
        state.check(upto)?;
        ensure(state.text().as_bytes() == text, WHAT, || "not in its one spelling".into())?;
        Ok(state)
    }

    fn text(&self) -> String {
        let mut text = TextWriter::new(WHAT);
        text.no_features();
        self.kept.write(&mut text, "kept");
        text.repeated("move", self.moves.iter().flat_map(move_lines));
        text.repeated("head", &self.heads);
        text.repeated(
            "entry",
            self.entries
                .iter()
                .map(|entry| format!("{} {} {}", entry.session, word(entry.cut), entry.bytes.len())),
        );
        text.repeated(
            "outcome",
            self.outcomes.iter().map(|outcome| {
                format!("{} {} {} {}", outcome.session, outcome.hash, word(outcome.cut), outcome.bytes.len())
            }),
        );
        text.extensions(&self.extensions);
        text.finish()
    }

    fn read(text: &[u8], mut records: &[u8]) -> Result<Self> {
        let mut text = TextReader::unbounded(WHAT, text)?;
        text.no_features()?;
        let kept = FrameSet::read(&mut text, "kept")?;
        let moves = read_moves(&mut text)?;
        let heads = sessions(&mut text, "head")?;
        let entries = text.repeated("entry", |line| carried(line, false, &mut records))?;
        let outcomes = text.repeated("outcome", |line| carried(line, true, &mut records))?;
        let extensions = text.extensions()?;
        text.finish()?;
        ensure(records.is_empty(), WHAT, || format!("{} bytes of records too many", records.len()))?;
        Ok(Self { kept, moves, heads, entries, outcomes, extensions })
    }

    fn records(&self) -> impl Iterator<Item = &CarriedRecord> {
        self.entries.iter().chain(&self.outcomes)
    }

    fn check_packs(&self) -> Result<()> {
        self.kept.check_packs()?;
        let packs = self.moves.values().map(FrameSet::pack_count).fold(0, u64::saturating_add);
        ensure(packs <= PACKS_NAMED_MAX, WHAT, || format!("it moves frames of {packs} packs"))
    }

    fn check(&self, upto: u64) -> Result<()> {
        let last = upto.saturating_sub(1);
        self.check_packs()?;
        ensure(self.kept.is_whole_packs(), WHAT, || "only whole packs are kept".into())?;
        for set in std::iter::once(&self.kept).chain(self.moves.values()) {
            set.check_sessions(last)?;
        }
        for (to, frames) in &self.moves {
            ensure(self.kept.contains_pack(to), WHAT, || {
                format!("frames moved to pack {to}, which is not kept")
            })?;
            ensure(frames.is_single_frames(), WHAT, || "only single frames can move".into())?;
        }
        let is_carried = |head: &SessionId| self.entries.iter().any(|entry| entry.session == *head);
        ensure(self.heads.iter().all(is_carried), WHAT, || "a head has no entry".into())?;
        for records in [&self.entries, &self.outcomes] {
            let ascend = records.is_sorted_by(|one, next| one.session.number < next.session.number);
            ensure(ascend, WHAT, || "its records do not ascend".into())?;
            ensure(records.last().is_none_or(|record| record.session.number <= last), WHAT, || {
                "it carries records that it does not speak of".into()
            })?;
        }
        Ok(())
    }
}

fn move_lines((to, frames): (&PackName, &FrameSet)) -> Vec<String> {
    frames.lines().into_iter().map(|line| format!("{} {} {line}", to.session, to.ordinal)).collect()
}

fn read_moves(text: &mut TextReader<'_>) -> Result<BTreeMap<PackName, FrameSet>> {
    let mut moves = BTreeMap::<PackName, FrameSet>::new();
    text.repeated("move", |line| {
        let mut words = line.splitn(3, ' ');
        let mut next = || words.next().ok_or_else(|| corrupt(WHAT, format!("{line:?} is not a move")));
        let to = PackName { session: number(WHAT, next()?)?, ordinal: number(WHAT, next()?)? };
        moves.entry(to).or_default().read_line(next()?)
    })?;
    Ok(moves)
}

fn word(cut: Cut) -> &'static str {
    match cut {
        Cut::Whole => "whole",
        Cut::Sealed => "sealed",
        Cut::Head => "head",
    }
}

/// Takes the bytes of the record that a line names. Of an entry the session's hash is that of the object.
fn carried(line: &str, has_hash: bool, records: &mut &[u8]) -> Result<CarriedRecord> {
    let wrong = || corrupt(WHAT, format!("{line:?} names no record"));
    let words: Vec<&str> = line.split(' ').collect();
    let (session, hash, cut, size) = match (words.as_slice(), has_hash) {
        ([session, cut, size], false) => {
            let session = SessionId::parse(session)?;
            (session, session.intent, *cut, *size)
        }
        ([session, hash, cut, size], true) => {
            (SessionId::parse(session)?, Hash::from_hex(hash)?, *cut, *size)
        }
        _ => return Err(wrong()),
    };
    let cut = match cut {
        "whole" => Cut::Whole,
        "sealed" => Cut::Sealed,
        "head" => Cut::Head,
        _ => return Err(wrong()),
    };
    let size: usize = number(WHAT, size)?;
    let (bytes, rest) =
        records.split_at_checked(size).ok_or_else(|| corrupt(WHAT, "its records end early"))?;
    *records = rest;
    Ok(CarriedRecord { session, hash, cut, bytes: bytes.to_vec() })
}
