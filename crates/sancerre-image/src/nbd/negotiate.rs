//! The handshake: what the server offers, and what of it is used.

use std::collections::BTreeSet;

use super::NbdOptions;
use super::channel::{Channel, receive, receive_array, receive_message, send};
use super::error::Fault;
use super::wire::{
    ALLOCATION, CAN_MULTI_CONN, ERROR_TLS_REQUIRED, ERROR_UNKNOWN, ERROR_UNSUPPORTED, FIXED_NEWSTYLE,
    HAS_FLAGS, INFO_BLOCK_SIZE, INFO_EXPORT, MAGIC, NAME_BYTES_MAX, NO_ZEROES, OLD_MAGIC, OPTION_ABORT,
    OPTION_EXPORT_NAME, OPTION_GO, OPTION_LIST_META_CONTEXT, OPTION_MAGIC, OPTION_REPLY_BYTES,
    OPTION_SET_META_CONTEXT, OPTION_STARTTLS, OPTION_STRUCTURED_REPLY, READ_ONLY, REPLY_ACK, REPLY_ERROR,
    REPLY_INFO, REPLY_META_CONTEXT, SEND_DF, SEND_FLUSH, SEND_WRITE_ZEROES, Said, ServerFields, counted,
    harmless, option, option_reply,
};

const DOING: &str = "agreeing on the protocol";
/// No answer to an option is longer: two names of the longest kind.
const REPLY_BYTES_MAX: u32 = 10_000;
/// No option has more answers.
const REPLIES_MAX: usize = 4096;
/// What a server takes that names no limit.
const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// The protocol allows no larger smallest block.
const SMALLEST_BLOCK_BYTES_MAX: u32 = 64 << 10;
/// Zeros after the answer to `EXPORT_NAME`, from servers that cannot leave them out.
const ZEROES: usize = 124;

/// An export as a connection shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Size of the disk.
    pub size_bytes: u64,
    /// Requests begin and end at multiples of this; a power of two.
    pub smallest_block_bytes: u32,
    /// Most bytes of a request; a multiple of the smallest block.
    pub largest_block_bytes: u32,
    /// Whether several connections see the same bytes.
    pub can_multi_connect: bool,
    /// Whether it takes no writes.
    pub is_read_only: bool,
    /// Whether what was written can be made durable.
    pub can_flush: bool,
    /// Whether zeros can be written without sending them.
    pub can_zero: bool,
    /// Whether answers can be asked for in one piece.
    pub can_unfragment: bool,
    /// Whether answers are structured.
    pub is_structured: bool,
    /// The number of `base:allocation` on this connection.
    pub(super) allocation: Option<u32>,
    /// The number of the dirty bitmap on this connection.
    pub(super) bitmap: Option<u32>,
}

impl Export {
    /// Another connection to the same export; numbers of contexts may differ.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let known = |export: &Self| Self { allocation: None, bitmap: None, ..export.clone() };
        known(self) == known(other)
            && self.allocation.is_some() == other.allocation.is_some()
            && self.bitmap.is_some() == other.bitmap.is_some()
    }
}

/// Agrees with the server on everything, until requests can be sent.
pub(super) fn negotiate(
    channel: &mut dyn Channel,
    name: &str,
    wants_tls: bool,
    options: &NbdOptions,
) -> Result<Export, Fault> {
    let mut talk = Talk::begin(channel, wants_tls)?;
    let is_structured = talk.asks(OPTION_STRUCTURED_REPLY)?;
    let (allocation, bitmap) = talk.contexts(name, is_structured, options.bitmap.as_deref())?;
    let draft = talk.export(name)?;
    let export = draft.check()?;
    Ok(Export { is_structured, allocation, bitmap, ..export })
}

