//! The built program on a bucket of a real S3 server.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use sancerre_services::Seaweedfs;
use sancerre_services::seaweedfs::{
    ADMIN, Bucket, Credentials, HYPERVISOR, KEEPER, READER, RESTORER, WRITER,
};
use serde_json::Value;

use super::{MIB, noise, summary, template, walk};

/// Who uses the bucket for what.
pub(crate) struct Roles {
    pub(crate) writer: Credentials,
    pub(crate) reader: Credentials,
    pub(crate) keeper: Credentials,
}

/// Gives a bucket the policy of docs/STORES.md as it stands there. Returns those that it names, who may do nothing else.
pub(crate) fn set_policy(server: &Seaweedfs, bucket: &str) -> Roles {
    let document = include_str!("../../../../../docs/STORES.md");
    let (_, policy) = document.split_once("```json policy\n").unwrap();
    let policy =
        policy.split_once("```").unwrap().0.replace("BUCKET", bucket).replace("ACCOUNT", "000000000000");
    let place = format!("/{bucket}");
    let set = server.request(ADMIN, ("PUT", &place, "policy="), &[], policy.as_bytes()).unwrap();
    assert_eq!(set.status, 204, "{}", set.text());
    Roles { writer: HYPERVISOR, reader: RESTORER, keeper: KEEPER }
}

/// A repository in a bucket of its own, and the disks of each night.
pub(crate) struct Site {
    pub(crate) roles: Roles,
    pub(crate) server: &'static Seaweedfs,
    pub(crate) bucket: String,
    folder: tempfile::TempDir,
    pub(crate) trust: String,
    pub(crate) nights: usize,
}

impl Site {
    /// With a writer's key and a keeper's.
    pub(crate) fn new(server: &'static Seaweedfs, kind: Bucket) -> Self {
        let roles = Roles { writer: WRITER, reader: READER, keeper: ADMIN };
        let (bucket, folder) = (server.bucket(kind).unwrap(), tempfile::tempdir().unwrap());
        let made = folder.path().join("made");
        template::copy(folder.path(), &made);
        for path in walk(&made).into_iter().filter(|path| !path.starts_with(made.join("reserve"))) {
            let key = path.strip_prefix(&made).unwrap().to_str().unwrap();
            server.overwrite(WRITER, &bucket, key, &std::fs::read(&path).unwrap()).unwrap();
        }
        Self { roles, server, bucket, folder, trust: template::trust(), nights: 0 }
    }

    /// The same made by the program, by these roles and in a bucket that is there.
    pub(crate) fn of(server: &'static Seaweedfs, bucket: String, roles: Roles) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Self { roles, server, bucket, folder, trust: String::new(), nights: 0 };
        let writer = site.roles.writer;
        let made = site.run(writer, &["init", "--json", "--key-file", "w.key", "--writer", "hv1"]);
        site.trust = summary(&made)["trust_anchor"].as_str().unwrap().to_owned();
        site.succeed(writer, &["key", "add", "keeper", "vault", "--out", "k.key"]);
        site
    }

    /// With credentials that may do what docs/STORES.md says, and nothing else.
    pub(crate) fn under_the_policy(server: &'static Seaweedfs, bucket: String) -> Self {
        let roles = set_policy(server, &bucket);
        Self::of(server, bucket, roles)
    }

    /// From now on the bucket locks what is new for so many days.
    pub(crate) fn lock_new_objects(&self, days: u32) {
        let rule = format!(
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
             <Mode>COMPLIANCE</Mode><Days>{days}</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
        );
        let place = format!("/{}", self.bucket);
        let set = self.server.request(ADMIN, ("PUT", &place, "object-lock="), &[], rule.as_bytes()).unwrap();
        assert_eq!(set.status, 200, "{}", set.text());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn run(&self, who: Credentials, arguments: &[&str]) -> Output {
        self.run_program(env!("CARGO_BIN_EXE_sancerre"), who, arguments)
    }

    /// Another program with the same environment, for one that runs ours.
    pub(crate) fn run_program(&self, program: &str, who: Credentials, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(crate::support::CHEAP)
            .env("PATH", "/usr/bin:/bin")
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command.env("SANCERRE_REPOSITORY", format!("s3://{}", self.bucket));
        command.env("SANCERRE_PASSWORD", "correct horse").envs(self.server.variables(who)).output().unwrap()
    }

    pub(crate) fn succeed(&self, who: Credentials, arguments: &[&str]) -> Output {
        let output = self.run(who, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Backs up a disk that differs from all before, also in its size: of what the night before stored nothing is needed.
    pub(crate) fn back_up(&mut self) -> Output {
        let disk = noise(self.nights as u64 + 1, 3 * MIB + self.nights * 4096);
        std::fs::write(self.path(&format!("{}.raw", self.nights)), disk).unwrap();
        let disk = format!("disk0={}.raw", self.nights);
        self.nights += 1;
        self.succeed(self.roles.writer, &["backup", "--key-file", "w.key", "--vm", "web01", &disk])
    }

    /// Whoever reads finds every night, bit for bit, and nothing to complain about.
    pub(crate) fn is_whole(&self) {
        let listed = self.succeed(self.roles.reader, &["snapshots", "--json", "--key-file", "w.key"]);
        let listed = String::from_utf8_lossy(&listed.stdout).matches("\"vm\":\"web01\"").count();
        assert_eq!(listed, self.nights);
        for night in 0..self.nights {
            let snapshot = format!("web01:latest~{}:disk0", self.nights - 1 - night);
            let restore = ["restore", &snapshot, "--target", "restored.raw", "--overwrite"];
            self.succeed(self.roles.reader, &restore);
            let restored = std::fs::read(self.path("restored.raw")).unwrap();
            assert!(restored == std::fs::read(self.path(&format!("{night}.raw"))).unwrap(), "night {night}");
        }
        self.succeed(self.roles.reader, &["check", "--read-data"]);
        self.succeed(self.roles.reader, &["audit", "--trust", &self.trust, "--sample-loss", "0.1%"]);
    }

    pub(crate) fn collect(&self) -> Value {
        summary(&self.succeed(self.roles.keeper, &["gc", "--json", "--key-file", "k.key", "--wait", "0s"]))
    }
}
