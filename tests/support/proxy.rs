//! A proxy in front of a real server that does to requests and answers what networks and overloaded servers do.
//!
//! It takes one request a connection, so that a lost connection loses exactly one answer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::dice::Dice;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is lost before the server hears of it.
    Reset,
    /// The server does it, and its answer is lost.
    LostAnswer,
    /// The server does it twice; the second answer is passed on.
    Twice,
    /// Nobody answers until the client gives up; the server never hears of it.
    Silence,
    /// An answer without the server: 500, 503, 429.
    Status(u16),
    /// The same, and the client is to come back after so many seconds.
    RetryAfter(u16, u64),
    /// Half of the answer's body, then the connection is lost.
    HalfAnswer,
    /// One byte of the answer's body is another.
    WrongByte,
    /// The answer comes in pieces with pauses.
    SlowAnswer,
}

const STATUSES: [u16; 4] = [500, 503, 429, 502];

/// How requests fare.
enum Plan {
    /// In this order, then all well.
    Script(VecDeque<Option<Fault>>),
    /// One of so many, drawn from a seed.
    Dice(Dice, u64),
}

struct Shared {
    plan: Mutex<Plan>,
    upstream: u16,
    upload_bytes_per_second: Option<u64>,
    requests: AtomicU64,
    faults: AtomicU64,
}

/// A running proxy; ends when dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Passes requests to `upstream`; those at the beginning fare as the script says.
    pub async fn scripted(upstream: u16, script: impl IntoIterator<Item = Option<Fault>>) -> Self {
        Self::start(upstream, Plan::Script(script.into_iter().collect()), None).await
    }

    /// Passes requests to `upstream`; one of `one_in` meets a fault, as the seed says.
    pub async fn dicing(upstream: u16, seed: u64, one_in: u64) -> Self {
        Self::start(upstream, Plan::Dice(Dice::new(seed), one_in), None).await
    }

    /// Passes requests to `upstream`, and takes bodies at this speed.
    pub async fn throttled(upstream: u16, upload_bytes_per_second: u64) -> Self {
        Self::start(upstream, Plan::Script(VecDeque::new()), Some(upload_bytes_per_second)).await
    }

    async fn start(upstream: u16, plan: Plan, upload_bytes_per_second: Option<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, faults) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared =
            Arc::new(Shared { plan: Mutex::new(plan), upstream, upload_bytes_per_second, requests, faults });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = serving.clone();
                // A client that went away is what this is about.
                tokio::spawn(async move { drop(shared.serve(client).await) });
            }
        });
        Self { port, shared, task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests that came.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Those that met a fault.
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }

    /// From now on requests fare so, then all is well.
    pub fn script(&self, script: impl IntoIterator<Item = Option<Fault>>) {
        *self.shared.plan.lock().unwrap() = Plan::Script(script.into_iter().collect());
    }

    /// From now on all is well.
    pub fn calm(&self) {
        self.script([]);
    }
}

impl Shared {
    fn draw(&self) -> Option<Fault> {
        let fault = match &mut *self.plan.lock().unwrap() {
            Plan::Script(script) => script.pop_front().flatten(),
            Plan::Dice(dice, one_in) => dice.one_in(*one_in).then(|| match dice.below(9) {
                0 => Fault::Reset,
                1 => Fault::LostAnswer,
                2 => Fault::Twice,
                3 if dice.one_in(8) => Fault::Silence,
                4 => Fault::HalfAnswer,
                5 => Fault::WrongByte,
                6 => Fault::SlowAnswer,
                7 => Fault::RetryAfter(503, 0),
                _ => Fault::Status(STATUSES[dice.below(4) as usize]),
            }),
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.faults.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
        fault
    }

    async fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let request = self.read_request(&mut client).await?;
        if request.is_empty() {
            return Ok(());
        }
        match self.draw() {
            Some(Fault::Reset) => Ok(()),
            Some(Fault::LostAnswer) => self.pass(&request).await.map(drop),
            Some(Fault::Silence) => {
                // Until the client closes the connection.
                client.read_u8().await.map(drop)
            }
            Some(Fault::Status(status)) => client.write_all(answer(status, None).as_bytes()).await,
            Some(Fault::RetryAfter(status, seconds)) => {
                client.write_all(answer(status, Some(seconds)).as_bytes()).await
            }
            Some(Fault::Twice) => {
                self.pass(&request).await?;
                client.write_all(&self.pass(&request).await?).await
            }
            Some(fault) => reply(&mut client, self.pass(&request).await?, fault).await,
            None => client.write_all(&self.pass(&request).await?).await,
        }
    }

    /// Head and body of a request, with the wish for one answer a connection.
    async fn read_request(&self, client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = head_end(&bytes) {
                break end;
            }
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(Vec::new());
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(0, |value| value.trim().parse().unwrap());
        while bytes.len() < end + length {
            let before = bytes.len();
            let wanted = (end + length - before).min(16 << 10);
            let mut piece = vec![0; wanted];
            let got = client.read(&mut piece).await?;
            if got == 0 {
                return Ok(Vec::new());
            }
            bytes.extend_from_slice(&piece[..got]);
            if let Some(rate) = self.upload_bytes_per_second {
                tokio::time::sleep(Duration::from_secs_f64(got as f64 / rate as f64)).await;
            }
        }
        bytes.splice(end - 2..end - 2, *b"connection: close\r\n");
        Ok(bytes)
    }

    async fn pass(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(("127.0.0.1", self.upstream)).await?;
        server.write_all(request).await?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

/// Where the head ends and the body begins.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
}

fn answer(status: u16, retry_after: Option<u64>) -> String {
    let wish = retry_after.map_or_else(String::new, |seconds| format!("retry-after: {seconds}\r\n"));
    format!("HTTP/1.1 {status} fault\r\n{wish}content-length: 5\r\nconnection: close\r\n\r\nfault")
}

async fn reply(client: &mut TcpStream, mut answer: Vec<u8>, fault: Fault) -> std::io::Result<()> {
    let end = head_end(&answer).unwrap_or(answer.len());
    let middle = end + (answer.len() - end) / 2;
    match fault {
        Fault::HalfAnswer => client.write_all(&answer[..middle]).await,
        Fault::WrongByte => {
            if let Some(byte) = answer.get_mut(middle) {
                *byte ^= 1;
            }
            client.write_all(&answer).await
        }
        _ => {
            for piece in answer.chunks((answer.len() / 4).max(1)) {
                client.write_all(piece).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        }
    }
}
