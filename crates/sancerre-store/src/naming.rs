//! What the store must know of keys: which of them name packs.

/// The folder of a session's packs, with its slash, if the key is a pack's.
pub(crate) fn pack_folder(key: &str) -> Option<&str> {
    let folder = key.get(..=key.rfind('/')?)?;
    (folder.rsplit('/').nth(2) == Some("packs")).then_some(folder)
}
