//! Rules over the text of every tracked file, whatever its kind.

use super::Finding;

/// Folders of one person's machine. Written in two parts, so that this file does not find itself.
const MACHINE_FOLDERS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/var", "/tmp/"), concat!("/ro", "ot/")];
/// Words that mark unfinished code.
const MARKERS: [&str; 2] = [concat!("FIX", "ME"), concat!("XX", "X")];
/// Kinds of file in which a marker is unfinished code.
const CODE: [&str; 5] = [".rs", ".sh", ".py", ".toml", ".yml"];

/// Hosts that a text may name: where specifications and licences are published. Any other host is most likely the
/// mirror, registry or server of one machine.
const HOSTS: &[&str] = &[
    "age-encryption.org",
    "box.s3.amazonaws.com",
    "c2sp.org",
    "crates.io",
    "datatracker.ietf.org",
    "deb.debian.org",
    "doc.rust-lang.org",
    "docs.aws.amazon.com",
    "docs.kernel.org",
    "docs.rs",
    "embarkstudios.github.io",
    "ext4.wiki.kernel.org",
    "facebook.github.io",
    "github.com",
    "keepachangelog.com",
    "learn.microsoft.com",
    "man.openbsd.org",
    "nexte.st",
    "opensource.org",
    "restic.net",
    "restic.readthedocs.io",
    "rust-lang.org",
    "s3.amazonaws.com",
    "s3.eu-central-1.amazonaws.com",
    "schemas.dmtf.org",
    "semver.org",
    "spdx.org",
    "www.apache.org",
    "www.debian.org",
    "www.qemu.org",
    "www.rfc-editor.org",
    "www.rust-lang.org",
    "www.usenix.org",
    "www.vmware.com",
    "www.w3.org",
];
/// Names and addresses that are reserved for examples, and this computer.
const RESERVED_SUFFIXES: [&str; 7] =
    ["example", "test", "invalid", "localhost", "example.com", "example.org", "example.net"];
const RESERVED_PREFIXES: [&str; 6] = ["127.", "0.0.0.0", "192.0.2.", "198.51.100.", "203.0.113.", "10.0."];

/// All findings in one file.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let is_code = CODE.iter().any(|ending| path.ends_with(ending));
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut report = |message: String| findings.push(Finding::new(path, index + 1, message));
        for folder in MACHINE_FOLDERS.iter().filter(|folder| starts_a_path(line, folder)) {
            report(format!(
                "names the folder {folder} of one machine: take it as an argument, or use a temporary folder"
            ));
        }
        for host in hosts(line).filter(|host| !is_allowed(host)) {
            report(format!(
                "names the host {host}: leave it out, or add it to HOSTS in xtask/src/tidy/text.rs"
            ));
        }
        for marker in MARKERS.iter().filter(|marker| is_code && has_word(line, marker)) {
            report(format!("{marker}: finish it, or file an issue"));
        }
    }
    findings
}

/// Whether `folder` occurs as the beginning of an absolute path.
fn starts_a_path(line: &str, folder: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || "_.-}$*~/)".contains(c);
    line.match_indices(folder).any(|(at, _)| !line[..at].ends_with(inside))
}

fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(inside) && !line[at + word.len()..].starts_with(inside))
}

/// The hosts of the URLs in a line. A host that is filled in later (`{host}`, `$HOST`) or has no dot is none.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    let urls =
        line.match_indices("://").filter(|(at, _)| line[..*at].ends_with(|c: char| c.is_alphanumeric()));
    let authorities = urls.map(|(at, _)| {
        let rest = &line[at + 3..];
        rest.split(|c: char| c.is_whitespace() || "/?#\"'`<>()[],;\\".contains(c)).next().unwrap_or("")
    });
    let hosts = authorities.map(|text| text.rsplit('@').next().unwrap_or(text));
    hosts
        .map(|text| text.split(':').next().unwrap_or(text).trim_end_matches('.'))
        .filter(|host| is_spelled_out(host))
}

fn is_spelled_out(host: &str) -> bool {
    host.contains('.') && !host.contains(['{', '$', '*', '%'])
}

fn is_allowed(host: &str) -> bool {
    let is_reserved = RESERVED_SUFFIXES.iter().any(|suffix| {
        host.strip_suffix(suffix).is_some_and(|front| front.is_empty() || front.ends_with('.'))
    });
    is_reserved || HOSTS.contains(&host) || RESERVED_PREFIXES.iter().any(|prefix| host.starts_with(prefix))
}
