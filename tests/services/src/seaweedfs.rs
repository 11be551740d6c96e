//! SeaweedFS: an S3 server with versions, Object Lock and atomic conditional writes.

use crate::http::Response;
use crate::shared::{self, Recipe, Running};
use crate::{Variables, http, install, s3, skip, unique};
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// An access key and its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// What requests carry.
    pub access_key: &'static str,
    /// What they are signed with.
    pub secret_key: &'static str,
}

/// May do everything.
pub const ADMIN: Credentials = Credentials { access_key: "adminkey", secret_key: "adminsecret" };
/// May read, list, write, and lock what it writes. (The server counts a delete as a write: only a lock stops that.)
pub const WRITER: Credentials = Credentials { access_key: "writerkey", secret_key: "writersecret" };
/// May do what a bucket's policy allows to `user/hypervisor`, and nothing else.
pub const HYPERVISOR: Credentials =
    Credentials { access_key: "hypervisorkey", secret_key: "hypervisorsecret" };
/// The same of `user/restorer`.
pub const RESTORER: Credentials = Credentials { access_key: "restorerkey", secret_key: "restorersecret" };
/// The same of `user/keeper`.
pub const KEEPER: Credentials = Credentials { access_key: "keeperkey", secret_key: "keepersecret" };
/// May read and list.
pub const READER: Credentials = Credentials { access_key: "readerkey", secret_key: "readersecret" };

/// What a bucket can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// Nothing more.
    Plain,
    /// Keeps versions.
    Versioned,
    /// Keeps versions, and locks objects that ask for it.
    Locked,
    /// Keeps versions, and locks every object in mode COMPLIANCE for this many days.
    LockedByDefault(u32),
}

/// The running server.
pub struct Seaweedfs {
    running: Running,
}

/// The test run's S3 server; none, said loudly, where it is not installed.
///
/// Panics when it is installed and does not start.
pub fn seaweedfs() -> Option<&'static Seaweedfs> {
    static SERVER: OnceLock<Option<Seaweedfs>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let program = install::weed()?;
        let running = shared::running(&Weed { program });
        Some(Seaweedfs {
            running: running.unwrap_or_else(|error| panic!("SeaweedFS does not start: {error:#}")),
        })
    });
    if server.is_none() {
        skip("no S3 server: `cargo xtask setup` installs SeaweedFS");
    }
    server.as_ref()
}

impl Seaweedfs {
    /// The address of the server, without a bucket.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.running.port)
    }

    /// The port of the server, for a proxy in front of it.
    pub fn port(&self) -> u16 {
        self.running.port
    }

    /// The variables with which a process uses the server as `who`.
    pub fn variables(&self, who: Credentials) -> Variables {
        variables(&self.endpoint(), who)
    }

    /// A place in a plain bucket that no other test uses.
    pub fn location(&self) -> String {
        format!("s3://{PLAIN}/{}", unique())
    }

    /// Makes a bucket that no other test uses. Prefer [`Seaweedfs::location`]: a bucket costs the server seven files.
    pub fn bucket(&self, kind: Bucket) -> Result<String> {
        let name = unique();
        create_bucket(self.running.port, &name, kind)?;
        Ok(name)
    }

    /// Sends a signed request: method, path and query (both encoded, names of the query ascending).
    pub fn request(
        &self,
        who: Credentials,
        request: (&str, &str, &str),
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        s3::request(self.running.port, &who, request, headers, body)
    }
}

