//! The counting: frames by who needs them.

use std::collections::BTreeMap;

use sancerre_format::FormatError;
use sancerre_format::frames::FrameSet;
use sancerre_format::id::PackName;
use sancerre_format::names::Title;
use sancerre_format::pack::{FrameChunk, PackKind};
use sancerre_format::seal::RootKey;

use super::{MachineStats, Stats};
use crate::error::Result;
use crate::repository::log::{Log, Moves};
use crate::repository::pack_ends::PackEnds;

/// Classes of chunk sizes: the first up to 4 KiB, each twice the one before, the last without end.
pub const CLASSES: usize = 9;
const FIRST_CLASS_BYTES: u32 = 4 << 10;

/// Chunks of about one size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SizeClass {
    /// How many.
    pub chunks: u64,
    /// Their bytes, before compression.
    pub bytes: u64,
}

impl SizeClass {
    /// The largest size in a class; none in the last.
    pub fn up_to_bytes(class: usize) -> Option<u64> {
        (class.saturating_add(1) < CLASSES).then(|| u64::from(FIRST_CLASS_BYTES) << class)
    }

    fn of(size_bytes: u32) -> usize {
        let fits = |class: &usize| Self::up_to_bytes(*class).is_none_or(|most| u64::from(size_bytes) <= most);
        (0..CLASSES).find(fits).unwrap_or_default()
    }
}

/// What each machine's live snapshots need, by the pack in which it lies.
pub(super) struct Needs {
    machines: Vec<MachineStats>,
    lying: Vec<BTreeMap<PackName, FrameSet>>,
}

impl Needs {
    /// From the manifests.
    ///
    /// Errors: [`Error::Object`](crate::Error::Object) for one that cannot be read.
    pub(super) fn of(log: &Log) -> Result<Self> {
        let moves = Moves::claimed(log);
        let mut machines = BTreeMap::<Title, (MachineStats, FrameSet)>::new();
        for snapshot in log.snapshots() {
            let fields = &snapshot.manifest.fields;
            let (machine, needed) =
                machines.entry(fields.vm.clone()).or_insert_with(|| (none(&fields.vm), FrameSet::default()));
            machine.snapshots = machine.snapshots.saturating_add(1);
            machine.size_bytes = machine.size_bytes.saturating_add(fields.size_bytes);
            machine.data_bytes = machine.data_bytes.saturating_add(fields.data_bytes);
            needed.union(&snapshot.uses()?);
        }
        let (machines, needed): (Vec<_>, Vec<_>) = machines.into_values().unzip();
        Ok(Self { machines, lying: needed.iter().map(|needed| moves.by_pack(needed)).collect() })
    }

    /// Whether anything that lies in the pack is needed.
    pub(super) fn has_pack(&self, pack: &PackName) -> bool {
        self.lying.iter().any(|lying| lying.contains_key(pack))
    }
}

fn none(vm: &Title) -> MachineStats {
    MachineStats {
        vm: vm.clone(),
        snapshots: 0,
        size_bytes: 0,
        data_bytes: 0,
        needed_bytes: 0,
        exclusive_bytes: 0,
    }
}

/// The numbers so far.
pub(super) struct Count<'a> {
    needs: &'a Needs,
    pub(super) stats: Stats,
}

impl<'a> Count<'a> {
    pub(super) fn new(needs: &'a Needs) -> Self {
        Self { needs, stats: Stats { machines: needs.machines.clone(), ..Stats::default() } }
    }

    /// Adds an object that the store has.
    pub(super) fn stored(&mut self, bytes: u64) {
        self.stats.stored_bytes = self.stats.stored_bytes.saturating_add(bytes);
    }

    /// Adds bytes that nobody needs.
    pub(super) fn garbage(&mut self, bytes: u64) {
        self.stats.garbage_bytes = self.stats.garbage_bytes.saturating_add(bytes);
    }

