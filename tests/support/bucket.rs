//! A bucket in memory behind HTTP: as much of the XML interface of S3 and GCS as the product uses, so that
//! `object_store`'s own clients can be tested against it; and, when told, a liar.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a bucket says and does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Create-only is accepted, and the object overwritten.
    IgnoresCreateOnly,
    /// Create-only is refused, and the object overwritten.
    RefusesAndOverwrites,
    /// It looks whether the object is there, and writes a little later.
    LooksThenWrites,
    /// What was acknowledged is not there.
    Forgets,
    /// Other bytes come back.
    ChangesBytes,
    /// A part was asked for, the whole object comes.
    IgnoresRanges,
    /// A part was asked for, another one comes under its name.
    ShiftsRanges,
    /// New objects are not listed.
    ListsLate,
    /// Objects are listed with a wrong size.
    ListsWrongSizes,
    /// Checksums are not looked at.
    IgnoresChecksums,
    /// Its clock is an hour behind.
    WrongClock,
    /// It says that it keeps versions, and overwrites.
    KeepsNoVersions,
    /// Create-only is ignored where versions are kept.
    IgnoresCreateOnlyWithVersions,
    /// It says that new objects are locked, and they have no lock.
    LocksNothing,
    /// Objects have a lock, and are deleted all the same.
    LockIsForShow,
    /// Deletes are accepted, and nothing is deleted.
    DeletesNothing,
    /// The versions of an object are listed with the first one on top.
    ListsVersionsBackwards,
}

/// What a bucket has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Features {
    pub versions: bool,
    pub lock: bool,
    pub lie: Option<Lie>,
}

#[derive(Debug, Clone)]
struct Object {
    version: u64,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// Versions by key, the newest last; no bytes for a delete marker.
    objects: BTreeMap<String, Vec<Option<Object>>>,
    next_version: u64,
    /// What the bucket's policy does not let anybody ask.
    denied: Option<&'static str>,
}

/// A running bucket named `fake`; ends when dropped.
pub struct FakeBucket {
    port: u16,
    server: Arc<Server>,
    task: JoinHandle<()>,
}

impl Drop for FakeBucket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Server {
    features: Features,
    state: Mutex<State>,
}

struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

const TIME: &str = "%a, %d %b %Y %H:%M:%S GMT";

