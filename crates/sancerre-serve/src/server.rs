//! Who is served: connections, and how many of them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use crate::export::ServedDisk;
use crate::handshake::{Rejected, agree};
use crate::limits::{ClientLimits, Tell};
use crate::transmission;

/// After the system could not give one more connection.
const PAUSE: Duration = Duration::from_millis(100);
/// Different messages of one server.
const TOLD_MAX: usize = 1024;

/// Serves exports.
pub struct Server {
    exports: Vec<Arc<dyn ServedDisk>>,
    limits: ClientLimits,
    tell: Tell,
}

impl Server {
    /// Serves these exports, whose names differ. What clients do wrong, and what could not be read for them, is told once.
    pub fn new(
        exports: Vec<Arc<dyn ServedDisk>>,
        limits: ClientLimits,
        tell: impl Fn(String) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let told = Mutex::new(BTreeSet::new());
        let once = move |message: String| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() < TOLD_MAX && told.insert(message.clone()) {
                drop(told);
                tell(message);
            }
        };
        Arc::new(Self { exports, limits, tell: Arc::new(once) })
    }

    /// Serves whoever connects, for ever; when this future is dropped all connections end. Needs a tokio runtime.
    ///
    /// Errors: a socket that is none any more.
    pub async fn serve(self: &Arc<Self>, listener: &UnixListener) -> io::Result<Infallible> {
        let mut clients = JoinSet::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                // A client that went away again, or too many open files.
                Err(error) => {
                    (self.tell)(format!("a client could not be taken: {error}"));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            while clients.try_join_next().is_some() {}
            if clients.len() >= self.limits.clients {
                (self.tell)(format!("there are {} clients already: one more was sent away", clients.len()));
                continue;
            }
            let server = Arc::clone(self);
            clients.spawn(async move { server.converse(stream).await });
        }
    }

    /// Serves one client to its end.
    pub async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, mut stream: S) {
        let ended = async {
            let agreed = tokio::time::timeout(self.limits.handshake, agree(&mut stream, &self.exports)).await;
            let Some(agreed) = agreed.map_err(|_| Rejected::TooSlow)?? else { return Ok(()) };
            let (reader, writer) = tokio::io::split(stream);
            transmission::serve(reader, writer, agreed, &self.limits, Arc::clone(&self.tell)).await
        };
        match ended.await {
            // A client that goes away in the middle is an everyday thing.
            Ok(()) | Err(Rejected::Io(_)) => {}
            Err(rejected) => (self.tell)(format!("a connection was closed: {rejected}")),
        }
    }
}
