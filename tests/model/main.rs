//! The commit and gc protocol as an exhaustive model: every order of the steps of all parties, with crashes,
//! zombies, late and repeated requests and lost acknowledgements. See `docs/decisions/0001-commit-protocol.md`.
//!
//! `cargo test -p sancerre-model -- --nocapture --test-threads 1` prints states and verdicts;
//! `SANCERRE_MODEL=deep` adds the large configurations, `SANCERRE_MODEL_TRACE=1` the counterexamples of the flaws;
//! `SANCERRE_MODEL_ONLY=name` explores one configuration alone.

// The numbers of states are the result of these tests.
#![allow(clippy::print_stderr)]

mod chain;
mod checkpoint;
mod collector;
mod config;
mod dispute;
mod distrust;
mod exhaustive;
mod explore;
mod hostile;
mod lost;
mod mutants;
mod mutants_of_trust;
mod notes;
mod numbering;
mod persons;
mod properties;
mod protocol;
mod reader;
mod records;
mod state;
mod store;
mod suspects;
mod trust;
mod unsaid;
mod unsaid_log;
mod unsaid_mutants;
mod unsaid_view;
mod view;
mod writer;
