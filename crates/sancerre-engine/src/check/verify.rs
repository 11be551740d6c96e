//! One whole pack against the signed list that names it: bytes, structure, frames, and what is in them.

use std::fmt::Write;

use sancerre_format::FormatError;
use sancerre_format::id::{FrameName, Hash, PackName, RepositoryId, SessionId};
use sancerre_format::list::ListedPack;
use sancerre_format::node::{Node, NodeKey, NodeLimits, chunk_id};
use sancerre_format::pack::{DirectoryEntry, FrameChunk, Pack, PackKind};

use crate::frames::Frames;

/// What a pack must be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) repository: RepositoryId,
    pub(crate) session: SessionId,
    pub(crate) name: PackName,
    pub(crate) listed: ListedPack,
    /// Open data frames too, not only metadata.
    pub(crate) open_content: bool,
    /// The generation of the zone's keys that the pack was made with, if these are at hand.
    pub(crate) generation: Option<u16>,
}

/// How much of a pack is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lost {
    /// None of its frames.
    Nothing,
    /// These frames.
    Frames(Vec<FrameName>),
    /// Nothing in it can be relied on.
    Whole,
}

/// What reading a pack showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What is wrong with it; none when it is intact.
    pub(crate) problem: Option<String>,
    pub(crate) lost: Lost,
    /// Whether its table was opened.
    pub(crate) has_table: bool,
    /// Whether nothing is wrong with what is lost, but that it needs a newer version of the program.
    pub(crate) newer: bool,
}

impl Verdict {
    fn whole(problem: impl Into<String>) -> Self {
        Self { problem: Some(problem.into()), lost: Lost::Whole, has_table: false, newer: false }
    }
}

/// Verifies the bytes of a pack. Takes processor time: to be run on the pool.
pub(crate) fn verify(bytes: &[u8], expected: &Expected, frames: &Frames) -> Verdict {
    let same = Hash::of(bytes) == expected.listed.hash;
    let pack = match Pack::decode(bytes) {
        Ok(pack) => pack,
        // Only the bytes that the list names may claim that: others are damaged, whatever they say.
        Err(error) => {
            return Verdict { newer: same && is_newer(&error), ..Verdict::whole(error.to_string()) };
        }
    };
    if let Err(problem) = check_identity(&pack, expected) {
        return Verdict::whole(problem);
    }
    let keys = &frames.repository().keys;
    let root = expected.generation.and_then(|made| keys.metadata_root_in(&expected.session, Some(made)).ok());
    let table = root.map(|root| pack.open_table(&root)).transpose();
    let mut bad = Vec::new();
    for (position, entry) in pack.directory().iter().enumerate() {
        let pieces = table.as_ref().ok().and_then(Option::as_ref).and_then(|table| table.get(position));
        if let Err(error) = verify_frame(&pack, position, entry, pieces, expected, frames) {
            bad.push((entry.frame, error));
        }
    }
    let has_table = matches!(table, Ok(Some(_)));
    let newer = same && !bad.is_empty() && bad.iter().all(|(_, error)| is_newer(error));
    let (problem, lost) = conclude(same, table.err(), bad);
    Verdict { problem, lost, has_table, newer }
}

fn is_newer(error: &FormatError) -> bool {
    matches!(error, FormatError::Unsupported { .. })
}

fn conclude(
    same: bool,
    table: Option<FormatError>,
    bad: Vec<(FrameName, FormatError)>,
) -> (Option<String>, Lost) {
    if !bad.is_empty() {
        let problem = tell(&bad);
        return (Some(problem), Lost::Frames(bad.into_iter().map(|(frame, _)| frame).collect()));
    }
    let problem = match (same, table) {
        (true, None) => None,
        (_, Some(error)) => Some(format!("its table cannot be read, its frames are intact: {error}")),
        (false, None) => Some("its bytes do not fit the hash in its key, its frames are intact".into()),
    };
    (problem, Lost::Nothing)
}

fn tell(bad: &[(FrameName, FormatError)]) -> String {
    const TOLD: usize = 8;
    let mut text = format!("{} of its frames unusable:", if bad.len() == 1 { "one" } else { "several" });
    for (frame, _) in bad.iter().take(TOLD) {
        let _ = write!(text, " {frame}");
    }
    if bad.len() > TOLD {
        let _ = write!(text, " and {} more", bad.len().saturating_sub(TOLD));
    }
    if let Some((_, error)) = bad.first() {
        let _ = write!(text, " ({error})");
    }
    text
}

/// The signed list vouches for the tail, the directory in it for every frame, and the trailer for the head.
fn check_identity(pack: &Pack<'_>, expected: &Expected) -> Result<(), String> {
    let head = pack.head();
    let rules = [
        (pack.tail().hash() == expected.listed.tail, "its table, directory or head is not the listed one"),
        (head.name() == expected.name && head.writer() == expected.session, "it is another pack"),
        (head.repository == expected.repository, "it is of another repository"),
        (head.kind == expected.listed.kind, "it holds another kind of frames than listed"),
        (
            u32::try_from(pack.directory().len()).ok() == Some(expected.listed.frames),
            "its number of frames is not the listed one",
        ),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        Some((_, problem)) => Err(problem.to_owned()),
        None => Ok(()),
    }
}

fn verify_frame(
    pack: &Pack<'_>,
    position: usize,
    entry: &DirectoryEntry,
    pieces: Option<&Vec<FrameChunk>>,
    expected: &Expected,
    frames: &Frames,
) -> Result<(), FormatError> {
    let sealed = pack.frame(position)?;
    if Hash::of(sealed) != entry.hash {
        return Err(forged("it does not fit its hash in the directory"));
    }
    let raw = match expected.listed.kind {
        PackKind::Metadata if expected.generation.is_some() => frames.open_metadata(&entry.place(), sealed),
        PackKind::Data if expected.open_content => frames.open_data(&entry.place(), sealed),
        _ => return Ok(()),
    };
    let raw = match raw {
        Ok(raw) => raw,
        // Sealed to an identity epoch that the keys at hand do not open.
        Err(crate::Error::WrongKey { .. }) => return Ok(()),
        Err(crate::Error::Object { source, .. }) => return Err(source),
        Err(other) => return Err(forged(&other.to_string())),
    };
    pieces.map_or(Ok(()), |pieces| verify_pieces(&raw, pieces, expected, frames))
}

/// Recomputes the id of everything in a frame.
fn verify_pieces(
    raw: &[u8],
    pieces: &[FrameChunk],
    expected: &Expected,
    frames: &Frames,
) -> Result<(), FormatError> {
    let repository = frames.repository();
    let made = expected.generation.ok_or_else(|| forged("its generation is not known"))?;
    let id_key = &repository.keys.zone_keys(made).map_err(|error| forged(&error.to_string()))?.id;
    let node_key = NodeKey::derive(id_key);
    let limits = NodeLimits { leaf_bytes: repository.layout.leaf_bytes };
    let mut rest = raw;
    for (id, size_bytes) in pieces {
        let size = sancerre_format::bytes::to_usize(*size_bytes);
        let (piece, after) =
            rest.split_at_checked(size).ok_or_else(|| forged("it is shorter than its table says"))?;
        let found = if expected.listed.kind == PackKind::Metadata {
            Node::decode(piece, &limits)?.id(&node_key)?
        } else {
            chunk_id(id_key, piece)
        };
        if found != *id {
            return Err(forged("its content does not fit the ids in the pack's table"));
        }
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(forged("it is longer than its table says")) }
}

fn forged(detail: &str) -> FormatError {
    FormatError::Forged { what: "frame", detail: detail.to_owned() }
}
