//! Input for a JSON parser that must not hold more than a few kilobytes of it: neither long, nor deep, nor with long
//! strings. The parser keeps strings, and a byte for each open bracket.

use std::io::{self, Read};

const DEPTH_MAX: u32 = 16;
const STRING_BYTES_MAX: u32 = 4096;

/// Passes bytes on until a limit is exceeded, and then says which.
#[derive(Debug)]
pub(super) struct Bounded<R> {
    input: R,
    most_bytes: u64,
    bytes: u64,
    depth: u32,
    /// Bytes of the string so far, when inside one.
    string: Option<u32>,
    is_escaped: bool,
    pub(super) exceeded: Option<&'static str>,
}

impl<R: Read> Bounded<R> {
    pub(super) fn new(input: R, most_bytes: u64) -> Self {
        Self { input, most_bytes, bytes: 0, depth: 0, string: None, is_escaped: false, exceeded: None }
    }

    fn see(&mut self, byte: u8) {
        self.bytes = self.bytes.saturating_add(1);
        if let Some(length) = self.string {
            self.string = Some(length.saturating_add(1));
            match byte {
                _ if std::mem::take(&mut self.is_escaped) => {}
                b'\\' => self.is_escaped = true,
                b'"' => self.string = None,
                _ => {}
            }
        } else {
            match byte {
                b'"' => self.string = Some(0),
                b'[' | b'{' => self.depth = self.depth.saturating_add(1),
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn limit(&self) -> Option<&'static str> {
        match () {
            () if self.bytes > self.most_bytes => Some("too many bytes"),
            () if self.depth > DEPTH_MAX => Some("deeply nested"),
            () if self.string > Some(STRING_BYTES_MAX) => Some("a long string"),
            () => None,
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        for byte in buffer.get(..count).unwrap_or_default() {
            self.see(*byte);
            self.exceeded = self.exceeded.or(self.limit());
        }
        match self.exceeded {
            Some(limit) => Err(io::Error::other(limit)),
            None => Ok(count),
        }
    }
}
