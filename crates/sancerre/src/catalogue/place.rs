//! What people call a file, looked up in a catalogue: without the guest's tables, and without following links.

use sancerre_format::file_catalogue::{CataloguedFile, CataloguedFolder, CataloguedVolume};
use sancerre_guest::{FileNode, Moment, NodeKind};

use super::read::{Said, VolumeNames};
use crate::guest_names::unescaped;
use crate::guest_place::windows;

/// A path that is looked for, as its parts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    text: String,
    parts: Vec<Part>,
}

/// A part of a path: compared with every name of a catalogue, so what it may stand for is worked out once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    typed: Vec<u8>,
    /// What `ls` writes so.
    unescaped: Option<Vec<u8>>,
    lower: String,
}

impl Part {
    fn new(typed: &[u8]) -> Self {
        let lower = String::from_utf8_lossy(typed).to_lowercase();
        Self { typed: typed.to_vec(), unescaped: unescaped(typed), lower }
    }

    /// A name as it was typed: exactly, as `ls` shows it, or in another case where that is the same.
    fn is(&self, name: &[u8], folds: bool) -> bool {
        let is_folded = || match name.is_ascii() {
            true => self.lower.as_bytes().eq_ignore_ascii_case(name),
            false => self.lower == String::from_utf8_lossy(name).to_lowercase(),
        };
        self.typed == name || self.unescaped.as_deref() == Some(name) || (folds && is_folded())
    }
}

/// A name that may be a step of the path, by its own whole path.
#[derive(Debug, Clone)]
pub(crate) struct PathStep {
    path: Vec<u8>,
    pub(crate) file: CataloguedFile,
}

/// What the text means in a catalogue.
pub(crate) enum Spot {
    /// These volumes, whole.
    Volumes(Vec<usize>),
    /// Something in one of them, by the path that it has there.
    Inside { volume: usize, path: Vec<u8>, file: Box<CataloguedFile> },
    /// Nothing is there.
    Missing,
    /// Only the disks can tell: a link on the way, or words that a catalogue does not know.
    Unknown,
}

impl Wanted {
    /// What follows a snapshot or a machine, as it was typed.
    pub(crate) fn new(text: &str) -> Self {
        let parts = text.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".");
        Self { text: text.to_owned(), parts: parts.map(|part| Part::new(part.as_bytes())).collect() }
    }

    /// Whether a name in a folder may be a step of the path, wherever its volume is mounted.
    pub(crate) fn step(
        &self,
        folder: &CataloguedFolder,
        file: &CataloguedFile,
        folds: bool,
    ) -> Option<PathStep> {
        let is_step = self.parts.iter().enumerate().any(|(at, part)| {
            part.is(&file.name, folds) && {
                let mut before = self.parts.get(..at).unwrap_or_default().iter().rev();
                let above = folder.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).rev();
                above.into_iter().all(|name| before.next().is_some_and(|part| part.is(name, folds)))
            }
        });
        is_step.then(|| PathStep { path: joined(&folder.path, &file.name), file: file.clone() })
    }

    /// What it means.
    pub(crate) fn find<T>(&self, said: &Said<T>, steps: impl Fn(&T) -> &[PathStep]) -> Spot {
        if self.parts.iter().any(|part| part.typed == b"..") {
            return Spot::Unknown;
        }
        let readable = |volume: &&(usize, &VolumeNames<T>)| volume.1.info.has_names;
        let volumes: Vec<_> = said.volumes.iter().enumerate().filter(|volume| readable(&volume)).collect();
        if self.text.is_empty() {
            return Spot::Volumes(volumes.iter().map(|(at, _)| *at).collect());
        }
        let (found, skip) = match self.volume(said, &volumes) {
            Ok(found) => found,
            Err(spot) => return spot,
        };
        let Some((_, volume)) = volumes.iter().find(|(at, _)| *at == found) else { return Spot::Unknown };
        let parts = self.parts.get(skip..).unwrap_or_default();
        let (mut path, mut last) = (Vec::new(), None::<CataloguedFile>);
        for part in parts {
            let all = volume.parts.iter().flat_map(|kept| steps(kept));
            let folds = volume.info.folds;
            let is_it = |step: &&PathStep| {
                let (above, name) = split(&step.path);
                above == path && part.is(name, folds)
            };
            // By the exact name first.
            let mut candidates: Vec<&PathStep> = all.filter(is_it).collect();
            candidates.sort_by_key(|step| split(&step.path).1 != part.typed.as_slice());
            let Some(step) = candidates.first() else { return Spot::Missing };
            if step.file.kind == LINK {
                return Spot::Unknown;
            }
            (path, last) = (step.path.clone(), Some(step.file.clone()));
        }
        let root = CataloguedFile { kind: FOLDER, ..CataloguedFile::default() };
        Spot::Inside { volume: found, path, file: Box::new(last.unwrap_or(root)) }
    }

    /// The volume that is meant, and how many parts of the path that took.
    fn volume<T>(
        &self,
        said: &Said<T>,
        volumes: &[(usize, &VolumeNames<T>)],
    ) -> Result<(usize, usize), Spot> {
        if let Some((letter, _)) = windows(&self.text) {
            let mount = format!("{letter}:");
            let found = volumes.iter().find(|(_, volume)| volume.info.mount == mount.as_bytes());
            return found.map(|(at, _)| (*at, 1)).ok_or(Spot::Unknown);
        }
        if self.text.starts_with('/') {
            return self.mounted(volumes);
        }
        let disk = said.disks.iter().filter(|name| {
            let rest = self.text.strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        });
        let disk = disk.max_by_key(|name| name.len()).ok_or(Spot::Unknown)?;
        let rest = self.text.get(disk.len()..).unwrap_or_default().trim_start_matches(':');
        let on: Vec<_> = volumes.iter().filter(|(_, volume)| is_on(&volume.info, disk)).collect();
        // A name of a disk may have slashes in it.
        let of_disk = disk.matches(['/', '\\']).count();
        if rest.is_empty() {
            return Err(Spot::Volumes(on.iter().map(|(at, _)| *at).collect()));
        }
        if rest.starts_with('/') {
            return match on.as_slice() {
                [(only, _)] => Ok((*only, of_disk.saturating_add(1))),
                _ => Err(Spot::Unknown),
            };
        }
        let name = rest.split(['/', '\\']).next().unwrap_or_default();
        let found = on.iter().find(|(_, volume)| volume.info.name == name).ok_or(Spot::Unknown)?;
        Ok((found.0, of_disk.saturating_add(1)))
    }

    /// The volume whose place in the guest is the longest beginning of the path.
    fn mounted<T>(&self, volumes: &[(usize, &VolumeNames<T>)]) -> Result<(usize, usize), Spot> {
        let parts = |mount: &[u8]| -> Vec<Vec<u8>> {
            mount.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
        };
        let begins_so = |mount: &[Vec<u8>]| {
            let own = self.parts.get(..mount.len());
            own.is_some_and(|own| own.iter().map(|part| &part.typed).eq(mount.iter()))
        };
        let placed = volumes.iter().filter(|(_, volume)| volume.info.mount.starts_with(b"/"));
        let placed: Vec<_> = placed.map(|(at, volume)| (*at, parts(&volume.info.mount))).collect();
        let begins = placed.iter().filter(|(_, mount)| begins_so(mount));
        match (begins.max_by_key(|(_, mount)| mount.len()), volumes) {
            (Some((at, mount)), _) => Ok((*at, mount.len())),
            (None, [(only, _)]) => Ok((*only, 0)),
            (None, _) => Err(Spot::Unknown),
        }
    }
}

