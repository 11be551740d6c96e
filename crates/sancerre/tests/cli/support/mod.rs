//! What tests of the built program share.

pub(crate) mod bucket;
pub(crate) mod devices;
pub(crate) mod faulty;
pub(crate) mod guests;
mod mounted;
mod site;
pub(crate) mod template;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) use mounted::Loop;
pub(crate) use site::{FIRST_LINK_WAITS, Site};

pub(crate) const MIB: usize = 1 << 20;

/// The program that is tested: another than was built with the tests where a measurement names one.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("SANCERRE_LIVE_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_sancerre").into()).into()
}

/// Whether a program is there; the test is skipped, loudly, if not.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\" >/dev/null", program]).status();
    found.is_ok_and(|status| status.success()) || skip(&format!("{program} is not installed"))
}

/// Whether root runs this; the test is skipped, loudly, if not.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t")) || skip("not root")
}

/// Says loudly that a test did not run, and fails where everything must run; false, for a condition.
pub(crate) fn skip(reason: &str) -> bool {
    sancerre_services::skip(reason);
    false
}

/// What it said, on both streams.
pub(crate) fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A variable under which a program that is built for development makes passphrases that are no work to try: each would cost a
/// second of a processor, and there are a thousand.
pub(crate) const CHEAP: [(&str, &str); 1] = [("SANCERRE_TEST_CHEAP_PASSPHRASES", "1")];

/// The last line of standard output, which is JSON.
pub(crate) fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_else(|| panic!("{}", told(output)))).unwrap()
}

/// Incompressible bytes, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let words = (0..length / 8).map(|_| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).to_le_bytes()
    });
    words.flatten().collect()
}

/// A first sector that says on the serial console that somebody may log in; assembled by hand.
pub(crate) fn boot_sector() -> Vec<u8> {
    let mut sector = vec![
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xbe, 0x15, 0x7c, // mov si, 0x7c15: the words
        0xba, 0xf8, 0x03, // mov dx, 0x3f8: the first serial port
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz end
        0xee, // out dx, al
        0xeb, 0xf8, // jmp next
        0xf4, // end: hlt
        0xeb, 0xfd, // jmp end
    ];
    sector.extend(b"tiny login: \0");
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// All files below a folder.
pub(crate) fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

/// Whether it succeeds, whatever it says.
pub(crate) fn quiet(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
