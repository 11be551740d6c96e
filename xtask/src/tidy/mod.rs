//! `cargo xtask tidy`: the house rules as a check over the tracked files.

mod code;
mod house;
mod layout;
mod source;
#[cfg(test)]
mod tests;
mod text;
mod tree;

use crate::shell;
use anyhow::{Result, bail};
use source::Source;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use tree::{Use, Uses};

/// Whether to compare the digests in `docs/FORMAT.md` with the code, or to write them anew first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Check,
    Bless,
}

/// A broken rule and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// From 1.
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// What a reader of this project expects to find.
const REQUIRED: [&str; 11] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "docs/ARCHITECTURE.md",
    "docs/FORMAT.md",
    "docs/GUARANTEES.md",
    "docs/RELEASE.md",
    "docs/SECURITY.md",
    "docs/TESTING.md",
];
/// The fuzz targets are a workspace of their own, which `cargo metadata` does not list.
const OTHER_WORKSPACES: [&str; 1] = ["tests/fuzz/"];

/// Checks all rules; each finding is a line `path:line: message`.
pub(crate) fn run(mode: Mode) -> Result<()> {
    let root = shell::root();
    let paths = tracked()?;
    let layout: Vec<&str> = paths.iter().map(String::as_str).filter(|path| layout::is_layout(path)).collect();
    if mode == Mode::Bless {
        layout::bless(&root, &layout)?;
    }
    let texts = read(&root, &paths);
    let mut findings = missing(&paths);
    findings.extend(layout::check(&root, &layout)?);
    findings.extend(texts.iter().flat_map(|(path, text)| text::check(path, text)));
    findings.extend(rust(&texts, &tree::targets(&root)?));
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    println!("tidy: {} files, nothing found", texts.len());
    Ok(())
}

/// Tracked files, and new ones that are not ignored; sorted.
fn tracked() -> Result<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let list = shell::output(shell::command("git", &arguments))?;
    let mut paths: Vec<String> =
        list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Text of all files that are UTF-8; binary and deleted files are left out.
fn read(root: &Path, paths: &[String]) -> BTreeMap<String, String> {
    let texts =
        paths.iter().filter_map(|path| Some((path.clone(), std::fs::read_to_string(root.join(path)).ok()?)));
    texts.collect()
}

fn missing(paths: &[String]) -> Vec<Finding> {
    let absent = REQUIRED.iter().filter(|required| !paths.iter().any(|path| path == **required));
    absent.map(|path| Finding::new(path, 1, "is missing")).collect()
}

fn rust(texts: &BTreeMap<String, String>, targets: &[(String, Use)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut sources = BTreeMap::new();
    for (path, text) in texts.iter().filter(|(path, _)| path.ends_with(".rs")) {
        match Source::parse(text) {
            Ok(source) => {
                sources.insert(path.clone(), source);
            }
            Err(error) => findings.push(Finding::new(path, 1, error.to_string())),
        }
    }
    let uses = tree::uses(targets, &sources);
    findings.extend(sources.iter().flat_map(|(path, source)| {
        let role = uses.get(path).copied().unwrap_or(Use::Product);
        code::check(path, source, role)
    }));
    findings.extend(house::check(texts, &sources));
    findings.extend(dead(&sources, &uses));
    let untracked = tree::untracked(targets, &sources, &uses).into_iter();
    findings.extend(untracked.map(|(path, line)| {
        Finding::new(
            &path,
            line,
            "the file of this `mod` is not tracked: add it, and look whether .gitignore hides it",
        )
    }));
    findings
}

fn dead(sources: &BTreeMap<String, Source>, uses: &Uses) -> Vec<Finding> {
    let mine = sources.keys().filter(|path| !OTHER_WORKSPACES.iter().any(|other| path.starts_with(other)));
    let unused = mine.filter(|path| !uses.contains_key(*path) && !path.ends_with("build.rs"));
    unused.map(|path| Finding::new(path, 1, "is not compiled: no `mod` and no target names it")).collect()
}