/// The variables with which a process uses an S3 server at `endpoint` as `who`.
pub fn variables(endpoint: &str, who: Credentials) -> Variables {
    let pairs = [
        ("AWS_ENDPOINT", endpoint),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", who.access_key),
        ("AWS_SECRET_ACCESS_KEY", who.secret_key),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The bucket that tests share.
const PLAIN: &str = "plain";

struct Weed {
    program: PathBuf,
}

/// A bucket takes seven volumes by default, and each is a file.
const VOLUMES: &str = "[master.volume_growth]\ncopy_1 = 1\ncopy_2 = 1\ncopy_3 = 1\ncopy_other = 1\n";

impl Recipe for Weed {
    fn name(&self) -> &'static str {
        "seaweedfs"
    }

    fn ports(&self) -> usize {
        8
    }

    fn command(&self, folder: &Path, ports: &[u16]) -> Result<Vec<String>> {
        fs::create_dir(folder.join("data"))?;
        // Read from the folder that the server runs in.
        fs::write(folder.join("master.toml"), VOLUMES)?;
        fs::write(folder.join("s3.json"), identities())?;
        let fixed = [
            "server",
            "-dir=data",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256",
            "-volume.max=2000",
            "-volume.preStopSeconds=0",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.config=s3.json",
        ];
        let own = [
            "s3.port",
            "s3.port.grpc",
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
        ];
        let own = own.iter().zip(ports).map(|(name, port)| format!("-{name}={port}"));
        let program = self.program.display().to_string();
        Ok(std::iter::once(program).chain(fixed.map(str::to_owned)).chain(own).collect())
    }

    fn is_ready(&self, port: u16) -> bool {
        http::request(port, "GET", "/healthz", &[], &[]).is_ok_and(|answer| answer.status == 200)
    }

    fn prepare(&self, port: u16) -> Result<()> {
        // The gateway answers a little before the store behind it takes data.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let ready = create_bucket(port, PLAIN, Bucket::Plain).and_then(|()| {
                expect(&s3::request(port, &ADMIN, ("PUT", &format!("/{PLAIN}/ready"), ""), &[], b"ready")?)
            });
            match ready {
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
                Ok(()) => return Ok(()),
            }
        }
    }
}

fn identities() -> String {
    let identity = |name: &str, who: Credentials, actions: &str| {
        format!(
            r#"{{"name":"{name}","credentials":[{{"accessKey":"{}","secretKey":"{}"}}],"actions":[{actions}]}}"#,
            who.access_key, who.secret_key
        )
    };
    let admin = identity("admin", ADMIN, r#""Admin","Read","Write","List","Tagging""#);
    let writer =
        identity("writer", WRITER, r#""Read","Write","List","PutObjectRetention","GetObjectRetention""#);
    let reader = identity("reader", READER, r#""Read","List""#);
    let bare = [("hypervisor", HYPERVISOR), ("restorer", RESTORER), ("keeper", KEEPER)];
    let bare = bare.map(|(name, who)| identity(name, who, "")).join(",");
    format!(r#"{{"identities":[{admin},{writer},{reader},{bare}]}}"#)
}

pub(crate) fn create_bucket(port: u16, name: &str, kind: Bucket) -> Result<()> {
    let path = format!("/{name}");
    let lock: &[(&str, &str)] = match kind {
        Bucket::Locked | Bucket::LockedByDefault(_) => &[("x-amz-bucket-object-lock-enabled", "true")],
        _ => &[],
    };
    let made = s3::request(port, &ADMIN, ("PUT", &path, ""), lock, &[])?;
    if made.status != 409 {
        expect(&made)?;
    }
    match kind {
        Bucket::Versioned => {
            let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
            expect(&s3::request(port, &ADMIN, ("PUT", &path, "versioning="), &[], body.as_bytes())?)
        }
        Bucket::LockedByDefault(days) => {
            let rule = format!(
                "<Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>{days}</Days></DefaultRetention></Rule>"
            );
            let body = format!(
                "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>{rule}</ObjectLockConfiguration>"
            );
            expect(&s3::request(port, &ADMIN, ("PUT", &path, "object-lock="), &[], body.as_bytes())?)
        }
        Bucket::Plain | Bucket::Locked => Ok(()),
    }
}

fn expect(answer: &Response) -> Result<()> {
    match answer.status {
        200..300 => Ok(()),
        status => bail!("the server said {status}: {}", answer.text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_may_do_what_they_should() {
        let Some(server) = seaweedfs() else { return };
        let path = format!("/{PLAIN}/{}", unique());
        let status = |who, method| server.request(who, (method, &path, ""), &[], b"x").unwrap().status;
        assert_eq!([status(READER, "PUT"), status(WRITER, "PUT"), status(READER, "GET")], [403, 200, 200]);
        let wrong = Credentials { secret_key: "wrong", ..WRITER };
        assert_eq!(status(wrong, "GET"), 403);
    }

    #[test]
    fn locks_are_enforced() {
        let Some(server) = seaweedfs() else { return };
        let bucket = server.bucket(Bucket::LockedByDefault(1)).unwrap();
        let path = format!("/{bucket}/key");
        let put = server.request(WRITER, ("PUT", &path, ""), &[], b"x").unwrap();
        let version = put.header("x-amz-version-id").unwrap();
        let delete =
            server.request(ADMIN, ("DELETE", &path, &format!("versionId={version}")), &[], b"").unwrap();
        assert_eq!((put.status, delete.status), (200, 403), "{}", delete.text());
    }
}
