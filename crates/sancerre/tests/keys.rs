//! Keys as an administrator handles them: the built program with key files, `age-keygen` and `ssh-keygen`.

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
        site.admin(&["init", "--key-file", &site.path("hv1.key"), "--writer", "hv1"]).ok();
        site
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command.args(arguments).env_clear().env("PATH", std::env::var("PATH").unwrap());
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
        let mut arguments = vec!["restore", snapshot, "--target", &target, "--overwrite"];
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
    site.with_key("hv1.key", &["dump", "latest"]).refused(12, "writer hv1 opens no content");
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
