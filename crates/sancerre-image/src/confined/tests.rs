//! A real child with real images; and children that lie, which are threads at the other end of the socket.

// Lists of ranges with one range in them are meant.
#![allow(clippy::single_range_in_vec_init)]

mod child;
mod lies;

use std::ffi::OsString;

use sancerre_confine::Helper;

use super::{ConfinedReader, inside};

/// Not a test: this binary is its own child, when it is called with arguments after `--`.
#[test]
fn helper() {
    let mut arguments = std::env::args_os().skip_while(|word| word != "--");
    if arguments.next().is_some() {
        std::process::exit(sancerre_confine::run(arguments, inside));
    }
}

/// With this binary as the child.
pub(crate) fn confined_reader() -> ConfinedReader {
    let arguments = ["confined::tests::helper", "--exact", "--nocapture", "--"].map(OsString::from).to_vec();
    ConfinedReader::new(Helper { program: std::env::current_exe().unwrap(), arguments }, true)
}
