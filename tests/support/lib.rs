//! What the integration tests share: a host that replays, disks in memory, stores that count and fail, a repository.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod disk;
pub mod host;
pub mod repo;
pub mod store;
