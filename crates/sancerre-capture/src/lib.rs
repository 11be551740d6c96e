//! Still pictures of running virtual machines, and what changed on their disks: of libvirt by its own program, `virsh`, of QEMU by
//! its monitor, and of anything else by commands of the operator.
//!
//! The one idea: nothing is remembered here. A machine's checkpoint is named after the session that saves what it marks,
//! so the checkpoint's name and the repository's log say which one the next night builds on, after any crash and on any
//! host. What a dead process left behind is known by its place and name, and removed by the next one.
//!
//! What is deliberately absent:
//! - no bytes of disks: pictures are read over NBD by `sancerre-image`;
//! - no sessions, keys or repositories: the caller says which snapshots there are, as hexadecimal ids;
//! - nothing that is not ours is ever ended or deleted: a job, checkpoint or file of another program is an error or is
//!   left alone.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod agent;
pub mod around;
mod checkpoint;
mod deaf;
mod define;
mod error;
#[cfg(test)]
mod fake_virsh;
mod freezing;
pub mod guard;
mod keeper;
pub mod keeping;
mod machine;
mod picture;
mod place;
mod program;
mod pull;
mod qemu;
mod recovered;
mod room;
mod standing;
mod virsh;
mod xml;

pub use around::{Around, Commands};
pub use define::{Defined, Restored};
pub use error::CaptureError;
pub use guard::{Freeze, FreezeOptions, Frozen};
pub use machine::{EXPORTS, Machine, MachineDisk};
pub use picture::{Picture, PictureDisk, Pictured, Pull};
pub use place::default_run_folder;
pub use pull::Live;
pub use qemu::{Qemu, QemuDisk};
pub use recovered::{FillError, Lacking, MachineState, Recovered, Recovering, Watch, device_xml};
pub use virsh::Virsh;
