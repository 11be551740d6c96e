//! The bytes of the protocol, big-endian: pure functions both ways. What a client sent is a claim.

/// The server's first word.
pub const HELLO: [u8; 18] = hello();
const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, the same for both sides.
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

/// Options by number.
#[allow(missing_docs)]
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const START_TLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Answers to options.
#[allow(missing_docs)]
pub mod answer {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    const ERROR: u32 = 1 << 31;
    pub const UNSUPPORTED: u32 = ERROR | 1;
    pub const INVALID: u32 = ERROR | 3;
    pub const TLS_REQUIRED: u32 = ERROR | 5;
    pub const UNKNOWN: u32 = ERROR | 6;
    pub const TOO_BIG: u32 = ERROR | 9;
}

/// What is told of an export.
#[allow(missing_docs)]
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Commands by number.
#[allow(missing_docs)]
pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
    /// Flag: durable before it is answered.
    pub const FLAG_FUA: u16 = 1;
    /// Flag: zeros that take room.
    pub const FLAG_NO_HOLE: u16 = 1 << 1;
    /// Flag: the answer in one piece.
    pub const FLAG_DF: u16 = 1 << 2;
    /// Flag: one extent.
    pub const FLAG_REQ_ONE: u16 = 1 << 3;
}

/// Errors of requests.
#[allow(missing_docs)]
pub mod errno {
    pub const PERM: u32 = 1;
    pub const IO: u32 = 5;
    pub const INVALID: u32 = 22;
    pub const NO_SPACE: u32 = 28;
    pub const OVERFLOW: u32 = 75;
}

/// Transmission flags: has flags, flush, several connections, cache.
const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 8 | 1 << 10;
const READ_ONLY: u16 = 1 << 1;
/// Writes that are durable at once, trim, and zeros without their bytes.
const WRITABLE: u16 = 1 << 3 | 1 << 5 | 1 << 6;
/// No fragments on request.
const SEND_DF: u16 = 1 << 7;

/// The context that says where zeros are; its number on every connection.
pub const ALLOCATION: &str = "base:allocation";
const ALLOCATION_ID: u32 = 1;
/// A hole that reads as zeros.
const STATE_HOLE: u32 = 1 | 2;

/// Requests begin and end anywhere; this is what they best do, and the longest.
const BLOCK_BYTES: u32 = 4096;
/// The longest request.
pub const REQUEST_BYTES_MAX: u32 = 32 << 20;
/// The longest content of an option: a name and queries.
pub const OPTION_BYTES_MAX: u32 = 64 << 10;
/// Names have at most so many bytes.
const NAME_BYTES_MAX: usize = 4096;

const fn hello() -> [u8; 18] {
    let (magic, option) = (MAGIC.to_be_bytes(), OPTION_MAGIC.to_be_bytes());
    let [a, b, c, d, e, f, g, h] = magic;
    let [i, j, k, l, m, n, o, p] = option;
    let [q, r] = (FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r]
}

/// A rule of the protocol was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub &'static str);

/// Takes numbers off the front of bytes that somebody else wrote.
struct ClientFields<'a>(&'a [u8]);

impl<'a> ClientFields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Broken("a message is too short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, Broken> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Broken> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Broken> {
        self.take().map(u64::from_be_bytes)
    }

    /// A string after its length.
    fn text(&mut self) -> Result<&'a str, Broken> {
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let (text, rest) =
            self.0.split_at_checked(length).ok_or(Broken("a name is longer than its message"))?;
        self.0 = rest;
        if length > NAME_BYTES_MAX {
            return Err(Broken("a name is too long"));
        }
        std::str::from_utf8(text).map_err(|_| Broken("a name is no UTF-8"))
    }

    fn end(&self) -> Result<(), Broken> {
        if self.0.is_empty() { Ok(()) } else { Err(Broken("a message is longer than its content")) }
    }
}

