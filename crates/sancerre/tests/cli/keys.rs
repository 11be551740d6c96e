//! Keys as an administrator handles them: the built program with key files, `age-keygen` and `ssh-keygen`.

use crate::support::template;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const PASSPHRASE: &str = "correct horse";

/// A folder with a repository in it, its writer `hv1`, and one disk.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        let noise: Vec<u8> =
            (0..60_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        std::fs::write(site.path("web01.raw"), noise).unwrap();
        let at = site.folder.path();
        template::make(&at.join("repository"), &at.join("hv1.key"), PASSPHRASE, 0);
        site
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command
            .args(arguments)
            .env_clear()
            .envs(crate::support::CHEAP)
            .env("PATH", std::env::var("PATH").unwrap());
        command.env("SANCERRE_REPOSITORY", self.path("repository")).stdin(Stdio::null());
        Ran(command.envs(variables.iter().copied()).output().unwrap())
    }

    fn admin(&self, arguments: &[&str]) -> Ran {
        self.run(arguments, &[("SANCERRE_PASSWORD", PASSPHRASE)])
    }

    fn with_key(&self, key: &str, arguments: &[&str]) -> Ran {
        self.run(arguments, &[("SANCERRE_KEY_FILE", &self.path(key))])
    }

    fn back_up(&self, key: &str, vm: &str) -> Ran {
        self.with_key(key, &["backup", "--vm", vm, "--tag", "nightly", "--json", &self.path("web01.raw")])
    }

    /// Restores with identities and variables, and compares.
    fn restores(&self, snapshot: &str, identity: Option<&str>, variables: &[(&str, &str)]) -> Ran {
        let (target, identity) = (self.path("restored.raw"), identity.map(|name| self.path(name)));
        // What is there already would not be opened.
        let _ = std::fs::remove_file(&target);
        let mut arguments = vec!["restore", snapshot, "--target", &target];
        arguments.extend(identity.iter().flat_map(|path| ["--identity", path]));
        let ran = self.run(&arguments, variables);
        if ran.code() == 0 {
            assert!(std::fs::read(&target).unwrap() == std::fs::read(self.path("web01.raw")).unwrap());
        }
        ran
    }

    /// Makes keys with the programs that people use.
    fn generate(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let output =
            output.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask setup` installs it"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn age_key(&self, name: &str) -> String {
        self.generate("age-keygen", &["-o", &self.path(name)]);
        self.generate("age-keygen", &["-y", &self.path(name)])
    }

    fn ssh_key(&self, name: &str, kind: &str, passphrase: &str) -> String {
        self.generate("ssh-keygen", &["-q", "-t", kind, "-N", passphrase, "-f", &self.path(name)]);
        std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap()
    }
}

struct Ran(Output);

impl Ran {
    fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "{}{}", self.stdout(), self.stderr());
        self
    }

    /// It failed with this code and said so in words that contain `says`, without a panic.
    #[track_caller]
    fn refused(self, code: i32, says: &str) -> Self {
        // With --json it is said on standard output.
        let said = format!("{}{}", self.stdout(), self.stderr());
        assert_eq!(self.code(), code, "{said}");
        assert!(said.contains(says), "{says:?} is not in: {said}");
        assert!(!said.contains("panicked"), "{said}");
        self
    }

    fn summary(&self) -> Value {
        serde_json::from_str(self.stdout().lines().last().unwrap()).unwrap()
    }
}

#[test]
fn recipients_open_old_snapshots_and_lose_new_ones_when_removed() {
    let site = Site::new();
    site.back_up("hv1.key", "old").ok();
    let age = site.age_key("vault.txt");
    let ssh = site.ssh_key("anna", "ed25519", "");
    let locked = site.ssh_key("ben", "ed25519", "an egg");
    for (recipient, label) in [(&age, "vault"), (&ssh, "anna"), (&locked, "ben")] {
        site.admin(&["key", "add", "restore", "--recipient", recipient, "--label", label]).ok();
    }
    // Each opens what was there before it.
    site.restores("old:latest", Some("vault.txt"), &[]).ok();
    site.restores("old:latest", Some("anna"), &[]).ok();
    site.restores("old:latest", Some("ben"), &[("SANCERRE_PASSWORD", "an egg")]).ok();
    site.restores("old:latest", Some("ben"), &[("SANCERRE_PASSWORD", "a hen")]).refused(12, "own passphrase");
    site.restores("old:latest", Some("ben"), &[]).refused(12, "no passphrase");

    // On a store that keeps everything, the removed one opens what it could open, and nothing later.
    let kept = site.path("repository/keys/recipients/0001-vault");
    let copy = std::fs::read(&kept).unwrap();
    site.admin(&["key", "remove", "restore", "vault"]).ok();
    assert!(!Path::new(&kept).exists());
    std::fs::write(&kept, copy).unwrap();
    std::fs::write(site.path("web01.raw"), b"what came later").unwrap();
    site.back_up("hv1.key", "new").ok();
    site.restores("new:latest", Some("vault.txt"), &[]).refused(12, "epoch 2");
    let old = site.run(
        &["dump", "old:latest", "--identity", &site.path("vault.txt")],
        &[("SANCERRE_KEY_FILE", &site.path("hv1.key"))],
    );
    assert_eq!(old.ok().0.stdout.len(), 240_000);
    // Those who stayed open both.
    site.restores("new:latest", Some("anna"), &[]).ok();
    let list = site.with_key("hv1.key", &["key", "list", "--json"]).ok().summary();
    let current = |label: &str| {
        let recipients = list["recipients"].as_array().unwrap();
        recipients.iter().find(|recipient| recipient["label"] == label).unwrap()["current"].clone()
    };
    assert_eq!(
        (current("vault"), current("anna"), current("passphrase")),
        (false.into(), true.into(), true.into())
    );
    site.admin(&["check", "--read-data"]).ok();
}

#[test]
fn the_last_recipient_stays_and_labels_are_used_once() {
    let site = Site::new();
    site.admin(&["key", "remove", "restore", "passphrase"]).refused(2, "only restore recipient");
    site.admin(&["key", "remove", "restore", "nobody"]).refused(2, "no restore recipient nobody");
    let age = site.age_key("vault.txt");
    site.admin(&["key", "add", "restore", "--recipient", &age, "--label", "vault"]).ok();
    let other = site.age_key("other.txt");
    site.admin(&["key", "add", "restore", "--recipient", &other, "--label", "vault"]).refused(2, "--label");
    site.admin(&["key", "add", "restore", "--recipient", &age]).refused(2, "can restore already, as vault");
    let rsa = site.ssh_key("rsa", "rsa", "");
    site.admin(&["key", "add", "restore", "--recipient", &rsa]).refused(2, "ssh-ed25519");
    let secret = std::fs::read_to_string(site.path("vault.txt")).unwrap();
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET")).unwrap();
    let ran = site.admin(&["key", "add", "restore", "--recipient", secret]).refused(2, "secret key");
    assert!(ran.stdout().is_empty());
}

#[test]
fn a_new_passphrase_replaces_the_old_one() {
    let site = Site::new();
    site.back_up("hv1.key", "web01").ok();
    let new = site.path("new-passphrase");
    std::fs::write(&new, "battery staple\n").unwrap();
    site.admin(&["key", "passwd", "--new-password-file", &new]).refused(12, "chmod 600");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    site.admin(&["key", "passwd", "--new-password-file", &new]).ok();
    site.restores("web01:latest", None, &[("SANCERRE_PASSWORD", PASSPHRASE)]).refused(12, "does not open");
    site.restores("web01:latest", None, &[("SANCERRE_PASSWORD", "battery staple")]).ok();
    site.admin(&["key", "add", "keeper", "vault", "--out", &site.path("k")]).refused(12, "does not open");
    let add = ["key", "add", "keeper", "vault", "--out", &site.path("k")];
    site.run(&add, &[("SANCERRE_PASSWORD", "battery staple")]).ok();
    site.back_up("hv1.key", "web01").ok();
    site.restores("web01:latest", None, &[("SANCERRE_PASSWORD", "battery staple")]).ok();
}

#[test]
fn a_writers_key_alone_runs_the_night_and_opens_nothing() {
    let site = Site::new();
    site.back_up("hv1.key", "web01").ok();
    site.with_key("hv1.key", &["snapshots"]).ok();
    let target = site.path("out.raw");
    site.with_key("hv1.key", &["restore", "latest", "--target", &target]).refused(12, "opens no content");
    site.with_key("hv1.key", &["dump", "latest"]).refused(12, "the key of writer hv1 (");
    assert!(!Path::new(&target).exists());
    let checked = site.with_key("hv1.key", &["check", "--read-data"]).ok();
    assert!(checked.stderr().contains("content was not opened"), "{}", checked.stderr());
    let report = site.with_key("hv1.key", &["check", "--read-data", "--json"]).ok().summary();
    assert_eq!((&report["read_packs"], &report["content_opened"]), (&report["packs"], &false.into()));
}

#[test]
fn a_key_of_another_zone_sees_what_is_public() {
    let site = Site::new();
    site.back_up("hv1.key", "web01").ok();
    let made =
        site.admin(&["key", "add", "writer", "branch1", "--zone", "branch", "--out", &site.path("b.key")]);
    assert!(made.ok().stderr().contains("zone branch is new"));
    let mode = std::fs::metadata(site.path("b.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let table = site.with_key("b.key", &["snapshots", "--zone", "default"]).ok().stdout();
    assert!(
        table.contains("web01") && table.trim_end().ends_with('-') && !table.contains("nightly"),
        "{table}"
    );
    let listed = site.with_key("b.key", &["snapshots", "--zone", "default", "--json"]).ok().summary();
    assert_eq!(
        (&listed["snapshots"][0]["members"], &listed["snapshots"][0]["tags"]),
        (&Value::Null, &Value::Null)
    );
    site.with_key("b.key", &["snapshots", "--zone", "default", "--tag", "nightly"]).refused(12, "public");
    site.with_key("b.key", &["snapshots", "--zone", "nowhere"]).refused(2, "no zone nowhere");
    site.with_key("b.key", &["check", "--zone", "default"]).refused(2, "zone branch");
    site.back_up("b.key", "desk").ok();
    let own = site.with_key("b.key", &["snapshots"]).ok().stdout();
    assert!(own.contains("desk") && own.contains("nightly") && !own.contains("web01"), "{own}");
}

#[test]
fn revoked_and_tainted_writers() {
    let site = Site::new();
    site.admin(&["key", "add", "writer", "hv2", "--out", &site.path("hv2.key")]).ok();
    site.admin(&["key", "add", "writer", "hv2", "--out", &site.path("x.key")]).refused(2, "used once");
    assert!(!Path::new(&site.path("x.key")).exists());
    site.admin(&["key", "add", "writer", "hv3", "--out", &site.path("hv2.key")]).refused(1, "never replaced");
    site.back_up("hv2.key", "web01").ok();

    // Nothing is new to hv1 until hv2 is tainted.
    assert_eq!(site.back_up("hv1.key", "web02").ok().summary()["new_bytes"], 0);
    site.admin(&["key", "taint", "writer", "hv2"]).ok();
    assert_eq!(site.back_up("hv1.key", "web02").ok().summary()["new_bytes"], 240_000);

    site.admin(&["key", "revoke", "writer", "hv2"]).ok();
    site.back_up("hv2.key", "web01").refused(12, "writer hv2 was revoked");
    let list = site.with_key("hv1.key", &["key", "list"]).ok().stdout();
    assert!(
        list.lines().any(|line| line.contains("hv2") && line.contains("revoked from 5, tainted from 1")),
        "{list}"
    );
    // What it saved before stays.
    site.restores("web01:latest", None, &[("SANCERRE_PASSWORD", PASSPHRASE)]).ok();
    site.admin(&["key", "revoke", "writer", "hv2", "--from", "1"]).ok();
    site.restores("web01:latest", None, &[("SANCERRE_PASSWORD", PASSPHRASE)]).refused(2, "no snapshot");
    site.admin(&["key", "revoke", "keeper", "hv1"]).refused(2, "is a writer");
    site.with_key("hv1.key", &["key", "revoke", "writer", "hv2"]).refused(12, "may not sign");
}

/// Bad input: each its own message and exit code, and no panic.
#[test]
fn bad_key_files_say_what_is_wrong_with_them() {
    let site = Site::new();
    let whole = std::fs::read_to_string(site.path("hv1.key")).unwrap();
    let elsewhere = Site::new();
    std::fs::copy(elsewhere.path("hv1.key"), site.path("foreign.key")).unwrap();
    site.with_key("foreign.key", &["snapshots"]).refused(12, "not for repository");
    for cut in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        write_private(&site.path("cut.key"), &whole.as_bytes()[..cut]);
        site.with_key("cut.key", &["snapshots"]).refused(12, "the key file cannot be used");
    }
    for (field, value) in whole.lines().filter_map(|line| line.split_once(": ")) {
        let line = format!("{field}: {value}");
        let hostile = whole.replacen(&line, &format!("{field}: {}", "f".repeat(value.len())), 1);
        write_private(&site.path("hostile.key"), hostile.as_bytes());
        let ran = site.with_key("hostile.key", &["snapshots"]);
        // Any 32 bytes may be a zone's key, and the recipient is for backups: a list needs neither.
        let is_secret = ["id-key", "cut-key", "metadata-key", "recipient"].contains(&field);
        match ran.code() {
            0 => assert!(is_secret, "{field}: {}", ran.stdout()),
            _ => drop(ran.refused(12, "")),
        }
    }
    write_private(&site.path("binary.key"), &[0xff; 5000]);
    site.with_key("binary.key", &["snapshots"]).refused(12, "the key file cannot be used");
    write_private(&site.path("open.key"), whole.as_bytes());
    std::fs::set_permissions(site.path("open.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
    site.with_key("open.key", &["snapshots"]).refused(12, "chmod 600");
    site.with_key("absent.key", &["snapshots"]).refused(1, "cannot read the key file");
    let anchor = format!("SHA256:{}", "A".repeat(43));
    site.with_key("hv1.key", &["snapshots", "--trust", &anchor]).refused(12, "the trust anchor here is");
    site.with_key("hv1.key", &["snapshots", "--trust", "SHA256:short"]).refused(2, "trust anchor");
}

#[test]
fn an_expired_writer_lists_and_backs_nothing_up() {
    let site = Site::new();
    let soon = ["key", "add", "writer", "brief", "--expires", "2000-01-01", "--out", &site.path("x.key")];
    site.admin(&soon).refused(2, "expired already");
    // Long enough for a passphrase to be opened on a busy machine.
    let last = unix_now() + 20;
    let until = sancerre_format::names::Time::from_unix_seconds(last).to_string();
    site.admin(&["key", "add", "writer", "brief", "--expires", &until, "--out", &site.path("brief.key")])
        .ok();
    while unix_now() <= last {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    site.back_up("brief.key", "web01").refused(12, "certificate of writer brief expired at");
    site.with_key("brief.key", &["snapshots"]).ok();
}

#[test]
fn hostile_identity_files_are_refused_in_time() {
    let site = Site::new();
    let refused = |name: &str, bytes: &[u8], says: &str| {
        write_private(&site.path(name), bytes);
        site.restores("latest", Some(name), &[("SANCERRE_PASSWORD", "x")]).refused(12, says);
    };
    refused("empty", b"", "no key");
    refused("public", b"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n", "public key");
    refused("cut", b"AGE-SECRET-KEY-1QQQ\n", "cut short");
    refused("noise", &[0xfe; 300], "not text");
    refused("plugin", b"AGE-PLUGIN-YUBIKEY-1QQQ\n", "plugin");
    // scrypt with 2^40 units of work: a real file whose header says so.
    let salt = "bBjlhJVYZeE4aqUdmtRHfw";
    let scrypt = format!(
        "age-encryption.org/v1\n-> scrypt {salt} 40\n{0}\n--- {0}\n{1}",
        "A".repeat(43),
        "x".repeat(64)
    );
    refused("scrypt", scrypt.as_bytes(), "2^40");
    site.ssh_key("rsa", "rsa", "");
    site.restores("latest", Some("rsa"), &[]).refused(12, "ssh-ed25519");
    let arguments = ["-q", "-t", "ed25519", "-a", "2000", "-N", "p", "-f", &site.path("slow")];
    site.generate("ssh-keygen", &arguments);
    site.restores("latest", Some("slow"), &[("SANCERRE_PASSWORD", "p")]).refused(12, "rounds of bcrypt");
    let stranger = site.age_key("stranger.txt");
    assert!(stranger.starts_with("age1"));
    site.restores("latest", Some("stranger.txt"), &[]).refused(12, "does not open the repository");
}

#[test]
fn a_recovery_sheet_restores_with_nothing_else() {
    let site = Site::new();
    site.back_up("hv1.key", "web01").ok();
    let sheet = site.admin(&["key", "paper"]).ok().stdout();
    let word = |start: &str| {
        let found = sheet.split_whitespace().find(|word| word.starts_with(start));
        found.unwrap_or_else(|| panic!("{sheet}")).to_owned()
    };
    // As it stands there, with the blanks between its groups.
    let code = sheet.lines().find(|line| line.trim().starts_with("AGE-SECRET-KEY-PQ-1")).unwrap();
    let groups: Vec<&str> = code.split_whitespace().skip(1).collect();
    assert!(groups.iter().rev().skip(1).all(|group| group.len() == 6) && groups.len() > 8, "{code}");
    write_private(&site.path("code.txt"), format!("{code}\n").as_bytes());
    let (target, typed) = (site.path("restored/"), site.path("code.txt"));
    let restore =
        ["restore", "web01:latest", "--target", &target, "--identity", &typed, "--trust", &word("SHA256:")];
    let ran = site.run(&restore, &[]).ok();
    assert!(!ran.stderr().contains("warning"), "{}", ran.stderr());
    assert!(
        std::fs::read(format!("{target}disk0.raw")).unwrap()
            == std::fs::read(site.path("web01.raw")).unwrap()
    );

    let swapped = code.replacen(groups[2], groups[3], 1);
    write_private(&site.path("slip.txt"), format!("{swapped}\n").as_bytes());
    let slip = ["snapshots", "--identity", &site.path("slip.txt")];
    site.run(&slip, &[]).refused(12, "compare it with the sheet");

    let svg = site.path("sheet.svg");
    let made = site.admin(&["key", "paper", "--svg", &svg, "--json"]).ok();
    assert!(!made.stdout().contains("AGE-SECRET-KEY"), "{}", made.stdout());
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(
        picture.starts_with("<svg") && picture.contains("AGE-SECRET-KEY-PQ-1") && !picture.contains("href")
    );
    assert_eq!(std::fs::metadata(&svg).unwrap().permissions().mode() & 0o777, 0o600);
    site.admin(&["key", "paper", "--svg", &svg]).refused(1, "name a new file");
}

fn write_private(path: &str, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

#[test]
fn a_zone_gets_new_keys_and_keeps_what_it_had() {
    let site = Site::new();
    site.back_up("hv1.key", "old").ok();
    site.admin(&["key", "rotate", "--zone", "nowhere"]).refused(2, "there is no zone nowhere");
    site.with_key("hv1.key", &["key", "rotate"]).refused(12, "may not sign this");
    let forget = site.with_key("hv1.key", &["forget", "web01:latest"]);
    assert!(forget.stderr().contains("hv1.key, from SANCERRE_KEY_FILE)"), "{}", forget.stderr());
    forget.refused(12, "a keeper's key file or the administrator's passphrase is needed");
    let rotated = site.admin(&["key", "rotate", "--json"]).ok();
    assert_eq!(rotated.summary()["generation"], 2);
    site.admin(&["key", "add", "writer", "hv2", "--out", &site.path("hv2.key")]).ok();
    site.back_up("hv2.key", "new").ok();
    site.back_up("hv1.key", "old").ok();
    for snapshot in ["old:latest", "new:latest"] {
        site.restores(snapshot, None, &[("SANCERRE_PASSWORD", PASSPHRASE)]).ok();
    }
    for key in ["hv1.key", "hv2.key"] {
        site.with_key(key, &["snapshots"]).ok();
        site.with_key(key, &["check"]).ok();
    }
    site.admin(&["check", "--read-data"]).ok();
}

#[test]
fn junk_is_named_and_stops_no_restore() {
    let site = Site::new();
    site.back_up("hv1.key", "web01").ok();
    for key in
        ["certificates/aaa", "zones/default-ffff", "identities/0002", "recipients/0001-aaa", "admin/aaa"]
    {
        std::fs::write(site.path(&format!("repository/keys/{key}")), "junk").unwrap();
    }
    std::fs::create_dir(site.path("repository/keys/identities/0003")).unwrap();
    let restored = site.restores("web01:latest", None, &[("SANCERRE_PASSWORD", PASSPHRASE)]).ok();
    assert!(restored.stderr().contains("keys/certificates/aaa"), "{}", restored.stderr());
    site.admin(&["key", "add", "writer", "hv2", "--out", &site.path("hv2.key")]).ok();
    site.admin(&["key", "revoke", "writer", "hv2"]).ok();
    site.back_up("hv1.key", "web01").ok();
    site.admin(&["check"]).refused(20, "keys/admin/aaa");
}
