//! The options: which export a client wants, and how answers look.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::export::ServedDisk;
use crate::wire::{self, ALLOCATION, Broken, ExportFlags, OPTION_BYTES_MAX, answer, option};

/// No client needs more.
const OPTIONS_MAX: usize = 256;
/// Before it asks for TLS a client may ask for this much in vain.
const CLEAR_OPTIONS_MAX: usize = 16;
/// Content that is too long is passed over up to here; beyond, the connection ends.
const SKIPPED_BYTES_MAX: u32 = 1 << 20;

/// What a client and the server agreed on.
pub(crate) struct Agreed {
    pub(crate) export: Arc<dyn ServedDisk>,
    /// Answers come in pieces.
    pub(crate) is_structured: bool,
    /// The client may ask where zeros are.
    pub(crate) has_allocation: bool,
}

/// Why a conversation ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// The connection.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// What the client showed was not accepted, or the client did not accept ours.
    #[error("no TLS with the client: {0}")]
    Tls(io::Error),
    /// The client broke a rule.
    #[error("the client broke a rule of the protocol: {0}")]
    Broken(#[from] Broken),
    /// The client asked for an export that is not there, in the way that knows no answer for that.
    #[error("the client asked for an export that there is not")]
    NoExport,
    /// What should be impossible.
    #[error("a request could not be answered; this is a bug, please report it")]
    Bug,
    /// The client did not come to an end.
    #[error("the client did not agree on an export in time")]
    TooSlow,
}

/// The first words; says whether the client wants no padding.
pub(crate) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<bool, Rejected> {
    stream.write_all(&wire::HELLO).await?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags).await?;
    Ok(wire::client_flags(flags)?)
}

/// Talks in the clear until the client asks for TLS, and of nothing else; says whether it did.
pub(crate) async fn until_tls<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<bool, Rejected> {
    for _ in 0..CLEAR_OPTIONS_MAX {
        let mut head = [0; 16];
        stream.read_exact(&mut head).await?;
        let (option, length) = wire::option_head(&head)?;
        if length > OPTION_BYTES_MAX || option == option::EXPORT_NAME {
            return Err(Broken("the client wants to go on without TLS").into());
        }
        skip(stream, length).await?;
        let kind = match option {
            option::START_TLS if length == 0 => answer::ACK,
            option::START_TLS => answer::INVALID,
            option::ABORT => return Ok(false),
            _ => answer::TLS_REQUIRED,
        };
        stream.write_all(&wire::option_reply(option, kind, &[])).await?;
        if kind == answer::ACK {
            return Ok(true);
        }
    }
    Err(Broken("the client sent too many options without TLS").into())
}

/// Talks with a client that was greeted until it has chosen an export; none when it says goodbye.
pub(crate) async fn agree<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    no_zeroes: bool,
    exports: &[Arc<dyn ServedDisk>],
) -> Result<Option<Agreed>, Rejected> {
    let mut talk = Talk { stream, exports, no_zeroes, is_structured: false, chosen: None };
    for _ in 0..OPTIONS_MAX {
        match talk.option().await? {
            Next::Option => {}
            Next::Goodbye => return Ok(None),
            Next::Transmission(export) => {
                let has_allocation = talk.chosen.is_some_and(|name| name == export.name());
                let is_structured = talk.is_structured;
                return Ok(Some(Agreed { export, is_structured, has_allocation }));
            }
        }
    }
    Err(Broken("the client sent too many options").into())
}

/// What follows an option.
enum Next {
    Option,
    Goodbye,
    Transmission(Arc<dyn ServedDisk>),
}

