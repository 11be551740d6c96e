//! A server in memory, which lies as it is told.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::nbd::wire::{
    CAN_MULTI_CONN, COMMAND_BLOCK_STATUS, COMMAND_READ, HAS_FLAGS, MAGIC, OPTION_EXPORT_NAME, OPTION_GO,
    OPTION_LIST_META_CONTEXT, OPTION_MAGIC, OPTION_SET_META_CONTEXT, OPTION_STARTTLS,
    OPTION_STRUCTURED_REPLY, SEND_DF,
};
use crate::nbd::{Channel, Connector, Fault, NbdDisk, NbdError, NbdOptions};

/// A request as the server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

type Answer = dyn Fn(&Server, Asked) -> Vec<u8> + Send + Sync;
type Reply = dyn Fn(&Server, u32) -> Option<Vec<u8>> + Send + Sync;

/// What the server has and says.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) disk: Arc<Vec<u8>>,
    pub(super) flags: u16,
    pub(super) handshake: u16,
    pub(super) blocks: Option<(u32, u32, u32)>,
    pub(super) is_structured: bool,
    pub(super) contexts: Vec<(u32, &'static str)>,
    /// Answers to requests.
    pub(super) answer: Arc<Answer>,
    /// Answers to options, instead of the honest ones.
    pub(super) reply: Arc<Reply>,
    /// All requests so far.
    pub(super) asked: Arc<Mutex<Vec<Asked>>>,
    /// Connections so far, and the size that each further one shows.
    pub(super) connections: Arc<Mutex<Vec<u64>>>,
}

impl Server {
    /// An honest server with structured answers.
    pub(super) fn new(disk: Vec<u8>) -> Self {
        Self {
            disk: Arc::new(disk),
            flags: HAS_FLAGS | SEND_DF | CAN_MULTI_CONN,
            handshake: 3,
            blocks: Some((1, 4096, 32 << 20)),
            is_structured: true,
            contexts: vec![(7, "base:allocation"), (9, "qemu:dirty-bitmap:b")],
            answer: Arc::new(honest),
            reply: Arc::new(|_, _| None),
            asked: Arc::default(),
            connections: Arc::default(),
        }
    }

    pub(super) fn answering(
        mut self,
        answer: impl Fn(&Self, Asked) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        self.answer = Arc::new(answer);
        self
    }

    pub(super) fn replying(
        mut self,
        reply: impl Fn(&Self, u32) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.reply = Arc::new(reply);
        self
    }

    pub(super) fn open_with(&self, options: &NbdOptions) -> Result<NbdDisk, NbdError> {
        NbdDisk::over(Box::new(self.clone()), "vda", "nbd://h.example/vda", options)
    }

    pub(super) fn open(&self) -> Result<NbdDisk, NbdError> {
        self.open_with(&options())
    }

    pub(super) fn reads(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.command == COMMAND_READ).copied().collect()
    }

    fn honest_reply(&self, option: u32) -> Vec<u8> {
        let info_export =
            [&0_u16.to_be_bytes()[..], &self.size().to_be_bytes(), &self.flags.to_be_bytes()].concat();
        match option {
            OPTION_STRUCTURED_REPLY if self.is_structured => reply(option, 1, &[]),
            OPTION_SET_META_CONTEXT | OPTION_LIST_META_CONTEXT => {
                let named = self.contexts.iter().map(|(number, name)| context(option, *number, name));
                named.chain([reply(option, 1, &[])]).collect::<Vec<_>>().concat()
            }
            OPTION_GO => {
                let blocks = self.blocks.map(|(least, preferred, most)| {
                    let sizes = [least.to_be_bytes(), preferred.to_be_bytes(), most.to_be_bytes()].concat();
                    reply(option, 3, &[&3_u16.to_be_bytes()[..], &sizes].concat())
                });
                let name = reply(option, 3, b"\0\x01a name");
                [reply(option, 3, &info_export), name, blocks.unwrap_or_default(), reply(option, 1, &[])]
                    .concat()
            }
            OPTION_EXPORT_NAME => {
                let zeroes = if self.handshake & 2 == 0 { vec![0; 124] } else { Vec::new() };
                [&self.size().to_be_bytes()[..], &self.flags.to_be_bytes(), &zeroes].concat()
            }
            _ => reply(option, 0x8000_0001, b"never heard of it"),
        }
    }

    fn size(&self) -> u64 {
        self.connections.lock().unwrap().first().copied().unwrap_or(self.disk.len() as u64)
    }
}

/// Fast enough for every test.
pub(super) fn options() -> NbdOptions {
    NbdOptions { request_bytes: 64 << 10, ..NbdOptions::default() }
}

pub(super) fn reply(option: u32, kind: u32, content: &[u8]) -> Vec<u8> {
    let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
    let length = (content.len() as u32).to_be_bytes();
    [&magic[..], &option.to_be_bytes(), &kind.to_be_bytes(), &length, content].concat()
}

pub(super) fn context(option: u32, number: u32, name: &str) -> Vec<u8> {
    reply(option, 4, &[&number.to_be_bytes()[..], name.as_bytes()].concat())
}

pub(super) fn simple(asked: Asked, error: u32, content: &[u8]) -> Vec<u8> {
    [&0x6744_6698_u32.to_be_bytes()[..], &error.to_be_bytes(), &asked.cookie.to_be_bytes(), content].concat()
}

pub(super) fn chunk(asked: Asked, flags: u16, kind: u16, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    let head = [&flags.to_be_bytes()[..], &kind.to_be_bytes(), &asked.cookie.to_be_bytes(), &length].concat();
    [&0x668e_33ef_u32.to_be_bytes()[..], &head, content].concat()
}

