//! Limits, and rights that are given up.

use std::io;

use rustix::process::{
    Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

use crate::Limits;

/// Sets the limits. No core is written, and nothing else either unless it `writes`.
pub(crate) fn limit(limits: &Limits, writes: bool) -> io::Result<()> {
    let file_bytes = if writes { limits.file_bytes } else { 0 };
    for (resource, value) in [
        (Resource::As, limits.address_space_bytes),
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Nofile, limits.open_files),
        (Resource::Core, 0),
        (Resource::Fsize, file_bytes),
    ] {
        if value == u64::MAX {
            continue;
        }
        // A limit that is lower already cannot be raised, and need not be.
        let most = getrlimit(resource).maximum.map_or(value, |most| most.min(value));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

/// Of what root may do, only `kept` is left. A program that is started gets nothing back.
pub(crate) fn drop_rights(kept: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    let kept = capabilities(None)?.permitted & kept;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(())
}

/// Whoever reads foreign bytes for a caller is killed when the caller ends. Fails when it has ended already.
pub(crate) fn end_with(parent: u64) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = getppid().map(|process| process.as_raw_nonzero().get());
    if now.and_then(|now| u64::try_from(now).ok()) == Some(parent) {
        return Ok(());
    }
    Err(io::Error::other("it is gone"))
}
