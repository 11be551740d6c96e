//! The test restore: every byte of the snapshot comes back, and is compared with the disk. No room is needed for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Instant;

use sancerre_engine::restore::{self, RestoreOptions};
use sancerre_engine::select::{Selector, Which};
use sancerre_format::names::Title;

use super::answers::Answers;
use crate::command::{Context, restore as command};
use crate::exit::Failure;
use crate::formats::{self, Format};
use crate::progress::Work;
use crate::units::{duration, size};

/// How much is compared at once.
const BLOCK: usize = 1 << 20;

/// What came of it.
pub(super) struct Compared {
    pub(super) bytes: u64,
    /// Whether all of it is as the disks are.
    pub(super) is_equal: bool,
}

/// Restores the newest snapshot of the machine, to nowhere.
pub(super) async fn restore(context: &Context, answers: &Answers) -> Result<Compared, Failure> {
    let started = Instant::now();
    let vm = Title::typed(answers.vm.as_str()).map_err(|error| Failure::usage(error.to_string()))?;
    let newest = Selector { snapshot: Which::Latest { vm: Some(vm), back: 0 }, member: None };
    context.output.message("\ntest restore, to nowhere:");
    let reader = command::open(&newest, context).await?;
    let (monitor, watched) = context.watched(Work::Restore)?;
    let settings = RestoreOptions::new(context.global.memory);
    let mut compared = Compared { bytes: 0, is_equal: true };
    let mut told = Vec::new();
    for member in &reader.body().members {
        let disk = answers.named_disks().into_iter().find(|(name, _)| *name == member.name.as_str());
        let attached = answers.attached.iter().find(|file| file.name == member.name);
        let source = disk.and_then(|(_, disk)| raw(disk));
        let mut beside = Beside::of(source.or_else(|| File::open(&attached?.path).ok()));
        let report = restore::dump(&reader, member, &mut beside, &settings, &monitor).await?;
        compared.bytes = compared.bytes.saturating_add(report.size_bytes);
        compared.is_equal &= beside.differs_at.is_none();
        told.push((member.name.to_string(), report.size_bytes, beside));
    }
    drop(watched);
    for (name, bytes, beside) in told {
        let what = format!("{name} came back whole, {}", size(bytes));
        match (beside.differs_at, beside.disk.is_some()) {
            (None, true) => context.output.message(&format!("{what}: every byte is as it is there")),
            (None, false) => context.output.message(&format!("{what}: every chunk is what its id says")),
            (Some(at), _) => context.output.warning(&format!(
                "{what}, and from byte {at} on it is not as the disk is now: somebody writes to the disk. The snapshot is what \
                 was read; docs/QUIESCE.md says how a disk stands still"
            )),
        }
    }
    context.output.message(&format!("done in {}", duration(started.elapsed())));
    Ok(compared)
}

/// The bytes of a disk that lie there as the guest sees them; none of an image of another form, or of what is no file.
fn raw(disk: &Path) -> Option<File> {
    let is_raw = formats::of_suffix(disk).is_none_or(|format| format == Format::Raw);
    File::open(disk).ok().filter(|_| is_raw)
}

/// What is restored goes nowhere; beside it a disk is read, and compared.
struct Beside {
    disk: Option<File>,
    at: u64,
    differs_at: Option<u64>,
    block: Vec<u8>,
}

impl Beside {
    fn of(disk: Option<File>) -> Self {
        Self { disk, at: 0, differs_at: None, block: vec![0; BLOCK] }
    }

    /// Whether the disk has these bytes here.
    fn is_as(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let (Some(disk), Some(block)) = (&mut self.disk, self.block.get_mut(..bytes.len())) else {
            return Ok(true);
        };
        match disk.read_exact(block) {
            Ok(()) => Ok(block == bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.get(..bytes.len().min(BLOCK)).unwrap_or_default();
        if self.differs_at.is_none() && !self.is_as(part)? {
            self.differs_at = Some(self.at);
        }
        self.at = self.at.saturating_add(part.len() as u64);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_found_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, vec![7; 3 * BLOCK + 10]).unwrap();
        let compare = |bytes: &[u8]| {
            let mut beside = Beside::of(raw(&path));
            beside.write_all(bytes).unwrap();
            beside.differs_at
        };
        let mut bytes = vec![7; 3 * BLOCK + 10];
        assert_eq!(compare(&bytes), None);
        bytes[2 * BLOCK + 5] = 8;
        assert_eq!(compare(&bytes), Some(2 * BLOCK as u64));
        assert_eq!(compare(&vec![7; 3 * BLOCK + 11]), Some(3 * BLOCK as u64), "the disk is shorter now");
        assert!(raw(&folder.path().join("disk.qcow2")).is_none());
    }
}
