//! An index far larger than memory.
//!
//! - `index make DIR CHUNKS`: a repository in DIR/repo whose index knows so many chunks, and DIR/writer.key. The packs
//!   are sparse files: whoever compares sizes finds them, whoever reads them finds nothing.
//! - `index measure DIR INDEX_MIB`: loads that index within so much memory as a backup does, and says what it takes,
//!   how often the filter is wrong, and how fast lookups are.
#![allow(clippy::print_stdout)]

mod make;
mod measure;
mod synthetic;

use std::path::Path;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match words.as_slice() {
        ["make", dir, chunks] => runtime.block_on(make::run(Path::new(dir), chunks.parse()?)),
        ["measure", dir, share] => runtime.block_on(measure::run(Path::new(dir), share.parse()?)),
        _ => bail!("usage: index make DIR CHUNKS | index measure DIR INDEX_MIB"),
    }
}
