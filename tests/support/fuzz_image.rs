//! Fuzz targets for what reads disks: the NBD client with a server whose words are the fuzzer's, change maps, and whether
//! a foreign image is whole.
//!
//! A server of random bytes would be turned away at its first word. So there are two: one sends the bytes as they are,
//! the other gives them the right numbers around: it answers the request that was made, with the content, kinds and
//! lengths that the bytes say.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sancerre_image::Disk;
use sancerre_image::change_map::ChangeMap;
use sancerre_image::foreign::{ImageError, ImageFormat, Parts, look};
use sancerre_image::nbd::{Channel, Connector, Fault, NbdDisk, NbdOptions};

use crate::disk::MemoryDisk;

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const SET_META_CONTEXT: u32 = 10;
const GO: u32 = 7;
/// The disk of the helpful server, when the fuzzer names no other size.
const DISK_BYTES: u64 = 1 << 20;

/// Any bytes as a server: first as they are, then with the right numbers around.
pub fn nbd(input: &[u8]) {
    for is_helpful in [false, true] {
        let input = Arc::new(Mutex::new(input.iter().copied().collect()));
        let options = NbdOptions {
            bitmap: Some("qemu:dirty-bitmap:b".to_owned()),
            request_bytes: 16 << 10,
            depth: 3,
            ..NbdOptions::default()
        };
        let server = Server { input, is_helpful };
        if let Ok(disk) = NbdDisk::over(Box::new(server), "vda", "nbd://fuzz.example", &options) {
            use_all(&disk);
        }
    }
}

/// Whatever the server says, ranges are in order and inside, and a read gives all bytes or an error.
fn use_all(disk: &NbdDisk) {
    let size = disk.size_bytes();
    for range in [0..size.min(1 << 22), size.saturating_sub(5000)..size] {
        if let Ok(ranges) = disk.data_ranges(range.clone()) {
            check(&ranges, &range);
        }
        if let Ok(ranges) = disk.changed_ranges(range.clone()) {
            check(&ranges, &range);
        }
        let length = (range.end - range.start).min(100_000) as usize;
        let _ = disk.read_at(range.start, &mut vec![0; length]);
    }
    assert!(disk.read_at(size, &mut [0]).is_err(), "it read behind the end");
}

fn check(ranges: &[Range<u64>], inside: &Range<u64>) {
    let mut at = inside.start;
    for range in ranges {
        assert!(at <= range.start && range.start < range.end && range.end <= inside.end, "{ranges:?}");
        at = range.end.saturating_add(1);
    }
}

#[derive(Clone)]
struct Server {
    input: Arc<Mutex<VecDeque<u8>>>,
    is_helpful: bool,
}

impl Server {
    fn take<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.input.lock().unwrap().read_exact(&mut bytes).ok().map(|()| bytes)
    }

    fn some(&self, count: usize) -> Vec<u8> {
        let mut input = self.input.lock().unwrap();
        let count = count.min(input.len());
        input.drain(..count).collect()
    }

    /// An honest answer to an option, or one of the fuzzer's.
    fn reply(&self, option: u32) -> Option<Vec<u8>> {
        let [first] = self.take()?;
        let reply = |kind: u32, content: &[u8]| {
            let head = [option.to_be_bytes(), kind.to_be_bytes(), (content.len() as u32).to_be_bytes()];
            [&0x0003_e889_0455_65a9_u64.to_be_bytes()[..], &head.concat(), content].concat()
        };
        if first >= 64 {
            let context =
                |number: u32, name: &str| reply(4, &[&number.to_be_bytes()[..], name.as_bytes()].concat());
            let size = if first == 255 { u64::from_be_bytes(self.take()?) } else { DISK_BYTES };
            let block = 1_u32 << (first % 14);
            return Some(match option {
                SET_META_CONTEXT => {
                    [context(1, "base:allocation"), context(2, "qemu:dirty-bitmap:b"), reply(1, &[])].concat()
                }
                GO => {
                    let blocks =
                        [3_u32 << 16 | block >> 16, block << 16, 0, 1 << 25].map(u32::to_be_bytes).concat();
                    let export = [&[0, 0][..], &size.to_be_bytes(), &[1, 0x81]].concat();
                    [reply(3, &export), reply(3, &blocks[..14]), reply(1, &[])].concat()
                }
                _ => reply(1, &[]),
            });
        }
        let kind = [1, 3, 4, 0x8000_0001, 0x8000_0006, u32::from(first)][usize::from(first) % 6];
        let content = self.some(usize::from(first));
        Some([reply(kind, &content), if kind == 1 { Vec::new() } else { reply(1, &[]) }].concat())
    }

    /// Chunks for a request, until the last.
    fn answer(&self, message: &[u8; 28]) -> Option<Vec<u8>> {
        let mut answer = Vec::new();
        loop {
            let [first, kind] = self.take()?;
            let own_offset = &message[16..24];
            let content = match kind % 8 {
                1 => [own_offset, &self.some(usize::from(first) * 64)].concat(),
                2 => [own_offset, &message[24..28]].concat(),
                5 => [&[0, 0, 0, 1 + kind / 8 % 2][..], &self.some(usize::from(first) / 8 * 8)].concat(),
                6 => [&[0, 0, 0, 5, 0, 3][..], b"bad"].concat(),
                7 => {
                    return Some(
                        [&0x6744_6698_u32.to_be_bytes()[..], &[0, 0, 0, first], &message[8..16]].concat(),
                    );
                }
                _ => self.some(usize::from(kind)),
            };
            let number: u16 = if kind % 8 == 6 { 0x8001 } else { u16::from(kind % 8) };
            let is_last = first % 4 == 0;
            answer.extend_from_slice(&0x668e_33ef_u32.to_be_bytes());
            answer.extend_from_slice(&u16::from(is_last).to_be_bytes());
            answer.extend_from_slice(&number.to_be_bytes());
            answer.extend_from_slice(&message[8..16]);
            answer.extend_from_slice(&(content.len() as u32).to_be_bytes());
            answer.extend_from_slice(&content);
            if is_last {
                return Some(answer);
            }
        }
    }
}

