//! What holds between the rooms of the house: which crate may use which, that modules of a crate do not use each other in a
//! circle, and that a public type has one name in the whole workspace.

use super::Finding;
use super::source::{Source, Token};
use std::collections::{BTreeMap, BTreeSet};

/// What each crate may use of the others; the order is that of reading.
const LAYERS: [(&str, &[&str]); 12] = [
    ("sancerre-advice", &[]),
    ("sancerre-format", &[]),
    ("sancerre-confine", &["advice"]),
    ("sancerre-image", &["advice", "confine"]),
    ("sancerre-guest", &["confine", "image"]),
    ("sancerre-store", &["advice", "format"]),
    ("sancerre-repository", &["advice", "format", "image", "store"]),
    ("sancerre-serve", &["repository"]),
    ("sancerre-boot", &[]),
    ("sancerre-capture", &["advice", "boot"]),
    ("sancerre-engine", &["advice", "format", "image", "store", "repository"]),
    (
        "sancerre",
        &[
            "advice",
            "format",
            "confine",
            "image",
            "guest",
            "store",
            "repository",
            "serve",
            "boot",
            "capture",
            "engine",
        ],
    ),
];

/// Circles that are there, each sorted: nobody may add to them, and one that is gone goes from here.
const CIRCLES: [(&str, &[&str]); 5] = [
    // Records carry certificates, which are records; the configuration says whom to trust.
    ("sancerre-format", &["certificate", "config", "record", "trust"]),
    ("sancerre-format", &["list", "pack"]),
    ("sancerre-image", &["confined", "foreign"]),
    ("sancerre-repository", &["cache", "error", "host", "keys", "log", "repository"]),
    ("sancerre-engine", &["check", "index"]),
];

/// The name of what each crate calls its result.
const SHARED_NAMES: [&str; 1] = ["Result"];

/// Checks all product crates.
pub(super) fn check(texts: &BTreeMap<String, String>, sources: &BTreeMap<String, Source>) -> Vec<Finding> {
    let mut findings = layers(texts);
    for (crate_name, _) in LAYERS.iter().filter(|(name, _)| *name != "sancerre") {
        findings.extend(circles(crate_name, sources));
    }
    findings.extend(twins(sources));
    findings
}

/// Crates that use what they may not, by their manifests.
fn layers(texts: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in texts {
        let Some(name) = path.strip_prefix("crates/").and_then(|rest| rest.strip_suffix("/Cargo.toml"))
        else {
            continue;
        };
        let allowed = LAYERS.iter().find(|(known, _)| *known == name).map(|(_, allowed)| *allowed);
        let Some(allowed) = allowed else {
            findings.push(Finding::new(
                path,
                1,
                "is no layer that tidy knows: add it to the table in tidy/house.rs",
            ));
            continue;
        };
        let mut is_product = false;
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('[') {
                is_product = line == "[dependencies]";
            }
            let used = line.strip_prefix("sancerre-").and_then(|rest| rest.split_once('.'));
            let Some((used, _)) = used.filter(|(used, _)| is_product && !allowed.contains(used)) else {
                continue;
            };
            findings.push(Finding::new(
                path,
                number + 1,
                format!("may not use sancerre-{used}: that is no layer below"),
            ));
        }
    }
    findings
}

/// Circles among the modules at the root of a crate.
fn circles(crate_name: &str, sources: &BTreeMap<String, Source>) -> Vec<Finding> {
    let root = format!("crates/{crate_name}/src/");
    let uses = module_uses(&root, sources);
    if uses.is_empty() {
        return Vec::new();
    }
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for module in uses.keys() {
        let from_here = reach(&uses, module);
        let circle: BTreeSet<String> =
            from_here.iter().filter(|other| reach(&uses, other).contains(module)).cloned().collect();
        if circle.len() > 1 {
            found.insert(circle.into_iter().collect());
        }
    }
    let known: BTreeSet<Vec<String>> = CIRCLES
        .iter()
        .filter(|(name, _)| *name == crate_name)
        .map(|(_, modules)| modules.iter().map(|module| (*module).to_owned()).collect())
        .collect();
    let path = format!("{root}lib.rs");
    let new = found.difference(&known).map(|circle| {
        Finding::new(&path, 1, format!("these modules use each other in a circle: {}", circle.join(", ")))
    });
    let gone = known.difference(&found).map(|circle| {
        let message =
            format!("this circle is not there any more, take it out of tidy/house.rs: {}", circle.join(", "));
        Finding::new(&path, 1, message)
    });
    new.chain(gone).collect()
}

