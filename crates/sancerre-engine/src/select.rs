//! The names of snapshots that people type, and what they mean in a log.
//!
//! `[VM:]latest[~N][:DISK]` counts back from the newest snapshot; `ID[:DISK]` is the beginning of a snapshot's id.
//! Names may hold colons: the first part that is `latest` or `latest~N`, but for the first of all, ends the machine's.

use std::collections::{BTreeMap, BTreeSet};

use sancerre_advice::Verb::{Backup, Snapshots};
use sancerre_format::id::SessionId;
use sancerre_format::names::{MachineId, Title};

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::repository::log::{Log, Snapshot, open_body};

/// Fewest digits of an id: fewer would soon name several snapshots.
const ID_DIGITS_MIN: usize = 4;
/// Digits of an id in messages, as in the list of snapshots.
const ID_DIGITS_SHOWN: usize = 8;
/// Most snapshots or machines that a message lists.
const LISTED_MAX: usize = 8;

/// A snapshot, or one disk of it, as the user named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Which snapshot.
    pub snapshot: Which,
    /// Which disk, stream or file of it; none for all.
    pub member: Option<Title>,
}

/// How a snapshot is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Counted back from the newest.
    Latest {
        /// The machine; without one there must be only one.
        vm: Option<Title>,
        /// 0 is the newest.
        back: u64,
    },
    /// The beginning of its id, in lower-case hexadecimal.
    Id(String),
}

/// A snapshot that a name may mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedSnapshot<'a> {
    /// Its session; the hash is its id.
    pub session: SessionId,
    /// Its machine.
    pub vm: &'a Title,
}

impl Selector {
    /// All of the snapshot of this session.
    pub fn of(session: &SessionId) -> Self {
        Self { snapshot: Which::Id(session.intent.to_string()), member: None }
    }

    /// Parses what the user typed.
    ///
    /// Errors: [`Error::Usage`] with the forms that are understood.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let first = parts.first().copied().unwrap_or_default();
        let ends = parts.iter().skip(1).position(|part| back(part).is_some());
        let parsed = match (ends.and_then(|at| parts.split_at_checked(at.saturating_add(1))), back(first)) {
            // `latest:…` is no machine's name, unless `latest` follows at once.
            (Some((vm, [which, rest @ ..])), known) if known.is_none() || vm.len() == 1 => {
                let vm = Title::typed(&vm.join(":")).map_err(|error| Error::Usage(error.to_string()))?;
                latest(Some(vm), which, rest)
            }
            (_, Some(_)) => latest(None, first, parts.get(1..).unwrap_or_default()),
            _ if is_id(first) => member(parts.get(1..).unwrap_or_default())
                .map(|member| Self { snapshot: Which::Id(first.to_ascii_lowercase()), member }),
            _ => None,
        };
        parsed.ok_or_else(|| not_understood(text))
    }

    /// The snapshot it means in `log`. A machine's name is looked for among the public ones, then among the sealed ones.
    ///
    /// Errors: [`Error::Usage`] saying what there is instead.
    pub fn resolve(&self, repository: &Repository, log: &Log) -> Result<SessionId> {
        let (live, ever) = (candidates(log.snapshots()), candidates(log.committed()));
        match &self.snapshot {
            Which::Latest { vm: Some(vm), .. } if !live.iter().any(|candidate| candidate.vm == vm) => {
                let sealed = sealed_names(repository, log);
                let named = live.iter().map(|one| NamedSnapshot {
                    session: one.session,
                    vm: sealed.get(&one.session).unwrap_or(one.vm),
                });
                let live: Vec<_> = named.collect();
                self.choose(&live)
            }
            _ => self.find(log, &live, &ever),
        }
    }

    /// The snapshot it means in `log`; by its id, also one that is damaged: whose outcome does not verify.
    ///
    /// Errors: [`Error::Usage`] saying what there is instead.
    pub fn resolve_damaged(&self, repository: &Repository, log: &Log) -> Result<SessionId> {
        match &self.snapshot {
            Which::Id(_) => {
                let retention = log.retention();
                let (mut live, mut ever) = (candidates(log.snapshots()), candidates(log.committed()));
                live.extend(damaged(log).filter(|damaged| retention.is_live(&damaged.session)));
                ever.extend(damaged(log));
                self.find(log, &live, &ever)
            }
            Which::Latest { .. } => self.resolve(repository, log),
        }
    }

    fn find(&self, log: &Log, live: &[NamedSnapshot<'_>], ever: &[NamedSnapshot<'_>]) -> Result<SessionId> {
        match (self.choose(live), &self.snapshot) {
            // Perhaps it is none of those that are left.
            (Err(error), Which::Id(_)) => match self.choose(ever) {
                Ok(session) => log.refuse_forgotten(&session).and(Err(error)),
                Err(_) => Err(error),
            },
            (found, _) => found,
        }
    }

    /// The snapshot it means in `log`; by its id, one that was forgotten or is damaged too.
    ///
    /// Errors: [`Error::Usage`] saying what there is instead.
    pub fn resolve_any(&self, repository: &Repository, log: &Log) -> Result<SessionId> {
        match &self.snapshot {
            Which::Id(_) => {
                let mut ever = candidates(log.committed());
                ever.extend(damaged(log));
                self.choose(&ever)
            }
            Which::Latest { .. } => self.resolve(repository, log),
        }
    }

    /// A snapshot of the same machine that is newer than `found` and was forgotten, if this counts back: then the same words
    /// meant another one before, and will again once `found` is gone.
    pub fn has_moved(&self, log: &Log, found: &SessionId) -> Option<SessionId> {
        let Which::Latest { .. } = self.snapshot else { return None };
        let of = log.committed().find(|snapshot| snapshot.session() == *found)?.manifest.fields.vm.clone();
        let retention = log.retention();
        let is_gone = |snapshot: &Snapshot<'_>| {
            let session = snapshot.session();
            session.number > found.number && snapshot.manifest.fields.vm == of && !retention.is_live(&session)
        };
        log.committed().find(is_gone).map(|snapshot| snapshot.session())
    }

    /// The one it means among `candidates`, which are in the order of the log.
    ///
    /// Errors: [`Error::Usage`] saying what there is instead.
    pub fn choose(&self, candidates: &[NamedSnapshot<'_>]) -> Result<SessionId> {
        if candidates.is_empty() {
            return Err(no_snapshots());
        }
        match &self.snapshot {
            Which::Latest { vm, back } => choose_latest(vm.as_ref(), *back, candidates),
            Which::Id(prefix) => choose_id(prefix, candidates),
        }
    }
}

