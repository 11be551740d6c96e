//! The texts of the licences of everything whose code is in the program: most ask to be handed on with it.

use super::release::Release;
use super::sbom::Parts;
use crate::shell;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const BEGINNINGS: [&str; 6] = ["license", "licence", "copying", "copyright", "notice", "unlicense"];
const RULE: &str = "--------------------------------------------------------------------------------";

/// Each text once, under the names of the packages that bring it.
pub(super) fn text(release: &Release) -> Result<String> {
    let metadata = shell::output(shell::cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata wrote no JSON")?;
    let parts = Parts::read()?;
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut list = String::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let is_ours = package["source"].is_null();
        if is_ours || !parts.is_inside(field("name"), field("version")) {
            continue;
        }
        let name = format!("{} {}", field("name"), field("version"));
        writeln!(list, "{name}: {}", field("license"))?;
        let folder = Path::new(field("manifest_path")).parent().context("a package has no folder")?;
        for file in files(folder)? {
            let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
            let names = texts.entry(text.trim().to_owned()).or_default();
            if !names.contains(&name) {
                names.push(name.clone());
            }
        }
    }
    let mut all = format!(
        "sancerre {} holds code of these packages, and of Rust's standard library (MIT OR Apache-2.0):\n\n{list}",
        release.version
    );
    for (text, names) in texts {
        write!(all, "\n{RULE}\n{}\n{RULE}\n\n{text}\n", names.join("\n"))?;
    }
    Ok(all)
}

/// Of a package, and of the foreign sources in a folder of it.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in sorted(folder)? {
        if entry.is_dir() {
            found.extend(sorted(&entry)?.into_iter().filter(|path| is_licence(path)));
        } else if is_licence(&entry) {
            found.push(entry);
        }
    }
    Ok(found)
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = list.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn is_licence(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    // A licence's text, not a program that is called after it.
    let is_text = !["rs", "py", "sh", "go", "c", "h"].iter().any(|end| name.ends_with(&format!(".{end}")));
    is_text && path.is_file() && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}