    /// Adds what lies in a pack.
    ///
    /// Errors: what is wrong with its bytes; then nothing was added.
    pub(super) fn pack(
        &mut self,
        name: PackName,
        ends: &PackEnds,
        root: &RootKey,
    ) -> std::result::Result<(), FormatError> {
        let tail = ends.decode()?;
        let table = tail.open_table(root)?;
        let kind = tail.head().kind;
        for (entry, pieces) in tail.directory().iter().zip(table) {
            let lying = self.needs.lying.iter().map(|lying| lying.get(&name));
            let owners =
                lying.enumerate().filter(|(_, set)| set.is_some_and(|set| set.contains(&entry.frame)));
            let owners: Vec<usize> = owners.map(|(machine, _)| machine).collect();
            self.frame(kind, u64::from(entry.sealed_bytes), &pieces, &owners);
        }
        Ok(())
    }

    fn frame(&mut self, kind: PackKind, sealed_bytes: u64, pieces: &[FrameChunk], owners: &[usize]) {
        if owners.is_empty() {
            return self.garbage(sealed_bytes);
        }
        for owner in owners {
            let Some(machine) = self.stats.machines.get_mut(*owner) else { continue };
            machine.needed_bytes = machine.needed_bytes.saturating_add(sealed_bytes);
            if owners.len() == 1 {
                machine.exclusive_bytes = machine.exclusive_bytes.saturating_add(sealed_bytes);
            }
        }
        if kind != PackKind::Data {
            self.stats.maps_bytes = self.stats.maps_bytes.saturating_add(sealed_bytes);
            return;
        }
        self.stats.packed_bytes = self.stats.packed_bytes.saturating_add(sealed_bytes);
        for (_, size_bytes) in pieces {
            self.stats.unique_bytes = self.stats.unique_bytes.saturating_add(u64::from(*size_bytes));
            if let Some(class) = self.stats.chunks.get_mut(SizeClass::of(*size_bytes)) {
                class.chunks = class.chunks.saturating_add(1);
                class.bytes = class.bytes.saturating_add(u64::from(*size_bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sancerre_format::id::ContentId;

    #[test]
    fn sizes_fall_into_classes() {
        let class = |bytes| SizeClass::of(bytes);
        assert_eq!((class(1), class(4096), class(4097), class(8192)), (0, 0, 1, 1));
        assert_eq!((class(524_288), class(524_289), class(u32::MAX)), (7, 8, 8));
        assert_eq!(SizeClass::up_to_bytes(7), Some(524_288));
        assert_eq!(SizeClass::up_to_bytes(8), None);
    }

    #[test]
    fn a_frame_belongs_to_everybody_who_needs_it() {
        let machine = |vm: &str| none(&Title::new(vm).unwrap());
        let needs = Needs { machines: vec![machine("a"), machine("b")], lying: Vec::new() };
        let mut count = Count::new(&needs);
        let pieces = [(ContentId([1; 32]), 10), (ContentId([2; 32]), 5000)];
        count.frame(PackKind::Data, 100, &pieces, &[0]);
        count.frame(PackKind::Data, 10, &pieces[..1], &[0, 1]);
        count.frame(PackKind::Metadata, 1, &[], &[1]);
        count.frame(PackKind::Data, 1000, &pieces, &[]);
        let Stats { machines, unique_bytes, packed_bytes, maps_bytes, garbage_bytes, chunks, .. } =
            count.stats;
        let told: Vec<_> = machines.iter().map(|m| (m.needed_bytes, m.exclusive_bytes)).collect();
        assert_eq!(told, [(110, 100), (11, 1)]);
        assert_eq!((unique_bytes, packed_bytes, maps_bytes, garbage_bytes), (5020, 110, 1, 1000));
        assert_eq!(chunks[0], SizeClass { chunks: 2, bytes: 20 });
        assert_eq!(chunks[1], SizeClass { chunks: 1, bytes: 5000 });
    }
}
