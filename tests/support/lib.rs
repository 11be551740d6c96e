//! What the integration tests share: a host that replays, disks in memory, stores that count and fail, a repository
//! and a plain model of it, signed entries made by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod age;
pub mod backends;
pub mod bucket;
pub mod decade;
pub mod dice;
pub mod disk;
pub mod faults;
pub mod forge;
pub mod fuzz;
pub mod fuzz_image;
pub mod fuzz_serve;
pub mod fuzz_statistics;
pub mod fuzz_storage;
pub mod host;
pub mod ledger;
pub mod link;
pub mod model;
pub mod odd;
pub mod proxy;
pub mod repo;
pub mod slow;
pub mod store;
