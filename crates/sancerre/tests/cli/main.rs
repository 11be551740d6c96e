//! The built program as a user meets it, in one test program: forty would each be linked, and be looked through, on their own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod around;
mod attack;
mod audit;
mod careless;
mod changed;
mod cleared;
mod cloud;
mod decoder;
mod drill;
mod durable;
mod exports;
mod folders;
mod formats;
mod guest_files;
mod hypervisor;
mod in_place;
mod keys;
mod killed;
mod libvirt;
mod lock;
mod lost_keys;
mod maps;
mod names;
mod nbd_export;
mod nbd_target;
mod odd;
mod outputs;
mod pages;
mod persons;
mod places;
mod printed;
mod qemu;
mod recover;
mod recovery;
mod repair;
mod rto;
mod smoke;
mod sources;
mod support;
mod suspicion;
mod targets;
mod tls;
mod unsteady;
mod words;
