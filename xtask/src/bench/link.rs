//! A line to an object store, made as long and as thin as wanted, that counts the requests on it.
//!
//! Every request waits for the latency once, as one that crosses the country does, and each direction of a connection
//! carries only so many bytes a second. Connections are kept, as the programs that are measured expect.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const PIECE_BYTES: usize = 64 << 10;
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What a line does to what passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// Until the first byte of an answer.
    pub(super) latency: Duration,
    /// Of one connection, in each direction.
    pub(super) stream_bytes_per_second: f64,
}

/// To a store across the country.
pub(super) const FAR: Line = Line { latency: Duration::from_millis(30), stream_bytes_per_second: 85e6 };

/// Requests and bytes since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) writes: u64,
    pub(super) reads: u64,
    pub(super) others: u64,
    pub(super) bytes: u64,
}

impl Counts {
    pub(super) fn requests(&self) -> u64 {
        self.writes + self.reads + self.others
    }
}

/// An open line; its threads end with the process.
pub(super) struct Link {
    port: u16,
    counts: Arc<Mutex<Counts>>,
}

impl Link {
    /// Opens a line to a port on loopback.
    pub(super) fn open(upstream: u16, line: Line) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
        let port = listener.local_addr()?.port();
        let counts = Arc::new(Mutex::new(Counts::default()));
        let shared = counts.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counts = shared.clone();
                // A client that goes away is none of our business.
                thread::spawn(move || drop(serve(client, upstream, line, &counts)));
            }
        });
        Ok(Self { port, counts })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What passed since the last call.
    pub(super) fn take_counts(&self) -> Counts {
        std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(client: TcpStream, upstream: u16, line: Line, counts: &Mutex<Counts>) -> Result<()> {
    let server = TcpStream::connect(("127.0.0.1", upstream))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut to_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (mut client, mut server) =
        (BufReader::with_capacity(PIECE_BYTES, client), BufReader::with_capacity(PIECE_BYTES, server));
    while let Some(mut request) = Head::read(&mut client)? {
        if request.take("expect").is_some() {
            to_client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        thread::sleep(line.latency);
        to_server.write_all(request.text.as_bytes())?;
        let sent = request.body(false).pass(&mut client, &mut to_server, line)?;
        let answer = loop {
            let answer = Head::read(&mut server)?.context("the server closed the connection")?;
            if !answer.text.starts_with("HTTP/1.1 1") {
                break answer;
            }
        };
        to_client.write_all(answer.text.as_bytes())?;
        let body = if request.text.starts_with("HEAD ") { Body::Bytes(0) } else { answer.body(true) };
        let received = body.pass(&mut server, &mut to_client, line)?;
        count(&mut counts.lock().unwrap_or_else(PoisonError::into_inner), &request.text, sent + received);
        if body == Body::ToTheEnd {
            break;
        }
    }
    Ok(())
}

fn count(counts: &mut Counts, request: &str, bytes: u64) {
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let is_listing = ["list-type=", "uploads", "location"].iter().any(|word| target.contains(word));
    match method {
        "GET" | "HEAD" if !is_listing => counts.reads += 1,
        "PUT" | "POST" => counts.writes += 1,
        _ => counts.others += 1,
    }
    counts.bytes += bytes;
}

/// The first line and the headers, with the empty line that ends them.
struct Head {
    text: String,
}

impl Head {
    /// None when the connection was closed before it.
    fn read(from: &mut impl BufRead) -> Result<Option<Self>> {
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            if from.read_line(&mut text)? == 0 {
                return Ok(None);
            }
            if text.len() > HEAD_BYTES_MAX {
                bail!("a head of more than {HEAD_BYTES_MAX} bytes");
            }
        }
        Ok(Some(Self { text }))
    }

    fn value(&self, name: &str) -> Option<&str> {
        let mut pairs = self.text.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Removes a header.
    fn take(&mut self, name: &str) -> Option<String> {
        let value = self.value(name)?.to_owned();
        let is_it = |line: &str| line.split(':').next().is_some_and(|key| key.eq_ignore_ascii_case(name));
        self.text = self.text.split_inclusive("\r\n").filter(|line| !is_it(line)).collect();
        Some(value)
    }

    fn body(&self, is_answer: bool) -> Body {
        let is_empty = ["204", "304"].iter().any(|code| self.text.starts_with(&format!("HTTP/1.1 {code}")));
        let is_chunked = self.value("transfer-encoding").is_some_and(|value| value.contains("chunked"));
        match self.value("content-length").and_then(|length| length.parse().ok()) {
            _ if is_chunked => Body::Chunked,
            Some(length) if !is_empty => Body::Bytes(length),
            None if is_answer && !is_empty => Body::ToTheEnd,
            _ => Body::Bytes(0),
        }
    }
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Body {
    Bytes(u64),
    Chunked,
    ToTheEnd,
}

impl Body {
    /// Copies a body at the speed of the line; returns its length.
    fn pass(self, from: &mut impl BufRead, to: &mut impl Write, line: Line) -> Result<u64> {
        let mut pass = Pass { started: Instant::now(), line, bytes: 0 };
        match self {
            Self::Bytes(count) => pass.copy(from, to, count)?,
            Self::ToTheEnd => pass.copy(from, to, u64::MAX)?,
            Self::Chunked => loop {
                let mut size = String::new();
                from.read_line(&mut size)?;
                to.write_all(size.as_bytes())?;
                let digits = size.split(';').next().unwrap_or_default().trim();
                let count = u64::from_str_radix(digits, 16).context("a chunk without a size")?;
                pass.copy(from, to, count + 2)?;
                if count == 0 {
                    break;
                }
            },
        }
        Ok(pass.bytes)
    }
}

struct Pass {
    started: Instant,
    line: Line,
    bytes: u64,
}

impl Pass {
    fn copy(&mut self, from: &mut impl Read, to: &mut impl Write, count: u64) -> Result<()> {
        let mut piece = [0; PIECE_BYTES];
        let mut left = count;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let got = from.read(&mut piece[..most])?;
            if got == 0 {
                break;
            }
            left -= got as u64;
            self.bytes += got as u64;
            let due = Duration::from_secs_f64(self.bytes as f64 / self.line.stream_bytes_per_second);
            thread::sleep(due.saturating_sub(self.started.elapsed()));
            to.write_all(&piece[..got])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Line, Link};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::{Duration, Instant};

    /// Answers two requests on one connection, the second in chunks.
    fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut head = vec![0; 4096];
            let got = client.read(&mut head).unwrap();
            assert!(!String::from_utf8_lossy(&head[..got]).contains("xpect"));
            client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").unwrap();
            client.write_all(&[7; 100_000]).unwrap();
            assert!(client.read(&mut head).unwrap() > 0);
            client.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
            client.write_all(b"3\r\nabc\r\n0\r\n\r\n").unwrap();
        });
        port
    }

    #[test]
    fn a_line_delays_slows_and_counts() {
        let line = Line { latency: Duration::from_millis(40), stream_bytes_per_second: 1e6 };
        let link = Link::open(server(), line).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", link.port())).unwrap();
        let started = Instant::now();
        client.write_all(b"GET /a HTTP/1.1\r\nExpect: 100-continue\r\n\r\n").unwrap();
        let mut answer = vec![0; 25 + 43 + 100_000];
        client.read_exact(&mut answer).unwrap();
        assert!(answer.ends_with(&[7; 100_000]));
        assert!(started.elapsed() >= Duration::from_millis(140), "{:?}", started.elapsed());
        client.write_all(b"PUT /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = vec![0; 47 + 13];
        client.read_exact(&mut answer).unwrap();
        assert!(answer.ends_with(b"3\r\nabc\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&answer));
        thread::sleep(Duration::from_millis(50));
        let counts = link.take_counts();
        assert_eq!(counts, Counts { writes: 1, reads: 1, others: 0, bytes: counts.bytes });
        assert!(counts.bytes >= 100_003);
    }
}