/// A connection of the helpful server: what it has still to say, and what it has heard.
struct Line {
    server: Server,
    out: VecDeque<u8>,
    heard: Vec<u8>,
    has_flags: bool,
    is_open: bool,
}

impl Connector for Server {
    fn connect(&self, _patience: Duration) -> Result<Box<dyn Channel>, Fault> {
        if !self.is_helpful {
            return Ok(Box::new(self.clone()));
        }
        let hello = [&MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &[0, 3]].concat();
        let server = self.clone();
        Ok(Box::new(Line { server, out: hello.into(), heard: Vec::new(), has_flags: false, is_open: false }))
    }

    fn wants_tls(&self) -> bool {
        false
    }
}

impl Line {
    fn step(&mut self) -> Option<()> {
        if !self.has_flags {
            self.heard.drain(..4);
            self.has_flags = true;
        } else if self.is_open {
            let message: [u8; 28] = self.heard.get(..28)?.try_into().ok()?;
            self.heard.drain(..28);
            self.out.extend(self.server.answer(&message)?);
        } else {
            let length = u32::from_be_bytes(self.heard.get(12..16)?.try_into().ok()?) as usize;
            let option = u32::from_be_bytes(self.heard.get(8..12)?.try_into().ok()?);
            self.heard.drain(..16 + length);
            self.out.extend(self.server.reply(option)?);
            self.is_open = option == GO || option == 1;
        }
        Some(())
    }
}

impl Channel for Line {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.heard.extend_from_slice(bytes);
        while !self.heard.is_empty() && self.step().is_some() {}
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.out.read_exact(buffer)
    }

    fn start_tls(&mut self) -> Result<(), Fault> {
        Err(Fault::Tls("none here".to_owned()))
    }

    fn progress(&mut self) {}

    fn be_patient(&mut self, _patience: Duration) -> io::Result<()> {
        Ok(())
    }

    fn patience_seconds(&self) -> u64 {
        0
    }
}

/// The server that sends its bytes whatever is said.
impl Channel for Server {
    fn send(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.input.lock().unwrap().read_exact(buffer)
    }

    fn start_tls(&mut self) -> Result<(), Fault> {
        Err(Fault::Tls("none here".to_owned()))
    }

    fn progress(&mut self) {}

    fn be_patient(&mut self, _patience: Duration) -> io::Result<()> {
        Ok(())
    }

    fn patience_seconds(&self) -> u64 {
        0
    }
}

/// A map is refused, or its ranges are in order and inside the disk, and it is read back as it is written.
pub fn change_map(input: &[u8]) {
    for disk_bytes in [0, 1, 1 << 20, 1 << 40, u64::MAX] {
        let Ok(map) = ChangeMap::read(input, disk_bytes) else { continue };
        check(map.ranges(), &(0..disk_bytes));
        let mut text = Vec::new();
        map.write(&mut text).unwrap();
        assert_eq!(ChangeMap::read(&text[..], disk_bytes).unwrap(), map);
    }
}

/// Whether an image is whole, of each format that is looked at. What it names is the second half of the input, which may
/// name itself again. Whatever is wrong, an image that is cut short is shorter than it must be, and one that is longer is
/// not.
pub fn whole(input: &[u8]) {
    let (image, part) = input.split_at(input.len() / 2);
    for format in [ImageFormat::Vmdk, ImageFormat::Vdi, ImageFormat::Parallels] {
        for bytes in [input, image] {
            let file = MemoryDisk::dense(bytes.to_vec());
            match look(&*file, format, &mut Named(part)) {
                Err(ImageError::CutShort { needed_bytes, length_bytes, .. }) => {
                    assert!(needed_bytes > length_bytes);
                }
                Err(_) => {}
                Ok(()) if format == ImageFormat::Vmdk => {}
                Ok(()) => {
                    let longer = MemoryDisk::dense([bytes, &[0; 512]].concat());
                    look(&*longer, format, &mut Named(part)).expect("a longer image is no less whole");
                }
            }
        }
    }
}

struct Named<'a>(&'a [u8]);

impl Parts for Named<'_> {
    fn named(&mut self, _image: &Path, name: &str) -> Result<Option<Arc<dyn Disk>>, ImageError> {
        let part = |bytes: &[u8]| -> Arc<dyn Disk> { MemoryDisk::dense(bytes.to_vec()) };
        Ok((!name.is_empty()).then(|| part(self.0)))
    }
}
