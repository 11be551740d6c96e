//! A server behind TCP or a unix socket. Each wait has an end: the kernel's for silence, the clock's for a trickle.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::NbdOptions;
use super::channel::{Channel, Connector};
use super::error::Fault;
use super::tls::{Encrypted, TlsClient, client};
use super::uri::{Address, NbdUri};

/// Makes connections to an address.
pub(super) struct Sockets {
    address: Address,
    tls: Option<TlsClient>,
}

impl Sockets {
    pub(super) fn new(uri: &NbdUri, options: &NbdOptions) -> Result<Self, Fault> {
        let tls = if uri.is_encrypted { Some(client(&uri.address, &options.tls)?) } else { None };
        Ok(Self { address: uri.address.clone(), tls })
    }
}

impl Connector for Sockets {
    fn connect(&self, patience: Duration) -> Result<Box<dyn Channel>, Fault> {
        // The kernel takes no time of zero, and reads it as for ever.
        let patience = patience.max(Duration::from_millis(1));
        let stream = match &self.address {
            Address::Tcp { host, port } => tcp(host, *port, patience),
            Address::Unix(path) => unix(path, patience),
        };
        let stream = stream.map_err(Fault::Connect)?;
        let socket = Socket { stream, patience, deadline: after(patience) };
        Ok(Box::new(Line { state: Transport::Plain(socket), tls: self.tls.clone(), patience }))
    }

    fn wants_tls(&self) -> bool {
        self.tls.is_some()
    }
}

fn after(patience: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(patience).unwrap_or(now)
}

fn tcp(host: &str, port: u16, patience: Duration) -> io::Result<Stream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let stream = Stream::Tcp(stream);
                stream.be_patient(patience)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A server that hangs with a full queue makes `connect` wait: hence the time-out before it.
fn unix(path: &Path, patience: Duration) -> io::Result<Stream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let stream = Stream::Unix(UnixStream::from(socket));
    stream.be_patient(patience)?;
    connect(&stream, &SocketAddrUnix::new(path)?)?;
    Ok(stream)
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    fn be_patient(&self, patience: Duration) -> io::Result<()> {
        set_socket_timeout(self, Timeout::Send, Some(patience))?;
        Ok(set_socket_timeout(self, Timeout::Recv, Some(patience))?)
    }
}

/// A stream that gives up at its deadline.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    patience: Duration,
    deadline: Instant,
}

impl Socket {
    fn progress(&mut self) {
        self.deadline = after(self.patience);
    }

    fn be_patient(&mut self, patience: Duration) -> io::Result<()> {
        self.patience = patience;
        self.progress();
        self.stream.be_patient(patience)
    }

    /// What a system call that began then gave: silence has one name, and so has a deadline that is over.
    fn judge(&mut self, began: Instant, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            // A signal that stopped us, and let us go on: that time is ours, and not the server's.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.deadline = self.deadline.checked_add(began.elapsed()).unwrap_or(self.deadline);
                Err(error)
            }
            Err(error) => Err(error),
            Ok(_) if Instant::now() > self.deadline => Err(io::ErrorKind::TimedOut.into()),
            moved => moved,
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let began = Instant::now();
        let result = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        };
        self.judge(began, result)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let began = Instant::now();
        let result = match &mut self.stream {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        };
        self.judge(began, result)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Transport {
    Plain(Socket),
    Encrypted(Box<Encrypted>),
    /// Encrypting failed.
    Closed,
}

/// A socket, encrypted or not.
struct Line {
    state: Transport,
    tls: Option<TlsClient>,
    patience: Duration,
}

impl Channel for Line {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.state {
            Transport::Plain(socket) => socket.write_all(bytes),
            Transport::Encrypted(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Transport::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match &mut self.state {
            Transport::Plain(socket) => socket.read_exact(buffer),
            Transport::Encrypted(stream) => stream.read_exact(buffer),
            Transport::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn start_tls(&mut self) -> Result<(), Fault> {
        let missing = || Fault::Tls("it was not asked for".to_owned());
        let tls = self.tls.as_ref().ok_or_else(missing)?;
        let Transport::Plain(socket) = std::mem::replace(&mut self.state, Transport::Closed) else {
            return Err(missing());
        };
        self.state = Transport::Encrypted(Box::new(tls.handshake(socket)?));
        Ok(())
    }

    fn progress(&mut self) {
        match &mut self.state {
            Transport::Plain(socket) => socket.progress(),
            Transport::Encrypted(stream) => stream.sock.progress(),
            Transport::Closed => {}
        }
    }

    fn be_patient(&mut self, patience: Duration) -> io::Result<()> {
        self.patience = patience;
        match &mut self.state {
            Transport::Plain(socket) => socket.be_patient(patience),
            Transport::Encrypted(stream) => stream.sock.be_patient(patience),
            Transport::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn patience_seconds(&self) -> u64 {
        self.patience.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::testing::{again, is_inner, stand_still};

    const PLACE: &str = "SANCERRE_INNER_PLACE";
    const PATIENCE: Duration = Duration::from_secs(1);

    fn read_two() {
        let path = std::env::var_os(PLACE).unwrap();
        let options = NbdOptions::default();
        let sockets = Sockets::new(&NbdUri::unix(path.into(), ""), &options).unwrap();
        sockets.connect(PATIENCE).unwrap().receive(&mut [0; 2]).unwrap();
    }

    /// Stopped between two bytes for longer than the server has for both.
    #[test]
    fn a_program_that_stood_still_does_not_blame_the_server() {
        if is_inner() {
            return read_two();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let test = "nbd::socket::tests::a_program_that_stood_still_does_not_blame_the_server";
        let mut inner = again(test).env(PLACE, &path).spawn().unwrap();
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(b"a").unwrap();
        stand_still(&inner, PATIENCE * 2);
        stream.write_all(b"b").unwrap();
        assert!(inner.wait().unwrap().success());
    }
}