/// The newest snapshot of every machine, in the order of their names.
///
/// Errors: [`Error::Usage`] where there is none.
pub fn newest_of_each(log: &Log) -> Result<Vec<Selector>> {
    let newest: BTreeMap<&Title, SessionId> =
        candidates(log.snapshots()).iter().map(|candidate| (candidate.vm, candidate.session)).collect();
    match newest.is_empty() {
        true => Err(no_snapshots()),
        false => Ok(newest.values().map(Selector::of).collect()),
    }
}

fn no_snapshots() -> Error {
    Error::Usage(format!("there are no snapshots yet; make one with {Backup}"))
}

fn candidates<'a>(snapshots: impl IntoIterator<Item = Snapshot<'a>>) -> Vec<NamedSnapshot<'a>> {
    let candidate = |snapshot: Snapshot<'a>| NamedSnapshot {
        session: snapshot.session(),
        vm: &snapshot.manifest.fields.vm,
    };
    snapshots.into_iter().map(candidate).collect()
}

fn damaged(log: &Log) -> impl Iterator<Item = NamedSnapshot<'_>> {
    log.damaged().map(|(session, vm)| NamedSnapshot { session, vm })
}

fn latest(vm: Option<Title>, which: &str, rest: &[&str]) -> Option<Selector> {
    let back = back(which)?;
    Some(Selector { snapshot: Which::Latest { vm, back }, member: member(rest)? })
}

/// The N of `latest~N`; 0 for `latest`.
fn back(text: &str) -> Option<u64> {
    match text.strip_prefix("latest")? {
        "" => Some(0),
        rest => rest.strip_prefix('~').filter(|digits| !digits.starts_with('+'))?.parse().ok(),
    }
}

/// What follows the snapshot: nothing, or a name.
fn member(rest: &[&str]) -> Option<Option<Title>> {
    match rest {
        [] => Some(None),
        rest => Title::typed(&rest.join(":")).ok().map(Some),
    }
}

/// What machines are called whose public name is another, as far as the keys at hand open it.
pub(crate) fn sealed_names(repository: &Repository, log: &Log) -> BTreeMap<SessionId, Title> {
    let name =
        |snapshot: Snapshot<'_>| Some((snapshot.session(), open_body(repository, &snapshot).ok()?.vm?));
    log.snapshots().into_iter().filter_map(name).collect()
}

/// The public names of the machine that people call `name`: that name, if a snapshot has it, else those of the
/// snapshots under whose seal it stands.
pub fn public_names(repository: &Repository, log: &Log, name: &Title) -> BTreeSet<Title> {
    if log.committed().any(|snapshot| snapshot.manifest.fields.vm == *name) {
        return [name.clone()].into();
    }
    let sealed = sealed_names(repository, log);
    let snapshots = log.snapshots().into_iter();
    let of_name = snapshots.filter(|snapshot| sealed.get(&snapshot.session()) == Some(name));
    of_name.map(|snapshot| snapshot.manifest.fields.vm.clone()).collect()
}

