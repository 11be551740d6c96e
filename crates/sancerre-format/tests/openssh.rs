//! What this crate signs, OpenSSH verifies: `ssh-keygen` is the second implementation of every signature.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "reads files, which the package may not"
)]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use sancerre_format::certificate::Role;
use sancerre_format::log::Kind;
use sancerre_format::record;

/// Whether `ssh-keygen` (package openssh-client) is there; in CI it must be.
#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
fn ssh_keygen() -> bool {
    let found = Command::new("ssh-keygen").arg("-?").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "ssh-keygen is missing: install openssh-client");
    if !found {
        eprintln!("SKIPPED: ssh-keygen is missing: install openssh-client");
    }
    found
}

/// A folder of its own below cargo's folder for test data.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Runs `ssh-keygen -Y verify` over a record's text and signature; returns whether it accepted.
fn verify(label: &str, bytes: &[u8], seed: u8) -> bool {
    let (text, armor, _) = forgery::pieces(bytes);
    let folder = folder(label);
    let (signers, signature) = (folder.join("allowed_signers"), folder.join("text.sig"));
    std::fs::write(&signers, format!("x {}\n", key(seed).public())).unwrap();
    std::fs::write(&signature, armor).unwrap();
    let namespace = String::from_utf8(record::first_line(bytes).to_vec()).unwrap();
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "verify", "-I", "x", "-n", &namespace, "-f"])
        .arg(&signers)
        .arg("-s")
        .arg(&signature)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait().unwrap().success()
}

#[test]
fn openssh_verifies_every_record() {
    if !ssh_keygen() {
        return;
    }
    let hold = sign(&entry(Kind::Hold(held()), keeper()), KEEPER);
    let records = [
        ("config", sign(&config(), ADMIN), ADMIN),
        ("certificate", sign(&certificate(Role::Writer), ADMIN), ADMIN),
        ("log", hold.clone(), KEEPER),
        ("list", sign(&samples::pack_list(), WRITER), WRITER),
        ("manifest", sign(&manifest(), WRITER), WRITER),
        ("abort", sign(&samples::abort(), KEEPER), KEEPER),
        ("commit", sign(&samples::commit(), KEEPER), KEEPER),
    ];
    for (label, bytes, seed) in records {
        assert!(verify(label, &bytes, seed), "ssh-keygen refuses a {label}");
        assert!(!verify(label, &bytes, STRANGER), "ssh-keygen accepts a {label} by anybody");
    }
    let changed = String::from_utf8(hold).unwrap().replacen("number: 7", "number: 8", 1);
    assert!(!verify("changed", changed.as_bytes(), KEEPER), "ssh-keygen accepts a changed text");
}

#[test]
fn what_openssh_signs_verifies_here() {
    if !ssh_keygen() {
        return;
    }
    let folder = folder("signed-by-openssh");
    let (private, text_file) = (folder.join("id"), folder.join("text"));
    for stale in ["id", "id.pub", "text.sig"] {
        let _ = std::fs::remove_file(folder.join(stale));
    }
    let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let made = quiet(
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&private),
    );
    assert!(made.success());
    let public = std::fs::read_to_string(folder.join("id.pub")).unwrap();
    let public = sancerre_format::sign::PublicKey::parse(public.trim()).unwrap();
    std::fs::write(&text_file, "sancerre-log-v1\n").unwrap();
    let mut signing = Command::new("ssh-keygen");
    signing.args(["-Y", "sign", "-n", "sancerre-log-v1", "-f"]).arg(&private).arg(&text_file);
    assert!(quiet(&mut signing).success());
    let armor = std::fs::read_to_string(folder.join("text.sig")).unwrap();
    public.verify("sancerre-log-v1", "sancerre-log-v1", b"sancerre-log-v1\n", &armor).unwrap();
    assert!(public.verify("sancerre-log-v1", "sancerre-log-v1", b"sancerre-log-v2\n", &armor).is_err());
}

#[test]
fn openssh_prints_the_same_fingerprint() {
    if !ssh_keygen() {
        return;
    }
    for seed in [ADMIN, WRITER, KEEPER] {
        let public = key(seed).public();
        let file = folder("fingerprint").join(format!("{seed}.pub"));
        std::fs::write(&file, format!("{public}\n")).unwrap();
        let printed = Command::new("ssh-keygen").arg("-lf").arg(&file).output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        assert_eq!(printed.split(' ').nth(1), Some(public.fingerprint().as_str()), "{printed}");
    }
}
