//! Suspicion: what a backup sees of a disk besides its bytes, and what that looks like beside the disk's other nights
//! (docs/SUSPICION.md).
//!
//! ```text
//! chunks ─> blocks (what stands in each) ─> trace (which files were lost where they stood) ─> extent (counts)
//!                                              └─ record: pieces of an annex    counts + nights before ─> verdict ─> words
//! ```
//!
//! All of it is pure but [`stored`], which reads what earlier nights left.

mod blocks;
mod clean;
pub mod explain;
mod extent;
pub(crate) mod notes;
pub mod recompute;
pub mod record;
mod signatures;
pub mod stored;
mod trace;
mod verdict;
mod words;

pub use blocks::Blocks;
pub use clean::{ClearedSuspects, MachineNight, clear, last_clean, machines};
pub use extent::{Counts, EXTENT_BYTES};
pub(crate) use notes::{is_suspect, note};
pub use notes::{suspect, what_stays};
pub use signatures::{Signature, signature};
pub use trace::{Start, Trace};
pub use verdict::{Judgement, Past, Sign, Suspicion, THRESHOLDS, judge};
pub use words::{advice, why};