/// These public names, and the others that the same machines had or have: one with an id keeps its history over renames.
pub fn names_of_machines(log: &Log, names: BTreeSet<Title>) -> BTreeSet<Title> {
    let snapshots: Vec<_> = log.committed().map(|snapshot| &snapshot.manifest.fields).collect();
    let named = snapshots.iter().filter(|fields| names.contains(&fields.vm));
    let ids: BTreeSet<MachineId> = named.filter_map(|fields| fields.machine).collect();
    let same = snapshots.iter().filter(|fields| fields.machine.is_some_and(|id| ids.contains(&id)));
    let same: Vec<Title> = same.map(|fields| fields.vm.clone()).collect();
    names.into_iter().chain(same).collect()
}

fn is_id(text: &str) -> bool {
    (ID_DIGITS_MIN..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether all but one letter of `latest` are there, in their order, with at most one that is no part of it.
fn is_nearly_latest(part: &str) -> bool {
    const WORD: &str = "latest";
    let typed = part.split('~').next().unwrap_or_default().to_ascii_lowercase();
    let same = |(typed, word): &(u8, u8)| typed == word;
    let begin = typed.bytes().zip(WORD.bytes()).take_while(same).count();
    let end = typed.bytes().rev().zip(WORD.bytes().rev()).take_while(same).count();
    part.split('~').next() != Some(WORD)
        && typed.len().abs_diff(WORD.len()) <= 1
        && begin.saturating_add(end) >= WORD.len().saturating_sub(1)
}

fn not_understood(text: &str) -> Error {
    let nearly = text.split(':').find(|part| is_nearly_latest(part));
    let advice = match (nearly, Title::typed(text)) {
        (Some(part), _) => {
            let back = part.split_once('~').map_or_else(String::new, |(_, back)| format!("~{back}"));
            format!("{} is probably meant", text.replacen(part, &format!("latest{back}"), 1))
        }
        (None, Ok(vm)) => format!("if it is a virtual machine, write {vm}:latest"),
        (None, Err(_)) => format!("see {Snapshots}"),
    };
    Error::Usage(format!(
        "{text:?} does not name a snapshot; write latest, VM:latest, VM:latest~1, or at least {ID_DIGITS_MIN} digits \
         of an id, and :DISK behind it for one disk; {advice}"
    ))
}

fn choose_latest(vm: Option<&Title>, back: u64, candidates: &[NamedSnapshot<'_>]) -> Result<SessionId> {
    let vms: BTreeSet<&Title> = candidates.iter().map(|candidate| candidate.vm).collect();
    let vm = match (vm, vms.first()) {
        (Some(vm), _) => vm,
        (None, Some(only)) if vms.len() == 1 => only,
        _ => {
            let vms = listed(vms.iter().map(|vm| format!("{vm}:latest")));
            return Err(Error::Usage(format!(
                "latest could be several machines' snapshot; write one of {vms}"
            )));
        }
    };
    let newest_first = candidates.iter().rev().filter(|candidate| candidate.vm == vm);
    let count = newest_first.clone().count();
    if count == 0 {
        let vms = listed(vms.iter().map(ToString::to_string));
        return Err(Error::Usage(format!("there are no snapshots of {vm}; there are some of {vms}")));
    }
    let found = usize::try_from(back).ok().and_then(|back| newest_first.clone().nth(back));
    found.map(|candidate| candidate.session).ok_or_else(|| {
        let oldest = count.saturating_sub(1);
        Error::Usage(format!("{vm} has no snapshot that far back; its oldest is {vm}:latest~{oldest}"))
    })
}

fn choose_id(prefix: &str, candidates: &[NamedSnapshot<'_>]) -> Result<SessionId> {
    let fitting: Vec<_> = candidates
        .iter()
        .filter(|candidate| candidate.session.intent.to_string().starts_with(prefix))
        .collect();
    match fitting.as_slice() {
        [one] => Ok(one.session),
        [] => {
            let is_vm = candidates.iter().any(|candidate| candidate.vm.as_str() == prefix);
            let advice = match is_vm {
                true => format!("for the machine of this name write {prefix}:latest"),
                false => format!("see {Snapshots}"),
            };
            Err(Error::Usage(format!("no snapshot's id begins with {prefix}; {advice}")))
        }
        several => {
            let described = several.iter().map(|candidate| describe(candidate, prefix));
            Err(Error::Usage(format!("{prefix} could be {}; give more digits", listed(described))))
        }
    }
}

/// Enough digits to tell it from others that share `prefix`, and its machine.
fn describe(candidate: &NamedSnapshot<'_>, prefix: &str) -> String {
    let digits = ID_DIGITS_SHOWN.max(prefix.len().saturating_add(ID_DIGITS_MIN));
    let id: String = candidate.session.intent.to_string().chars().take(digits).collect();
    format!("{id} ({})", candidate.vm)
}

fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(LISTED_MAX);
    let shown: Vec<_> = items.take(LISTED_MAX).collect();
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests;
