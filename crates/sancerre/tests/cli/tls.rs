//! The built program on a bucket behind TLS: whom it trusts, and what it says when it does not.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sancerre_services::seaweedfs::{ADMIN, variables};
use sancerre_services::{Seaweedfs, seaweedfs};

/// TLS in front of the S3 server, with a certificate for 127.0.0.1 that is its own authority.
struct Tls {
    folder: tempfile::TempDir,
    port: u16,
    location: String,
    socat: Child,
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.socat.kill().unwrap();
        self.socat.wait().unwrap();
    }
}

fn has_tools() -> bool {
    let runs = |program, version| {
        Command::new(program).arg(version).output().is_ok_and(|output| output.status.success())
    };
    let all = runs("openssl", "version") && runs("socat", "-V");
    if !all {
        sancerre_services::skip("openssl or socat is not installed; `cargo xtask setup` does it");
    }
    all
}

fn certify(folder: &Path, name: &str) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

impl Tls {
    /// None, said loudly, where something is missing.
    fn start() -> Option<(&'static Seaweedfs, Self)> {
        let server = seaweedfs().filter(|_| has_tools())?;
        let folder = tempfile::tempdir().unwrap();
        certify(folder.path(), "server");
        certify(folder.path(), "other");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listen = "reuseaddr,bind=127.0.0.1,fork,cert=server.pem,key=server.key,verify=0";
        let socat = Command::new("socat")
            .args([format!("OPENSSL-LISTEN:{port},{listen}"), format!("TCP:127.0.0.1:{}", server.port())])
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "socat does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some((server, Self { location: server.location(), folder, port, socat }))
    }

    fn run(&self, scheme: &str, more: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sancerre"));
        command
            .args(arguments)
            .env_clear()
            .envs(crate::support::CHEAP)
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command.env("SANCERRE_REPOSITORY", &self.location).env("SANCERRE_PASSWORD", "correct horse");
        command.envs(variables(&format!("{scheme}://127.0.0.1:{}", self.port), ADMIN));
        command.envs(more.iter().copied()).output().unwrap()
    }

    fn succeed(&self, more: &[(&str, &str)], arguments: &[&str]) {
        let output = self.run("https", more, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Fails at once, without waiting for the store to change its mind; returns what it said.
    fn refuses(&self, scheme: &str, more: &[(&str, &str)], code: i32) -> String {
        let started = Instant::now();
        let output = self.run(scheme, more, &["snapshots", "--retry-for", "1h"]);
        assert!(started.elapsed() < Duration::from_secs(60));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    }
}

#[test]
fn a_certificate_counts_when_its_authority_is_known() {
    let Some((_, tls)) = Tls::start() else { return };
    let trusting = [("SSL_CERT_FILE", "server.pem")];
    let disk: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(tls.folder.path().join("disk.raw"), &disk).unwrap();
    tls.succeed(&trusting, &["init", "--key-file", "w.key"]);
    tls.succeed(&trusting, &["backup", "--key-file", "w.key", "--vm", "web01", "disk0=disk.raw"]);
    tls.succeed(&trusting, &["restore", "web01:latest:disk0", "--target", "restored.raw"]);
    assert!(std::fs::read(tls.folder.path().join("restored.raw")).unwrap() == disk);

    let said = tls.refuses("https", &[("SSL_CERT_FILE", "other.pem")], 1);
    assert!(said.contains("certificate is not trusted") && said.contains("SSL_CERT_FILE"), "{said}");
    assert!(!said.contains("trying again"), "{said}");
    // Whoever wants that can have it, for all requests.
    let careless = [("SSL_CERT_FILE", "other.pem"), ("AWS_ALLOW_INVALID_CERTIFICATES", "true")];
    tls.succeed(&careless, &["snapshots"]);
}

/// As on a rescue system that has just been installed.
#[test]
fn a_machine_without_authorities_is_told_what_it_lacks() {
    let Some((server, tls)) = Tls::start() else { return };
    let none = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    let said = tls.refuses("https", &none, 2);
    assert!(said.contains("ca-certificates") && said.contains("SSL_CERT_FILE"), "{said}");
    // Without TLS they are not needed.
    let endpoint = server.endpoint();
    let plain = [none[0], none[1], ("AWS_ENDPOINT", &endpoint)];
    let said = tls.refuses("http", &plain, 10);
    assert!(said.contains("there is no repository"), "{said}");
}
