//! What lies at the bottom of a failure. Nothing here knows the rest of this crate.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use http::StatusCode;

/// The store answered, and its answer is to come back later.
#[derive(Debug, thiserror::Error)]
#[error("the store answers {status}{}{message}", if message.is_empty() { "" } else { ": " })]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// How long it wants to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

/// The server is not who it says it is, as far as this machine can tell.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server's certificate is not trusted ({0}): install that of its authority on this machine, or name a file with \
     it in SSL_CERT_FILE"
)]
pub(crate) struct Untrusted(pub(crate) String);

/// The server speaks no TLS.
#[derive(Debug, thiserror::Error)]
#[error(
    "what answers there does not speak TLS; if it is meant to be plain, write http:// in the variable of the endpoint"
)]
pub(crate) struct NoTls;

/// An error after which the same request may succeed.
pub(crate) fn transient(reason: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "store", source: reason.into() }
}

/// Whether the kernel said so of a file or folder of this machine.
pub(crate) fn is_of_a_folder(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { store: FOLDER, .. })
}

/// What `object_store` calls a folder of this machine.
pub(crate) const FOLDER: &str = "LocalFileSystem";

/// What the kernel said, if it was asked.
pub(crate) fn of_kernel(error: &object_store::Error) -> Option<&io::Error> {
    find(error)
}

/// Whether there is no room, on the disk or within a quota.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The first cause of this type.
pub(crate) fn find<'e, T: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// An error's own words and, where they leave it out, what is at the bottom of it: libraries for HTTP say "error
/// sending request" whatever it was.
pub(crate) fn with_root_cause(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let causes = std::iter::successors(error.source(), |cause| (**cause).source());
    match causes.last().map(ToString::to_string) {
        Some(bottom) if !text.contains(&bottom) => format!("{text}: {bottom}"),
        _ => text,
    }
}
