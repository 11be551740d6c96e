//! What was asked of a store and moved to and fro, counted where it happens: retries and pages of listings too.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of request, as providers charge for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// A write.
    Put,
    /// A read of an object or of a range.
    Get,
    /// A listing, or a page of one.
    List,
    /// A delete.
    Delete,
    /// Anything else, such as getting credentials.
    Other,
}

/// Counters of one store. Those of a local folder count calls.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: [AtomicU64; 5],
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Writes.
    pub put: u64,
    /// Reads.
    pub get: u64,
    /// Listings.
    pub list: u64,
    /// Deletes.
    pub delete: u64,
    /// Others.
    pub other: u64,
    /// Bytes of bodies that were sent.
    pub sent_bytes: u64,
    /// Bytes of bodies that were received.
    pub received_bytes: u64,
}

impl Totals {
    /// All requests.
    pub fn requests(&self) -> u64 {
        [self.put, self.get, self.list, self.delete, self.other].iter().sum()
    }
}

impl Traffic {
    /// The counters now.
    pub fn totals(&self) -> Totals {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [put, get, list, delete, other] = self.requests.each_ref().map(of);
        let (sent_bytes, received_bytes) = (of(&self.sent_bytes), of(&self.received_bytes));
        Totals { put, get, list, delete, other, sent_bytes, received_bytes }
    }

    pub(crate) fn request(&self, request: RequestKind) {
        let [put, get, list, delete, other] = &self.requests;
        let counter = match request {
            RequestKind::Put => put,
            RequestKind::Get => get,
            RequestKind::List => list,
            RequestKind::Delete => delete,
            RequestKind::Other => other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        add(&self.sent_bytes, bytes);
    }

    pub(crate) fn received(&self, bytes: usize) {
        add(&self.received_bytes, bytes);
    }
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}
