//! The file catalogue of a snapshot: made of its disks by the confined child, and read in place of them.
//!
//! It is a hint of whoever made the snapshot: it says where to look. What `get` and `cat` give is always read from the disks.

mod build;
mod place;
mod read;

use clap::Args;

pub(crate) use build::{Building, CatalogueStream};
pub(crate) use place::{PathStep, Spot, Wanted, file_node, joined};
pub(crate) use read::{Catalogue, Memo, Said};

/// Whether catalogues are used where there are some.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct CatalogueUse {
    /// Look at the disks themselves, also where the snapshot has a catalogue of its files
    #[arg(long)]
    pub(crate) no_catalogue: bool,
}