/// The contexts that the server has for an export and that `query` matches; an empty one matches all.
pub(super) fn list_contexts(
    channel: &mut dyn Channel,
    name: &str,
    wants_tls: bool,
    query: &str,
) -> Result<Vec<String>, Fault> {
    let mut talk = Talk::begin(channel, wants_tls)?;
    talk.asks(OPTION_STRUCTURED_REPLY)?;
    let queries: &[&str] = if query.is_empty() { &[] } else { &[query] };
    let mut names = Vec::new();
    let content = context_queries(name, queries);
    talk.ask(OPTION_LIST_META_CONTEXT, "its list of contexts", &content, |kind, content| {
        names.push(context(kind, content)?.1);
        Ok(())
    })?;
    // Goodbye; nobody waits for an answer.
    let _ = send(talk.channel, &option(OPTION_ABORT, &[]), DOING);
    Ok(names)
}

/// Size, flags and block sizes as the server gave them.
#[derive(Debug, Default)]
struct Draft {
    size_and_flags: Option<(u64, u16)>,
    blocks: Option<(u32, u32)>,
}

impl Draft {
    fn info(&mut self, kind: u32, content: &[u8]) -> Result<(), Fault> {
        if kind != REPLY_INFO {
            return Err(Fault::lied(format!("answer {kind} where it describes the export")));
        }
        let mut fields = ServerFields(content);
        match fields.u16()? {
            INFO_EXPORT => {
                self.size_and_flags = Some((fields.u64()?, fields.u16()?));
                fields.end()
            }
            INFO_BLOCK_SIZE => {
                let (smallest, _preferred, largest) = (fields.u32()?, fields.u32()?, fields.u32()?);
                self.blocks = Some((smallest, largest));
                fields.end()
            }
            // Name, description and whatever may be invented say nothing about bytes.
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<Export, Fault> {
        let (size_bytes, flags) =
            self.size_and_flags.ok_or_else(|| Fault::lied("it opened the export without saying its size"))?;
        if i64::try_from(size_bytes).is_err() || flags & HAS_FLAGS == 0 {
            return Err(Fault::lied(format!("an export of {size_bytes} bytes with flags {flags:#06x}")));
        }
        let (smallest, largest) = self.blocks.unwrap_or((1, PAYLOAD_BYTES_MAX));
        if !smallest.is_power_of_two() || smallest > SMALLEST_BLOCK_BYTES_MAX || largest < smallest {
            return Err(Fault::lied(format!("blocks of {smallest} to {largest} bytes")));
        }
        if size_bytes.checked_rem(u64::from(smallest)) != Some(0) {
            return Err(Fault::Unfit(format!(
                "its {size_bytes} bytes end within a block of {smallest}, which nobody can read; \
                 let the server read without direct access to the disk"
            )));
        }
        let largest = largest.min(PAYLOAD_BYTES_MAX);
        let beyond = largest.checked_rem(smallest).unwrap_or(0);
        Ok(Export {
            size_bytes,
            smallest_block_bytes: smallest,
            largest_block_bytes: largest.saturating_sub(beyond),
            can_multi_connect: flags & CAN_MULTI_CONN != 0,
            is_read_only: flags & READ_ONLY != 0,
            can_flush: flags & SEND_FLUSH != 0,
            can_zero: flags & SEND_WRITE_ZEROES != 0,
            can_unfragment: flags & SEND_DF != 0,
            is_structured: false,
            allocation: None,
            bitmap: None,
        })
    }
}

/// A connection whose server has said hello.
struct Talk<'a> {
    channel: &'a mut dyn Channel,
    is_fixed: bool,
    sends_zeroes: bool,
}

impl<'a> Talk<'a> {
    fn begin(channel: &'a mut dyn Channel, wants_tls: bool) -> Result<Self, Fault> {
        let hello: [u8; 18] = receive_array(channel, "waiting for the server's first word")?;
        let mut fields = ServerFields(&hello);
        if fields.u64()? != MAGIC {
            return Err(Fault::Unfit("what answers there is no NBD server; check the port".to_owned()));
        }
        match fields.u64()? {
            OPTION_MAGIC => {}
            OLD_MAGIC => {
                return Err(Fault::Unfit("the server speaks the old style only; use a newer one".to_owned()));
            }
            _ => return Err(Fault::lied("its first word has no known number")),
        }
        let flags = fields.u16()?;
        let answer = u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES));
        send(channel, &answer.to_be_bytes(), DOING)?;
        let (is_fixed, sends_zeroes) = (flags & FIXED_NEWSTYLE != 0, flags & NO_ZEROES == 0);
        let mut talk = Self { channel, is_fixed, sends_zeroes };
        if wants_tls {
            talk.encrypt()?;
        }
        Ok(talk)
    }

    fn encrypt(&mut self) -> Result<(), Fault> {
        if !self.asks(OPTION_STARTTLS)? {
            return Err(Fault::Unfit(
                "the server has no TLS; give it a certificate, or say nbd:// and let everybody on the way read"
                    .to_owned(),
            ));
        }
        self.channel.start_tls()
    }

    /// An option without content that the server may not know. A server that refuses it for another reason may
    /// still be read without it.
    fn asks(&mut self, wanted: u32) -> Result<bool, Fault> {
        match self.try_ask(wanted, &[], |kind, _| Err(Fault::lied(format!("answer {kind} to a question"))))? {
            Ok(()) => Ok(true),
            Err((ERROR_TLS_REQUIRED, said)) => Err(refused(ERROR_TLS_REQUIRED, "plain requests", said)),
            Err(_) => Ok(false),
        }
    }

    fn ask(
        &mut self,
        wanted: u32,
        asked: &'static str,
        content: &[u8],
        info: impl FnMut(u32, &[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.try_ask(wanted, content, info)?.map_err(|(kind, said)| refused(kind, asked, said))
    }

    /// Sends an option and hears its answers until the last; the inner error is the server's no.
    fn try_ask(
        &mut self,
        wanted: u32,
        content: &[u8],
        mut info: impl FnMut(u32, &[u8]) -> Result<(), Fault>,
    ) -> Result<Result<(), (u32, Said)>, Fault> {
        if !self.is_fixed {
            return Ok(Err((ERROR_UNSUPPORTED, Said::option_error(ERROR_UNSUPPORTED, &[]))));
        }
        send(self.channel, &option(wanted, content), DOING)?;
        for _ in 0..REPLIES_MAX {
            let head: [u8; OPTION_REPLY_BYTES] = receive_array(self.channel, DOING)?;
            let head = option_reply(&head, wanted)?;
            let content = receive_message(self.channel, head.length_bytes, REPLY_BYTES_MAX, DOING)?;
            self.channel.progress();
            match head.kind {
                REPLY_ACK => return Ok(Ok(())),
                kind if kind & REPLY_ERROR != 0 => {
                    return Ok(Err((kind, Said::option_error(kind, &content))));
                }
                kind => info(kind, &content)?,
            }
        }
        Err(Fault::lied(format!("more than {REPLIES_MAX} answers to one option")))
    }

    /// Numbers of the contexts for zeros and for changes.
    fn contexts(
        &mut self,
        name: &str,
        is_structured: bool,
        bitmap: Option<&str>,
    ) -> Result<(Option<u32>, Option<u32>), Fault> {
        let wanted: Vec<&str> = std::iter::once(ALLOCATION).chain(bitmap).collect();
        let mut found: Vec<(u32, String)> = Vec::new();
        if is_structured {
            let content = context_queries(name, &wanted);
            let answer = self.try_ask(OPTION_SET_META_CONTEXT, &content, |kind, content| {
                let (number, name) = context(kind, content)?;
                let is_new = found.iter().all(|(other, known)| *other != number && *known != name);
                if !is_new || !wanted.contains(&name.as_str()) {
                    return Err(Fault::lied(format!(
                        "the context {} was not asked for",
                        harmless(name.as_bytes())
                    )));
                }
                found.push((number, name));
                Ok(())
            })?;
            if let Err((kind, said)) = answer {
                found.clear();
                if kind != ERROR_UNSUPPORTED && bitmap.is_some() {
                    return Err(refused(kind, "the contexts", said));
                }
            }
        }
        let number = |wanted: &str| found.iter().find(|(_, name)| name == wanted).map(|(number, _)| *number);
        let changed = bitmap.and_then(number);
        match bitmap {
            Some(wanted) if changed.is_none() => {
                Err(Fault::Unfit(self.no_context(name, is_structured, wanted)))
            }
            _ => Ok((number(ALLOCATION), changed)),
        }
    }

    /// Says what there is instead of the context that is not.
    fn no_context(&mut self, name: &str, is_structured: bool, wanted: &str) -> String {
        let mut names = BTreeSet::new();
        if is_structured {
            // Only for the message: what fails here changes nothing.
            let _ = self.try_ask(OPTION_LIST_META_CONTEXT, &context_queries(name, &[]), |kind, content| {
                names.insert(harmless(context(kind, content)?.1.as_bytes()));
                Ok(())
            });
        }
        let list = names.into_iter().take(20).collect::<Vec<_>>().join(", ");
        let list = if list.is_empty() { "it lists none".to_owned() } else { format!("it has {list}") };
        format!("the server has no context {wanted}: {list}; start it with the bitmap, or read everything")
    }

    fn export(&mut self, name: &str) -> Result<Draft, Fault> {
        let content = [&counted(name)[..], &1_u16.to_be_bytes(), &INFO_BLOCK_SIZE.to_be_bytes()].concat();
        let mut draft = Draft::default();
        match self.try_ask(OPTION_GO, &content, |kind, content| draft.info(kind, content))? {
            Ok(()) => Ok(draft),
            Err((ERROR_UNSUPPORTED, _)) => self.export_by_name(name),
            Err((kind, said)) => Err(refused(kind, "the export", said)),
        }
    }

    /// The way of old servers, which close the connection when they have no such export.
    fn export_by_name(&mut self, name: &str) -> Result<Draft, Fault> {
        let doing = "opening the export by its name (an old server that closes here has none of this name)";
        send(self.channel, &option(OPTION_EXPORT_NAME, name.as_bytes()), DOING)?;
        let answer: [u8; 10] = receive_array(self.channel, doing)?;
        let mut fields = ServerFields(&answer);
        let draft = Draft { size_and_flags: Some((fields.u64()?, fields.u16()?)), blocks: None };
        if self.sends_zeroes {
            receive(self.channel, &mut [0; ZEROES], doing)?;
        }
        self.channel.progress();
        Ok(draft)
    }
}

fn refused(kind: u32, asked: &'static str, said: Said) -> Fault {
    let advice = match kind {
        ERROR_TLS_REQUIRED => "say nbds:// instead of nbd://",
        ERROR_UNKNOWN => {
            "check the name of the export after the host, and the server's list (nbdinfo --list)"
        }
        _ => "check how the server was started, and its log",
    };
    Fault::Refused { asked, said, advice }
}

fn context_queries(name: &str, queries: &[&str]) -> Vec<u8> {
    let count = u32::try_from(queries.len()).unwrap_or(u32::MAX);
    let queries: Vec<u8> = queries.iter().flat_map(|query| counted(query)).collect();
    [&counted(name)[..], &count.to_be_bytes(), &queries].concat()
}

/// The number and name of a context.
fn context(kind: u32, content: &[u8]) -> Result<(u32, String), Fault> {
    let mut fields = ServerFields(content);
    let number = fields.u32()?;
    let name = std::str::from_utf8(fields.0).ok().filter(|name| name.len() <= NAME_BYTES_MAX);
    match (kind, name) {
        (REPLY_META_CONTEXT, Some(name)) => Ok((number, name.to_owned())),
        _ => Err(Fault::lied(format!("answer {kind} where it names a context"))),
    }
}
