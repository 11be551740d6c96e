//! Guests on exports: QEMU's command line, its monitor, and the jobs by which an overlay becomes a disk of its own.
//!
//! ```text
//! GuestPlan ──arguments──> QEMU ── reads ──> overlay (qcow2, final storage) ── what is not there yet ──> export (NBD)
//!                            ↑ Qmp                    └───────── block-stream: hydrate ─────────┘
//! ```
//!
//! A disk that goes to a block device is copied there by a mirror instead, and the guest is switched over at its end.
//!
//! A guest outlives the program that started it: it runs on its own, and whoever comes later finds it by its monitor. What the
//! monitor says is a claim of a process that a guest may have taken over: its lines have bounds, and no answer is waited for
//! without an end.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)
)]

mod guest;
mod hydrate;
mod job;
mod mirror;
mod moving;
mod qmp;
mod start;
mod watch;

pub use guest::{Accelerator, BlockDevice, DiskBus, DiskPlace, GuestDisk, GuestPlan, PlanError};
pub use hydrate::{Hydrated, Hydration, HydrationProgress, hydrate};
pub use job::HydrateError;
pub use mirror::MIRROR_BYTES;
pub use moving::{Copying, Mover, Moving, MovingGuest, NotNoted, PASSES, Step, Switches};
pub use qmp::{Qmp, QmpError};
pub use start::{StartError, disk_bytes, has_backing, make_overlay, overlay_arguments, start};
pub use watch::{UpBy, UpWhen, Watched, agent_answers, console, watch};