/// Reads the client's first word: whether it wants no zeros behind the answer to `EXPORT_NAME`.
pub fn client_flags(bytes: [u8; 4]) -> Result<bool, Broken> {
    let flags = u32::from_be_bytes(bytes);
    if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Err(Broken("the client has flags that are not known"));
    }
    Ok(flags & u32::from(NO_ZEROES) != 0)
}

/// The head of an option: its number, and the length of its content.
pub fn option_head(bytes: &[u8; 16]) -> Result<(u32, u32), Broken> {
    let mut fields = ClientFields(bytes);
    if fields.u64()? != OPTION_MAGIC {
        return Err(Broken("an option does not begin with its number"));
    }
    Ok((fields.u32()?, fields.u32()?))
}

/// Content of `EXPORT_NAME`.
pub fn export_name(content: &[u8]) -> Result<&str, Broken> {
    if content.len() > NAME_BYTES_MAX {
        return Err(Broken("a name is too long"));
    }
    std::str::from_utf8(content).map_err(|_| Broken("a name is no UTF-8"))
}

/// Content of `INFO` and `GO`: the export's name, and whether the client asks for it in turn.
pub fn info_request(content: &[u8]) -> Result<(&str, bool), Broken> {
    let mut fields = ClientFields(content);
    let name = fields.text()?;
    let mut wants_name = false;
    for _ in 0..fields.u16()? {
        wants_name |= fields.u16()? == info::NAME;
    }
    fields.end()?;
    Ok((name, wants_name))
}

/// Content of `SET_META_CONTEXT` and `LIST_META_CONTEXT`: the export's name, and the queries.
pub fn context_queries(content: &[u8]) -> Result<(&str, Vec<&str>), Broken> {
    let mut fields = ClientFields(content);
    let name = fields.text()?;
    let count = fields.u32()?;
    let mut queries = Vec::new();
    for _ in 0..count {
        // Each takes four bytes at least, so that they end with the content.
        queries.push(fields.text()?);
    }
    fields.end()?;
    Ok((name, queries))
}

/// A request of the transmission phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRequest {
    /// Its flags.
    pub flags: u16,
    /// Which command.
    pub command: u16,
    /// The client's name for it.
    pub cookie: u64,
    /// Where.
    pub offset: u64,
    /// How much.
    pub length_bytes: u32,
}

/// Reads a request.
pub fn request(bytes: &[u8; 28]) -> Result<ClientRequest, Broken> {
    let mut fields = ClientFields(bytes);
    if fields.u32()? != REQUEST_MAGIC {
        return Err(Broken("a request does not begin with its number"));
    }
    Ok(ClientRequest {
        flags: fields.u16()?,
        command: fields.u16()?,
        cookie: fields.u64()?,
        offset: fields.u64()?,
        length_bytes: fields.u32()?,
    })
}

/// A length in the unit of the protocol. Nothing that is sent is longer.
fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// An answer to an option.
pub fn option_reply(option: u32, kind: u32, content: &[u8]) -> Vec<u8> {
    [
        &OPTION_REPLY_MAGIC.to_be_bytes()[..],
        &option.to_be_bytes(),
        &kind.to_be_bytes(),
        &short(content.len()).to_be_bytes(),
        content,
    ]
    .concat()
}

/// A string after its length.
pub fn counted(text: &str) -> Vec<u8> {
    [&short(text.len()).to_be_bytes()[..], text.as_bytes()].concat()
}

/// What an export lets its clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportFlags {
    /// Answers come in pieces.
    pub is_structured: bool,
    /// It may be written.
    pub is_writable: bool,
}

fn flags(ExportFlags { is_structured, is_writable }: ExportFlags) -> u16 {
    let pieces = if is_structured { SEND_DF } else { 0 };
    EXPORT_FLAGS | pieces | if is_writable { WRITABLE } else { READ_ONLY }
}

