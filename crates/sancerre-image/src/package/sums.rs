//! The manifest of an OVA: `SHA256(name)= digits`, a line for each file.

use std::collections::BTreeMap;

use super::PackageFault;

const BYTES: usize = 32;

/// The SHA-256 of files. Lines with sums of other kinds are passed over; one that is malformed is an error.
pub(super) fn read(text: &str) -> Result<BTreeMap<Vec<u8>, [u8; BYTES]>, PackageFault> {
    let mut sums = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let bad = || PackageFault::new(format!("its manifest has a line that is none: {line:?}"));
        let (kind, rest) = line.split_once('(').ok_or_else(bad)?;
        let (name, digits) = rest.rsplit_once(')').ok_or_else(bad)?;
        let digits = digits.trim_start().strip_prefix('=').ok_or_else(bad)?.trim();
        if kind.trim() != "SHA256" {
            continue;
        }
        let sum = sum(digits).ok_or_else(bad)?;
        if sums.insert(name.as_bytes().to_vec(), sum).is_some_and(|other| other != sum) {
            return Err(PackageFault::new(format!("its manifest has two sums of {name:?}")));
        }
    }
    Ok(sums)
}

fn sum(digits: &str) -> Option<[u8; BYTES]> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let is_hex = pair.len() == 2 && pair.iter().all(u8::is_ascii_hexdigit);
        std::str::from_utf8(pair).ok().filter(|_| is_hex).and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    pairs.map(byte).collect::<Option<Vec<u8>>>()?.try_into().ok()
}