type Uses = BTreeMap<String, BTreeSet<String>>;

/// Which modules at the root of a crate each of them uses, outside of tests.
fn module_uses(root: &str, sources: &BTreeMap<String, Source>) -> Uses {
    let mut uses = Uses::new();
    let mine = sources.iter().filter_map(|(path, source)| Some((path.strip_prefix(root)?, source)));
    for (path, source) in mine {
        let module = path.split(['/', '.']).next().unwrap_or_default();
        let is_test = path.split(['/', '.']).any(|part| matches!(part, "tests" | "testing"));
        if is_test || matches!(module, "lib" | "main" | "bin") {
            continue;
        }
        let named = (0..source.tokens.len()).flat_map(|at| named_at(source, at));
        uses.entry(module.to_owned()).or_default().extend(named.filter(|other| other != module));
    }
    let modules: BTreeSet<String> = uses.keys().cloned().collect();
    uses.values_mut().for_each(|used| used.retain(|module| modules.contains(module)));
    uses
}

/// What `crate::…` at this token names first: one module, or those of a group.
fn named_at(source: &Source, at: usize) -> Vec<String> {
    let tokens = &source.tokens;
    if !source.matches(at, &["crate", ":", ":"]) || source.is_test_line(tokens[at].line) {
        return Vec::new();
    }
    let Some(next) = tokens.get(at + 3) else { return Vec::new() };
    if next.text != "{" {
        return vec![next.text.clone()];
    }
    let group = tokens[at + 4..].iter().take_while(|token| token.depth > next.depth);
    let group: Vec<&Token> = group.filter(|token| token.depth == next.depth + 1).collect();
    let starts = group.iter().enumerate().filter(|(index, _)| *index == 0 || group[index - 1].text == ",");
    starts.map(|(_, token)| token.text.clone()).collect()
}

/// All modules that can be come to from `module`, which is one of them only in a circle.
fn reach(uses: &Uses, module: &str) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![module.to_owned()]);
    while let Some(next) = open.pop() {
        let used = uses.get(&next).into_iter().flatten();
        open.extend(used.filter(|other| seen.insert((*other).clone())).cloned());
    }
    seen
}

/// Public types of product crates that share a name.
fn twins(sources: &BTreeMap<String, Source>) -> Vec<Finding> {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    let mut findings = Vec::new();
    let product = |path: &str| path.starts_with("crates/") && path.contains("/src/");
    for (path, source) in sources.iter().filter(|(path, _)| product(path)) {
        for (at, token) in source.tokens.iter().enumerate() {
            let kinds = ["struct", "enum", "trait", "type", "union"];
            let Some(kind) = source.tokens.get(at + 1).filter(|kind| kinds.contains(&kind.text.as_str()))
            else {
                continue;
            };
            let Some(name) = source.tokens.get(at + 2) else { continue };
            let is_one = token.text == "pub" && kind.line == token.line && !source.is_test_line(token.line);
            if !is_one || SHARED_NAMES.contains(&name.text.as_str()) {
                continue;
            }
            let here = format!("{path}:{}", token.line);
            if let Some(other) = first.get(&name.text) {
                let message = format!("{} is the name of another public type, at {other}", name.text);
                findings.push(Finding::new(path, token.line, message));
            }
            first.entry(name.text.clone()).or_insert(here);
        }
    }
    findings
}
