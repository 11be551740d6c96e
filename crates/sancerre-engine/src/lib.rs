//! The Sancerre engine: backup of virtual disks into a repository on a store, for programs to build upon.
//!
//! It is handed a store, a [`Host`] (clock, randomness, sealing, processors) and keys, and prints nothing: what happens on
//! the way goes to a [`Monitor`]. All that a program needs is named at this root; the modules hold the rest. `examples/` has
//! three small programs: `backup`, `restore` and `read_disk`.
//!
//! ```
//! use sancerre_engine::{
//!     BackupOptions, BackupSource, Host, Keys, Monitor, Name, NewRepository, Repository, RestoreOptions, SecretString, Store,
//!     Title, Zone, backup, dump, init, open_snapshot,
//! };
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (store, host, monitor) = (Store::in_memory(), Host::real("example 1.0"), Monitor::silent());
//! let (zone, passphrase) = (Zone::new("default")?, SecretString::from("correct horse".to_owned()));
//! let made = init(&store, &host, &NewRepository::new(passphrase.clone(), zone.clone(), Name::new("host1")?)).await?;
//!
//! // A host backs up with its key file, which opens no content.
//! let writer = Keys::from_key_file(made.key_file.as_bytes())?;
//! let repository = Repository::open(store.clone(), host.clone(), writer).await?;
//! let disk = BackupSource::of_stream(Title::new("disk0")?, Box::new(&b"what is on the disk"[..]));
//! backup(&repository, BackupOptions::new(Title::new("web01")?, vec![disk]), &monitor).await?;
//!
//! // The passphrase restores.
//! let keys = Keys::from_passphrase(&store, &zone, &passphrase).await?;
//! let repository = Repository::open(store, host, keys).await?;
//! let snapshot = open_snapshot(&repository, "web01:latest", &monitor).await?;
//! let (disk, mut bytes) = (snapshot.member("disk0").ok_or("no such disk")?, Vec::new());
//! dump(&snapshot, disk, &mut bytes, &RestoreOptions::new(64 << 20), &monitor).await?;
//! assert_eq!(bytes, b"what is on the disk");
//! # Ok(()) }
//! ```
//!
//! # The verbs
//!
//! | to | call |
//! |---|---|
//! | make a repository, and open it | [`init()`], [`Repository::open`] |
//! | make and end keys | [`certify`], [`revoke()`] |
//! | save the disks of a machine | [`backup()`] |
//! | list snapshots, and open one | [`Log::load_recent`], [`Log::snapshots`], [`open_snapshot`] |
//! | bring a disk back | [`restore()`] to a target, [`dump`] in order, [`open_disk`] here and there |
//! | compare two snapshots | [`diff()`] |
//! | look for damage | [`check()`] with keys, [`audit()`] without |
//! | mend, or give up what is lost | [`repair()`], [`rebuild_index`] |
//! | let snapshots go, and not | [`forget()`], [`undelete`], [`hold`], [`release`] |
//! | delete what nothing needs | [`gc()`] |
//! | count | [`stats()`] |
//!
//! # Options and reports
//!
//! Options are structs with public fields: begun by `new`, which takes what must be said, or by `default`, and changed field by
//! field or by struct update (`GcOptions { dry_run: true, ..GcOptions::default() }`). Whoever writes the update goes on
//! compiling when a field is added, so they are not `#[non_exhaustive]`, which would forbid it to other crates. The command
//! line names every field instead, so that it cannot forget a new one. Reports are only read, and are `#[non_exhaustive]`.
//!
//! Functions take a [`Repository`] first and then, where a caller decides by one that he has read, its [`Log`]: `&Log` is
//! read, `&mut Log` is brought up to date. A [`Log`] is a handle, as [`Repository`] and [`Store`] are: whoever keeps one clones it.
//!
//! # What comes back
//!
//! An [`Error`] says what failed, on which object or disk, and what to do. [`Error::kind`] is for a program that must decide,
//! [`Error::advice`] the next step as a value. What is damaged is no error of [`check()`] and [`audit()`] but a [`Finding`].
//! What is worth knowing while the work goes on is an [`Event`] with a [`Topic`].
//!
//! Messages name what can be done as a [`Verb`] or a [`Setting`], which read as the names of functions and fields here. A
//! program that calls them otherwise says so once, with [`speak`].
//!
//! # Stopping
//!
//! One [`Cancel`], given to the [`Monitor`] ([`Monitor::stopped_by`]) and to the store ([`StoreOptions`]), stops both: work
//! ends at its next safe point with [`Error::Interrupted`], and nobody waits for a store that is away. A backup then publishes
//! what is durable, so that the next one need not store it again, and ends its session.
//!
//! A future may also be dropped; nothing is lost by that, as nothing is by the death of the process. A backup's or a
//! collection's session then stays open until a [`gc()`] ends it, and a target keeps its partial file.
//!
//! # How it works
//!
//! Backup: disk → [`mod@backup`] regions → chunks → frames → packs → [`store`], then lists, index and manifest
//! ([`repository::session`]). Restore: manifest → [`map`] → plan → ranges of packs → target ([`mod@restore`]).

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::panic, clippy::unwrap_used))]

mod annex;
pub mod audit;
pub mod backup;
pub mod boot_trace;
pub mod check;
pub mod diff;
pub mod drill;
pub mod file_catalogue;
pub mod forget;
pub mod gc;
pub mod index;
pub mod init;
pub mod lock;
mod notes;
mod open;
pub mod repair;
pub mod restore;
pub mod revoke;
pub mod select;
pub mod stats;
pub mod suspicion;

pub use audit::{AuditOptions, AuditReport, audit};
pub use backup::{BackupOptions, BackupReport, BackupSource, Input, backup};
pub use check::{CheckOptions, CheckReport, Finding, ReadData, Severity, check};
pub use diff::{MemberDiff, diff};
pub use forget::{ForgetOptions, ForgetReport, Released, Selection, forget, hold, release, undelete};
pub use gc::{GcOptions, GcReport, gc};
pub use index::rebuild_index;
pub use init::{Made, NewRepository, init};
pub use open::{open_disk, open_snapshot};
pub use repair::{RepairOptions, RepairReport, repair};
pub use restore::{RestoreFailure, RestoreOptions, RestoreReport, dump, restore};
pub use revoke::{Revoked, revoke};
pub use select::Selector;
pub use stats::{Stats, stats};

pub use sancerre_advice::{Advice, Setting, Spelling, Verb, speak};
pub use sancerre_format::certificate::Role;
pub use sancerre_format::config::Layout;
pub use sancerre_format::id::SessionId;
pub use sancerre_format::names::{Name, Time, Title, Zone};
pub use sancerre_format::outcome::{Member, MemberKind};
pub use sancerre_image::{Disk, DiskTarget, RawDisk, RawTarget, open_raw};
pub use sancerre_repository::host::Host;
pub use sancerre_repository::keys::certify::{NewKey, certify};
pub use sancerre_repository::keys::{Keys, SecretString, Unlock};
pub use sancerre_repository::log::Log;
pub use sancerre_repository::monitor::{Cancel, Counters, Event, Monitor, Topic};
pub use sancerre_repository::snapshot::SnapshotReader;
pub use sancerre_repository::snapshot_disk::{BlockingSnapshotDisk, ChunkCache, SnapshotDisk};
pub use sancerre_repository::{
    self as repository, Error, ErrorKind, Repository, Result, StoreError, cache, dedup, error, frames, host,
    keys, map, monitor,
};
pub use sancerre_store::{self as store, Store, StoreOptions, location};
