//! Which night the changes are since: by the names of checkpoints and the log, and by nothing else.

use super::Live;
use crate::checkpoint;
use crate::error::CaptureError;
use crate::picture::Pull;
use crate::xml::Element;

/// Snapshots whose checkpoint is looked for in the images when libvirt has lost it.
const LOOKED_FOR: usize = 2;

/// What the changes are since.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) checkpoint: String,
    pub(super) snapshot: String,
    /// The disks of which it keeps a list.
    pub(super) marked: Vec<String>,
}

impl Live {
    /// Of a machine that does not run: the list of changes that its images keep, if they were closed well, and the snapshot
    /// that it is since.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn kept(&self, snapshots: &[String]) -> Result<Option<(String, String)>, CaptureError> {
        let ours = self.checkpoints()?;
        let named =
            snapshots.iter().rev().map(|snapshot| (self.names.checkpoint(snapshot), snapshot.clone()));
        Ok(named.into_iter().find(|(name, _)| ours.contains(name)))
    }

    /// The newest checkpoint of ours whose session became a snapshot. The others of ours are deleted, unless nothing is to
    /// be left changed.
    pub(super) fn base(&self, pull: &Pull, notes: &mut Vec<String>) -> Result<Option<Base>, CaptureError> {
        let ours = self.checkpoints()?;
        let newest = pull.snapshots.iter().rev();
        let named = |snapshot: &&String| ours.contains(&self.names.checkpoint(snapshot));
        let mut found = newest.clone().find(named).cloned();
        if found.is_none() && pull.session.is_some() {
            found = newest.take(LOOKED_FOR).find(|snapshot| self.recover(snapshot)).cloned();
        }
        let base = found.map(|snapshot| (self.names.checkpoint(&snapshot), snapshot));
        if pull.session.is_some() {
            for name in ours.iter().filter(|name| Some(*name) != base.as_ref().map(|(name, _)| name)) {
                notes.extend(self.delete(name).err().map(|error| error.to_string()));
            }
        }
        let Some((checkpoint, snapshot)) = base else { return Ok(None) };
        let arguments = ["checkpoint-dumpxml", "--no-domain", "--domain", &self.machine.uuid];
        let (element, _) =
            self.virsh.xml("a checkpoint", &[&arguments[..], &["--checkpointname", &checkpoint]].concat())?;
        Ok(Some(Base { marked: checkpoint::marked(&element), checkpoint, snapshot }))
    }

    /// Our checkpoints.
    pub(super) fn checkpoints(&self) -> Result<Vec<String>, CaptureError> {
        let text = self.virsh.call(&["checkpoint-list", "--name", "--domain", &self.machine.uuid])?;
        let names = text.lines().map(str::trim).filter(|name| self.names.is_ours(name));
        Ok(names.map(str::to_owned).collect())
    }

    /// Tells libvirt of a checkpoint that it has lost, as a machine does that was moved or defined anew: the lists of changes
    /// lie in the images, and libvirt looks whether they are there and good.
    fn recover(&self, snapshot: &str) -> bool {
        let mut targets: Vec<&str> =
            self.machine.taken().filter(|disk| disk.keeps_bitmaps).map(|disk| disk.target.as_str()).collect();
        let Ok(domain) = Element::parse(&self.machine.xml) else { return false };
        while !targets.is_empty() {
            let described = checkpoint::described(&self.names.checkpoint(snapshot), &targets);
            // When it was made nobody knows any more, and nobody asks.
            let described =
                described.holding(Element::new("creationTime").saying("1")).holding(domain.clone());
            let Ok(path) = self.place.write("redefine.xml", &described.written()) else { return false };
            let path = path.display().to_string();
            let arguments = ["checkpoint-create", "--redefine", "--redefine-validate", "--xmlfile", &path];
            match self.virsh.call(&[&arguments[..], &["--domain", &self.machine.uuid]].concat()) {
                Ok(_) => return true,
                Err(CaptureError::Refused { said, .. }) => {
                    let Some(named) = named_in(&said, targets.iter().copied()) else { return false };
                    let named = named.to_owned();
                    targets.retain(|target| *target != named);
                }
                Err(_) => return false,
            }
        }
        false
    }

    /// Deletes a checkpoint of ours with its lists; where they are broken, at least its name.
    pub(super) fn delete(&self, name: &str) -> Result<(), CaptureError> {
        let arguments = ["checkpoint-delete", "--domain", &self.machine.uuid, "--checkpointname", name];
        match self.virsh.call(&arguments) {
            Ok(_) => Ok(()),
            Err(CaptureError::Refused { .. }) => {
                self.virsh.call(&[&arguments[..], &["--metadata"]].concat()).map(drop)
            }
            Err(error) => Err(error),
        }
    }
}

/// The target that an error speaks of.
pub(super) fn named_in<'a>(error: &str, mut targets: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    targets.find(|target| error.contains(&format!("disk '{target}'")))
}