impl FakeBucket {
    pub async fn start(features: Features) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Arc::new(Server { features, state: Mutex::default() });
        let served = server.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = served.clone();
                tokio::spawn(async move { drop(server.serve(client).await) });
            }
        });
        Self { port, server, task }
    }

    /// From now on nobody may ask the bucket this: `versions` lists them, `versioning` asks whether it keeps any.
    pub fn deny(&self, question: &'static str) {
        self.server.state.lock().unwrap().denied = Some(question);
    }

    /// Puts an object under any key of the repository, as no program of ours would spell it.
    pub fn plant(&self, key: &str, bytes: &[u8]) {
        let keeps = self.server.features.versions;
        self.server.state.lock().unwrap().push(&format!("repo/{key}"), bytes.to_vec(), keeps);
    }

    /// For a client of S3: location and variables.
    pub fn s3(&self) -> (String, Vec<(String, String)>) {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let pairs = [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ];
        ("s3://fake/repo".into(), owned(&pairs))
    }

    /// For a client of GCS: location and variables.
    pub fn gcs(&self) -> (String, Vec<(String, String)>) {
        let base = format!("http://127.0.0.1:{}", self.port);
        // A key that says it needs no token; the rest of it is never looked at.
        let key = r#"{"disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}"#;
        let variables = [("GOOGLE_BASE_URL", base.as_str()), ("GOOGLE_SERVICE_ACCOUNT_KEY", key)];
        ("gs://fake/repo".into(), owned(&variables))
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Server {
    fn lies(&self, lie: Lie) -> bool {
        self.features.lie == Some(lie)
    }

    /// All requests of a connection, one after the other.
    async fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut client, &mut buffer).await? {
            let is_head = request.method == "HEAD";
            let answer = self.answer(request).await;
            let mut head =
                format!("HTTP/1.1 {} x\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
            answer.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
            client.write_all(format!("{head}\r\n").as_bytes()).await?;
            if !is_head {
                client.write_all(&answer.body).await?;
            }
        }
        Ok(())
    }

    async fn answer(&self, request: Request) -> Answer {
        let denied = self.state.lock().unwrap().denied;
        if request.key.is_empty() && denied.is_some_and(|denied| request.query.contains_key(denied)) {
            return Answer::new(403, "<Error><Code>AccessDenied</Code></Error>");
        }
        match (request.method.as_str(), request.key.is_empty()) {
            ("GET", true) if request.query.contains_key("versioning") => self.versioning(),
            ("GET", true) if request.query.contains_key("object-lock") => self.lock_rule(),
            ("GET", true) if request.query.contains_key("versions") => self.list_versions(&request),
            ("GET", true) => self.list(&request),
            ("GET", false) if request.query.contains_key("retention") => self.retention(),
            ("GET" | "HEAD", false) => self.read(&request),
            ("PUT", false) => self.write(request).await,
            ("DELETE", false) => self.delete(&request),
            ("POST", true) => Answer::new(200, "<DeleteResult></DeleteResult>"),
            _ => Answer::new(501, "<Error><Code>NotImplemented</Code></Error>"),
        }
    }

    fn versioning(&self) -> Answer {
        let status = if self.features.versions { "<Status>Enabled</Status>" } else { "" };
        Answer::new(200, &format!("<VersioningConfiguration>{status}</VersioningConfiguration>"))
    }

    fn lock_rule(&self) -> Answer {
        match self.features.lock {
            true => Answer::new(
                200,
                "<Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>7</Days></DefaultRetention></Rule>",
            ),
            false => Answer::new(404, "<Error><Code>ObjectLockConfigurationNotFoundError</Code></Error>"),
        }
    }

    fn retention(&self) -> Answer {
        match self.features.lock && !self.lies(Lie::LocksNothing) {
            true => Answer::new(
                200,
                "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2099-01-01T00:00:00Z</RetainUntilDate></Retention>",
            ),
            false => Answer::new(404, "<Error><Code>NoSuchObjectLockConfiguration</Code></Error>"),
        }
    }

    async fn write(&self, request: Request) -> Answer {
        let create_only = request.headers.contains_key("if-none-match")
            || request.headers.contains_key("x-goog-if-generation-match");
        let is_wrong =
            request.headers.get("x-amz-checksum-sha256").is_some_and(|sum| sum.starts_with("47DEQpj8HBSa"));
        if is_wrong && !self.lies(Lie::IgnoresChecksums) {
            return Answer::new(400, "<Error><Code>BadDigest</Code></Error>");
        }
        let exists = self.state.lock().unwrap().newest(&request.key).is_some();
        if self.lies(Lie::LooksThenWrites) {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let ignores = self.lies(Lie::IgnoresCreateOnly)
            || (self.lies(Lie::IgnoresCreateOnlyWithVersions) && self.features.versions);
        let mut state = self.state.lock().unwrap();
        // An honest bucket looks and writes under one lock.
        let exists =
            if self.lies(Lie::LooksThenWrites) { exists } else { state.newest(&request.key).is_some() };
        if create_only && exists && !ignores {
            if self.lies(Lie::RefusesAndOverwrites) {
                state.push(&request.key, request.body, false);
            }
            return Answer::new(412, "<Error><Code>PreconditionFailed</Code></Error>");
        }
        let keeps = self.features.versions && !self.lies(Lie::KeepsNoVersions);
        let version = if self.lies(Lie::Forgets) { 1 } else { state.push(&request.key, request.body, keeps) };
        Answer::new(200, "")
            .with("etag", format!("\"{version}\""))
            .with("x-goog-generation", version.to_string())
            .versioned(self.features.versions, version)
    }

    fn read(&self, request: &Request) -> Answer {
        let state = self.state.lock().unwrap();
        let wanted = request.query.get("versionId");
        let found = match wanted {
            Some(version) => state.version(&request.key, version),
            None => state.newest(&request.key),
        };
        let Some(object) = found else { return Answer::new(404, "<Error><Code>NoSuchKey</Code></Error>") };
        let mut bytes = object.bytes.clone();
        if self.lies(Lie::ChangesBytes) {
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
        }
        let behind = if self.lies(Lie::WrongClock) { 3600 } else { 0 };
        let modified = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() - behind)
            .unwrap()
            .strftime(TIME)
            .to_string();
        let answer = self.part(request.headers.get("range"), bytes);
        answer
            .with("etag", format!("\"{}\"", object.version))
            .with("last-modified", modified)
            .versioned(self.features.versions, object.version)
    }

    fn part(&self, range: Option<&String>, bytes: Vec<u8>) -> Answer {
        let Some(range) = range.filter(|_| !self.lies(Lie::IgnoresRanges)) else {
            return Answer::of(200, bytes);
        };
        let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap_or(usize::MAX));
        if start >= bytes.len() {
            return Answer::new(416, "<Error><Code>InvalidRange</Code></Error>");
        }
        let end = end.min(bytes.len() - 1);
        let shift = usize::from(self.lies(Lie::ShiftsRanges) && start > 0);
        let part = bytes[start - shift..=end - shift].to_vec();
        Answer::of(206, part).with("content-range", format!("bytes {start}-{end}/{}", bytes.len()))
    }

    fn list(&self, request: &Request) -> Answer {
        let state = self.state.lock().unwrap();
        let prefix = request.query.get("prefix").cloned().unwrap_or_default();
        let after = request
            .query
            .get("continuation-token")
            .or(request.query.get("start-after"))
            .cloned()
            .unwrap_or_default();
        let matching: Vec<(&String, &Object)> = state
            .objects
            .keys()
            .filter(|key| key.starts_with(&prefix) && **key > after && !self.lies(Lie::ListsLate))
            .filter_map(|key| Some((key, state.newest(key)?)))
            .take(1001)
            .collect();
        let wrong = usize::from(self.lies(Lie::ListsWrongSizes));
        let mut xml = String::from("<ListBucketResult>");
        for (key, object) in matching.iter().take(1000) {
            let key = escaped(key);
            xml.push_str(&format!("<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"{}\"</ETag><Size>{}</Size></Contents>", object.version, object.bytes.len() + wrong));
        }
        if matching.len() > 1000 {
            xml.push_str(&format!(
                "<NextContinuationToken>{}</NextContinuationToken>",
                escaped(matching[999].0)
            ));
        }
        Answer::new(200, &format!("{xml}</ListBucketResult>"))
    }

    fn list_versions(&self, request: &Request) -> Answer {
        let state = self.state.lock().unwrap();
        let prefix = request.query.get("prefix").cloned().unwrap_or_default();
        let mut xml = String::from("<ListVersionsResult><IsTruncated>false</IsTruncated>");
        for (key, versions) in state.objects.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            let key = escaped(key);
            let entry = |(place, version): (usize, &Option<Object>)| {
                let (tag, id, size) = match version {
                    Some(object) => ("Version", object.version.to_string(), object.bytes.len()),
                    None => ("DeleteMarker", format!("marker{place}"), 0),
                };
                format!(
                    "<{tag}><Key>{key}</Key><VersionId>{id}</VersionId><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>{size}</Size></{tag}>"
                )
            };
            let entries = versions.iter().enumerate().map(entry);
            match self.lies(Lie::ListsVersionsBackwards) {
                true => xml.extend(entries),
                false => xml.extend(entries.rev()),
            }
        }
        Answer::new(200, &format!("{xml}</ListVersionsResult>"))
    }

    fn delete(&self, request: &Request) -> Answer {
        let mut state = self.state.lock().unwrap();
        if self.lies(Lie::DeletesNothing) {
            return Answer::new(204, "");
        }
        match request.query.get("versionId") {
            Some(_)
                if self.features.lock && !self.lies(Lie::LockIsForShow) && !self.lies(Lie::LocksNothing) =>
            {
                return Answer::new(403, "<Error><Code>AccessDenied</Code></Error>");
            }
            Some(version) => {
                if let Some(versions) = state.objects.get_mut(&request.key) {
                    versions.retain(|object| {
                        object.as_ref().is_none_or(|object| object.version.to_string() != *version)
                    });
                }
            }
            None if self.features.versions => {
                state.objects.entry(request.key.clone()).or_default().push(None);
            }
            None => drop(state.objects.remove(&request.key)),
        }
        Answer::new(204, "")
    }
}

