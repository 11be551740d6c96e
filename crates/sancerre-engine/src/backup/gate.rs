//! The last look before a manifest makes a snapshot final. Whatever went wrong before it, in this program or in the machine
//! under it, ends here: as a failed backup, never as a snapshot that lacks something.

use std::collections::BTreeSet;
use std::sync::Arc;

use sancerre_format::id::FrameName;
use sancerre_format::node::{LeafEntry, Node};
use sancerre_format::outcome::Member;

use super::Run;
use super::upload::Uploader;
use crate::cache::Cache;
use crate::error::{Error, Result, invariant};
use crate::frames::Frames;
use crate::map::MapReader;
use crate::repository::Repository;
use crate::repository::log::Log;

/// Fails unless every frame that the snapshot needs lies in a pack that readers find, and new leaves of its maps, read from
/// the store as a restore reads them, say what was put on them.
///
/// Errors: [`Error::Bug`]; what keeps the leaves from being read.
pub(super) async fn before_manifest(
    repository: &Repository,
    log: &Log,
    uploader: &Uploader,
    run: &Run,
) -> Result<()> {
    let own = uploader.session.id.number;
    let published: BTreeSet<u32> = uploader.published.iter().map(|pack| pack.ordinal).collect();
    for frame in run.uses.frames() {
        let FrameName { pack, .. } = frame;
        let is_found = match pack.session == own {
            true => published.contains(&pack.ordinal),
            false => run.shared.usable.allows_frame(&frame),
        };
        invariant!(is_found, "the snapshot needs frame {frame}, and no reader would find pack {pack}");
    }
    invariant!(
        run.members.len() == run.samples.len(),
        "{} maps for {} members",
        run.samples.len(),
        run.members.len()
    );
    if run.samples.iter().all(|sample| sample.leaves().next().is_none()) {
        return Ok(());
    }
    let mut catalogue = run.shared.usable.catalogue.clone();
    catalogue.add_own(uploader.session.id, &uploader.published);
    // From the store, not from what this machine kept of it.
    let fresh = Repository { cache: Cache::default(), ..repository.clone() };
    let frames = Arc::new(Frames::new(&fresh, log, &catalogue));
    for (member, sample) in run.members.iter().zip(&run.samples) {
        let map = MapReader::new(Arc::clone(&frames), member)?;
        for (number, entries) in sample.leaves() {
            same_leaf(&map, member, number, entries).await?;
        }
    }
    Ok(())
}

async fn same_leaf(map: &MapReader, member: &Member, number: u64, entries: &[LeafEntry]) -> Result<()> {
    let read = map.node(0, number).await?;
    match read.as_deref().map(|stored| &stored.node) {
        Some(Node::Leaf(found)) if found == entries => Ok(()),
        _ => Err(Error::bug(format!(
            "leaf {number} of the map of {} reads otherwise than it was written",
            member.name
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::catalogue::Catalogue;
    use crate::restore::open;
    use crate::restore::tests::support::{SparseDisk, TestRepo, noise};

    #[tokio::test]
    async fn a_leaf_that_reads_otherwise_than_it_was_written_is_found() {
        let repo = TestRepo::new().await;
        let snapshot = repo.back_up(SparseDisk::of(&noise(1, 1 << 20))).await;
        let log = Log::load(&repo.repository).await.unwrap();
        let (catalogue, _) = Catalogue::load_all(&repo.repository, &log).await.unwrap();
        let frames = Arc::new(Frames::new(&repo.repository, &log, &catalogue));
        let reader = open(&repo.repository, &log, snapshot).await.unwrap();
        let member = reader.member("disk0").unwrap();
        let map = MapReader::new(frames, member).unwrap();
        let leaf = map.node(0, 0).await.unwrap().unwrap();
        let Node::Leaf(written) = &leaf.node else { panic!("{:?}", leaf.node) };
        same_leaf(&map, member, 0, written).await.unwrap();
        let mut others = vec![written[1..].to_vec(), Vec::new(), written.clone(), written.clone()];
        others[2][0].offset_bytes += 1;
        others[3][0].place = written[1].place;
        for other in others {
            let error = same_leaf(&map, member, 0, &other).await.unwrap_err();
            assert!(matches!(error, Error::Bug { .. }), "{error}");
        }
        // A leaf that is not there.
        same_leaf(&map, member, 1, written).await.unwrap_err();
    }
}
