//! File systems that real programs made, read through a real confined child, and compared with what the kernel (or ntfs-3g, or
//! mtools) says of them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod damage;
mod ext;
mod fat;
mod lab;
mod luks;
mod lvm;
mod ntfs;
mod xfs;
