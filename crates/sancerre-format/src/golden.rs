//! Golden bytes: what version 1 wrote must be written and read for ever.

use std::path::PathBuf;

/// Compares `bytes` with `testdata/v1/<name>`, or writes that file when `SANCERRE_BLESS=1`.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/v1").join(name);
    if std::env::var_os("SANCERRE_BLESS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("testdata can be made");
        std::fs::write(&path, bytes).expect("golden bytes can be written");
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(golden == bytes, "{name}: the format changed; a released format never may");
}
