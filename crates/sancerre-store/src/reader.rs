//! A long range of an object, read as it arrives, and taken up where it broke off.
//!
//! One request may carry many frames: each is handed out as soon as it is there, so that a reader needs memory for a
//! frame and not for the range. A line that breaks costs what had not arrived yet.

use std::ops::Range;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{BoxStream, TryStreamExt};
use object_store::{GetOptions, GetRange, GetResultPayload};
use sancerre_format::bytes::to_u64;

use crate::causes;
use crate::error::{Result, StoreError};
use crate::read::short;
use crate::traffic::RequestKind;
use crate::versions::VersionToRead;
use crate::{IN_PART, Store, explain, path};

/// Reads a range of an object from its start to its end.
pub struct RangeReader {
    store: Store,
    key: String,
    /// What was not handed out yet.
    left: Range<u64>,
    /// What arrived of it.
    rest: Bytes,
    body: Body,
    traffic: (u64, u64),
}

enum Body {
    /// Not asked for yet, or broken off.
    Closed,
    Arriving(BoxStream<'static, object_store::Result<Bytes>>),
    /// A file on this machine: nothing arrives by itself, each piece is read when it is wanted.
    File,
}

/// The start of an answer.
enum Opened {
    Arriving(Bytes, BoxStream<'static, object_store::Result<Bytes>>),
    File,
    /// The object ends before the range does.
    Short,
}

impl Store {
    /// A range of an object, which must be there and that long. Nothing is asked before the first byte is wanted.
    pub fn range_reader(&self, key: &str, range: Range<u64>) -> RangeReader {
        RangeReader {
            store: self.clone(),
            key: key.to_owned(),
            left: range,
            rest: Bytes::new(),
            body: Body::Closed,
            traffic: (0, 0),
        }
    }

    /// Counts a piece of an answer, as [`Store::account`] does.
    async fn account_piece(&self, received: usize) {
        if let Some(pace) = &self.shared.local {
            self.shared.traffic.received(received);
            pace.wait(0, received).await;
        }
    }

    /// What a failed read, tried as long as the user wants to wait, says: of the store, or of this object alone.
    pub(crate) async fn about_one(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Failed { key, source, .. } if self.works().await => {
                StoreError::Withheld { key, reason: explain(&source) }
            }
            error => error,
        }
    }

    /// Asks for a range and waits for its first bytes.
    async fn try_open(
        &self,
        key: &str,
        version: Option<String>,
        range: Range<u64>,
    ) -> object_store::Result<Opened> {
        let wanted = Some(GetRange::Bounded(range.clone()));
        let options = GetOptions { range: wanted, version, ..GetOptions::default() };
        let _file = self.file().await;
        let found = self.inner.get_opts(&path(key)?, options).await;
        let found = match found {
            Ok(found) if matches!(found.payload, GetResultPayload::File(..)) => return Ok(Opened::File),
            found => found,
        };
        self.account(RequestKind::Get, 0, 0).await;
        let found = found?;
        if found.range.end < range.end {
            return Ok(Opened::Short);
        }
        let mut body = found.into_stream();
        match body.try_next().await? {
            Some(first) if !first.is_empty() => Ok(Opened::Arriving(first, body)),
            _ => Err(causes::transient(IN_PART)),
        }
    }
}

impl RangeReader {
    /// The bytes that arrived and the requests that were answered since the last call.
    pub fn take_traffic(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.traffic)
    }

    /// The next `count` bytes.
    ///
    /// Errors: [`StoreError::Missing`]; [`StoreError::Withheld`] and [`StoreError::Failed`], also when the object or the range ends before
    /// them.
    pub async fn read(&mut self, count: usize) -> Result<Bytes> {
        let until = self.until(to_u64(count))?;
        if matches!(self.body, Body::Closed) && self.rest.is_empty() && count > 0 {
            self.open().await?;
        }
        if matches!(self.body, Body::File) {
            self.count(count, 1);
            let bytes = self.store.need_range(&self.key, self.left.start..until).await?;
            self.left.start = until;
            return Ok(bytes);
        }
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.arrived(count.saturating_sub(bytes.len())).await?);
        }
        Ok(bytes.into())
    }

    /// Passes over the next `count` bytes.
    ///
    /// Errors: as [`RangeReader::read`].
    pub async fn skip(&mut self, count: u64) -> Result<()> {
        let until = self.until(count)?;
        while self.left.start < until {
            if self.rest.is_empty() && !matches!(self.body, Body::Arriving(_)) {
                // What is not on its way need not be asked for.
                self.left.start = until;
                break;
            }
            let most = until.saturating_sub(self.left.start);
            self.arrived(usize::try_from(most).unwrap_or(usize::MAX)).await?;
        }
        Ok(())
    }

    fn until(&self, count: u64) -> Result<u64> {
        let until = self.left.start.checked_add(count).filter(|until| *until <= self.left.end);
        until.ok_or_else(|| short(&self.key))
    }

    /// Some of the next bytes, at most `most`.
    async fn arrived(&mut self, most: usize) -> Result<Bytes> {
        while self.rest.is_empty() {
            match &mut self.body {
                Body::Arriving(body) => match body.try_next().await {
                    Ok(Some(piece)) => {
                        self.store.account_piece(piece.len()).await;
                        self.count(piece.len(), 0);
                        self.rest = piece;
                    }
                    // Whatever it was: the next answer tells.
                    Ok(None) | Err(_) => self.body = Body::Closed,
                },
                Body::Closed => self.open().await?,
                Body::File => return Err(short(&self.key)),
            }
        }
        let piece = self.rest.split_to(most.min(self.rest.len()));
        self.left.start = self.left.start.saturating_add(to_u64(piece.len()));
        Ok(piece)
    }

    /// Asks for what is left.
    async fn open(&mut self) -> Result<()> {
        let place = self.store.place(&self.key).await?;
        if self.open_at(&place).await? {
            return Ok(());
        }
        let place = self.store.second_place(&self.key, &place).await?;
        if self.open_at(&place).await? { Ok(()) } else { Err(StoreError::Missing { key: self.key.clone() }) }
    }

    /// The same of a certain version; whether anything is there.
    async fn open_at(&mut self, place: &VersionToRead) -> Result<bool> {
        let Some(version) = place.version() else { return Ok(false) };
        let (store, key, left) = (&self.store, &self.key, &self.left);
        let attempt = || store.try_open(key, version.clone(), left.clone()).boxed();
        let opened = store.shared.patience.during(key, attempt).await;
        match opened {
            Ok(Opened::Arriving(first, body)) => {
                self.store.account_piece(first.len()).await;
                self.count(first.len(), 1);
                (self.rest, self.body) = (first, Body::Arriving(body));
                Ok(true)
            }
            Ok(Opened::File) => {
                self.body = Body::File;
                Ok(true)
            }
            Ok(Opened::Short) => Err(store.about_one(short(key)).await),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => {
                let error = StoreError::Failed { operation: "read", key: key.clone(), source };
                Err(store.about_one(error).await)
            }
        }
    }

    fn count(&mut self, bytes: usize, requests: u64) {
        let (received, answered) = self.traffic;
        self.traffic = (received.saturating_add(to_u64(bytes)), answered.saturating_add(requests));
    }
}
