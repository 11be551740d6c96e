//! One socket to the reader, or in it: whole packets, with a descriptor where one goes along.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};

use super::wire::PACKET_BYTES_MAX;

/// Why nothing more comes from the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It closed the socket, or is no more.
    Ended,
    /// It took longer than it may.
    Silent,
    /// It said what it may not say.
    Lie(&'static str),
    /// The system failed.
    System(String),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Ended,
            Errno::AGAIN => Self::Silent,
            other => Self::System(io::Error::from(other).to_string()),
        }
    }
}

/// A socket of which each packet is whole.
pub struct Lane {
    socket: OwnedFd,
    packet: Vec<u8>,
    /// How long one answer may take; none for the reader, which waits for questions.
    patience: Option<Duration>,
    waited: Duration,
}

/// Without the packet, which is bytes of somebody's disk.
impl fmt::Debug for Lane {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lane").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Both ends of a new connection.
///
/// # Errors
/// Of the system.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

impl Lane {
    /// This end, and how long an answer may take.
    ///
    /// # Errors
    /// Of the system.
    pub fn new(socket: OwnedFd, patience: Option<Duration>) -> io::Result<Self> {
        if patience.is_some() {
            set_socket_timeout(&socket, Timeout::Recv, patience)?;
            set_socket_timeout(&socket, Timeout::Send, patience)?;
        }
        Ok(Self { socket, packet: vec![0; PACKET_BYTES_MAX], patience, waited: Duration::ZERO })
    }

    /// Sends a packet. What comes next has all its time again.
    ///
    /// # Errors
    /// When nobody is at the other end.
    pub fn send(&mut self, packet: &[u8], passed: Option<BorrowedFd<'_>>) -> Result<(), Trouble> {
        self.waited = Duration::ZERO;
        let passed: Vec<BorrowedFd<'_>> = passed.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !passed.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(&passed)) {
            return Err(Trouble::System("no room for a descriptor".to_owned()));
        }
        let sent = retry_on_intr(|| {
            sendmsg(&self.socket, &[IoSlice::new(packet)], &mut rights, SendFlags::NOSIGNAL)
        })?;
        if sent == packet.len() { Ok(()) } else { Err(Trouble::System("a packet was cut".to_owned())) }
    }

    /// The next packet of an answer. Descriptors are not taken.
    ///
    /// # Errors
    /// When none comes.
    pub fn receive(&mut self) -> Result<&[u8], Trouble> {
        let (length, took) = loop {
            let begun = Instant::now();
            match recv(&self.socket, self.packet.as_mut_slice(), RecvFlags::TRUNC) {
                // A signal that stopped us, and let us go on: that time is ours, and not the child's.
                Err(Errno::INTR) => {}
                received => break (received?.1, begun.elapsed()),
            }
        };
        self.waited = self.waited.saturating_add(took);
        // Packets that come one by one have no more time together than one that does not come.
        if self.patience.is_some_and(|patience| self.waited > patience) {
            return Err(Trouble::Silent);
        }
        match length {
            0 => Err(Trouble::Ended),
            _ => self.packet.get(..length).ok_or(Trouble::Lie("a packet that is too long")),
        }
    }

    /// The next packet, and the descriptor that came along.
    ///
    /// # Errors
    /// When none comes.
    pub(crate) fn receive_passed(&mut self) -> Result<(&[u8], Option<OwnedFd>), Trouble> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let received = {
            let mut parts = [io::IoSliceMut::new(&mut self.packet)];
            retry_on_intr(|| recvmsg(&self.socket, &mut parts, &mut rights, RecvFlags::CMSG_CLOEXEC))?
        };
        let mut passed = None;
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                passed = descriptors.last();
            }
        }
        if received.bytes == 0 {
            return Err(Trouble::Ended);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Trouble::Lie("a packet that is too long"));
        }
        Ok((self.packet.get(..received.bytes).unwrap_or_default(), passed))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::testing::{again, is_inner, stand_still};

    #[test]
    fn a_program_that_stood_still_does_not_blame_its_child() {
        const PATIENCE: Duration = Duration::from_secs(1);
        if is_inner() {
            let socket = io::stdin().as_fd().try_clone_to_owned().unwrap();
            Lane::new(socket, Some(PATIENCE)).unwrap().receive().unwrap();
            return;
        }
        let (ours, theirs) = pair().unwrap();
        let test = "confined::channel::tests::a_program_that_stood_still_does_not_blame_its_child";
        let mut inner = again(test).stdin(theirs).spawn().unwrap();
        stand_still(&inner, PATIENCE * 2);
        Lane::new(ours, None).unwrap().send(b"a", None).unwrap();
        assert!(inner.wait().unwrap().success());
    }
}
