//! One program for all targets: the variable SANCERRE_FUZZ names the one to run. `cargo xtask fuzz` sets it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("SANCERRE_FUZZ").unwrap_or_else(|_| "records".to_owned());
    sancerre_tests::fuzz::target(&name)
});

fuzz_target!(|data: &[u8]| TARGET(data));