struct Talk<'a, S> {
    stream: &'a mut S,
    exports: &'a [Arc<dyn ServedDisk>],
    no_zeroes: bool,
    is_structured: bool,
    /// The export for which `base:allocation` was chosen.
    chosen: Option<String>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<'_, S> {
    async fn option(&mut self) -> Result<Next, Rejected> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).await?;
        let (option, length) = wire::option_head(&head)?;
        if length > OPTION_BYTES_MAX {
            self.skip(option, length).await?;
            return Ok(Next::Option);
        }
        let mut content = vec![0; usize::try_from(length).unwrap_or(0)];
        self.stream.read_exact(&mut content).await?;
        match option {
            option::EXPORT_NAME => return self.by_name(&content).await.map(Next::Transmission),
            option::ABORT => {
                // Who says goodbye need not wait for the answer.
                let _ = self.reply(option, answer::ACK, &[]).await;
                return Ok(Next::Goodbye);
            }
            option::INFO | option::GO => {
                let found = self.describe(option, &content).await?;
                if let (Some(export), option::GO) = (found, option) {
                    return Ok(Next::Transmission(export));
                }
            }
            option::LIST => self.list(&content).await?,
            option::STRUCTURED_REPLY => {
                let kind = if content.is_empty() { answer::ACK } else { answer::INVALID };
                self.is_structured |= content.is_empty();
                self.reply(option, kind, &[]).await?;
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, &content).await?,
            _ => self.reply(option, answer::UNSUPPORTED, &[]).await?,
        }
        Ok(Next::Option)
    }

    async fn reply(&mut self, option: u32, kind: u32, content: &[u8]) -> Result<(), Rejected> {
        Ok(self.stream.write_all(&wire::option_reply(option, kind, content)).await?)
    }

    /// Passes over content that is longer than any that makes sense.
    async fn skip(&mut self, option: u32, length: u32) -> Result<(), Rejected> {
        if length > SKIPPED_BYTES_MAX || option == option::EXPORT_NAME {
            return Err(Broken("an option is far too long").into());
        }
        skip(self.stream, length).await?;
        self.reply(option, answer::TOO_BIG, b"too long").await
    }

    /// The export of this name; the only one has the empty name too.
    fn find(&self, name: &str) -> Option<Arc<dyn ServedDisk>> {
        match self.exports {
            [only] if name.is_empty() => Some(Arc::clone(only)),
            exports => exports.iter().find(|export| export.name() == name).cloned(),
        }
    }

    fn flags(&self, export: &Arc<dyn ServedDisk>) -> ExportFlags {
        ExportFlags { is_structured: self.is_structured, is_writable: export.written().is_some() }
    }

    async fn by_name(&mut self, content: &[u8]) -> Result<Arc<dyn ServedDisk>, Rejected> {
        let export = self.find(wire::export_name(content)?).ok_or(Rejected::NoExport)?;
        let told = wire::old_export(export.size_bytes(), self.flags(&export), self.no_zeroes);
        self.stream.write_all(&told).await?;
        Ok(export)
    }

    /// Says what an export is; none, and said so, where it makes no sense.
    async fn describe(
        &mut self,
        option: u32,
        content: &[u8],
    ) -> Result<Option<Arc<dyn ServedDisk>>, Rejected> {
        let (name, wants_name) = match wire::info_request(content) {
            Ok(request) => request,
            Err(Broken(why)) => {
                self.reply(option, answer::INVALID, why.as_bytes()).await?;
                return Ok(None);
            }
        };
        let Some(export) = self.find(name) else {
            self.reply(option, answer::UNKNOWN, b"there is no such export").await?;
            return Ok(None);
        };
        let told = wire::info_export(export.size_bytes(), self.flags(&export));
        self.reply(option, answer::INFO, &told).await?;
        self.reply(option, answer::INFO, &wire::info_blocks()).await?;
        if wants_name {
            self.reply(option, answer::INFO, &wire::info_name(export.name())).await?;
        }
        self.reply(option, answer::ACK, &[]).await?;
        Ok(Some(export))
    }

    async fn list(&mut self, content: &[u8]) -> Result<(), Rejected> {
        if !content.is_empty() {
            return self.reply(option::LIST, answer::INVALID, b"a list takes no content").await;
        }
        for export in self.exports {
            self.reply(option::LIST, answer::SERVER, &wire::counted(export.name())).await?;
        }
        self.reply(option::LIST, answer::ACK, &[]).await
    }

    async fn contexts(&mut self, option: u32, content: &[u8]) -> Result<(), Rejected> {
        let is_choice = option == option::SET_META_CONTEXT;
        if is_choice {
            self.chosen = None;
        }
        let (name, queries) = match wire::context_queries(content) {
            Ok(asked) if self.is_structured => asked,
            Ok(_) => return self.reply(option, answer::INVALID, b"structured replies come first").await,
            Err(Broken(why)) => return self.reply(option, answer::INVALID, why.as_bytes()).await,
        };
        let Some(export) = self.find(name) else {
            return self.reply(option, answer::UNKNOWN, b"there is no such export").await;
        };
        let matches = match is_choice {
            true => queries.contains(&ALLOCATION),
            false => queries.is_empty() || queries.iter().any(|query| [ALLOCATION, "base:"].contains(query)),
        };
        if matches {
            self.reply(option, answer::META_CONTEXT, &wire::meta_context(ALLOCATION, is_choice)).await?;
            if is_choice {
                self.chosen = Some(export.name().to_owned());
            }
        }
        self.reply(option, answer::ACK, &[]).await
    }
}

/// Reads so many bytes, and forgets them.
pub(crate) async fn skip<R: AsyncRead + Unpin>(reader: &mut R, length: u32) -> io::Result<()> {
    let mut left = reader.take(u64::from(length));
    let passed = tokio::io::copy(&mut left, &mut tokio::io::sink()).await?;
    if passed == u64::from(length) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
