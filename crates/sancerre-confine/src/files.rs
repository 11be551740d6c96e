//! Landlock: the files that the program may read or write, and no others; or none at all.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::Confinement;

/// Where programs find their libraries.
const LIBRARIES: [&str; 6] = ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];
/// Files that programs open before they begin.
const SMALL: [&str; 3] = ["/etc/ld.so.cache", "/dev/urandom", "/dev/null"];

/// Confines this thread, and what it becomes, for good.
pub(crate) fn confine(confinement: &Confinement) -> Result<(), String> {
    enforce(ruleset(confinement))
}

/// As [`confine`], and leaves no file to be opened.
pub(crate) fn seclude() -> Result<(), String> {
    enforce(empty())
}

fn enforce(rules: Result<RulesetCreated, Box<dyn std::error::Error>>) -> Result<(), String> {
    let rules = rules.map_err(|error| error.to_string())?;
    let status = rules.restrict_self().map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel has none".to_owned()),
        // What newer kernels add is taken where it is there; seccomp does the same work.
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}

/// Without a rule everything is denied.
fn empty() -> Result<RulesetCreated, Box<dyn std::error::Error>> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?;
    Ok(ruleset.create()?)
}

fn ruleset(confinement: &Confinement) -> Result<RulesetCreated, Box<dyn std::error::Error>> {
    let mut rules = empty()?;
    for path in LIBRARIES.map(Path::new).into_iter().filter(|path| path.exists()) {
        rules = allow(rules, path, AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    for path in SMALL.map(Path::new).into_iter().filter(|path| path.exists()) {
        let writes =
            if path == Path::new("/dev/null") { AccessFs::WriteFile.into() } else { BitFlags::EMPTY };
        rules = allow(rules, path, writes | AccessFs::ReadFile)?;
    }
    rules = allow(rules, &confinement.program, AccessFs::Execute | AccessFs::ReadFile)?;
    for path in &confinement.readable {
        let lists = if path.is_dir() { AccessFs::ReadDir.into() } else { BitFlags::EMPTY };
        rules = allow(rules, path, lists | AccessFs::ReadFile)?;
    }
    for path in &confinement.writable {
        rules = allow(rules, path, AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate)?;
    }
    Ok(rules)
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Box<dyn std::error::Error>> {
    Ok(rules.add_rule(PathBeneath::new(PathFd::new(path)?, access))?)
}
