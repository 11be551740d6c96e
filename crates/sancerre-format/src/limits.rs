//! Largest sizes of objects (FORMAT.md §1.4). No reader fetches more, and no writer makes more.

use crate::error::{Result, ensure};
use crate::names;

/// `config` and everything below `keys/`.
pub const KEY_BYTES_MAX: u64 = 1 << 20;
/// A log entry.
pub const LOG_BYTES_MAX: u64 = 32 << 20;
/// An outcome.
pub const OUTCOME_BYTES_MAX: u64 = 64 << 20;
/// A pack list.
pub const LIST_BYTES_MAX: u64 = 32 << 20;
/// An index segment.
pub const INDEX_BYTES_MAX: u64 = 128 << 20;
/// A checkpoint.
pub const CHECKPOINT_BYTES_MAX: u64 = 64 << 20;
/// Records in a checkpoint, once decompressed.
pub const CHECKPOINT_RECORDS_BYTES_MAX: u64 = 256 << 20;
/// What a pack may have beyond the `pack-bytes` of its repository: head, table, directory, and a frame that is larger.
pub const PACK_OVERHEAD_BYTES: u64 = 64 << 20;
/// A pack of any repository: the largest `pack-bytes`, and what comes on top.
pub const PACK_BYTES_MAX: u64 = (1 << 30) + PACK_OVERHEAD_BYTES;
/// Text of a public part.
pub const PUBLIC_TEXT_BYTES_MAX: u64 = 64 << 20;
/// Packs of which one public part names something.
pub const PACKS_NAMED_MAX: u64 = 1 << 20;

/// A pack of a repository with these `pack-bytes`.
pub fn pack_bytes_max(pack_bytes: u32) -> u64 {
    u64::from(pack_bytes).saturating_add(PACK_OVERHEAD_BYTES)
}

/// What the object under a key is, and its largest size. A key of no known form is a pack's at most.
pub fn of_key(key: &str) -> (&'static str, u64) {
    let in_zone = key.strip_prefix(names::ZONE_FOLDERS).and_then(|rest| rest.split('/').nth(1));
    match in_zone {
        Some("log") => ("log entry", LOG_BYTES_MAX),
        Some("outcome") => ("outcome", OUTCOME_BYTES_MAX),
        Some("lists") => ("pack list", LIST_BYTES_MAX),
        Some("index") => ("index segment", INDEX_BYTES_MAX),
        Some("checkpoints") => ("checkpoint", CHECKPOINT_BYTES_MAX),
        _ if key == names::CONFIG || key.starts_with(names::KEYS) => ("key object", KEY_BYTES_MAX),
        _ => ("object", PACK_BYTES_MAX),
    }
}

/// Fails for an object that is larger than its kind may be: it is damaged, whatever its bytes are.
pub fn check(key: &str, size_bytes: u64) -> Result<()> {
    let (what, most) = of_key(key);
    ensure(size_bytes <= most, what, || format!("it is too large: {size_bytes} bytes, at most {most}"))
}

/// More keepers than anybody has, asked for once, would keep all that is there for ever.
pub const APPROVALS_MAX: u32 = 16;

/// How many must approve, if so many may be asked for.
pub(crate) fn approvals(needed: u32) -> Result<u32> {
    ensure(needed <= APPROVALS_MAX, "approvals", || {
        format!("{needed} are more than the {APPROVALS_MAX} that may be asked for")
    })?;
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_limit() {
        let cases = [
            ("config", KEY_BYTES_MAX),
            ("keys/recipients/0001-zzz", KEY_BYTES_MAX),
            ("keys/anything/else/at/all", KEY_BYTES_MAX),
            ("zones/default/log/0000000000000001", LOG_BYTES_MAX),
            ("zones/default/outcome/0000000000000001-ab", OUTCOME_BYTES_MAX),
            ("zones/default/lists/0000000000000001-ab/00000000", LIST_BYTES_MAX),
            ("zones/log/index/0000000000000001-ab/00000000", INDEX_BYTES_MAX),
            ("zones/default/checkpoints/0000000000000001", CHECKPOINT_BYTES_MAX),
            ("zones/default/packs/0000000000000001/00000000-ab", PACK_BYTES_MAX),
            ("probe/a/b", PACK_BYTES_MAX),
        ];
        for (key, most) in cases {
            assert!(check(key, most).is_ok(), "{key}");
            let error = check(key, most + 1).unwrap_err().to_string();
            assert!(error.contains("too large") && error.contains(&most.to_string()), "{error}");
        }
    }
}
