//! The `sancerre` program.

fn main() {}
