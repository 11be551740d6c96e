//! The bytes of the protocol, big-endian: pure functions both ways.

use std::fmt;

use super::error::Fault;

pub(super) const MAGIC: u64 = 0x4e42_444d_4147_4943;
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(super) const OLD_MAGIC: u64 = 0x0000_4202_8186_1253;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, the same for both sides.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
pub(super) const NO_ZEROES: u16 = 2;

pub(super) const OPTION_EXPORT_NAME: u32 = 1;
pub(super) const OPTION_ABORT: u32 = 2;
pub(super) const OPTION_STARTTLS: u32 = 5;
pub(super) const OPTION_GO: u32 = 7;
pub(super) const OPTION_STRUCTURED_REPLY: u32 = 8;
pub(super) const OPTION_LIST_META_CONTEXT: u32 = 9;
pub(super) const OPTION_SET_META_CONTEXT: u32 = 10;

pub(super) const REPLY_ACK: u32 = 1;
pub(super) const REPLY_INFO: u32 = 3;
pub(super) const REPLY_META_CONTEXT: u32 = 4;
pub(super) const REPLY_ERROR: u32 = 1 << 31;
pub(super) const ERROR_UNSUPPORTED: u32 = REPLY_ERROR | 1;
pub(super) const ERROR_TLS_REQUIRED: u32 = REPLY_ERROR | 5;
pub(super) const ERROR_UNKNOWN: u32 = REPLY_ERROR | 6;

pub(super) const INFO_EXPORT: u16 = 0;
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags of an export.
pub(super) const HAS_FLAGS: u16 = 1;
pub(super) const READ_ONLY: u16 = 1 << 1;
pub(super) const SEND_FLUSH: u16 = 1 << 2;
pub(super) const SEND_WRITE_ZEROES: u16 = 1 << 6;
pub(super) const SEND_DF: u16 = 1 << 7;
pub(super) const CAN_MULTI_CONN: u16 = 1 << 8;

pub(super) const COMMAND_READ: u16 = 0;
pub(super) const COMMAND_WRITE: u16 = 1;
pub(super) const COMMAND_FLUSH: u16 = 3;
pub(super) const COMMAND_WRITE_ZEROES: u16 = 6;
pub(super) const COMMAND_DISCONNECT: u16 = 2;
pub(super) const COMMAND_BLOCK_STATUS: u16 = 7;
/// Command flags.
pub(super) const FLAG_DF: u16 = 1 << 2;
pub(super) const FLAG_REQ_ONE: u16 = 1 << 3;

pub(super) const CHUNK_NONE: u16 = 0;
pub(super) const CHUNK_DATA: u16 = 1;
pub(super) const CHUNK_HOLE: u16 = 2;
pub(super) const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15;
const CHUNK_ERROR_OFFSET: u16 = CHUNK_ERROR | 2;
const CHUNK_DONE: u16 = 1;

/// The context that says where zeros are, and its bit for "reads as zeros". The bit for "hole" says nothing of what
/// a read returns.
pub(super) const ALLOCATION: &str = "base:allocation";
pub(super) const STATE_ZERO: u32 = 2;
/// The bit of a changed extent in QEMU's contexts of dirty bitmaps.
pub(super) const STATE_DIRTY: u32 = 1;

/// Names may have this many bytes.
pub(super) const NAME_BYTES_MAX: usize = 4096;
/// More is cut off what a server says.
const SAID_CHARACTERS_MAX: usize = 200;

/// Takes numbers off the front of bytes that somebody else wrote.
#[derive(Debug)]
pub(super) struct ServerFields<'a>(pub(super) &'a [u8]);

impl<'a> ServerFields<'a> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(too_short)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.take().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.take().map(u64::from_be_bytes)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (head, rest) = self.0.split_at_checked(count).ok_or_else(too_short)?;
        self.0 = rest;
        Ok(head)
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.0.is_empty() { Ok(()) } else { Err(Fault::lied("a message is longer than its content")) }
    }
}

fn too_short() -> Fault {
    Fault::lied("a message is too short for what it says")
}

/// A length in the unit of the protocol; what is longer is refused by servers.
pub(super) fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// An option as the client sends it.
pub(super) fn option(option: u32, content: &[u8]) -> Vec<u8> {
    let head = [&OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &short(content.len()).to_be_bytes()];
    [&head.concat(), content].concat()
}

/// A string after its length.
pub(super) fn counted(text: &str) -> Vec<u8> {
    [&short(text.len()).to_be_bytes()[..], text.as_bytes()].concat()
}

