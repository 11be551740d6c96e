//! The disks of a QEMU, as its monitor lists them.

use std::path::PathBuf;

use serde_json::Value;

use crate::checkpoint::Names;

/// A disk of a QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuDisk {
    /// What it is called: its drive's name, else that of its device.
    pub target: String,
    /// Why it is not backed up; none if it is.
    pub skipped: Option<String>,
    /// Whether it holds nothing of the machine's own: an empty drive, a medium.
    pub is_medium: bool,
    /// What its bytes are read from and written to.
    pub(super) node: String,
    pub(super) file: Option<PathBuf>,
    pub(super) size_bytes: u64,
    /// Whether lists of changes outlive the process.
    pub(super) keeps_bitmaps: bool,
    pub(super) bitmaps: Vec<QemuBitmap>,
}

/// A list of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QemuBitmap {
    pub(super) name: String,
    /// Whether it has every change since it was made.
    pub(super) is_good: bool,
}

impl QemuDisk {
    /// All disks that `query-block` tells of.
    ///
    /// Errors: what it said is no list of disks, or two are called the same.
    pub(super) fn all(answer: &Value) -> Result<Vec<Self>, String> {
        let blocks = answer.as_array().ok_or("query-block gave no list")?;
        let disks: Vec<Self> = blocks.iter().filter_map(Self::parse).collect();
        for (at, disk) in disks.iter().enumerate() {
            if disks.iter().skip(at.saturating_add(1)).any(|other| other.target == disk.target) {
                return Err(format!(
                    "two of its disks are called {}; give each its own name, as in -device virtio-blk-pci,id=vda,drive=…",
                    disk.target
                ));
            }
        }
        Ok(disks)
    }

    fn parse(block: &Value) -> Option<Self> {
        let text = |value: &Value, name: &str| {
            value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let target = text(block, "device").or_else(|| text(block, "qdev").map(|path| device(&path)))?;
        let is_medium = block.get("removable").and_then(Value::as_bool).unwrap_or(false);
        let nothing = Value::Null;
        let inserted = block.get("inserted").unwrap_or(&nothing);
        let image = inserted.get("image").unwrap_or(&nothing);
        let node = text(inserted, "node-name");
        let size_bytes = image.get("virtual-size").and_then(Value::as_u64).unwrap_or(0);
        let is_read_only = inserted.get("ro").and_then(Value::as_bool).unwrap_or(false);
        let skipped = match (is_medium, &node) {
            (true, _) => Some("it is a drive for media".to_owned()),
            (false, None) => Some("nothing is in it".to_owned()),
            (false, Some(_)) if size_bytes == 0 => Some("it has no size".to_owned()),
            (false, Some(_)) => None,
        };
        let bitmaps = inserted.get("dirty-bitmaps").and_then(Value::as_array).into_iter().flatten();
        Some(Self {
            target,
            skipped,
            is_medium,
            node: node.unwrap_or_default(),
            file: text(image, "filename").map(PathBuf::from).filter(|path| path.is_absolute()),
            size_bytes,
            keeps_bitmaps: text(inserted, "drv").as_deref() == Some("qcow2") && !is_read_only,
            bitmaps: bitmaps.filter_map(QemuBitmap::parse).collect(),
        })
    }

    /// The lists of changes on it that are ours.
    pub(super) fn ours<'a>(&'a self, names: &'a Names) -> impl Iterator<Item = &'a QemuBitmap> {
        self.bitmaps.iter().filter(|bitmap| names.is_ours(&bitmap.name))
    }
}

impl QemuBitmap {
    fn parse(bitmap: &Value) -> Option<Self> {
        let is = |name: &str| bitmap.get(name).and_then(Value::as_bool).unwrap_or(false);
        Some(Self {
            name: bitmap.get("name")?.as_str()?.to_owned(),
            is_good: is("recording") && !is("inconsistent"),
        })
    }
}

/// `/machine/peripheral/vda/virtio-backend` is of the device `vda`; what nobody named is called after its place.
fn device(path: &str) -> String {
    let path = path.strip_suffix("/virtio-backend").unwrap_or(path);
    let named = path.strip_prefix("/machine/peripheral/").unwrap_or(path);
    named.trim_start_matches('/').replace(['/', '[', ']'], "-").trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_disk_has_a_name_and_is_taken_or_skipped() {
        let image = json!({"filename": "/vm/a.qcow2", "virtual-size": 1024});
        let bitmaps = json!([
            {"name": "a", "recording": true}, {"name": "b", "recording": true, "inconsistent": true}, {"recording": true}
        ]);
        let inserted =
            json!({"node-name": "n", "drv": "qcow2", "ro": false, "image": image, "dirty-bitmaps": bitmaps});
        let answer = json!([
            {"device": "virtio0", "removable": false, "inserted": inserted},
            {"device": "", "qdev": "/machine/peripheral/vdb/virtio-backend", "inserted": {"node-name": "#block1", "drv": "raw",
                "image": {"filename": "nbd://x", "virtual-size": 5}}},
            {"device": "", "qdev": "/machine/peripheral-anon/device[1]", "removable": true},
            {"device": "x"},
        ]);
        let disks = QemuDisk::all(&answer).unwrap();
        let told: Vec<_> = disks.iter().map(|disk| (disk.target.as_str(), disk.skipped.is_none())).collect();
        let unnamed = "machine-peripheral-anon-device-1";
        assert_eq!(told, [("virtio0", true), ("vdb", true), (unnamed, false), ("x", false)]);
        let good: Vec<bool> = disks[0].bitmaps.iter().map(|bitmap| bitmap.is_good).collect();
        assert_eq!((good, disks[0].keeps_bitmaps, disks[1].file.is_none()), (vec![true, false], true, true));
    }

    proptest! {
        #[test]
        fn whatever_a_monitor_says_is_disks_or_an_error(text in any_json()) {
            if let Ok(disks) = QemuDisk::all(&serde_json::from_str(&text).unwrap()) {
                prop_assert!(disks.iter().all(|disk| disk.skipped.is_some() || disk.size_bytes > 0));
            }
        }
    }

    /// Shaped like an answer, with anything in its fields.
    fn any_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null"),
            Just("true"),
            Just("7"),
            Just("-1"),
            Just("\"x\""),
            Just("\"/a/b\""),
            Just("[]")
        ];
        let names = prop_oneof![
            Just("device"),
            Just("qdev"),
            Just("removable"),
            Just("inserted"),
            Just("image"),
            Just("node-name"),
            Just("virtual-size"),
            Just("dirty-bitmaps"),
            Just("filename"),
            Just("ro"),
            Just("name"),
        ];
        let json = leaf.prop_map(str::to_owned).prop_recursive(4, 40, 6, move |inner| {
            let field =
                (names.clone(), inner.clone()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(","))),
                prop::collection::vec(field, 0..6).prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        });
        prop::collection::vec(json, 0..4).prop_map(|all| format!("[{}]", all.join(",")))
    }

    #[test]
    fn two_disks_of_one_name_are_refused() {
        let twice = json!([{"device": "a"}, {"device": "a"}]);
        assert!(QemuDisk::all(&twice).unwrap_err().contains("two of its disks"));
        QemuDisk::all(&json!({})).unwrap_err();
    }
}
