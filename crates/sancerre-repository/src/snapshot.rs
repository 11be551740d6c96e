//! A snapshot that was opened: its body, and the pack lists that its maps need.

use std::collections::BTreeSet;
use std::sync::Arc;

use sancerre_advice::Verb::{Repair, Snapshots};
use sancerre_format::FormatError;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::names::{self, Title};
use sancerre_format::outcome::{Body, Manifest, Member, MemberKind};

use crate::catalogue::{BadList, Catalogue};
use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::keys::Keys;
use crate::log::{Log, LogEntry, Moves, open_body};
use crate::monitor::{Monitor, Topic};
use crate::repository::Repository;
use crate::unlisted;

/// A snapshot, opened: what is in it, and the pack lists that its maps need.
pub struct SnapshotReader {
    manifest: Manifest,
    body: Body,
    frames: Arc<Frames>,
    bad_lists: Vec<BadList>,
}

/// Pack lists that were read for snapshots of one log. Most snapshots of a machine need most of the same lists: whoever opens
/// many of them reads and verifies each once.
#[derive(Default)]
pub struct KnownLists {
    catalogue: Catalogue,
    bad: Vec<BadList>,
    sessions: BTreeSet<u64>,
}

/// Opens what reading this snapshot needs: its body and the pack lists of the sessions whose packs it uses.
///
/// Errors: [`Error::Usage`] when the session is no snapshot; [`Error::Object`] when its manifest does not open.
pub async fn open(repository: &Repository, log: &Log, session: SessionId) -> Result<SnapshotReader> {
    open_one_of(repository, log, session, &mut KnownLists::default()).await
}

/// The same, of a snapshot among others of this log: `known` is what was read for those before.
///
/// Errors: as [`open`].
pub async fn open_one_of(
    repository: &Repository,
    log: &Log,
    session: SessionId,
    known: &mut KnownLists,
) -> Result<SnapshotReader> {
    let log = filled(repository, log, session).await?;
    let entry = log.entry(session.number).filter(|entry| entry.session == session);
    let snapshot = entry.and_then(LogEntry::snapshot);
    let snapshot = snapshot.ok_or_else(|| {
        Error::Usage(format!("there is no snapshot {}; {Snapshots} lists all", session.short()))
    })?;
    log.refuse_forgotten(&session)?;
    let body = open_body(repository, &snapshot)?;
    // All ids in it are made with the keys of its generation, whichever is written now.
    let generation = snapshot.generation().ok_or_else(|| Error::Lost { what: snapshot.key() })?;
    let keys = Keys::clone(&repository.keys).in_generation(generation)?.into();
    let repository = &Repository { keys, ..repository.clone() };
    let manifest = snapshot.manifest.fields.clone();
    let uses = snapshot.uses()?;
    let packs = Moves::claimed(&log).packs(&uses);
    let (catalogue, bad_lists) = catalogue(repository, &log, packs, known).await?;
    let frames = Frames::new(repository, &log, &catalogue);
    frames.learn(&uses).await?;
    Ok(SnapshotReader { manifest, body, frames: Arc::new(frames), bad_lists })
}

/// The lists of these packs, and of those that no list names what they say of themselves.
async fn catalogue(
    repository: &Repository,
    log: &Log,
    packs: BTreeSet<PackName>,
    known: &mut KnownLists,
) -> Result<(Catalogue, Vec<BadList>)> {
    let sessions = packs.iter().map(|pack| pack.session);
    // A session that this log does not have may be in the log of the next snapshot: its lists are not known then.
    let is_new = |session: &u64| !known.sessions.contains(session) && log.entry(*session).is_some();
    let new: BTreeSet<u64> = sessions.filter(is_new).collect();
    let (found, bad) = Catalogue::load(repository, log, new.iter().copied()).await?;
    known.catalogue.extend(found);
    known.bad.extend(bad);
    known.sessions.extend(new);
    let (mut catalogue, bad_lists) = (known.catalogue.clone(), known.bad.clone());
    let lost: BTreeSet<PackName> = packs.into_iter().filter(|pack| catalogue.pack(*pack).is_none()).collect();
    if !lost.is_empty() {
        let present = unlisted::present(repository, &lost.iter().map(|pack| pack.session).collect()).await?;
        catalogue.add_missing(unlisted::find(repository, log, &present, &lost).await?);
    }
    Ok((catalogue, bad_lists))
}

/// The log with all that it says of this snapshot: its manifest, and the session keys of whoever sealed its frames.
async fn filled(repository: &Repository, log: &Log, session: SessionId) -> Result<Log> {
    let mut log = log.clone();
    let is_known = |log: &Log| {
        let entry = log.entry(session.number).filter(|entry| entry.session == session);
        entry.and_then(LogEntry::snapshot).is_some()
    };
    if log.start() > 1 && !is_known(&log) {
        // A checkpoint says nothing of what was given up: the whole log says by whom, and when.
        log = Log::load(repository).await?;
    }
    log.fill(repository, &BTreeSet::new(), &BTreeSet::from([session.number])).await?;
    let snapshot = log.entry(session.number).and_then(LogEntry::snapshot);
    let sealers = match snapshot {
        Some(snapshot) => snapshot.uses()?.packs().map(|pack| pack.session).collect(),
        None => BTreeSet::new(),
    };
    log.fill(repository, &sealers, &BTreeSet::new()).await?;
    Ok(log)
}

impl SnapshotReader {
    /// Its tags and disks.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// What its machine is called.
    pub fn vm(&self) -> &Title {
        self.body.vm.as_ref().unwrap_or(&self.manifest.vm)
    }

    /// Its public head.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The disk, stream or file with this name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.body.members.iter().find(|member| member.name.as_str() == name)
    }

    /// Its frames.
    pub fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }

    /// Names the manifest as the object whose map breaks a rule.
    pub fn blame(&self, source: FormatError) -> Error {
        let key = names::outcome(&self.frames.repository().keys.zone, &self.manifest.session);
        Error::Object { key, source }
    }

    /// Pack lists that were left out, and why.
    pub fn bad_lists(&self) -> &[BadList] {
        &self.bad_lists
    }

    /// Fails for a member whose bytes cannot be read, before anything is fetched.
    ///
    /// Errors: [`Error::WrongKey`]; [`FormatError::Unsupported`] for a kind of a later version.
    pub fn refuse_unreadable(&self, member: &Member) -> Result<()> {
        if !self.frames.repository().keys.can_open_content() {
            return Err(Error::WrongKey {
                what: "this key cannot open the content of backups".into(),
                advice: "use the repository's passphrase or a restore identity".into(),
            });
        }
        if let MemberKind::Other(kind) = &member.kind {
            // Its map may mean anything.
            let feature = format!("{} is a {kind}", member.name);
            return Err(self.blame(FormatError::Unsupported { what: "body", feature }));
        }
        Ok(())
    }

    /// Tells which pack lists were left out, and that packs were found without one.
    pub fn warn(&self, monitor: &Monitor) {
        self.bad_lists.iter().for_each(|bad| bad.tell(monitor));
        let found = self.frames.catalogue().unlisted().len();
        if found > 0 {
            monitor.warn(Topic::Damage, format!(
                "{found} packs are named by no pack list that can be read: they were found in the store's listing, and what is \
                 in them is proven by its ids; {Repair} writes the lists anew"
            ));
        }
    }
}