pub(super) fn data(asked: Asked, flags: u16, offset: u64, bytes: &[u8]) -> Vec<u8> {
    chunk(asked, flags, 1, &[&offset.to_be_bytes()[..], bytes].concat())
}

pub(super) fn hole(asked: Asked, flags: u16, offset: u64, length: u32) -> Vec<u8> {
    chunk(asked, flags, 2, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat())
}

pub(super) fn error(asked: Asked, flags: u16, number: u32, text: &str) -> Vec<u8> {
    let length = (text.len() as u16).to_be_bytes();
    chunk(asked, flags, 0x8001, &[&number.to_be_bytes()[..], &length, text.as_bytes()].concat())
}

pub(super) fn extents(asked: Asked, flags: u16, number: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let descriptors = extents.iter().flat_map(|(length, bits)| [length.to_be_bytes(), bits.to_be_bytes()]);
    let content = [number.to_be_bytes()].into_iter().chain(descriptors).collect::<Vec<_>>().concat();
    chunk(asked, flags, 5, &content)
}

/// Extents of 4 KiB blocks: those of zeros are holes; every third is dirty.
pub(super) fn honest(server: &Server, asked: Asked) -> Vec<u8> {
    let range = asked.offset as usize..asked.offset as usize + asked.length as usize;
    match asked.command {
        COMMAND_READ if server.is_structured => data(asked, 1, asked.offset, &server.disk[range]),
        COMMAND_READ => simple(asked, 0, &server.disk[range]),
        COMMAND_BLOCK_STATUS => {
            let (mut states, mut dirty) = (Vec::new(), Vec::new());
            let mut at = range.start;
            while at < range.end && (states.is_empty() || asked.flags & 8 == 0) {
                let end = (at / 4096 * 4096 + 4096).min(server.disk.len());
                let is_zero = server.disk[at..end].iter().all(|byte| *byte == 0);
                states.push(((end - at) as u32, if is_zero { 3 } else { 0 }));
                dirty.push(((end - at) as u32, u32::from(at / 4096 % 3 == 0)));
                at = end;
            }
            let last = server.contexts.len().saturating_sub(1);
            let chunks = server.contexts.iter().enumerate().map(|(place, (number, name))| {
                let list = if *name == "base:allocation" { &states } else { &dirty };
                extents(asked, u16::from(place == last), *number, list)
            });
            chunks.collect::<Vec<_>>().concat()
        }
        _ => Vec::new(),
    }
}

/// One connection: what the client still has to hear, and what it said that is not whole yet.
struct Line {
    server: Server,
    out: VecDeque<u8>,
    said: Vec<u8>,
    phase: Phase,
}

#[derive(PartialEq)]
enum Phase {
    Flags,
    Options,
    Requests,
}

impl Connector for Server {
    fn connect(&self, _patience: Duration) -> Result<Box<dyn Channel>, Fault> {
        let mut sizes = self.connections.lock().unwrap();
        if sizes.len() > 1 {
            sizes.remove(0);
        }
        drop(sizes);
        let out =
            [&MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &self.handshake.to_be_bytes()].concat();
        let line = Line { server: self.clone(), out: out.into(), said: Vec::new(), phase: Phase::Flags };
        Ok(Box::new(line))
    }

    fn wants_tls(&self) -> bool {
        false
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

impl Line {
    /// Takes one message off what the client said.
    fn step(&mut self) -> bool {
        let said = &self.said;
        let length = match self.phase {
            Phase::Flags => 4,
            Phase::Options if said.len() < 16 => return false,
            Phase::Options => 16 + number(&said[12..16]) as usize,
            Phase::Requests => 28,
        };
        if said.len() < length {
            return false;
        }
        let message: Vec<u8> = self.said.drain(..length).collect();
        match self.phase {
            Phase::Flags => self.phase = Phase::Options,
            Phase::Options => {
                assert_eq!(number(&message[..8]), OPTION_MAGIC);
                let option = number(&message[8..12]) as u32;
                assert_ne!(option, OPTION_STARTTLS);
                let queried = |name: &str| message.windows(name.len()).any(|part| part == name.as_bytes());
                if option == OPTION_SET_META_CONTEXT {
                    self.server.contexts.retain(|(_, name)| queried(name));
                }
                let told = (self.server.reply)(&self.server, option);
                let answer = told.clone().unwrap_or_else(|| self.server.honest_reply(option));
                if option == OPTION_EXPORT_NAME || option == OPTION_GO && told.is_none() {
                    self.phase = Phase::Requests;
                }
                self.out.extend(answer);
            }
            Phase::Requests => {
                assert_eq!(number(&message[..4]), 0x2560_9513);
                let asked = Asked {
                    flags: number(&message[4..6]) as u16,
                    command: number(&message[6..8]) as u16,
                    cookie: number(&message[8..16]),
                    offset: number(&message[16..24]),
                    length: number(&message[24..28]) as u32,
                };
                self.server.asked.lock().unwrap().push(asked);
                self.out.extend((self.server.answer)(&self.server, asked));
            }
        }
        true
    }
}

impl Channel for Line {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.said.extend_from_slice(bytes);
        while self.step() {}
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        io::Read::read_exact(&mut self.out, buffer)
    }

    fn start_tls(&mut self) -> Result<(), Fault> {
        Err(Fault::Tls("none here".to_owned()))
    }

    fn progress(&mut self) {}

    fn be_patient(&mut self, _patience: Duration) -> io::Result<()> {
        Ok(())
    }

    fn patience_seconds(&self) -> u64 {
        1
    }
}
