//! Which packs a check reads and hashes.

use sancerre_format::id::{Hash, PackName};
use sancerre_format::list::ListedPack;

use super::sample::Sample;
use crate::error::{Error, Result};

/// How much of the data a check reads. What is chosen depends on the packs' names and on a seed, where there is one,
/// alone, so a run can be repeated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReadData {
    /// No pack is read; maps are.
    No,
    /// Every pack.
    All,
    /// About so many per cent of the packs, drawn at random; where there are any, at least one.
    Percent {
        /// Above 0, at most 100.
        percent: f64,
        /// Another seed draws other packs.
        seed: [u8; 32],
    },
    /// One of `of` parts, numbered from 1: every pack is in exactly one of them. For a part that is empty one pack stands in.
    Part {
        /// Which part.
        part: u32,
        /// Of how many.
        of: u32,
    },
    /// So many of the packs that snapshots need that a loss among them would be noticed.
    Sample(Sample),
}

impl ReadData {
    /// Fails with [`Error::Usage`] when nothing can be meant by it.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::Percent { percent, .. } if !(percent > 0.0 && percent <= 100.0) => Err(Error::Usage(
                format!("{percent}% of the data cannot be read: give more than 0, at most 100"),
            )),
            Self::Part { part, of } if part == 0 || part > of => {
                Err(Error::Usage(format!("there is no part {part} of {of}: parts count from 1")))
            }
            Self::Sample(sample) => sample.validate(),
            _ => Ok(()),
        }
    }

    /// Whether this pack is to be read; a sample is drawn from all of them at once.
    pub(super) fn selects(&self, name: PackName, pack: &ListedPack) -> bool {
        match *self {
            Self::No | Self::Sample(_) => false,
            Self::All => true,
            Self::Percent { percent, seed } => {
                let ticket = Hash::of(&[seed, pack.hash.0].concat());
                f64::from(draw(&ticket)) < percent / 100.0 * 4_294_967_296.0
            }
            Self::Part { part, of } => {
                let text = name.to_string();
                draw(&Hash::of(text.as_bytes())).checked_rem(of) == part.checked_sub(1)
            }
        }
    }
}

impl ReadData {
    /// The one pack that is read where a share or a part of these would be none, as of a repository with few packs.
    pub(super) fn stand_in<'a>(
        &self,
        packs: impl Iterator<Item = (PackName, &'a ListedPack)>,
    ) -> Option<PackName> {
        let salt = match *self {
            Self::Percent { seed, .. } => seed.to_vec(),
            Self::Part { part, .. } => part.to_le_bytes().to_vec(),
            Self::No | Self::All | Self::Sample(_) => return None,
        };
        let ticket = |pack: &ListedPack| Hash::of(&[salt.as_slice(), &pack.hash.0].concat());
        let mut first: Option<(Hash, PackName)> = None;
        for (name, pack) in packs {
            if self.selects(name, pack) {
                return None;
            }
            let this = (ticket(pack), name);
            first = Some(first.map_or(this, |best| best.min(this)));
        }
        first.map(|(_, name)| name)
    }
}

/// A number that is uniform over hashes.
fn draw(hash: &Hash) -> u32 {
    hash.0.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
