//! The index: which place holds a chunk, beyond what the snapshot before knows.
//!
//! ```text
//! segment ─small──────────────> places, whole in memory
//!         └large─> page table and filter in memory ─a hit─> one page by range ─> checked against its hash
//! ```
//!
//! It is a hint: what is missing or damaged costs deduplication and nothing else, and no place is used before
//! [`Usable`](crate::known::Usable) allows it.

mod lookup;
mod merge;
mod publish;
mod rebuild;
mod segment;
#[cfg(test)]
mod tests;
mod unread;

pub use lookup::{Index, Lookup};
pub use merge::{MergeReport, merge_index};
pub use rebuild::{RebuildReport, rebuild_index};

pub(crate) use lookup::WHOLE_BYTES;
pub(crate) use merge::merge_after_backup;
pub(crate) use publish::sign_segment;
pub(crate) use segment::{Segment, Whole, key_of, segments};
pub(crate) use unread::unread_segments;
