//! What is stored already: the index in memory, within a budget.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use sancerre_format::FormatError;
use sancerre_format::id::{ContentId, Place};
use sancerre_format::index::{SegmentFields, SegmentName, SegmentReader};
use sancerre_format::names::{self, Folder, ZoneKey};
use sancerre_format::record::{self, Record};

use crate::error::Result;
use crate::keys::ZoneSecrets;
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::catalogue::{Catalogue, Present};
use crate::repository::log::{Avoid, Log};

/// Memory per known chunk: id, place and the table's slack.
pub const BYTES_PER_ENTRY: u64 = 96;

/// Ids are keyed hashes already: their first bytes are as good as any hash of them.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length that an array's hash starts with says nothing.
    fn write_usize(&mut self, _length: usize) {}
}

/// Places by id.
pub type Places = HashMap<ContentId, Place, BuildHasherDefault<IdHasher>>;

/// Which places a session may build on (W2–W4).
pub struct Usable {
    /// What must not be reused.
    pub avoid: Avoid,
    /// Signed pack lists.
    pub catalogue: Catalogue,
    /// What the store has.
    pub present: Present,
}

impl Usable {
    /// Whether a place may be reused: not avoided, listed, and its pack present with its right size.
    pub fn allows(&self, place: &Place) -> bool {
        let frame = place.frame.frame;
        let listed = self.catalogue.pack(frame.pack);
        !self.avoid.contains(&frame) && listed.is_some_and(|pack| self.present.has(frame.pack, pack))
    }
}

/// Loads the index: newest sessions first, as many entries as fit `budget_bytes`; what does not fit is stored again.
pub async fn load(
    repository: &Repository,
    log: &Log,
    usable: &Usable,
    budget_bytes: u64,
    monitor: &Monitor,
) -> Result<Places> {
    let mut places = Places::default();
    let mut covered = BTreeSet::new();
    let secrets = repository.keys.zone_secrets()?;
    for name in segments(repository).await?.into_iter().rev() {
        if covered.contains(&name) {
            continue;
        }
        let room =
            (budget_bytes / BYTES_PER_ENTRY).saturating_sub(u64::try_from(places.len()).unwrap_or(u64::MAX));
        let key = names::index(&repository.keys.zone, name.session, name.sequence);
        let Some(bytes) = repository.store.get(&key).await? else { continue };
        let segment = match read_segment(repository, log, name, &bytes) {
            Ok(segment) => segment,
            Err(error) => {
                monitor.warn(format!(
                    "index segment {key} is ignored: {error}; `sancerre index rebuild` makes a new one"
                ));
                continue;
            }
        };
        if segment.fields.generation != secrets.generation {
            continue;
        }
        if segment.fields.entries > room {
            monitor.warn("the index does not fit into --memory; some known data will be stored again");
            break;
        }
        covered.extend(segment.fields.covers.iter().copied());
        if let Err(error) = add(secrets, &segment, usable, &mut places) {
            monitor.warn(format!(
                "index segment {key} is ignored: {error}; `sancerre index rebuild` makes a new one"
            ));
        }
    }
    Ok(places)
}

/// The names of all segments, ascending.
pub async fn segments(repository: &Repository) -> Result<BTreeSet<SegmentName>> {
    let listed = repository.store.list(&repository.folder(Folder::Index)).await?;
    let parse = |key: &str| match ZoneKey::parse(&repository.keys.zone, key) {
        Ok(ZoneKey::Index(session, sequence)) => Some(SegmentName { session, sequence }),
        _ => None,
    };
    Ok(listed.iter().filter_map(|listed| parse(&listed.key)).collect())
}

/// Verifies a segment against the log: its signer is its session's.
pub fn read_segment(
    repository: &Repository,
    log: &Log,
    name: SegmentName,
    bytes: &[u8],
) -> std::result::Result<Record<SegmentFields>, FormatError> {
    let record = record::decode::<SegmentFields>(&repository.keys.trust, bytes)?;
    let fields = &record.fields;
    let entry = log.entry(name.session).filter(|entry| entry.session == fields.session);
    let announced = entry.and_then(|entry| entry.entry.as_deref().ok());
    let fits = fields.session.number == name.session
        && fields.sequence == name.sequence
        && fields.repository == repository.keys.trust.repository
        && announced.is_some_and(|announced| announced.fields.by.name == fields.by.name);
    if fits {
        Ok(record)
    } else {
        Err(FormatError::Forged { what: "index segment", detail: "it does not belong to its session".into() })
    }
}

fn add(
    secrets: &ZoneSecrets,
    segment: &Record<SegmentFields>,
    usable: &Usable,
    places: &mut Places,
) -> std::result::Result<(), FormatError> {
    let root = secrets.metadata_root(&segment.fields.session);
    let reader = SegmentReader::open(&segment.fields, &segment.sealed, &root)?;
    for page in reader.pages(&segment.sealed) {
        for entry in page? {
            if usable.allows(&entry.place) {
                // Newest first: an older copy of the same chunk does not replace it.
                places.entry(entry.id).or_insert(entry.place);
            }
        }
    }
    Ok(())
}