/// The head of the answer to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OptionReply {
    pub(super) kind: u32,
    pub(super) length_bytes: u32,
}

pub(super) const OPTION_REPLY_BYTES: usize = 20;

pub(super) fn option_reply(bytes: &[u8; OPTION_REPLY_BYTES], asked: u32) -> Result<OptionReply, Fault> {
    let mut fields = ServerFields(bytes);
    if fields.u64()? != OPTION_REPLY_MAGIC {
        return Err(Fault::lied("the answer to an option does not begin with its number"));
    }
    if fields.u32()? != asked {
        return Err(Fault::lied("it answers an option that was not sent"));
    }
    Ok(OptionReply { kind: fields.u32()?, length_bytes: fields.u32()? })
}

/// A request of the transmission phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length_bytes: u32,
}

impl Request {
    pub(super) fn encode(self) -> Vec<u8> {
        [
            &REQUEST_MAGIC.to_be_bytes()[..],
            &self.flags.to_be_bytes(),
            &self.command.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.length_bytes.to_be_bytes(),
        ]
        .concat()
    }
}

/// Bytes that every answer has at least.
pub(super) const SIMPLE_BYTES: usize = 16;
/// And how many more a structured one has.
pub(super) const STRUCTURED_MORE_BYTES: usize = 4;

/// The head of an answer, and of each chunk of a structured answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Simple { error: u32, cookie: u64 },
    Chunk { is_last: bool, kind: u16, cookie: u64 },
}

pub(super) fn head(bytes: &[u8; SIMPLE_BYTES]) -> Result<Head, Fault> {
    let mut fields = ServerFields(bytes);
    match fields.u32()? {
        SIMPLE_MAGIC => Ok(Head::Simple { error: fields.u32()?, cookie: fields.u64()? }),
        STRUCTURED_MAGIC => {
            let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
            Ok(Head::Chunk { is_last: flags & CHUNK_DONE != 0, kind, cookie })
        }
        other => Err(Fault::lied(format!("an answer begins with {other:#010x}"))),
    }
}

pub(super) fn is_error_chunk(kind: u16) -> bool {
    kind & CHUNK_ERROR != 0
}

/// What an error chunk says. Kinds of error that are not known here begin as the known ones do.
pub(super) fn error_chunk(kind: u16, content: &[u8]) -> Result<Said, Fault> {
    let mut fields = ServerFields(content);
    let (number, length) = (fields.u32()?, fields.u16()?);
    let text = fields.bytes(usize::from(length))?;
    if number == 0 {
        return Err(Fault::lied("it reports an error without a number"));
    }
    if kind == CHUNK_ERROR_OFFSET {
        fields.u64()?;
        fields.end()?;
    }
    Ok(Said::errno(number, text))
}

/// What a server says when it says no: the name of its number, and its own words made harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said(String);

impl Said {
    pub(super) fn errno(number: u32, text: &[u8]) -> Self {
        let name = match number {
            1 => "EPERM (not permitted)".to_owned(),
            5 => "EIO (input/output error)".to_owned(),
            12 => "ENOMEM (out of memory)".to_owned(),
            22 => "EINVAL (invalid request)".to_owned(),
            28 => "ENOSPC (no space)".to_owned(),
            75 => "EOVERFLOW (too large)".to_owned(),
            95 => "ENOTSUP (not supported)".to_owned(),
            108 => "ESHUTDOWN (shutting down)".to_owned(),
            other => format!("error {other}"),
        };
        Self::with(name, text)
    }

    pub(super) fn option_error(kind: u32, text: &[u8]) -> Self {
        let name = match kind & !REPLY_ERROR {
            1 => "not supported".to_owned(),
            2 => "forbidden by its policy".to_owned(),
            3 => "invalid request".to_owned(),
            4 => "not supported on its platform".to_owned(),
            5 => "TLS is required".to_owned(),
            6 => "no such export".to_owned(),
            7 => "shutting down".to_owned(),
            8 => "the client must know block sizes".to_owned(),
            9 => "the request is too big".to_owned(),
            other => format!("error {other}"),
        };
        Self::with(name, text)
    }

    fn with(name: String, text: &[u8]) -> Self {
        if text.is_empty() {
            return Self(name);
        }
        Self(format!("{name}: \"{}\"", harmless(text)))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text of a server without what could move a cursor, and not too long.
pub(super) fn harmless(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(SAID_CHARACTERS_MAX).flat_map(char::escape_debug).collect()
}
