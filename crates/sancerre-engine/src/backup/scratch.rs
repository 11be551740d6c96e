//! A worker's buffers and compressor, reused from region to region.

use std::sync::{Mutex, PoisonError};

use sancerre_format::seal::Codec;

use crate::error::{Error, Result};

/// zstd's level: 3 is where more effort stops paying on disks, and keeps its quick way out on incompressible data.
const LEVEL: i32 = 3;

/// Buffers of one worker.
pub(super) struct Scratch {
    /// Bytes of the disk around the scan.
    pub window: Vec<u8>,
    /// Raw bytes of the frame in the making.
    pub frame: Vec<u8>,
    coded: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
}

impl Scratch {
    fn new() -> Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL).map_err(|error| failed(&error))?;
        Ok(Self { window: Vec::new(), frame: Vec::new(), coded: Vec::new(), compressor })
    }

    /// Compresses the frame; as it is when that gains nothing.
    pub(super) fn compress(&mut self) -> Result<(Codec, &[u8])> {
        compress(&mut self.compressor, &self.frame, &mut self.coded)
    }
}

fn failed(error: &std::io::Error) -> Error {
    Error::bug(format!("zstd cannot compress: {error}"))
}

fn compress<'a>(
    compressor: &mut zstd::bulk::Compressor<'static>,
    raw: &'a [u8],
    coded: &'a mut Vec<u8>,
) -> Result<(Codec, &'a [u8])> {
    coded.resize(zstd::zstd_safe::compress_bound(raw.len()), 0);
    let size = compressor.compress_to_buffer(raw, coded.as_mut_slice()).map_err(|error| failed(&error))?;
    match coded.get(..size) {
        Some(coded) if size < raw.len() => Ok((Codec::Zstd, coded)),
        _ => Ok((Codec::Stored, raw)),
    }
}

/// The scratch of workers that rest.
#[derive(Default)]
pub(super) struct ScratchPool(Mutex<Vec<Scratch>>);

impl ScratchPool {
    /// Runs `work` with a scratch of its own.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Scratch) -> Result<T>) -> Result<T> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = kept.map_or_else(Scratch::new, Ok)?;
        let done = work(&mut scratch);
        scratch.frame.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        done
    }
}
