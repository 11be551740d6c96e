//! Who is served: connections, and how many of them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::export::ServedDisk;
use crate::handshake::{Rejected, agree, greet, until_tls};
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
        let accept = || listener.accept().map(|taken| taken.map(|(stream, _)| stream)).boxed();
        let converse =
            |server: Arc<Self>, stream: UnixStream| async move { server.converse(stream).await }.boxed();
        self.serve_all(accept, converse).await
    }

    /// The same over TCP, to those whose certificate `tls` accepts: nothing is told of the exports before.
    ///
    /// Errors: as [`Server::serve`].
    pub async fn serve_tls(
        self: &Arc<Self>,
        listener: &TcpListener,
        tls: &Arc<ServerConfig>,
    ) -> io::Result<Infallible> {
        let accept = || listener.accept().map(|taken| taken.map(|(stream, _)| stream)).boxed();
        let tls = TlsAcceptor::from(Arc::clone(tls));
        let converse = move |server: Arc<Self>, stream: TcpStream| {
            let tls = tls.clone();
            async move { server.converse_tls(stream, tls).await }.boxed()
        };
        self.serve_all(accept, converse).await
    }

    async fn serve_all<'a, S>(
        self: &Arc<Self>,
        accept: impl Fn() -> BoxFuture<'a, io::Result<S>>,
        converse: impl Fn(Arc<Self>, S) -> BoxFuture<'static, ()>,
    ) -> io::Result<Infallible> {
        let mut clients = JoinSet::new();
        loop {
            let stream = match accept().await {
                Ok(stream) => stream,
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
            clients.spawn(converse(Arc::clone(self), stream));
        }
    }

    /// Serves one client to its end.
    pub async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, mut stream: S) {
        let ended = async {
            let no_zeroes = self.in_time(greet(&mut stream)).await?;
            self.agree_and_serve(stream, no_zeroes).await
        };
        self.tell_end(ended.await);
    }

    /// Serves one client that must show a certificate first.
    async fn converse_tls<S>(&self, mut stream: S, tls: TlsAcceptor)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ended = async {
            let no_zeroes = self.in_time(greet(&mut stream)).await?;
            if !self.in_time(until_tls(&mut stream)).await? {
                return Ok(());
            }
            let accepted = tokio::time::timeout(self.limits.patience, tls.accept(stream)).await;
            let stream = accepted.map_err(|_| Rejected::TooSlow)?.map_err(Rejected::Tls)?;
            self.agree_and_serve(stream, no_zeroes).await
        };
        self.tell_end(ended.await);
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Rejected>>) -> Result<T, Rejected> {
        tokio::time::timeout(self.limits.patience, work).await.map_err(|_| Rejected::TooSlow)?
    }

    async fn agree_and_serve<S>(&self, mut stream: S, no_zeroes: bool) -> Result<(), Rejected>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let agreed = self.in_time(agree(&mut stream, no_zeroes, &self.exports)).await?;
        let Some(agreed) = agreed else { return Ok(()) };
        let (reader, writer) = tokio::io::split(stream);
        transmission::serve(reader, writer, agreed, &self.limits, Arc::clone(&self.tell)).await
    }

    fn tell_end(&self, ended: Result<(), Rejected>) {
        match ended {
            // A client that goes away in the middle is an everyday thing.
            Ok(()) => {}
            Err(Rejected::Io(error)) if error.kind() != io::ErrorKind::TimedOut => {}
            Err(rejected) => (self.tell)(format!("a connection was closed: {rejected}")),
        }
    }
}
