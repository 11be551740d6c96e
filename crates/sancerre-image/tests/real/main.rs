//! The NBD client and the reader of foreign images against real programs: qemu-nbd, nbdkit, qemu-img.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]
// Lists of ranges with one range in them are meant.
#![allow(clippy::single_range_in_vec_init)]

mod bitmaps;
mod faults;
mod formats;
mod images;
mod open_log;
mod servers;
mod support;
mod tls;

use std::ffi::OsString;

use sancerre_confine::Helper;

/// Not a test: this binary is its own confine helper, when it is called with arguments after `--`.
#[test]
fn helper() {
    let mut arguments = std::env::args_os().skip_while(|word| word != "--");
    if arguments.next().is_some() {
        std::process::exit(sancerre_confine::run(arguments, sancerre_image::confined::inside));
    }
}

fn own_helper() -> Helper {
    let arguments = ["helper", "--exact", "--nocapture", "--"].map(OsString::from).to_vec();
    Helper { program: std::env::current_exe().unwrap(), arguments }
}
