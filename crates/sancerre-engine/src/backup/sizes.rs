//! Sources that are suspiciously small: an export that failed, an image whose storage went away.
//!
//! Saved without a word such a snapshot would look like any other, and night by night push out the good ones.

use sancerre_advice::Setting::{AllowSmall, LeastBytes};
use sancerre_format::names::Title;
use sancerre_format::outcome::{Member, MemberKind};

use super::options::{Allow, BackupSource, Input};
use super::{Base, Run};
use crate::dedup::Speaker;
use crate::error::{Error, Result};
use crate::monitor::Topic;

impl Run {
    /// What can be judged before anything is read: the sizes of disks.
    pub(super) fn judge_sizes(&mut self, sources: &[BackupSource], allow: Allow) -> Result<()> {
        for source in sources {
            let Input::Disk(disk) = &source.input else { continue };
            let size_bytes = disk.size_bytes();
            if size_bytes < source.least_bytes {
                return Err(too_small(&source.name, &source.kind, size_bytes, source.least_bytes));
            }
            let Some(before) = self.before(&source.name, &source.kind) else { continue };
            let told = format!(
                "{} has {size_bytes} bytes, and had {} in snapshot {}",
                source.name, before.size_bytes, before.snapshot
            );
            if is_much_smaller(size_bytes, before.size_bytes) {
                self.refuse(&source.name, told, &before, allow)?;
            } else if size_bytes < before.size_bytes {
                self.shared.monitor.warn(Topic::Source, told);
            }
        }
        if !allow.small {
            self.tell_missing(sources);
        }
        Ok(())
    }

    /// A machine may have lost a disk on purpose, and only whoever runs it knows.
    fn tell_missing(&self, sources: &[BackupSource]) {
        // invariant: a first snapshot has no disk fewer than another
        let Some(Base { session, body, .. }) = self.base.as_ref() else { return };
        let is_named = |member: &Member| sources.iter().any(|source| source.name == member.name);
        let disks = body.members.iter().filter(|member| member.kind == MemberKind::Disk);
        let missing: Vec<&str> =
            disks.filter(|disk| !is_named(disk)).map(|disk| disk.name.as_str()).collect();
        if !missing.is_empty() {
            self.shared.monitor.warn(Topic::Source, format!(
                "snapshot {} also has {}, which this one will not have: name it too if the machine still has it; {AllowSmall} \
                 ends this warning",
                session.short(),
                missing.join(", ")
            ));
        }
    }

    /// What can be judged once a member was read.
    pub(super) fn judge_member(&mut self, member: &Member, least_bytes: u64, allow: Allow) -> Result<()> {
        let Member { name, kind, size_bytes, data_bytes, .. } = member;
        if *size_bytes < least_bytes {
            return Err(too_small(name, kind, *size_bytes, least_bytes));
        }
        if *size_bytes > 0 && member.unreadable()?.bytes() >= *size_bytes {
            return Err(Error::Refused(format!(
                "nothing of {name} could be read, so nothing was saved; look for a failing device in the kernel log, and for what cut it"
            )));
        }
        // invariant: a first snapshot has nothing to be smaller than
        let Some(before) = self.before(name, kind) else { return Ok(()) };
        if *kind == MemberKind::Disk {
            if *data_bytes == 0 && before.data_bytes > 0 {
                let snapshot = &before.snapshot;
                let told = format!("{name} holds nothing but zeros, and held data in snapshot {snapshot}");
                self.refuse(name, told, &before, allow)?;
            }
            return Ok(());
        }
        // Exports and attached files do shrink, and what they are now is saved: but not without a word.
        let is_stream = *kind == MemberKind::Stream;
        let is_small = is_stream && is_much_smaller(*size_bytes, before.size_bytes);
        if !allow.small && (is_small || (*size_bytes == 0 && before.size_bytes > 0)) {
            self.shared.monitor.warn(Topic::Source, format!(
                "{name} has {size_bytes} bytes, and had {} in snapshot {}; it is saved as it is. See whether it is whole: \
                 {LeastBytes} sets a lower bound, {AllowSmall} ends this warning",
                before.size_bytes, before.snapshot
            ));
            self.shrunk.push(name.clone());
        }
        Ok(())
    }

    /// Refuses a disk that lost what it had. Another writer's snapshot stops nobody: it may lie about its size.
    fn refuse(&mut self, name: &Title, told: String, before: &Before, allow: Allow) -> Result<()> {
        const LOOK: &str = "see whether this is the right disk, and its storage is there";
        if allow.small {
            self.shared.monitor.warn(Topic::Source, told);
            return Ok(());
        }
        if before.is_own {
            return Err(Error::Refused(format!(
                "{told}. Nothing was saved: {LOOK}. If it was made smaller or emptied on purpose, run once with {AllowSmall}"
            )));
        }
        self.shared.monitor.warn(Topic::Source, format!("{told}, by another writer's word; {LOOK}"));
        self.shrunk.push(name.clone());
        Ok(())
    }

    fn before(&self, name: &Title, kind: &MemberKind) -> Option<Before> {
        let Base { session, body, speaker, .. } = self.base.as_ref()?;
        let member = body.members.iter().find(|member| member.name == *name && member.kind == *kind)?;
        Some(Before {
            size_bytes: member.size_bytes,
            data_bytes: member.data_bytes,
            snapshot: session.short(),
            is_own: *speaker == Speaker::Own,
        })
    }
}

/// The same member in the snapshot before this one.
struct Before {
    size_bytes: u64,
    data_bytes: u64,
    snapshot: String,
    is_own: bool,
}

/// Less than half as large.
fn is_much_smaller(now_bytes: u64, before_bytes: u64) -> bool {
    now_bytes < before_bytes / 2 || (now_bytes == 0 && before_bytes > 0)
}

fn too_small(name: &Title, kind: &MemberKind, now_bytes: u64, least_bytes: u64) -> Error {
    let is_stream = *kind == MemberKind::Stream;
    let why = match is_stream {
        true => "see whether the program before the pipe failed, and use `set -o pipefail`",
        false => "see whether this is the right disk, and its storage is there",
    };
    Error::Refused(match now_bytes {
        0 if is_stream => format!(
            "nothing came through standard input for {name}: it is closed, or the program before the pipe failed. Nothing was \
             saved; {why}. If nothing is right, give {AllowSmall}"
        ),
        0 => format!("{name} has 0 bytes. Nothing was saved; {why}. If that is right, give {AllowSmall}"),
        _ => format!(
            "{name} has {now_bytes} bytes, fewer than the {least_bytes} of {LeastBytes}. Nothing was saved; {why}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::is_much_smaller;

    #[test]
    fn half_is_not_much_smaller_and_nothing_is() {
        let cases =
            [(0, 0, false), (0, 1, true), (1, 1, false), (5, 10, false), (4, 10, true), (20, 10, false)];
        for (now, before, expected) in cases {
            assert_eq!(is_much_smaller(now, before), expected, "{now} {before}");
        }
    }
}