/// As AWS writes keys: with references for what XML does not have.
fn escaped(key: &str) -> String {
    let one = |letter: char| match letter {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        _ if letter.is_ascii_control() => format!("&#{};", letter as u32),
        _ => letter.to_string(),
    };
    key.chars().map(one).collect()
}

impl State {
    fn newest(&self, key: &str) -> Option<&Object> {
        self.objects.get(key)?.last()?.as_ref()
    }

    fn version(&self, key: &str, version: &str) -> Option<&Object> {
        self.objects.get(key)?.iter().flatten().find(|object| object.version.to_string() == version)
    }

    fn push(&mut self, key: &str, bytes: Vec<u8>, keeps: bool) -> u64 {
        self.next_version += 1;
        let versions = self.objects.entry(key.to_owned()).or_default();
        if !keeps {
            versions.clear();
        }
        versions.push(Some(Object { version: self.next_version, bytes }));
        self.next_version
    }
}

impl Answer {
    fn new(status: u16, body: &str) -> Self {
        Self::of(status, body.into())
    }

    fn of(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    fn versioned(self, versions: bool, version: u64) -> Self {
        if versions { self.with("x-amz-version-id", version.to_string()) } else { self }
    }
}

async fn read_request(client: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|end| end == b"\r\n\r\n") {
            break end + 4;
        }
        if client.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let pairs = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let headers: BTreeMap<String, String> =
        pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    while buffer.len() < end + length {
        if client.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = decode(path.strip_prefix("/fake").unwrap_or(path).trim_start_matches('/'));
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = query.map(|(name, value)| (decode(name), decode(value))).collect();
    Ok(Some(Request { method, key, query, headers, body }))
}

/// Percent decoding.
fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}