/// Size and flags, as an answer to `INFO` and `GO`.
pub fn info_export(size_bytes: u64, export: ExportFlags) -> Vec<u8> {
    let flags = flags(export).to_be_bytes();
    [&info::EXPORT.to_be_bytes()[..], &size_bytes.to_be_bytes(), &flags].concat()
}

/// The name of an export, as an answer to `INFO` and `GO`.
pub fn info_name(name: &str) -> Vec<u8> {
    [&info::NAME.to_be_bytes()[..], name.as_bytes()].concat()
}

/// Block sizes, as an answer to `INFO` and `GO`.
pub fn info_blocks() -> Vec<u8> {
    let sizes = [1_u32, BLOCK_BYTES, REQUEST_BYTES_MAX];
    let sizes: Vec<u8> = sizes.iter().flat_map(|size| size.to_be_bytes()).collect();
    [&info::BLOCK_SIZE.to_be_bytes()[..], &sizes].concat()
}

/// A context and its number.
pub fn meta_context(name: &str, is_chosen: bool) -> Vec<u8> {
    let number = if is_chosen { ALLOCATION_ID } else { 0 };
    [&number.to_be_bytes()[..], name.as_bytes()].concat()
}

/// The answer to `EXPORT_NAME`.
pub fn old_export(size_bytes: u64, export: ExportFlags, no_zeroes: bool) -> Vec<u8> {
    let zeros = if no_zeroes { 0 } else { 124 };
    [&size_bytes.to_be_bytes()[..], &flags(export).to_be_bytes(), &vec![0; zeros]].concat()
}

/// The head of a simple answer; data follows when there is no error.
pub fn simple_reply(cookie: u64, error: u32) -> Vec<u8> {
    [&SIMPLE_MAGIC.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat()
}

/// What a piece of a structured answer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyPiece {
    /// Nothing.
    None,
    /// Data at an offset: so many bytes follow the head.
    Data(u64, u32),
    /// Zeros at an offset.
    Hole(u64, u32),
    /// Lengths of stretches, and whether each is data.
    Status(Vec<(u32, bool)>),
    /// An error, in words, and where it is.
    Error(u32, String, Option<u64>),
}

/// The head of a piece, and all of its content but data.
pub fn piece(cookie: u64, is_last: bool, piece: &ReplyPiece) -> Vec<u8> {
    let (kind, content): (u16, Vec<u8>) = match piece {
        ReplyPiece::None => (0, Vec::new()),
        ReplyPiece::Data(offset, _) => (1, offset.to_be_bytes().to_vec()),
        ReplyPiece::Hole(offset, length) => (2, [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat()),
        ReplyPiece::Status(stretches) => (5, status(stretches)),
        ReplyPiece::Error(number, text, offset) => error_content(*number, text, *offset),
    };
    let follows = if let ReplyPiece::Data(_, length) = piece { *length } else { 0 };
    let length = short(content.len()).saturating_add(follows);
    [
        &STRUCTURED_MAGIC.to_be_bytes()[..],
        &u16::from(is_last).to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &length.to_be_bytes(),
        &content,
    ]
    .concat()
}

fn status(stretches: &[(u32, bool)]) -> Vec<u8> {
    let mut content = ALLOCATION_ID.to_be_bytes().to_vec();
    for (length, is_data) in stretches {
        content.extend_from_slice(&length.to_be_bytes());
        content.extend_from_slice(&if *is_data { 0 } else { STATE_HOLE }.to_be_bytes());
    }
    content
}

fn error_content(number: u32, text: &str, offset: Option<u64>) -> (u16, Vec<u8>) {
    let text = text.get(..text.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or_default();
    let length = u16::try_from(text.len()).unwrap_or(0);
    let mut content = [&number.to_be_bytes()[..], &length.to_be_bytes(), text.as_bytes()].concat();
    content.extend(offset.iter().flat_map(|offset| offset.to_be_bytes()));
    (1 << 15 | if offset.is_some() { 2 } else { 1 }, content)
}

#[cfg(test)]
mod tests;