const FOLDER: u8 = 1;
const LINK: u8 = 2;

fn is_on(volume: &CataloguedVolume, disk: &str) -> bool {
    volume.disk.is_empty() || volume.disk == disk
}

pub(crate) fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => {
            (path.get(..at).unwrap_or_default(), path.get(at.saturating_add(1)..).unwrap_or_default())
        }
        None => (b"", path),
    }
}

/// As the disks would tell it; of how many names a file has a catalogue says nothing.
pub(crate) fn file_node(file: &CataloguedFile) -> FileNode {
    FileNode {
        id: file.id,
        kind: match file.kind {
            0 => NodeKind::File,
            FOLDER => NodeKind::Directory,
            LINK => NodeKind::Link,
            3 => NodeKind::Special,
            _ => NodeKind::Broken,
        },
        size_bytes: file.size_bytes,
        mode: file.mode,
        owner: file.owner,
        modified: file.modified.map(|(seconds, nanoseconds)| Moment { seconds, nanoseconds }),
        links: 1,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn volume(
        disk: &str,
        name: &str,
        mount: &str,
        paths: &[(&str, u8)],
    ) -> (CataloguedVolume, Vec<(String, u8)>) {
        let info = CataloguedVolume {
            disk: disk.to_owned(),
            name: name.to_owned(),
            mount: mount.as_bytes().to_vec(),
            folds: mount == "C:",
            has_names: true,
            ..CataloguedVolume::default()
        };
        (info, paths.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect())
    }

    fn found(text: &str) -> String {
        let volumes = [
            volume("sda", "p1", "/", &[("srv", 1), ("srv/share", 1), ("short", 2), ("srv/hidden", 0)]),
            volume("sdb", "whole", "/srv/share", &[("plan.txt", 0), ("deep", 1), ("deep/x", 0)]),
            volume("sdc", "p2", "C:", &[("Users", 1), ("Users/Ada", 1)]),
        ];
        let wanted = Wanted::new(text);
        let names = |(info, paths): (CataloguedVolume, Vec<(String, u8)>)| {
            let steps = paths.iter().filter_map(|(path, kind)| {
                let (above, name) = split(path.as_bytes());
                let folder = CataloguedFolder { path: above.to_vec(), ..CataloguedFolder::default() };
                let file = CataloguedFile { name: name.to_vec(), kind: *kind, ..CataloguedFile::default() };
                wanted.step(&folder, &file, info.folds)
            });
            VolumeNames { parts: vec![Arc::new(steps.collect::<Vec<_>>())], info }
        };
        let disks = ["sda", "sdb", "sdc"].map(str::to_owned).to_vec();
        let said = Said::of(disks, volumes.into_iter().map(names).collect());
        match wanted.find(&said, |steps| steps.as_slice()) {
            Spot::Volumes(volumes) => format!("{volumes:?}"),
            Spot::Inside { volume, path, .. } => format!("{volume} {}", String::from_utf8(path).unwrap()),
            Spot::Missing => "missing".to_owned(),
            Spot::Unknown => "unknown".to_owned(),
        }
    }

    #[test]
    fn a_path_means_in_a_catalogue_what_it_means_on_the_disks() {
        for (text, expected) in [
            ("", "[0, 1, 2]"),
            ("/", "0 "),
            ("/srv", "0 srv"),
            ("/srv/share", "1 "),
            ("/srv/share/plan.txt", "1 plan.txt"),
            ("/srv//share/./deep/x", "1 deep/x"),
            ("/srv/share/none", "missing"),
            ("/short/share", "unknown"),
            ("/srv/../srv", "unknown"),
            ("sda:p1/srv/hidden", "0 srv/hidden"),
            ("sdb", "[1]"),
            ("sdb:/deep", "1 deep"),
            ("sda:p9/srv", "unknown"),
            ("c:\\users\\ADA", "2 Users/Ada"),
            ("D:\\x", "unknown"),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }
}
