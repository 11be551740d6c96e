//! Which files are compiled, and which of them for tests only: follows `mod` from the targets that cargo names.

use super::source::{Source, Token, end_of_group};
use crate::shell;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// What a file is compiled into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// Only tests, benches and examples.
    Test,
    /// A library or a program.
    Product,
}

/// Path in the repository to how the file is used.
pub(super) type Uses = BTreeMap<String, Use>;

/// A `mod name;` found in a file.
#[derive(Debug, PartialEq, Eq)]
struct Declaration {
    /// Inline modules around it, outermost first, then its own name.
    path: Vec<String>,
    /// The value of `#[path = ".."]`.
    file: Option<String>,
    line: usize,
}

/// Roots of all targets of the workspace, relative to `root`.
pub(super) fn targets(root: &Path) -> Result<Vec<(String, Use)>> {
    let text = shell::output(shell::cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata wrote no JSON")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    Ok(targets.filter_map(|target| root_of(target, root)).collect())
}

fn root_of(target: &Value, root: &Path) -> Option<(String, Use)> {
    let path = Path::new(target["src_path"].as_str()?).strip_prefix(root).ok()?;
    let is_test = ["test", "bench", "example"].iter().any(|kind| target["kind"][0] == *kind);
    Some((path.to_str()?.to_owned(), if is_test { Use::Test } else { Use::Product }))
}

/// Follows the module tree below `targets` through `sources`, which maps path to parsed file.
pub(super) fn uses(targets: &[(String, Use)], sources: &BTreeMap<String, Source>) -> Uses {
    let mut uses = Uses::new();
    let mut open: Vec<(String, Use, bool)> =
        targets.iter().map(|(path, role)| (path.clone(), *role, true)).collect();
    while let Some((path, role, is_root)) = open.pop() {
        let known = uses.get(&path).copied();
        let Some(source) = sources.get(&path).filter(|_| known < Some(role)) else { continue };
        for declaration in declarations(&source.tokens) {
            let role = if source.is_test_line(declaration.line) { Use::Test } else { role };
            let files = candidates(&path, is_root, &declaration);
            open.extend(files.into_iter().map(|file| (file, role, false)));
        }
        uses.insert(path, role);
    }
    uses
}

/// Path and line of each `mod` whose file is not among the tracked ones. It may still be on this disk, ignored.
pub(super) fn untracked(
    targets: &[(String, Use)],
    sources: &BTreeMap<String, Source>,
    uses: &Uses,
) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (path, source) in sources.iter().filter(|(path, _)| uses.contains_key(*path)) {
        let is_root = targets.iter().any(|(target, _)| target == path);
        let declarations = declarations(&source.tokens).into_iter();
        let lost = declarations.filter(|declaration| {
            !candidates(path, is_root, declaration).iter().any(|file| sources.contains_key(file))
        });
        found.extend(lost.map(|declaration| (path.clone(), declaration.line)));
    }
    found
}

fn declarations(tokens: &[Token]) -> Vec<Declaration> {
    let mut found = Vec::new();
    let mut around: Vec<(String, usize)> = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        around.retain(|(_, end)| *end > index);
        let (Some(name), Some(next)) = (tokens.get(index + 1), tokens.get(index + 2)) else { break };
        if token.text != "mod" {
            continue;
        }
        if next.text == "{" {
            around.extend(end_of_group(tokens, index + 2).map(|end| (name.text.clone(), end)));
        } else if next.text == ";" {
            let outer = around.iter().map(|(name, _)| name.clone());
            let path = outer.chain([name.text.clone()]).collect();
            found.push(Declaration { path, file: path_attribute(&tokens[..index]), line: token.line });
        }
    }
    found
}

/// The value of a `#[path = ".."]` among the tokens of the same item before its `mod`.
fn path_attribute(before: &[Token]) -> Option<String> {
    let start =
        before.iter().rposition(|token| matches!(token.text.as_str(), ";" | "}")).map_or(0, |at| at + 1);
    let own = &before[start..];
    let at = own.windows(2).position(|pair| pair[0].text == "path" && pair[1].text == "=")?;
    Some(own.get(at + 2)?.text.trim_matches('"').to_owned())
}

/// The files that a declaration in the file `path` may mean.
fn candidates(path: &str, is_root: bool, declaration: &Declaration) -> Vec<String> {
    let path = Path::new(path);
    let folder = path.parent().unwrap_or(Path::new(""));
    if let Some(file) = &declaration.file {
        return vec![normal(&folder.join(file))];
    }
    let is_mod = path.file_name().is_some_and(|name| name == "mod.rs");
    let base = if is_root || is_mod { folder.to_path_buf() } else { path.with_extension("") };
    let module = declaration.path.iter().fold(base, |path, name| path.join(name));
    vec![normal(&module.with_extension("rs")), normal(&module.join("mod.rs"))]
}

/// Resolves `..` in a relative path by its text.
fn normal(path: &Path) -> String {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean.to_string_lossy().into_owned()
}
