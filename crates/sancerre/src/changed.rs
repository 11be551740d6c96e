//! Change maps of a backup, as typed and as read.

use std::str::FromStr;

use clap::Args;
use sancerre_engine::backup::{BackupSource, Hint, Input, Maps};
use sancerre_engine::select::Selector;
use sancerre_format::names::Title;
use sancerre_image::change_map::{ChangeMap, MapError};
use sancerre_image::{Disk, open_file};

use crate::bitmaps::{self, Bitmaps};
use crate::command::Context;
use crate::exit::Failure;
use crate::named_path;
use crate::plain;
use crate::sources::DiskSource;

/// Digits behind the point of a percentage.
const FRACTION_DIGITS: usize = 4;
const MILLIONTHS_PER_PERCENT: u32 = 10_000;

/// What is read of disks of which somebody kept count.
#[derive(Debug, Default, Args)]
pub(crate) struct Changed {
    /// A map of what changed on a disk since a snapshot: only that is read, the rest is taken over from there. Forms: `diff
    /// --json`, `qemu-img map --output=json`, `rbd diff --format json`; or bitmap:NAME, a dirty bitmap in the qcow2 image or of
    /// the NBD server that the disk is read from; see docs/CHANGED.md
    #[arg(long, value_name = "[NAME=]FILE", value_parser = named_path::disk(), conflicts_with = "only_unreadable", group = "counted")]
    changed: Vec<DiskSource>,
    /// The snapshot since which that changed, where the map does not say it
    #[arg(long, value_name = "SNAPSHOT", value_parser = Selector::parse, requires = "changed")]
    changed_since: Option<Selector>,
    /// How much of what a map calls unchanged is read and compared all the same, at random; at least 256 places. If it is
    /// not what it was, the whole disk is read, and the exit code is 3 [default: 1%]
    #[arg(long, value_name = "N%", requires = "counted")]
    verify_unchanged: Option<Share>,
}

/// A part of a whole, in millionths; never none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share(u32);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let (whole, fraction) = {
                let number = text.strip_suffix('%')?;
                number.split_once('.').unwrap_or((number, "0"))
            };
            let is_number =
                |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number(whole) || !is_number(fraction) || fraction.len() > FRACTION_DIGITS {
                return None;
            }
            let fraction: u32 = format!("{fraction:0<FRACTION_DIGITS$}").parse().ok()?;
            let whole: u32 = whole.parse().ok()?;
            let millionths = whole.checked_mul(MILLIONTHS_PER_PERCENT)?.checked_add(fraction)?;
            (1..=100 * MILLIONTHS_PER_PERCENT).contains(&millionths).then_some(Self(millionths))
        };
        parsed()
            .ok_or_else(|| "give a share such as 1% or 0.5%, more than nothing and at most 100%".to_owned())
    }
}

impl Changed {
    /// The same that was not typed here.
    pub(crate) fn of(
        changed: Vec<DiskSource>,
        changed_since: Option<Selector>,
        share: Option<Share>,
    ) -> Self {
        Self { changed, changed_since, verify_unchanged: share }
    }

    /// How much is compared, if it was said.
    pub(crate) fn verify_unchanged(&self) -> Option<Share> {
        self.verify_unchanged
    }

    /// The bitmaps that are named in place of files.
    pub(crate) fn bitmaps(&self) -> Bitmaps {
        let wanted = |given: &DiskSource| Some((given.name.clone(), bitmaps::named(&given.path)?.to_owned()));
        Bitmaps::new(self.changed.iter().filter_map(wanted).collect())
    }

    /// The maps, read. One that is of another disk is said and left out: then that disk is read whole.
    pub(crate) fn maps(
        &self,
        sources: &[BackupSource],
        bitmaps: &Bitmaps,
        context: &Context,
    ) -> Result<Maps, Failure> {
        let mut hints: Vec<Hint> = Vec::new();
        for given in &self.changed {
            let (name, disk) = meant(given, sources)?;
            if hints.iter().any(|hint| hint.disk == *name) {
                return Err(Failure::usage(format!(
                    "--changed names {name} twice; give one map for each disk"
                )));
            }
            if bitmaps::named(&given.path).is_some() {
                let found = bitmaps.take(name)?;
                hints.extend(found.map(|map| Hint { disk: name.clone(), map }));
                continue;
            }
            let file = open_file(&given.path).map_err(Failure::from)?;
            match ChangeMap::read(file, disk.size_bytes()) {
                Ok(map) => hints.push(Hint { disk: name.clone(), map }),
                Err(error @ MapError::OtherDisk { .. }) => {
                    context.output.warning(&format!(
                        "all of {name} is read, for its change map {} cannot be used: {error}",
                        plain::path(&given.path)
                    ));
                }
                Err(error) => {
                    return Err(Failure::failed(format!(
                        "{}: {error}; nothing was saved, without --changed the whole disk is read",
                        plain::path(&given.path)
                    )));
                }
            }
        }
        Ok(Maps::new(hints, self.changed_since.clone(), self.verify_millionths()))
    }

    /// How much of what a map calls unchanged is compared.
    pub(crate) fn verify_millionths(&self) -> u32 {
        self.verify_unchanged.unwrap_or(Share(MILLIONTHS_PER_PERCENT)).0
    }
}

/// The disk that a map is of: the named one, or the only one.
fn meant<'a>(given: &DiskSource, sources: &'a [BackupSource]) -> Result<(&'a Title, &'a dyn Disk), Failure> {
    let mut disks = sources.iter().filter_map(|source| match &source.input {
        Input::Disk(disk) => Some((&source.name, &**disk)),
        Input::Stream(_) | Input::Catalogue(_) => None,
    });
    match &given.name {
        Some(name) => disks.find(|(disk, _)| *disk == name).ok_or_else(|| {
            Failure::usage(format!("--changed names {name}, which is no disk that is backed up"))
        }),
        None => match (disks.next(), disks.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(Failure::usage("say whose change map it is, as in --changed disk0=FILE")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_more_than_nothing_and_not_more_than_all() {
        for (text, millionths) in [("1%", 10_000), ("0.5%", 5_000), ("0.0001%", 1), ("100%", 1_000_000)] {
            assert_eq!(text.parse(), Ok(Share(millionths)), "{text}");
        }
        for text in ["", "%", "1", "0%", "0.00001%", "100.1%", "-1%", "1.%", ".5%", "1e2%", "99999999999%"] {
            text.parse::<Share>().unwrap_err();
        }
    }
}
