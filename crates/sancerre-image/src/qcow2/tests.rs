//! Images that QEMU made, compared with what QEMU reads in them.

mod bitmaps;
mod chains;
mod formats;
mod hostile;
pub(crate) mod lab;
mod large;
mod memory;
