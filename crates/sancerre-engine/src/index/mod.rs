//! Keeping the index small and whole: segments are merged, and written anew from the packs.

mod merge;
mod publish;
mod rebuild;
#[cfg(test)]
mod tests;

pub use merge::{MergeReport, merge_index};
pub use rebuild::{RebuildReport, rebuild_index};

pub(crate) use merge::merge_after_backup;
pub use sancerre_repository::index::{Index, Lookup};
pub(crate) use sancerre_repository::index::{Segment, Whole, find_copies, key_of, segments, unread_segments};
