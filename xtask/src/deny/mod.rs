//! `cargo xtask deny`: licences, bans and sources of all dependencies, as `deny.toml` says.
//!
//! cargo-deny does it where it is installed. Building it takes 3.5 minutes on two cores, a sixth of a whole run on a new
//! machine; so `setup` does not, and the check here takes its place, in less than a second. It reads the same file and
//! knows the few keys used there. Any other key is an error, so that nothing is asked for and then not checked.

mod spdx;

use crate::shell;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;

const POLICY: &str = "deny.toml";
/// How cargo names the public registry in its metadata.
const PUBLIC_REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
const KEYS: [(&str, &[&str]); 3] = [
    ("licenses", &["allow", "unused-allowed-license"]),
    ("bans", &["multiple-versions", "deny"]),
    ("sources", &["unknown-registry", "unknown-git"]),
];

/// What `deny.toml` asks for.
#[derive(Debug)]
struct Policy {
    licences: Vec<String>,
    banned: Vec<String>,
}

/// What is asked about each dependency.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    /// `None` for the members of the workspace.
    source: Option<String>,
}

/// Checks every package of the lock file; each finding is a line.
pub(crate) fn run() -> Result<()> {
    if shell::is_installed("cargo-deny") {
        return shell::run(shell::cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]));
    }
    let text = std::fs::read_to_string(shell::root().join(POLICY)).context("cannot read deny.toml")?;
    let policy = parse(&text)?;
    let metadata = shell::output(shell::cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    let packages = packages(&serde_json::from_str(&metadata).context("cargo metadata wrote no JSON")?);
    ensure!(!packages.is_empty(), "deny: cargo metadata lists no package");
    let findings: Vec<String> = packages.iter().flat_map(|package| judge(package, &policy)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("deny: {} findings; {POLICY} says what is allowed and why", findings.len());
    }
    println!("deny: {} packages, nothing found; {}", packages.len(), duplicates(&packages));
    Ok(())
}

fn parse(text: &str) -> Result<Policy> {
    let policy: Value = basic_toml::from_str(text).context("deny.toml is no TOML")?;
    for (section, entries) in policy.as_object().context("deny.toml is empty")? {
        let known = KEYS.iter().find(|(name, _)| name == section).map(|(_, keys)| *keys);
        let known = known.with_context(|| format!("deny.toml: section [{section}] is not known here"))?;
        for key in entries.as_object().into_iter().flat_map(|entries| entries.keys()) {
            ensure!(known.contains(&key.as_str()), "deny.toml: key `{key}` in [{section}] is not known here");
        }
    }
    let licences = strings(&policy["licenses"]["allow"], |entry| entry.as_str());
    let banned = strings(&policy["bans"]["deny"], |entry| entry["crate"].as_str());
    ensure!(!licences.is_empty(), "deny.toml: [licenses] allows nothing");
    Ok(Policy { licences, banned })
}

fn strings(list: &Value, text: fn(&Value) -> Option<&str>) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(text).map(str::to_owned).collect()
}

fn packages(metadata: &Value) -> Vec<Package> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list = metadata["packages"].as_array().into_iter().flatten();
    list.map(|package| Package {
        name: text(&package["name"]).unwrap_or_default(),
        version: text(&package["version"]).unwrap_or_default(),
        licence: text(&package["license"]),
        source: text(&package["source"]),
    })
    .collect()
}

fn judge(package: &Package, policy: &Policy) -> Vec<String> {
    let mut findings = Vec::new();
    let mut report =
        |message: String| findings.push(format!("{} {}: {message}", package.name, package.version));
    match package.licence.as_deref().map(|licence| (licence, spdx::is_allowed(licence, &policy.licences))) {
        Some((_, Ok(true))) => {}
        Some((licence, Ok(false))) => report(format!("licence `{licence}` is not allowed")),
        Some((_, Err(error))) => report(error.to_string()),
        None => report("names no licence".into()),
    }
    if policy.banned.contains(&package.name) {
        report("is banned".into());
    }
    if let Some(source) = package.source.as_deref().filter(|source| *source != PUBLIC_REGISTRY) {
        report(format!("comes from {source}, not from the public registry"));
    }
    findings
}

/// A line about packages that are there in several versions.
fn duplicates(packages: &[Package]) -> String {
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for package in packages {
        *versions.entry(&package.name).or_default() += 1;
    }
    let names: Vec<&str> = versions.iter().filter(|(_, count)| **count > 1).map(|(name, _)| *name).collect();
    if names.is_empty() {
        "no duplicates".into()
    } else {
        format!("several versions of {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::{PUBLIC_REGISTRY, Package, duplicates, judge, parse};

    const POLICY: &str = "[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [{ crate = \"bad\" }]\n";

    fn package(name: &str, licence: Option<&str>, source: Option<&str>) -> Package {
        let text = |value: Option<&str>| value.map(str::to_owned);
        Package { name: name.into(), version: "1.0.0".into(), licence: text(licence), source: text(source) }
    }

    #[test]
    fn a_package_passes_only_with_licence_name_and_source_in_order() {
        let policy = parse(POLICY).unwrap();
        let findings = |name, licence, source| judge(&package(name, licence, source), &policy).join("\n");
        assert_eq!(findings("good", Some("MIT OR GPL-3.0"), Some(PUBLIC_REGISTRY)), "");
        assert_eq!(findings("ours", Some("MIT"), None), "");
        assert!(findings("good", Some("GPL-3.0"), None).contains("is not allowed"));
        assert!(findings("good", Some("MIT AND"), None).contains("no licence expression"));
        assert!(findings("good", None, None).contains("names no licence"));
        assert!(findings("bad", Some("MIT"), None).contains("is banned"));
        assert!(
            findings("good", Some("MIT"), Some("git+https://a.example/b"))
                .contains("not from the public registry")
        );
    }

    #[test]
    fn a_policy_that_asks_for_more_than_is_checked_is_refused() {
        assert!(parse("[licenses]\nallow = [\"MIT\"]\nconfidence-threshold = 1\n").is_err());
        assert!(parse("[advisories]\nyanked = \"deny\"\n").is_err());
        assert!(parse("[licenses]\nallow = []\n").is_err());
    }

    #[test]
    fn duplicates_are_named() {
        let twice = [package("a", None, None), package("b", None, None), package("a", None, None)];
        assert_eq!(duplicates(&twice), "several versions of a");
        assert_eq!(duplicates(&twice[..2]), "no duplicates");
    }
}
