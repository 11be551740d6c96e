//! What can go wrong with an export: each message names the export, what the server said, and the next step.

use std::io;

use super::wire::Said;

/// Why an export cannot be used or read.
#[derive(Debug, thiserror::Error)]
#[error("NBD export {export}: {fault}")]
pub struct NbdError {
    /// The export as it was named.
    pub export: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with an export, a server or a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The address makes no sense.
    #[error(
        "{0}; the form is nbd://HOST[:PORT][/EXPORT], nbds://… for TLS, or nbd+unix:///EXPORT?socket=PATH"
    )]
    Uri(&'static str),
    /// Nobody answers there.
    #[error("cannot connect: {0}; check that the server runs and that this host and user may reach it")]
    Connect(#[source] io::Error),
    /// The connection ended in the middle.
    #[error(
        "the connection broke while {doing}: {source}; look whether the server still runs, and at its log"
    )]
    Broke {
        /// What was under way.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The server does not answer.
    #[error(
        "the server was silent for {seconds} s while {doing}; look whether it hangs, and at the disk behind it, then read it again"
    )]
    Silent {
        /// What was under way.
        doing: &'static str,
        /// How long it may take.
        seconds: u64,
    },
    /// The server broke the rules of the protocol.
    #[error("the server breaks the protocol: {0}; do not trust what it sent, and report this to its makers")]
    Lied(String),
    /// The server said no.
    #[error("the server refused {asked}: {said}; {advice}")]
    Refused {
        /// What was asked for.
        asked: &'static str,
        /// Its answer.
        said: Said,
        /// What to do about it.
        advice: &'static str,
    },
    /// The server cannot do what is needed.
    #[error("{0}")]
    Unfit(String),
    /// TLS failed.
    #[error("TLS failed: {0}; check the certificates on both sides and the name in the address")]
    Tls(String),
    /// The server could not carry out a request.
    #[error("the server answered {0}; look at its log and at the disk behind it")]
    Failed(Said),
    /// Another export answers than the one that was opened.
    #[error(
        "another connection to it shows {0}; the export was replaced while it was read, so read it again"
    )]
    Replaced(String),
    /// Something broke before, and what followed cannot be trusted.
    #[error("is not read any further after an earlier failure: {0}; when that is mended, read it again")]
    Gone(String),
}

impl Fault {
    pub(super) fn at(self, export: &str) -> NbdError {
        NbdError { export: export.to_owned(), fault: self }
    }

    pub(super) fn lied(what: impl Into<String>) -> Self {
        Self::Lied(what.into())
    }
}
