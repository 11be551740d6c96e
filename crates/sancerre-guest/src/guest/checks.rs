//! Text of the child's, which anybody may have chosen.

use sancerre_image::process::harmless;

use crate::wire::{VolumeContent, VolumeInfo};

/// Whether it can be a name: anything else could lead out of its folder.
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0)
        && name.len() <= 4096
}

/// Names of volumes are words of paths.
pub(super) fn sanitized(mut volume: VolumeInfo) -> VolumeInfo {
    let is_odd = |letter: char| letter.is_control() || matches!(letter, '/' | ':' | '\\');
    volume.name = volume.name.chars().map(|letter| if is_odd(letter) { '_' } else { letter }).collect();
    match &mut volume.content {
        VolumeContent::Files(files) => {
            files.kind = harmless(&files.kind);
            files.uuid = harmless(&files.uuid);
            files.notes.iter_mut().for_each(|note| *note = harmless(note));
        }
        VolumeContent::Known(text) | VolumeContent::Broken(text) => *text = harmless(text),
        VolumeContent::Unknown => {}
    }
    volume
}
