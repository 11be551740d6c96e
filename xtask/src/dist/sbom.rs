//! What the program is made of, as CycloneDX 1.5: every package with version, licence and the checksum of the lock file,
//! and what depends on what. Packages that only build it (macros, compilers of C) have the scope `excluded`.
//!
//! A program for this (`cargo-cyclonedx`) takes minutes to build; cargo knows all of it.

use super::release::Release;
use crate::shell;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A package by name and version.
type Package = (String, String);

/// What `cargo tree` says of the program.
pub(super) struct Parts {
    /// Each package, its licence, and what it depends on.
    packages: BTreeMap<Package, (String, BTreeSet<Package>)>,
    /// Those whose code is in the program.
    inside: BTreeSet<Package>,
}

impl Parts {
    /// Of the program as it is built for Linux.
    pub(super) fn read() -> Result<Self> {
        let all = parse(&tree("normal,build")?)?;
        let inside = parse(&tree("normal,no-proc-macro")?)?.into_keys().collect();
        Ok(Self { packages: all, inside })
    }

    /// Whether code of this package is in the program.
    pub(super) fn is_inside(&self, name: &str, version: &str) -> bool {
        self.inside.contains(&(name.to_owned(), version.to_owned()))
    }
}

fn tree(edges: &str) -> Result<String> {
    let format = ["--prefix", "depth", "--format", " {p}\t{l}"];
    let what = ["tree", "--package", "sancerre", "--locked", "--target", TARGET, "--edges", edges];
    shell::output(shell::cargo(&[what.as_slice(), &format].concat()))
}

/// Lines `DEPTH NAME vVERSION …<TAB>LICENCE`, each below the package that depends on it.
fn parse(text: &str) -> Result<BTreeMap<Package, (String, BTreeSet<Package>)>> {
    let mut packages: BTreeMap<Package, (String, BTreeSet<Package>)> = BTreeMap::new();
    let mut above: Vec<Package> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (depth, name, version, licence) =
            fields(line).with_context(|| format!("cargo tree says `{line}`"))?;
        ensure!(depth <= above.len(), "cargo tree skips a level at `{line}`");
        above.truncate(depth);
        let package = (name, version);
        if let Some(parent) = above.last() {
            packages.entry(parent.clone()).or_default().1.insert(package.clone());
        }
        packages.entry(package.clone()).or_default().0 = licence;
        above.push(package);
    }
    Ok(packages)
}

fn fields(line: &str) -> Option<(usize, String, String, String)> {
    let (package, licence) = line.split_once('\t')?;
    let mut words = package.split_whitespace();
    let (depth, name, version) =
        (words.next()?.parse().ok()?, words.next()?, words.next()?.strip_prefix('v')?);
    // ` (*)`: what it depends on was listed above. `/`: how `OR` was written once.
    let licence = licence.trim_end_matches("(*)").replace('/', " OR ");
    let licence: Vec<&str> = licence.split_whitespace().collect();
    Some((depth, name.to_owned(), version.to_owned(), licence.join(" ")))
}

/// The whole document.
pub(super) fn text(release: &Release) -> Result<String> {
    let parts = Parts::read()?;
    let checksums = checksums()?;
    let component = |package: &Package, licence: &str| {
        let mut entry = json!({
            "type": "library",
            "bom-ref": reference(package),
            "name": package.0,
            "version": package.1,
            "purl": reference(package),
            "scope": if parts.inside.contains(package) { "required" } else { "excluded" },
        });
        if !licence.is_empty() {
            entry["licenses"] = json!([{ "expression": licence }]);
        }
        if let Some(checksum) = checksums.get(package) {
            entry["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        entry
    };
    let is_program = |package: &Package| package.0 == "sancerre";
    let components = parts.packages.iter().filter(|(package, _)| !is_program(package));
    let components: Vec<Value> =
        components.map(|(package, (licence, _))| component(package, licence)).collect();
    let dependencies: Vec<Value> = parts.packages.iter().map(|(package, (_, on))| {
        json!({ "ref": reference(package), "dependsOn": on.iter().map(reference).collect::<Vec<_>>() })
    }).collect();
    let own = parts.packages.iter().find(|(package, _)| is_program(package));
    let (own, (licence, _)) = own.context("cargo tree does not name the program")?;
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": release.time_iso,
            "component": {
                "type": "application",
                "bom-ref": reference(own),
                "name": "sancerre",
                "version": release.version,
                "licenses": [{ "expression": licence }],
            },
        },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn reference((name, version): &Package) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

/// From the lock file; packages of this repository have none.
fn checksums() -> Result<BTreeMap<Package, String>> {
    let text = std::fs::read_to_string(shell::root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let lock: Value = basic_toml::from_str(&text).context("Cargo.lock is no TOML")?;
    let packages = lock["package"].as_array().into_iter().flatten();
    let field = |package: &Value, name: &str| package[name].as_str().map(str::to_owned);
    let found = packages.filter_map(|package| {
        Some(((field(package, "name")?, field(package, "version")?), field(package, "checksum")?))
    });
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::{fields, parse, reference};

    #[test]
    fn what_depends_on_what_is_read_from_the_depths() {
        let text = "0 a v1.0.0 (/a)\tMIT\n1 b v2.0.0\tMIT / ISC\n2 c v3.0.0 (proc-macro)\tZlib\n1 c v3.0.0 (proc-macro)\tZlib (*)\n";
        let packages = parse(text).unwrap();
        let on = |name: &str, version: &str| {
            let (_, on) = &packages[&(name.to_owned(), version.to_owned())];
            on.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            (on("a", "1.0.0"), on("b", "2.0.0"), on("c", "3.0.0")),
            ("b c".into(), "c".into(), String::new())
        );
        assert_eq!(packages[&("b".to_owned(), "2.0.0".to_owned())].0, "MIT OR ISC");
        assert!(parse("0 a v1\tMIT\n2 b v1\tMIT\n").is_err(), "a level is missing");
        assert!(fields("warning: no tree").is_none());
    }

    #[test]
    fn a_plus_in_a_version_is_escaped_in_the_reference() {
        let package = ("zstd-sys".to_owned(), "2.1.3+zstd.1.5.7".to_owned());
        assert_eq!(reference(&package), "pkg:cargo/zstd-sys@2.1.3%2Bzstd.1.5.7");
    }
}
