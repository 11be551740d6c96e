//! The index: which place holds a chunk, beyond what the snapshot before knows.
//!
//! ```text
//! segment ─small──────────────> places, whole in memory
//!         └large─> page table and filter in memory ─a hit─> one page by range ─> checked against its hash
//! ```
//!
//! It is a hint: what is missing or damaged costs deduplication and nothing else, and no place is used before
//! [`ReusePolicy`](crate::dedup::ReusePolicy) allows it.

mod copies;
mod lookup;
mod publish;
mod segment;
mod uncovered;
mod unread;

pub use copies::find_copies;
pub(crate) use lookup::WHOLE_BYTES;
pub use lookup::{Index, Lookup, SegmentRun, run_of};
pub use publish::sign_segment;
pub use segment::{Head, Segment, Whole, key_of, retain_heard, segments};
pub use uncovered::{Covering, ignored, read_uncovered};
pub use unread::unread_segments;
