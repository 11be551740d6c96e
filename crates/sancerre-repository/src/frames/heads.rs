//! Sessions whose log entry does not say what opens their frames, for it is lost: the heads of their packs say it too.
//!
//! A key from a head is somebody's word. It is taken when a frame of that session opens with it, and what is in frames their
//! ids prove as ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use sancerre_format::frames::FrameSet;
use sancerre_format::id::{PackName, SessionId};
use sancerre_format::pack::{DirectoryEntry, PackKind};
use sancerre_format::seal::{self, RootKey, UnitKind, UnitName};

use super::{Frames, sealed};
use crate::error::{Error, Result};
use crate::log::LogEntry;
use crate::pack_ends::{PackEnds, PackRef};

/// Packs of a session that are asked before it is given up.
const PACKS_ASKED: usize = 8;

/// A session as the head of a pack has it.
pub(super) struct Told {
    session: SessionId,
    /// Opens its data, if the keys at hand do.
    content: Option<RootKey>,
}

impl Frames {
    /// Learns from heads of packs what the log does not say of the sessions that sealed these frames.
    ///
    /// Errors: the store's, when it does not work as such. What nothing says is missed when a frame is opened.
    pub async fn learn(&self, frames: &FrameSet) -> Result<()> {
        let view = self.view();
        let mut packs: BTreeMap<u64, BTreeSet<PackName>> = BTreeMap::new();
        for (named, members) in frames.iter() {
            if self.is_told(named.session) {
                continue;
            }
            let mut one = FrameSet::default();
            one.insert_members(named, members);
            packs.entry(named.session).or_default().extend(view.moves.packs(&one));
        }
        for (session, packs) in packs {
            for pack in packs.into_iter().take(PACKS_ASKED) {
                match self.ask(session, pack).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Whether the log says what opens the frames of a session, or a head did.
    fn is_told(&self, session: u64) -> bool {
        let log = self.log();
        let entry = log.entry(session).and_then(LogEntry::announced);
        entry.is_some_and(|entry| entry.sealed().is_ok())
            || self.told.read().unwrap_or_else(PoisonError::into_inner).contains_key(&session)
    }

    /// Asks a pack; whether all is known then.
    async fn ask(&self, session: u64, pack: PackName) -> Result<bool> {
        let view = self.view();
        let Some(source) = PackRef::find(&view.catalogue, pack) else { return Ok(false) };
        let key = source.key(&self.repository);
        let ends = PackEnds::fetch(&self.repository, source).await?;
        let tail = ends.decode().map_err(Error::object(&key))?;
        let known =
            view.log.entry(session).filter(|entry| entry.announced().is_some()).map(|entry| entry.session);
        let of_session = |entry: &&DirectoryEntry| entry.frame.pack.session == session;
        let Some(entry) = tail.directory().iter().find(of_session) else { return Ok(false) };
        let sealer = tail.head().sessions.get(usize::from(entry.session_index));
        let Some(sealer) = sealer.filter(|sealer| known.is_none_or(|known| known == sealer.session)) else {
            return Ok(false);
        };
        if tail.head().kind != PackKind::Data {
            self.note(sealer.session, None);
            return Ok(false);
        }
        if !self.repository.keys.can_open_content() {
            self.note(sealer.session, None);
            return Ok(true);
        }
        let root = self.repository.keys.content_root_of(&sealer.sealed_key, &key)?;
        let bytes = self.repository.store.need_range(&key, sealed(&entry.place())).await?;
        let frame = entry.frame;
        let name =
            UnitName { kind: UnitKind::Data, session: sealer.session, a: frame.pack.ordinal, b: frame.index };
        seal::open(&root, &name, &bytes).map_err(Error::object(&key))?;
        self.note(sealer.session, Some(root));
        Ok(true)
    }

    fn note(&self, session: SessionId, content: Option<RootKey>) {
        let mut told = self.told.write().unwrap_or_else(PoisonError::into_inner);
        let entry = told.entry(session.number).or_insert(Told { session, content: None });
        if content.is_some() {
            *entry = Told { session, content };
        }
    }

    /// The session of this number, as a head has it.
    pub(super) fn session_told(&self, number: u64) -> Option<SessionId> {
        self.told.read().unwrap_or_else(PoisonError::into_inner).get(&number).map(|told| told.session)
    }

    /// What opens its data, by a head.
    pub(super) fn content_told(&self, number: u64) -> Option<RootKey> {
        self.told
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&number)
            .and_then(|told| told.content.clone())
    }
}
