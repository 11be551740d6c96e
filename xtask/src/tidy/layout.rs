//! Ties `docs/FORMAT.md` to the code that lays out bytes: the document ends with the digests of those files, so that
//! whoever changes one has to look at the other.
//!
//! A digest is over a file's tokens: a comment or a line break lays out no bytes, and a rite for each of them would soon be
//! done without looking.

use super::Finding;
use super::source::{Source, Token};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The document, relative to the root.
pub(super) const DOCUMENT: &str = "docs/FORMAT.md";
/// Where the code lives whose files define bytes.
const FOLDER: &str = "crates/sancerre-format/src/";
/// Files in that folder that define no bytes on disk; new files count until they are named here.
const WITHOUT_LAYOUT: [&str; 2] = ["lib.rs", "error.rs"];
const OPENING: &str = "```sha256 layout";
const CLOSING: &str = "```";
const ADVICE: &str = "bring the text up to date, then run `cargo xtask tidy --bless`";

/// Whether the tracked file `path` defines bytes on disk.
pub(super) fn is_layout(path: &str) -> bool {
    let name = path.strip_prefix(FOLDER).filter(|name| name.ends_with(".rs"));
    name.is_some_and(|name| {
        !WITHOUT_LAYOUT.contains(&name) && name != "tests.rs" && !name.ends_with("/tests.rs")
    })
}

/// Compares the block at the end of the document with the files `paths`. Nothing to say while there is no document.
pub(super) fn check(root: &Path, paths: &[&str]) -> Result<Vec<Finding>> {
    let Ok(text) = fs::read_to_string(root.join(DOCUMENT)) else { return Ok(Vec::new()) };
    let wanted = block(root, paths)?;
    Ok(compare(&text, &wanted))
}

/// Writes the block for the files `paths`, in place of an old one or at the end of the document.
pub(super) fn bless(root: &Path, paths: &[&str]) -> Result<()> {
    let document = root.join(DOCUMENT);
    let Ok(text) = fs::read_to_string(&document) else { return Ok(()) };
    let renewed = replace(&text, &block(root, paths)?);
    fs::write(&document, renewed).with_context(|| format!("cannot write {DOCUMENT}"))
}

fn block(root: &Path, paths: &[&str]) -> Result<String> {
    let mut lines = String::new();
    for path in paths {
        let text = fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
        writeln!(lines, "{}  {path}", digest(&text).with_context(|| format!("cannot read {path}"))?)?;
    }
    Ok(lines)
}

/// SHA-256 over the tokens of a file, each ended by a line feed; comments, also those that document, are none.
fn digest(text: &str) -> Result<String> {
    let source = Source::parse(text)?;
    let mut hash = Sha256::new();
    let mut tokens = source.tokens.as_slice();
    while let Some((first, rest)) = tokens.split_first() {
        if let Some(after) = after_documentation(tokens) {
            tokens = after;
            continue;
        }
        hash.update(&first.text);
        hash.update("\n");
        tokens = rest;
    }
    Ok(hex(&hash.finalize()))
}

/// What follows a `#[doc = ".."]` or `#![doc = ".."]` at the front, which is what the parser makes of `///` and `//!`.
fn after_documentation(tokens: &[Token]) -> Option<&[Token]> {
    let tokens = skip(tokens, "#")?;
    let tokens = skip(tokens, "!").unwrap_or(tokens);
    let text = ["[", "doc", "="].iter().try_fold(tokens, |tokens, word| skip(tokens, word))?;
    skip(text.split_first()?.1, "]")
}

