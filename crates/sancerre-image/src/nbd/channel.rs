//! A conversation with a server as bytes in both directions, whatever carries them.

use std::io;
use std::time::Duration;

use super::error::Fault;

/// A connection to a server.
pub trait Channel: Send {
    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when the server does not take them in time.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Fills `buffer`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the server closed the connection, [`io::ErrorKind::TimedOut`] when the
    /// bytes do not come in time.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()>;

    /// Goes on encrypted, after the server agreed.
    ///
    /// # Errors
    /// [`Fault::Tls`] when that fails.
    fn start_tls(&mut self) -> Result<(), Fault>;

    /// The server answered: the time that it has begins anew.
    fn progress(&mut self);

    /// From now on the server may be silent for so long.
    ///
    /// # Errors
    /// What the socket says.
    fn be_patient(&mut self, patience: Duration) -> io::Result<()>;

    /// How long the server may be silent, for messages.
    fn patience_seconds(&self) -> u64;
}

/// Makes connections to one server.
pub trait Connector: Send + Sync {
    /// A new connection, on which the server may be silent for so long.
    ///
    /// # Errors
    /// [`Fault::Connect`] when nobody answers.
    fn connect(&self, patience: Duration) -> Result<Box<dyn Channel>, Fault>;

    /// Whether the conversation must be encrypted.
    fn wants_tls(&self) -> bool;
}

/// Fills `buffer`, and says on failure what was under way.
pub(super) fn receive(
    channel: &mut dyn Channel,
    buffer: &mut [u8],
    doing: &'static str,
) -> Result<(), Fault> {
    channel.receive(buffer).map_err(|source| fault(channel, doing, source))
}

/// Receives a message of a fixed length.
pub(super) fn receive_array<const N: usize>(
    channel: &mut dyn Channel,
    doing: &'static str,
) -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    receive(channel, &mut bytes, doing)?;
    Ok(bytes)
}

/// Receives a message of a length that the server chose, if it is not above `most_bytes`.
pub(super) fn receive_message(
    channel: &mut dyn Channel,
    length_bytes: u32,
    most_bytes: u32,
    doing: &'static str,
) -> Result<Vec<u8>, Fault> {
    if length_bytes > most_bytes {
        return Err(Fault::lied(format!(
            "a message of {length_bytes} bytes where {most_bytes} are the most while {doing}"
        )));
    }
    let mut bytes = vec![0; usize::try_from(length_bytes).unwrap_or(usize::MAX)];
    receive(channel, &mut bytes, doing)?;
    Ok(bytes)
}

/// Sends `bytes`, and says on failure what was under way.
pub(super) fn send(channel: &mut dyn Channel, bytes: &[u8], doing: &'static str) -> Result<(), Fault> {
    channel.send(bytes).map_err(|source| fault(channel, doing, source))
}

fn fault(channel: &dyn Channel, doing: &'static str, source: io::Error) -> Fault {
    match source.kind() {
        io::ErrorKind::TimedOut => Fault::Silent { doing, seconds: channel.patience_seconds() },
        _ => Fault::Broke { doing, source },
    }
}
