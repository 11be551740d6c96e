//! Limits, and rights that are given up.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

use crate::Limits;

/// Sets the limits. Nothing is written, neither files nor cores.
pub(crate) fn limit(limits: &Limits) -> io::Result<()> {
    for (resource, value) in [
        (Resource::As, limits.address_space_bytes),
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Nofile, limits.open_files),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
    ] {
        // A limit that is lower already cannot be raised, and need not be.
        let most = rustix::process::getrlimit(resource).maximum.map_or(value, |most| most.min(value));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

/// Of what root may do, only reading files of others is left: images belong to the hypervisor's user. A program
/// that is started gets nothing back.
pub(crate) fn drop_rights() -> io::Result<()> {
    set_no_new_privs(true)?;
    let kept = capabilities(None)?.permitted & CapabilitySet::DAC_READ_SEARCH;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    Ok(())
}