fn skip<'a>(tokens: &'a [Token], word: &str) -> Option<&'a [Token]> {
    tokens.split_first().filter(|(first, _)| first.text == word).map(|(_, rest)| rest)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn compare(document: &str, wanted: &str) -> Vec<Finding> {
    let Some((line, written)) = written(document) else {
        let end = document.lines().count();
        return vec![Finding::new(DOCUMENT, end, format!("has no block of digests at its end: {ADVICE}"))];
    };
    let stale = wanted.lines().filter(|entry| !written.contains(entry));
    let mut findings: Vec<Finding> = stale
        .map(|entry| {
            let path = entry.split_whitespace().last().unwrap_or(entry);
            Finding::new(
                DOCUMENT,
                line,
                format!("{path} changed since this document was last read: {ADVICE}"),
            )
        })
        .collect();
    let paths: Vec<&str> = wanted.lines().filter_map(|entry| entry.split_whitespace().last()).collect();
    let gone = written
        .iter()
        .filter_map(|entry| entry.split_whitespace().last())
        .filter(|path| !paths.contains(path));
    findings.extend(gone.map(|path| {
        Finding::new(DOCUMENT, line, format!("lists {path}, which is no layout file: {ADVICE}"))
    }));
    findings
}

/// Line of the block's opening, from 1, and its entries.
fn written(document: &str) -> Option<(usize, Vec<&str>)> {
    let at = document.lines().position(|line| line == OPENING)?;
    let entries = document.lines().skip(at + 1).take_while(|line| *line != CLOSING).collect();
    Some((at + 1, entries))
}

fn replace(document: &str, wanted: &str) -> String {
    let before: Vec<&str> = document.lines().take_while(|line| *line != OPENING).collect();
    format!("{}\n\n{OPENING}\n{wanted}{CLOSING}\n", before.join("\n").trim_end())
}

#[cfg(test)]
mod tests {
    use super::{compare, digest, is_layout, replace};

    #[test]
    fn comments_and_line_breaks_change_no_digest_and_every_token_does() {
        let of = |text: &str| digest(text).unwrap();
        let plain = of("const A: &[u8] = b\"// no comment\";\nfn a() {}\n");
        let told = "//! A file.\n\n/// A constant.\nconst A: &[u8] =\n    b\"// no comment\"; // why\n\n\
                    /* and\nwhy */\nfn a() {\n    //! Inside.\n}\n";
        assert_eq!(of(told), plain);
        assert_eq!(of(&format!("#![doc = \"A file.\"]\n{told}")), plain);
        for changed in
            ["const A: &[u8] = b\"// a comment\";\nfn a() {}\n", "const A: &[u8] = b\"// no comment\";\n"]
        {
            assert_ne!(of(changed), plain, "{changed}");
        }
        assert_ne!(of("#[repr(C)] struct A;"), of("struct A;"));
        assert!(digest("fn a() {").is_err());
    }

    #[test]
    fn names_a_changed_a_new_and_a_removed_file() {
        let old = replace("# Format\n", "aa  one.rs\nbb  two.rs\n");
        assert_eq!(compare(&old, "aa  one.rs\nbb  two.rs\n"), []);
        let messages: Vec<String> =
            compare(&old, "aa  one.rs\ncc  two.rs\ndd  three.rs\n").iter().map(ToString::to_string).collect();
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(
            messages[0].contains("two.rs changed") && messages[1].contains("three.rs changed"),
            "{messages:?}"
        );
        let gone = compare(&old, "aa  one.rs\n");
        assert!(gone.len() == 1 && gone[0].to_string().contains("lists two.rs"), "{gone:?}");
    }

    #[test]
    fn a_document_without_block_is_a_finding_and_blessing_twice_changes_nothing() {
        assert_eq!(compare("# Format\n", "").len(), 1);
        let once = replace("# Format\n\ntext\n", "aa  one.rs\n");
        assert_eq!(once, "# Format\n\ntext\n\n```sha256 layout\naa  one.rs\n```\n");
        assert_eq!(replace(&once, "aa  one.rs\n"), once);
    }

    #[test]
    fn layout_files_are_those_of_the_format_package_without_tests() {
        assert!(is_layout("crates/sancerre-format/src/pack.rs"));
        assert!(is_layout("crates/sancerre-format/src/map/node.rs"));
        assert!(!is_layout("crates/sancerre-format/src/map/tests.rs"));
        assert!(!is_layout("crates/sancerre-format/src/error.rs"));
        assert!(!is_layout("crates/sancerre-engine/src/pack.rs"));
    }
}
